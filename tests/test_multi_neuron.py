"""Pairs of neurons: sound for any plane, exact where it says so, tighter than the triangle program."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certify.bounds import multi_neuron, triangle
from certify.bounds.lp import LpBounds
from certify.bounds.multi_neuron import NORMALS, Certifier, MultiNeuronBounds, Pair, corners
from certify.budget import Budget
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.solvers.highs import LinearProgram, Solution, Status
from certify.spec.regions import box
from tests.check.nets import chain
from tests.test_convex import Lying, cube, dense, least, lowers

quick = settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)

SMALL = [(2, 4, 1), (2, 4, 4, 2), (3, 4, 4, 1)]
SIDES = st.lists(st.integers(-3, 8), min_size=8, max_size=8)


def all_pairs(certifier: Certifier, graph: Graph) -> list[Pair]:
    found = []
    for e in graph.nonlinear:
        size = graph.nodes[e].size
        found += certifier.pairs(e, [(i, i + 1) for i in range(0, size - 1, 2)])
    return found


class TestOctagon:
    @quick
    @given(SIDES, st.lists(st.integers(-4, 4), min_size=4, max_size=4))
    def test_the_maximum_is_exact(self, sides: list[int], coefficients: list[int]) -> None:
        """Sides are whole, so all corners lie on the grid of halves, and all maxima of piecewise linear functions."""
        points = corners(sides)
        grid = [Fraction(k, 2) for k in range(-34, 35)]
        inside = [
            z
            for z in itertools.product(grid, grid)
            if all(a * z[0] + b * z[1] <= side for (a, b), side in zip(NORMALS, sides, strict=True))
        ]
        assert set(points) <= set(inside)
        assert bool(points) == bool(inside)
        if points:
            read, made = np.array(coefficients[:2], float), np.array(coefficients[2:], float)
            best = max(sum(coefficients[k] * z[k] + coefficients[2 + k] * max(z[k], 0) for k in (0, 1)) for z in inside)
            assert Pair(0, np.array([0, 1]), points).most(read, made) == best

    @quick
    @given(st.sampled_from(SMALL), st.integers(0, 2**16))
    def test_what_neurons_read_lies_inside(self, sizes: tuple[int, ...], seed: int) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        certifier = Certifier(graph, inputs.regions()[0])
        torch.manual_seed(seed)
        x = torch.cat([torch.rand(200, sizes[0], dtype=torch.float64) * 2 - 1, inputs.lower, inputs.upper])
        values = Network(graph, torch.float64).values(x)
        pairs = all_pairs(certifier, graph)
        assert pairs
        for pair in pairs:
            z = values[graph.nodes[pair.node].inputs[0]][:, pair.neurons].numpy()
            for a, b in itertools.product((-1.0, 0.0, 1.0), repeat=2):
                most = float(pair.most(np.array([a, b]), np.zeros(2)))
                assert (z @ [a, b] <= most + 1e-9).all()

    def test_a_plane_cuts_a_point_off_and_no_corner(self) -> None:
        points = corners([1, 1, 1, 1, 1, 1, 1, 1])
        pair = Pair(0, np.array([0, 1]), points)
        z, y = np.zeros(2), np.array([0.5, 0.5])  # within both triangles; yet the octagon holds |z1| + |z2| <= 1
        read, made = pair.plane(z, y)
        assert read @ z + made @ y > float(pair.most(read, made)) + 0.1
        assert pair.plane(np.array([0.5, 0.0]), np.array([0.5, 0.0])) is None


class TestCertifier:
    @quick
    @given(st.sampled_from(SMALL), st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 1e3, 1e300, math.nan, math.inf]))
    def test_any_lines_and_planes_are_sound(self, sizes: tuple[int, ...], seed: int, size: float) -> None:
        graph, inputs, rng = dense(sizes, seed), cube(sizes[0]), np.random.default_rng(seed)
        certifier = Certifier(graph, inputs.regions()[0])
        pairs = all_pairs(certifier, graph)
        lowest, row = least(graph, inputs)[0, 0], np.eye(sizes[-1])[0]
        for _ in range(4):
            planes = [(p, size * rng.standard_normal(2), size * rng.standard_normal(2)) for p in pairs]
            lines = {e: rng.random(graph.nodes[e].size) for e in graph.nonlinear}
            found = certifier.lower(row, 0.0, lines, [*planes, *planes])  # twice: neurons are taken
            assert found <= lowest
            assert not math.isnan(found)
        assert certifier.lower(row, 0.0, {}, ()) > -math.inf


class TestBounds:
    @quick
    @given(st.sampled_from(SMALL), st.integers(0, 2**16))
    def test_they_lie_between_the_triangle_program_and_the_truth(self, sizes: tuple[int, ...], seed: int) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        methods = (LpBounds(), MultiNeuronBounds(rounds=0), MultiNeuronBounds())
        found = [lowers(m, graph, inputs) for m in methods]
        assert (found[1] >= found[0] - 1e-9 * (1 + np.abs(found[0]))).all()
        assert (found[2] >= found[1]).all()
        assert (found[2] <= least(graph, inputs)).all()

    def test_they_see_that_neurons_depend_on_one_another(self) -> None:
        """|x1 + x2| + |x1 - x2| <= 2 on the square, written with ReLUs; the triangles allow 4."""
        build = GraphBuilder([Port("x", (2,))])
        first = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        x = build.emit(ops.Relu(), build.emit(ops.Linear(first, None), build.inputs[0]))
        graph = build.build([build.emit(ops.Linear(-np.ones((1, 4)), None), x)], [Port("y", (1,))])
        inputs = cube(2)
        assert lowers(LpBounds(), graph, inputs)[0, 0] == pytest.approx(-4, abs=1e-5)
        found = lowers(MultiNeuronBounds(), graph, inputs)[0, 0]
        assert -2.001 < found <= -2

    def test_no_pairs_are_looked_for_when_the_time_is_over(self) -> None:
        graph, budget = dense((2, 6, 6, 1), 0), Budget()
        region = box(np.full(2, -1.0), np.ones(2))
        assert Certifier(graph, region).matched(3, budget)
        budget.cancel()
        assert not Certifier(graph, region).matched(3, budget)

    def test_they_are_clearly_tighter(self) -> None:
        graph, inputs = dense((5, 12, 12, 1), 3), cube(5)
        looser, found = lowers(LpBounds(), graph, inputs), lowers(MultiNeuronBounds(), graph, inputs)
        assert (found > looser + 0.03 * np.abs(looser)).all()

    def test_two_functions_of_one_value(self) -> None:
        """Their pairs speak of the same neurons."""
        rng = np.random.default_rng(0)
        build = GraphBuilder([Port("x", (2,))])
        z = build.emit(ops.Linear(rng.standard_normal((4, 2)), None), build.inputs[0])
        x = build.emit(ops.Sum((1.0, 1.0)), build.emit(ops.Relu(), z), build.emit(ops.Relu(), z))
        graph = build.build([build.emit(ops.Linear(rng.standard_normal((1, 4)), None), x)], [Port("y", (1,))])
        found = lowers(MultiNeuronBounds(), graph, cube(2))
        assert (found <= least(graph, cube(2))).all()
        assert np.isfinite(found).all()

    @pytest.mark.parametrize("lie", [1e3, -1e3, 1e300, math.nan, math.inf])
    def test_a_solver_that_lies_proves_nothing_false(self, lie: float, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)

        def lying(program: LinearProgram, seconds: float = math.inf) -> Solution:
            x, duals = rng.standard_normal(len(program.cost)), rng.standard_normal(len(program.row_lower))
            return Solution(Status.OPTIMAL, lie * x, lie * duals)

        monkeypatch.setattr(triangle, "Kept", lambda program, stop: Lying(program, lying))
        monkeypatch.setattr(multi_neuron, "solve", lying)
        graph, inputs = dense((2, 4, 4, 1), 2), cube(2)
        found = lowers(MultiNeuronBounds(), graph, inputs)
        assert (found <= least(graph, inputs)).all()
        assert np.isfinite(found).all()


def test_planes_over_the_input_itself_hold() -> None:
    """A ReLU may read the input, whose coefficients are the last to be added: y_0 - z_0 <= 0.2 says nothing without
    its z_0."""
    graph = chain(2, (ops.Relu(), (2,)), (ops.Linear(np.array([[-1.0, 0.0]]), None), (1,)))
    certifier = Certifier(graph, box(np.full(2, -0.2), np.ones(2)))
    (pair,) = certifier.pairs(1, [(0, 1)])
    plane = pair, np.array([-1.0, 0.0]), np.array([1.0, 0.0])
    assert pair.most(*plane[1:]) == Fraction(0.2)
    assert certifier.lower(np.ones(1), 0.0, {}, [plane]) <= -1  # at x = (1, 1)
