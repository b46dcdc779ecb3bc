"""What bounds are measured against: points that try to leave them, and the rounding that they may have."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from certify.bounds.base import Interval
from certify.bounds.interval import interval
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.relax.elementwise import LINES
from certify.relax.product import factors
from certify.spec.inputset import InputSet


def points(network: Network, inputs: InputSet, steps: int = 4, seed: int = 0) -> Tensor:
    """Inputs (B, P, d) of the regions: corners, the places nearest to 0, random ones, and for every
    output the ends of an ascent and of a descent, begun at the middle and at random."""
    batch, d = inputs.lower.shape
    lower, upper = inputs.lower, inputs.upper
    found = [lower, upper, lower.clamp_min(0).minimum(upper)]
    if d <= 6:
        found += [torch.where(torch.tensor(c, dtype=torch.bool), upper, lower) for c in product((0, 1), repeat=d)]
    generator = torch.Generator().manual_seed(seed)
    found += [inputs.sample(generator) for _ in range(16)]
    n = network.graph.output_size
    signs = torch.cat([torch.eye(n, dtype=lower.dtype), -torch.eye(n, dtype=lower.dtype)])
    many = inputs.select(torch.arange(batch).repeat_interleave(len(signs)))
    for x in (many.start(), many.sample(generator)):
        for k in range(steps):
            x = x.detach().requires_grad_(True)
            with torch.enable_grad():
                height = (network(x) * signs.repeat(batch, 1)).sum()
                # an output may not depend on the input, or not on all of it
                gradient = torch.autograd.grad(height, x, allow_unused=True)[0] if height.requires_grad else None
            gradient = torch.zeros_like(x) if gradient is None else gradient
            x = many.ascend(x.detach(), gradient, (2.0, 1.0, 0.5, 0.2)[min(k, 3)])
            found += list(x.reshape(batch, len(signs), d).unbind(1))
    inside = [_inside(inputs, x) for x in found]
    return torch.stack(inside, 1)


def _inside(inputs: InputSet, x: Tensor) -> Tensor:
    """x (B, d) projected, and for a ball drawn in by a little more than the projection's own error."""
    x = inputs.project(x)
    if inputs.norm is None:
        return x
    near = (inputs.center + (x - inputs.center) * (1 - 1e-9)).clamp(inputs.lower, inputs.upper)
    outside = (near - inputs.center).norm(p=inputs.norm, dim=1) > inputs.radius
    return torch.where(outside[:, None], inputs.start(), near)


def values(network: Network, x: Tensor) -> list[Tensor]:
    """Every node's value (B, P, *N) at inputs x (B, P, d)."""
    with torch.no_grad():
        flat = network.values(x.flatten(0, 1))
    return [
        v.expand(x.shape[0] * x.shape[1], *v.shape[1:]).reshape(*x.shape[:2], *v.shape[1:])
        if v.shape[0] == x.shape[0] * x.shape[1]
        else v.unsqueeze(0).expand(*x.shape[:2], *v.shape[1:])
        for v in flat
    ]


def slack(network: Network, inputs: InputSet) -> list[Tensor]:
    """(B, *N) per node: how far rounding may move a bound or a value.

    An affine operator of n terms adds at most about n eps |M| |x|; an elementwise one passes errors on with
    the steepest slope that its relaxation has; a jump near an end of its interval may be on either side.
    """
    graph = network.graph
    unit = 8 * (max(node.size for node in graph.nodes) + 8) * torch.finfo(network.dtype).eps
    bounds = interval(network, inputs)
    sizes = [torch.maximum(lower.abs(), upper.abs()) for lower, upper in bounds]
    found = [unit * sizes[0]]
    for i, node in enumerate(graph.nodes[1:], 1):
        affine = network.maps[i]
        if affine is not None:
            terms = affine.absolute(*(sizes[j] for j in node.inputs))
            if affine.bias is not None:
                terms = terms + affine.bias.abs()
            found.append(affine.absolute(*(found[j] for j in node.inputs)) + unit * terms)
            continue
        j = node.inputs[0]
        if isinstance(node.op, ops.Product):
            which = factors(node.op, sizes[j], 1)
            (x, y), (off, other) = which.of(sizes[j]), which.of(found[j])
            found.append(x * other + y * off + off * other + 8 * unit * x * y)
            continue
        lines = LINES[node.op](node.op, *bounds[j], None)
        steep = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs()).clamp_min(1.0)
        moved = steep * (found[j] + unit * sizes[j])
        extra = unit * (sizes[i] + lines.lower_shift.abs() + lines.upper_shift.abs())
        if isinstance(node.op, ops.Sign):
            extra = extra + 2 * ((bounds[j][0].abs() <= found[j]) | (bounds[j][1].abs() <= found[j]))
        found.append(moved + extra)
    return found


def violation(bound: Interval, value: Tensor, slack: Tensor) -> float:
    """By how much values (B, P, *N) leave bounds (B, *N) by more than slack: sound where this is not positive.
    A bound that is NaN claims nothing, but counts as a violation: nothing here may give one."""
    lower, upper = (b.unsqueeze(1) for b in bound)
    over = torch.maximum(lower - value, value - upper) - slack.unsqueeze(1)
    return float(torch.where(over.isnan(), torch.inf, over).max()) if over.numel() else float("-inf")
