"""The best multipliers of a ReLU network's quadratic constraints over a box, by an interior-point method.

The bound, -sum(box), is maximised where S = form + diag(box) has no negative eigenvalue; the moments X of that
program's dual, and their distances from what the constraints allow, are carried along: predictor and corrector in the
direction of Helmberg, Rendl, Vanderbei & Wolkowicz (1996), "An interior-point method for semidefinite programming".
Each constraint is a product of two linear functions p and q of the coordinates, so the equations of a step are made of
numbers (p' X p) (q' W q), where W is the inverse of S: a few products of matrices, and a step costs about as much as a
Cholesky factor with as many rows as there are multipliers. All iterates are multipliers of a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.quadratic import Multipliers, Quadratics
from certify.budget import Budget

GAP = 1e-6
"""How near to the optimum to stop, in parts of the sum of the multipliers of box."""

STEPS = 60
"""Steps at most: 20 are usual."""

SAMPLES, MIXED = 8, 0.1
"""Random inputs for every coordinate, of which the moments are those to begin with, mixed with those of independent
coordinates: a part of all."""

BACK = 0.95
"""How far a step goes at most, in parts of the way to where something that must be positive vanishes."""

SHRINK, SHORTEST = 0.9, 1e-4
"""By what a step is shortened until its matrix is positive definite; one shorter than that ends the search."""

RIDGE = 1e-13
"""What is added to the diagonal of the equations, in its own parts."""


@dataclass(frozen=True, eq=False)
class Functions:
    """m linear functions of the coordinates v: each  sum_c weight[:, c] * base[index[:, c]], (m, 3), where the base is
    v (N,), and after it what the K neurons read."""

    index: Tensor
    weight: Tensor


def optimum(problem: Quadratics, cost: Tensor, start: Multipliers, budget: Budget) -> Multipliers:
    """Multipliers for which the bound of <cost, u> is nearly the best, from feasible ones on; where the budget ends,
    the best so far. The region must be a box."""
    best = start.feasible()
    if not problem.neurons:
        return best
    point = _Point(problem, cost, best)
    for _ in range(STEPS if point.inside else 0):
        far = point.mean * point.count > GAP * float(point.given.box.abs().sum())  # and all of it numbers
        if not far or budget.expired or not point.step():
            break
        if point.given.box.sum() < best.box.sum():
            best = point.given
    return best


class _Point:
    """Multipliers mu (m,) with the matrix S, the moments X (N, N), and distances s (m,) of the inequalities, all
    positive (definite), as `inside` says of S.

    In order: y >= 0, y >= z, y <= chord, y (y - z) = 0, v_i^2 <= 1, each as  price_i - <A_i, X> >= 0. Of the fourth,
    and of v_0^2 = 1, the multipliers are free and the distances 0.
    """

    def __init__(self, problem: Quadratics, cost: Tensor, start: Multipliers) -> None:
        self.problem, self.cost, neurons, size = problem, cost, problem.neurons, len(start.box)
        self.left, self.right, self.reads = *_constraints(problem), _reads(problem)
        self.must = torch.ones(4 * neurons + size, dtype=torch.bool)
        self.must[3 * neurons : 4 * neurons + 1] = False
        self.price = torch.cat([cost.new_zeros(4 * neurons), cost.new_ones(size)])
        self.count = size + int(self.must.sum())
        self.mu = _inside(problem, cost, start)
        self.factor, failed = torch.linalg.cholesky_ex(self._matrix(self.mu))
        self.inside = not int(failed)
        self.moments = _sampled(problem)
        apart = self.price - self._constrained(self.moments)
        self.apart = torch.where(self.must, apart.clamp_min(MIXED**2), 0.0)
        self.mean = self._mean(self.mu, self.moments, self.apart)

    @property
    def given(self) -> Multipliers:
        return _named(self.problem, self.mu)

    def step(self) -> bool:
        """One step; whether it was a step worth taking."""
        inverse = torch.cholesky_inverse(self.factor)
        equations, slope = self._equations(inverse)
        slope = slope + torch.where(self.must, 1 / self.mu, 0.0)
        equations.diagonal().add_(torch.where(self.must, self.apart / self.mu, 0.0) + RIDGE * equations.diagonal())
        solver, failed = torch.linalg.cholesky_ex(equations)
        if int(failed):
            return False
        way, moments, apart = self._way(solver, inverse, -self.price, 0.0, None)  # aims at the optimum at once
        form = self._matrix(self.mu + way) - self._matrix(self.mu)
        up, along = self._lengths(way, form, moments, apart)
        ahead = self._mean(self.mu + up * way, self.moments + along * moments, self.apart + along * apart)
        aim = self.mean * min(1.0, max(ahead / self.mean, 0.0)) ** 2
        second = moments @ form @ inverse, torch.where(self.must, apart * way / self.mu, 0.0)
        target = aim * slope - self.price - self._constrained(second[0]) - second[1]
        way, moments, apart = self._way(solver, inverse, target, aim, second)
        form = self._matrix(self.mu + way) - self._matrix(self.mu)
        up, along = self._lengths(way, form, moments, apart)
        self.mu, self.moments, self.apart = (
            self.mu + up * way,
            self.moments + along * moments,
            self.apart + along * apart,
        )
        self.factor, failed = torch.linalg.cholesky_ex(self._matrix(self.mu))
        self.inside = not int(failed)
        self.mean = self._mean(self.mu, self.moments, self.apart)
        return self.inside and max(up, along) > SHORTEST

    def _way(
        self, solver: Tensor, inverse: Tensor, target: Tensor, aim: float, second: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The changes of multipliers, moments and distances towards `aim` on the central path."""
        way = torch.cholesky_solve(target.unsqueeze(1), solver)[:, 0]
        form = self._matrix(self.mu + way) - self._matrix(self.mu)
        moments = aim * inverse - self.moments - self.moments @ form @ inverse
        apart = torch.where(self.must, aim / self.mu - self.apart - self.apart / self.mu * way, 0.0)
        if second is not None:
            moments, apart = moments - second[0], apart - second[1]
        return way, (moments + moments.T) / 2, apart

    def _lengths(self, way: Tensor, form: Tensor, moments: Tensor, apart: Tensor) -> tuple[float, float]:
        """How far to go: the multipliers, and the moments."""
        up = _positive(self._matrix(self.mu), form, _reach(self.mu[self.must], way[self.must]))
        return up, _positive(self.moments, moments, _reach(self.apart[self.must], apart[self.must]))

    def _mean(self, mu: Tensor, moments: Tensor, apart: Tensor) -> float:
        """The mean of the products that vanish at the optimum."""
        return float((self._matrix(mu) * moments).sum() + (mu * apart).sum()) / self.count

    def _matrix(self, mu: Tensor) -> Tensor:
        return self.problem.matrix(_named(self.problem, mu), self.cost) + torch.diag(mu[4 * self.problem.neurons :])

    def _equations(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """<A_i, X A_j W>, (m, m), and <A_i, W>, (m,)."""
        found = []
        for matrix in (self.moments, inverse):
            part = self.reads @ matrix
            gram = torch.cat([torch.cat([matrix, part.T], 1), torch.cat([part, part @ self.reads.T], 1)])
            found.append([_between(gram, *pair) for pair in self._pairs()])
        (pp, qq, pq), (left, right, cross) = found
        slope = cross.diagonal().clone()
        mixed = pq.mul_(cross.T)
        return pp.mul_(right).addcmul_(qq, left).add_(mixed).add_(mixed.T).div_(4), slope

    def _pairs(self) -> list[tuple[Functions, Functions]]:
        return [(self.left, self.left), (self.right, self.right), (self.left, self.right)]

    def _constrained(self, matrix: Tensor) -> Tensor:
        """<A_i, matrix>, (m,), for any matrix (N, N)."""
        matrix = (matrix + matrix.T) / 2
        part = self.reads @ matrix
        gram = torch.cat([torch.cat([matrix, part.T], 1), torch.cat([part, part @ self.reads.T], 1)])
        found = torch.zeros(len(self.mu), dtype=torch.float64)
        for c in range(3):
            for d in range(3):
                weight = self.left.weight[:, c] * self.right.weight[:, d]
                found += weight * gram[self.left.index[:, c], self.right.index[:, d]]
        return found


def _reach(at: Tensor, way: Tensor) -> float:
    """How far to go so that all stay positive, 1 at most."""
    falling = way < 0
    return min(1.0, BACK * float((-at / way)[falling].min())) if bool(falling.any()) else 1.0


def _positive(matrix: Tensor, way: Tensor, length: float) -> float:
    """The length, at most that given, so shortened that the matrix stays positive definite; 0 where it hardly moves."""
    while length > SHORTEST:
        if not int(torch.linalg.cholesky_ex(matrix + length / BACK * way)[1]):
            return length
        length *= SHRINK
    return 0.0


def _between(gram: Tensor, left: Functions, right: Functions) -> Tensor:
    """The bilinear form of the base, `gram`, for all pairs of functions, (m, m)."""
    rows = sum(left.weight[:, c : c + 1] * gram[left.index[:, c]] for c in range(3))
    return sum(rows[:, right.index[:, c]] * right.weight[:, c] for c in range(3))


def _constraints(problem: Quadratics) -> tuple[Functions, Functions]:
    """Factors of  -y <= 0,  z - y <= 0,  y - chord <= 0,  y (y - z) = 0  and  v_i^2 <= 1, in that order."""
    neurons, count = problem.neurons, 1 + len(problem.varying)
    at = torch.zeros(len(problem.centre), dtype=torch.long)
    at[problem.varying] = torch.arange(1, count)
    radius = torch.zeros(len(problem.centre), dtype=torch.float64)
    radius[problem.varying] = problem.radius
    own = torch.arange(neurons)
    index = torch.stack([torch.zeros_like(own), at[problem.first :], count + own], 1)

    def functions(one: Tensor, y: float, z: Tensor) -> Tensor:
        """one + y * y_i + z * z_i"""
        return torch.stack([one + y * problem.centre[problem.first :], y * radius[problem.first :], z], 1)

    zero, ones = problem.slope.new_zeros(neurons), problem.slope.new_ones(neurons)
    made, over = functions(zero, 1.0, zero), functions(zero, 1.0, -ones)
    left = [-made, -over, functions(-problem.shift, 1.0, -problem.slope), made]
    one = functions(ones, 0.0, zero)
    right = [one, one, one, over]
    each = torch.stack(
        [torch.arange(count), torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)], 1
    )
    unit = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(count, 3)
    places = torch.cat([*[index] * 4, each])
    return Functions(places, torch.cat([*left, unit])), Functions(places, torch.cat([*right, unit]))


