"""Functions that are convex and concave by turns as the checker bounds them: ELU, GELU, SiLU, Mish, erf, hard-swish.

On a convex piece f(x) - s x is greatest at an end; on a concave one it is below f(d) - s d + (f'(d) - s) (x - d) for
every d. So from enclosures of f and f' alone, and from where the pieces are, both shifts follow for any slope.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from certify.check.elementwise import chosen, shift_up
from certify.check.functions import FAR, Enclosed, decay_bounds, erf_bounds, logistic_bounds
from certify.check.ops import RULES, Array, Elementwise, Shape
from certify.check.smooth import EXP_ERROR, exponential
from certify.errors import MalformedNetwork
from certify.graph import ops
from certify.graph.ir import Node
from certify.numerics import TINY, UNIT, next_down, next_up

_SLIVER = 2.0**-90
"""More than a function can be off a convex or concave one because a piece ends at the float64 next to its inflection
point: a piece that is too long by w <= 2^-50 has there a second derivative of the wrong sign below 8 w, which turns the
slope by less than 8 w^2, over a length of less than 8. Only bounded pieces are too long."""

_CELLS = 4096
_STEPS = 24


class Piece(NamedTuple):
    """A part of the line where a function is convex (bend 1), concave (-1) or straight (0)."""

    begin: float
    end: float
    bend: int


class _Sketch:
    """A function's values on a grid, from which slopes are chosen: nothing rests on their being right."""

    def __init__(self, rule: Turning) -> None:
        self.x = np.linspace(-rule.reach, rule.reach, _CELLS + 1)
        with np.errstate(all="ignore"):
            self.f, self.slope = (0.5 * (low + high) for low, high in (rule.value(self.x), rule.derivative(self.x)))
        self.inverse = {}
        for piece in rule.pieces:
            if piece.bend:
                x = np.linspace(max(piece.begin, -rule.reach), min(piece.end, rule.reach), 2049)[1:-1]
                low, high = rule.derivative(x)
                self.inverse[piece] = np.maximum.accumulate(piece.bend * 0.5 * (low + high)), x

    def value(self, x: Array) -> Array:
        """By cubic pieces through values and slopes; straight further out."""
        reach = self.x[-1]
        width = 2 * reach / _CELLS
        inner = np.nan_to_num(np.clip(x, -reach, reach))
        cell = np.minimum((inner + reach) / width, _CELLS - 1).astype(np.int64)
        t = (inner - self.x[cell]) / width
        f, g, a, b = self.f[cell], self.f[cell + 1], width * self.slope[cell], width * self.slope[cell + 1]
        cubic = f + t * (a + t * (3 * (g - f) - 2 * a - b + t * (2 * (f - g) + a + b)))
        return cubic + np.where(x > 0, self.slope[-1], self.slope[0]) * (x - inner)

    def derivative(self, x: Array) -> Array:
        return np.interp(x, self.x, self.slope)

    def place(self, piece: Piece, slope: Array) -> Array:
        """Where, about, the derivative of a bent piece is the slope."""
        slopes, places = self.inverse[piece]
        return np.interp(piece.bend * slope, slopes, places)


