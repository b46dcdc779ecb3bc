"""Convex relaxations between linear bounds and exactness: what they prove, in which order, and whom they trust."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import certify
from certify import Grade, Method, Strategy, verifier
from certify.bounds import triangle
from certify.bounds.intermediate import intermediate
from certify.bounds.lp import LpBounds
from certify.bounds.method import BoundMethod, RowBounds
from certify.bounds.methods import IntervalBounds, LinearBounds, WongKolterBounds, ZonotopeBounds
from certify.bounds.multi_neuron import MultiNeuronBounds
from certify.bounds.rows import Rows
from certify.bounds.sdp import SdpBounds, SdpFirstOrderBounds
from certify.bounds.triangle import Triangle
from certify.budget import Budget
from certify.check.store import RunInfo, check_directory, save
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.solvers.csr import Csr
from certify.solvers.highs import WATCHED, LinearProgram, Solution, Status, solve
from certify.spec.inputset import InputSet, stack
from certify.spec.regions import Region, ball, box
from tests import exact, strategies

Array = np.ndarray

quick = settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)

DEPTHS = [(2, 5, 1), (2, 4, 4, 2), (3, 4, 4, 3, 2)]


def dense(sizes: tuple[int, ...], seed: int, op: ops.Elementwise | None = None) -> Graph:
    """Dense layers of these sizes, with `op` (ReLU) between them."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder([Port("x", (sizes[0],))])
    x = build.inputs[0]
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        x = build.emit(ops.Linear(rng.standard_normal((b, a)) / math.sqrt(a), rng.standard_normal(b) / 4), x)
        if k < len(sizes) - 2:
            x = build.emit(op or ops.Relu(), x)
    return build.build([x], [Port("y", (sizes[-1],))])


def cube(size: int, radius: float = 1.0, batch: int = 1) -> InputSet:
    ends = torch.full((batch, size), radius, dtype=torch.float64)
    return InputSet(-ends, ends)


def rows_of_outputs(size: int) -> Rows:
    """Every output and its opposite, as clauses of one row each."""
    eye = torch.eye(size, dtype=torch.float64)
    matrix = torch.cat([eye, -eye])[None, :, None]
    return Rows(matrix, matrix.new_zeros(1, 2 * size, 1), torch.ones(1, 2 * size, 1, dtype=torch.bool))


def bounded(method: BoundMethod, graph: Graph, inputs: InputSet) -> RowBounds:
    return method(Network(graph, torch.float64), inputs, rows_of_outputs(graph.output_size))


def lowers(method: BoundMethod, graph: Graph, inputs: InputSet) -> Array:
    """(B, 2 n): lower bounds of the outputs and of their opposites."""
    return bounded(method, graph, inputs).lower[..., 0].numpy()


def least(graph: Graph, inputs: InputSet) -> Array:
    """(B, 2 n): the exact ones."""
    eye = np.eye(graph.output_size)
    return np.array(
        [
            [float(exact.minimum(graph, box(lower, upper), row, limit=4000)) for row in (*eye, *-eye)]
            for lower, upper in zip(inputs.lower.numpy(), inputs.upper.numpy(), strict=True)
        ]
    )


def planet(graph: Graph, inputs: InputSet) -> Array:
    """(2 n,): the optimum of the triangle program of a dense ReLU network, written down neuron by neuron."""
    network = Network(graph, torch.float64)
    bounds = intermediate(network, inputs)
    layers = [node.op for node in graph.nodes if isinstance(node.op, ops.Linear)]
    reads = [graph.nodes[e].inputs[0] for e in graph.nonlinear]
    d = graph.input_size
    total = d + sum(2 * len(op.bias) for op in layers[:-1])
    limits = [(float(a), float(b)) for a, b in zip(inputs.lower[0], inputs.upper[0], strict=True)]
    limits += [(None, None)] * (total - d)
    equal, right, under, most = [], [], [], []
    at, before = d, np.arange(d)
    for op, v in zip(layers[:-1], reads, strict=True):
        for i in range(len(op.bias)):
            z, y = at + 2 * i, at + 2 * i + 1
            row = np.zeros(total)
            row[z], row[before] = 1, -op.weight[i]
            equal.append(row)
            right.append(op.bias[i])
            low, up = float(bounds[v][0][0, i]), float(bounds[v][1][0, i])
            unit = np.eye(total)
            if low >= 0:
                equal.append(unit[y] - unit[z])
                right.append(0.0)
            elif up <= 0:
                equal.append(unit[y])
                right.append(0.0)
            else:
                under += [-unit[y], unit[z] - unit[y], (up - low) * unit[y] - up * unit[z]]
                most += [0.0, 0.0, -up * low]
        before = at + 2 * np.arange(len(op.bias)) + 1
        at += 2 * len(op.bias)
    found = []
    for row in (*np.eye(graph.output_size), *-np.eye(graph.output_size)):
        cost = np.zeros(total)
        cost[before] = row @ layers[-1].weight
        done = linprog(cost, under or None, most or None, equal, right, limits, method="highs")
        found.append(done.fun + row @ layers[-1].bias)
    return np.array(found)


