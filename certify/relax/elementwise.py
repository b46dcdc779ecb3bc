"""Two lines around an elementwise function on an interval: the one relaxation that every method reads.

Computed in ordinary floating point: a line may miss the function by a few units in the last place of
the numbers it is made of. The checker has its own lines, rounded outward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.rules import Rules
from certify.native.products import kinked
from certify.relax.bowl import BOWLS, Bowled
from certify.relax.product import Planes, planes
from certify.relax.s_shaped import SIGMOID, TANH, Between, Curve
from certify.relax.turning import TURNED, Turned
from certify.relax.wave import wave_lines


class Lines(NamedTuple):
    """lower_slope * x + lower_shift <= f(x) <= upper_slope * x + upper_shift for lower <= x <= upper.

    Each broadcasts to (B, *N), or to (B, S, *N) where a slope of that shape was asked for; a shift that is
    zero everywhere has no dimension at all.
    """

    lower_slope: Tensor
    lower_shift: Tensor
    upper_slope: Tensor
    upper_shift: Tensor

    def select(self, domains: Tensor) -> Lines:
        """The lines of `domains` (positions); a tensor of one entry belongs to all of them."""
        return Lines(*(t[domains] if t.dim() and t.shape[0] > 1 else t for t in self))

    def gap(self, z: Tensor) -> Tensor:
        """The distance between the lines at z (B, S, *N)."""
        return (self.upper_slope - self.lower_slope) * z + self.upper_shift - self.lower_shift

    def charged(self, amount: Tensor) -> Tensor:
        """What the operator's entries cost, put down to the entries that it reads: the same ones."""
        return amount


Rule = Callable[[ops.Op, Tensor, Tensor, Tensor | None], Lines | Planes]

LINES: Rules[Rule] = Rules("linear relaxation")
"""rule(op, lower, upper, slope): lines on [lower, upper], each (B, *N).

`slope`, (B, *N) or (B, S, *N) in [0, 1] or None, chooses the line through the kink of ReLU-like operators
(`has_slope`) where they are unstable, where the lines of smooth ones touch, and how the planes of products are mixed;
NaN and None mean the line of least area. Other operators ignore it.

Bounds beyond a quarter of the floating type's range, infinite ones too, are read as that, so all lines are
finite; they hold wherever the type can hold the values. Where lower > upper, which is an empty interval,
the lines are finite and otherwise arbitrary. NaN bounds give NaN lines.
"""


def finite(bound: Tensor) -> Tensor:
    """The bound, not beyond a quarter of its type's range."""
    most = torch.finfo(bound.dtype).max / 4
    return bound.clamp(-most, most)


def has_slope(op: ops.Op) -> bool:
    """Whether one of the operator's lines has a free slope, given as a number in [0, 1]."""
    return isinstance(op, ops.Relu | ops.LeakyRelu | ops.Abs)


def has_parameter(op: ops.Op) -> bool:
    """Whether some line of the operator has a free parameter in [0, 1]."""
    return has_slope(op) or isinstance(op, (ops.Sigmoid, ops.Tanh, ops.Product, *BOWLS, *TURNED))


def adaptive(lower: Tensor, upper: Tensor) -> Tensor:
    """The slope 1 where the positive part of [lower, upper] is the longer one, else 0: the least area
    between the lines (Zhang et al. 2018, section 3.3)."""
    return (lower + upper > 0).to(lower.dtype)


