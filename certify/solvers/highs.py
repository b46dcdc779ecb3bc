"""Linear and mixed-integer programs on HiGHS (Huangfu & Hall 2018). The only module that imports highspy, on
first use.

Whatever a solver returns is a hint: callers recompute every claim they make from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from certify.errors import CertifyError
from certify.solvers.csr import Csr, compressed

if TYPE_CHECKING:
    import highspy

Array = np.ndarray

TOLERANCE = 1e-9
"""By how much HiGHS may miss a bound, a row or a reduced cost: scale programs so that numbers are about 1."""

SIMPLEX = {
    "solver": "simplex",
    "presolve": "off",
    "primal_feasibility_tolerance": TOLERANCE,
    "dual_feasibility_tolerance": TOLERANCE,
}

LARGEST = 1e15
"""Coefficients from here on HiGHS refuses."""

WATCHED = 300
"""Columns of a linear program from which on its solve is asked whether to go on: others end soon, and are slowed down
by being asked."""


class Status(enum.Enum):
    """How a solve ended. REACHED: at the bound or target that was asked for, before the optimum. STOPPED: out of
    time, or for another reason without a result that can be named."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    REACHED = "reached"
    CANCELLED = "cancelled"
    MEMORY = "memory"
    STOPPED = "stopped"


@dataclass(frozen=True, eq=False)
class LinearProgram:
    """min cost . x  subject to  lower <= x <= upper,  row_lower <= matrix x <= row_upper.

    cost, lower, upper (n,), matrix (m, n), row_lower, row_upper (m,), float64; bounds may be infinite.
    """

    cost: Array
    lower: Array
    upper: Array
    matrix: Array | Csr
    row_lower: Array
    row_upper: Array


@dataclass(frozen=True, eq=False)
class Solution:
    """What HiGHS says: a vertex x (n,) and row multipliers (m,), as hints.

    Optimal: the multipliers are the dual values; cost - matrix' multipliers are the reduced costs. Infeasible:
    they are a ray of the dual (Farkas), with which the rows alone cannot be met within the bounds of x; there
    is no x then. A multiplier is positive where the row's lower bound holds it back, negative where its upper
    one does. Both are None where HiGHS has none to give. `basis` starts the solve of a program of the same
    shape near its own optimum.
    """

    status: Status
    x: Array | None = None
    multipliers: Array | None = None
    basis: highspy.HighsBasis | None = None


def solve(
    program: LinearProgram,
    seconds: float = float("inf"),
    basis: highspy.HighsBasis | None = None,
    stop: Callable[[], bool] | None = None,
) -> Solution:
    """Solve by the dual simplex method on one thread, in at most about `seconds` or, where it may last, until `stop()`
    turns true, from `basis` if given, be it one of a program that lacks the last rows.

    Without presolve, so that an infeasible program has its ray. Raises CertifyError where HiGHS refuses the
    program: dimensions that do not fit, or numbers that are not finite; and what `stop` raises.
    """
    try:
        return _solve(program, seconds, basis, stop)
    except MemoryError:
        return Solution(Status.MEMORY)


def _solve(
    program: LinearProgram, seconds: float, basis: highspy.HighsBasis | None, stop: Callable[[], bool] | None
) -> Solution:
    model = _prepared(program, {**SIMPLEX, "time_limit": max(seconds, 0.0)})
    if basis is not None:
        model.setBasis(_extended(basis, len(program.row_lower)))  # one that does not fit is refused
    return _vertex(model, _stopped_by(model, program, stop))


class Kept:
    """A linear program that is solved again and again, as by `solve`, with other costs and with more rows; each time
    from where the last solve ended, and until `stop()` turns true. Raises as `solve`."""

    def __init__(self, program: LinearProgram, stop: Callable[[], bool] | None = None) -> None:
        self._model = _prepared(program, SIMPLEX)
        self._watch = _stopped_by(self._model, program, stop)
        self._columns = np.arange(len(program.cost), dtype=np.int32)

    def add(self, rows: Csr, lower: Array, upper: Array) -> None:
        """Further rows  lower <= rows x <= upper, behind those there are."""
        taken = self._model.addRows(len(lower), lower, upper, len(rows.value), rows.start[:-1], rows.index, rows.value)
        _require(taken, "further rows")

    def minimise(self, cost: Array, seconds: float = float("inf")) -> Solution:
        """The least cost . x, in at most about `seconds`. The solution's basis stays with the program."""
        _require(self._model.changeColsCost(len(cost), self._columns, cost), "the cost")
        limit = self._model.getRunTime() + max(seconds, 0.0)  # its clock goes on from solve to solve
        _require(self._model.setOptionValue("time_limit", limit), "the option 'time_limit'")
        return replace(_vertex(self._model, self._watch), basis=None)


