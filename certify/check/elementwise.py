"""The piecewise-linear elementwise operators as the checker bounds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from certify.check.ops import RULES, Array, Elementwise, Lines, Shape
from certify.errors import MalformedNetwork
from certify.graph import ops
from certify.graph.ir import Node
from certify.numerics import TINY, UNIT, exact

Shift = Callable[[Array, Array, Array], Array]

UP = 1 + 8 * UNIT
"""A number >= 0 that was rounded up to four times, times this, is not below the exact one (underflow aside)."""


def shift_up(value: Array, slope: Array, x: Array) -> Array:
    """At least value - slope * x: three roundings are charged."""
    product = slope * x
    difference = value - product
    return difference + (4 * UNIT * (np.abs(product) + np.abs(difference)) + TINY)


def shift_down(value: Array, slope: Array, x: Array) -> Array:
    """At most value - slope * x."""
    return -shift_up(-value, -slope, x)


def mixed(a: Array, t: Array) -> Array:
    """a + t (1 - a): the slope that parameter t in [0, 1] names between a and 1, exact at both ends."""
    return np.where(t == 1, 1.0, a + t * (1 - a))


def chosen(free: Array | None, default: Array) -> Array:
    return default if free is None else np.where(np.isnan(free), default, free)


def adaptive(lower: Array, upper: Array) -> Array:
    """1 where the positive part is the longer one, else 0: least area (Zhang et al. 2018, section 3.3)."""
    return (lower + upper > 0).astype(np.float64)


@RULES(ops.Relu)
class Relu(Elementwise):
    free_slope = True

    def __init__(self, op: ops.Relu, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.maximum(lower, 0), np.maximum(upper, 0)

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower >= 0) & ~(upper <= 0)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        """The chord's slope is rounded up: then it needs no other shift than -slope * lower.

        Where the width overflows, the quotient would vanish; slope 1 holds everywhere.
        """
        bent = self.bent(lower, upper)
        stable = (lower >= 0).astype(np.float64)
        with np.errstate(all="ignore"):
            width = upper - lower
            chord = np.where(width < np.inf, upper / width * UP + TINY, 1.0)
            above = np.where(bent, chord, stable)
        return np.where(bent, chosen(free, adaptive(lower, upper)), stable), above

    def lines(self, lower: Array, upper: Array, free: Array | None = None) -> Lines:
        """As `Elementwise.lines`, faster. The lower line through 0 holds for every slope in [0, 1].

        The upper line is 0 at `lower`, and at `upper` it is s (u - l) >= u, because s >= u / (u - l).
        """
        below, above = self.slopes(lower, upper, free)
        with np.errstate(all="ignore"):
            shift = np.where(self.bent(lower, upper), above * -lower * UP + TINY, 0.0)
        return Lines(below, None, above, shift)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        zero = np.clip(0.0, lower, upper)
        ends = [shift_up(np.maximum(x, 0), slope, x) for x in (lower, zero, upper)]
        return np.maximum(np.maximum(*ends[:2]), ends[2])

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        zero = np.clip(0.0, lower, upper)
        ends = [shift_down(np.maximum(x, 0), slope, x) for x in (lower, zero, upper)]
        return np.minimum(np.minimum(*ends[:2]), ends[2])


class _Kinked(Elementwise):
    """x for x >= 0 and a * x below: convex for a <= 1, concave for a >= 1."""

    free_slope = True
    a: Array

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower >= 0) & ~(upper <= 0)

    def value(self, x: Array) -> tuple[Array, Array]:
        """Bounds of f(x)."""
        product = self.a * x
        slack = 2 * UNIT * np.abs(product) + TINY
        return np.where(x >= 0, x, product - slack), np.where(x >= 0, x, product + slack)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        at = [self.value(x) for x in (lower, np.clip(0.0, lower, upper), upper)]
        least, most = zip(*at, strict=True)
        return np.minimum.reduce(least), np.maximum.reduce(most)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        bent = self.bent(lower, upper)
        stable = np.where(lower >= 0, 1.0, self.a)
        with np.errstate(all="ignore"):
            chord = mixed(self.a, upper / (upper - lower))
        kink = mixed(self.a, chosen(free, adaptive(lower, upper)))
        convex = self.a <= 1
        below, above = np.where(convex, kink, chord), np.where(convex, chord, kink)
        return np.where(bent, below, stable), np.where(bent, above, stable)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        """f(x) - slope * x is linear on both sides of 0: its greatest value is at an end or at 0."""
        return np.maximum.reduce(
            [shift_up(self.value(x)[1], slope, x) for x in (lower, np.clip(0.0, lower, upper), upper)]
        )

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        return np.minimum.reduce(
            [shift_down(self.value(x)[0], slope, x) for x in (lower, np.clip(0.0, lower, upper), upper)]
        )


@RULES(ops.LeakyRelu)
class LeakyRelu(_Kinked):
    def __init__(self, op: ops.LeakyRelu, node: Node, shapes: Sequence[Shape]) -> None:
        self.a = np.broadcast_to(exact(op.slope), node.shape)


@RULES(ops.Abs)
class Abs(_Kinked):
    def __init__(self, op: ops.Abs, node: Node, shapes: Sequence[Shape]) -> None:
        self.a = np.full(node.shape, -1.0)

    def value(self, x: Array) -> tuple[Array, Array]:
        return np.abs(x), np.abs(x)


@RULES(ops.Clip)
class Clip(Elementwise):
    def __init__(self, op: ops.Clip, node: Node, shapes: Sequence[Shape]) -> None:
        if not op.lower <= op.upper:
            raise MalformedNetwork(f"node {node.name!r} clips to the empty interval [{op.lower}, {op.upper}]")
        self.low, self.high = float(op.lower), float(op.upper)

    def bent(self, lower: Array, upper: Array) -> Array:
        affine = (upper <= self.low) | (lower >= self.high) | ((lower >= self.low) & (upper <= self.high))
        return ~affine

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.clip(lower, self.low, self.high), np.clip(upper, self.low, self.high)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        above = _rise(self.low, self.high, lower, upper)
        return _rise(-self.high, -self.low, -upper, -lower), above

    def _knots(self, lower: Array, upper: Array) -> list[Array]:
        return [lower, upper, *(np.clip(p, lower, upper) for p in (self.low, self.high) if np.isfinite(p))]

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        knots = self._knots(lower, upper)
        return np.maximum.reduce([shift_up(np.clip(x, self.low, self.high), slope, x) for x in knots])

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        knots = self._knots(lower, upper)
        return np.minimum.reduce([shift_down(np.clip(x, self.low, self.high), slope, x) for x in knots])


def _rise(low: float, high: float, lower: Array, upper: Array) -> Array:
    """The slope of the concave envelope of min(max(x, low), high) at the interval's middle (least area)."""
    touch = np.minimum(upper, high)
    rising = (lower + upper) / 2 < touch
    with np.errstate(all="ignore"):
        slope = (np.maximum(touch, low) - np.clip(lower, low, high)) / (touch - lower)
    linear = (lower >= low) & (upper <= high)
    return np.where(linear, 1.0, np.where(rising, slope, 0.0))


