"""Interval arithmetic: the cheapest bounds on every value of a network (Gowal et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from certify.bounds.base import Interval, NodeBounds, crossed, intersect
from certify.graph import ops
from certify.graph.affine import Map
from certify.graph.evaluate import Network
from certify.graph.rules import Rules
from certify.relax.bowl import undefined
from certify.relax.product import corners, factors
from certify.relax.turning import turning_range
from certify.relax.wave import wave_range
from certify.spec.inputset import InputSet

Rule = Callable[[Network, int, Sequence[Interval]], Interval]

INTERVAL: Rules[Rule] = Rules("interval")
"""rule(network, i, bounds of node i's inputs): the least box around node i's values, its inputs being
free in their boxes. An empty interval, lower > upper, stays one. Infinite bounds say that nothing is known, as
NaN does, which affine operators turn into them."""


@INTERVAL(ops.Affine)
def _affine(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """M c + b -+ |M| r for centre c and radius r; where M = |M|, simply both ends."""
    affine = network.maps[i]
    lowers, uppers = zip(*bounds, strict=True) if bounds else ((), ())
    if type(affine).absolute is Map.absolute:
        lower = affine.forward(*lowers)
        return known(lower, affine.forward(*uppers) if uppers else lower)
    middle = affine.forward(*((low + up) / 2 for low, up in bounds))
    spread = affine.absolute(*((up - low) / 2 for low, up in bounds))
    return known(middle - spread, middle + spread)


@INTERVAL(ops.Scale)
def _scale(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """Each end by itself, so that one that is finite stays so."""
    affine, (lower, upper) = network.maps[i], bounds[0]
    if affine.scale is not None:
        turned = affine.scale < 0
        lower, upper = torch.where(turned, upper, lower), torch.where(turned, lower, upper)
    return known(affine.forward(lower), affine.forward(upper))


@INTERVAL(ops.Sum)
def _sum(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """Each end by itself, as above."""
    affine, signs = network.maps[i], [c < 0 for c in network.graph.nodes[i].op.coefficients]
    ends = [(up, low) if turned else (low, up) for turned, (low, up) in zip(signs, bounds, strict=True)]
    lowers, uppers = zip(*ends, strict=True)
    return known(affine.forward(*lowers), affine.forward(*uppers))


def known(lower: Tensor, upper: Tensor) -> Interval:
    """Infinite bounds for NaN, which comes of 0 * inf and inf - inf: of nothing that is known."""
    return lower.nan_to_num(-inf, inf, -inf), upper.nan_to_num(inf, inf, -inf)


@INTERVAL(ops.Relu, ops.Clip, ops.Sigmoid, ops.Tanh, ops.Exp, ops.Floor, ops.Softplus, ops.Erf, ops.Elu)
def _increasing(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    function, (lower, upper) = network.functions[i], bounds[0]
    return function(lower), function(upper)


@INTERVAL(ops.Sign)
def _sign(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    lower, upper = (torch.where(b.isnan(), b, b.sign()) for b in bounds[0])  # the sign of NaN is 0 in torch
    return lower, upper


@INTERVAL(ops.LeakyRelu, ops.Abs, ops.Square)
def _kinked(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """The extremes of a function that turns nowhere but at 0 are at the ends or there."""
    function, (lower, upper) = network.functions[i], bounds[0]
    one, other, kink = function(lower), function(upper), function(torch.minimum(lower.clamp_min(0), upper))
    low, up = torch.minimum(torch.minimum(one, other), kink), torch.maximum(torch.maximum(one, other), kink)
    empty = lower > upper
    return torch.where(empty, up, low), torch.where(empty, low, up)


@INTERVAL(ops.Reciprocal)
def _reciprocal(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """Decreasing on either side of 0; unbounded where 0 is among the values."""
    lower, upper = bounds[0]
    through = (lower <= 0) & (upper >= 0)
    return (
        upper.reciprocal().masked_fill(through, -torch.inf),
        lower.reciprocal().masked_fill(through, torch.inf),
    )


@INTERVAL(ops.Log, ops.Sqrt, ops.Rsqrt)
def _rooted(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """Monotone; unbounded where the operator may not be defined."""
    op, function, (lower, upper) = network.graph.nodes[i].op, network.functions[i], bounds[0]
    outside = undefined(op, lower, upper) | undefined(op, upper, upper)  # also of empty intervals
    low, high = (upper, lower) if isinstance(op, ops.Rsqrt) else (lower, upper)
    return (
        function(low).masked_fill(outside, -torch.inf),
        function(high).masked_fill(outside, torch.inf),
    )


@INTERVAL(ops.Gelu, ops.GeluTanh, ops.Silu, ops.Mish, ops.HardSwish)
def _turning(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    lower, upper = bounds[0]
    return turning_range(network.graph.nodes[i].op, lower, upper)


@INTERVAL(ops.Sin, ops.Cos)
def _wave(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    lower, upper = bounds[0]
    return wave_range(network.graph.nodes[i].op, lower, upper)


@INTERVAL(ops.Product)
def _product(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """At two corners; crossed where the box is empty. A factor whose ends differ by rounding is not: the other one's
    whole width would be crossed for it."""
    op, (lower, upper) = network.graph.nodes[i].op, bounds[0]
    least, most = corners(op, lower, upper)
    which = factors(op, lower, 1)
    (low, other_low), (high, other_high) = which.of(lower), which.of(upper)
    empty = crossed(low, high) | crossed(other_low, other_high)
    return torch.where(empty, most, least), torch.where(empty, least, most)


def step(network: Network, i: int, bounds: Sequence[Interval]) -> Interval:
    """Bounds (B, *N) on node i from those on its inputs; constants come with a batch of one."""
    return INTERVAL[network.graph.nodes[i].op](network, i, bounds)


def interval(network: Network, inputs: InputSet, within: NodeBounds | None = None) -> list[Interval]:
    """Bounds (B, *N) on every node over the boxes around `inputs`; (1, *N) where nothing depends on them.

    Bounds known beforehand, `within`, are used where they are tighter. Sound up to float rounding.
    """
    shape = (len(inputs), *network.graph.input_shape)
    found: list[Interval] = []
    for i, node in enumerate(network.graph.nodes):
        if i:
            bounds = step(network, i, [found[j] for j in node.inputs])
        else:
            bounds = inputs.lower.reshape(shape), inputs.upper.reshape(shape)
        found.append(intersect(bounds, within[i]) if within is not None and i in within else bounds)
    return found
