"""Lines around increasing functions that are convex below 0, concave above 0 and level far out."""

from __future__ import annotations

from collections.abc import Callable

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


def s_shaped(f: Function, derivative: Function, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slope and shift of a line below and of one above f on [lower, upper], each (B, *N).

    Both are supporting lines of the envelopes of f at the interval's middle: the least area between line
    and function (tangents and chords as in Zhang et al. 2018, section 3.2). f's derivative must be even.
    Sound, up to rounding, for tanh and the logistic function. Where lower > upper the lines are finite.
    """
    upper_slope, upper_shift = _above(f, derivative, lower, upper)
    lower_slope, lower_shift = _above(lambda x: -f(-x), derivative, -upper, -lower)
    return lower_slope, -lower_shift, upper_slope, upper_shift


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


def _above(f: Function, derivative: Function, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and shift of the line that supports the concave envelope over the interval's middle."""
    touch, slope = edge(f, derivative, lower, upper)
    level = lower < -FAR
    lower, upper = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)
    at = torch.maximum(touch, (lower + upper) / 2)
    tangent = derivative(at)
    through = torch.maximum(f(lower) - slope * lower, f(upper) - slope * upper)  # a chord's ends, rounded
    whole = level | (touch >= upper)
    return torch.where(whole, slope, tangent), torch.where(whole, through, f(at) - tangent * at)
