"""Semidefinite bounds of ReLU networks: Raghunathan, Steinhardt & Liang (2018), with box and triangle constraints.

Ways to multipliers of the same constraints: an interior-point method of our own, which uses that every constraint is a
product of two lines, for up to some thousand multipliers; conic solvers, through cvxpy, for about a hundred values that
vary; and projected ascent on the dual function (SDP-FO, Dathathri et al. 2020), whose iterates are all bounds. What is
returned is computed anew, from the multipliers alone, by `Quadratics.lower`.
"""

from __future__ import annotations

import enum
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from certify.bounds.barrier import optimum
from certify.bounds.base import NodeBounds
from certify.bounds.multipliers import adaptive, ascend, completed, of_lines
from certify.bounds.outward import OutwardBounds
from certify.bounds.quadratic import Multipliers, Quadratics
from certify.budget import Budget
from certify.check.ops import RULES
from certify.errors import BadOption, CertifyError
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import Network
from certify.spec.regions import Region

if TYPE_CHECKING:
    import cvxpy


class _SemidefiniteBounds(OutwardBounds[Quadratics]):
    """Never looser, up to rounding, than `LpBounds` over the same bounds of neurons, whose lines are multipliers, too.

    Sound: the bounds are rounded outward; they are -inf where the network's values have no finite bounds.
    """

    def covers(self, op: ops.Op) -> bool:
        return isinstance(op, ops.Relu) or (MAPS.get(op) is not None and RULES.get(op) is not None)

    def problem(self, network: Network, region: Region, within: NodeBounds) -> Quadratics:
        return Quadratics(network.graph, region, within)

    def row(self, problem: Quadratics, row: Tensor, constant: float, lines: dict[int, Tensor], budget: Budget) -> float:
        """The best of three bounds: by adaptive lines, by those given, and by this method."""
        if not problem.finite:
            return -inf
        cost, _ = problem.cost(row, constant)
        tried = [of_lines(problem, cost, slopes) for slopes in (adaptive(problem), problem.of_bent(lines))]
        bounds = [problem.lower(given, row, constant) for given in tried]
        found = self.multipliers(problem, cost, tried[int(bounds[1] > bounds[0])], budget)
        return max(*bounds, *[problem.lower(given, row, constant) for given in found])

    @abstractmethod
    def multipliers(self, problem: Quadratics, cost: Tensor, start: Multipliers, budget: Budget) -> list[Multipliers]:
        """Multipliers that make the bound of <cost, u> high, if any are found; `start` are those of lines. Anything is
        sound."""


class Conic(enum.Enum):
    """Conic solvers that cvxpy brings along; the value is their option for seconds."""

    CLARABEL = "time_limit"  # interior points: precise
    SCS = "time_limit_secs"  # first order: for somewhat larger programs


COPIES = 10
"""Matrices of a number for every two multipliers that the interior-point method holds at once."""


@dataclass(frozen=True)
class SdpBounds(_SemidefiniteBounds):
    """The optimum: by our own interior-point method, or by `solver`, through cvxpy, which is imported on first use.

    Without a solver, L1 and L2 balls are left to Clarabel, and what is too large for both methods to ascent.
    """

    solver: Conic | None = None

    name: ClassVar[str] = "sdp"

    def multipliers(self, problem: Quadratics, cost: Tensor, start: Multipliers, budget: Budget) -> list[Multipliers]:
        solver = self.solver
        if solver is None and COPIES * 8 * sum(len(t) for t in start.tensors()) ** 2 > budget.memory:
            return SdpFirstOrderBounds().multipliers(problem, cost, start, budget)
        if solver is None and problem.ball is None:
            found = optimum(problem, cost, start, budget)
            if problem.neurons and not found.box.sum() < start.box.sum():  # it broke off before it was anywhere
                return SdpFirstOrderBounds().multipliers(problem, cost, start, budget)
            return [found]
        solver = solver or Conic.CLARABEL
        try:
            import cvxpy
        except ImportError as error:
            raise CertifyError("cvxpy is not installed", "pip install 'certify-nn[convex]'") from error
        count = 1 + len(problem.varying)
        to_u = torch.zeros(len(problem.centre), count, dtype=torch.float64)
        to_u[:, 0] = problem.centre
        to_u[problem.varying, torch.arange(1, count)] = problem.radius
        y_map, z_map = to_u[problem.first :].numpy(), (problem.z_map @ to_u).numpy()
        moments = cvxpy.Variable((count, count), PSD=True)  # of (1, v)
        y, z = y_map @ moments[:, 0], z_map @ moments[:, 0]
        relaxed = cvxpy.multiply(problem.slope.numpy(), z) + problem.shift.numpy()
        constraints = [
            y >= 0,
            y >= z,
            y <= relaxed,
            cvxpy.sum(cvxpy.multiply(y_map @ moments, y_map - z_map), axis=1) == 0,
            moments[0, 0] == 1,
            cvxpy.diag(moments)[1:] <= 1,
        ]
        constraints += _of_ball(problem, to_u, moments)
        program = cvxpy.Problem(cvxpy.Minimize((cost @ to_u).numpy() @ moments[:, 0]), constraints)
        limit = {} if budget.timeout is None else {solver.value: max(budget.remaining, 1e-3)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of inaccurate solutions: any is sound
                program.solve(solver=solver.name, **limit)
        except cvxpy.error.SolverError:  # no multipliers, so no bound
            return []
        values = [c.dual_value for c in constraints]
        if any(v is None for v in values):
            return []
        numbers = [torch.tensor(v, dtype=torch.float64).reshape(-1) for v in values]
        positive, above, below, square, first, rest, *ball = numbers
        none = rest.new_zeros(0)
        pull = ball[1] - ball[2] if len(ball) > 1 else none
        found = Multipliers(positive, above, below, square, torch.cat([first, rest]), ball[0] if ball else none, pull)
        return [completed(problem, cost, found)]


def _of_ball(problem: Quadratics, to_u: Tensor, moments: cvxpy.Variable) -> list[cvxpy.Constraint]:
    """What a ball says of the moments, in radii: |x - center|^2 <= 1, and the sum of |x_i - center_i| for an L1 ball;
    the multipliers of the second and third of these are the two signs of `Multipliers.pull`."""
    import cvxpy

    if problem.ball is None:
        return []
    away = to_u[1 : problem.first].clone()
    away[:, 0] -= torch.from_numpy(problem.ball.center)
    way = (away / problem.ball.radius).numpy()
    found = [cvxpy.sum(cvxpy.multiply(way @ moments, way)) <= 1]
    if problem.ball.norm == 1:
        size = cvxpy.Variable(len(way))
        found += [way @ moments[:, 0] <= size, -(way @ moments[:, 0]) <= size, cvxpy.sum(size) <= 1]
    return found


@dataclass(frozen=True)
class SdpFirstOrderBounds(_SemidefiniteBounds):
    """By `steps` of projected ascent from the multipliers that lines have: for what is too large for `SdpBounds`."""

    steps: int = 100
    rate: float = 0.3

    name: ClassVar[str] = "sdp-fo"

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.rate > 0:
            raise BadOption("steps must not be negative, and the rate must be positive")

    def multipliers(self, problem: Quadratics, cost: Tensor, start: Multipliers, budget: Budget) -> list[Multipliers]:
        return [completed(problem, cost, ascend(problem, cost, start, self.steps, self.rate, budget))]
