"""Gaussian noise on the parameter of a transformation: certificates against the transformation itself.

If transforming by a and then by b is transforming by a + b, then to smooth over the parameter is to smooth a function
of the parameter, and the radius of Gaussian smoothing bounds the parameter (Li et al. 2021, TSS, corollary 1;
Fischer et al. 2020). All three compose so; brightness and contrast do as real numbers, without clipping to a range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.smoothing.noise import Noise


@dataclass(frozen=True)
class Translation(Noise):
    """Images (..., H, W) moved round their edges by whole pixels: Gaussian of deviation sigma per axis, rounded.

    Certifies translations by whole pixels, round the edges: by (a, b) if the length of that vector is below the
    radius. Rounding what is added to whole numbers is adding rounded noise, so that they compose exactly.
    """

    sigma: float
    kind = "translation"
    norm = "pixels of translation"
    ideal = True

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        height, width = x.shape[-2:]
        moves = torch.empty((2, count, 1), dtype=torch.float64, device=x.device).normal_(generator=generator)
        moves = (moves * self.sigma).round().long()
        rows = (torch.arange(height, device=x.device) - moves[0]) % height
        columns = (torch.arange(width, device=x.device) - moves[1]) % width
        moved = x.reshape(-1, height, width)[:, rows[:, :, None], columns[:, None, :]]
        return moved.transpose(0, 1).reshape(count, *x.shape)


@dataclass(frozen=True)
class Brightness(Noise):
    """The same number, Gaussian, added to all values of an input. Certifies such changes, smaller than the radius."""

    sigma: float
    kind = "brightness"
    norm = "brightness"
    ideal = True

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return x + self.sigma * _one_each(x, count, generator)


@dataclass(frozen=True)
class Contrast(Noise):
    """All values multiplied by e^k, k Gaussian. Certifies factors between e^-radius and e^radius."""

    sigma: float
    kind = "contrast"
    norm = "logarithm of the contrast"
    ideal = True

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return x * (self.sigma * _one_each(x, count, generator)).exp()


def _one_each(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, one for each noisy version, (count, 1, ...)."""
    return torch.empty((count, *[1] * x.dim()), dtype=x.dtype, device=x.device).normal_(generator=generator)
