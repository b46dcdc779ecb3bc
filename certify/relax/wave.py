"""Lines around sine and cosine, which are neither convex nor concave on wide intervals.

For a slope s the best line above f has the shift max f(x) - s x, which is attained at an end or at a crest of
f(x) - s x, where f' = s. Of all slopes the one is taken whose line is lowest in the interval's middle: that has the
least area. What it is to be lowest is a convex function of s, with derivative middle - argmax, so bisection finds it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.graph import ops

STEPS = 24
FAR = 1e6
"""Wider intervals, and those further out, get level lines."""


def _quarters(op: ops.Op) -> int:
    """f(x) = sin(x + q pi / 2); -f is that with q + 2."""
    return 1 if isinstance(op, ops.Cos) else 0


def _wave(x: Tensor, q: int) -> Tensor:
    value = torch.cos(x) if q % 2 else torch.sin(x)
    return -value if q > 1 else value


def _crests(slope: Tensor, lower: Tensor, upper: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """The first and the last place in the interval where sin(x + q pi / 2) - slope * x has a crest, or an end."""
    crest, turn = slope.acos() - q * (math.pi / 2), 2 * math.pi
    first = crest + turn * ((lower - crest) / turn).ceil()
    last = crest + turn * ((upper - crest) / turn).floor()
    return torch.minimum(torch.maximum(first, lower), upper), torch.maximum(torch.minimum(last, upper), lower)


def _top(slope: Tensor, lower: Tensor, upper: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """Where sin(x + q pi / 2) - slope * x is greatest on [lower, upper], and its value there."""
    at = lower
    most = _wave(lower, q) - slope * lower
    for x in (upper, *_crests(slope, lower, upper, q)):
        value = _wave(x, q) - slope * x
        at, most = torch.where(value > most, x, at), torch.where(value > most, value, most)
    return at, most


def _above(lower: Tensor, upper: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """Slope and shift of the upper line of least area."""
    level = (lower < -FAR) | (upper > FAR)
    lower, upper = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)
    middle = (lower + upper) / 2
    low, high = torch.full_like(middle, -1.0), torch.full_like(middle, 1.0)
    for _ in range(STEPS):
        slope = (low + high) / 2
        early = _top(slope, lower, upper, q)[0] < middle
        low, high = torch.where(early, low, slope), torch.where(early, slope, high)
    slope = (low + high) / 2
    shift = _top(slope, lower, upper, q)[1]
    return torch.where(level, 0, slope), torch.where(level, 1, shift)


def wave_lines(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slope and shift of the lower line, and of the upper one, of Sin or Cos on [lower, upper]."""
    q = _quarters(op)
    upper_slope, upper_shift = _above(lower, upper, q)
    slope, shift = _above(lower, upper, q + 2)  # of -f
    return -slope, -shift, upper_slope, upper_shift


def wave_band(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, shift and radius of the narrowest band: its width is convex in the slope, with derivative
    argmin - argmax."""
    q = _quarters(op)
    level = (lower < -FAR) | (upper > FAR)
    lower, upper = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)
    low, high = torch.full_like(lower, -1.0), torch.full_like(lower, 1.0)
    for _ in range(STEPS):
        slope = (low + high) / 2
        top, bottom = _top(slope, lower, upper, q)[0], _top(-slope, lower, upper, q + 2)[0]
        rising = bottom > top
        low, high = torch.where(rising, low, slope), torch.where(rising, slope, high)
    slope = torch.where(level, 0, (low + high) / 2)
    most, least = _top(slope, lower, upper, q)[1], -_top(-slope, lower, upper, q + 2)[1]
    most, least = torch.where(level, 1, most), torch.where(level, -1, least)
    return slope, (most + least) / 2, ((most - least) / 2).clamp_min(0)


def wave_range(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value on [lower, upper]; crossed where the bounds are."""
    q = _quarters(op)
    level = (lower < -FAR) | (upper > FAR)
    low, high = torch.minimum(lower, upper).clamp(-FAR, FAR), torch.maximum(lower, upper).clamp(-FAR, FAR)
    flat = torch.zeros_like(low)
    most, least = _top(flat, low, high, q)[1], -_top(flat, low, high, q + 2)[1]
    most, least = torch.where(level, 1, most), torch.where(level, -1, least)
    empty = lower > upper
    return torch.where(empty, most, least), torch.where(empty, least, most)