class TestTriangle:
    @quick
    @given(st.sampled_from(DEPTHS), st.integers(0, 2**16), st.sampled_from([0.1, 1.0]))
    def test_backward_propagation_gives_the_optimum_of_the_program(
        self, sizes: tuple[int, ...], seed: int, radius: float
    ) -> None:
        """Up to the rounding of slopes to bytes, which costs at most a half step of every line."""
        graph, inputs = dense(sizes, seed), cube(sizes[0], radius)
        optimum, found = planet(graph, inputs), lowers(LpBounds(), graph, inputs)[0]
        loose = lowers(LinearBounds(), graph, inputs)[0]
        scale = 1 + np.abs(loose)
        assert (found <= optimum + 1e-7 * scale).all()
        assert (found >= optimum - 0.01 * scale).all()

    @quick
    @given(st.sampled_from(DEPTHS), st.integers(0, 2**16), st.sampled_from([0.1, 1.0]))
    def test_the_order_of_methods(self, sizes: tuple[int, ...], seed: int, radius: float) -> None:
        graph, inputs = dense(sizes, seed), cube(sizes[0], radius, batch=2)
        loose = [lowers(m, graph, inputs) for m in (IntervalBounds(), LinearBounds())]  # neither is always better
        found = [np.maximum(*loose), *(lowers(LpBounds(neurons=n), graph, inputs) for n in (0, 100))]
        found.append(least(graph, inputs))
        for looser, tighter in itertools.pairwise(found):
            assert (looser <= tighter + 1e-3 * (1 + np.abs(looser))).all()  # slopes are rounded to bytes
        assert (np.max(found[:-1], 0) <= found[-1] + 1e-9).all()
        for method in (ZonotopeBounds(), WongKolterBounds()):  # over bounds of their own, which may be looser
            assert (lowers(method, graph, inputs) <= found[-1] + 1e-9).all()

    def test_a_cancelled_budget_ends_a_solve(self) -> None:
        graph, inputs, budget = dense((2, 110, 110, 1), 0), cube(2), Budget()
        network = Network(graph, torch.float64)
        program = Triangle(network, inputs, intermediate(network, inputs), budget)
        assert program.columns > WATCHED
        row = torch.ones(1, dtype=torch.float64)
        assert program.solve(row, None) is not None
        budget.cancel()
        assert program.solve(-row, None) is None
        assert not Triangle(network, inputs, intermediate(network, inputs), budget).usable

    @quick
    @given(strategies.graphs(), strategies.input_sets(3))
    def test_it_is_never_looser_than_adaptive_lines(self, graph: Graph, inputs: InputSet) -> None:
        plain, found = (lowers(m, graph, inputs) for m in (LinearBounds(), LpBounds()))
        assert (found >= plain - 1e-9 * np.abs(plain)).all()

    @quick
    @given(st.integers(0, 2**16), st.sampled_from([ops.Abs(), ops.LeakyRelu(np.array(2.0)), ops.Clip(-0.5, 0.5)]))
    def test_other_kinks(self, seed: int, op: ops.Elementwise) -> None:
        graph, inputs = dense((2, 3, 3, 1), seed, op), cube(2)
        plain, found = (lowers(m, graph, inputs) for m in (LinearBounds(), LpBounds(neurons=10)))
        assert (plain <= found + 1e-9).all()
        assert (found <= least(graph, inputs) + 1e-9).all()

    @pytest.mark.parametrize("op", [ops.Tanh(), ops.Sigmoid()])
    def test_s_shaped_functions(self, op: ops.Elementwise) -> None:
        torch.manual_seed(0)
        x = torch.rand(4096, 2, dtype=torch.float64) * 2 - 1
        better = 0
        for seed in range(8):
            graph, inputs = dense((2, 4, 4, 1), seed, op), cube(2)
            plain, found = (lowers(m, graph, inputs)[0] for m in (LinearBounds(), LpBounds()))
            y = Network(graph, torch.float64)(x).detach().numpy()
            assert (found <= np.concatenate([y.min(0), -y.max(0)]) + 1e-9).all()
            better += int((found > plain + 1e-6).any())
        assert better

    def test_bounds_of_neurons_are_tightened(self) -> None:
        graph, inputs = dense((2, 6, 6, 6, 1), 3), cube(2)
        plain, sharp = (bounded(LpBounds(neurons=n), graph, inputs) for n in (0, 100))
        last = graph.nodes[graph.nonlinear[-1]].inputs[0]
        width = [float((r.nodes[last][1] - r.nodes[last][0]).sum()) for r in (plain, sharp)]
        assert width[1] < 0.99 * width[0]
        assert (sharp.lower >= plain.lower - 1e-9).all()
        assert (sharp.lower[..., 0].numpy() <= least(graph, inputs) + 1e-9).all()
        torch.manual_seed(0)
        values = Network(graph, torch.float64).values(torch.rand(4096, 2, dtype=torch.float64) * 2 - 1)
        for v, (lower, upper) in sharp.nodes.items():
            assert ((lower - 1e-9 <= values[v]) & (values[v] <= upper + 1e-9)).all()

    def test_a_program_that_is_too_large_is_not_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, inputs = dense((2, 6, 6, 1), 3), cube(2)
        monkeypatch.setattr(triangle, "MOST", 10)
        np.testing.assert_allclose(lowers(LpBounds(), graph, inputs), lowers(LinearBounds(), graph, inputs), rtol=1e-9)


