"""The oracle itself: its cells cover the region, and its answers agree with sampling and with hand calculation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph, Port
from certify.spec.property import Property, clause
from certify.spec.query import Case
from certify.spec.regions import Region, ball, box
from tests import exact

RNG = np.random.default_rng


def _network(seed: int, size: int = 2, width: int = 4, dtype: type = np.float32) -> Graph:
    """Two hidden layers, of all piecewise-linear kinds in turn."""
    rng = RNG(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    build = GraphBuilder([Port("x", (size,))])
    activations = (
        build.relu,
        build.abs,
        lambda v: build.leaky_relu(v, weights(width)),
        lambda v: build.clip(v, -0.5, 0.75),
        build.sign,
    )
    h = build.inputs[0]
    for k in (seed, seed // 5):
        h = build.emit(ops.Linear(weights(width, h.shape[0]), weights(width)), h)
        h = activations[k % 5](h)
    y = build.emit(ops.Linear(weights(2, width), weights(2)), h)
    return build.build([y], [Port("y", (2,))])


def _region(seed: int, size: int) -> Region:
    rng = RNG(seed)
    center, below = rng.standard_normal(size), rng.random(size)
    if seed % 3 == 0:
        return box(center - below * (rng.random(size) < 0.8), center + 0.5)
    return ball(center, 0.9, (1, np.inf)[seed % 3 - 1], (center - below, center + 0.5))


def _samples(region: Region, count: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.uniform(region.lower, region.upper, (count, region.size))
    return np.array([p for p in x if region.contains(p)]).reshape(-1, region.size)


@pytest.mark.parametrize("seed", range(30))
def test_cells_cover_the_region_and_give_the_networks_value(seed: int) -> None:
    graph, region = _network(seed, 2 + seed % 2), _region(seed, 2 + seed % 2)
    found = list(exact.cells(graph, region))
    points = _samples(region, 50, RNG(seed))
    assert len(points)
    for x, y in zip(points, evaluate(graph, points), strict=True):
        z = exact.outputs(graph, x.tolist())
        assert np.allclose([float(v) for v in z[:2]], y, rtol=1e-9, atol=1e-9)
        assert [float(v) for v in z[2:]] == x.tolist()
    for k, sign in ((0, 1), (1, -1)):
        row = np.zeros(2)
        row[k] = sign
        values = [part.least(exact._rows(clause(row, 0.0), z[:2])[0][0]) for part, z in found]
        assert float(min(values)) <= (evaluate(graph, points) @ row).min() + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_every_cell_point_is_in_the_region_and_has_the_cells_value(seed: int) -> None:
    graph, region = _network(seed), _region(seed, 2)
    for part, z in exact.cells(graph, region):
        at = [*part.middle(), Fraction(1)]
        values = [exact._value(row, at) for row in z]
        assert exact.outputs(graph, values[2:]) == values
        x = values[2:]
        assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(region.lower, x, region.upper, strict=True))
        if region.norm is not None:
            offsets = [abs(v - Fraction(c)) for v, c in zip(x, region.center, strict=True)]
            assert (sum(offsets) if region.norm == 1 else max(offsets)) <= Fraction(region.radius)


@pytest.mark.parametrize("seed", range(20))
def test_the_minimum_is_where_the_verdict_turns(seed: int) -> None:
    """Just below its exact minimum a row cannot be violated, and at it it can, but not strictly."""
    graph, region = _network(5 * (seed % 4) + 10 * (seed % 2)), _region(seed, 2)
    if any(isinstance(n.op, ops.Sign) for n in graph.nodes):
        pytest.skip("the minimum of a network with Sign need not be attained")
    least = exact.minimum(graph, region, np.array([1.0, -1.0]))
    below = np.nextafter(float(least), -np.inf)
    above = np.nextafter(float(least), np.inf)

    def violated(offset: float, strict: bool = False) -> bool:
        case = Case(region, Property((clause([1.0, -1.0], offset, np.array([strict])),)))
        return exact.violation(graph, [case]) is not None

    assert not violated(below)
    assert violated(above)
    assert violated(above, strict=True)
    if Fraction(float(least)) == least:
        assert violated(float(least))
        assert not violated(float(least), strict=True)


def test_an_exact_tie_is_told_from_a_near_one() -> None:
    """relu(x) + relu(-x) over [-1, 1] attains 0, in one point."""
    build = GraphBuilder([Port("x", (1,))])
    h = build.relu(build.emit(ops.Linear(np.array([[1.0], [-1.0]]), None), build.inputs[0]))
    graph = build.build([build.emit(ops.Linear(np.ones((1, 2)), None), h)], [Port("y", (1,))])
    region = box([-1.0], [1.0])

    def ask(offset: float, strict: bool) -> exact.Violation | None:
        return exact.violation(graph, [Case(region, Property((clause([1.0], offset, np.array([strict])),)))])

    assert ask(0.0, False) == exact.Violation(0, 0, (Fraction(0),))
    assert ask(0.0, True) is None
    assert ask(-5e-324, False) is None
    assert ask(5e-324, True) is not None


def test_sign_is_zero_at_zero_only() -> None:
    build = GraphBuilder([Port("x", (1,))])
    graph = build.build([build.sign(build.inputs[0])], [Port("y", (1,))])

    def attained(region: Region, value: float) -> bool:
        between = clause([[1.0], [-1.0]], [value, -value])
        return exact.violation(graph, [Case(region, Property((between,)))]) is not None

    assert [attained(box([-1.0], [1.0]), v) for v in (-1, -0.5, 0, 0.5, 1)] == [True, False, True, False, True]
    assert [attained(box([0.0], [1.0]), v) for v in (-1, 0, 1)] == [False, True, True]
    assert [attained(box([0.0], [0.0]), v) for v in (-1, 0, 1)] == [False, True, False]


def test_clauses_need_all_their_rows_and_may_read_the_input() -> None:
    build = GraphBuilder([Port("x", (2,))])
    graph = build.build([build.relu(build.inputs[0])], [Port("y", (2,))])
    region = box([-1.0, -1.0], [1.0, 1.0])
    unsafe = clause([[-1.0, 0, 0, 0], [0, 0, 1, 0]], [-0.5, 0.0])  # relu(x0) >= 0.5 and x0 <= 0
    assert exact.violation(graph, [Case(region, Property((unsafe,)))]) is None
    unsafe = clause([[-1.0, 0, 0, 0], [0, 0, 0, 1]], [-0.5, 0.0])  # relu(x0) >= 0.5 and x1 <= 0
    found = exact.violation(graph, [Case(region, Property((unsafe,)))])
    assert found is not None
    assert found.x[0] >= Fraction(1, 2)
    assert found.x[1] <= 0


def test_extreme_weights_stay_exact() -> None:
    """1e30 * relu(x) - 1e30 * relu(x) + 1e-30 * x has its minimum at -1e-30, whatever float arithmetic says."""
    build = GraphBuilder([Port("x", (1,))])
    x = build.inputs[0]
    h = build.relu(build.emit(ops.Linear(np.array([[1.0], [1.0]]), None), x))
    big = build.emit(ops.Linear(np.array([[1e30, -1e30]]), None), h)
    graph = build.build([build.emit(ops.Sum((1.0, 1e-30)), big, x)], [Port("y", (1,))])
    assert exact.minimum(graph, box([-1.0], [1.0]), np.ones(1)) == -Fraction(1e-30)


def test_smooth_operators_are_evaluated_at_points_only() -> None:
    build = GraphBuilder([Port("x", (1,))])
    graph = build.build([build.sigmoid(build.tanh(build.inputs[0]))], [Port("y", (1,))])
    value = float(exact.outputs(graph, [0.375])[0])
    assert value == pytest.approx(1 / (1 + np.exp(-np.tanh(0.375))), abs=1e-15)
    with pytest.raises(exact.TooComplex, match="Tanh"):
        list(exact.cells(graph, box([0.0], [1.0])))
    with pytest.raises(exact.TooComplex, match="cells"):
        list(exact.cells(_network(0, width=8), box([-5.0] * 2, [5.0] * 2), limit=3))
