"""Auto-PGD: steps that halve when they stop paying, so that there is no step size to choose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch
from torch import Tensor

from attacks.base import Attack, Here, Region, State

PULL = 0.75
"""Weight of the new direction against the last one."""

RISING = 0.75
"""Part of the steps since the last checkpoint that must have lowered the loss."""


@dataclass(frozen=True)
class AutoPgd(Attack):
    """Projected descent with momentum whose step halves, and which returns to the best point, by two tests at
    checkpoints that come ever closer (Croce & Hein 2020, algorithm 1); each sample has its own step.

    step  the first one, a fraction of the region's radius: 2 crosses it
    """

    steps: int = 100
    step: float = 2.0

    @cached_property
    def checkpoints(self) -> dict[int, int]:
        """The steps after which the tests are made, each with the number of steps since the one before."""
        part, last, gap, found = 0.22, 0.0, 0.22, {}
        before = 0
        while part <= 1:
            at = ceil(part * self.steps)
            if at > before:
                found[at], before = at - before, at
            gap = max(part - last - 0.03, 0.06)
            part, last = part + gap, part
        return found

    def begin(self, x: Tensor, region: Region) -> State:
        one = x.new_ones(len(x))
        infinite = one * torch.inf
        # previous point, best point and its gradient, best loss, loss before, step, steps that paid, and at the last
        # checkpoint: best loss, whether the step was halved
        return x, x, torch.zeros_like(x), infinite, infinite, one * self.step, 0 * one, infinite, one

    def move(self, i: int, here: Here, region: Region, state: State) -> tuple[Tensor, State]:
        previous, best, slope, least, before, step, paid, marked, halved = state
        loss = here.loss.nan_to_num(nan=torch.inf)
        better = loss < least
        best, slope = (torch.where(better[:, None], a, b) for a, b in ((here.x, best), (here.gradient, slope)))
        least, paid = torch.where(better, loss, least), paid + (loss < before)
        x, gradient = here.x, here.gradient
        if i in self.checkpoints:
            stuck = (halved == 0) & (marked <= least)
            slow = (paid < RISING * self.checkpoints[i]) | stuck
            step, halved, marked = torch.where(slow, step / 2, step), slow.to(step.dtype), least
            x, gradient = (torch.where(slow[:, None], a, b) for a, b in ((best, x), (slope, gradient)))
            previous, paid = torch.where(slow[:, None], best, previous), torch.zeros_like(paid)
        direction = gradient / gradient.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        ahead = region.ascend(x, -direction, step[:, None])
        pull = PULL if i else 1.0
        following = region.project(x + pull * (ahead - x) + (1 - pull) * (x - previous))
        return following, (x, best, slope, least, loss, step, paid, marked, halved)
