"""Threat models as a command line names them, and as attacks see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from attacks.catalogue import by_name, by_name_of_mixtures, by_name_of_parameters
from attacks.change import Mixed, Recolour, RotateShift, mixture
from attacks.ensemble import Ensemble
from attacks.regions import Ball, ball
from attacks.threats import Around, Changed, Threat
from certify.errors import BadOption

Range = tuple[float, float] | None
Options = dict[str, object]
"""What `attacks.catalogue.by_name` takes besides a name and a shape."""


class Allowed(Protocol):
    """What an adversary may do to samples.

    told  whether the parameters of a change are few, and part of a result
    """

    kind: str
    eps: str
    radius: float | None
    told: bool

    def around(self, x: Tensor, within: Range, attack: str, options: Options) -> Threat:
        """The threat to samples x (B, *shape). Raises BadOption where sample, range or attack do not fit."""
        ...


@dataclass(frozen=True)
class Moved:
    """Up to `radius`, which was written as `eps`, in the norm `kind`: inf, 2, 1 or 0."""

    kind: str
    eps: str
    radius: float

    told = False

    def around(self, x: Tensor, within: Range, attack: str, options: Options) -> Around:
        return Around(self.region(x, within), _made(lambda: by_name(attack, tuple(x.shape[1:]), **options)))

    def region(self, x: Tensor, within: Range) -> Ball:
        """The balls around samples. Raises BadOption."""
        try:
            return ball(x, self.radius, float(self.kind), within or (-np.inf, np.inf))
        except ValueError as error:
            raise BadOption(str(error), "check --eps, --norm and --range") from error


@dataclass(frozen=True)
class Mixture:
    """A part of what one ball allows, and the rest of what another does; the adversary chooses the part unless
    `weight` says which."""

    first: Moved
    second: Moved
    weight: float | None = None

    kind = "mixture"
    radius = None
    told = False

    @property
    def eps(self) -> str:
        parts = [f"{moved.kind}={moved.radius}" for moved in (self.first, self.second)]
        return ",".join([*parts, *([] if self.weight is None else [f"weight={self.weight}"])])

    def around(self, x: Tensor, within: Range, attack: str, options: Options) -> Changed:
        limits = (0.0, 1.0) if self.weight is None else (self.weight, self.weight)
        region = mixture(self.first.region(x, within), self.second.region(x, within), limits)
        size = region.start().shape[1]
        return Changed(Mixed(), region, _made(lambda: by_name_of_mixtures(attack, size, **options)))


@dataclass(frozen=True)
class Spatial:
    """Rotation up to so many degrees, and translation up to so many pixels along each axis."""

    rotation: float = 0.0
    translation: float = 0.0

    kind = "spatial"
    radius = None
    told = True

    @property
    def eps(self) -> str:
        return f"rotation={self.rotation:g},translation={self.translation:g}"

    def around(self, x: Tensor, within: Range, attack: str, options: Options) -> Changed:
        _check_images(x, self.kind)
        if within is not None and not within[0] <= 0 <= within[1]:
            raise BadOption("what a rotation brings into view is 0, which the data range excludes", "check --range")
        change = RotateShift(x)
        limits = (self.rotation, self.translation, self.translation)
        grid = _divided(change.GRID, limits)
        made = _made(lambda: by_name_of_parameters(attack, grid, **options))
        return Changed(change, change.region(self.rotation, self.translation), made)


@dataclass(frozen=True)
class Colour:
    """Contrast within 1 +- contrast, brightness up to a limit, hue turned by up to so many degrees."""

    contrast: float = 0.0
    brightness: float = 0.0
    hue: float = 0.0

    kind = "colour"
    radius = None
    told = True

    @property
    def eps(self) -> str:
        return f"contrast={self.contrast:g},brightness={self.brightness:g},hue={self.hue:g}"

    def around(self, x: Tensor, within: Range, attack: str, options: Options) -> Changed:
        _check_images(x, self.kind)
        if x.shape[1] not in (1, 3) or (self.hue and x.shape[1] != 3):
            raise BadOption(
                f"images of {x.shape[1]} channels have no such colours", "hue needs 3 channels, others 1 or 3"
            )
        if within != (0.0, 1.0):
            raise BadOption("colours are those of images in the range 0:1", "scale the data, and give --range 0:1")
        change = Recolour(x)
        grid = _divided(change.GRID, (self.contrast, self.brightness, self.hue))
        made = _made(lambda: by_name_of_parameters(attack, grid, **options))
        return Changed(change, change.region(self.contrast, self.brightness, self.hue), made)


def _divided(grid: tuple[int, ...], limits: tuple[float, ...]) -> tuple[int, ...]:
    """The points along each parameter: one, if it may not change."""
    return tuple(count if limit else 1 for count, limit in zip(grid, limits, strict=True))


def _check_images(x: Tensor, kind: str) -> None:
    if x.dim() != 4:
        raise BadOption(
            f"{kind} changes are those of images, not of samples of shape {tuple(x.shape[1:])}",
            "give samples (channels, height, width)",
        )


def _made(make: Callable[[], Ensemble]) -> Ensemble:
    try:
        return make()
    except ValueError as error:
        raise BadOption(str(error), "choose another --attack, or other options for it") from error
