"""Random changes of the training images that leave their classes as they are, so that fewer images go further."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from certify.errors import BadOption


@dataclass(frozen=True)
class Augment:
    """Each image of a batch (B, C, H, W) shifted, turned, stretched and mirrored by chance; zeros enter at the edges.

    pixels   the largest shift along each axis; without turn and stretch by whole pixels, as a random crop of the padded
             image, else by any part of one
    degrees  the largest angle to either side
    stretch  the largest change of size: 0.1 is from 0.9 to 1.1 times
    mirror   the share of the images whose left and right are swapped

    Raises BadOption for numbers that make no such change, and, called, for samples that are no images, or none that
    are larger than the shift.
    """

    pixels: float = 0.0
    degrees: float = 0.0
    stretch: float = 0.0
    mirror: float = 0.0

    def __post_init__(self) -> None:
        moves = 0 <= self.pixels < math.inf and 0 <= self.degrees <= 180
        if not moves or not 0 <= self.stretch < 1 or not 0 <= self.mirror <= 1:
            remedy = "pixels >= 0; degrees in [0, 180]; stretch in [0, 1); mirror in [0, 1]"
            raise BadOption(f"images cannot be changed by {self}", remedy)
        if self.pixels % 1 and not (self.degrees or self.stretch):
            raise BadOption(f"images are shifted by whole pixels, not by up to {self.pixels}", "use a whole number")

    def __call__(self, x: Tensor) -> Tensor:
        """The batch, changed by draws from torch's generator; the same for the same draws."""
        least = min(_sides(x))
        if self.pixels >= least:
            raise BadOption(f"a shift by {self.pixels:g} pixels leaves nothing of {least}", "shift by fewer")
        if self.mirror:
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < self.mirror, x.flip(3), x)
        if self.degrees or self.stretch:
            return moved(x, self.pixels, self.degrees, self.stretch)
        return _cropped(x, int(self.pixels)) if self.pixels else x


def moved(x: Tensor, pixels: float, degrees: float, stretch: float = 0.0) -> Tensor:
    """Images (B, C, H, W), each shifted by up to `pixels` along each axis, turned by up to `degrees` and stretched by
    up to a factor 1 + `stretch`, all uniformly drawn; interpolated linearly, zeros outside.

    Raises BadOption for samples that are no images.
    """
    height, width = _sides(x)
    angle, across, down = x.new_empty(3, len(x)).uniform_(-1, 1)
    angle = angle * math.radians(degrees)
    size = 1 / (1 + x.new_empty(len(x)).uniform_(-stretch, stretch)) if stretch else torch.ones_like(angle)
    shifts = (across * 2 * pixels / width, down * 2 * pixels / height)
    cosine, sine, aspect = size * angle.cos(), size * angle.sin(), height / width
    # Where an output pixel comes from, in coordinates from -1 to 1 across the image.
    rows = torch.stack([cosine, -sine * aspect, shifts[0], sine / aspect, cosine, shifts[1]], 1).view(-1, 2, 3)
    return grid_sample(x, affine_grid(rows, list(x.shape), align_corners=False), align_corners=False)


def _sides(x: Tensor) -> tuple[int, int]:
    """Height and width of images (B, C, H, W)."""
    if x.dim() != 4:
        raise BadOption(f"only images can be moved or mirrored, not samples of {tuple(x.shape[1:])}", "leave it out")
    return x.shape[2], x.shape[3]


def _cropped(x: Tensor, pixels: int) -> Tensor:
    """Windows of the images' own size at whole-pixel places, drawn by chance, of the images with `pixels` zeros
    around them."""
    height, width = x.shape[2:]
    down, across = torch.randint(2 * pixels + 1, (2, len(x), 1), device=x.device)
    rows = (down + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (across + torch.arange(width, device=x.device))[:, None, None, :]
    samples = torch.arange(len(x), device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return pad(x, (pixels,) * 4)[samples, channels, rows, columns]


def parse(text: str) -> Augment:
    """Words as `pixels=2,degrees=10`. Raises BadOption for others."""
    known, given = [f.name for f in fields(Augment)], {}
    for word in filter(None, text.split(",")):
        name, _, number = word.partition("=")
        if name not in known:
            raise BadOption(f"--augment {text}: images are not changed by {name!r}", f"there are {', '.join(known)}")
        try:
            given[name] = float(number)
        except ValueError as error:
            raise BadOption(f"--augment {text}: {number!r} is not a number", "write it like pixels=2") from error
    return Augment(**given)


def written(augment: Augment) -> str:
    """What `parse` reads as this."""
    changes = {f.name: getattr(augment, f.name) for f in fields(Augment)}
    return ",".join(f"{name}={float(number)!r}".removesuffix(".0") for name, number in changes.items() if number)
