"""Where to split a neuron: at a kink, or so that its relaxation is smallest on both sides.

For a smooth operator the point is the one at which the areas between the lines of the two children add up to the least
(branching points of GenBaB, Shi et al. 2024, section 3.3, which tabulates them; here they are searched for on a grid,
for the few neurons that are about to be split). It depends on the operator and the interval alone: where the minimiser
lies says how urgent a split is, hardly where it helps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.ops import breakpoints
from certify.relax.elementwise import LINES

SHARES = torch.arange(1, 16) / 16
"""Shares of the interval that are tried: no child keeps more than 15/16 of it."""


def split_point(op: ops.Nonlinear, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Where to split neurons that `op` reads, between bounds lower < upper; z are their values at the minimiser.

    Of several kinks within the bounds it is the one nearest to that. A factor of a product is halved, as the volume
    between its planes grows with the square of both widths.
    """
    points = breakpoints(op)
    if points is not None:
        return _nearest(points, z, lower, upper)
    if isinstance(op, ops.Product):
        return (lower + upper) / 2
    return _least_area(op, lower, upper)


def _nearest(points: tuple[float, ...], z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    found = torch.full_like(z, points[0])
    for p in points[1:]:
        nearer = ((z - p).abs() < (z - found).abs()) | ~((lower < found) & (found < upper))
        found = torch.where(nearer & (lower < p) & (p < upper), p, found)
    return found


def _least_area(op: ops.Nonlinear, lower: Tensor, upper: Tensor) -> Tensor:
    """The least sum of both children's areas, each the distance between the lines in the middle times the width."""
    shares = SHARES.to(lower)
    begin, end = lower.unsqueeze(-1), upper.unsqueeze(-1)
    point = begin + (end - begin) * shares
    low, high = torch.cat([begin.expand_as(point), point], -1), torch.cat([point, end.expand_as(point)], -1)
    gap = LINES[op](op, low, high, None).gap((low + high) / 2)
    area = sum((gap.clamp_min(0) * (high - low)).chunk(2, -1)).nan_to_num(torch.inf)
    middle, least = len(shares) // 2, area.min(-1)
    best = torch.where(least.values < area[..., middle], least.indices, middle)
    return point.gather(-1, best.unsqueeze(-1)).squeeze(-1)
