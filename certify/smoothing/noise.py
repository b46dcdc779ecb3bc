"""The noise under which a classifier is smoothed: how it is drawn, and the radius that probabilities under it prove.

The default caveat: samples are float32 numbers from a pseudorandom generator, and a certificate takes them for draws
of the real distribution; Vorácek and Hein (ICLR 2023) construct classifiers for which that is wrong.
`RoundedGaussian` needs only that the generator's bits are random.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from math import floor, inf
from typing import ClassVar

import torch
from torch import Tensor

from certify.check import radii
from certify.check.tails import DOWN, normal_cdf
from certify.errors import BadOption, EvidenceRejected


class Noise(ABC):
    """A frozen dataclass whose fields are the parameters; `kind` names its rule in `certify.check.radii`.

    `norm` says in which norm, or number of what, a radius is measured. `ideal` says whether certificates take floating
    point numbers for draws of a distribution on the reals.
    """

    kind: ClassVar[str]
    norm: ClassVar[str]
    ideal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raises BadOption for parameters that make no sense."""
        try:
            self.radius(0.75)
        except EvidenceRejected as error:
            raise BadOption(error.what) from error

    @abstractmethod
    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` noisy versions (count, *N) of x (*N), drawn from `generator`, which is on the device of x."""

    def described(self) -> dict[str, object]:
        """The parameters, and the kind: what evidence says about the noise."""
        return {"kind": self.kind, **asdict(self)}

    def radius(self, lower: float, upper: float | None = None) -> float:
        """How far the input may change if the class has probability >= lower and any other one <= upper (or else
        1 - lower); rounded down, 0.0 if nothing is certified. Sound for changes smaller than it (counts: up to it)."""
        low = Fraction(lower)
        return radii.radius(self.described(), low, 1 - low if upper is None else Fraction(upper))

    def needed(self, radius: float) -> float:
        """The least probability, as float64, whose one-sided radius is `radius` or more; inf if there is none."""
        low, high = 0.5, 1 - 2.0**-53
        if self.radius(high) < radius:
            return inf
        while (middle := low + (high - low) / 2) not in (low, high):
            low, high = (low, middle) if self.radius(middle) >= radius else (middle, high)
        return high


@dataclass(frozen=True)
class Gaussian(Noise):
    """Normal noise of standard deviation sigma in each coordinate; radii in L2 (Cohen et al. 2019)."""

    sigma: float
    kind = "gaussian"
    norm = "L2"
    ideal = True

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        noise = torch.empty((count, *x.shape), dtype=x.dtype, device=x.device).normal_(generator=generator)
        return torch.add(x, noise, alpha=self.sigma, out=noise)


@dataclass(frozen=True)
class Uniform(Noise):
    """Noise uniform in [-width, width] in each coordinate; radii in L1 (Yang et al. 2020)."""

    width: float
    kind = "uniform"
    norm = "L1"
    ideal = True

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        noise = torch.empty((count, *x.shape), dtype=x.dtype, device=x.device)
        return noise.uniform_(-self.width, self.width, generator=generator).add_(x)


@dataclass(frozen=True)
class Laplace(Noise):
    """Noise of density exp(-|z| / scale) / (2 scale) in each coordinate; radii in L1 (Teng et al. 2020)."""

    scale: float
    kind = "laplace"
    norm = "L1"
    ideal = True

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        noise = torch.empty((count, *x.shape), dtype=x.dtype, device=x.device)
        sign = torch.empty_like(noise).uniform_(-1, 1, generator=generator)
        noise.exponential_(generator=generator).copysign_(sign)
        return torch.add(x, noise, alpha=self.scale, out=noise)


LEADING = 14
"""Random bits that tell, but for a step and outside the tails, what rounded noise is."""


@dataclass(frozen=True)
class RoundedGaussian(Noise):
    """Gaussian noise on inputs that are whole multiples of `step`, rounded to such: whole numbers are drawn, exactly
    but for 2^-63, and the certificate accounts for that (after Vorácek and Hein 2023). Radii in L2.

    Rounding to the grid is part of the base classifier; so nothing depends on how floats are rounded. `size` is the
    number of coordinates of an input.
    """

    sigma: float
    step: float
    size: int
    kind = "rounded-gaussian"
    norm = "L2"

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Raises BadOption if x does not lie on the grid, but for float32 rounding, or has another size."""
        places = (x.double() / self.step).round()
        if x.numel() != self.size or not torch.allclose(places * self.step, x.double(), rtol=2e-7, atol=0):
            what = f"{self.size} whole multiples of {self.step}"
            raise BadOption(f"rounded noise needs inputs of {what}", "give the --step of the data, as 1/255")
        bits = torch.empty((count, *x.shape), dtype=torch.int64, device=x.device).random_(generator=generator)
        moves = self._below(bits).sub_(len(self._thresholds) // 2)
        return moves.double().add_(places).mul_(self.step).to(x.dtype)

    def _below(self, bits: Tensor) -> Tensor:
        """How many thresholds are at most `bits`, for each of them: `searchsorted`, in a quarter of its time.

        The leading bits tell but for one threshold, mostly; where they do not, in the tails, it is searched.
        """
        table, padded, first = (part.to(bits.device) for part in (self._thresholds, *self._guide))
        found = first[bits >> (radii.BITS - LEADING)]
        crowded = found < 0
        found += bits >= padded[found]
        found[crowded] = torch.searchsorted(table, bits[crowded], right=True)
        return found

    @cached_property
    def _guide(self) -> tuple[Tensor, Tensor]:
        """The thresholds with an end, and by leading bits: how many are at most all numbers that begin so, if at most
        one more is among these, else -1."""
        table, width = self._thresholds, radii.BITS - LEADING
        starts = torch.arange(2**LEADING) << width
        low, high = (torch.searchsorted(table, end, right=True) for end in (starts, starts + (2**width - 1)))
        first = torch.where(high - low <= 1, low, -1)
        return torch.cat([table, table[-1:]]), first

    @cached_property
    def _thresholds(self) -> Tensor:
        """2 reach numbers, ascending: how many of them are at most the bits, less reach, is the noise in steps.

        They are 2^63 Phi((m - 1/2) step / sigma), cut off, for m from 1 - reach to reach.
        """
        far = radii.reach(self.sigma, self.step)
        ratio = Fraction(self.step) / Fraction(self.sigma)
        lower = [normal_cdf((Fraction(2 * i - 1, 2) - far) * ratio, DOWN) for i in range(1, 2 * far + 1)]
        whole = [min(floor(Fraction(p) * 2**radii.BITS), 2**radii.BITS - 1) for p in lower]
        return torch.tensor(whole, dtype=torch.int64)
