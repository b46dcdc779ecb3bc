"""Input regions: what the network's input may be.

A region is a set of real vectors, held in float64 and flattened in C order. Membership is decided
exactly, in rational arithmetic; the bounding box is rounded outward, so it contains every point of
the region. Search and attacks work on an `InputSet`, a batch of regions as tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Union

import numpy as np

from certify.errors import EmptyRegion, MalformedSpec

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray
ArrayLike = Union[Array, "Tensor", list, tuple, float]
"""What `box` and `ball` read: arrays, tensors on any device, lists of numbers."""


@dataclass(frozen=True, eq=False)
class Region:
    """All x with lower <= x <= upper (each (d,), float64, finite) and, if `norm` is given,
    with ||x - center|| <= radius in that norm (1, 2 or inf).

    Use `box` and `ball` to make one; `shape` is that of the arrays they were made of, for networks that do not
    tell the shape of their input. Raises EmptyRegion where no point satisfies the bounds.
    """

    lower: Array
    upper: Array
    center: Array | None = None
    radius: float = 0.0
    norm: float | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            if not np.isfinite(getattr(self, name)).all():
                at = int(np.flatnonzero(~np.isfinite(getattr(self, name)))[0])
                raise MalformedSpec(f"the region's {name} bound of input {at} is not finite", "bound every input")
        crossed = np.flatnonzero(self.lower > self.upper)
        if crossed.size:
            i = int(crossed[0])
            raise EmptyRegion(
                f"the region is empty: input {i} would lie in [{self.lower[i]:.9g}, {self.upper[i]:.9g}]",
                "correct the bounds (a proof over an empty region is vacuous)",
            )
        if self.norm is not None and not self.contains(np.clip(self.center, self.lower, self.upper)):
            raise EmptyRegion("the ball and the data range do not meet", "check the centre, the radius and the range")

    @property
    def size(self) -> int:
        return self.lower.size

    def contains(self, x: Array) -> bool:
        """Whether x (d,), read as exact reals, lies in the region. No tolerance."""
        x = np.asarray(x, np.float64).reshape(-1)
        if x.size != self.size or not np.isfinite(x).all():
            return False
        if (x < self.lower).any() or (x > self.upper).any():
            return False
        if self.norm is None:
            return True
        pairs = zip(x.tolist(), self.center.tolist(), strict=True)
        offsets = [abs(Fraction(a) - Fraction(b)) for a, b in pairs if a != b]
        radius = Fraction(self.radius)
        if self.norm == 1:
            return sum(offsets, Fraction(0)) <= radius
        if self.norm == 2:
            return sum((o * o for o in offsets), Fraction(0)) <= radius * radius
        return max(offsets, default=Fraction(0)) <= radius

    def pull_inside(self, x: Array, dtype: np.dtype | type = np.float32) -> Array | None:
        """A point of the region next to x whose entries are numbers of `dtype` wherever the region
        allows one, as float64; None if none was found."""
        x = np.clip(np.asarray(x, np.float64).reshape(-1), self.lower, self.upper)
        for shrink in (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
            near = x if self.center is None else x + shrink * (self.center - x)
            rounded = near.astype(dtype)
            inside = np.where(rounded > self.upper, np.nextafter(rounded, rounded.dtype.type(-np.inf)), rounded)
            inside = np.where(inside < self.lower, np.nextafter(inside, rounded.dtype.type(np.inf)), inside)
            inside = inside.astype(np.float64)
            outside = (inside < self.lower) | (inside > self.upper)  # no number of `dtype` between the bounds
            inside = np.where(outside, np.clip(near, self.lower, self.upper), inside)
            if self.contains(inside):
                return inside
            if self.norm is None:
                break
        return None


def box(lower: ArrayLike, upper: ArrayLike) -> Region:
    """The box lower <= x <= upper; arrays of any one shape, read in C order."""
    lower, upper = as_array(lower, "a lower bound"), as_array(upper, "an upper bound")
    if lower.size != upper.size:
        raise MalformedSpec(
            f"a box needs as many lower as upper bounds, not {lower.size} and {upper.size}",
            "give both for every input",
        )
    return Region(lower.reshape(-1), upper.reshape(-1), shape=lower.shape)


def ball(
    center: ArrayLike, radius: float, norm: float = np.inf, within: tuple[ArrayLike, ArrayLike] | None = None
) -> Region:
    """All x with ||x - center|| <= radius (norm 1, 2 or inf), inside the data range `within` if given: a lower
    and an upper bound, numbers or arrays of the centre's size.

    The bounding box is rounded outward. Raises MalformedSpec for a radius that is not positive and finite.
    """
    array = as_array(center, "the centre")
    center = array.reshape(-1)
    if norm not in (1, 2, np.inf):
        raise MalformedSpec(f"norm {norm} is not known", "use 1, 2 or inf")
    if not (np.isfinite(radius) and radius > 0):
        raise MalformedSpec(
            f"the radius must be positive and finite, not {radius}", "for a single point, use box(x, x)"
        )
    if not np.isfinite(center).all():
        raise MalformedSpec("the centre of the ball is not finite", "look for NaN or infinite entries in the input")
    lower = _outward(center, -radius, -np.inf)
    upper = _outward(center, radius, np.inf)
    if within is not None:
        low, high = (as_array(b, "the data range").reshape(-1) for b in within)
        if any(b.size not in (1, center.size) for b in (low, high)):
            raise MalformedSpec(
                f"the data range has {low.size} and {high.size} entries, the centre {center.size}",
                "give two numbers, or arrays of the centre's shape",
            )
        lower, upper = np.maximum(lower, low), np.minimum(upper, high)
    return Region(lower, upper, center, float(radius), float(norm), array.shape)


def as_array(values: ArrayLike, what: str) -> Array:
    """A float64 copy of an array or tensor."""
    if hasattr(values, "detach"):  # a tensor, perhaps on another device; torch itself is not needed to know
        values = values.detach().cpu().double().numpy()
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise MalformedSpec(f"{what} is not an array of numbers: {error}", "give an array or a tensor") from error


def _outward(center: Array, offset: float, toward: float) -> Array:
    """center + offset, rounded toward `toward` where it is not exact (two-sum tells)."""
    total = center + offset
    back = total - center
    error = (center - (total - back)) + (offset - back)
    return np.where(error * np.sign(toward) > 0, np.nextafter(total, toward), total)
