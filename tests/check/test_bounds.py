"""Certified bounds contain the exact values, in rational arithmetic, whatever the numbers are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from certify.check import forms
from certify.check.bounds import propagate
from certify.check.linear import Network, Pass
from certify.graph import ops
from certify.graph.ir import Graph
from certify.spec.regions import Region, ball, box
from tests import exact
from tests.check.nets import chain, mlp, split_nodes
from tests.strategies import OPERATORS, boxes, graphs, single

SEEDS = st.integers(0, 2**32 - 1)


def points(rng: np.random.Generator, lower: np.ndarray, upper: np.ndarray, count: int) -> np.ndarray:
    """Corners and inner points of the box, exactly inside."""
    t = rng.random((count, len(lower)))
    t[: count // 2] = t[: count // 2] > 0.5
    inner = lower + t * (upper - lower)
    corner = np.where(t == 0, lower, np.where(t == 1, upper, inner))
    return np.clip(corner, lower, upper)


def require_inside(graph: Graph, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> None:
    """Bounds over a batch of boxes (k, d), and random rows' lower bounds with random slopes, hold exactly."""
    network = Network(graph)
    outputs = graph.output_size
    with np.errstate(all="ignore"):
        bounds = propagate(network, lower, upper, refined=split_nodes(graph))
        rows = rng.standard_normal((len(lower), 2, outputs)) * 10.0 ** rng.integers(-3, 4)
        work = Pass(network, bounds, rows.shape[:2])
        work.put(len(graph.nodes) - 1, rows)
        lines = {}
        for e in graph.nonlinear:
            v, rule = graph.nodes[e].inputs[0], network.rules[e]
            size = bounds.lower[e].shape
            free = np.where(rng.random(size) < 0.5, rng.random(size), np.nan)
            lines[e] = rule.lines(bounds.lower[v], bounds.upper[v], free if rule.free_slope else None)
        work.run(lines, {})
        proved = work.lower(lower, upper, None)
    for k in range(len(lower)):
        least, most = (side[-1][min(k, len(side[-1]) - 1)].reshape(-1) for side in (bounds.lower, bounds.upper))
        for x in points(rng, lower[k], upper[k], 4):
            y = exact.outputs(graph, [Fraction(v) for v in x.tolist()])[:outputs]
            for value, low, high in zip(y, least.tolist(), most.tolist(), strict=True):
                assert low == -np.inf or Fraction(low) <= value
                assert high == np.inf or value <= Fraction(high)
            for row, low in zip(rows[k], proved[k].tolist(), strict=True):
                total = sum((Fraction(a) * b for a, b in zip(row.tolist(), y, strict=True)), Fraction(0))
                assert not np.isfinite(low) or Fraction(low) <= total


@pytest.mark.parametrize("kind", sorted(OPERATORS, key=lambda k: k.__name__), ids=lambda k: k.__name__)
@given(data=st.data(), seed=SEEDS)
@settings(max_examples=25)
def test_every_operator(kind: type[ops.Op], data: st.DataObject, seed: int) -> None:
    graph = data.draw(single(kind))
    require_inside(graph, *data.draw(boxes(graph.input_size)), np.random.default_rng(seed))


@given(graph=graphs(), data=st.data(), seed=SEEDS)
@settings(max_examples=120)
def test_random_graphs(graph: Graph, data: st.DataObject, seed: int) -> None:
    require_inside(graph, *data.draw(boxes(graph.input_size)), np.random.default_rng(seed))


@given(graph=graphs(), data=st.data(), seed=SEEDS, scale=st.sampled_from([1e-300, 1e-160, 1e-30, 1e12, 1e30]))
@settings(max_examples=60)
def test_extreme_magnitudes(graph: Graph, data: st.DataObject, seed: int, scale: float) -> None:
    assume(not any(isinstance(n.op, ops.Tanh | ops.Sigmoid) for n in graph.nodes))  # the oracle cannot; see elementwise
    lower, upper = data.draw(boxes(graph.input_size))
    require_inside(graph, scale * lower, scale * upper, np.random.default_rng(seed))