def _vertex(model: highspy.Highs, watch: _Watch | None = None) -> Solution:
    """What the dual simplex method finds."""
    status = _run(model)
    if watch is not None and watch.error is not None:
        raise watch.error
    if status is Status.OPTIMAL:
        found = model.getSolution()
        return Solution(status, np.array(found.col_value), np.array(found.row_dual), _copied(model.getBasis()))
    if status is Status.INFEASIBLE:
        _, there, ray = model.getDualRay()
        return Solution(status, None, np.array(ray) if there else None)
    return Solution(status)


def solve_quadratic(program: LinearProgram, curvature: Array, seconds: float = float("inf")) -> Solution:
    """As `solve`, with cost . x + sum of curvature[j] x[j]^2 / 2, where curvature (n,) >= 0, as the objective: by
    HiGHS's active-set method. There is no basis to start from, and no ray."""
    import highspy

    model = _prepared(program, {"time_limit": max(seconds, 0.0)})
    bent, columns = np.flatnonzero(curvature), len(curvature)
    start = np.searchsorted(bent, np.arange(columns + 1)).astype(np.int32)
    taken = model.passHessian(
        columns, len(bent), highspy.HessianFormat.kTriangular.value, start, bent.astype(np.int32), curvature[bent]
    )
    _require(taken, "the quadratic objective")
    status = _run(model)
    if status is not Status.OPTIMAL:
        return Solution(status)
    found = model.getSolution()
    return Solution(status, np.array(found.col_value), np.array(found.row_dual))


@dataclass(frozen=True, eq=False)
class MixedProgram:
    """A linear program of which the variables `integer` (n,) bool must be whole numbers."""

    linear: LinearProgram
    integer: Array


@dataclass(frozen=True, eq=False)
class Limits:
    """When a mixed-integer solve may end before its optimum.

    After `seconds`; once a point has an objective of at most `target`; once no point with one of at most `above`
    is left; when `stop()` turns true, which is asked often. Points whose objective is above `cutoff` do not
    count: the program is infeasible if there are no others. Gaps are absolute.
    """

    seconds: float = float("inf")
    target: float = float("-inf")
    above: float = float("inf")
    cutoff: float = float("inf")
    gap: float = 1e-9
    threads: int = 1
    stop: Callable[[], bool] | None = None


Listener = Callable[[float, Array], None]
"""Told of every better point: its objective, and x (n,)."""


@dataclass(frozen=True, eq=False)
class MixedSolution:
    """What a solver says of a mixed-integer program: the best point x (n,) and its objective, if it found one (None
    and inf), and a lower `bound` of the objective (-inf if it has none). Hints, all of them. `detail` is what it said
    where it failed."""

    status: Status
    bound: float = float("-inf")
    objective: float = float("inf")
    x: Array | None = None
    detail: str = ""


def solve_mixed(
    program: MixedProgram, limits: Limits | None = None, start: Array | None = None, better: Listener | None = None
) -> MixedSolution:
    """Solve by branch and cut, from the point `start` (n,) if given; `better` hears of every better point.

    A program that is not `manageable` is STOPPED. Raises CertifyError for dimensions that do not fit, and what
    `better` or `limits.stop` raise.
    """
    try:
        return _solve_mixed(program, limits or Limits(), start, better)
    except MemoryError:
        return MixedSolution(Status.MEMORY)


