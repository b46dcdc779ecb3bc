"""Semidefinite bounds: sound whatever the multipliers are, and as tight as they should be."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certify.bounds.barrier import optimum
from certify.bounds.lp import LpBounds
from certify.bounds.methods import LinearBounds
from certify.bounds.multipliers import adaptive, ascend, completed, of_lines
from certify.bounds.outward import outward
from certify.bounds.quadratic import Multipliers, Quadratics, smallest_eigenvalue
from certify.bounds.rows import Rows
from certify.bounds.sdp import Conic, SdpBounds, SdpFirstOrderBounds
from certify.budget import Budget
from certify.errors import CertifyError, UnsupportedOp
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.spec.inputset import InputSet, stack
from certify.spec.regions import ball, box
from tests import exact, strategies
from tests.test_convex import cube, dense, least, lowers

Array = np.ndarray

quick = settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)

SMALL = [(2, 4, 1), (2, 3, 3, 2), (3, 4, 4, 1)]


def problem_of(graph: Graph, inputs: InputSet) -> Quadratics:
    return Quadratics(graph, inputs.regions()[0])


def plain(problem: Quadratics, cost: torch.Tensor) -> Multipliers:
    """Those of adaptive lines."""
    return of_lines(problem, cost, adaptive(problem))


def random_multipliers(problem: Quadratics, rng: np.random.Generator, size: float) -> Multipliers:
    """Of any sign and size; the box's large enough that some of them give a bound worth having."""
    drawn = [torch.from_numpy(size * rng.standard_normal(problem.neurons)) for _ in range(4)]
    norm = None if problem.ball is None else problem.ball.norm
    lengths = (1 + len(problem.varying), 0 if norm is None else 1, problem.first - 1 if norm == 1 else 0)
    return Multipliers(*drawn, *(torch.from_numpy(size * rng.standard_normal(n)) for n in lengths))


