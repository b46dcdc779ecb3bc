"""Two parallel lines around an elementwise function: the relaxation that zonotopes carry.

The narrowest band is wanted, as its width is the new uncertainty (DeepZ, Singh et al. 2018, section 4).
Ordinary floating point, as in `elementwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.rules import Rules
from certify.relax.bowl import BOWLS, band
from certify.relax.elementwise import LINES, chord, clip_edge, finite
from certify.relax.s_shaped import Function, edge, sigmoid_derivative, tanh_derivative
from certify.relax.turning import TURNED, turning_band
from certify.relax.wave import wave_band


class Band(NamedTuple):
    """|f(x) - slope * x - shift| <= radius for lower <= x <= upper; each (B, *N), radius >= 0."""

    slope: Tensor
    shift: Tensor
    radius: Tensor


Rule = Callable[[ops.Op, Tensor, Tensor], Band]

BANDS: Rules[Rule] = Rules("parallel relaxation")
"""rule(op, lower, upper): a band on [lower, upper], each (B, *N); finite where the bounds are."""


@BANDS(ops.Elementwise)
def _from_lines(op: ops.Op, lower: Tensor, upper: Tensor) -> Band:
    """The band around the operator's two lines. Of ReLU-like ones the free line is taken parallel to the
    chord, which is optimal; every slope between those of the two lines gives the same width."""
    below, down, slope, up = LINES[op](op, lower, upper, chord(lower, upper)[0])
    tilt = below - slope
    down = down + torch.minimum(tilt * finite(lower), tilt * finite(upper))
    return Band(slope, (up + down) / 2, ((up - down) / 2).clamp_min(0))


@BANDS(ops.Relu)
def _relu(op: ops.Relu, lower: Tensor, upper: Tensor) -> Band:
    """Singh et al. 2018, theorem 3.1."""
    slope, shift = chord(lower, upper)
    half = shift / 2
    return Band(slope, half, half)


@BANDS(ops.Sign)
def _sign(op: ops.Sign, lower: Tensor, upper: Tensor) -> Band:
    """Level: a slope could only widen the band around the jump."""
    low, up = (torch.where(b.isnan(), b, b.sign()) for b in (lower, upper))  # the sign of NaN is 0 in torch
    return Band(torch.zeros_like(low), (low + up) / 2, (up - low).clamp_min(0) / 2)


@BANDS(ops.Clip)
def _clip(op: ops.Clip, lower: Tensor, upper: Tensor) -> Band:
    lower, upper = finite(lower), finite(upper)
    rising = clip_edge(op.lower, op.upper, lower, upper)[2]
    falling = clip_edge(-op.upper, -op.lower, -upper, -lower)[2]
    kinks = [torch.full_like(lower, p) for p in ops.breakpoints(op)]
    return _around(lambda x: x.clamp(op.lower, op.upper), torch.minimum(rising, falling), lower, upper, kinks)


@BANDS(ops.Sigmoid)
def _sigmoid(op: ops.Sigmoid, lower: Tensor, upper: Tensor) -> Band:
    slope = _edges(torch.sigmoid, sigmoid_derivative, lower, upper)
    turn = 2 * _where_tanh_has(4 * slope)
    return _around(torch.sigmoid, slope, lower, upper, [turn, -turn])


@BANDS(ops.Tanh)
def _tanh(op: ops.Tanh, lower: Tensor, upper: Tensor) -> Band:
    slope = _edges(torch.tanh, tanh_derivative, lower, upper)
    turn = _where_tanh_has(slope)
    return _around(torch.tanh, slope, lower, upper, [turn, -turn])


@BANDS(*BOWLS)
def _bowl(op: ops.Op, lower: Tensor, upper: Tensor) -> Band:
    return Band(*band(op, lower, upper))


@BANDS(*TURNED)
def _turning(op: ops.Op, lower: Tensor, upper: Tensor) -> Band:
    return Band(*turning_band(op, lower, upper))


@BANDS(ops.Sin, ops.Cos)
def _wave(op: ops.Op, lower: Tensor, upper: Tensor) -> Band:
    return Band(*wave_band(op, lower, upper))


def _edges(f: Function, derivative: Function, lower: Tensor, upper: Tensor) -> Tensor:
    """The slope of the narrowest band around a function that is first convex, then concave.

    The width is convex in the slope. It falls while f - slope * x is least left of where it is greatest,
    which ends when either end of the interval takes over: at the flatter of the two envelopes' edges.
    """
    above = edge(f, derivative, lower, upper)[1]
    below = edge(lambda x: -f(-x), derivative, -upper, -lower)[1]
    return torch.minimum(above, below)


def _where_tanh_has(slope: Tensor) -> Tensor:
    """x >= 0 with tanh'(x) = slope: acosh(slope^-1/2), infinite for 0."""
    slope = slope.clamp(0, 1)
    return torch.log1p((1 - slope).sqrt()) - slope.log() / 2


def _around(f: Function, slope: Tensor, lower: Tensor, upper: Tensor, turns: Sequence[Tensor]) -> Band:
    """The band of a given slope, if f(x) - slope * x has its extremes at the ends or at `turns`."""
    lower, upper = finite(lower), finite(upper)
    least = f(lower) - slope * lower
    most = least
    for turn in (upper, *turns):
        x = torch.minimum(torch.maximum(turn, lower), upper)
        offset = f(x) - slope * x
        least, most = torch.minimum(least, offset), torch.maximum(most, offset)
    return Band(slope, (least + most) / 2, (most - least) / 2)