LIES: dict[str, Callable[[LinearProgram, np.random.Generator], Solution]] = {
    "noise": lambda p, rng: Solution(Status.OPTIMAL, p.lower, rng.standard_normal(len(p.row_lower)) * 1e3),
    "not a number": lambda p, rng: Solution(Status.OPTIMAL, None, np.full(len(p.row_lower), np.nan)),
    "infinite": lambda p, rng: Solution(Status.OPTIMAL, None, np.full(len(p.row_lower), np.inf)),
    "too few": lambda p, rng: Solution(Status.OPTIMAL, None, np.ones(1)),
    "none": lambda p, rng: Solution(Status.OPTIMAL),
    "infeasible": lambda p, rng: Solution(Status.INFEASIBLE, None, np.ones(len(p.row_lower))),
    "reversed": lambda p, rng: Solution(Status.OPTIMAL, None, -solve(p).multipliers),
}


class Lying:
    """Stands in for `certify.solvers.highs.Kept`: every solution is what `lie` makes of the program."""

    def __init__(self, program: LinearProgram, lie: Callable[[LinearProgram], Solution]) -> None:
        self.program, self.lie = program, lie

    def add(self, rows: Csr, lower: Array, upper: Array) -> None:
        old = self.program.matrix
        start = np.append(old.start, old.start[-1] + rows.start[1:]).astype(np.int32)
        matrix = Csr(start, np.append(old.index, rows.index), np.append(old.value, rows.value), old.columns)
        sides = np.append(self.program.row_lower, lower), np.append(self.program.row_upper, upper)
        self.program = replace(self.program, matrix=matrix, row_lower=sides[0], row_upper=sides[1])

    def minimise(self, cost: Array, seconds: float) -> Solution:
        return self.lie(replace(self.program, cost=cost))


