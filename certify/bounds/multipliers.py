"""Multipliers of a ReLU network's quadratic constraints: those of lines, and better ones by ascent.

Any are sound; see `certify.bounds.quadratic`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from certify.bounds.quadratic import Multipliers, Quadratics
from certify.budget import Budget
from certify.spec.inputset import stack

SMALL = 400
"""Coordinates up to which all eigenvalues are computed in every step; beyond, the least few by Lanczos' method."""

KRYLOV = 40
"""Steps of Lanczos' method."""

HALVINGS = 100
"""Steps of bisection."""


def completed(problem: Quadratics, cost: Tensor, given: Multipliers) -> Multipliers:
    """The same with the best `box[0]`, and the best number added to all others of `box`, none of which may be negative.

    Over coordinates (1, w) with |w|^2 <= n the least value of the form is the greatest
    c - n s - sum_i g_i^2 / (l_i + s)  over s that leave no l_i + s negative, where c and g are the form's corner
    and edge and l the eigenvalues of the rest: the dual of a trust region's problem (More & Sorensen 1983).
    """
    given = given.feasible()
    form = problem.matrix(given, cost) + torch.diag(given.box)
    if not bool(form.isfinite().all()):
        return given
    count, corner = len(form) - 1, float(form[0, 0] - given.box[0])
    if not count:
        return replace(given, box=form.new_tensor([-corner]))
    values, vectors = torch.linalg.eigh(form[1:, 1:])
    square = (form[0, 1:] @ vectors).square()
    scale = float(values.abs().max() + square.sum().sqrt()) or 1.0
    least = max(-float(given.box[1:].min()), -float(values[0]) + 1e-15 * count * scale)
    low, high = 1e-18 * scale, float((square.sum() / count).sqrt()) + 1e-18 * scale
    for _ in range(HALVINGS):  # of the interval's logarithm
        shift = (low * high) ** 0.5
        low, high = (shift, high) if float((square / (values + least + shift).square()).sum()) > count else (low, shift)
    shift = least + low
    drop = (square / (values + shift)).sum()
    return replace(given, box=torch.cat([(drop - corner).reshape(1), (given.box[1:] + shift).clamp_min(0)]))


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
    if not np.isfinite(size):
        return best
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
    box = (form[0, 1:].abs() - form.diagonal()[1:]).clamp_min(0)
    return completed(problem, cost, replace(found, box=torch.cat([zero[:1], box])))


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