class TestEigenvalue:
    @quick
    @given(st.integers(1, 12), st.integers(0, 2**16), st.integers(0, 5), st.sampled_from([1.0, 2.0**-40, 2.0**40]))
    def test_it_is_below_what_is_known_exactly(self, size: int, seed: int, shift: int, scale: float) -> None:
        """Whole numbers: G G' has rank below N, so G G' - shift has the least eigenvalue -shift."""
        factor = np.random.default_rng(seed).integers(-9, 10, (size, size - 1)).astype(float)
        matrix = torch.from_numpy(scale * (factor @ factor.T - shift * np.eye(size)))
        found = smallest_eigenvalue(matrix)
        assert Fraction(found) <= -shift * Fraction(scale)
        assert found >= -scale * (shift * (1 + 1e-9) + 1e-8)

    @quick
    @given(st.integers(1, 20), st.integers(0, 2**16))
    def test_of_a_positive_matrix_it_is_nearly_zero(self, size: int, seed: int) -> None:
        factor = np.random.default_rng(seed).standard_normal((size, size))
        found = smallest_eigenvalue(torch.from_numpy(factor @ factor.T + np.eye(size)))
        assert -1e-8 < found <= 0

    @pytest.mark.parametrize("entry", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_has_none(self, entry: float) -> None:
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[1, 1] = entry
        assert smallest_eigenvalue(matrix) == -math.inf

    def test_a_wrong_factor_is_found_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Soundness rests on the residual alone."""
        matrix = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)  # eigenvalues -1 and 3
        lie = (torch.eye(2, dtype=torch.float64), torch.tensor(0))
        monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda _: lie)
        monkeypatch.setattr(torch.linalg, "eigvalsh", lambda _: torch.zeros(2, dtype=torch.float64))
        assert smallest_eigenvalue(matrix) <= -1


class TestQuadratics:
    @quick
    @given(st.sampled_from(SMALL), st.integers(0, 2**16))
    def test_what_networks_do_meets_the_constraints(self, sizes: tuple[int, ...], seed: int) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        problem = problem_of(graph, inputs)
        network = Network(graph, torch.float64)
        torch.manual_seed(seed)
        x = torch.cat([torch.rand(200, sizes[0], dtype=torch.float64) * 2 - 1, inputs.lower, inputs.upper])
        values = network.values(x)
        made = torch.cat([values[e] for e in graph.nonlinear], 1)
        read = torch.cat([values[graph.nodes[e].inputs[0]] for e in graph.nonlinear], 1)
        whole = torch.cat([torch.ones(len(x), 1, dtype=torch.float64), x], 1)
        # which neurons are kept can be told from what they read
        kept = [int((read - column.unsqueeze(1)).abs().sum(0).argmin()) for column in _kept(problem, whole, made, read)]
        y, z = made[:, kept], read[:, kept]
        u = torch.cat([whole, y], 1)
        torch.testing.assert_close(u @ problem.z_map.T, z)
        torch.testing.assert_close(u @ problem.outputs.T, values[-1])
        v = (u[:, problem.varying] - problem.centre[problem.varying]) / problem.radius
        assert (v.abs() <= 1 + 1e-12).all()
        assert (y <= problem.slope * z + problem.shift + 1e-12).all()
        given = random_multipliers(problem, np.random.default_rng(seed), 1.0).feasible()
        cost, _ = problem.cost(torch.ones(sizes[-1], dtype=torch.float64), 0.5)
        v = torch.cat([torch.ones(len(x), 1, dtype=torch.float64), v], 1)
        form = ((v @ problem.matrix(given, cost)) * v).sum(1)
        assert (form <= values[-1].sum(1) + 0.5 + 1e-9).all()

    @quick
    @given(
        st.sampled_from(SMALL),
        st.integers(0, 2**16),
        st.sampled_from([0.0, 1e-3, 0.1, 1.0, 1e3, 1e200, math.inf, math.nan]),
    )
    def test_any_multipliers_are_sound(self, sizes: tuple[int, ...], seed: int, size: float) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        problem, rng = problem_of(graph, inputs), np.random.default_rng(seed)
        row = torch.eye(sizes[-1], dtype=torch.float64)[0]
        good = plain(problem, problem.cost(row, 0.0)[0])
        lowest = least(graph, inputs)[0, 0]
        noise = random_multipliers(problem, rng, size)
        near = Multipliers(*(a + b for a, b in zip(good.tensors(), noise.tensors(), strict=True)))
        for given_ in (good, noise, near):
            found = problem.lower(given_, row, 0.0)
            assert found <= lowest
            assert not math.isnan(found)
        assert problem.lower(good, row, 0.0) > -math.inf

    @settings(quick, max_examples=15)
    @given(st.sampled_from([1, 2]), st.integers(0, 2**16), st.sampled_from([0.0, 0.1, 1.0, 1e3, math.nan]))
    def test_any_multipliers_of_a_ball_are_sound(self, norm: float, seed: int, size: float) -> None:
        graph, rng = dense((3, 4, 4, 1), seed), np.random.default_rng(seed)
        region = ball(rng.uniform(-1, 1, 3), 0.7, norm, (-1.0, 1.0))
        problem = Quadratics(graph, region)
        row = torch.ones(1, dtype=torch.float64)
        good = plain(problem, problem.cost(row, 0.0)[0])
        noise = random_multipliers(problem, rng, size)
        near = Multipliers(*(a + b for a, b in zip(good.tensors(), noise.tensors(), strict=True)))
        ((_, inputs),) = stack([region], torch.float64)
        torch.manual_seed(seed)
        x = inputs.select(torch.zeros(2000, dtype=torch.long)).project(2 * torch.rand(2000, 3, dtype=torch.float64) - 1)
        lowest = float(Network(graph, torch.float64)(x).min()) + 1e-9
        for given_ in (good, noise, near, ascend(problem, problem.cost(row, 0.0)[0], good, 10, 0.3, Budget())):
            found = problem.lower(given_, row, 0.0)
            assert found <= lowest
            assert not math.isnan(found)
        linear = lowers(LinearBounds(), graph, inputs)[0, 0]
        assert problem.lower(good, row, 0.0) > linear - 0.2 * (1 + abs(linear))

    @settings(quick, max_examples=40)
    @given(st.data())
    def test_numbers_of_all_sizes(self, data: st.DataObject) -> None:
        """Without any tolerance: the exact minimum is a fraction."""
        first, second = data.draw(strategies.arrays((3, 2))), data.draw(strategies.arrays((3,)))
        last = data.draw(strategies.arrays((1, 3)))
        lower, upper = data.draw(strategies.boxes(2, batch=1))
        build = GraphBuilder([Port("x", (2,))])
        x = build.emit(ops.Relu(), build.emit(ops.Linear(first, second), build.inputs[0]))
        graph = build.build([build.emit(ops.Linear(last, None), x)], [Port("y", (1,))])
        problem = Quadratics(graph, box(lower[0], upper[0]))
        row = torch.ones(1, dtype=torch.float64)
        cost, _ = problem.cost(row, 0.0)
        lowest = exact.minimum(graph, box(lower[0], upper[0]), np.ones(1))
        start = plain(problem, cost)
        for given_ in (start, ascend_a_little(problem, cost), optimum(problem, cost, start, Budget())):
            found = problem.lower(given_, row, 0.0)
            assert found == -math.inf or Fraction(found) <= lowest

    @pytest.mark.parametrize("bent", [False, True])
    @pytest.mark.parametrize(("size", "layers"), [(1e-200, 2), (1e-30, 12)])
    def test_what_underflows_counts_where_it_is_large_again(self, size: float, layers: int, bent: bool) -> None:
        """y = x up to rounding, through weights whose products no float64 holds; y - x / 2 is at least -1 / 2 where x
        is -1 (and 0 with a ReLU, of which 0 is the least value)."""
        build = GraphBuilder([Port("x", (1,))])
        h = build.inputs[0]
        for weight in [size] * layers + [1 / size] * layers:
            h = build.emit(ops.Linear(np.array([[weight]]), None), h)
        graph = build.build([build.relu(h) if bent else h], [Port("y", (1,))])
        problem = Quadratics(graph, box([-1.0], [1.0]))
        row = torch.tensor([1.0, -0.5], dtype=torch.float64)
        cost = problem.cost(row, 0.0)[0]
        start = plain(problem, cost)
        for given_ in (start, ascend_a_little(problem, cost), optimum(problem, cost, start, Budget())):
            assert problem.lower(given_, row, 0.0) <= (-0.25 if bent else -0.49)

    @pytest.mark.parametrize("norm", [1, 2])
    @pytest.mark.parametrize("size", [1e-160, 1e-140, 1e140])
    def test_balls_whose_squares_are_not_to_be_held(self, norm: float, size: float) -> None:
        """x - center over the ball is least at -radius, wherever the center is."""
        build = GraphBuilder([Port("x", (1,))])
        graph = build.build([build.relu(build.inputs[0])], [Port("y", (1,))])
        problem = Quadratics(graph, ball([3 * size], size, norm))
        row = torch.tensor([1 / size], dtype=torch.float64)
        given_ = plain(problem, problem.cost(row, -3.0)[0])
        assert problem.lower(given_, row, -3.0) <= -1 + 1e-9


def ascend_a_little(problem: Quadratics, cost: torch.Tensor) -> Multipliers:
    return ascend(problem, cost, plain(problem, cost), 10, 0.3, Budget())


def _kept(problem: Quadratics, whole: torch.Tensor, made: torch.Tensor, read: torch.Tensor) -> list[torch.Tensor]:
    """What the kept neurons read, found one by one: each reads inputs and those before it."""
    u, found = whole, []
    for k in range(problem.neurons):
        z = u @ problem.z_map[k, : u.shape[1]]
        found.append(z)
        u = torch.cat([u, z.clamp_min(0).unsqueeze(1)], 1)
    return found


def unit_rows(count: int) -> Rows:
    """Every output."""
    matrix = torch.eye(count, dtype=torch.float64).reshape(1, count, 1, count)
    return Rows(matrix, matrix.new_zeros(1, count, 1), torch.ones(1, count, 1, dtype=torch.bool))


class TestCompletion:
    @quick
    @given(st.sampled_from(SMALL), st.integers(0, 2**16), st.sampled_from([0.0, 0.3]))
    def test_it_makes_the_bound_the_best_that_one_number_can(
        self, sizes: tuple[int, ...], seed: int, noise: float
    ) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        problem, rng = problem_of(graph, inputs), np.random.default_rng(seed)
        row = torch.eye(sizes[-1], dtype=torch.float64)[0]
        cost = problem.cost(row, 0.0)[0]
        drawn = random_multipliers(problem, rng, noise)
        given_ = Multipliers(*(a + b for a, b in zip(plain(problem, cost).tensors(), drawn.tensors(), strict=True)))
        found = completed(problem, cost, given_)
        best = problem.lower(found, row, 0.0)
        assert best >= problem.lower(given_, row, 0.0) - 1e-9 * (1 + abs(best))
        for step in (1e-3, -min(1e-3, float(found.box[1:].min()))):
            shift = torch.full_like(found.box, step).index_fill(0, torch.tensor([0]), 0.0)
            other = completed(problem, cost, replace(found, box=found.box + shift))
            assert problem.lower(other, row, 0.0) <= best + 1e-9 * (1 + abs(best))


class TestSdp:
    @settings(quick, max_examples=5)
    @given(st.sampled_from(SMALL), st.integers(0, 2**16))
    def test_it_lies_between_its_start_and_the_truth(self, sizes: tuple[int, ...], seed: int) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        start, found = lowers(SdpFirstOrderBounds(0), graph, inputs), lowers(SdpBounds(), graph, inputs)
        assert (found >= start - 1e-9 * (1 + np.abs(start))).all()
        assert (found <= least(graph, inputs)).all()

    @settings(quick, max_examples=4)
    @given(st.sampled_from(SMALL), st.integers(0, 2**16))
    def test_it_is_no_looser_than_the_triangle_program(self, sizes: tuple[int, ...], seed: int) -> None:
        """Over the same bounds of neurons, whatever solver there is; and mostly tighter."""
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        network, rows = Network(graph, torch.float64), unit_rows(sizes[-1])
        common = outward(network, inputs, sharpened=LpBounds(neurons=99)(network, inputs, rows).sharpened)
        methods = (LpBounds(), SdpFirstOrderBounds(5), SdpBounds())
        looser, ascent, found = (m(network, inputs, rows, within=common).lower for m in methods)
        assert (ascent >= looser - 1e-9 * (1 + looser.abs())).all()
        assert (found >= looser - 1e-9 * (1 + looser.abs())).all()
        assert (found >= ascent - 1e-4 * (1 + looser.abs())).all()
        assert (found[0, :, 0].numpy() <= least(graph, inputs)[0, : sizes[-1]]).all()

    def test_it_is_tighter_where_neurons_depend_on_one_another(self) -> None:
        graph, inputs = dense((5, 12, 12, 1), 3), cube(5)
        looser, found = lowers(LpBounds(), graph, inputs), lowers(SdpBounds(), graph, inputs)
        assert (found > looser + 0.1 * np.abs(looser)).all()

    def test_solvers_arrive_where_the_interior_point_method_does(self) -> None:
        """Recomputed from the multipliers of either, where upper lines have some, too: their constants count."""
        graph, inputs = dense((3, 4, 4, 1), 2), cube(3)
        own, *others = (
            lowers(m, graph, inputs) for m in (SdpBounds(), SdpBounds(Conic.CLARABEL), SdpBounds(Conic.SCS))
        )
        for found, allowed in zip(others, (1e-5, 1e-2), strict=True):
            assert (np.abs(found - own) <= allowed * (1 + np.abs(own))).all()

    def test_what_does_not_fit_into_memory_is_left_to_ascent(self) -> None:
        graph, inputs = dense((3, 5, 5, 1), 4), cube(3)
        network, rows = Network(graph, torch.float64), unit_rows(1)
        small = Budget(memory=1000)
        found = SdpBounds()(network, inputs, rows, budget=small).lower
        assert torch.equal(found, SdpFirstOrderBounds()(network, inputs, rows, budget=small).lower)
        assert (found < SdpBounds()(network, inputs, rows).lower).all()

    def test_ascent_comes_most_of_the_way(self) -> None:
        problem = problem_of(dense((5, 16, 16, 1), 3), cube(5))
        row = torch.ones(1, dtype=torch.float64)
        cost = problem.cost(row, 0.0)[0]
        start = plain(problem, cost)
        climbed = ascend(problem, cost, start, 60, 0.3, Budget())
        best = optimum(problem, cost, start, Budget())
        low, found, high = (problem.lower(completed(problem, cost, m), row, 0.0) for m in (start, climbed, best))
        assert found <= high + 1e-5
        assert found - low >= 0.7 * (high - low) > 0

    @settings(quick, max_examples=4)
    @given(st.sampled_from(SMALL), st.integers(0, 2**16))
    def test_ascent_begins_at_linear_bounds_and_only_improves(self, sizes: tuple[int, ...], seed: int) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0])
        methods = (LinearBounds(), SdpFirstOrderBounds(0), SdpFirstOrderBounds(15))
        found = [lowers(m, graph, inputs) for m in methods]
        assert (found[0] <= found[1] + 1e-9).all() or len(sizes) > 3
        assert (found[1] <= found[2] + 1e-9).all()
        assert (found[2] <= least(graph, inputs)).all()
        problem = problem_of(graph, inputs)
        row = torch.eye(sizes[-1], dtype=torch.float64)[0]
        begun = problem.lower(plain(problem, problem.cost(row, 0.0)[0]), row, 0.0)
        if len(sizes) == 3:  # where all lines are the same
            assert abs(begun - found[0][0, 0]) <= 1e-9

    def test_many_coordinates_are_searched_by_lanczos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, inputs = dense((5, 12, 12, 1), 3), cube(5)
        whole = lowers(SdpFirstOrderBounds(50), graph, inputs)
        monkeypatch.setattr("certify.bounds.multipliers.SMALL", 10)
        found = lowers(SdpFirstOrderBounds(50), graph, inputs)
        assert (found > lowers(LinearBounds(), graph, inputs) + 0.1).all()
        assert (np.abs(found - whole) < 0.2 * np.abs(whole)).all()

    @pytest.mark.parametrize("lie", [1.0, -1e3, math.nan, math.inf])
    def test_a_solver_that_lies_proves_nothing_false(self, lie: float, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, inputs = dense((2, 4, 4, 1), 2), cube(2)

        def lying(
            self: SdpBounds, problem: Quadratics, cost: torch.Tensor, start: Multipliers, budget: Budget
        ) -> list[Multipliers]:
            numbers = [torch.full((problem.neurons,), lie, dtype=torch.float64) for _ in range(4)]
            box_ = torch.full((1 + len(problem.varying),), lie, dtype=torch.float64)
            box_[0] = -1e6  # as if a large bound had been found
            return [Multipliers(*numbers, box_, start.ball, start.pull)]

        monkeypatch.setattr(SdpBounds, "multipliers", lying)
        found = lowers(SdpBounds(), graph, inputs)
        assert (found <= least(graph, inputs)).all()
        assert (found >= lowers(SdpFirstOrderBounds(0), graph, inputs)).all()

    def test_a_solver_that_dies_leaves_the_linear_bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import cvxpy

        def dies(self: cvxpy.Problem, **options: object) -> None:
            raise cvxpy.error.SolverError("out of order")

        monkeypatch.setattr(cvxpy.Problem, "solve", dies)
        graph, inputs = dense((2, 4, 4, 1), 2), cube(2)
        found, start = lowers(SdpBounds(Conic.CLARABEL), graph, inputs), lowers(SdpFirstOrderBounds(0), graph, inputs)
        assert (found == start).all()

    def test_without_cvxpy_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cvxpy", None)
        with pytest.raises(CertifyError, match="cvxpy"):
            lowers(SdpBounds(Conic.CLARABEL), dense((2, 4, 1), 2), cube(2))

    def test_other_functions_are_refused(self) -> None:
        with pytest.raises(UnsupportedOp, match="Tanh"):
            SdpBounds().require(dense((2, 4, 1), 2, ops.Tanh()))

    def test_stable_networks_and_points(self) -> None:
        """No neuron bent, or no input varying: nothing is left to optimise."""
        graph = dense((2, 4, 4, 1), 2)
        for radius in (0.0, 1e-6):
            inputs = cube(2, radius)
            found = lowers(SdpFirstOrderBounds(5), graph, inputs)
            np.testing.assert_allclose(found, least(graph, inputs), atol=1e-9)
            assert (found <= least(graph, inputs) + 1e-12).all()
