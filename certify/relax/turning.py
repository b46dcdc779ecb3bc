"""Lines around functions that are convex and concave by turns, with a few inflection points or kinks.

For a slope s the best line above f has the shift max f(x) - s x. That is attained at an end of the interval, at a kink,
or in a concave piece where f' = s. Of all slopes the one is taken whose line is lowest in the interval's middle, which
has the least area: what a line is there is a convex function of s, with derivative middle - argmax, so bisection finds
it. The lower line is that of -f, turned over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from certify.graph import ops
from certify.relax.s_shaped import Function

STEPS = 24
CELLS = 512
"""Of the table that says where, about, the derivative has a given value."""


@dataclass(frozen=True)
class Piece:
    """A part of the line on which a function is convex (bend 1), concave (-1) or straight (0), and what its derivative
    comes to at both ends."""

    begin: float
    end: float
    bend: int
    first: float
    last: float


@dataclass(frozen=True)
class Turning:
    """A continuous function and its derivative; further out than `reach` it is as good as straight."""

    f: Function
    derivative: Function
    pieces: tuple[Piece, ...]
    reach: float

    @cached_property
    def tables(self) -> dict[Piece, tuple[Tensor, Tensor]]:
        """For each bent piece increasing slopes, and where the derivative has them."""
        found = {}
        for piece in self.pieces:
            if piece.bend:
                begin, end = max(piece.begin, -self.reach), min(piece.end, self.reach)
                x = torch.linspace(begin, end, CELLS, dtype=torch.float64)
                slopes = piece.bend * self.derivative(x)
                found[piece] = slopes.cummax(0).values, x
        return found

    def near(self, piece: Piece, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Where, about, the derivative of a bent piece is the slope, and how fast that place moves with the slope."""
        slopes, places = (t.to(slope) for t in self.tables[piece])
        wanted = piece.bend * slope
        cell = torch.searchsorted(slopes, wanted.contiguous()).clamp(1, CELLS - 1)
        low, width = slopes[cell - 1], slopes[cell] - slopes[cell - 1]
        pace = (places[cell] - places[cell - 1]) / width.clamp_min(torch.finfo(slope.dtype).tiny ** 0.5)
        return places[cell - 1] + pace * (wanted - low).clamp_min(0).minimum(width), piece.bend * pace


def _density(x: Tensor) -> Tensor:
    """Of the standard normal distribution."""
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _erf_derivative(x: Tensor) -> Tensor:
    return torch.exp(-x * x) * (2 / math.sqrt(math.pi))


