"""Sine and cosine as the checker bounds them: nothing here trusts a mathematical library.

Both are sin(x + q pi / 2), q = 0 or 1. Values come from the four basic operations with a proved error; slopes are
anybody's choice, as the shift is then computed for that very slope.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certify.check.elementwise import shift_up
from certify.check.ops import RULES, Array, Elementwise, Shape
from certify.graph import ops
from certify.graph.ir import Node
from certify.numerics import TINY, UNIT

WAVE_ERROR = 128 * UNIT
"""At least the absolute error of `_wave`; see there."""

FAR = 2.0**20
"""Further out, and on intervals wider than a wave, only -1 and 1 are claimed."""

_HALF_PI_HIGH = float.fromhex(
    "0x1.921fb54400000p+0"
)  # 21 trailing zero bits: n * _HALF_PI_HIGH is exact for |n| < 2^20
_HALF_PI_MIDDLE = float.fromhex("0x1.0b4611a600000p-34")  # so is n * _HALF_PI_MIDDLE
_HALF_PI_LOW = float.fromhex("0x1.3198a2e037073p-69")  # pi / 2 less the other two, to 2^-120
_WIDEST = 6.5
_STEPS = 30


def _wave(x: Array, q: int) -> Array:
    """sin(x + q pi / 2) for |x| <= FAR, off by at most WAVE_ERROR; NaN for NaN.

    x = n pi / 2 + r with |r| < 0.79, |n| < 2^20. r is off by less than 4u (three subtractions with results below 1;
    the products are exact or tiny), and so are its sine and cosine. Their Taylor polynomials to degree 19 and 18 miss
    by less than 0.79^20 / 20! < u / 100; their Horner schemes, of up to 10 steps of 4 operations each on terms that
    add up to less than cosh(0.79) < 1.4, by less than gamma(42) 1.4 < 60u.
    """
    n = np.rint(x * 0.6366197723675814)
    r = ((x - n * _HALF_PI_HIGH) - n * _HALF_PI_MIDDLE) - n * _HALF_PI_LOW
    square = r * r
    sine, cosine = np.ones_like(r), np.ones_like(r)
    for i in range(18, 0, -2):
        sine = 1 - square / (i * (i + 1)) * sine
        cosine = 1 - square / (i * (i - 1)) * cosine
    sine = r * sine
    quadrant = (np.nan_to_num(n).astype(np.int64) + q) % 4
    value = np.where(quadrant % 2 == 0, sine, cosine)
    return np.where(quadrant < 2, value, -value)


def wave_bounds(x: Array, q: int) -> tuple[Array, Array]:
    """Lower and upper bounds of sin(x + q pi / 2) for |x| <= FAR."""
    value = _wave(x, q)
    return np.maximum(value - 2 * WAVE_ERROR, -1), np.minimum(value + 2 * WAVE_ERROR, 1)


def _above(slope: Array, lower: Array, upper: Array, q: int) -> Array:
    """At least the maximum of f(x) - slope * x over [lower, upper], f(x) = sin(x + q pi / 2).

    f <= 1 everywhere. On an interval of no more than _WIDEST, f is taken apart at its zeros p_k = k pi - q pi / 2, into
    up to four pieces. Behind p_k it is concave for even k: from any d there,
    f(x) - slope x <= f(d) - slope d + (f'(d) - slope) (x - d); and convex for odd k: its maximum is at an end of the
    piece. The computed p_k miss the zeros by less than 8u |p_k| + 8u, and as far as f'' has the wrong sign; no piece
    is longer than 4, so all that changes f by less than half that miss times 16 there.
    """
    level = np.maximum(shift_up(1.0, slope, lower), shift_up(1.0, slope, upper))
    near = (upper - lower < _WIDEST) & (lower > -FAR) & (upper < FAR)
    low, high = np.where(near, lower, 0.0), np.where(near, upper, 0.0)
    phase = q * (np.pi / 2)
    first = np.floor((low + phase) / np.pi)
    crest = np.arccos(np.clip(np.nan_to_num(slope), -1, 1)) - phase
    miss = 64 * (8 * UNIT * (np.maximum(np.abs(low), np.abs(high)) + 16))
    best = np.full(np.broadcast_shapes(low.shape, slope.shape), -np.inf)
    for step in range(4):
        k = first + step
        a = low if step == 0 else np.clip(k * np.pi - phase, low, high)
        b = np.clip((k + 1) * np.pi - phase, low, high) if step < 3 else high
        concave = _tangent(slope, a, b, np.clip(crest + k * np.pi, a, b), q)
        ends = np.maximum(*(shift_up(wave_bounds(x, q)[1], slope, x) for x in (a, b)))
        best = np.maximum(best, np.where(k % 2 == 0, concave, ends))
    best = best + (miss + 4 * UNIT * np.abs(best))
    return np.minimum(level, np.where(near, best, np.where(np.isnan(lower + upper), np.nan, np.inf)))


def _tangent(slope: Array, a: Array, b: Array, d: Array, q: int) -> Array:
    """At least the maximum over [a, b] of the tangent of sin(x + q pi / 2) at d, less slope * x."""
    flattest, steepest = wave_bounds(d, q + 1)
    slack = 8 * UNIT * (1 + np.abs(slope))
    behind, before = np.maximum(steepest - slope + slack, 0), np.maximum(slope - flattest + slack, 0)
    rise = np.maximum(behind * (b - d), before * (d - a)) * (1 + 16 * UNIT) + TINY
    return shift_up(wave_bounds(d, q)[1], slope, d) + rise


def _slope_above(lower: Array, upper: Array, q: int) -> Array:
    """The slope of the upper line that is lowest in the interval's middle, about; its height there is a convex function
    of the slope, with derivative middle - (where the line touches)."""
    lower, upper = np.clip(lower, -1e6, 1e6), np.clip(upper, -1e6, 1e6)
    phase, turn, middle = q * np.pi / 2, 2 * np.pi, (lower + upper) / 2
    low, high = np.full_like(middle, -1.0), np.full_like(middle, 1.0)
    for _ in range(_STEPS):
        slope = (low + high) / 2
        crest = np.arccos(slope) - phase
        first = np.clip(crest + turn * np.ceil((lower - crest) / turn), lower, upper)
        last = np.clip(crest + turn * np.floor((upper - crest) / turn), lower, upper)
        places = np.stack([lower, upper, first, last])
        best = (np.sin(places + phase) - slope * places).argmax(0)
        early = np.take_along_axis(places, best[None], 0)[0] < middle
        low, high = np.where(early, low, slope), np.where(early, slope, high)
    return (low + high) / 2


class Wave(Elementwise):
    """sin(x + q pi / 2); -f is that with q + 2."""

    q: int

    def __init__(self, op: ops.Op, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        flat = np.zeros(np.shape(lower))
        with np.errstate(all="ignore"):
            return -_above(flat, lower, upper, self.q + 2), _above(flat, lower, upper, self.q)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return -_slope_above(lower, upper, self.q + 2), _slope_above(lower, upper, self.q)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            return _above(slope, lower, upper, self.q)

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            return -_above(-slope, lower, upper, self.q + 2)


@RULES(ops.Sin)
class Sin(Wave):
    q = 0


@RULES(ops.Cos)
class Cos(Wave):
    q = 1