@RULES(ops.Sign)
class Sign(Elementwise):
    def __init__(self, op: ops.Sign, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~((lower > 0) | (upper < 0) | ((lower == 0) & (upper == 0)))

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.sign(lower), np.sign(upper)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        return _step_slope(-upper, -lower), _step_slope(lower, upper)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        """Each of the three pieces is linear on an interval: its ends are tried, 0 for the open ones too."""
        low, high = np.maximum(lower, 0), np.minimum(upper, 0)
        positive = np.maximum(shift_up(1.0, slope, low), shift_up(1.0, slope, upper))
        negative = np.maximum(shift_up(-1.0, slope, lower), shift_up(-1.0, slope, high))
        middle = np.where((lower > 0) | (upper < 0), -np.inf, 0.0)
        best = np.maximum(middle, np.where(upper <= 0, -np.inf, positive))
        return np.maximum(best, np.where(lower >= 0, -np.inf, negative))

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        return -self.upper_shift(slope, -upper, -lower)


@RULES(ops.Floor)
class Floor(Elementwise):
    """floor(x) - slope * x is linear between whole numbers, and it is linear along the corners above, and along those
    below: its extremes on an interval are at an end, or at the first or last whole number or just before it."""

    def __init__(self, op: ops.Floor, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(np.floor(lower) == np.floor(upper))

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.floor(lower), np.floor(upper)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        """Those of the convex hull's faces over the interval's middle (least area)."""
        first, last, middle = np.floor(lower) + 1, np.floor(upper), 0.5 * lower + 0.5 * upper
        with np.errstate(all="ignore"):
            rise, end = 1 / (first - lower), 1 / (upper - last)
        level = ~(first <= last)
        above = np.where(level | (middle >= last), 0.0, np.where(middle < first, rise, 1.0))
        return np.where(level | (middle < first), 0.0, np.where(middle < last, 1.0, end)), above

    def _values(self, shift: Shift, slope: Array, lower: Array, upper: Array, none: float) -> list[Array]:
        """`shift` at all those places, `none` where there is no such place. Whole numbers and their neighbours are
        exact up to 2^52; beyond that nothing is claimed."""
        found = [shift(np.floor(x), slope, x) for x in (lower, upper)]
        for whole in (np.floor(lower) + 1, np.floor(upper)):
            there = (whole > lower) & (whole <= upper)
            found += [np.where(there, shift(value, slope, whole), none) for value in (whole, whole - 1)]
        near = (np.abs(lower) < 2.0**52) & (np.abs(upper) < 2.0**52)
        return [np.where(near, value, -none) for value in found]

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        return np.maximum.reduce(self._values(shift_up, slope, lower, upper, -np.inf))

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        return np.minimum.reduce(self._values(shift_down, slope, lower, upper, np.inf))


def _step_slope(lower: Array, upper: Array) -> Array:
    """Of the upper lines of sign(x) the one of least area: rising from (lower, -1) to (0, sign(upper)), or level."""
    rising = (lower + upper < 0) & (upper >= 0) & (lower < -1e-100)
    with np.errstate(all="ignore"):
        return np.where(rising, (np.sign(upper) + 1) / -lower, 0.0)
