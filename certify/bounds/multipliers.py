"""Multipliers of a ReLU network's quadratic constraints: those of lines, and better ones by ascent.

Any are sound; see `certify.bounds.quadratic`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from certify.bounds.quadratic import Multipliers, Quadratics
from certify.budget import Budget
from certify.spec.inputset import stack

SMALL = 400
"""Coordinates up to which all eigenvalues are computed in every step; beyond, the least few by Lanczos' method."""

KRYLOV = 40
"""Steps of Lanczos' method."""

SHARE = 0.1
"""How large the multiplier of a coordinate's box is taken to be, in parts of what a line of its weighs."""

HALVINGS = 100
"""Steps of bisection."""


def adaptive(problem: Quadratics) -> Tensor:
    """The slopes (K,) of lower lines that leave the least area: 0 or 1."""
    return (problem.slope > 0.5).to(problem.slope.dtype)  # the longer part of the interval is positive


def of_lines(problem: Quadratics, cost: Tensor, slopes: Tensor) -> Multipliers:
    """The multipliers with which the form is that of backward propagation through lower lines of these slopes (K,), in
    [0, 1]."""
    positive, above, below = (cost.new_zeros(problem.neurons) for _ in range(3))
    linear, first = cost.clone(), problem.first
    for i in range(problem.neurons - 1, -1, -1):  # later neurons read earlier ones
        a = float(linear[first + i])
        slope, share = float(problem.slope[i]), float(slopes[i])
        positive[i], above[i], below[i] = max(a, 0.0) * (1 - share), max(a, 0.0) * share, max(-a, 0.0)
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


def completed(problem: Quadratics, cost: Tensor, given: Multipliers) -> Multipliers:
    """The same with the best `box[0]`, and the best number added to all others of `box`, none of them negative."""
    given = given.feasible()
    form = problem.matrix(given, cost) + torch.diag(given.box)
    if not bool(form.isfinite().all()):
        return given
    count, corner = len(form) - 1, float(form[0, 0] - given.box[0])
    if not count:
        return replace(given, box=form.new_tensor([-corner]))
    values, vectors = torch.linalg.eigh(form[1:, 1:])
    edge = form[0, 1:] @ vectors
    shift = _shift(values, edge, count, -float(given.box[1:].min()))
    drop = (edge.square() / (values + shift)).sum()
    return replace(given, box=torch.cat([(drop - corner).reshape(1), (given.box[1:] + shift).clamp_min(0)]))


def _shift(values: Tensor, edge: Tensor, count: int, least: float) -> float:
    """The s >= `least` for which  count s + sum_i edge_i^2 / (values_i + s)  is the least of those that leave no value
    negative.

    The least  2 <edge, w> + sum_i values_i w_i^2  over |w|^2 <= count is minus that, for `least` 0: the dual of a trust
    region's problem (More & Sorensen 1983). `values` (k,) ascend.
    """
    square = edge.square()
    scale = float(values.abs().max() + square.sum().sqrt()) or 1.0
    least = max(least, -float(values[0]) + 1e-15 * count * scale)
    low, high = 1e-18 * scale, float((square.sum() / count).sqrt()) + 1e-18 * scale
    for _ in range(HALVINGS):  # of the interval's logarithm
        more = (low * high) ** 0.5
        long = float((square / (values + least + more).square()).sum()) > count
        low, high = (more, high) if long else (low, more)
    return least + low


def ascend(
    problem: Quadratics, cost: Tensor, start: Multipliers, steps: int, rate: float, budget: Budget
) -> Multipliers:
    """The best that projected Adam meets, from `start` on, on the way up the dual function.

    That is  -sum(box[1:])  and the least value of the form, with its diagonal, over coordinates (1, w), |w|^2 <= n, as
    every |w_i| <= 1. Its maximum is the optimum, and its gradient that of the form where the least value is. `rate` is
    that of the first step, in parts of the usual sizes of multipliers; it falls to 0.
    """
    best = start.feasible()
    begun, sizes = best.tensors(), _sizes(problem, best)
    moved = [torch.zeros_like(t).requires_grad_() for t in begun]
    optimiser = torch.optim.Adam(moved, lr=rate, betas=(0.9, 0.99))
    highest, noise = -float("inf"), torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        free = [t + size * way for t, size, way in zip(begun, sizes, moved, strict=True)]
        given = Multipliers(*free)
        rest = given.box[1:]
        form = problem.matrix(given, cost) + torch.diag(torch.cat([given.box[:1] * 0, rest]))
        if not bool(form.isfinite().all()):
            break
        value, moments = _lowest(form.detach(), noise)
        value -= float(rest.detach().sum())
        if value > highest:
            highest, best = value, Multipliers(*(t.detach() for t in free))
        if step == steps or budget.expired:
            break
        loss = rest.sum() - ((form @ moments) * moments).sum()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.step()
        with torch.no_grad():
            there = Multipliers(*(t + size * way for t, size, way in zip(begun, sizes, moved, strict=True))).feasible()
            for way, t, size, end in zip(moved, begun, sizes, there.tensors(), strict=True):
                way.copy_((end - t) / size)
    return best


def _sizes(problem: Quadratics, given: Multipliers) -> list[Tensor]:
    """Of what size steps of each multiplier should be: those of neurons as the multipliers of lines are, and those of
    coordinates as what they weigh."""
    line = float((given.positive + given.above + given.below).mean()) if problem.neurons else 0.0
    line = line or float(given.box.abs().mean()) or 1.0
    four = [torch.full_like(t, line) for t in given.tensors()[:4]]
    ball = [torch.full_like(t, float(t.abs().mean()) or line) if len(t) else t for t in (given.ball, given.pull)]
    weight = given.box[1:] + SHARE * line * problem.radius
    return [*four, torch.cat([given.box[:1] * 0 + 1.0, weight]), *ball]


def _lowest(form: Tensor, noise: torch.Generator) -> tuple[float, Tensor]:
    """The least value of the form (N, N) over (1, w), |w|^2 <= N - 1, and columns (N, 2) of whose products the moments
    there are the sum. Of a large form an estimate, not below it, from a Krylov space."""
    count = len(form) - 1
    corner = form.new_zeros(count + 1, 2)
    corner[0, 0] = 1.0
    if not count:
        return float(form[0, 0]), corner
    rest, edge = form[1:, 1:], form[0, 1:]
    basis = _krylov(rest, edge, noise) if count > SMALL else None
    inner = rest if basis is None else basis.T @ rest @ basis
    values, vectors = torch.linalg.eigh(inner)
    vectors = vectors if basis is None else basis @ vectors
    along = edge @ vectors
    shift = _shift(values, along, count, 0.0)
    ways = -along / (values + shift)
    value = float(form[0, 0]) + float(along @ ways) - count * shift
    left = max(count - float(ways @ ways), 0.0) if shift > 0 else 0.0  # of the length: along the least eigenvector
    return value, corner + torch.cat(
        [form.new_zeros(1, 2), torch.stack([vectors @ ways, vectors[:, 0] * left**0.5], 1)]
    )


def _krylov(matrix: Tensor, start: Tensor, noise: torch.Generator) -> Tensor:
    """An orthonormal basis (N, k) of the space of matrix^i start, from a start that sees all eigenvectors."""
    random = torch.randn(len(start), generator=noise, dtype=start.dtype)
    start = start / (float(start.norm()) or 1.0) + 0.1 * random / random.norm()
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
    return torch.stack(basis, 1)