def _gelu_derivative(x: Tensor) -> Tensor:
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * _density(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    x = x.clamp(-30, 30)
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    inner = torch.tanh(scale * (x + cubic * x**3))
    return (1 + inner) / 2 + x * (1 - inner * inner) * (scale / 2 * (1 + 3 * cubic * x * x))


def _silu_derivative(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def _mish_derivative(x: Tensor) -> Tensor:
    """tanh(softplus) = (e^2 + 2 e) / (e^2 + 2 e + 2) with e = exp(x); right of 0 in exp(-x)."""
    e = torch.exp(-x.abs())
    left, right = e * e + 2 * e + 2, 1 + 2 * e + 2 * e * e
    value = torch.where(x < 0, (e * e + 2 * e) / left, (1 + 2 * e) / right)
    return value + x * torch.where(x < 0, 4 * e * (e + 1) / left**2, 4 * e * e * (1 + e) / right**2)


def _hard_swish_derivative(x: Tensor) -> Tensor:
    """At both kinks the one from within, as the piece that ends there needs it; so for ELU."""
    return torch.where(x > 3, 1, torch.where(x < -3, 0, x / 3 + 0.5))


def _hill(f: Function, derivative: Function, turns: tuple[float, float], reach: float) -> Turning:
    """A function that is concave, convex between two inflection points, and concave again; level far left, and of slope
    1 far right."""
    one, other = turns
    slopes = derivative(torch.tensor(turns, dtype=torch.float64)).tolist()
    pieces = (
        Piece(-math.inf, one, -1, 0.0, slopes[0]),
        Piece(one, other, 1, *slopes),
        Piece(other, math.inf, -1, slopes[1], 1.0),
    )
    return Turning(f, derivative, pieces, reach)


def _elu(alpha: float) -> Turning:
    pieces = Piece(-math.inf, 0.0, 1, 0.0, alpha), Piece(0.0, math.inf, 0, 1.0, 1.0)
    return Turning(
        lambda x: functional.elu(x, alpha), lambda x: torch.where(x > 0, 1, alpha * torch.exp(x)), pieces, 40.0
    )


TURNING: dict[type[ops.Op], Callable[[], Turning]] = {
    ops.Erf: lambda: Turning(
        torch.erf,
        _erf_derivative,
        (Piece(-math.inf, 0.0, 1, 0.0, 2 / math.sqrt(math.pi)), Piece(0.0, math.inf, -1, 2 / math.sqrt(math.pi), 0.0)),
        6.0,
    ),
    ops.Gelu: lambda: _hill(functional.gelu, _gelu_derivative, (-math.sqrt(2), math.sqrt(2)), 8.0),
    ops.GeluTanh: lambda: _hill(_gelu_tanh, _gelu_tanh_derivative, (-1.4185040087908283, 1.4185040087908283), 8.0),
    ops.Silu: lambda: _hill(functional.silu, _silu_derivative, (-2.3993572805154677, 2.3993572805154677), 40.0),
    ops.Mish: lambda: _hill(functional.mish, _mish_derivative, (-2.2563763963607936, 1.4905711794854284), 40.0),
    ops.HardSwish: lambda: Turning(
        functional.hardswish,
        _hard_swish_derivative,
        (
            Piece(-math.inf, -3.0, 0, 0.0, 0.0),
            Piece(-3.0, 3.0, 1, -0.5, 1.5),
            Piece(3.0, math.inf, 0, 1.0, 1.0),
        ),
        3.0,
    ),
}
"""Those without parameters; their inflection points are where the second derivative changes its sign."""

TURNED = (*TURNING, ops.Elu)


@lru_cache(maxsize=64)
def _made(kind: type[ops.Op], alpha: float | None) -> Turning:
    return TURNING[kind]() if alpha is None else _elu(alpha)


def turning(op: ops.Op) -> Turning:
    """The function of one of the operators `TURNED`."""
    return _made(type(op), op.alpha if isinstance(op, ops.Elu) else None)


class Support:
    """The upper lines of sign * f on [lower, upper] (sign -1: the lower ones of f, turned over), of any slope."""

    def __init__(self, curve: Turning, lower: Tensor, upper: Tensor, sign: int) -> None:
        self.curve, self.sign = curve, sign
        self.lower, self.upper = lower, upper
        self.at_lower, self.at_upper = sign * curve.f(lower), sign * curve.f(upper)

    def _inside(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """The piece's part of the interval; a point at one of its ends if there is none."""
        return tuple(torch.minimum(self.upper, self.lower.clamp_min(p)) for p in (piece.begin, piece.end))

    def top(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Where sign * f(x) - slope * x is greatest, about, and its value there."""
        at, most = self.lower.expand_as(slope), self.at_lower - slope * self.lower
        candidates = [(self.upper, self.at_upper)]
        for piece in self.curve.pieces:
            begin, end = self._inside(piece)
            if self.sign * piece.bend < 0:
                place = self.curve.near(piece, self.sign * slope)[0]
                candidates.append((torch.minimum(torch.maximum(place, begin), end), None))
            elif math.isfinite(piece.end):
                candidates.append((end, None))
            if self.sign * piece.bend >= 0 and math.isfinite(piece.begin):
                candidates.append((begin, None))
        for x, known in candidates:
            value = (self.sign * self.curve.f(x) if known is None else known) - slope * x
            at, most = torch.where(value > most, x, at), torch.maximum(most, value)
        return at, most

    def shift(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Where the line of this slope touches, and its shift: in concave pieces a tangent there bounds the function,
        which is sound (up to rounding) wherever it touches."""
        at, most = self.top(slope)
        for piece in self.curve.pieces:
            if self.sign * piece.bend < 0:
                (begin, end), (place, pace) = self._inside(piece), self.curve.near(piece, self.sign * slope)
                place = torch.minimum(torch.maximum(place, begin), end)
                excess = self.sign * self.curve.derivative(place) - slope
                for _ in range(2):  # of Newton's method, with the table's pace, where that helps
                    moved = torch.minimum(torch.maximum(place - pace * self.sign * excess, begin), end)
                    rest = self.sign * self.curve.derivative(moved) - slope
                    better = rest.abs() < excess.abs()
                    place, excess = torch.where(better, moved, place), torch.where(better, rest, excess)
                rise = torch.maximum(excess * (end - place), -excess * (place - begin)).clamp_min(0)
                value = self.sign * self.curve.f(place) - slope * place + rise
                at, most = torch.where(value >= most, place, at), torch.maximum(value, most)
        return at, most


class Side(Support):
    """Those lines by a parameter."""

    def __init__(self, curve: Turning, lower: Tensor, upper: Tensor, sign: int) -> None:
        super().__init__(curve, lower, upper, sign)
        first, last = sign * curve.derivative(lower), sign * curve.derivative(upper)
        low, high = torch.minimum(first, last), torch.maximum(first, last)
        for piece in curve.pieces:
            for place, slope in ((piece.begin, piece.first), (piece.end, piece.last)):
                inside = (lower <= place) & (place <= upper)
                low = torch.where(inside, low.clamp_max(sign * slope), low)
                high = torch.where(inside, high.clamp_min(sign * slope), high)
        middle = lower / 2 + upper / 2
        for _ in range(STEPS):
            slope = (low + high) / 2
            early = self.top(slope)[0] < middle
            low, high = torch.where(early, low, slope), torch.where(early, slope, high)
        self.least = (low + high) / 2
        self.first, self.last = torch.maximum(self.least, first), torch.minimum(self.least, last)

    def slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The slope that parameter t names, from the first one useful to the last, 1/2 the one of least area; and how
        it changes with t."""
        early = t < 0.5
        slope = torch.where(
            early, torch.lerp(self.first, self.least, 2 * t), torch.lerp(self.least, self.last, 2 * t - 1)
        )
        return slope, 2 * torch.where(early, self.least - self.first, self.last - self.least)

    def select(self, domains: Tensor) -> Side:
        chosen = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(chosen, name, value[domains])
        return chosen


class Turned:
    """The lines below and above a turning function on [lower, upper], each (B, *N); one parameter serves both."""

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        most = torch.finfo(lower.dtype).max / 4
        lower, upper = lower.clamp(-most, most), upper.clamp(-most, most)
        curve = turning(op)
        self.below, self.above = Side(curve, lower, upper, -1), Side(curve, lower, upper, 1)

    def lines(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope and shift of the lower line, and of the upper one."""
        low, up = self.below.slope(t)[0], self.above.slope(t)[0]
        return -low, -self.below.shift(low)[1], up, self.above.shift(up)[1]

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        """How the value at z of the upper line, where `up`, else of the lower one changes with t."""
        rates = []
        for side in (self.above, self.below):
            slope, change = side.slope(t)
            rates.append((z - side.shift(slope)[0]) * change)
        return torch.where(up, rates[0], -rates[1])

    def select(self, domains: Tensor) -> Turned:
        """Of a batch (B, ...) of intervals those at `domains`."""
        chosen = copy(self)
        chosen.below, chosen.above = self.below.select(domains), self.above.select(domains)
        return chosen


def turning_range(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value on [lower, upper]; crossed where the bounds are."""
    most = torch.finfo(lower.dtype).max
    low, high = torch.minimum(lower, upper).clamp(-most, most), torch.maximum(lower, upper).clamp(-most, most)
    flat = torch.zeros_like(low)
    least, greatest = (Support(turning(op), low, high, sign).shift(flat)[1] for sign in (-1, 1))
    empty = lower > upper
    return torch.where(empty, greatest, -least), torch.where(empty, -least, greatest)


def turning_band(op: ops.Op, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, shift and radius of the narrowest band: its width is convex in the slope, with derivative
    argmin - argmax."""
    lines = Turned(op, lower, upper)
    above, below = lines.above, lines.below
    low, high = torch.minimum(above.last, -below.first), torch.maximum(above.first, -below.last)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    for _ in range(STEPS):
        slope = (low + high) / 2
        rising = below.top(-slope)[0] > above.top(slope)[0]
        low, high = torch.where(rising, low, slope), torch.where(rising, slope, high)
    slope = (low + high) / 2
    most, least = above.shift(slope)[1], -below.shift(-slope)[1]
    return slope, (most + least) / 2, ((most - least) / 2).clamp_min(0)
