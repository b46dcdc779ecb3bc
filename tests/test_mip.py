"""Branch and bound on linear programs, and mixed-integer programs, against the exact oracle; and solvers that lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch

from certify.bab.engine import Problem
from certify.bounds import optimise
from certify.bounds.base import apart
from certify.bounds.intermediate import intermediate
from certify.budget import Budget
from certify.errors import UnsupportedOp
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Graph, Node, Port
from certify.mip.columns import Columns
from certify.mip.distance import bounded, least, nearest
from certify.mip.pieces import pieces_of
from certify.mip.search import LpSplit
from certify.mip.tighten import TRIED, Effort
from certify.solvers import highs
from certify.solvers.highs import LinearProgram, MixedSolution, Solution, Status
from certify.spec.inputset import stack
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import Region, ball, box
from certify.strategy import Method, Solver, Strategy
from certify.threads import MOST_FOR_KERNELS
from certify.verdict import Falsified, Reason, Unknown, Verified
from certify.verifier import verify
from tests import exact
from tests.test_leaf import ACTIVATIONS, NEAR, Evaluated, ask, chosen, decides, network, turning_point, violated

Array = np.ndarray

REGION = box([-1.0, -0.5], [0.75, 1.0])
ALL = (*ACTIVATIONS, ops.Sign())


def mixed(seed: int, kinds: tuple[ops.Elementwise, ...] = ACTIVATIONS, depth: int = 2) -> Graph:
    rng = np.random.default_rng([seed, depth])
    return network(seed, [kinds[k] for k in rng.integers(0, len(kinds), depth)])


def corners_of(part: exact.Polytope, inputs: Sequence[exact.Row]) -> list[list[Fraction]]:
    """The corners of a polytope of free inputs, as inputs."""
    free = [[Fraction(v, point[-1]) for v in point[:-1]] for point in part.points]
    return [list(exact.at(inputs, one)) for one in free]


def least_of(points: Array) -> float:
    """The least, over the convex hull of points (k, R), of the largest coordinate."""
    count, rows = points.shape
    matrix = np.vstack([np.column_stack([points.T, -np.ones(rows)]), np.append(np.ones(count), 0.0)])
    lower, upper = np.append(np.zeros(count), -np.inf), np.append(np.ones(count), np.inf)
    sides = np.append(np.full(rows, -np.inf), 1.0), np.append(np.zeros(rows), 1.0)
    return float(highs.solve(LinearProgram(np.eye(count + 1)[-1], lower, upper, matrix, *sides)).x[-1])


@lru_cache
def least_margin(seed: int, depth: int, rows: int, reads_input: bool = False) -> float:
    """The least value over REGION of the largest of the rows, from all activation patterns of `mixed(seed, depth)`."""
    graph, matrix = mixed(seed, depth=depth), chosen(seed, rows, reads_input)
    _, inputs = exact.polytope(REGION)
    best = np.inf
    for part, _ in exact.cells(graph, REGION):
        corners = corners_of(part, inputs)
        x = np.array([[float(v) for v in c] for c in corners])
        z = np.hstack([evaluate(graph, x), x])[:, : matrix.shape[1]]  # all operators of `mixed` are continuous
        best = min(best, least_of(z @ matrix.T))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_search_decides_right_up_to_the_turning_point(seed: int) -> None:
    rows, depth, reads_input = 1 + seed % 3, 2 + seed % 2, seed % 4 == 3
    graph, matrix = mixed(seed, depth=depth), chosen(seed, rows, reads_input)
    at = least_margin(seed, depth, rows, reads_input)
    assert isinstance(ask(graph, REGION, [clause(matrix, np.full(rows, at - NEAR))], Method.MIP), Verified)
    assert isinstance(ask(graph, REGION, [clause(matrix, np.full(rows, at + NEAR))], Method.MIP), Falsified)


def test_operators_that_read_the_input_split_its_box() -> None:
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(ops.Abs(), build.inputs[0])
    linear = build.emit(ops.Linear(np.array([[1.0, -0.5], [0.75, 1.0]]), np.array([-0.25, 0.125])), h)
    h = build.add(build.relu(linear), build.inputs[0])
    graph = build.build([h], [Port("y", (2,))])
    decides(graph, box([-1.0, -0.75], [1.0, 1.25]), chosen(3, 2), NEAR, Method.MIP)


@pytest.mark.parametrize("norm", [1, 2])
def test_balls_are_never_decided_wrong(norm: int) -> None:
    for seed in range(3):
        graph, region = mixed(seed), ball([0.1, -0.2], 0.75, norm, (-0.75, 0.5))
        matrix = chosen(seed, 2)
        at = turning_point(graph, Region(region.lower, region.upper), matrix)
        for offset in (at - NEAR, at + NEAR, at + 0.25):
            unsafe = clause(matrix, [offset, offset])
            verdict = ask(graph, region, [unsafe], Method.MIP)
            if norm == 1:
                assert not isinstance(verdict, Falsified if not violated(graph, region, unsafe) else Verified)
            if offset < at:
                assert isinstance(verdict, Verified)


@pytest.mark.parametrize("norm", [1, 2])
def test_balls_are_decided_right_up_to_their_distance(norm: float) -> None:
    """By proofs that the checker accepts: the programs know the ball, not the box around it."""
    decided = 0
    for seed in range(5):
        graph, center, within = mixed(seed), np.array([0.1, 0.2]), (-0.5, 0.75)
        region = box([within[0]] * 2, [within[1]] * 2)
        unsafe = through(graph, chosen(seed, 1), seed, region)
        truth = exact_distance(graph, center, norm, unsafe, region)
        if not 0 < truth < np.inf:  # the centre is unsafe
            continue
        decided += 1
        assert isinstance(ask(graph, ball(center, truth * (1 - 1e-6), norm, within), [unsafe], Method.MIP), Verified)
        assert isinstance(ask(graph, ball(center, truth * (1 + 1e-5), norm, within), [unsafe], Method.MIP), Falsified)
    assert decided > 1


def test_smooth_operators_are_searched_too() -> None:
    rng = np.random.default_rng(0)
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(ops.Linear(rng.standard_normal((3, 2)), rng.standard_normal(3)), build.inputs[0])
    h = build.emit(ops.Linear(rng.standard_normal((3, 3)), rng.standard_normal(3)), build.emit(ops.Tanh(), h))
    h = build.emit(ops.Linear(rng.standard_normal((1, 3)), None), build.emit(ops.Sigmoid(), h))
    graph = build.build([h], [Port("y", (1,))])
    sides = np.linspace(-1, 1, 200)
    values = evaluate(graph, np.stack(np.meshgrid(sides, sides), -1).reshape(-1, 2))
    assert isinstance(ask(graph, box([-1, -1], [1, 1]), [clause([1.0], values.min() - 0.05)], Method.MIP), Verified)
    assert isinstance(ask(graph, box([-1, -1], [1, 1]), [clause([1.0], values.min() + 1e-3)], Method.MIP), Falsified)


def engine_of(graph: Graph, matrix: Array, offset: float) -> LpSplit:
    ((_, inputs),) = stack([REGION], torch.float32)
    unsafe = clause(matrix, np.full(len(matrix), offset))
    problem = Problem(Network(graph), 0, REGION, inputs, (unsafe,), (0,), Budget(60))
    return LpSplit(problem, apart(intermediate(problem.network, inputs)))


@pytest.mark.parametrize("seed", range(6))
def test_the_program_bounds_all_slopes_and_its_own_are_good(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the root: the optimum of the program is above what ascent reaches, and the slopes made of its multipliers
    are hardly worse than that (they are whole numbers of 1 / 254)."""
    graph, matrix = network(seed, [ops.Relu(), ops.LeakyRelu(np.array(0.25)), ops.Relu()]), chosen(seed, 2)
    engine = engine_of(graph, matrix, 0.0)
    seen: list[float] = []

    def solve(program: LinearProgram, *args: object) -> Solution:
        found = highs_solve(program, *args)
        seen.append(float(program.cost @ found.x))
        return found

    highs_solve = highs.solve
    monkeypatch.setattr(highs, "solve", solve)
    root = engine.root()
    lower = float(engine.bound(root).lower[0])
    target, relaxation, free = engine._target(root)
    ascent = optimise.optimise(target, free, relaxation, optimise.Schedule(steps=200), threshold=np.inf)
    assert max(lower, float(ascent.lower[0, 0])) <= seen[0] + 1e-7
    assert lower >= float(ascent.lower[0, 0]) - 0.02


