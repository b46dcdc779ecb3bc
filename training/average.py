"""Averages of the weights over the steps of training, which often are better than the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from certify.errors import BadOption


class Averaging(Protocol):
    """How the average follows the weights; a frozen dataclass."""

    def begun(self, progress: float) -> bool:
        """Whether, at this progress from 0 to 1, the average is formed; before, it is the weights themselves."""
        ...

    def share(self, count: int) -> float:
        """The part of the newest weights in an average of `count` earlier ones and them."""
        ...


@dataclass(frozen=True)
class EMA:
    """The exponential moving average: all weights since the beginning, each step's counting `decay` times as much as
    the next one's. Raises BadOption for a decay outside [0, 1)."""

    decay: float = 0.99

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise BadOption(f"an average does not decay by {self.decay}", "use a number from 0, and below 1")

    def begun(self, progress: float) -> bool:
        return True

    def share(self, count: int) -> float:
        return 1 - self.decay


@dataclass(frozen=True)
class SWA:
    """The mean of the weights after all steps from `first` on, a part of the run (Izmailov et al. 2018). Begin where
    the radius is full: earlier weights are for another task. Raises BadOption for a beginning outside [0, 1)."""

    first: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.first < 1:
            raise BadOption(f"a run has no part {self.first} to begin averaging at", "use a number from 0, and below 1")

    def begun(self, progress: float) -> bool:
        return progress >= self.first

    def share(self, count: int) -> float:
        return 1 / (count + 1)