@given(graph=graphs(), data=st.data(), seed=SEEDS)
@settings(max_examples=40)
def test_without_forms(graph: Graph, data: st.DataObject, seed: int) -> None:
    """Networks of many inputs go without affine forms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("certify.check.bounds.MOST_INPUTS", 0)
        require_inside(graph, *data.draw(boxes(graph.input_size)), np.random.default_rng(seed))


def test_a_large_case_is_bounded_in_chunks() -> None:
    """Little memory changes the bounds by rounding only, and many boxes at once give what one gives."""
    rng = np.random.default_rng(3)
    graph = mlp(rng, [4, 30, 30, 30, 2])
    lower = rng.uniform(-1, 0.5, (9, 4))
    upper = lower + rng.uniform(0, 0.5, (9, 4))
    network, refined = Network(graph), split_nodes(graph)
    whole = propagate(network, lower, upper, refined=refined)
    small = propagate(network, lower, upper, refined=refined, memory=1 << 12)
    single_box = [propagate(network, lower[k : k + 1], upper[k : k + 1], refined=refined) for k in range(9)]
    for i in range(len(graph.nodes)):
        np.testing.assert_allclose(small.lower[i], whole.lower[i], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            np.concatenate([b.upper[i] for b in single_box]), whole.upper[i], rtol=1e-9, atol=1e-9
        )


def test_refinement_and_forms_only_tighten() -> None:
    rng = np.random.default_rng(5)
    graph = mlp(rng, [3, 12, 12, 12, 2])
    lower, upper = np.full((1, 3), -0.4), np.full((1, 3), 0.3)
    network = Network(graph)
    widths = []
    for most, refined in ((0, ()), (20, ()), (20, split_nodes(graph))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("certify.check.bounds.MOST_INPUTS", most)
            bounds = propagate(network, lower, upper, refined=refined)
        widths.append((bounds.upper[-1] - bounds.lower[-1]).sum())
    assert widths[0] > widths[1] > widths[2]


@given(seed=SEEDS, norm=st.sampled_from([1.0, 2.0]), width=st.sampled_from([1e-6, 0.1, 3.0]))
@settings(max_examples=30)
def test_balls(seed: int, norm: float, width: float) -> None:
    """Over an L1 or L2 ball met with a data range, the bounds hold for the ball and gain on its box."""
    rng = np.random.default_rng(seed)
    graph = mlp(rng, [6, 5, 5, 2])
    region = ball(rng.uniform(-1.4, 1.4, 6), width, norm, (-1.5, 1.5) if seed % 2 else None)
    bounds = propagate(Network(graph), region.lower[None], region.upper[None], refined=split_nodes(graph), ball=region)
    for _ in range(6):
        step = rng.standard_normal(6) * (rng.random(6) < rng.random())
        length = np.linalg.norm(step, norm)
        x = region.pull_inside(region.center + (step * width / length if length else step), np.float64)
        if x is not None:
            y = exact.outputs(graph, [Fraction(v) for v in x.tolist()])[:2]
            for value, low, high in zip(y, bounds.lower[-1][0].tolist(), bounds.upper[-1][0].tolist(), strict=True):
                assert Fraction(low) <= value <= Fraction(high)


def test_the_dual_norm_gains_on_the_box() -> None:
    graph = chain(30, (ops.Linear(np.ones((1, 30)), None), (1,)), (ops.Relu(), (1,)))
    region = ball(np.zeros(30), 1.0, 2.0)
    bounds = propagate(Network(graph), region.lower[None], region.upper[None], refined=(1,), ball=region)
    assert bounds.upper[1][0, 0] == pytest.approx(np.sqrt(30))
    assert Fraction(bounds.upper[1][0, 0].item()) ** 2 >= 30


def test_naive_float64_claims_what_is_false_and_the_checker_does_not() -> None:
    """x_0 - x_0 (1 + 2^-30) + ... summed in float64 gives a positive number where the exact sum is negative."""
    rng = np.random.default_rng(0)
    fooled = 0
    for _ in range(200):
        weight = rng.standard_normal((1, 12)) * 10.0 ** rng.integers(-8, 8, (1, 12))
        x = rng.standard_normal(12)
        exact_rest = sum(
            (Fraction(a) * Fraction(b) for a, b in zip(weight[0].tolist(), x.tolist(), strict=True)), Fraction(0)
        )
        bias = np.array([-float(exact_rest)])  # the nearest float64: the true output is the tiny difference
        truth = exact_rest + Fraction(bias[0].item())
        graph = chain(12, (ops.Linear(weight, bias), (1,)))
        naive = (weight @ x + bias)[0]
        bounds = propagate(Network(graph), x[None], x[None])
        fooled += Fraction(naive.item()) > truth
        assert Fraction(bounds.lower[-1].item()) <= truth <= Fraction(bounds.upper[-1].item())
    assert fooled > 40


def test_every_sum_of_constants_is_charged() -> None:
    """c is summed in float64; what that loses is in e, even where large terms cancel."""
    rng = np.random.default_rng(0)
    graph = chain(1, (ops.Relu(), (1,)))
    bounds = propagate(Network(graph), np.zeros((1, 1)), np.ones((1, 1)))
    lost = 0
    for _ in range(50):
        work = Pass(Network(graph), bounds, (1, 1))
        terms = rng.standard_normal(8) * 10.0 ** rng.integers(0, 17, 8)
        for term in (*terms, *-terms[::-1], *terms[:2]):
            work.shift(np.array([[term]]))
        exact_sum = sum(map(Fraction, terms[:2].tolist()), Fraction(0))
        missed = abs(Fraction(work.constant[0, 0].item()) - exact_sum)
        lost += missed > 0
        assert missed <= Fraction(work.error[0, 0].item())
    assert lost > 25


def test_forms_of_points_are_points() -> None:
    form = forms.of_box(np.array([[1.5, -3.0]]), np.array([[1.5, -3.0]]), (2,))
    low, high = form.interval()
    np.testing.assert_allclose(low, high, rtol=1e-14)
    assert (low <= form.center).all()
    assert (form.center <= high).all()


def test_nothing_is_claimed_after_overflow() -> None:
    """Where values leave float64's range, bounds become infinite, never wrong, never NaN."""
    weight = np.array([[1e300, 1e300]])
    graph = chain(
        2, (ops.Linear(weight, None), (1,)), (ops.Relu(), (1,)), (ops.Linear(np.array([[1e300], [-1e300]]), None), (2,))
    )
    region = box([0.0, 0.0], [1.0, 1.0])
    with np.errstate(all="ignore"):
        bounds = propagate(Network(graph), region.lower[None], region.upper[None], refined=(1,))
    assert bounds.upper[-1][0, 0] == np.inf
    assert bounds.lower[-1][0, 1] == -np.inf
    assert not any(np.isnan(b).any() for b in (*bounds.lower, *bounds.upper))
    assert isinstance(region, Region)