class Turning(Elementwise):
    """A continuous function in pieces. Subclasses enclose its value and its derivative, and say where the pieces are,
    and how far out it is not yet straight."""

    free_slope = True
    pieces: tuple[Piece, ...]
    reach: float

    def __init__(self, op: ops.Op, node: Node, shapes: Sequence[Shape]) -> None:
        self.sketch = _Sketch(self)

    @abstractmethod
    def value(self, x: Array) -> Enclosed: ...

    @abstractmethod
    def derivative(self, x: Array) -> Enclosed: ...

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        flat = np.zeros(np.shape(lower))
        with np.errstate(all="ignore"):
            return -self._above(flat, lower, upper, -1), self._above(flat, lower, upper, 1)

    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            return self._above(slope, lower, upper, 1)

    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        with np.errstate(all="ignore"):
            return -self._above(-slope, lower, upper, -1)

    def _above(self, slope: Array, lower: Array, upper: Array, sign: int) -> Array:
        """At least the maximum of sign * f(x) - slope * x over [lower, upper]; NaN where a bound is."""
        best = np.maximum(*(shift_up(_signed(self.value(x), sign)[1], slope, x) for x in (lower, upper)))
        for piece in self.pieces:
            begin, end = np.clip(piece.begin, lower, upper), np.clip(piece.end, lower, upper)
            if sign * piece.bend < 0:
                best = np.maximum(best, self._tangent(slope, begin, end, piece, sign))
            else:
                for x, fixed in ((begin, piece.begin), (end, piece.end)):
                    if np.isfinite(fixed):
                        best = np.maximum(best, shift_up(_signed(self.value(x), sign)[1], slope, x))
        return best + (_SLIVER + 2 * UNIT * np.abs(best))

    def _tangent(self, slope: Array, begin: Array, end: Array, piece: Piece, sign: int) -> Array:
        """At least the maximum of sign * f(x) - slope * x over a concave piece's part [begin, end]."""
        d = np.clip(self.sketch.place(piece, sign * slope), begin, end)
        flattest, steepest = _signed(self.derivative(d), sign)
        slack = 4 * UNIT * np.abs(slope)
        behind = np.maximum(steepest - slope + (slack + 4 * UNIT * np.abs(steepest)), 0)
        before = np.maximum(slope - flattest + (slack + 4 * UNIT * np.abs(flattest)), 0)
        rise = np.maximum(behind * (end - d), before * (d - begin)) * (1 + 16 * UNIT) + TINY
        top = shift_up(_signed(self.value(d), sign)[1], slope, d) + rise
        return top + 4 * UNIT * np.abs(top)

    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return -self._slope(lower, upper, free, -1), self._slope(lower, upper, free, 1)

    def _slope(self, lower: Array, upper: Array, free: Array | None, sign: int) -> Array:
        """The slope of an upper line of sign * f: of the one that is lowest in the interval's middle, or, where a
        parameter says so, between that (1/2) and the slopes at the ends (0 and 1)."""
        most = 1e6 * (1 + self.reach)
        lower, upper = np.clip(lower, -most, most), np.clip(upper, -most, most)
        middle = 0.5 * lower + 0.5 * upper
        first, last = sign * self.sketch.derivative(lower), sign * self.sketch.derivative(upper)
        ends = [(x, sign * self.sketch.value(x)) for x in (lower, upper)]
        ends += [
            (x, sign * self.sketch.value(x))
            for x in (np.clip(p.end, lower, upper) for p in self.pieces if np.isfinite(p.end))
        ]
        steepest = np.abs(self.sketch.slope).max()
        low, high = np.full_like(middle, -steepest), np.full_like(middle, steepest)
        for _ in range(_STEPS):
            slope = 0.5 * (low + high)
            places = [
                np.clip(
                    self.sketch.place(p, sign * slope), np.clip(p.begin, lower, upper), np.clip(p.end, lower, upper)
                )
                for p in self.pieces
                if sign * p.bend < 0
            ]
            at, best = ends[0][0], ends[0][1] - slope * lower
            for x, f in (*ends[1:], *((x, sign * self.sketch.value(x)) for x in places)):
                value = f - slope * x
                at, best = np.where(value > best, x, at), np.maximum(value, best)
            low, high = np.where(at < middle, low, slope), np.where(at < middle, slope, high)
        # values from the sketch cannot tell apart what is so near
        least = np.where(upper - lower < 1e-3, sign * self.sketch.derivative(middle), 0.5 * (low + high))
        if free is None:
            return least
        t = chosen(free, np.full_like(free, 0.5))
        first, last = np.maximum(least, first), np.minimum(least, last)
        return np.where(t < 0.5, first + 2 * t * (least - first), least + (2 * t - 1) * (last - least))


def _signed(enclosed: Enclosed, sign: int) -> Enclosed:
    low, high = enclosed
    return (low, high) if sign > 0 else (-high, -low)


def _hill(one: float, other: float) -> tuple[Piece, ...]:
    """Concave, convex from `one` to `other`, concave again; no outer piece is too long."""
    return Piece(-np.inf, one, -1), Piece(one, other, 1), Piece(other, np.inf, -1)


def _times(x: Array, low: Array, high: Array) -> Enclosed:
    """Bounds of x * y for low <= y <= high."""
    return next_down(np.where(x < 0, x * high, x * low)), next_up(np.where(x < 0, x * low, x * high))


_ROOT_HALF = 0.7071067811865476  # to 2^-54


@RULES(ops.Erf)
class Erf(Turning):
    pieces = Piece(-np.inf, 0.0, 1), Piece(0.0, np.inf, -1)
    reach = 6.0

    def value(self, x: Array) -> Enclosed:
        return erf_bounds(x)

    def derivative(self, x: Array) -> Enclosed:
        """2 / sqrt(pi) exp(-x^2); the square is off by u, and the exponent by up to 700u, where it counts."""
        value = 1.1283791670955126 * exponential(-np.minimum(x * x, FAR))
        return np.maximum(value * (1 - 1024 * UNIT) - 1e-300, 0), value * (1 + 1024 * UNIT)


