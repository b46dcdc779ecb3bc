"""Semidefinite bounds of ReLU networks: Raghunathan, Steinhardt & Liang (2018), with box and triangle constraints.

Two ways to multipliers of the same constraints: a conic solver, through cvxpy, for up to about a hundred values that
vary; and projected ascent on the dual function (SDP-FO, Dathathri et al. 2020), whose iterates are all bounds. What
is returned is computed anew, from the multipliers alone, by `Quadratics.lower`.
"""

from __future__ import annotations

import enum
import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import NodeBounds
from certify.bounds.method import BoundMethod, RowBounds
from certify.bounds.quadratic import Multipliers, Quadratics
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.check.ops import RULES
from certify.errors import BadOption, CertifyError
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet, stack

if TYPE_CHECKING:
    import cvxpy

SMALL = 400
"""Coordinates up to which all eigenvalues are computed in every step; beyond, the least few by Lanczos' method."""

POLISH, POLISH_RATE = 100, 0.1
"""Steps of ascent, and their rate, that take a conic solver's multipliers nearer to what they should be: they miss
the constraints a little, and the correction for it costs as much as N times the least eigenvalue."""

KRYLOV = 40
"""Steps of Lanczos' method."""


class _SemidefiniteBounds(BoundMethod):
    """Rows one by one, over each region. `within`, which nobody rounded outward, is not used.

    Sound: the bounds are rounded outward; they are -inf where the network's values have no finite bounds.
    """

    outward: ClassVar[bool] = True

    def covers(self, op: ops.Op) -> bool:
        return isinstance(op, ops.Relu) or (MAPS.get(op) is not None and RULES.get(op) is not None)

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        batch = len(inputs)
        lower = torch.full((batch, *rows.offset.shape[1:]), -torch.inf, dtype=torch.float64)
        matrix, offset, used = (t.expand(batch, *t.shape[1:]).cpu() for t in (rows.matrix, rows.offset, rows.used))
        problems = [Quadratics(network.graph, region) for region in inputs.regions()]
        for b, s, r in used.nonzero().tolist():
            if budget.expired:
                break
            row, constant = matrix[b, s, r].double(), -float(offset[b, s, r])
            lower[b, s, r] = self._best(problems[b], row, constant, budget)
        nodes = {v: tuple(torch.cat([p.nodes[v][k] for p in problems]) for k in (0, 1)) for v in problems[0].nodes}
        return RowBounds(lower, nodes)

    def _best(self, problem: Quadratics, row: Tensor, constant: float, budget: Budget) -> float:
        """The better of two bounds of <row, (output, x)> + constant: by adaptive lines, and by this method."""
        cost, _ = problem.cost(row, constant)
        plain = linear_multipliers(problem, cost)
        found = self.multipliers(problem, cost, plain, budget) if problem.finite else None
        tried = [plain] if found is None else [plain, found]
        return max(problem.lower(given, row, constant) for given in tried)

    @abstractmethod
    def multipliers(self, problem: Quadratics, cost: Tensor, plain: Multipliers, budget: Budget) -> Multipliers | None:
        """Multipliers that make the bound of <cost, u> high, if any are found; `plain` are those of adaptive lines.
        Anything is sound."""


class Conic(enum.Enum):
    """Conic solvers that cvxpy brings along; the value is their option for seconds."""

    CLARABEL = "time_limit"  # interior points: precise
    SCS = "time_limit_secs"  # first order: for somewhat larger programs


