"""Gradient descent on the margin inside the region: FGSM, BIM and PGD are settings of one attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack, Here, Region, State


@dataclass(frozen=True)
class Geometric:
    """Step sizes that shrink evenly on a logarithmic scale, from `first` to `last`.

    A step of 2 crosses the region: the first steps jump between its corners, and so out of basins in which
    small steps would end.
    """

    first: float = 2.0
    last: float = 0.02

    def __call__(self, progress: float) -> float:
        return self.first * (self.last / self.first) ** progress


@dataclass(frozen=True)
class Constant:
    """The same step size throughout."""

    size: float

    def __call__(self, progress: float) -> float:
        return self.size


@dataclass(frozen=True)
class Descent(Attack):
    """Projected gradient descent on the margin (Madry et al. 2018; momentum: Dong et al. 2018, eq. 6).

    step      step size, a fraction of the region's half width or radius, for progress from 0 to 1
    momentum  how much of the accumulated direction is kept; 0 uses the gradient alone
    """

    step: Callable[[float], float] = Geometric()
    momentum: float = 0.0

    def begin(self, x: Tensor, region: Region) -> State:
        return (torch.zeros_like(x),) if self.momentum else ()

    def move(self, i: int, here: Here, region: Region, state: State) -> tuple[Tensor, State]:
        # The largest entry is made 1, so that a norm of the gradient can neither overflow nor vanish.
        x, gradient = here.x, here.gradient
        direction = gradient / gradient.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        if self.momentum:
            direction = self.momentum * state[0] + direction
            state = (direction,)
        return region.ascend(x, -direction, self.step(i / max(1, self.steps - 1))), state


def fgsm(**options: Any) -> Descent:
    """One step from the middle to the region's edge (Goodfellow et al. 2015)."""
    return Descent(steps=1, step=Constant(1.0), **options)


def bim(steps: int = 10, size: float = 0.2, **options: Any) -> Descent:
    """Equal steps from the middle (Kurakin et al. 2017)."""
    return Descent(steps=steps, step=Constant(size), **options)


def pgd(steps: int = 20, restarts: int = 10, **options: Any) -> Descent:
    """Shrinking steps from the middle and from random points (Madry et al. 2018)."""
    return Descent(steps=steps, restarts=restarts, **options)
