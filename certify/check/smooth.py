"""Tanh and the logistic function as the checker bounds them: nothing here trusts a mathematical library.

The exponential is computed from the four basic operations with a proved error; slopes of tangents and
chords come from numpy, because any slope is sound: the shift is then computed for that very slope.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certify.check.elementwise import chosen, shift_up
from certify.check.ops import RULES, Array, Elementwise, Shape
from certify.graph import ops
from certify.graph.ir import Node
from certify.numerics import TINY, UNIT

TANH_ERROR = 256 * UNIT
"""At least the absolute error of `_tanh`; see there."""

EXP_ERROR = 128 * UNIT
"""At least the relative error of `exponential`; see there."""

_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # 21 trailing zero bits: k * _LN2_HIGH is exact for |k| < 2^20
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")  # ln 2 - _LN2_HIGH, to 2^-86
_FAR = 20.0  # 1 - tanh(20) < 2^-56
_DEGREE = 14
_STEPS = 30


def exponential(x: Array) -> Array:
    """exp(x) for |x| <= 700, off by at most EXP_ERROR times itself; NaN for NaN.

    x = k ln 2 + r with |r| < 0.36, |k| < 2^20; r is off by less than 4u (two subtractions of numbers below 1
    after exact or tiny products), the Taylor polynomial of degree 14 by 0.36^15 / 15! * 1.5 < u / 8 and its
    Horner scheme by less than gamma(42) exp(0.36) < 61u, so the polynomial by less than 70u, and it is at
    least 0.69. The power of two is exact, as the result is no subnormal number.
    """
    k = np.rint(x * 1.4426950408889634)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    q = np.ones_like(r)
    for i in range(_DEGREE, 0, -1):
        q = 1 + r / i * q
    return np.ldexp(q, np.nan_to_num(k).astype(np.int64))


def _tanh(x: Array) -> Array:
    """tanh(x), off by at most TANH_ERROR; NaN for NaN.

    With y = 2 min(|x|, 20) and q = exp(-y), tanh|x| = (1 - q) / (1 + q); q is off by less than 70u (see
    `exponential`: q <= 1). d tanh / dq is at most 2 in size; the last three operations add less than 4u.
    """
    q = exponential(-2 * np.minimum(np.abs(x), _FAR))
    return np.copysign((1 - q) / (1 + q), x)


def tanh_bounds(x: Array) -> tuple[Array, Array]:
    """Lower and upper bounds of tanh(x); |tanh x| <= min(|x|, 1) makes them sharp around 0."""
    value = _tanh(x)
    least = np.maximum(value - TANH_ERROR, np.where(x >= 0, 0.0, np.maximum(x, -1.0)))
    most = np.minimum(value + TANH_ERROR, np.where(x >= 0, np.minimum(x, 1.0), 0.0))
    return least, most


def _above(slope: Array, lower: Array, upper: Array) -> Array:
    """At least the maximum of tanh(x) - slope * x over [lower, upper].

    tanh is convex on x <= 0, so there the maximum is at an end of the interval's negative part. On x >= 0
    it is concave: from any d there, tanh(x) - slope x <= tanh(d) - slope d + g (x - d), with g the
    derivative at d. Both parts have 0 in common, or an end of the interval.
    On the second one, from a on, it is at most tanh(upper) - slope a, too, if the slope is not negative: on
    wide intervals far from 0 the derivative's rounding, times the width, would be more.
    """
    a = np.maximum(lower, 0)
    with np.errstate(all="ignore"):
        flat = np.arctanh(np.sqrt(1 - np.clip(slope, 0, 1)))  # where the derivative is `slope`, about
    d = np.clip(np.where(np.isfinite(flat), flat, 0.0), a, np.maximum(upper, a))
    low, high = tanh_bounds(d)
    top = shift_up(high, slope, d)
    steep = (1 - low * low) - slope  # off by at most `slack`
    shallow = (1 - high * high) - slope
    slack = 8 * UNIT * (1 + np.abs(slope))
    forward = np.maximum(steep + slack, 0) * (upper - d)
    backward = np.maximum(slack - shallow, 0) * (d - a)
    concave = top + np.maximum(forward, backward) * (1 + 16 * UNIT) + TINY
    concave = concave + 4 * UNIT * np.abs(concave)
    most = tanh_bounds(upper)[1]
    concave = np.where(slope >= 0, np.minimum(concave, shift_up(most, slope, a)), concave)
    start = shift_up(tanh_bounds(lower)[1], slope, lower)
    end = shift_up(most, slope, upper)
    return np.maximum(start, np.where(upper <= 0, end, concave))


def _below(slope: Array, lower: Array, upper: Array) -> Array:
    return -_above(slope, -upper, -lower)


def _slope_above(lower: Array, upper: Array, free: Array | None) -> Array:
    """The slope of tanh's concave envelope on [lower, upper], about, where parameter t in `free` says: 0 is the
    end of its first, straight piece, 1/2, as NaN, the interval's middle (least area), 1 its upper end."""
    lower, upper = np.clip(lower, -1e6, 1e6), np.clip(upper, -1e6, 1e6)
    at_lower = np.tanh(lower)

    def slope(x: Array) -> Array:
        return 1 / np.cosh(np.minimum(np.abs(x), 300.0)) ** 2

    def too_soon(x: Array) -> Array:  # the tangent at x passes below (lower, tanh(lower))
        return slope(x) * (x - lower) > np.tanh(x) - at_lower

    low, high = np.zeros_like(lower), np.clip(np.minimum(-lower, upper), 0, 32)
    whole = (upper <= 0) | ((high >= upper) & too_soon(high))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        early = too_soon(middle)
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    width = upper - lower
    chord = (np.tanh(upper) - at_lower) / np.where(width > 0, width, 1)
    chord = np.where(width > 1e-7, chord, slope((lower + upper) / 2))
    touch = np.maximum(high, lower)
    at = start = np.maximum(touch, (lower + upper) / 2)
    if free is not None:
        t = chosen(free, np.full_like(free, 0.5))
        at = touch + np.minimum(2 * t, 1) * (start - touch) + np.maximum(2 * t - 1, 0) * (upper - start)
    return np.where(whole, chord, slope(at))


@RULES(ops.Tanh)
class Tanh(Elementwise):
    free_slope = True

    def __init__(self, op: ops.Tanh, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return tanh_bounds(lower)[0], tanh_bounds(upper)[1]

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        return _slope_above(-upper, -lower, free), _slope_above(lower, upper, free)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        return _above(slope, lower, upper)

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        return _below(slope, lower, upper)


@RULES(ops.Sigmoid)
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2; halving is exact but for subnormals, which TINY pays."""

    free_slope = True

    def __init__(self, op: ops.Sigmoid, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        least = 0.5 + tanh_bounds(lower / 2)[0] / 2 - 4 * UNIT
        most = 0.5 + tanh_bounds(upper / 2)[1] / 2 + 4 * UNIT
        return np.maximum(least, 0), np.minimum(most, 1)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        return _slope_above(-upper / 2, -lower / 2, free) / 4, _slope_above(lower / 2, upper / 2, free) / 4

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        """f(x) - slope x = 1/2 + (tanh(z) - 4 slope z) / 2 at z = x / 2."""
        half = _above(4 * slope, lower / 2, upper / 2) / 2
        return 0.5 + half + (4 * UNIT * (1 + np.abs(half)) + TINY * (1 + np.abs(slope)))

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        half = _below(4 * slope, lower / 2, upper / 2) / 2
        return 0.5 + half - (4 * UNIT * (1 + np.abs(half)) + TINY * (1 + np.abs(slope)))
