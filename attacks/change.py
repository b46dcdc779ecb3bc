"""Inputs as functions of other numbers: rotations and shifts, colours, mixtures of several perturbations.

Every attack of this package looks for points of a region; here the points are the parameters, and the objective is
that of the input they make. So worst-of-k, a grid and first-order search are the attacks that there are anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from attacks.base import Attack, Here, Objective, Region, State, choose
from attacks.classifier import Loss
from attacks.regions import Ball, Box, Joint, refuse_half


class Change(Protocol):
    """Makes inputs of parameters."""

    def __call__(self, z: Tensor) -> Tensor:
        """Inputs (B, d) of parameters (B, k), differentiable."""
        ...

    def select(self, index: Tensor) -> Change:
        """That of the entries at `index`."""
        ...


@dataclass(frozen=True, eq=False)
class Through:
    """The objective of what `change` makes of its argument."""

    objective: Objective
    change: Change

    def __call__(self, z: Tensor) -> Tensor:
        return self.objective(self.change(z))

    def guide(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, loss), each (B,)."""
        return self.objective.guide(self.change(z))

    def logits(self, z: Tensor) -> Tensor:
        """The model's answers (B, C)."""
        return self.objective.logits(self.change(z))

    def led_by(self, loss: Loss, targets: Tensor | None = None) -> Through:
        """The same goal, with another loss, and other targets (B,)."""
        return Through(self.objective.led_by(loss, targets), self.change)

    @property
    def labels(self) -> Tensor:
        """The classes (B,) to leave."""
        return self.objective.labels

    @property
    def spent(self) -> Tensor:
        """Queries of the N samples so far."""
        return self.objective.spent

    @property
    def entries(self) -> Tensor:
        """Which sample each entry (B,) belongs to."""
        return self.objective.entries

    def select(self, index: Tensor) -> Through:
        """The objective whose entry i is this one's entry index[i]."""
        return Through(choose(self.objective, index), self.change.select(index))


@dataclass(frozen=True, eq=False)
class RotateShift:
    """Images (B, C, H, W) turned by z[:, 0] degrees and shifted by z[:, 1] rows and z[:, 2] columns; bilinear, what
    comes into view is 0 (Engstrom et al. 2019)."""

    images: Tensor

    GRID: ClassVar[tuple[int, ...]] = (31, 5, 5)
    """Points along each parameter that are usually tried (section 4.1)."""

    def __post_init__(self) -> None:
        refuse_half(self.images)

    def __call__(self, z: Tensor) -> Tensor:
        return _warped(self.images, z).flatten(1)

    def select(self, index: Tensor) -> RotateShift:
        return RotateShift(self.images[index])

    def region(self, degrees: float, pixels: float) -> Box:
        """The parameters up to these limits, either way."""
        most = self.images.new_tensor([degrees, pixels, pixels]).expand(len(self.images), -1)
        return Box(-most, most)


@dataclass(frozen=True, eq=False)
class Recolour:
    """Images (B, 3 or 1, H, W) in [0, 1]: contrast around grey times z[:, 0], brightness plus z[:, 1], and for three
    channels the hue turned by z[:, 2] degrees (a rotation about the grey axis), clipped to [0, 1]."""

    images: Tensor

    GRID: ClassVar[tuple[int, ...]] = (7, 7, 13)
    """Points along each parameter that are usually tried."""

    def __post_init__(self) -> None:
        refuse_half(self.images)

    def __call__(self, z: Tensor) -> Tensor:
        x = 0.5 + z[:, 0, None, None, None] * (self.images - 0.5) + z[:, 1, None, None, None]
        if x.shape[1] == 3:
            angle, root = torch.deg2rad(z[:, 2, None, None, None]), 1 / math.sqrt(3)
            grey = x.mean(1, keepdim=True)
            across = root * (x.roll(-1, 1) - x.roll(-2, 1))  # the cross product with the grey axis
            x = grey + angle.cos() * (x - grey) - angle.sin() * across
        return x.clamp(0, 1).flatten(1)

    def select(self, index: Tensor) -> Recolour:
        return Recolour(self.images[index])

    def region(self, contrast: float, brightness: float, degrees: float = 0.0) -> Box:
        """Contrast within 1 +- contrast, brightness and hue up to these limits."""
        most = self.images.new_tensor([contrast, brightness, degrees]).expand(len(self.images), -1)
        middle = self.images.new_tensor([1.0, 0.0, 0.0])
        return Box(middle - most, middle + most)


class Mixed:
    """Inputs with a part of one perturbation and the rest of another: w a + (1 - w) b of points a, b of two balls
    around the same centres, and a weight w (affine mixtures: Tramer & Boneh 2019, section 3), joined: (B, d + d + 1).

    Every entry lies between those of a and b, so that what comes out is in the data range.
    """

    def __call__(self, z: Tensor) -> Tensor:
        a, b = z[:, :-1].chunk(2, 1)
        mixed = z[:, -1:] * a + (1 - z[:, -1:]) * b
        with torch.no_grad():  # rounding is taken back, exactly, and passes gradients on
            excess = mixed - mixed.clamp(torch.minimum(a, b), torch.maximum(a, b))
        return mixed - excess

    def select(self, index: Tensor) -> Mixed:
        return self


@dataclass(frozen=True, eq=False)
class Warped:
    """A perturbed image, turned and shifted: the parameters are the perturbed image's and RotateShift's, joined."""

    shape: tuple[int, ...]

    def __call__(self, z: Tensor) -> Tensor:
        return _warped(z[:, :-3].view(-1, *self.shape), z[:, -3:]).flatten(1)

    def select(self, index: Tensor) -> Warped:
        return self


def mixture(a: Ball, b: Ball, weight: tuple[float, float] = (0.0, 1.0)) -> Joint:
    """The region of `Mixed`: of what a allows a share within these limits, the adversary's choice, the rest of what b
    allows."""
    low, high = (a.center.new_full((len(a), 1), share) for share in weight)
    return Joint((a, b, Box(low, high)))


@dataclass(frozen=True)
class Grid(Attack):
    """The middle, and all points of a grid in boxes of few parameters, the corners included.

    each  points along each parameter, for as many parameters as there are; `steps` follows from it
    """

    each: tuple[int, ...] = (31, 5, 5)

    descends = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", math.prod(self.each))
        super().__post_init__()

    def begin(self, x: Tensor, region: Region) -> State:
        if not isinstance(region, Box) or x.shape[1] != len(self.each):
            raise ValueError(f"a grid of {len(self.each)} axes needs boxes of as many parameters, not {x.shape[1]}")
        return ()

    def move(self, i: int, here: Here, region: Box, state: State) -> tuple[Tensor, State]:
        parts = []
        for count in self.each:
            parts.append((i % count) / max(1, count - 1) if count > 1 else 0.5)
            i //= count
        share = here.x.new_tensor(parts)
        return region.project(region.lower + share * (region.upper - region.lower)), state


def _warped(images: Tensor, z: Tensor) -> Tensor:
    """Images (B, C, H, W) after RotateShift's parameters (B, 3)."""
    height, width = images.shape[2:]
    angle = torch.deg2rad(z[:, 0])
    cosine, sine = angle.cos(), angle.sin()
    # Where an output pixel comes from, in coordinates from -1 to 1 across the image.
    across = torch.stack([cosine, -sine * height / width, -2 * z[:, 2] / width], 1)
    down = torch.stack([sine * width / height, cosine, -2 * z[:, 1] / height], 1)
    grid = torch.nn.functional.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)