Lie = Callable[[LinearProgram, Solution], Solution]
RNG = np.random.default_rng(5)
LIES: dict[str, Lie] = {
    "random duals": lambda p, s: replace(s, multipliers=RNG.standard_normal(len(p.row_lower))),
    "negated duals": lambda p, s: replace(s, multipliers=None if s.multipliers is None else -s.multipliers),
    "NaN": lambda p, s: Solution(s.status, np.full(len(p.cost), np.nan), np.full(len(p.row_lower), np.nan)),
    "huge": lambda p, s: Solution(s.status, np.full(len(p.cost), 1e300), np.full(len(p.row_lower), -1e300)),
    "infeasible": lambda p, s: Solution(Status.INFEASIBLE, None, RNG.standard_normal(len(p.row_lower))),
    "infeasible without a ray": lambda p, s: Solution(Status.INFEASIBLE),
    "optimal without anything": lambda p, s: Solution(Status.OPTIMAL),
    "unbounded": lambda p, s: Solution(Status.UNBOUNDED),
    "stopped": lambda p, s: Solution(Status.STOPPED),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_solver_that_lies_never_makes_a_claim(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the search and in its leaves. `ask` replays every proof and decides every witness exactly."""
    truth, lying = highs.solve, False

    def solve(program: LinearProgram, seconds: float = np.inf, *rest: object) -> Solution:
        return LIES[lie](program, truth(program, seconds)) if lying else truth(program, seconds, *rest)

    monkeypatch.setattr(highs, "solve", solve)
    monkeypatch.setattr("certify.bab.leaf.solve", solve)
    for seed in range(2):
        graph, matrix, at = mixed(seed), chosen(seed, 2), least_margin(seed, 2, 2)
        lying = True
        assert not isinstance(ask(graph, REGION, [clause(matrix, [at + NEAR] * 2)], Method.MIP, 0.5), Verified)
        assert not isinstance(ask(graph, REGION, [clause(matrix, [at - NEAR] * 2)], Method.MIP, 0.5), Falsified)
        lying = False


def test_a_solver_that_dies_makes_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(*args: object) -> Solution:
        raise RuntimeError("the solver died")

    monkeypatch.setattr(highs, "solve", solve)
    graph, matrix = mixed(1), chosen(1, 2)
    with pytest.raises(RuntimeError, match="died"):
        ask(graph, REGION, [clause(matrix, [least_margin(1, 2, 2)] * 2)], Method.MIP)


def test_a_solver_without_memory_leaves_the_bound_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its first program, and later on: nothing is proved, and what is open stays so."""
    graph, matrix = mixed(0, depth=3), chosen(0, 2)
    unsafe = clause(matrix, [least_margin(0, 3, 2) - NEAR] * 2)
    truth = highs.solve
    for after in (0, 2):
        calls: list[int] = []

        def solve(*args: object, after: int = after, calls: list[int] = calls) -> Solution:
            calls.append(1)
            return truth(*args) if len(calls) <= after else Solution(Status.MEMORY)

        monkeypatch.setattr(highs, "solve", solve)
        verdict = ask(graph, REGION, [unsafe], Method.MIP)
        assert isinstance(verdict, Unknown)
        assert verdict.reason is Reason.MEMORY
        assert verdict.lower <= NEAR
        assert (verdict.lower > -np.inf) or not after


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize(
    ("place", "solver"),
    [
        ("certify.mip.search.Columns", Solver.OWN),
        ("certify.bounds.optimise.bound", Solver.OWN),
        ("certify.mip.whole.Encoded", Solver.HIGHS),
    ],
)
def test_memory_may_run_out_anywhere(
    place: str, solver: Solver, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise error

    graph, matrix = mixed(0, depth=3), chosen(0, 2)
    unsafe = clause(matrix, [least_margin(0, 3, 2) - NEAR] * 2)
    query = Query(Evaluated(graph), graph, (Case(REGION, Property((unsafe,))),))
    monkeypatch.setattr(place, full)
    verdict = verify(query, Strategy(method=Method.MIP, steps=0, solver=solver), Budget(60))
    assert isinstance(verdict, Unknown)
    assert verdict.reason is Reason.MEMORY
    assert -np.inf < verdict.lower <= NEAR


@pytest.mark.parametrize("lie", LIES)
def test_a_solver_that_lies_tightens_nothing_wrongly(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds by linear programs come from multipliers, whatever these are."""
    monkeypatch.setattr("certify.mip.tighten.solve", lambda p, *args, **kwargs: LIES[lie](p, highs.solve(p)))
    graph = network(1, [ops.Abs(), ops.Relu(), ops.Abs()], width=4)
    wide = Network(graph, torch.float64)
    values = wide.values(torch.from_numpy(np.random.default_rng(1).uniform(REGION.lower, REGION.upper, (2000, 2))))
    bounds = bounded(wide, REGION, Budget(60), Effort(optimised=False, whole=0.0))[0].bounds
    for v, (lower, upper) in bounds.items():
        assert (lower <= values[v] + 1e-9).all()
        assert (upper >= values[v] - 1e-9).all()


def test_a_search_that_is_cancelled_says_so() -> None:
    graph, matrix = mixed(0, depth=3), chosen(0, 2)
    unsafe = clause(matrix, [least_margin(0, 3, 2) - NEAR] * 2)
    query, budget = Query(Evaluated(graph), graph, (Case(REGION, Property((unsafe,))),)), Budget(60)
    verdict = verify(query, Strategy(method=Method.MIP, steps=0), budget, lambda progress: budget.cancel())
    assert isinstance(verdict, Unknown)
    assert verdict.reason is Reason.INTERRUPTED


STAGES = (None, Effort(linear=False, whole=0.0), Effort(whole=0.0), Effort(whole=5.0))


@pytest.mark.parametrize("seed", range(4))
def test_every_stage_tightens_bounds_that_hold(seed: int) -> None:
    """The last one to the exact range of what enters the second layer of operators, where it pays."""
    graph = network(seed, [ACTIVATIONS[seed], ops.Relu(), ops.Abs()], width=4)
    wide, before = Network(graph, torch.float64), None
    values = wide.values(torch.from_numpy(np.random.default_rng(seed).uniform(REGION.lower, REGION.upper, (2000, 2))))
    for effort in STAGES:
        bounds = bounded(wide, REGION, Budget(60), effort)[0].bounds
        for v, (lower, upper) in bounds.items():
            assert (lower <= values[v] + 1e-9).all()
            assert (upper >= values[v] - 1e-9).all()
        width = sum(float((upper - lower).sum()) for lower, upper in bounds.values())
        assert before is None or width <= before * 1.001  # tighter bounds may make other lines, a little looser
        before = width


def test_a_node_is_left_where_tightening_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def idle(program: object, limits: object) -> MixedSolution:
        asked.append(1)
        return MixedSolution(Status.STOPPED)

    monkeypatch.setattr("certify.mip.tighten.solve_mixed", idle)
    graph = network(0, [ops.Relu(), ops.Relu()], width=40)
    bounded(Network(graph, torch.float64), REGION, Budget(60), Effort(optimised=False))
    assert 0 < len(asked) <= 2 * 2 * TRIED  # both stages, both ends


def test_how_many_threads_tighten_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, found, seen = network(2, [ops.Relu(), ops.Abs(), ops.Relu()], width=7), [], []
    truth = highs.solve

    def solve(*args: object, **kwargs: object) -> Solution:
        seen.append(threading.get_ident())
        return truth(*args, **kwargs)

    monkeypatch.setattr("certify.mip.tighten.solve", solve)
    for threads in (1, 3):
        monkeypatch.setattr("certify.mip.tighten.for_kernels", lambda threads=threads: threads)
        seen.clear()
        bounds = bounded(Network(graph, torch.float64), REGION, Budget(60), Effort(optimised=False, whole=60.0))[
            0
        ].bounds
        found.append((len(seen), {v: [b.tolist() for b in ends] for v, ends in bounds.items()}))
        assert len(set(seen) - {threading.get_ident()}) >= threads - 1  # some thread may find nothing left to do
    assert found[0] == found[1]


@pytest.mark.parametrize("way", ["cancelled", "out of time", "memory", "dead"])
def test_tightening_that_is_broken_off_leaves_the_bounds_so_far(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a chunk: what is there holds, nobody waits for the rest, and no thread is left over."""
    graph, budget, asked = network(1, [ops.Relu(), ops.Abs(), ops.Relu()], width=12), Budget(60), []
    truth, before = highs.solve, threading.active_count()

    def solve(*args: object, **kwargs: object) -> Solution:
        asked.append(1)
        if len(asked) < 6:
            return truth(*args, **kwargs)
        if way == "dead":
            raise RuntimeError("the solver died")
        if way == "memory":
            return Solution(Status.MEMORY)
        if way == "cancelled":
            budget.cancel()
        else:
            budget.timeout = 1e-9
        return Solution(Status.STOPPED)

    monkeypatch.setattr("certify.mip.tighten.solve", solve)
    wide, effort = Network(graph, torch.float64), Effort(optimised=False, whole=0.0)
    if way == "dead":
        with pytest.raises(RuntimeError, match="died"):
            bounded(wide, REGION, budget, effort)
    else:
        bounds = bounded(wide, REGION, budget, effort)[0].bounds
        values = wide.values(torch.from_numpy(np.random.default_rng(1).uniform(REGION.lower, REGION.upper, (2000, 2))))
        for v, (lower, upper) in bounds.items():
            assert (lower <= values[v] + 1e-9).all()
            assert (upper >= values[v] - 1e-9).all()
    if way in ("cancelled", "out of time"):
        assert len(asked) <= 6 + MOST_FOR_KERNELS  # those that had begun
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(timeout=30)
    assert threading.active_count() <= before


def columns_of(graph: Graph) -> Columns:
    return bounded(Network(graph, torch.float64), REGION, Budget(60))[0]


@pytest.mark.parametrize("seed", range(8))
def test_the_least_margin_is_the_exact_one(seed: int) -> None:
    rows, depth, reads_input = 1 + seed % 3, 2 + seed % 2, seed % 4 == 3
    graph, matrix = mixed(seed, depth=depth), chosen(seed, rows, reads_input)
    columns, met = columns_of(graph), []
    found = least(columns, clause(matrix, np.zeros(rows)), Budget(60), met.append)
    at = least_margin(seed, depth, rows, reads_input)
    assert found.status is Status.OPTIMAL
    assert found.lower == pytest.approx(at, abs=1e-6)
    assert found.upper == pytest.approx(at, abs=1e-6)
    z = evaluate(graph, found.x[None])[0]
    assert (matrix @ np.append(z, found.x)[: matrix.shape[1]]).max() == pytest.approx(at, abs=1e-6)
    assert all(((REGION.lower <= x) & (x <= REGION.upper)).all() for x in met)


def test_jumps_count_on_both_sides() -> None:
    """sign(x_0) + x_1: what is near 0 counts as reached there, from below too."""
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(ops.Linear(np.eye(2), np.array([0.0, 2.0])), build.inputs[0])
    graph = build.build([build.emit(ops.Linear(np.ones((1, 2)), None), build.emit(ops.Sign(), h))], [Port("y", (1,))])
    for lower, value in ((-1.0, 0.0), (0.0, 0.0), (0.25, 2.0)):
        columns, _ = bounded(Network(graph, torch.float64), box([lower, -0.5], [1.0, 1.0]), Budget(60))
        found = least(columns, clause([[1.0]], [0.0]), Budget(60))
        assert found.lower == pytest.approx(value, abs=1e-6)


def exact_distance(graph: Graph, center: Array, norm: float, unsafe: Clause, region: Region = REGION) -> float:
    """The least over all activation patterns, whose unsafe parts are polygons of exact corners; inf for none."""
    best = np.inf
    for _, part, inputs in exact.unsafe_parts(graph, Case(region, Property((unsafe,)))):
        moves = np.array([[float(v) for v in c] for c in corners_of(part, inputs)]) - center
        if norm == 2:
            best = min(best, nearest_of_polygon(moves))
        else:
            signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])  # |v|_1 and |v|_inf as the largest of linear parts
            best = min(best, least_of(moves @ (signs.T if norm == 1 else np.hstack([np.eye(2), -np.eye(2)]))))
    return best


def nearest_of_polygon(corners: Array) -> float:
    """The distance of 0 from the convex hull of points (k, 2)."""
    best = np.linalg.norm(corners, axis=1).min()
    inside = False
    for a in corners:
        for b in corners:
            if (a == b).all():
                continue
            t = np.clip(-(a @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
            best = min(best, float(np.linalg.norm(a + t * (b - a))))
            for c in corners:
                signs = [np.linalg.det(np.stack([q - p, -p])) for p, q in ((a, b), (b, c), (c, a))]
                inside |= min(signs) > 0
    return 0.0 if inside else best


def through(graph: Graph, matrix: Array, seed: int, region: Region = REGION) -> Clause:
    """Unsafe at some random input of the region, just."""
    x = region.lower + np.random.default_rng([seed, 3]).random(2) * (region.upper - region.lower)
    z = np.append(evaluate(graph, x[None])[0], x)[: matrix.shape[1]]
    return clause(matrix, np.full(len(matrix), (matrix @ z).max() + 1e-3))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_the_least_distance_is_the_exact_one(seed: int, norm: float) -> None:
    graph, matrix, center = mixed(seed), chosen(seed, 1 + seed % 2), np.array([0.1, 0.2])
    unsafe = through(graph, matrix, seed)
    found = nearest(columns_of(graph), center, norm, [unsafe], (0.0, 4.0), Budget(60))
    truth = exact_distance(graph, center, norm, unsafe)
    assert found.lower == pytest.approx(truth, abs=1e-6)
    assert found.upper == pytest.approx(truth, abs=1e-6)
    assert np.linalg.norm(found.x - center, norm) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_where_nothing_is_unsafe_there_is_no_distance(norm: float) -> None:
    graph, matrix = mixed(0), chosen(0, 2)
    unsafe = clause(matrix, [least_margin(0, 2, 2) - 1e-3] * 2)
    found = nearest(columns_of(graph), np.array([0.1, 0.2]), norm, [unsafe], (0.0, 4.0), Budget(60))
    assert (found.status, found.lower, found.x) == (Status.INFEASIBLE, np.inf, None)


@pytest.mark.parametrize("norm", [2, np.inf])
def test_the_nearest_of_several_clauses(norm: float) -> None:
    graph, center = mixed(3), np.array([0.1, 0.2])
    unsafe = [through(graph, chosen(seed, 1), seed) for seed in (1, 2, 3)]
    alone = [nearest(columns_of(graph), center, norm, [c], (0.0, 4.0), Budget(60)).upper for c in unsafe]
    together = nearest(columns_of(graph), center, norm, unsafe, (0.0, 4.0), Budget(60))
    assert together.upper == pytest.approx(min(alone), abs=1e-7)
    assert together.lower == pytest.approx(min(alone), abs=1e-7)


def smooth(seed: int, op: ops.Elementwise) -> Graph:
    rng = np.random.default_rng(seed)
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(op, build.emit(ops.Linear(rng.standard_normal((3, 2)), rng.standard_normal(3)), build.inputs[0]))
    h = build.relu(build.emit(ops.Linear(rng.standard_normal((2, 3)), rng.standard_normal(2)), h))
    return build.build([build.emit(ops.Linear(rng.standard_normal((1, 2)), None), h)], [Port("y", (1,))])


SMOOTH = (ops.Tanh(), ops.Sigmoid(), ops.Exp(), ops.Square(), ops.Sin(), ops.Floor())


@pytest.mark.parametrize("op", SMOOTH, ids=lambda op: type(op).__name__)
def test_pieces_around_smooth_operators_hold_and_close_in(op: ops.Elementwise) -> None:
    """The operator is between the lines wherever a piece is; the least value is below the true one, and nears it."""
    node = Node(op, (0,), (5,), "smooth")
    lower, upper = np.array([-3.0, -1.0, 0.5, -0.25, 1.75]), np.array([2.0, 1.5, 4.0, -0.25 + 1e-9, 2.25])
    widths = []
    for parts in (1, 3, 12):
        pieces = pieces_of(node, np.arange(5), lower, upper, parts)
        assert (pieces.begin[0] == lower).all()
        assert (pieces.end[-1] == upper).all()
        assert (pieces.begin[1:] == pieces.end[:-1]).all()
        at = np.linspace(pieces.begin, pieces.end, 50)
        low, up = pieces.slope * at + pieces.shift, pieces.top * at + pieces.top_shift
        true = evaluate_op(op, at)
        assert (low <= true + 1e-12 * (1 + np.abs(true))).all()
        assert (up >= true - 1e-12 * (1 + np.abs(true))).all()
        widths.append((up - low).max())
    assert widths[2] < 0.2 * widths[0] or isinstance(op, ops.Floor)


def evaluate_op(op: ops.Elementwise, x: Array) -> Array:
    build = GraphBuilder([Port("x", (x.size,), "float64")])
    graph = build.build([build.emit(op, build.inputs[0])], [Port("y", (x.size,))])
    return evaluate(graph, x.reshape(1, -1))[0].reshape(x.shape)


@pytest.mark.parametrize("op", SMOOTH[:2], ids=lambda op: type(op).__name__)
def test_the_least_value_of_smooth_networks_is_enclosed(op: ops.Elementwise) -> None:
    graph = smooth(1, op)
    sides = [np.linspace(low, up, 200) for low, up in zip(REGION.lower, REGION.upper, strict=True)]
    true = evaluate(graph, np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)).min()
    columns = columns_of(graph)
    found = least(columns, clause([[1.0]], [0.0]), Budget(60))
    assert found.lower <= true + 1e-6
    assert found.lower >= true - 0.3


def test_products_are_refused_before_any_work() -> None:
    build = GraphBuilder([Port("x", (4,), "float64")])
    product = ops.Product(np.array([0, 1]), np.array([2, 3]))
    graph = build.build([build.emit(product, build.inputs[0])], [Port("y", (2,))])
    with pytest.raises(UnsupportedOp, match="Product"):
        ask(graph, box([-1.0] * 4, [1.0] * 4), [clause([[1.0, 0.0]], [-5.0])], Method.MIP)


@pytest.mark.parametrize("weight", [1e16, 1e200, 1e308])
def test_huge_weights_make_no_program_and_no_claim(weight: float) -> None:
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.relu(build.emit(ops.Linear(np.full((2, 2), weight), np.ones(2)), build.inputs[0]))
    h = build.relu(build.emit(ops.Linear(np.array([[1.0, -1.0], [-1.0, 1.0]]) * weight, None), h))
    graph = build.build([h], [Port("y", (2,))])
    assert not isinstance(ask(graph, REGION, [clause([[1.0, 1.0]], [0.0])], Method.MIP, 2), Verified)