def _solve_mixed(program: MixedProgram, limits: Limits, start: Array | None, better: Listener | None) -> MixedSolution:
    import highspy

    linear = program.linear if np.isinf(limits.cutoff) else below(program.linear, limits.cutoff)
    if not manageable(linear):
        return MixedSolution(Status.STOPPED)
    if not program.integer.any():  # HiGHS has no bound to tell then
        found = solve(linear, limits.seconds, stop=limits.stop)
        if found.x is None:
            return MixedSolution(found.status)
        objective = float(linear.cost @ found.x)
        if better is not None:
            better(objective, found.x)
        return MixedSolution(found.status, objective, objective, found.x)
    model = _prepared(
        linear,
        {
            "threads": limits.threads,
            "parallel": "off" if limits.threads == 1 else "on",
            "time_limit": max(limits.seconds, 0.0),
            "objective_target": limits.target,
            "mip_rel_gap": 0.0,
            "mip_abs_gap": limits.gap,
            "mip_feasibility_tolerance": TOLERANCE,
            "mip_allow_restart": False,  # to begin anew with the same model throws the tree away, again and again
            "primal_feasibility_tolerance": TOLERANCE,
            "dual_feasibility_tolerance": TOLERANCE,
        },
        program.integer,
    )
    if start is not None:
        point = highspy.HighsSolution()
        point.col_value = list(start)
        model.setSolution(point)  # one that does not help is left unused
    kinds = _kinds()
    watch = _watched(model, limits, better, kinds.kCallbackMipInterrupt, kinds.kCallbackMipImprovingSolution)
    status = _run(model)
    if watch.error is not None:
        raise watch.error
    info, bound = model.getInfo(), watch.bound
    if info.valid and info.mip_node_count >= 0 and np.isfinite(info.mip_dual_bound):  # after errors, it says 0
        bound = max(bound, float(info.mip_dual_bound))
    if status is Status.CANCELLED and watch.reached:
        status = Status.REACHED
    there = model.getSolution()
    if not there.value_valid or not np.isfinite(info.objective_function_value):
        return MixedSolution(status, bound, float("inf"), None)
    return MixedSolution(status, bound, float(info.objective_function_value), np.array(there.col_value))


class _Watch:
    """What HiGHS calls while it solves. What is raised in here it must not see: it is kept, and ends the solve."""

    def __init__(self, limits: Limits, better: Listener | None) -> None:
        self.limits, self.better = limits, better
        self.bound, self.reached = float("-inf"), False
        self.error: Exception | None = None

    def __call__(self, kind: Any, message: str, found: Any, answer: Any, user: object) -> None:
        try:
            if kind == _kinds().kCallbackMipImprovingSolution:
                if self.better is not None:
                    self.better(float(found.objective_function_value), np.array(found.mip_solution))
                return
            if kind == _kinds().kCallbackMipInterrupt:
                bound = float(found.mip_dual_bound)
                self.bound = max(self.bound, bound) if np.isfinite(bound) else self.bound
                self.reached = self.bound > self.limits.above
            stopped = self.limits.stop is not None and self.limits.stop()
        except Exception as error:  # raised again when HiGHS has returned
            self.error, stopped = error, True
        if self.reached or stopped:
            answer.user_interrupt = True


def _stopped_by(model: highspy.Highs, program: LinearProgram, stop: Callable[[], bool] | None) -> _Watch | None:
    """What asks `stop()` while the model, which holds the program, is solved; None where nothing needs to."""
    if stop is None or len(program.cost) < WATCHED:
        return None
    return _watched(model, Limits(stop=stop), None, _kinds().kCallbackSimplexInterrupt)


def _watched(model: highspy.Highs, limits: Limits, better: Listener | None, *kinds: Any) -> _Watch:
    """A watch that the model tells of these kinds of events."""
    watch = _Watch(limits, better)
    model.setCallback(watch, None)
    for kind in kinds:
        model.startCallback(kind)
    return watch


def _kinds() -> Any:
    import highspy

    return highspy.cb.HighsCallbackType


def _prepared(program: LinearProgram, options: dict[str, object], integer: Array | None = None) -> highspy.Highs:
    """A silent solver, on one thread unless told otherwise, that holds the program."""
    import highspy

    model = highspy.Highs()
    usual = {"output_flag": False, "threads": 1, "parallel": "off", "small_matrix_value": 1e-12}
    for name, value in {**usual, **options}.items():
        _require(model.setOptionValue(name, value), f"the option {name!r}")
    rows, columns = program.matrix.shape
    matrix = _checked(program, integer)
    taken = model.passModel(
        columns,
        rows,
        len(matrix.value),
        highspy.MatrixFormat.kRowwise.value,
        highspy.ObjSense.kMinimize.value,
        0.0,
        *(program.cost, program.lower, program.upper, program.row_lower, program.row_upper),
        *(matrix.start, matrix.index, matrix.value),
        np.zeros(columns, np.int32) if integer is None else integer.astype(np.int32),  # 1 is whole, 0 is not
    )
    _require(taken, "the linear program")
    return model


