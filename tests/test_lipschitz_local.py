"""Lipschitz constants over regions: no gradient is larger, and in the end the bound is the largest one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from benchmarks.lipschitz import chain, measure, random_network, summary
from certify.errors import CertifyError
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.lipschitz.branch import LocalBound, local_bound
from certify.lipschitz.local import Jacobian, slopes_over, whole_slopes
from certify.lipschitz.network import along_paths, global_bound
from certify.lipschitz.quadratic import Quadratic
from certify.lipschitz.sdp import Multipliers, lip_sdp, stretches
from certify.lipschitz.system import between, global_slopes
from certify.spec.regions import Region, ball, box
from tests import strategies
from tests.check import nets

Array = np.ndarray
NORMS = (1, 2, np.inf)

quick = settings(
    max_examples=8, suppress_health_check=list(HealthCheck), phases=[Phase.generate], deadline=None
)  # shrinking a network takes minutes


def inside(region: Region, rng: np.random.Generator, count: int = 100) -> Array:
    x = rng.uniform(region.lower, region.upper, (count, region.size))
    return np.array([p for p in x if region.contains(p)]).reshape(-1, region.size)


def jacobians(graph: Graph, x: Array) -> Array:
    """(N, n, d) of the network at inputs x (N, d)."""
    network, points = Network(graph, torch.float64), torch.from_numpy(x).requires_grad_()
    y = network(points)
    parts = [
        torch.autograd.grad(y[:, i].sum(), points, retain_graph=True, allow_unused=True)[0] for i in range(y.shape[1])
    ]
    return np.stack([np.zeros_like(x) if p is None else p.numpy() for p in parts], 1)


class TestJacobian:
    @quick
    @given(strategies.graphs(), st.integers(0, 2**16))
    def test_it_holds_every_gradient_of_the_region(self, graph: Graph, seed: int) -> None:
        rng = np.random.default_rng(seed)
        centre, half = rng.standard_normal(3), 10.0 ** rng.uniform(-2, 0.5)
        region = box(centre - half, centre + half)
        met = jacobians(graph, inside(region, rng))
        slack = 1e-9 * (1 + np.abs(met).max())
        rows = np.eye(2)
        for norm in NORMS:
            try:
                found = Jacobian(graph).bound(rows, whole_slopes(slopes_over(graph, region)), norm)
            except CertifyError:
                reject()  # weights beyond 2^100
            assert (met >= found.entries.lower[0] - slack).all()
            assert (met <= found.entries.upper[0] + slack).all()
            assert (np.linalg.norm(met, ord=norm, axis=(1, 2)) <= found.constants()[0] + slack).all()

    @quick
    @given(st.integers(0, 2**16), st.sampled_from([ops.Relu(), ops.Tanh(), ops.Abs(), ops.Clip(-0.5, 0.5)]))
    def test_several_domains_are_bounded_as_they_are_alone(self, seed: int, op: ops.Elementwise) -> None:
        rng = np.random.default_rng(seed)
        graph = nets.mlp(rng, (2, 5, 4, 2), op)
        one, other = (whole_slopes(slopes_over(graph, box(c - 1, c + 1))) for c in rng.standard_normal((2, 2)))
        both = {e: tuple(np.concatenate(side) for side in zip(one[e], other[e], strict=True)) for e in one}
        jacobian = Jacobian(graph)
        found = jacobian.bound(np.eye(2), both, 2).constants()
        alone = [jacobian.bound(np.eye(2), s, 2).constants()[0] for s in (one, other)]
        assert np.allclose(found, alone, rtol=1e-10)

    def test_an_unbounded_slope_is_no_bound(self) -> None:
        graph = nets.chain(
            2, (ops.Linear(np.eye(2), None), (2,)), (ops.Sign(), (2,)), (ops.Linear(np.ones((1, 2)), None), (1,))
        )
        crossing = slopes_over(graph, box([-1.0, 1.0], [1.0, 2.0]))
        assert Jacobian(graph).bound(np.eye(1), whole_slopes(crossing), 2).constants()[0] == np.inf
        assert local_bound(graph, box([-1.0, 1.0], [1.0, 2.0])).upper == np.inf
        flat = local_bound(graph, box([0.5, 1.0], [1.0, 2.0]))
        assert flat.upper < 1e-140
        assert flat.exact


class TestBranching:
    @quick
    @given(st.integers(0, 2**16), st.sampled_from(NORMS))
    def test_in_the_end_it_is_the_largest_gradient(self, seed: int, norm: float) -> None:
        """Of first-layer cells that are enumerated by sampling, none is steeper, and the steepest is met."""
        rng = np.random.default_rng(seed)
        graph = nets.mlp(rng, (2, 5, 3, 1))
        region = box(-np.ones(2), np.ones(2))
        coarse, found = (local_bound(graph, region, norm, domains=n) for n in (1, 5000))
        x = inside(region, rng, 3000)
        best = np.linalg.norm(jacobians(graph, x), ord=norm, axis=(1, 2)).max()
        assert found.exact
        assert best * (1 - 1e-9) <= found.upper <= coarse.upper * (1 + 1e-12)
        if found.point is not None:
            assert region.contains(np.array(found.point))
            at = jacobians(graph, np.array(found.point)[None])[0]
            assert np.linalg.norm(at, ord=norm) == pytest.approx(found.attained)

    @quick
    @given(st.integers(0, 2**16), st.sampled_from([ops.Tanh(), ops.Sigmoid(), ops.LeakyRelu(np.array(0.1))]))
    def test_more_domains_are_never_looser_and_always_sound(self, seed: int, op: ops.Elementwise) -> None:
        rng = np.random.default_rng(seed)
        graph = nets.mlp(rng, (2, 4, 3, 2), op)
        region = ball(rng.standard_normal(2), 0.7, 2)
        best = np.linalg.norm(jacobians(graph, inside(region, rng)), ord=2, axis=(1, 2)).max()
        bounds = [local_bound(graph, region, 2, domains=n).upper for n in (1, 20, 100)]
        assert bounds[0] * (1 + 1e-12) >= bounds[1]
        assert bounds[1] * (1 + 1e-12) >= bounds[2] >= best * (1 - 1e-9)

    def test_rows_have_their_own_constants(self) -> None:
        graph = nets.chain(2, (ops.Linear(np.array([[3.0, 4.0], [0.0, 1.0]]), None), (2,)))
        region = box([-1.0, -1.0], [1.0, 1.0])
        found = [local_bound(graph, region, norm, [[1.0, 0.0]]) for norm in NORMS]
        assert [b.upper for b in found] == pytest.approx([4.0, 5.0, 7.0], rel=1e-12)
        assert all(b.exact for b in found)
        assert not LocalBound(2.0, 1.0, None, 1).exact


class TestSdp:
    @quick
    @given(st.integers(0, 2**16))
    def test_any_multipliers_are_sound(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        graph = nets.mlp(rng, (3, 5, 4, 2), ops.LeakyRelu(np.array(0.1)) if seed % 2 else None)
        slopes, system = global_slopes(graph), between(graph)
        form = Quadratic(system, slopes, along_paths(system, slopes, 2)[:-1]).form
        best = np.linalg.norm(jacobians(graph, 2 * rng.standard_normal((300, 3))), ord=2, axis=(1, 2)).max()
        for size in (0.0, 1e-3, 1.0, 30.0, 1e4):
            values = size * np.abs(rng.standard_normal(form.count))
            assert form.certified(values) >= best * (1 - 1e-9)
            assert form.certified(values, level=0.1 * best**2) >= best * (1 - 1e-9)

    def test_it_is_between_the_exact_constant_and_the_product(self) -> None:
        graph = nets.mlp(np.random.default_rng(3), (2, 6, 5, 1))
        region = box(-3 * np.ones(2), 3 * np.ones(2))
        neuron, layer = (lip_sdp(graph, multipliers=m)[0] for m in (Multipliers.NEURON, Multipliers.LAYER))
        local, whole = lip_sdp(graph, slopes_over(graph, region))[0], global_bound(graph, 2).constant
        exact = local_bound(graph, region, 2, domains=5000).upper
        assert exact <= local * (1 + 1e-9)
        assert local <= neuron * (1 + 1e-6)
        assert neuron < 0.9 * layer * (1 + 1e-6) or neuron <= layer * (1 + 1e-6)
        assert layer < 0.95 * whole

    def test_stretches_cover_the_network_and_multiply(self) -> None:
        graph = nets.mlp(np.random.default_rng(4), (3, 6, 6, 6, 2))
        ends = stretches(graph, global_slopes(graph), 16)
        assert [a for a, _ in ends[1:]] == [b for _, b in ends[:-1]]
        assert (ends[0][0], ends[-1][1]) == (0, len(graph.nodes) - 1)
        assert 1 < len(ends) < len(graph.nodes) - 1
        split, whole = lip_sdp(graph, most=16)[0], lip_sdp(graph)[0]
        assert whole * (1 - 1e-6) <= split < global_bound(graph, 2).constant


class TestBenchmark:
    @pytest.mark.parametrize("norm", ["2", "inf"])
    def test_the_steps_fall_towards_what_is_attained(self, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("benchmarks.lipschitz.SAMPLES", 5000)
        results = [measure(index, norm) for index in (0, 3)]
        for result in results:
            steps = [value for _, value in chain(result.values)]
            assert result.closed
            assert all(a >= b * (1 - 1e-12) for a, b in pairwise(steps))
            assert steps[-1] >= 0.9 * steps[-2]
        text = summary(results)
        assert f"norm {norm}: 2 networks, 0 constant, 2 others closed" in text
        assert "for 2 of 2" in text

    def test_a_number_stands_for_a_network(self) -> None:
        assert random_network(7)[0].hash == random_network(7)[0].hash != random_network(8)[0].hash
