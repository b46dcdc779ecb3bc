"""Products of two variables in the checker, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.check.bounds import propagate
from certify.check.linear import Network
from certify.check.product import Product
from certify.errors import MalformedNetwork
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network as Compiled
from certify.graph.ir import Graph, Node, Port
from certify.graph.softmax import softmax

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6),
    st.sampled_from([0.0, 5e-324, -5e-324, 1e-300, -1e-160, 1e150, -1e150, 1.0, -1.0]),
)


def rule(left: list[int], right: list[int], size: int) -> Product:
    op = ops.Product(np.array(left), np.array(right))
    return Product(op, Node(op, (0,), (len(left),), "p"), [(size,)])


def intervals(draw: st.DataObject) -> tuple[np.ndarray, np.ndarray]:
    ends = np.sort(np.array([[draw.draw(NUMBERS) for _ in range(2)] for _ in range(2)]), 1)
    if draw.draw(st.booleans()):  # one unit in the last place, or no width at all
        ends[0, 1] = draw.draw(st.sampled_from([ends[0, 0], math.nextafter(ends[0, 0], math.inf)]))
    return ends[:, 0][None], ends[:, 1][None]


def inside(lower: np.ndarray, upper: np.ndarray) -> list[tuple[Fraction, Fraction]]:
    """Corners, and points between them."""
    places = [
        [Fraction(a) + (Fraction(b) - Fraction(a)) * s for s in (Fraction(0), Fraction(1, 3), Fraction(1))]
        for a, b in zip(lower[0].tolist(), upper[0].tolist(), strict=True)
    ]
    return list(product(*places))


@settings(max_examples=400)
@given(st.data(), st.none() | st.floats(0, 1))
def test_planes_and_ranges_hold(data: st.DataObject, t: float | None) -> None:
    lower, upper = intervals(data)
    lines = rule([0], [1], 2).lines(lower, upper, None if t is None else np.array([[t]]))
    low, high = (float(b[0, 0]) for b in rule([0], [1], 2).range(lower, upper))
    (s, r), (p, q) = (
        [Fraction(v) for v in slope[0, :, 0].tolist()] for slope in (lines.lower_slope, lines.upper_slope)
    )
    down, up = (float(a[0, 0]) for a in (lines.lower_shift, lines.upper_shift))
    for x, y in inside(lower, upper):
        assert low == -math.inf or Fraction(low) <= x * y
        assert high == math.inf or x * y <= Fraction(high)
        assert not math.isfinite(down) or s * x + r * y + Fraction(down) <= x * y
        assert not math.isfinite(up) or x * y <= p * x + q * y + Fraction(up)


@settings(max_examples=200)
@given(st.data())
def test_shifts_hold_for_any_slopes(data: st.DataObject) -> None:
    lower, upper = intervals(data)
    slopes = np.array([[[data.draw(NUMBERS)], [data.draw(NUMBERS)]]])
    low, high = (float(b[0, 0]) for b in rule([0], [1], 2).shifts(slopes, lower, upper))
    s, r = (Fraction(v) for v in slopes[0, :, 0].tolist())
    for x, y in inside(lower, upper):
        assert not math.isfinite(low) or Fraction(low) <= x * y - s * x - r * y
        assert not math.isfinite(high) or x * y - s * x - r * y <= Fraction(high)


def test_planes_touch_where_they_should() -> None:
    lower, upper = np.array([[-1.0, 2.0]]), np.array([[3.0, 5.0]])
    for t, corner in ((0.0, (-1, 2)), (1.0, (3, 5))):
        lines = rule([0], [1], 2).lines(lower, upper, np.array([[t]]))
        s, r = lines.lower_slope[0, :, 0]
        assert s * corner[0] + r * corner[1] + lines.lower_shift[0, 0] == pytest.approx(
            corner[0] * corner[1], abs=1e-12
        )
    for t, corner in ((0.0, (-1, 5)), (1.0, (3, 2))):
        lines = rule([0], [1], 2).lines(lower, upper, np.array([[t]]))
        s, r = lines.upper_slope[0, :, 0]
        assert s * corner[0] + r * corner[1] + lines.upper_shift[0, 0] == pytest.approx(
            corner[0] * corner[1], abs=1e-12
        )


def test_unusable_bounds_prove_nothing() -> None:
    for a, b in ((math.nan, 1.0), (-math.inf, math.inf), (0.0, math.inf), (-math.inf, 0.0)):
        lower, upper = np.array([[a, -1.0]]), np.array([[b, 1.0]])
        lines = rule([0], [1], 2).lines(lower, upper)
        assert not np.isfinite(lines.lower_shift).any()
        assert not np.isfinite(lines.upper_shift).any()
        low, high = rule([0], [1], 2).range(lower, upper)
        assert not low[0, 0] > -1e300
        assert not high[0, 0] < 1e300


def test_coefficients_are_summed_for_every_factor() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 7, 20), rng.integers(0, 7, 20)
    one, other = rng.standard_normal((2, 3, 4, 20))
    expected = np.zeros((3, 4, 9))
    for n in range(20):
        expected[..., left[n]] += one[..., n]
        expected[..., right[n]] += other[..., n]
    found = rule(left.tolist(), right.tolist(), 9)
    np.testing.assert_allclose(found.gathered(one, other), expected, atol=1e-12)
    assert found.most == np.bincount(np.concatenate([left, right])).max()


def test_factors_that_do_not_exist_are_refused() -> None:
    for left in ([0, 2], [-1, 0]):
        with pytest.raises(MalformedNetwork, match="do not exist"):
            rule(left, [0, 1], 2)


def deep(rng: np.random.Generator) -> Graph:
    """Matrix products of what ReLUs and softmax give."""
    build = GraphBuilder([Port("x", (4,))])
    x = build.reshape(
        build.linear(build.inputs[0], 0.5 * rng.standard_normal((12, 4)), rng.standard_normal(12)), (3, 4)
    )
    scores = softmax(build, build.matmul(x, build.transpose(build.relu(x))), 1)
    y = build.mul(build.matmul(scores, x), build.sin(x))
    return build.build([build.linear(build.reshape(y, (12,)), rng.standard_normal((2, 12)))], [Port("y", (2,))])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1e-9, 1e-2, 0.3])
@pytest.mark.parametrize("forms", [True, False])
def test_bounds_of_networks_with_products_hold(
    seed: int, width: float, forms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float64 values at samples, off by far less than the slack that is granted, lie within the bounds; and backward
    propagation tightens them."""
    if not forms:
        monkeypatch.setattr("certify.check.bounds.MOST_INPUTS", 0)
    rng = np.random.default_rng(seed)
    graph = deep(rng)
    center = rng.standard_normal((1, 4))
    lower, upper = center - width, center + width
    network = Network(graph)
    with np.errstate(all="ignore"):
        plain = propagate(network, lower, upper)
        refined = {graph.nodes[e].inputs[0] for e in graph.nonlinear} | {len(graph.nodes) - 1}
        tight = propagate(network, lower, upper, refined=tuple(refined), thorough=True)
    x = np.concatenate([lower, upper, rng.uniform(lower, upper, (300, 4))])

    values = Compiled(graph, torch.float64).values(torch.from_numpy(x))
    for bounds in (plain, tight):
        for v, low, high in zip(values, bounds.lower, bounds.upper, strict=True):
            slack = 1e-11 * (1 + np.abs(v.numpy()).max(initial=0))
            assert (v.numpy() >= low - slack).all()
            assert (v.numpy() <= high + slack).all()
    assert (tight.upper[-2] - tight.lower[-2]).sum() <= (plain.upper[-2] - plain.lower[-2]).sum() * (1 + 1e-6)
    assert np.isfinite(tight.lower[-1]).all()