def _reads(problem: Quadratics) -> Tensor:
    """What the neurons read, (K, N), of the coordinates v."""
    varying = problem.z_map[:, problem.varying] * problem.radius
    return torch.cat([(problem.z_map @ problem.centre).unsqueeze(1), varying], 1)


def _inside(problem: Quadratics, cost: Tensor, start: Multipliers) -> Tensor:
    """Multipliers near those of `start` of which S is positive definite, for its diagonal outweighs the rest."""
    more = float(start.box[1:].mean()) if len(start.box) > 1 else 0.0
    more = more or 1.0
    raised = [t + more for t in (start.positive, start.above, start.below)]
    given = Multipliers(*raised, start.square, torch.zeros_like(start.box), start.ball, start.pull)
    form = problem.matrix(given, cost)
    weight = form.abs().sum(1) - form.diagonal().abs() - form.diagonal()
    box = torch.cat([weight[:1], weight[1:].clamp_min(0)]) + more
    return torch.cat([*raised, start.square, box])


def _sampled(problem: Quadratics) -> Tensor:
    """Moments (N, N) that meet nearly all constraints, positive definite."""
    size = 1 + len(problem.varying)
    random = torch.Generator().manual_seed(0)
    u = problem.centre.repeat(SAMPLES * size, 1)
    radius = torch.zeros_like(problem.centre).index_put((problem.varying,), problem.radius)[1 : problem.first]
    way = torch.rand(len(u), len(radius), generator=random, dtype=u.dtype)
    u[:, 1 : problem.first] += radius * (2 * way - 1)
    u[:, problem.first :] = 0.0
    for i in range(problem.neurons):  # later neurons read earlier ones
        u[:, problem.first + i] = (u @ problem.z_map[i]).clamp_min(0)
    v = (u[:, problem.varying] - problem.centre[problem.varying]) / problem.radius
    v = torch.cat([u[:, :1], v], 1)
    apart = torch.full((size,), 0.5, dtype=u.dtype).index_fill(0, torch.tensor([0]), 1.0)
    return (1 - MIXED) * (v.T @ v) / len(v) + MIXED * torch.diag(apart)


def _named(problem: Quadratics, mu: Tensor) -> Multipliers:
    none = mu.new_zeros(0)
    return Multipliers(*mu[: 4 * problem.neurons].reshape(4, -1), mu[4 * problem.neurons :], none, none)
