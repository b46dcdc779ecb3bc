"""Carlini and Wagner's attack: distance and margin weighed against each other, in variables that know no bounds.

One attack for L2, L-infinity and L1, which differ in the penalty for distance. For norm 0, `attacks.least.Sparse`
repeats the one for L2 with ever fewer entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Here, State
from attacks.nearest import Nearest
from attacks.regions import Ball

PENALTIES: dict[float, Callable[[Tensor, Tensor], Tensor]] = {
    2.0: lambda offset, least: 2 * offset,
    1.0: lambda offset, least: offset.sign(),
    torch.inf: lambda offset, least: torch.where(offset.abs() > SHRINK * least, offset.sign(), 0),
}
"""Norm -> (offset (B, d), the least distance so far (B, 1)) -> the penalty's slope (B, d): of the squared norm, of the
norm, and, for L-infinity, of the sum of what exceeds a part of the least distance (section VI.C)."""

SHRINK = 0.9
"""That part."""

GROWTH = 10.0
"""By what the weight of the margin is multiplied while no success is known."""

LAST = 0.01
"""Part of the step size that is left at the end of a round, falling geometrically; the paper's stays as it is."""

FIRST, SECOND = 0.9, 0.999
"""Decay rates of Adam's two averages."""


@dataclass(frozen=True)
class CarliniWagner(Nearest):
    """Adam on penalty(x - center) + weight * max(margin, -sure), the weight found by bisection
    (Carlini & Wagner 2017, section V and VI).

    steps   in all, shared out evenly among the rounds
    rounds  weights that are tried
    rate    Adam's step size, in the variables that know no bounds
    weight  the first one
    sure    how far below zero the loss is pushed
    """

    steps: int = 900
    rounds: int = 9
    rate: float = 0.1
    weight: float = 1.0
    sure: float = 0.0

    def begin(self, x: Tensor, region: Ball) -> State:
        if region.norm.p not in PENALTIES:
            raise ValueError("CarliniWagner knows the norms inf, 2 and 1: use Sparse for norm 0")
        free, zero = _free(x, region), torch.zeros_like(x)
        one = x.new_ones(len(x), 1)
        # variables, Adam's averages; the weight and what is known of it: too small, enough; whether this round had a
        # success, and the least distance of one
        return free, zero, zero, self.weight * one, 0 * one, torch.inf * one, 0 * one, torch.inf * one

    def move(self, i: int, here: Here, region: Ball, state: State) -> tuple[Tensor, State]:
        free, mean, square, weight, small, enough, reached, least = state
        done, distance = (here.margin <= 0)[:, None], region.distance(here.x).to(free.dtype)[:, None]
        reached, least = torch.where(done, 1, reached), torch.where(done, torch.minimum(least, distance), least)
        length = max(1, self.steps // self.rounds)
        k = i % length
        if k == 0 and i:
            small, enough = torch.where(reached > 0, small, weight), torch.where(reached > 0, weight, enough)
            weight = torch.where(enough.isinf(), weight * GROWTH, (small + enough) / 2)
            free, mean, square, reached = _free(region.center, region), 0 * mean, 0 * square, 0 * reached
        x, slope = _bounded(free, region)
        push = torch.where(here.loss[:, None] > -self.sure, weight * here.gradient, 0) if k or not i else 0
        descent = (PENALTIES[region.norm.p](x - region.center, least) + push) * slope
        mean, square = FIRST * mean + (1 - FIRST) * descent, SECOND * square + (1 - SECOND) * descent.square()
        step = mean / (1 - FIRST ** (k + 1)) / ((square / (1 - SECOND ** (k + 1))).sqrt() + 1e-12)
        free = free - self.rate * LAST ** (k / length) * step
        return _bounded(free, region)[0], (free, mean, square, weight, small, enough, reached, least)


def _bounded(free: Tensor, region: Ball) -> tuple[Tensor, Tensor]:
    """The points (B, d) of the data range that variables stand for, and the derivatives: a sine between finite
    bounds, where the paper's tanh would hardly leave them; the variables themselves elsewhere."""
    half, finite = (region.upper - region.lower) / 2, (region.upper - region.lower).isfinite()
    x = torch.where(finite, region.lower + half * (1 + free.sin()), free)
    return x.clamp(region.lower, region.upper), torch.where(finite, half * free.cos(), 1)


def _free(x: Tensor, region: Ball) -> Tensor:
    """The variables (B, d) of x, a little inside the range, where the derivative is not zero."""
    half, finite = (region.upper - region.lower) / 2, (region.upper - region.lower).isfinite()
    inner = ((x - region.lower) / half.clamp_min(torch.finfo(x.dtype).tiny) - 1).clamp(-1 + 1e-6, 1 - 1e-6)
    return torch.where(finite, inner.asin(), x)
