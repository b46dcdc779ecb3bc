"""What changes in the course of training, as functions of the progress from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]
"""A number for each progress in [0, 1]; the loop multiplies radius and learning rate by it."""


@dataclass(frozen=True)
class Constant:
    """The same number throughout."""

    value: float = 1.0

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `before` to `after` in a straight line while the progress goes from `first` to `last`."""

    before: float = 0.0
    after: float = 1.0
    first: float = 0.05
    last: float = 0.5

    def __call__(self, progress: float) -> float:
        share = (progress - self.first) / max(self.last - self.first, 1e-12)
        return self.before + (self.after - self.before) * min(1.0, max(0.0, share))


@dataclass(frozen=True)
class Smooth:
    """From 0 to 1: a power of four first, then a line, joined with equal slopes (Xu et al. 2020, smoothed ε).

    The power ends at `middle` of the way; small radii, where bounds change fastest, are passed slowly.
    """

    first: float = 0.05
    last: float = 0.5
    middle: float = 0.25
    power: float = 4.0

    def __call__(self, progress: float) -> float:
        share = min(1.0, max(0.0, (progress - self.first) / max(self.last - self.first, 1e-12)))
        joint = self.middle / (self.middle + (1 - self.middle) * self.power)  # the height at the joint
        if share < self.middle:
            return joint * (share / self.middle) ** self.power
        return joint + (1 - joint) * (share - self.middle) / (1 - self.middle)


@dataclass(frozen=True)
class Steps:
    """1, times `factor` from each of the `milestones` on; a line from 0 before `warm`."""

    milestones: tuple[float, ...] = (0.75, 0.9)
    factor: float = 0.2
    warm: float = 0.0

    def __call__(self, progress: float) -> float:
        rise = min(1.0, (progress + 1e-3) / self.warm) if self.warm else 1.0
        return rise * self.factor ** sum(progress >= m for m in self.milestones)
