"""Lines around convex functions: a tangent below, the chord above."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.evaluate import softplus
from certify.relax.s_shaped import Function, sigmoid_derivative


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


def _far_right(dtype: torch.dtype) -> tuple[float, float]:
    most = torch.finfo(dtype).max
    return 4 * most**-0.5, most / 4


def _any(dtype: torch.dtype) -> tuple[float, float]:
    most = torch.finfo(dtype).max
    return -most / 4, most / 4


EXP = Bowl(torch.exp, torch.exp, torch.exp, torch.log, _all_finite)
SQUARE = Bowl(torch.square, lambda x: 2 * x, lambda x: torch.full_like(x, 2.0), lambda slope: slope / 2, _square_finite)
RECIPROCAL = Bowl(  # right of 0
    torch.reciprocal,
    lambda x: -x.reciprocal().square(),
    lambda x: 2 * x.reciprocal() ** 3,
    lambda slope: slope.neg().rsqrt(),
    _positive,
)
RSQRT = Bowl(
    torch.rsqrt,
    lambda x: -x.rsqrt() / x / 2,
    lambda x: 0.75 * x.rsqrt() / x / x,
    lambda slope: (-2 * slope) ** (-2 / 3),
    _positive,
)
MINUS_LOG = Bowl(
    lambda x: -x.log(),
    lambda x: -x.reciprocal(),
    lambda x: x.reciprocal().square(),
    lambda slope: slope.neg().reciprocal(),
    _far_right,
)
MINUS_SQRT = Bowl(
    lambda x: -x.sqrt(),
    lambda x: -x.rsqrt() / 2,
    lambda x: x.rsqrt() / x / 4,
    lambda slope: (2 * slope).square().reciprocal(),
    _far_right,
)
SOFTPLUS = Bowl(softplus, torch.sigmoid, sigmoid_derivative, torch.logit, _any)
BOWLS = {
    ops.Exp: EXP,
    ops.Square: SQUARE,
    ops.Reciprocal: RECIPROCAL,
    ops.Rsqrt: RSQRT,
    ops.Log: MINUS_LOG,
    ops.Sqrt: MINUS_SQRT,
    ops.Softplus: SOFTPLUS,
}
CAPS = (ops.Log, ops.Sqrt)
"""Those that are a bowl turned upside down."""


def undefined(op: ops.Op, lower: Tensor, upper: Tensor) -> Tensor:
    """Where [lower, upper] leaves the set on which the operator is defined, so that nothing is known of it."""
    if isinstance(op, ops.Reciprocal):
        return (lower <= 0) & (upper >= 0)
    if isinstance(op, ops.Rsqrt | ops.Log):
        return lower <= 0
    return lower < 0 if isinstance(op, ops.Sqrt) else torch.zeros_like(lower, dtype=torch.bool)


class Bowled:
    """The lines of a `Bowl` on [lower, upper], each (B, *N), by where the tangent touches: parameter t is the share of
    the interval left of it, and 1/2 the line of least area.

    1 / x is this right of 0, and left of it turned about the origin, so that the tangent is above, as it is for a bowl
    upside down. Where the function is not defined its lines are level, as far off as the type allows.
    """

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        self.bowl = BOWLS[type(op)]
        self.mirrored = (upper < 0) if isinstance(op, ops.Reciprocal) else torch.zeros_like(lower, dtype=torch.bool)
        self.capped = isinstance(op, CAPS)
        self.turned = self.mirrored ^ self.capped  # whether the tangent is above
        self.level = undefined(op, lower, upper)
        self.lower = self.bowl.clamp(torch.where(self.mirrored, -upper, lower))
        self.upper = self.bowl.clamp(torch.where(self.mirrored, -lower, upper))
        self.chord = self.bowl.chord(self.lower, self.upper)

    def at(self, t: Tensor) -> Tensor:
        """Where the tangent touches, in the coordinates of the bowl."""
        return torch.lerp(self.lower, self.upper, torch.where(self.mirrored, 1 - t, t))

    def lines(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope and shift of the lower line, and of the upper one; t (B, S, *N)."""
        (below, down), (above, up) = self.bowl.tangent(self.at(t)), self.chord
        if self.capped:
            below, above = -below, -above
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
        moved = self.bowl.bend(at) * (torch.where(self.mirrored, -z, z) - at) * (self.upper - self.lower)
        return torch.where((up == self.turned) & ~self.level, -moved if self.capped else moved, 0)


def band(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, shift and radius of the narrowest band: along the chord, and as deep as the bowl is under it."""
    lines = Bowled(op, lower, upper)
    slope, up = lines.chord
    at = torch.minimum(torch.maximum(lines.bowl.place(slope), lines.lower), lines.upper)
    down = torch.minimum(lines.bowl.f(at) - slope * at, up)
    shift = (up + down) / 2
    return (
        (-slope if lines.capped else slope).masked_fill(lines.level, 0),
        torch.where(lines.turned, -shift, shift).masked_fill(lines.level, 0),
        ((up - down) / 2).masked_fill(lines.level, torch.finfo(lower.dtype).max / 4),
    )