@RULES(ops.Gelu)
class Gelu(Turning):
    """x Phi(x) with Phi(x) = (1 + erf(x / sqrt 2)) / 2; f''(x) = (2 - x^2) times the normal density."""

    pieces = _hill(-1.4142135623730951, 1.4142135623730951)
    reach = 9.0

    def value(self, x: Array) -> Enclosed:
        """The argument is off by 3u of itself, which moves erf by less than 4u. Far left, 0 >= f(x) >= -density(x),
        which is above -1e-16 beyond 8.6 (Mills' ratio), and far right f(x) - x is the same, as f(x) - x = f(-x)."""
        inner = np.clip(x, -9.0, 9.0)
        low, high = erf_bounds(inner * _ROOT_HALF)
        low, high = _times(inner, (1 + low) / 2 - 8 * UNIT, (1 + high) / 2 + 8 * UNIT)
        low, high = np.where(x < -8.6, -1e-16, low), np.where(x < -8.6, 0.0, high)
        return np.where(x > 8.6, next_down(x - 1e-16), low), np.where(x > 8.6, x, high)

    def derivative(self, x: Array) -> Enclosed:
        """Phi(x) + x density(x); beyond 9 the second term is below 1e-16 in size. What the exponent is off by, up to
        45u, and EXP_ERROR leave x density(x), at most 1/4 in size, off by less than 64u."""
        inner = np.clip(x, -9.0, 9.0)
        low, high = erf_bounds(inner * _ROOT_HALF)
        steep = inner * (0.3989422804014327 * exponential(-0.5 * (inner * inner)))
        slack = 96 * UNIT
        return (1 + low) / 2 + steep - slack - 1e-15, (1 + high) / 2 + steep + slack + 1e-15


_SCALE, _CUBIC = 0.7978845608028654, 0.044715  # sqrt(2 / pi), to 2^-54


@RULES(ops.GeluTanh)
class GeluTanh(Turning):
    """x Phi with Phi = (1 + tanh w) / 2 = 1 / (1 + exp(-2 w)) and w = sqrt(2 / pi) (x + 0.044715 x^3)."""

    pieces = _hill(-1.4185040087908284, 1.4185040087908284)
    reach = 9.0

    def _weight(self, x: Array) -> Enclosed:
        """Phi: its argument 2 w, |2 w| < 67 for |x| <= 9, is off by 8u of itself, and |z| logistic'(z) < 1/4."""
        low, high = logistic_bounds(2 * _SCALE * (x + _CUBIC * (x * (x * x))))
        return np.maximum(low - 4 * UNIT, 0), np.minimum(high + 4 * UNIT, 1)

    def value(self, x: Array) -> Enclosed:
        """Far left, beyond 8.6, -1e-16 < f(x) <= 0, as 2 w < -59; and f(x) - x = f(-x)."""
        low, high = _times(np.clip(x, -9.0, 9.0), *self._weight(np.clip(x, -9.0, 9.0)))
        low, high = np.where(x < -8.6, -1e-16, low), np.where(x < -8.6, 0.0, high)
        return np.where(x > 8.6, next_down(x - 1e-16), low), np.where(x > 8.6, x, high)

    def derivative(self, x: Array) -> Enclosed:
        """Phi + x Phi (1 - Phi) 2 w'; beyond 9 the second term is below 1e-15 in size, and inside below 1. With
        q = exp(-|2 w|), Phi (1 - Phi) = q / (1 + q)^2: relative errors are less than 2 EXP_ERROR + 8u * 67 + 32u."""
        inner = np.clip(x, -9.0, 9.0)
        square = inner * inner
        low, high = self._weight(inner)
        q = exponential(-np.abs(2 * _SCALE * (inner + _CUBIC * (inner * square))))
        steep = inner * (q / np.square(1 + q)) * (2 * _SCALE * (1 + 3 * _CUBIC * square))
        slack = 4 * EXP_ERROR + 1024 * UNIT + 1e-15
        return low + steep - slack, high + steep + slack


@RULES(ops.Silu)
class Silu(Turning):
    """x / (1 + exp(-x)); f''(x) = logistic'(x) (2 - x tanh(x / 2))."""

    pieces = _hill(-2.399357280515468, 2.399357280515468)
    reach = 30.0

    def value(self, x: Array) -> Enclosed:
        low, high = _times(x, *logistic_bounds(x))
        return np.where(x < -FAR, np.maximum(low, -1e-300), low), np.where(x < 0, np.minimum(high, 0), high)

    def derivative(self, x: Array) -> Enclosed:
        """Phi + x q / (1 + q)^2 with q = exp(-|x|); the second term, at most 1/4 in size, is off by less than
        2 EXP_ERROR, and beyond FAR nothing to speak of."""
        inner = np.clip(x, -FAR, FAR)
        low, high = logistic_bounds(inner)
        q = exponential(-np.abs(inner))
        steep = inner * (q / np.square(1 + q))
        slack = 2 * EXP_ERROR + 1e-300
        return low + steep - slack, high + steep + slack


