"""How many noisy samples are drawn, when it is enough, and what their counts say about probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np

from certify.check.tails import float_down, float_up
from certify.errors import BadOption
from certify.evidence import Sampling
from certify.smoothing.discrete import Positions
from certify.smoothing.noise import Noise
from certify.smoothing.statistics import BETS, betting_lower, binomial_lower, binomial_upper, log_wealth

GROWTH = 4
"""Adaptive blocks grow by one part in so many of what was drawn: it bounds what is drawn too much."""

FIRST = 64
"""Draws in the first adaptive blocks."""


@dataclass(frozen=True)
class Plan(ABC):
    """Draws n0 to choose the class and at most n to bound its probability, with error probability alpha."""

    noise: Noise
    alpha: float = 0.001
    n0: int = 100
    n: int = 100_000
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Raises BadOption for numbers that make no sense."""
        if not 0 < self.alpha < 1:
            raise BadOption(f"alpha must be a probability, not {self.alpha}", "use 0.001, as the published tables do")
        if self.n0 < 1 or self.n < 1:
            raise BadOption(f"n0 and n must be positive, not {self.n0} and {self.n}")

    @abstractmethod
    def probabilities(self, predicted: int, counts: Sequence[int]) -> tuple[float, float | None]:
        """The bounds `lower` and `upper` of `CountProof`."""

    def bound(self) -> dict[str, object]:
        """What evidence says of the bound."""
        return {"kind": self.kind}

    def sampling(self) -> Sampling:
        """What evidence says of the whole plan."""
        return Sampling(self.noise.described(), self.bound(), self.alpha, self.n0, self.n)

    def enough(self, predicted: int, counts: Sequence[int]) -> bool:
        """Whether to stop before n draws."""
        return False

    def blocks(self, batch: int) -> Iterator[int]:
        """Sizes of the blocks in which n draws are made, `batch` at most."""
        yield from even_blocks(self.n, batch)


def even_blocks(total: int, batch: int) -> Iterator[int]:
    """`total` in parts of `batch` and a rest."""
    for start in range(0, total, batch):
        yield min(batch, total - start)


@dataclass(frozen=True)
class Fixed(Plan):
    """CERTIFY of Cohen et al. 2019: n draws, one Clopper-Pearson bound; any other class has what is left."""

    kind = "clopper-pearson"

    def probabilities(self, predicted: int, counts: Sequence[int]) -> tuple[float, None]:
        return binomial_lower(counts[predicted], sum(counts), self.alpha), None


@dataclass(frozen=True)
class TwoSided(Plan):
    """n draws, and Clopper-Pearson bounds of all classes at once, which share alpha evenly (Jia et al. 2020).

    It pays where the base classifier spreads its other answers over many classes.
    """

    kind = "joint"

    def probabilities(self, predicted: int, counts: Sequence[int]) -> tuple[float, float]:
        n, share = sum(counts), Fraction(self.alpha) / len(counts)
        lower = binomial_lower(counts[predicted], n, share)
        most = max(count for c, count in enumerate(counts) if c != predicted)
        return lower, min(binomial_upper(most, n, share), float_up(1 - Fraction(lower)))


@dataclass(frozen=True)
class Adaptive(Plan):
    """Draws until every radius of `targets` is certified, or the next one is hopeless; n draws at most.

    The bound is a confidence sequence by betting, valid whenever one stops. Hopeless is a target whose probability the
    mirrored bets refute at the same alpha, or that no draws that are left could reach; to stop there costs nothing
    but the certificate.
    """

    n: int = 200_000
    targets: tuple[float, ...] = (0.5,)
    kind = "betting"

    def bound(self) -> dict[str, object]:
        return {"kind": self.kind, "bets": list(BETS), "targets": list(self.targets)}

    def probabilities(self, predicted: int, counts: Sequence[int]) -> tuple[float, None]:
        return betting_lower(counts[predicted], sum(counts), self.alpha), None

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The probability that each target needs, ascending; inf where no probability is enough."""
        return tuple(self.noise.needed(target) for target in sorted(self.targets))

    def enough(self, predicted: int, counts: Sequence[int]) -> bool:
        n, successes = np.array(sum(counts)), np.array(counts[predicted])
        bets, goal, left = np.array(BETS), -np.log(self.alpha), self.n - sum(counts)
        for level in self.levels:
            if level >= 1:
                return True
            if log_wealth(successes, n, level, bets) >= goal:
                continue
            refuted = log_wealth(n - successes, n, 1 - level, bets) >= goal
            return bool(refuted or log_wealth(successes + left, n + left, level, bets) < goal)
        return True

    def blocks(self, batch: int) -> Iterator[int]:
        drawn = 0
        while drawn < self.n:
            size = min(batch, self.n - drawn, max(FIRST, drawn // GROWTH))
            yield size
            drawn += size


@dataclass(frozen=True)
class Exhaustive(Plan):
    """Every position of a blanking window once: a certificate without error, for patches (Levine and Feizi 2020b)."""

    kind = "exact"

    def __post_init__(self) -> None:
        """Raises BadOption for noise that cannot be listed."""
        if not isinstance(self.noise, Positions):
            raise BadOption(f"{self.noise.kind} noise cannot be listed exhaustively", "use bands or blocks")
        for name in ("n0", "n"):
            object.__setattr__(self, name, self.noise.positions)

    def probabilities(self, predicted: int, counts: Sequence[int]) -> tuple[float, float]:
        n = sum(counts)
        most = max(count for c, count in enumerate(counts) if c != predicted)
        return float_down(Fraction(counts[predicted], n)), float_up(Fraction(most, n))