class TestLyingSolver:
    @pytest.mark.parametrize("lie", LIES)
    @settings(quick, max_examples=8)
    @given(seed=st.integers(0, 2**16))
    def test_nothing_false_is_bounded(self, lie: str, seed: int) -> None:
        """And nothing is lost against bounds without the solver."""
        graph, inputs, rng = dense((2, 4, 4, 2), seed), cube(2), np.random.default_rng(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(triangle, "Kept", lambda program, stop: Lying(program, lambda p: LIES[lie](p, rng)))
            found, sharp = (lowers(LpBounds(neurons=n), graph, inputs) for n in (0, 20))
        assert (found >= lowers(LinearBounds(), graph, inputs) - 1e-9).all()
        assert (np.maximum(found, sharp) <= least(graph, inputs) + 1e-9).all()

    @pytest.mark.parametrize("lie", LIES)
    def test_nothing_false_is_claimed(self, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, rng = dense((2, 6, 6, 1), 5), np.random.default_rng(0)
        monkeypatch.setattr(triangle, "Kept", lambda program, stop: Lying(program, lambda p: LIES[lie](p, rng)))
        lowest = least(graph, cube(2))[0, 0]
        assert verdict_of(graph, lowest + 1e-3, LpBounds()) != "verified"


def ball_in(size: int, norm: float, radius: float, range_: float) -> InputSet:
    """An L1 or L2 ball at a corner of a range, which cuts half of it off."""
    ends = torch.full((1, size), range_, dtype=torch.float64)
    center = torch.cat([-ends[:, :1], 0.25 * ends[:, 1:]], 1)
    low, up = torch.maximum(-ends, center - radius), torch.minimum(ends, center + radius)
    return InputSet(low, up, norm, center, torch.full((1,), radius, dtype=torch.float64))


class TestBalls:
    """Methods that know of the ball itself, not only of the box around it."""

    @settings(quick, max_examples=8)
    @given(st.sampled_from([1, 2]), st.integers(0, 2**16), st.sampled_from([0.4, 1.5]))
    def test_bounds_lie_below_what_points_of_the_ball_attain(self, norm: float, seed: int, radius: float) -> None:
        graph, inputs = dense((3, 4, 4, 1), seed), ball_in(3, norm, radius, 1.0)
        torch.manual_seed(seed)
        x = inputs.select(torch.zeros(500, dtype=torch.long)).project(2 * torch.rand(500, 3, dtype=torch.float64) - 1)
        region = inputs.regions()[0]
        x = torch.stack([p for p in x if region.contains(p.numpy())])
        y = Network(graph, torch.float64)(x).detach().numpy()[:, 0]
        linear = lowers(LinearBounds(), graph, inputs)[0]
        for method in (LpBounds(), LpBounds(neurons=10), MultiNeuronBounds(), SdpFirstOrderBounds(30)):
            found = lowers(method, graph, inputs)[0]
            assert (found <= np.array([y.min(), -y.max()]) + 1e-9).all(), method
            assert np.isfinite(found).all()
        lp = lowers(LpBounds(), graph, inputs)[0]
        assert (lp >= linear - 1e-9).all()

    @pytest.mark.parametrize("norm", [1, 2])
    @pytest.mark.parametrize(
        "method", [LpBounds(), MultiNeuronBounds(rounds=1), SdpFirstOrderBounds(20), SdpBounds()], ids=repr
    )
    def test_they_are_tighter_than_over_the_box(self, norm: float, method: BoundMethod) -> None:
        graph, inputs = dense((5, 8, 1), 3), ball_in(5, norm, 1.0, 1.0)
        over_box = lowers(method, graph, InputSet(inputs.lower, inputs.upper))[0]
        found = lowers(method, graph, inputs)[0]
        assert (found > over_box + 0.1 * np.abs(over_box)).all()
        assert (found >= lowers(LinearBounds(), graph, inputs)[0] - 1e-6).all()

    @pytest.mark.parametrize("norm", [1, 2])
    def test_the_program_over_a_ball_is_the_convex_program(self, norm: float) -> None:
        """One hidden layer, all bounds known: min of a sum of relaxed neurons over the ball, by cvxpy."""
        cvxpy = pytest.importorskip("cvxpy")
        graph, inputs = dense((4, 6, 1), 1), ball_in(4, norm, 1.0, 1.0)
        first, last = (node.op for node in graph.nodes if isinstance(node.op, ops.Linear))
        low, up = (b[0].numpy() for b in intermediate(Network(graph, torch.float64), inputs)[1])
        x, y = cvxpy.Variable(4), cvxpy.Variable(6)
        z = first.weight @ x + first.bias
        bent = (low < 0) & (up > 0)
        slope = np.where(bent, up / (up - low), (low >= 0) * 1.0)
        shift = np.where(bent, -slope * low, 0.0)
        region = inputs.regions()[0]
        limits = [x >= region.lower, x <= region.upper, cvxpy.norm(x - region.center, norm) <= region.radius]
        limits += [y >= 0, y >= cvxpy.multiply((low >= 0) * 1.0, z), y <= cvxpy.multiply(slope, z) + shift]
        limits += [y >= cvxpy.multiply(bent * 1.0, z)]
        best = cvxpy.Problem(cvxpy.Minimize((last.weight @ y + last.bias)[0]), limits).solve(solver="CLARABEL")
        found = lowers(LpBounds(), graph, inputs)[0, 0]
        assert best - 0.02 * (1 + abs(best)) <= found <= best + 1e-5

    @pytest.mark.parametrize("norm", [1, 2])
    def test_what_the_ball_proves_the_checker_accepts(self, norm: float) -> None:
        """And not more, through `verify`: its search works in float32."""
        graph = dense((3, 6, 6, 1), 4)
        region = ball([-1.0, 0.25, 0.25], 0.8, norm, (-1.0, 1.0))
        ((_, inputs),) = stack([region], torch.float64)
        for method in (LpBounds(), MultiNeuronBounds(), SdpFirstOrderBounds(0)):
            level = lowers(method, graph, inputs)[0, 0]
            for shift, name in ((-2e-2, "verified"), (2e-2, "unknown")):
                verdict = decided(graph, level + shift * (1 + abs(level)), method, region)
                assert verdict.name == name


def verdict_of(graph: Graph, level: float, method: BoundMethod) -> str:
    """The name of the verdict by `method` alone."""
    return decided(graph, level, method).name


def decided(graph: Graph, level: float, method: BoundMethod, region: Region | None = None) -> certify.Verdict:
    """The verdict by `method` alone, without attacks, on whether the first output is above `level` on the region, or
    on the cube."""
    size, n = graph.input_size, graph.output_size
    region = region or box(-np.ones(size), np.ones(size))
    case = certify.Case(region, certify.Property((certify.clause(np.eye(n)[0], level),)))
    query = certify.Query(lambda x: exact_value(graph, x), graph, (case,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(verifier.BOUNDS, method.name, method)
        return verifier.verify(query, Strategy(method=Method(method.name), steps=0))


def exact_value(graph: Graph, x: Array) -> Array:
    return np.array([float(v) for v in exact.outputs(graph, x.tolist())[: graph.output_size]])


class TestProofs:
    @pytest.mark.parametrize("seed", range(6))
    def test_what_the_program_proves_the_checker_accepts(self, seed: int) -> None:
        """And linear bounds do not prove it: the level lies between the two."""
        graph, inputs = dense((2, 6, 6, 1), seed), cube(2)
        plain, tight = (lowers(m, graph, inputs)[0, 0] for m in (LinearBounds(), LpBounds()))
        if tight < plain + 1e-3:
            pytest.skip("linear bounds are as tight")
        level = plain + 0.9 * (tight - plain)
        assert verdict_of(graph, level, LinearBounds()) == "unknown"
        assert verdict_of(graph, level, LpBounds()) == "verified"

    @pytest.mark.parametrize("seed", range(6))
    def test_with_tightened_neurons_too(self, seed: int) -> None:
        graph, inputs = dense((2, 6, 6, 6, 1), seed), cube(2)
        plain, tight = (lowers(LpBounds(neurons=n), graph, inputs)[0, 0] for n in (0, 50))
        if tight < plain + 1e-3:
            pytest.skip("tightened neurons change nothing here")
        level = plain + 0.9 * (tight - plain)
        assert verdict_of(graph, level, LpBounds()) == "unknown"
        assert verdict_of(graph, level, LpBounds(neurons=50)) == "verified"

    @pytest.mark.parametrize("method", verifier.OUTWARD, ids=repr)
    def test_bounds_without_evidence_say_so(self, method: BoundMethod) -> None:
        """Proved between their bound and the program's; what is saved is never accepted by the checker."""
        graph, inputs = dense((2, 6, 6, 1), 0), cube(2)
        level = lowers(method, graph, inputs)[0, 0] - 1e-3
        assert method.name == "lipschitz" or level > lowers(LinearBounds(), graph, inputs)[0, 0] + 1e-3
        verdict = decided(graph, level, method)
        assert (verdict.name, verdict.grade, verdict.evidence) == ("verified", Grade.RECOMPUTED, None)

    def test_a_verdict_without_evidence_is_rejected_when_checked(self, tmp_path: Path) -> None:
        graph = dense((2, 4, 1), 0)
        case = certify.Case(box(-np.ones(2), np.ones(2)), certify.Property((certify.clause([1.0], -100.0),)))
        save(
            tmp_path, certify.Verified(None, Grade.RECOMPUTED), RunInfo("net", "property", 0, 0.0, 0.0), graph, (case,)
        )
        report = check_directory(tmp_path, graph, (case,))
        assert not report.ok
        assert "no evidence" in report.failures[0]

    @pytest.mark.parametrize(
        "method", [LpBounds(), LpBounds(neurons=50), WongKolterBounds(), *verifier.OUTWARD], ids=repr
    )
    def test_what_is_false_is_not_proved(self, method: BoundMethod) -> None:
        graph = dense((2, 5, 5, 1), 1)
        assert verdict_of(graph, least(graph, cube(2))[0, 0] + 1e-6, method) == "unknown"


def dual_network(
    weights: list[Array], biases: list[Array], lower: list[Array], upper: list[Array], x: Array, radius: float, c: Array
) -> float:
    """The bound of min c @ output over ||x' - x||_inf <= radius as Wong & Kolter (2018, theorem 1) write it, given
    bounds of the hidden layers before their ReLU."""
    nu, total = c, 0.0  # the paper's nu is the opposite of this one
    for k in range(len(weights) - 1, -1, -1):
        total += nu @ biases[k]
        hat = weights[k].T @ nu
        if k == 0:
            return total + hat @ x - radius * np.abs(hat).sum()
        low, up = lower[k - 1], upper[k - 1]
        crossing = (low < 0) & (up > 0)
        slope = np.where(crossing, up / np.where(crossing, up - low, 1), (low >= 0).astype(float))
        total += (np.where(crossing, slope * low, 0) * np.maximum(-hat, 0)).sum()
        nu = slope * hat
    raise AssertionError("a network has a layer")


class TestWongKolter:
    @quick
    @given(st.sampled_from(DEPTHS), st.integers(0, 2**16), st.sampled_from([0.1, 1.0]))
    def test_it_is_the_formula_of_the_paper(self, sizes: tuple[int, ...], seed: int, radius: float) -> None:
        """Over the same bounds of hidden layers: tighter ones can make this bound looser."""
        graph, inputs = dense(sizes, seed), cube(sizes[0], radius)
        layers = [node.op for node in graph.nodes if isinstance(node.op, ops.Linear)]
        weights, biases = [op.weight for op in layers], [op.bias for op in layers]
        found = bounded(WongKolterBounds(), graph, inputs)
        reads = [found.nodes[graph.nodes[e].inputs[0]] for e in graph.nonlinear]
        lower, upper = ([b[side][0].numpy() for b in reads] for side in (0, 1))
        eye = np.eye(sizes[-1])
        paper = [dual_network(weights, biases, lower, upper, np.zeros(sizes[0]), radius, c) for c in (*eye, *-eye)]
        np.testing.assert_allclose(found.lower[0, :, 0], paper, rtol=1e-9, atol=1e-9)
        for k in range(1, len(reads)):  # and these bounds are found by the formula, or by intervals if those are better
            rows = np.eye(len(lower[k]))
            mine = [
                dual_network(weights[: k + 1], biases[: k + 1], lower, upper, np.zeros(sizes[0]), radius, c)
                for c in rows
            ]
            unstable = (lower[k] < 0) & (upper[k] > 0)
            assert (lower[k] >= np.array(mine) - 1e-9)[unstable].all()

    @quick
    @given(st.integers(0, 2**16))
    def test_over_one_hidden_layer_it_is_a_feasible_dual_of_the_program(self, seed: int) -> None:
        graph, inputs = dense((3, 6, 2), seed), cube(3)
        assert (lowers(WongKolterBounds(), graph, inputs)[0] <= planet(graph, inputs) + 1e-7).all()

    @settings(quick, max_examples=5)
    @given(st.integers(0, 2**16))
    def test_where_only_upper_lines_are_used_it_is_the_programs_optimum(self, seed: int) -> None:
        """One hidden layer, read with no positive weight: the fixed dual solution leaves nothing to choose."""
        rng = np.random.default_rng(seed)
        build = GraphBuilder([Port("x", (3,))])
        x = build.relu(build.emit(ops.Linear(rng.standard_normal((6, 3)), rng.standard_normal(6)), build.inputs[0]))
        last = ops.Linear(-np.abs(rng.standard_normal((1, 6))), rng.standard_normal(1))
        graph, inputs = build.build([build.emit(last, x)], [Port("y", (1,))]), cube(3)
        np.testing.assert_allclose(lowers(WongKolterBounds(), graph, inputs)[0, 0], planet(graph, inputs)[0], atol=1e-6)