def _run(model: highspy.Highs) -> Status:
    import highspy

    model.run()
    kinds = highspy.HighsModelStatus
    return {
        kinds.kOptimal: Status.OPTIMAL,
        kinds.kInfeasible: Status.INFEASIBLE,
        kinds.kUnbounded: Status.UNBOUNDED,
        kinds.kObjectiveBound: Status.REACHED,
        kinds.kObjectiveTarget: Status.REACHED,
        kinds.kInterrupt: Status.CANCELLED,
        kinds.kHighsInterrupt: Status.CANCELLED,
        kinds.kMemoryLimit: Status.MEMORY,
    }.get(model.getModelStatus(), Status.STOPPED)


def _checked(program: LinearProgram, integer: Array | None) -> Csr:
    """The program's matrix, if all its parts fit together and are numbers."""
    rows, columns = program.matrix.shape
    sides = (program.cost, program.lower, program.upper), (program.row_lower, program.row_upper)
    fits = all(a.shape == (n,) for group, n in zip(sides, (columns, rows), strict=True) for a in group)
    if not fits or (integer is not None and integer.shape != (columns,)):
        raise CertifyError(f"the bounds of a linear program do not fit its matrix of {rows} x {columns}")
    matrix = program.matrix
    finite = np.isfinite(matrix.value if isinstance(matrix, Csr) else matrix).all() and np.isfinite(program.cost).all()
    if not finite or any(np.isnan(a).any() for group in sides for a in group):
        raise CertifyError("a number of a linear program is not finite, or a bound not a number")
    return matrix if isinstance(matrix, Csr) else compressed(matrix)


def manageable(program: LinearProgram) -> bool:
    """Whether HiGHS takes the program: no coefficient as large as LARGEST, no number that is none, no bound that is
    infinite on the wrong side. Networks of huge weights, or with bounds that overflow, make others."""
    value = program.matrix.value if isinstance(program.matrix, Csr) else program.matrix
    lower = np.concatenate([program.lower, program.row_lower])
    upper = np.concatenate([program.upper, program.row_upper])
    return bool(
        (np.abs(value) < LARGEST).all()
        and (np.abs(program.cost) < LARGEST).all()
        and (lower < LARGEST).all()
        and (upper > -LARGEST).all()
    )


def below(program: LinearProgram, cutoff: float) -> LinearProgram:
    """The program of those points only whose objective is at most the cut-off: by a row, since HiGHS's own cut-off
    spoils its bounds."""
    return with_row(program, program.cost, cutoff)


def with_row(program: LinearProgram, row: Array, upper: float) -> LinearProgram:
    """The program with a last row: row (n,) . x <= upper."""
    matrix = program.matrix if isinstance(program.matrix, Csr) else compressed(program.matrix)
    added = compressed(row[None])
    start = np.append(matrix.start, matrix.start[-1] + added.start[1:]).astype(np.int32)
    joined = Csr(start, np.append(matrix.index, added.index), np.append(matrix.value, added.value), matrix.columns)
    sides = np.append(program.row_lower, -np.inf), np.append(program.row_upper, upper)
    return replace(program, matrix=joined, row_lower=sides[0], row_upper=sides[1])


def _copied(basis: highspy.HighsBasis) -> highspy.HighsBasis:
    """The basis by itself: what HiGHS gives belongs to the solver."""
    import highspy

    copy = highspy.HighsBasis()
    copy.col_status, copy.row_status, copy.valid = basis.col_status, basis.row_status, basis.valid
    return copy


def _extended(basis: highspy.HighsBasis, rows: int) -> highspy.HighsBasis:
    """The basis for a program with further rows at its end, which none of its columns has to meet yet."""
    missing = rows - len(basis.row_status)
    if missing <= 0:
        return basis
    import highspy

    longer = _copied(basis)
    longer.row_status = [*basis.row_status, *[highspy.HighsBasisStatus.kBasic] * missing]
    return longer


def _require(status: object, what: str) -> None:
    import highspy

    if status == highspy.HighsStatus.kError:
        raise CertifyError(f"HiGHS refuses {what}")
