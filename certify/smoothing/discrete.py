"""Noise for binary and categorical data, and noise that blanks most of an image: certificates that count changes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.errors import BadOption
from certify.smoothing.noise import Noise


@dataclass(frozen=True)
class Flips(Noise):
    """Each 0 becomes 1 with probability `add`, each 1 becomes 0 with `delete` (Bojchevski et al. 2020).

    Radii count changes. Chances are met but for 2^-53, as here and below a float64 in [0, 1) decides.
    """

    add: float
    delete: float
    kind = "flips"
    norm = "L0"

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Raises BadOption unless x is of zeros and ones."""
        if not ((x == 0) | (x == 1)).all():
            raise BadOption("flips are noise for inputs of zeros and ones", "make the data binary")
        chance = torch.where(x == 1, self.delete, self.add).double()
        flipped = _uniform((count, *x.shape), generator) < chance
        return torch.where(flipped, 1 - x, x)


@dataclass(frozen=True)
class Categories(Noise):
    """Each of the values 0, step, ..., (count - 1) step is replaced with probability `flip` by another one."""

    flip: float
    count: int
    step: float = 1.0
    kind = "categories"
    norm = "L0"

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Raises BadOption unless x is of such values."""
        places = (x.double() / self.step).round()
        if not torch.allclose(places * self.step, x.double(), rtol=2e-7) or places.min() < 0:
            raise BadOption(f"categories need inputs of whole multiples of {self.step}", "name the step of the data")
        if places.max() >= self.count:
            raise BadOption(f"the input has more than {self.count} categories", "raise their number")
        shape = (count, *x.shape)
        flipped = _uniform(shape, generator) < self.flip
        by = torch.empty(shape, dtype=torch.int64, device=x.device).random_(1, self.count, generator=generator)
        return (torch.where(flipped, (places + by) % self.count, places) * self.step).to(x.dtype)


@dataclass(frozen=True)
class Ablation(Noise):
    """All pixels but `keep` of `size`, drawn evenly, are blanked: set to 0 (Levine and Feizi 2020a).

    The `size` pixels are the last axes of an input, the axes before are channels. A changed pixel counts once.
    """

    size: int
    keep: int
    kind = "ablation"
    norm = "L0"

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Raises BadOption unless x is made of `size` pixels."""
        if x.numel() % self.size:
            raise BadOption(f"ablation is of {self.size} pixels, the input has {x.numel()} values", "give its size")
        order = _uniform((count, self.size), generator).argsort(1)
        seen = torch.zeros((count, 1, self.size), dtype=x.dtype, device=x.device)
        seen.scatter_(2, order[:, None, : self.keep], 1.0)
        return (x.reshape(1, -1, self.size) * seen).reshape(count, *x.shape)


class Positions(Noise):
    """Noise that is one of few positions of a window; all else is blanked. `versions` lists them for an exact count."""

    norm = "patch"
    positions: int

    @abstractmethod
    def window(self, x: Tensor) -> Tensor:
        """(positions, *N): ones where x (*N) is seen, zeros where not."""

    def versions(self, x: Tensor) -> Tensor:
        """What is seen of x (*N) at each position, (positions, *N)."""
        return x * self.window(x)

    def sample(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        at = torch.empty(count, dtype=torch.int64, device=x.device).random_(0, self.positions, generator=generator)
        return self.versions(x)[at]


@dataclass(frozen=True)
class Bands(Positions):
    """All but a band of `width` columns is blanked, of `positions` columns, round the edge (Levine and Feizi 2020b).

    Radii are sides of a square patch anywhere in the image, in which everything may change.
    """

    positions: int
    width: int
    kind = "bands"

    def window(self, x: Tensor) -> Tensor:
        """Raises BadOption unless the last axis has `positions` columns."""
        if x.shape[-1] != self.positions:
            raise BadOption(f"the image has {x.shape[-1]} columns, not {self.positions}", "give its own number")
        seen = _span(self.positions, self.width, x)
        return seen.reshape(self.positions, *[1] * (x.dim() - 1), -1)


@dataclass(frozen=True)
class Blocks(Positions):
    """As `Bands`, with a square block; `positions` is the number of pixels."""

    positions: int
    width: int
    kind = "blocks"

    def window(self, x: Tensor) -> Tensor:
        """Raises BadOption unless the last two axes have `positions` pixels, and at least `width` rows and columns."""
        *before, height, width = x.shape
        if height * width != self.positions or min(height, width) < self.width:
            raise BadOption(f"the image has {height} x {width} pixels, not {self.positions}", "give its own number")
        rows, columns = _span(height, self.width, x), _span(width, self.width, x)
        seen = rows[:, None, :, None] * columns[None, :, None, :]
        return seen.reshape(self.positions, *[1] * len(before), height, width)


def _span(length: int, width: int, like: Tensor) -> Tensor:
    """(length, length): row i has ones from column i on, `width` of them, round the edge."""
    index = torch.arange(length, device=like.device)
    return ((index[None] - index[:, None]) % length < width).to(like.dtype)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
