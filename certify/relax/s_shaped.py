"""Lines around increasing functions that are convex below 0, concave above 0 and level far out."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

FAR = 1e6
"""An interval that begins below -FAR gets the level line: every other one is as good as level."""

TOUCH = 32.0
"""Seen from any x >= -FAR, the curve is touched before TOUCH: 4 exp(-TOUCH) FAR is far below f(TOUCH) - f(0)."""

STEPS = 24


def sigmoid_derivative(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_derivative(x: Tensor) -> Tensor:
    """1 - tanh(x)^2 without its cancellation."""
    return 4 * sigmoid_derivative(2 * x)


def sigmoid_bend(x: Tensor) -> Tensor:
    """The second derivative."""
    return -sigmoid_derivative(x) * torch.tanh(x / 2)


def tanh_bend(x: Tensor) -> Tensor:
    """The second derivative."""
    return -2 * tanh_derivative(x) * torch.tanh(x)


@dataclass(frozen=True)
class Curve:
    """An increasing function, convex below 0 and concave above, with f(-x) = 2 f(0) - f(x), and its derivatives."""

    f: Function
    derivative: Function
    bend: Function

    @property
    def mirrored(self) -> Curve:
        """-f(-x), which has the same derivatives."""
        return Curve(lambda x: -self.f(-x), self.derivative, self.bend)


SIGMOID = Curve(torch.sigmoid, sigmoid_derivative, sigmoid_bend)
TANH = Curve(torch.tanh, tanh_derivative, tanh_bend)


class Above:
    """The lines that support the concave envelope of a curve on [lower, upper] where it is smooth.

    Parameter t names the place: 0 the end of the envelope's first, straight piece, 1/2 the interval's middle if
    that lies behind it, which is the line of least area (tangents and chords as in Zhang et al. 2018,
    section 3.2), 1 the upper end. Where the straight piece is all, t is without effect. Sound, up to rounding.
    Where lower > upper the lines are finite.
    """

    def __init__(self, curve: Curve, lower: Tensor, upper: Tensor) -> None:
        self.curve = curve
        self.touch, self.slope = edge(curve.f, curve.derivative, lower, upper)
        level = lower < -FAR
        lower, self.end = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)
        self.middle = torch.maximum(self.touch, (lower + self.end) / 2)
        self.whole = level | (self.touch >= self.end)
        ends = [curve.f(x) - self.slope * x for x in (lower, self.end)]  # of a chord, rounded
        self.through = torch.maximum(*ends)

    def at(self, t: Tensor) -> Tensor:
        """Where the line with parameter t touches."""
        before = torch.lerp(self.touch, self.middle, (2 * t).clamp_max(1))
        return torch.lerp(before, self.end, (2 * t - 1).clamp_min(0))

    def line(self, t: Tensor | None) -> tuple[Tensor, Tensor]:
        """Slope and shift of the line with parameter t, 1/2 if None."""
        at = self.middle if t is None else self.at(t)
        tangent = self.curve.derivative(at)
        shift = self.curve.f(at) - tangent * at
        return torch.where(self.whole, self.slope, tangent), torch.where(self.whole, self.through, shift)

    def rate(self, t: Tensor, z: Tensor) -> Tensor:
        """How the line's value at z changes with t."""
        at = self.at(t)
        moved = 2 * torch.where(t < 0.5, self.middle - self.touch, self.end - self.middle)
        return torch.where(self.whole, 0, self.curve.bend(at) * (z - at) * moved)

    def select(self, domains: Tensor) -> Above:
        """Of a batch (B, ...) of intervals those at `domains`."""
        chosen = copy(self)
        chosen.touch, chosen.slope, chosen.end = self.touch[domains], self.slope[domains], self.end[domains]
        chosen.middle, chosen.whole, chosen.through = self.middle[domains], self.whole[domains], self.through[domains]
        return chosen


class Between:
    """The lines below and above a curve on [lower, upper]; one parameter serves both."""

    def __init__(self, curve: Curve, lower: Tensor, upper: Tensor) -> None:
        self.above = Above(curve, lower, upper)
        self.below = Above(curve.mirrored, -upper, -lower)

    def lines(self, t: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope and shift of the lower line, and of the upper one."""
        upper_slope, upper_shift = self.above.line(t)
        lower_slope, lower_shift = self.below.line(t)
        return lower_slope, -lower_shift, upper_slope, upper_shift

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        """How the value at z of the upper line, where `up`, else of the lower one changes with t."""
        return torch.where(up, self.above.rate(t, z), -self.below.rate(t, -z))

    def select(self, domains: Tensor) -> Between:
        """Of a batch (B, ...) of intervals those at `domains`."""
        chosen = copy(self)
        chosen.above, chosen.below = self.above.select(domains), self.below.select(domains)
        return chosen


def edge(f: Function, derivative: Function, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The first piece of the concave envelope of f on [lower, upper]: where it ends and its slope.

    The envelope is the line from (lower, f(lower)) that touches f, and behind that point f itself. Where
    the line would touch behind `upper`, it is the chord; where f is concave, the piece is a point.
    """
    level = lower < -FAR
    lower, upper = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)  # f is level there, to rounding
    at_lower = f(lower)

    def too_soon(x: Tensor) -> Tensor:  # the tangent at x passes below (lower, f(lower)): not an upper line
        return derivative(x) * (x - lower) > f(x) - at_lower

    # Where lower < 0 the touching point is in (0, -lower], by the symmetry of f; it is kept in (low, high].
    low, high = torch.zeros_like(lower), torch.minimum(-lower, upper).clamp(0, TOUCH)
    whole = (upper <= 0) | ((high >= upper) & too_soon(high))
    for _ in range(STEPS):
        middle = (low + high) / 2
        early = too_soon(middle)
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    touch = torch.where(whole, upper, torch.maximum(high, lower))

    # By the mean value theorem a chord is nowhere steeper or flatter than f; on a narrow interval its
    # quotient is all rounding, and this keeps it sensible.
    flattest = torch.minimum(derivative(lower), derivative(upper))
    steepest = derivative(torch.minimum(lower.clamp_min(0), upper))
    chord = (f(upper) - at_lower) / (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny)
    chord = torch.minimum(torch.maximum(chord, flattest), steepest)
    return touch, torch.where(level, 0, torch.where(touch >= upper, chord, derivative(touch)))