@dataclass(frozen=True)
class SdpBounds(_SemidefiniteBounds):
    """By a conic solver, through cvxpy, which is imported on first use."""

    solver: Conic = Conic.CLARABEL

    name: ClassVar[str] = "sdp"

    def multipliers(self, problem: Quadratics, cost: Tensor, plain: Multipliers, budget: Budget) -> Multipliers | None:
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
        limit = {} if budget.timeout is None else {self.solver.value: max(budget.remaining, 1e-3)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of inaccurate solutions: any is sound
                program.solve(solver=self.solver.name, **limit)
        except cvxpy.error.SolverError:  # no multipliers, so no bound
            return None
        values = [c.dual_value for c in constraints]
        if any(v is None for v in values):
            return None
        numbers = [torch.tensor(v, dtype=torch.float64).reshape(-1) for v in values]
        positive, above, below, square, first, rest, *ball = numbers
        none = rest.new_zeros(0)
        pull = ball[1] - ball[2] if len(ball) > 1 else none
        found = Multipliers(positive, above, below, square, torch.cat([first, rest]), ball[0] if ball else none, pull)
        return ascend(problem, cost, found, POLISH, POLISH_RATE, budget)


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
    """By `steps` of projected ascent from the multipliers that adaptive lines have."""

    steps: int = 300
    rate: float = 0.5

    name: ClassVar[str] = "sdp-fo"

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.rate > 0:
            raise BadOption("steps must not be negative, and the rate must be positive")

    def multipliers(self, problem: Quadratics, cost: Tensor, plain: Multipliers, budget: Budget) -> Multipliers:
        return ascend(problem, cost, plain, self.steps, self.rate, budget)


def ascend(
    problem: Quadratics, cost: Tensor, start: Multipliers, steps: int, rate: float, budget: Budget
) -> Multipliers:
    """The best that projected Adam meets, from `start` on, on the way up the dual function, which is
    -sum(box) - N max(0, -least eigenvalue), and whose maximum is the optimum. The step is `rate` in parts of the mean
    size of the multipliers of box and ball at `start`, falling to 0."""
    best = start.feasible()
    free = [t.clone().requires_grad_() for t in best.tensors()]
    total = sum(float(t.abs().sum()) for t in (best.box[1:], best.ball, best.pull))
    size = total / max(len(best.box) - 1, 1) or 1.0
    optimiser = torch.optim.Adam(free, lr=rate * size)
    count, highest, vector = len(best.box), -float("inf"), torch.ones(len(best.box), dtype=torch.float64)
    noise = np.random.default_rng(0)  # a start for Lanczos' method that sees all eigenvectors
    for step in range(steps + 1):
        given = Multipliers(*free)
        form = problem.matrix(given, cost) + torch.diag(given.box)
        values, vectors = _least(form.detach(), vector)
        vector = vectors[:, 0] + vectors.new_tensor(noise.standard_normal(count)) / count**0.5
        bound = -float(given.box.detach().sum()) + count * min(0.0, float(values[0]))
        if bound > highest:
            highest, best = bound, Multipliers(*(t.detach().clone() for t in free))
        if step == steps or budget.expired:
            break
        heat = size * 0.02 / (1 + step) ** 0.5
        weights = torch.softmax(-values / heat, 0)
        soft = (weights * ((form @ vectors) * vectors).sum(0)).sum()
        loss = given.box.sum() + count * torch.relu(-soft)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate * size * (1 - step / steps)
        optimiser.step()
        with torch.no_grad():
            for t, projected in zip(free, Multipliers(*free).feasible().tensors(), strict=True):
                t.copy_(projected)
    return best


def linear_multipliers(problem: Quadratics, cost: Tensor) -> Multipliers:
    """The multipliers with which the form is that of backward propagation through adaptive lines."""
    positive, above, below = (cost.new_zeros(problem.neurons) for _ in range(3))
    linear, first = cost.clone(), problem.first
    for i in range(problem.neurons - 1, -1, -1):  # later neurons read earlier ones
        a = float(linear[first + i])
        slope = float(problem.slope[i])
        one = slope > 0.5  # the longer part of the interval is positive
        positive[i], above[i], below[i] = max(a, 0.0) * (not one), max(a, 0.0) * one, max(-a, 0.0)
        linear[first + i] = 0.0
        linear = linear + (above[i] - below[i] * slope) * problem.z_map[i]
        linear[0] -= below[i] * problem.shift[i]
    ball, pull = _ball_multipliers(problem, linear[1 : problem.first])
    zero = cost.new_zeros(1 + len(problem.varying))
    found = Multipliers(positive, above, below, cost.new_zeros(problem.neurons), zero, ball, pull)
    form = problem.matrix(found, cost)  # an arrow: its top row and its diagonal
    edge, diagonal = form[0, 1:], form.diagonal()[1:]
    box = (edge.abs() - diagonal).clamp_min(0)
    total = diagonal + box
    drop = torch.where(total > 0, edge.square() / total, 0.0).sum()
    return replace(found, box=torch.cat([(drop - form[0, 0]).reshape(1), box]))


def _ball_multipliers(problem: Quadratics, a: Tensor) -> tuple[Tensor, Tensor]:
    """`Multipliers.ball` and `.pull` that make the least <a, x> over the region high."""
    if problem.ball is None:
        return a.new_zeros(0), a.new_zeros(0)
    ((_, inputs),) = stack([problem.ball], torch.float64)
    part, radius = inputs.part(a[None, None])[0, 0], problem.ball.radius
    if problem.ball.norm == 1:
        return a.new_zeros(1), -part * radius
    return (part.norm() * radius / 2).reshape(1), a.new_zeros(0)  # part is t (center - x), |center - x| the radius


def _least(matrix: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The least eigenvalues (k,), ascending, of a symmetric matrix (N, N) and their vectors (N, k): all of a small
    one, estimates by Lanczos' method (with full orthogonalisation) of a large one."""
    if len(matrix) <= SMALL:
        return torch.linalg.eigh(matrix)
    basis = [start / start.norm()]
    for _ in range(KRYLOV - 1):
        known = torch.stack(basis, 1)
        new = matrix @ basis[-1]
        new = new - known @ (known.T @ new)
        new = new - known @ (known.T @ new)
        length = float(new.norm())
        if not length > 1e-12:
            break
        basis.append(new / length)
    known = torch.stack(basis, 1)
    values, inner = torch.linalg.eigh(known.T @ matrix @ known)
    return values, known @ inner
