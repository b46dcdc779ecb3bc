"""Linear programs on HiGHS (Huangfu & Hall 2018). The only module that imports highspy, on first use.

Whatever a solver returns is a hint: callers recompute every claim they make from it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from certify.errors import CertifyError

if TYPE_CHECKING:
    import highspy

Array = np.ndarray

TOLERANCE = 1e-9
"""By how much HiGHS may miss a bound, a row or a reduced cost: scale programs so that numbers are about 1."""


class Status(enum.Enum):
    """How a solve ended. STOPPED: out of time, or for another reason without a result that can be named."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    STOPPED = "stopped"


@dataclass(frozen=True, eq=False)
class LinearProgram:
    """min cost . x  subject to  lower <= x <= upper,  row_lower <= matrix x <= row_upper.

    cost, lower, upper (n,), matrix (m, n), row_lower, row_upper (m,), float64; bounds may be infinite.
    """

    cost: Array
    lower: Array
    upper: Array
    matrix: Array
    row_lower: Array
    row_upper: Array


@dataclass(frozen=True, eq=False)
class Solution:
    """What HiGHS says: a vertex x (n,) and row multipliers (m,), as hints.

    Optimal: the multipliers are the dual values; cost - matrix' multipliers are the reduced costs. Infeasible:
    they are a ray of the dual (Farkas), with which the rows alone cannot be met within the bounds of x; there
    is no x then. A multiplier is positive where the row's lower bound holds it back, negative where its upper
    one does. Both are None where HiGHS has none to give.
    """

    status: Status
    x: Array | None = None
    multipliers: Array | None = None


def solve(program: LinearProgram, seconds: float = float("inf")) -> Solution:
    """Solve by the dual simplex method on one thread, in at most about `seconds`.

    Without presolve, so that an infeasible program has its ray. Raises CertifyError where HiGHS refuses the
    program: dimensions that do not fit, or numbers that are not finite.
    """
    import highspy

    model = highspy.Highs()
    options = {
        "output_flag": False,
        "threads": 1,
        "parallel": "off",
        "solver": "simplex",
        "presolve": "off",
        "time_limit": max(seconds, 0.0),
        "small_matrix_value": 1e-12,
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    }
    for name, value in options.items():
        _require(model.setOptionValue(name, value), f"the option {name!r}")
    _require(model.passModel(_model(program)), "the linear program")
    model.run()
    outcomes = {
        highspy.HighsModelStatus.kOptimal: Status.OPTIMAL,
        highspy.HighsModelStatus.kInfeasible: Status.INFEASIBLE,
        highspy.HighsModelStatus.kUnbounded: Status.UNBOUNDED,
    }
    status = outcomes.get(model.getModelStatus(), Status.STOPPED)
    if status is Status.OPTIMAL:
        found = model.getSolution()
        return Solution(status, np.array(found.col_value), np.array(found.row_dual))
    if status is Status.INFEASIBLE:
        _, there, ray = model.getDualRay()
        return Solution(status, None, np.array(ray) if there else None)
    return Solution(status)


def _model(program: LinearProgram) -> highspy.HighsLp:
    import highspy

    rows, columns = program.matrix.shape
    sides = (program.cost, program.lower, program.upper), (program.row_lower, program.row_upper)
    if any(a.shape != (n,) for group, n in zip(sides, (columns, rows), strict=True) for a in group):
        raise CertifyError(f"the bounds of a linear program do not fit its matrix of {rows} x {columns}")
    finite = np.isfinite(program.matrix).all() and np.isfinite(program.cost).all()
    if not finite or any(np.isnan(a).any() for group in sides for a in group):
        raise CertifyError("a number of a linear program is not finite, or a bound not a number")
    at, column = np.nonzero(program.matrix)
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = rows, columns
    model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.searchsorted(at, np.arange(rows + 1)).astype(np.int32)
    model.a_matrix_.index_ = column.astype(np.int32)
    model.a_matrix_.value_ = program.matrix[at, column]
    return model


def _require(status: object, what: str) -> None:
    import highspy

    if status == highspy.HighsStatus.kError:
        raise CertifyError(f"HiGHS refuses {what}")
