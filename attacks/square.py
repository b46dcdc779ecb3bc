"""Square attack: random search with squares, which needs no gradient and is not fooled by a lack of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from attacks.base import Attack, Here, State
from attacks.geometry import LInf
from attacks.regions import Ball

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Parts of the budget after which the squares' area halves."""


@dataclass(frozen=True)
class Square(Attack):
    """Random squares of the image are moved to corners of the region, and kept if the loss falls
    (Andriushchenko et al. 2020, algorithms 1 to 3).

    For norms other than L-infinity a square is pushed along a random pattern, the offset elsewhere gives way, and
    what results is projected.

    shape  of an image (channels, height, width); other inputs are one row
    part   of the image that the first squares cover
    since  how much of the schedule is over at the beginning: from 0 the search begins with stripes, later with the
           points it is given, from which smaller squares lead on
    share  whether a region's restarts all go on from the best of them, and so are many squares for one call of the
           model: a call costs more than its arithmetic where few samples stand
    """

    steps: int = 5000
    shape: tuple[int, ...] = ()
    part: float = 0.8
    since: float = 0.0
    share: bool = False

    descends = False

    def begin(self, x: Tensor, region: Ball) -> State:
        return x, torch.full_like(x[:, 0], torch.inf)  # the best point, and its loss

    def move(self, i: int, here: Here, region: Ball, state: State) -> tuple[Tensor, State]:
        best, least = state
        better = here.loss < least
        best, least = torch.where(better[:, None], here.x, best), torch.where(better, here.loss, least)
        if self.share:
            best, least = self._shared(best, least)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + i)
        channels, height, width = self._image(best.shape[1])
        if i == 0 and not self.since:
            signs = _signs((len(best), channels, 1, width), generator).expand(-1, -1, height, -1)
            mask = torch.ones(len(best), 1, height, width, dtype=torch.bool)
        else:
            side = self._side(i, height, width)
            mask = _squares(len(best), height, width, side, generator)
            signs = _signs((len(best), channels, 1, 1), generator).expand(-1, -1, height, width)
        signs, mask = (t.expand(-1, channels, -1, -1).flatten(1).to(best.device) for t in (signs, mask))
        return _pushed(region, best, signs.to(best.dtype), mask), (best, least)

    def _shared(self, best: Tensor, least: Tensor) -> State:
        """The best of each region's entries, for all of them."""
        least, which = least.view(-1, self.restarts).min(1)
        best = best.view(len(least), self.restarts, -1)[torch.arange(len(least), device=best.device), which]
        return best.repeat_interleave(self.restarts, 0), least.repeat_interleave(self.restarts)

    def _image(self, size: int) -> tuple[int, int, int]:
        return self.shape if len(self.shape) == 3 else (1, 1, size)

    def _side(self, i: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of the squares of step i."""
        progress = self.since + (1 - self.since) * i / self.steps
        area = self.part / 2 ** sum(progress > part for part in HALVINGS)
        if height == 1:
            return 1, max(1, round(area * width))
        side = max(1, round(sqrt(area * height * width)))
        return min(side, height), min(side, width)


def _pushed(region: Ball, x: Tensor, signs: Tensor, mask: Tensor) -> Tensor:
    """x with the entries of the mask at the region's far side along `signs`."""
    low, high = region.bounds
    if isinstance(region.norm, LInf):
        return torch.where(mask, torch.where(signs > 0, high, low), x)
    wide, norm, radius = region.wide, region.norm, region.wide(region.radius.unsqueeze(-1))
    center, offset, chosen = wide(region.center), wide(x - region.center), wide(mask)
    pattern = chosen * (signs + offset.sign())
    inside = norm.length(chosen * offset).unsqueeze(-1)
    spare = (radius.square() - norm.length(offset).unsqueeze(-1).square()).clamp_min(0).sqrt()
    room = (pattern * torch.finfo(center.dtype).max).clamp(wide(low) - center, wide(high) - center).abs()
    taken = torch.minimum(inside + spare + 0.1 * radius, radius)
    own = norm.steepest(pattern.abs(), room, taken) * pattern.sign()
    rest = offset - chosen * offset
    length = norm.length(own).unsqueeze(-1)
    left = (radius.square() - length.square()).clamp_min(0).sqrt() if norm.p == 2 else (radius - length).clamp_min(0)
    shrunk = rest * (left / norm.length(rest).unsqueeze(-1).clamp_min(1e-30)).clamp_max(1)
    return region.project((center + own + (rest if norm.p == 0 else shrunk)).to(x.dtype))


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2 - 1


def _squares(count: int, height: int, width: int, side: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(B, 1, height, width): one random rectangle each, true inside."""
    tall, wide = side
    top = torch.randint(height - tall + 1, (count, 1), generator=generator)
    left = torch.randint(width - wide + 1, (count, 1), generator=generator)
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside = ((rows >= top) & (rows < top + tall))[:, :, None] & ((columns >= left) & (columns < left + wide))[:, None]
    return inside[:, None]
