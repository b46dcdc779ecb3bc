"""Convex functions, and concave ones, which are these turned over, as the checker bounds them.

A convex function has its greatest distance above a line at an end of the interval. From below it is bounded by its
tangent at any point d: f(x) - s x >= f(d) - s d + (f'(d) - s) (x - d). Which d is anybody's choice; f(d) and f'(d)
are enclosed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from certify.check.elementwise import chosen, shift_down, shift_up
from certify.check.functions import Enclosed, log_bounds, logistic_bounds, softplus_bounds, sqrt_bounds
from certify.check.ops import RULES, Array, Elementwise, Shape
from certify.check.smooth import EXP_ERROR, exponential
from certify.graph import ops
from certify.graph.ir import Node
from certify.numerics import TINY, UNIT, next_down, next_up


class Convex(Elementwise):
    """A function that is convex wherever the rule claims anything. Subclasses enclose its value and its derivative,
    and guess where the derivative has a given value."""

    free_slope = True

    def __init__(self, op: ops.Op, node: Node, shapes: Sequence[Shape]) -> None:
        pass

    @abstractmethod
    def value(self, x: Array) -> Enclosed: ...

    @abstractmethod
    def derivative(self, x: Array) -> Enclosed: ...

    @abstractmethod
    def place(self, slope: Array) -> Array: ...

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        """The derivative where parameter t says, the share of the interval left of the place, and the chord's slope;
        by the mean value theorem it is between the derivatives at the ends, whatever its quotient says."""
        first, last = self.derivative(lower)[0], self.derivative(upper)[1]
        with np.errstate(all="ignore"):
            quotient = (self.value(upper)[0] - self.value(lower)[0]) / (upper - lower)
            chord = np.clip(np.where(upper > lower, quotient, first), first, last)
        return self.derivative(_between(lower, upper, free))[0], chord

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        ends = (shift_up(self.value(x)[1], slope, x) for x in (lower, upper))
        return np.maximum(*ends)

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        """The tangent at d falls behind d by no more than s - f'(d), and before d by no more than f'(d) - s."""
        with np.errstate(all="ignore"):
            d = self.place(slope)
            d = np.clip(np.where(np.isfinite(d), d, 0.5 * lower + 0.5 * upper), lower, upper)
            flattest, steepest = self.derivative(d)
            base = shift_down(self.value(d)[0], slope, d)
            slack = 4 * UNIT * np.abs(slope)
            behind = np.maximum(slope - flattest + (slack + 4 * UNIT * np.abs(flattest)), 0)
            before = np.maximum(steepest - slope + (slack + 4 * UNIT * np.abs(steepest)), 0)
            fall = np.maximum(behind * (upper - d), before * (d - lower)) * (1 + 16 * UNIT) + TINY
            least = base - fall
            return least - 4 * UNIT * np.abs(least)


def _between(lower: Array, upper: Array, free: Array | None) -> Array:
    """The place that parameter t in `free` names, 1/2 for NaN and None: the tangent of least area."""
    t = 0.5 if free is None else chosen(free, np.full_like(free, 0.5))
    return (1 - t) * lower + t * upper


@RULES(ops.Exp)
class Exp(Convex):
    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.value(lower)[0], self.value(upper)[1]

    def value(self, x: Array) -> Enclosed:
        value = exponential(np.clip(x, -700.0, 700.0))
        return (
            np.where(x < -700, 0.0, value * (1 - 2 * EXP_ERROR)),
            np.where(x > 700, np.inf, value * (1 + 2 * EXP_ERROR)),
        )

    def derivative(self, x: Array) -> Enclosed:
        return self.value(x)

    def place(self, slope: Array) -> Array:
        return np.log(slope)


@RULES(ops.Square)
class Square(Convex):
    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        least = self.value(np.clip(0.0, lower, upper))[0]
        return np.maximum(least, 0), np.maximum(self.value(lower)[1], self.value(upper)[1])

    def value(self, x: Array) -> Enclosed:
        square = x * x
        return next_down(square), next_up(square)

    def derivative(self, x: Array) -> Enclosed:
        return 2 * x, 2 * x

    def place(self, slope: Array) -> Array:
        return slope / 2


class _RightOfZero(Convex):
    """1 / x for x > 0."""

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.value(upper)[0], self.value(lower)[1]

    def value(self, x: Array) -> Enclosed:
        value = 1 / x
        return next_down(value), next_up(value)

    def derivative(self, x: Array) -> Enclosed:
        """-(1 / x)^2: two roundings, the first of which counts twice."""
        value = 1 / x
        square = value * value
        slack = 8 * UNIT * square + TINY
        return -(square + slack), slack - square

    def place(self, slope: Array) -> Array:
        return 1 / np.sqrt(-slope)


@RULES(ops.Reciprocal)
class Reciprocal(Elementwise):
    """1 / x: convex right of 0; left of it the same, turned about the origin; and nothing is known around 0."""

    free_slope = True

    def __init__(self, op: ops.Op, node: Node, shapes: Sequence[Shape]) -> None:
        self.right = _RightOfZero(op, node, shapes)

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            (least, most), (high, low) = self.right.range(lower, upper), self.right.range(-upper, -lower)
        return _where(lower, upper, least, -low, -np.inf), _where(lower, upper, most, -high, np.inf)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            tangent, chord = -1 / np.square(_between(lower, upper, free)), -1 / (lower * upper)
        return _where(lower, upper, tangent, chord, 0.0), _where(lower, upper, chord, tangent, 0.0)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            right, left = self.right.upper_shift(slope, lower, upper), -self.right.lower_shift(slope, -upper, -lower)
        return _where(lower, upper, right, left, np.inf)

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            right, left = self.right.lower_shift(slope, lower, upper), -self.right.upper_shift(slope, -upper, -lower)
        return _where(lower, upper, right, left, -np.inf)


def _where(lower: Array, upper: Array, right: Array, left: Array, across: float) -> Array:
    """`right` where the interval is right of 0, `left` where it is left of it, else `across`."""
    return np.where(lower > 0, right, np.where(upper < 0, left, across))


@RULES(ops.Softplus)
class Softplus(Convex):
    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.value(lower)[0], self.value(upper)[1]

    def value(self, x: Array) -> Enclosed:
        return softplus_bounds(x)

    def derivative(self, x: Array) -> Enclosed:
        return logistic_bounds(x)

    def place(self, slope: Array) -> Array:
        return np.log(slope / (1 - slope))


class _MinusLog(Convex):
    """-log(x) for x > 0."""

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.value(upper)[0], self.value(lower)[1]

    def value(self, x: Array) -> Enclosed:
        low, high = log_bounds(x)
        return -high, -low

    def derivative(self, x: Array) -> Enclosed:
        slope = -1 / x
        return next_down(slope), next_up(slope)

    def place(self, slope: Array) -> Array:
        return -1 / slope


class _MinusSqrt(Convex):
    """-sqrt(x) for x >= 0."""

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.value(upper)[0], self.value(lower)[1]

    def value(self, x: Array) -> Enclosed:
        low, high = sqrt_bounds(x)
        return -high, -low

    def derivative(self, x: Array) -> Enclosed:
        """-1 / (2 sqrt(x)): two roundings. Infinite at 0, where no tangent touches."""
        slope = -0.5 / np.sqrt(x)
        slack = 4 * UNIT * np.abs(slope) + TINY
        return slope - slack, slope + slack

    def place(self, slope: Array) -> Array:
        return 0.25 / (slope * slope)


class _ReciprocalRoot(Convex):
    """1 / sqrt(x) for x > 0."""

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.value(upper)[0], self.value(lower)[1]

    def value(self, x: Array) -> Enclosed:
        """Two roundings, neither of which underflows."""
        value = 1 / np.sqrt(x)
        return value * (1 - 4 * UNIT), value * (1 + 4 * UNIT)

    def derivative(self, x: Array) -> Enclosed:
        """-1 / (2 x sqrt(x)): three roundings."""
        slope = -0.5 / np.sqrt(x) / x
        slack = 8 * UNIT * np.abs(slope) + TINY
        return slope - slack, slope + slack

    def place(self, slope: Array) -> Array:
        return np.power(-2 * slope, -2 / 3)


class _Defined(Elementwise):
    """`sign` times a convex function where that is defined; of intervals that leave this nothing is known."""

    free_slope = True
    sign: int
    kind: type[Convex]
    at_zero = False
    """Whether it is defined at 0 too."""

    def __init__(self, op: ops.Op, node: Node, shapes: Sequence[Shape]) -> None:
        self.bowl = self.kind(op, node, shapes)

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def _known(self, lower: Array, low: Array, high: Array) -> Enclosed:
        """(low, high), or (-high, -low) of a function turned over, where the interval begins well."""
        inside = (lower >= 0) if self.at_zero else (lower > 0)
        low, high = (low, high) if self.sign > 0 else (-high, -low)
        return np.where(inside, low, -np.inf), np.where(inside, high, np.inf)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return self._known(lower, *self.bowl.range(lower, upper))

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            tangent, chord = (np.nan_to_num(s, posinf=0, neginf=0) for s in self.bowl.slopes(lower, upper, free))
        return (tangent, chord) if self.sign > 0 else (-chord, -tangent)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            if self.sign > 0:
                return self._known(lower, slope, self.bowl.upper_shift(slope, lower, upper))[1]
            return self._known(lower, self.bowl.lower_shift(-slope, lower, upper), slope)[1]

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            if self.sign > 0:
                return self._known(lower, self.bowl.lower_shift(slope, lower, upper), slope)[0]
            return self._known(lower, slope, self.bowl.upper_shift(-slope, lower, upper))[0]


@RULES(ops.Log)
class Log(_Defined):
    sign, kind = -1, _MinusLog


@RULES(ops.Sqrt)
class Sqrt(_Defined):
    sign, kind, at_zero = -1, _MinusSqrt, True


@RULES(ops.Rsqrt)
class Rsqrt(_Defined):
    sign, kind = 1, _ReciprocalRoot