def chord(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and shift of max(x, 0)'s chord: u / (u - l) and -l times that for l < 0 < u; slope 1 or 0 and
    shift 0 where it is stable. The slope is in [0, 1]."""
    limits = torch.finfo(lower.dtype)
    below, above = lower.clamp(-limits.max / 4, 0), upper.clamp(0, limits.max / 4)
    slope = above / (above - below).clamp_min(limits.tiny)
    return slope, -below * slope


def _aligned(lower: Tensor, upper: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    """The bounds (B, *N), as (B, 1, *N) if the slopes are (B, S, *N)."""
    if slope is not None and slope.dim() > lower.dim():
        return lower.unsqueeze(1), upper.unsqueeze(1)
    return lower, upper


def _free(lower: Tensor, upper: Tensor, slope: Tensor | None) -> Tensor:
    """The parameter of the line through 0: `slope` where there is one and the operator is unstable."""
    default = adaptive(lower, upper)
    if slope is None:
        return default
    return torch.where((lower < 0) & (upper > 0) & (slope == slope), slope, default)


@LINES(ops.Relu)
def _(op: ops.Relu, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    """CROWN's lines: slope * x below, the chord above (Zhang et al. 2018, table 2)."""
    if (found := kinked(lower, upper, slope)) is not None:
        low, high, shift = found
        return Lines(low, lower.new_zeros(()), high, shift)
    lower, upper = _aligned(lower, upper, slope)
    return Lines(_free(lower, upper, slope), lower.new_zeros(()), *chord(lower, upper))


def _bent(a: Tensor, lower: Tensor, upper: Tensor, slope: Tensor | None) -> Lines:
    """Lines of a * x + (1 - a) * max(x, 0): below and above change places where a > 1 (concave)."""
    lower, upper = _aligned(lower, upper, slope)
    through_zero = torch.lerp(a, torch.ones_like(a), _free(lower, upper, slope))  # exact at 0 and 1
    weight, shift = chord(lower, upper)
    across = weight + a * chord(-upper, -lower)[0]  # the weights of the two pieces, each without cancellation
    convex, shift = a <= 1, (1 - a) * shift
    zero = torch.zeros_like(shift)
    return Lines(
        torch.where(convex, through_zero, across),
        torch.where(convex, zero, shift),
        torch.where(convex, across, through_zero),
        torch.where(convex, shift, zero),
    )


@LINES(ops.LeakyRelu)
def _(op: ops.LeakyRelu, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    """slope t: the line (a + t (1 - a)) * x, below for a <= 1 and above for a > 1."""
    return _bent(lower.new_tensor(op.slope), lower, upper, slope)


@LINES(ops.Abs)
def _(op: ops.Abs, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    """slope t: the lower line (2 t - 1) * x."""
    return _bent(lower.new_full((), -1.0), lower, upper, slope)


Above = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Slope and shift of the upper line of some function on [lower, upper]."""


def _both(above: Above, mirrored: Above, lower: Tensor, upper: Tensor) -> Lines:
    """Lines from `above`, for f itself, and `mirrored`, for -f(-x)."""
    lower, upper = finite(lower), finite(upper)
    upper_slope, upper_shift = above(lower, upper)
    lower_slope, lower_shift = mirrored(-upper, -lower)
    return Lines(lower_slope, -lower_shift, upper_slope, upper_shift)


def clip_edge(low: float, high: float, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rising piece of the concave envelope of min(max(x, low), high), which begins at `lower`: where it
    ends, the value there, and its slope. Behind it the envelope is level."""
    touch = upper.clamp_max(high)
    at_touch, width = touch.clamp_min(low), touch - lower
    slope = torch.where(width > 0, (at_touch - lower.clamp(low, high)) / torch.where(width > 0, width, 1), 0)
    return touch, at_touch, slope


def _above_clip(low: float, high: float, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The piece of the envelope over the interval's middle: the upper line of least area."""
    touch, at_touch, slope = clip_edge(low, high, lower, upper)
    slope = torch.where((lower + upper) / 2 < touch, slope, 0)
    return slope, at_touch - slope * touch


@LINES(ops.Clip)
def _(op: ops.Clip, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    above = partial(_above_clip, op.lower, op.upper)
    return _both(above, partial(_above_clip, -op.upper, -op.lower), lower, upper)


def _above_sign(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """As for Clip: the face from (lower, -1) to (0, sign(upper)), or the level one behind it. A face so
    steep that its slope could overflow is not taken; the level one always holds."""
    level = torch.where(upper.isnan(), upper, upper.sign())  # the sign of NaN is 0 in torch
    rising = (lower + upper < 0) & (upper >= 0) & (lower < -(torch.finfo(lower.dtype).tiny ** 0.5))
    slope = torch.where(rising, (level + 1) / torch.where(rising, -lower, 1), 0)
    return slope, level


@LINES(ops.Sign)
def _(op: ops.Sign, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    return _both(_above_sign, _above_sign, lower, upper)


@LINES(ops.Floor)
def _(op: ops.Floor, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    """The faces of the staircase's convex hull over the interval's middle: above, from (lower, floor(lower)) to the
    next step's corner, along the corners, or level; below, level, along the corners, or up to (upper, floor(upper))."""
    lower, upper = finite(lower), finite(upper)
    first, last, middle = lower.floor() + 1, upper.floor(), (lower + upper) / 2
    level, tiny = last < first, torch.finfo(lower.dtype).tiny ** 0.5
    rise, end = 1 / (first - lower).clamp_min(tiny), 1 / (upper - last).clamp_min(tiny)
    above = torch.where(level | (middle >= last), 0, torch.where(middle < first, rise, 1))
    below = torch.where(level | (middle < first), 0, torch.where(middle < last, 1, end))
    up = torch.where(level | (middle >= last), last, torch.where(middle < first, first - rise * first, 0))
    down = torch.where(level | (middle < first), first - 1, torch.where(middle < last, -1, last - 1 - end * last))
    return Lines(below, down, above, up)


def curve_of(op: ops.Op) -> Curve:
    """The curve of an s-shaped operator."""
    return SIGMOID if isinstance(op, ops.Sigmoid) else TANH


@LINES(ops.Sigmoid, ops.Tanh)
def _(op: ops.Op, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    lower, upper = _aligned(lower, upper, slope)
    t = None if slope is None else torch.where(slope == slope, slope, 0.5)
    return Lines(*Between(curve_of(op), lower, upper).lines(t))


@LINES(*BOWLS)
def _(op: ops.Op, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    lower, upper = _aligned(lower, upper, slope)
    half = torch.full_like(lower, 0.5)
    return Lines(*Bowled(op, lower, upper).lines(half if slope is None else torch.where(slope == slope, slope, half)))


@LINES(*TURNED)
def _(op: ops.Op, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    lower, upper = _aligned(lower, upper, slope)
    half = torch.full_like(lower, 0.5)
    return Lines(*Turned(op, lower, upper).lines(half if slope is None else torch.where(slope == slope, slope, half)))


@LINES(ops.Product)
def _(op: ops.Product, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Planes:
    """Bounds and planes have an axis of rows: (B, 1, *shape), and (B, S, *N) for `slope`."""
    return planes(op, lower, upper, slope)


@LINES(ops.Sin, ops.Cos)
def _(op: ops.Op, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Lines:
    return Lines(*wave_lines(op, *_aligned(lower, upper, slope)))
