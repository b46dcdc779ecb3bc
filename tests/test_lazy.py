"""Neurons that become whole as solutions call for them: the truth in the end, and bounds that hold all the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from certify.budget import Budget
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Graph, Port
from certify.mip.columns import Columns
from certify.mip.distance import bounded, least, nearest
from certify.mip.encode import Encoded
from certify.mip.lazy import Lazy, pulls
from certify.solvers import highs
from certify.solvers.highs import Limits, MixedProgram, MixedSolution, Status, solve_mixed
from certify.spec.property import clause
from tests.test_highs import whole
from tests.test_leaf import chosen, network
from tests.test_mip import ALL, REGION, SMOOTH, exact_distance, least_margin, mixed, through

Array = np.ndarray
ABOVE = Limits(above=1e-6)


def columns_of(graph: Graph) -> Columns:
    return bounded(Network(graph, torch.float64), REGION, Budget(60))[0]


class Spy:
    """Solves as HiGHS does, and keeps what it was asked and what it said; from call `fails` on it says `says`."""

    def __init__(self, fails: int = 1 << 30, says: MixedSolution | None = None) -> None:
        self.fails, self.says = fails, says
        self.whole: list[int] = []
        self.said: list[MixedSolution] = []
        self.starts: list[Array | None] = []

    def __call__(self, program: MixedProgram, *args: object, **kwargs: object) -> MixedSolution:
        self.whole.append(int(program.integer.sum()))
        self.starts.append(args[1])
        found = solve_mixed(program, *args, **kwargs) if len(self.whole) <= self.fails else self.says
        self.said.append(found)
        return found


def inside(program: MixedProgram, x: Array) -> float:
    """By how much x misses the program, at most."""
    linear = program.linear
    rows = linear.matrix.times(x)
    parts = linear.lower - x, x - linear.upper, linear.row_lower - rows, rows - linear.row_upper
    whole = np.abs(x - np.rint(x))[program.integer]
    return max(float(p.max(initial=0.0)) for p in (*parts, whole))


def decide(columns: Columns, matrix: Array, above: float, spy: Spy, budget: float = np.inf) -> MixedSolution:
    """Whether the largest row is above a number."""
    unsafe = clause(matrix, np.zeros(len(matrix)))
    encoded = Encoded(columns)
    level = encoded.level(columns.objective(unsafe))
    return Lazy(encoded, pulls(columns, unsafe), spy).minimise(level, Limits(seconds=budget, above=above))


@pytest.mark.parametrize("seed", range(4))
def test_programs_grow_only_as_far_as_they_must_and_bounds_hold(seed: int) -> None:
    graph, matrix, at = mixed(seed, depth=3), chosen(seed, 2), least_margin(seed, 3, 2)
    columns = columns_of(graph)
    for above in (at - 1e-3, at + 1e-3):
        spy = Spy()
        found = decide(columns, matrix, above, spy)
        assert (found.bound > above) == (above < at)
        assert above < at or found.objective <= above + 1e-6
        assert found.bound <= at + 1e-6
        assert spy.whole[:1] in ([], [0])  # a linear program first, if any
        assert (np.diff(spy.whole) > 0).all()
        assert all(said.bound <= at + 1e-6 for said in spy.said)


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("status", [Status.CANCELLED, Status.MEMORY, Status.STOPPED])
def test_broken_off_programs_leave_the_best_bound_so_far(status: Status, after: int) -> None:
    """And no point of a relaxation. A solver that fails though there is time is asked once more, for everything."""
    graph, matrix, at = mixed(2, depth=3), chosen(2, 2), least_margin(2, 3, 2)
    columns, spy = columns_of(graph), Spy(after, MixedSolution(status, bound=np.nan, x=np.full(3, np.nan)))
    found = decide(columns, matrix, at + 1e-7, spy)
    assert (found.status, found.x, found.objective) == (status, None, np.inf)
    assert found.bound >= max(said.bound for said in spy.said[:after]) > -np.inf
    assert found.bound <= at + 1e-6
    again = status is Status.STOPPED
    assert after < len(spy.whole) <= after + 1 + again
    assert not again or spy.whole[-1] == len(Encoded(columns).binaries)


@pytest.mark.parametrize("why", ["many", "a value"])
def test_many_neurons_are_whole_at_once_and_all_for_a_value(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, spy, at = columns_of(mixed(2, depth=3)), Spy(), least_margin(2, 3, 2)
    if why == "many":
        monkeypatch.setattr("certify.mip.lazy.MANY", 3)
        assert decide(columns, chosen(2, 2), at - 1e-3, spy).bound > at - 1e-3
    else:
        found = least(columns, clause(chosen(2, 2), np.zeros(2)), Budget(60), solve=spy)
        assert found.upper == pytest.approx(at, abs=1e-6)
    assert spy.whole == [len(Encoded(columns).binaries)]


def test_nobody_is_asked_once_the_time_is_up() -> None:
    graph, matrix = mixed(2, depth=3), chosen(2, 2)
    columns, spy = columns_of(graph), Spy()
    encoded = Encoded(columns)
    level = encoded.level(columns.objective(clause(matrix, np.zeros(2))))
    found = Lazy(encoded, pulls(columns, clause(matrix, np.zeros(2))), spy).minimise(level, Limits(seconds=0))
    assert len(spy.whole) == 1
    assert (found.status, found.bound, found.x) == (Status.STOPPED, -np.inf, None)


@pytest.mark.parametrize("seed", range(3))
def test_a_sign_needs_fewer_whole_neurons_than_a_value(seed: int) -> None:
    graph, matrix, at = mixed(seed, depth=3), chosen(seed, 2), least_margin(seed, 3, 2)
    columns, counts = columns_of(graph), []
    for offset, limits in ((at - 0.5, ABOVE), (at - 0.5, Limits()), (at + 0.1, ABOVE)):
        spy, met, unsafe = Spy(), [], clause(matrix, [offset] * 2)
        encoded = Encoded(columns)
        level = encoded.level(columns.objective(unsafe))
        found = Lazy(encoded, pulls(columns, unsafe), spy).minimise(level, limits, met.append)
        assert (found.bound > ABOVE.above) == (offset < at)
        counts.append(spy.whole[-1] if spy.whole else 0)
    assert counts[0] <= counts[1]
    values = [(matrix @ np.append(evaluate(graph, x[None])[0], x)[: matrix.shape[1]]).max() for x in met]
    assert min(values) <= offset + 1e-6  # the last question was unsafe: one of the inputs met shows it


@pytest.mark.parametrize("op", [*ALL, *SMOOTH[:2]], ids=lambda op: type(op).__name__)
def test_every_input_is_a_point_of_the_program(op: ops.Elementwise) -> None:
    """With its own pieces, and the value that the network gives it; a y moved off is missed by as much."""
    graph, matrix = network(3, [op, ops.Relu()]), chosen(3, 2)
    columns = columns_of(graph)
    encoded, rows = Encoded(columns), columns.objective(clause(matrix, np.zeros(2)))
    program = encoded.program(np.zeros(len(encoded.lower)))
    for x in np.random.default_rng(4).uniform(REGION.lower, REGION.upper, (20, 2)):
        point = encoded.at(x)
        assert inside(program, point) <= 1e-9
        assert columns.input_at(point) == pytest.approx(x, abs=1e-12)
        assert rows.at(point) == pytest.approx(matrix @ np.append(evaluate(graph, x[None])[0], x)[: matrix.shape[1]])
        assert (encoded.misses(point)[0] <= 1e-12).all()
        moved = point.copy()
        moved[columns.bent[-1].y] += 0.5  # behind a ReLU there is nothing
        z = point[columns.bent[-1].z]
        assert (encoded.misses(moved)[0][-len(z) :] * (1 + np.abs(z)) >= 0.25).all()


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_a_known_unsafe_input_starts_the_search_for_a_nearer_one(norm: float) -> None:
    graph, center = mixed(1), np.array([0.1, 0.2])
    unsafe = through(graph, chosen(1, 1), 1)
    columns, spy = columns_of(graph), Spy()
    inputs = np.random.default_rng(0).uniform(REGION.lower, REGION.upper, (400, 2))
    margins = [(unsafe.matrix @ np.append(y, x)[: unsafe.matrix.shape[1]] - unsafe.offset).max()
               for x, y in zip(inputs, evaluate(graph, inputs), strict=True)]  # fmt: skip
    for x, helps in ((inputs[np.argmin(margins)], True), (inputs[np.argmax(margins)], False)):
        spy = Spy()
        found = nearest(columns, center, norm, [unsafe], (0.0, 4.0), Budget(60), solve=spy, start=x)
        assert found.upper == pytest.approx(exact_distance(graph, center, norm, unsafe), abs=1e-6)
        assert (spy.starts[0] is not None) == helps
        if helps:
            assert spy.starts[0][: len(x)] * columns.half + columns.middle == pytest.approx(x)


def test_a_start_is_a_point_of_the_program_it_starts() -> None:
    programs: list[tuple[MixedProgram, Array]] = []

    def solve(program: MixedProgram, limits: Limits, start: Array, better: object = None) -> MixedSolution:
        programs.append((replace(program, integer=program.integer), start))
        return solve_mixed(program, limits, start, better)

    graph, center = mixed(1), np.array([0.1, 0.2])
    unsafe = through(graph, chosen(1, 1), 1)
    columns = columns_of(graph)
    for norm in (1, 2, np.inf):
        x = nearest(columns, center, norm, [unsafe], (0.0, 4.0), Budget(60)).x
        x = x + 1e-6 * (x - center)
        nearest(columns, center, norm, [unsafe], (0.0, 4.0), Budget(60), solve=solve, start=x)
    least(columns, unsafe, Budget(60), solve=solve, start=REGION.lower)
    given = [(program, start) for program, start in programs if start is not None]
    assert len(given) >= 4
    assert all(inside(program, start) <= 1e-6 for program, start in given)


def test_pulls_are_the_coefficients_where_nothing_bends_behind() -> None:
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.relu(build.emit(ops.Linear(np.eye(2), np.zeros(2)), build.inputs[0]))
    graph = build.build([build.emit(ops.Linear(np.array([[2.0, -3.0], [0.5, 0.0]]), None), h)], [Port("y", (2,))])
    columns = columns_of(graph)
    assert pulls(columns, clause([[1.0, 0.0]], [0.0])) == pytest.approx([2.0, 3.0])
    assert pulls(columns, clause([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])) == pytest.approx([2.5, 3.0])


def test_a_solver_that_broke_down_has_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS then says that the bound is 0."""
    monkeypatch.setattr(highs, "_run", lambda model: Status.STOPPED)
    found = solve_mixed(whole(0))
    assert (found.status, found.bound, found.x) == (Status.STOPPED, -np.inf, None)