@RULES(ops.Mish)
class Mish(Turning):
    """x tanh(log(1 + e)) = x (e^2 + 2 e) / (e^2 + 2 e + 2) with e = exp(x)."""

    pieces = _hill(-2.2563763963607936, 1.4905711794854286)
    reach = 30.0

    def value(self, x: Array) -> Enclosed:
        """Both quotients increase with x: left of 0 in q = exp(x) as it stands, right of it, in q = exp(-x),
        1 - 2 q^2 / (1 + 2 q + 2 q^2)."""
        low, high = decay_bounds(x)
        left = ((q * (q + 2)) / (q * (q + 2) + 2) for q in (low, high))
        right = (2 * q * q / (1 + 2 * q + 2 * q * q) for q in (high, low))
        least, most = (np.where(x < 0, one, 1 - other) for one, other in zip(left, right, strict=True))
        least, most = _times(x, np.maximum(least * (1 - 16 * UNIT) - TINY, 0), np.minimum(most * (1 + 16 * UNIT), 1))
        return np.where(x < -FAR, np.maximum(least, -1e-300), least), np.where(x < 0, np.minimum(most, 0), most)

    def derivative(self, x: Array) -> Enclosed:
        """The quotient plus x times its derivative, 4 q (q + 1) / (q^2 + 2 q + 2)^2 or, in q = exp(-x),
        4 q^2 (1 + q) / (1 + 2 q + 2 q^2)^2; relative errors below 8 EXP_ERROR, sizes below 1."""
        inner = np.clip(x, -FAR, FAR)
        q = exponential(-np.abs(inner))
        left, right = q * (q + 2) + 2, 1 + 2 * q + 2 * q * q
        value = np.where(inner < 0, q * (q + 2) / left, (1 + 2 * q) / right)
        steep = inner * np.where(inner < 0, 4 * q * (q + 1) / (left * left), 4 * q * q * (1 + q) / (right * right))
        slack = 16 * EXP_ERROR + 1e-300
        return value + steep - slack, value + steep + slack


@RULES(ops.Elu)
class Elu(Turning):
    reach = 24.0

    def __init__(self, op: ops.Elu, node: Node, shapes: Sequence[Shape]) -> None:
        if not 0 < op.alpha < np.inf:
            raise MalformedNetwork(f"node {node.name!r} is an ELU with the factor {op.alpha}")
        self.alpha = float(op.alpha)
        self.pieces = Piece(-np.inf, 0.0, 1), Piece(0.0, np.inf, 0)
        if self.alpha <= 1:  # convex as a whole
            self.pieces = (Piece(-np.inf, np.inf, 1),)
        super().__init__(op, node, shapes)

    def value(self, x: Array) -> Enclosed:
        """For x < 0, x <= exp(x) - 1 <= x + x^2 / 2, which is sharp around 0."""
        least, most = self.derivative(x)[0] - self.alpha, self.derivative(x)[1] - self.alpha
        slack = 4 * UNIT * self.alpha
        least = np.maximum(least - slack, next_down(self.alpha * np.maximum(x, -1)))
        near = np.where(x > -1e-3, next_up(self.alpha * (x + x * x / 2)) + UNIT * np.abs(x) * self.alpha, np.inf)
        most = np.minimum(np.minimum(most + slack, near), 0)
        return np.where(x >= 0, x, least), np.where(x >= 0, x, most)

    def derivative(self, x: Array) -> Enclosed:
        """At 0 the one from the left, as the piece that ends there needs it."""
        low, high = (self.alpha * q for q in decay_bounds(x))
        return np.where(x > 0, 1.0, next_down(low)), np.where(x > 0, 1.0, next_up(high))


@RULES(ops.HardSwish)
class HardSwish(Turning):
    """x (x + 3) / 6 between -3 and 3."""

    pieces = Piece(-np.inf, -3.0, 0), Piece(-3.0, 3.0, 1), Piece(3.0, np.inf, 0)
    reach = 4.0

    def value(self, x: Array) -> Enclosed:
        inner = np.clip(x, -3.0, 3.0)
        value = inner * (inner + 3) / 6
        slack = 4 * UNIT * np.abs(value) + TINY
        return _outside(x, value - slack, 0.0, x), _outside(x, value + slack, 0.0, x)

    def derivative(self, x: Array) -> Enclosed:
        value = np.clip(x, -3.0, 3.0) / 3 + 0.5
        slack = 8 * UNIT
        return _outside(x, value - slack, 0.0, 1.0), _outside(x, value + slack, 0.0, 1.0)


def _outside(x: Array, inside: Array, left: Array | float, right: Array | float) -> Array:
    """`inside` between -3 and 3, else `left` or `right`."""
    return np.where(x < -3, left, np.where(x > 3, right, inside))
