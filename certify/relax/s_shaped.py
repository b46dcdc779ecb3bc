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


def s_shaped(f: Function, derivative: Function, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slope and shift of a line below and of one above f on [lower, upper], each (B, *N).

    Both are supporting lines of the envelopes of f at the interval's middle: the least area between line
    and function (tangents and chords as in Zhang et al. 2018, section 3.2). f's derivative must be even.
    Sound, up to rounding, for tanh and the logistic function. Where lower > upper the lines are finite.
    """
    upper_slope, upper_shift = _above(f, derivative, lower, upper)
    lower_slope, lower_shift = _above(lambda x: -f(-x), derivative, -upper, -lower)
    return lower_slope, -lower_shift, upper_slope, upper_shift


def _above(f: Function, derivative: Function, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The concave envelope of f is the line from (lower, f(lower)) that touches f at some point, and from
    there f itself; where that point is not before `upper`, it is the chord."""
    level = lower < -FAR
    lower, upper = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)  # f is level there, to rounding
    at_lower, at_upper = f(lower), f(upper)

    def too_soon(x: Tensor) -> Tensor:  # the tangent at x passes below (lower, f(lower)): not an upper line
        return derivative(x) * (x - lower) > f(x) - at_lower

    # Where lower < 0 the touching point is in (0, -lower], by the symmetry of f; it is kept in (low, high].
    low, high = torch.zeros_like(lower), torch.minimum(-lower, upper).clamp(0, TOUCH)
    whole = (upper <= 0) | ((high >= upper) & too_soon(high))
    for _ in range(STEPS):
        middle = (low + high) / 2
        early = too_soon(middle)
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    at = torch.maximum(high, (lower + upper) / 2)
    tangent = derivative(at)

    # By the mean value theorem a chord is nowhere steeper or flatter than f; on a narrow interval its
    # quotient is all rounding, and this keeps it sensible. It then goes through the higher of its two ends.
    flattest = torch.minimum(derivative(lower), derivative(upper))
    steepest = derivative(torch.minimum(lower.clamp_min(0), upper))
    chord = (at_upper - at_lower) / (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny)
    chord = torch.minimum(torch.maximum(chord, flattest), steepest)
    through = torch.maximum(at_lower - chord * lower, at_upper - chord * upper)

    slope = torch.where(whole, chord, tangent)
    shift = torch.where(whole, through, f(at) - tangent * at)
    return torch.where(level, 0, slope), torch.where(level, at_upper, shift)
