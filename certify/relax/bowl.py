"""Lines around convex functions: a tangent below, the chord above."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.graph import ops
from certify.relax.s_shaped import Function


@dataclass(frozen=True)
class Bowl:
    """A convex function, its first two derivatives, and where the first has a given value.

    `span` says between which numbers of a type all of them, and their products with numbers of that size, are finite;
    what lies beyond is read as that.
    """

    f: Function
    derivative: Function
    bend: Function
    place: Function
    span: Callable[[torch.dtype], tuple[float, float]]

    def clamp(self, bound: Tensor) -> Tensor:
        return bound.clamp(*self.span(bound.dtype))

    def tangent(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and shift of the line that touches at `at`, from below."""
        slope = self.derivative(at)
        return slope, self.f(at) - slope * at

    def chord(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and shift of the line through both ends. By the mean value theorem its slope is one of the function's;
        on a narrow interval the quotient is all rounding, and this keeps it sensible."""
        lower, upper = self.clamp(lower), self.clamp(upper)
        below, above = self.f(lower), self.f(upper)
        quotient = (above - below) / (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny)
        slope = torch.minimum(torch.maximum(quotient, self.derivative(lower)), self.derivative(upper))
        return slope, torch.maximum(below - slope * lower, above - slope * upper)


def _all_finite(dtype: torch.dtype) -> tuple[float, float]:
    most = torch.finfo(dtype).max
    return -most / 4, math.log(most) - 12


def _square_finite(dtype: torch.dtype) -> tuple[float, float]:
    most = torch.finfo(dtype).max ** 0.5 / 4
    return -most, most


def _positive(dtype: torch.dtype) -> tuple[float, float]:
    most = torch.finfo(dtype).max
    return most**-0.25, most / 4


EXP = Bowl(torch.exp, torch.exp, torch.exp, torch.log, _all_finite)
SQUARE = Bowl(torch.square, lambda x: 2 * x, lambda x: torch.full_like(x, 2.0), lambda slope: slope / 2, _square_finite)
RECIPROCAL = Bowl(  # right of 0
    torch.reciprocal,
    lambda x: -x.reciprocal().square(),
    lambda x: 2 * x.reciprocal() ** 3,
    lambda slope: slope.neg().rsqrt(),
    _positive,
)
BOWLS = {ops.Exp: EXP, ops.Square: SQUARE, ops.Reciprocal: RECIPROCAL}


class Bowled:
    """The lines of a `Bowl` on [lower, upper], each (B, *N), by where the tangent touches: parameter t is the share of
    the interval left of it, and 1/2 the line of least area.

    1 / x is this right of 0, and left of it turned about the origin, so that the tangent is above; around 0 its lines
    are level, as far off as the type allows.
    """

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        self.bowl = BOWLS[type(op)]
        odd = isinstance(op, ops.Reciprocal)
        nowhere = torch.zeros_like(lower, dtype=torch.bool)
        self.turned = (upper < 0) if odd else nowhere
        self.level = (lower <= 0) & (upper >= 0) if odd else nowhere
        self.lower = self.bowl.clamp(torch.where(self.turned, -upper, lower))
        self.upper = self.bowl.clamp(torch.where(self.turned, -lower, upper))
        self.chord = self.bowl.chord(self.lower, self.upper)

    def at(self, t: Tensor) -> Tensor:
        """Where the tangent touches, in the coordinates of the bowl."""
        return torch.lerp(self.lower, self.upper, torch.where(self.turned, 1 - t, t))

    def lines(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope and shift of the lower line, and of the upper one; t (B, S, *N)."""
        (below, down), (above, up) = self.bowl.tangent(self.at(t)), self.chord
        far = torch.finfo(t.dtype).max / 4
        slopes = torch.where(self.turned, above, below), torch.where(self.turned, below, above)
        shifts = torch.where(self.turned, -up, down), torch.where(self.turned, -down, up)
        return (
            slopes[0].masked_fill(self.level, 0),
            shifts[0].masked_fill(self.level, -far),
            slopes[1].masked_fill(self.level, 0),
            shifts[1].masked_fill(self.level, far),
        )

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        """How the value at z of the upper line, where `up`, else of the lower one changes with t."""
        at = self.at(t)
        moved = self.bowl.bend(at) * (torch.where(self.turned, -z, z) - at) * (self.upper - self.lower)
        return torch.where((up == self.turned) & ~self.level, moved, 0)


def band(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, shift and radius of the narrowest band: along the chord, and as deep as the bowl is under it."""
    lines = Bowled(op, lower, upper)
    slope, up = lines.chord
    at = torch.minimum(torch.maximum(lines.bowl.place(slope), lines.lower), lines.upper)
    down = torch.minimum(lines.bowl.f(at) - slope * at, up)
    shift = (up + down) / 2
    return (
        slope.masked_fill(lines.level, 0),
        torch.where(lines.turned, -shift, shift).masked_fill(lines.level, 0),
        ((up - down) / 2).masked_fill(lines.level, torch.finfo(lower.dtype).max / 4),
    )
