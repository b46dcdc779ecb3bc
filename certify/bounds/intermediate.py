"""Bounds on intermediate values, cheapest first and only where they matter.

Node after node: interval bounds from what is already known; then, for the values that elementwise
operators read and that interval arithmetic leaves unstable, backward propagation of just those neurons.
What was tightened tightens the intervals behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from certify.bounds import chain, sweeps
from certify.bounds.base import Interval, NodeBounds, flat, intersect
from certify.bounds.cones import inputs_of, lines_of_cone, tiling
from certify.bounds.interval import step
from certify.bounds.linear import least
from certify.bounds.slopes import Slopes
from certify.bounds.zonotope import affine_forms
from certify.budget import Budget
from certify.check.forms import MOST_INPUTS
from certify.graph import ops
from certify.graph.cone import cone
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.graph.ops import breakpoints
from certify.relax.elementwise import Lines
from certify.spec.inputset import InputSet

CACHE = 64 << 20
"""On a processor, tensors that leave its caches cost more than the passes that smaller chunks add."""

COPIES = 8
"""Tensors of the size of a node's rows that may exist at once."""

Sharpen = Callable[[int, Interval, NodeBounds], Interval]
"""Node, its interval, bounds on what elementwise operators before it read -> a tighter interval."""

MIXING = (ops.Linear, ops.Conv, ops.ConvTranspose, ops.Sum, ops.ReduceSum)
"""Affine operators whose interval bounds lose what their inputs have in common."""


def read_by_elementwise(graph: Graph) -> tuple[int, ...]:
    """The nodes whose bounds the relaxations need, in order."""
    return tuple(sorted({graph.nodes[e].inputs[0] for e in graph.nonlinear}))


def worth_refining(graph: Graph) -> tuple[int, ...]:
    """Those of them for which backward propagation can beat interval arithmetic.

    It cannot where at most one mixing operator lies between the input box and the node.
    """
    mixed = [0] * len(graph.nodes)
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, ops.Nonlinear):
            mixed[i] = 2
        elif node.inputs:
            mixed[i] = sum(mixed[j] for j in node.inputs) + isinstance(node.op, MIXING)
    return tuple(v for v in read_by_elementwise(graph) if mixed[v] > 1)


def unstable(graph: Graph, v: int, interval: Interval) -> Tensor:
    """(B, *N) mask: neurons of node v whose operator is not linear on the interval."""
    lower, upper = interval
    mask = torch.zeros_like(lower, dtype=torch.bool)
    for e in graph.readers[v]:
        op = graph.nodes[e].op
        if not isinstance(op, ops.Nonlinear):
            continue
        points = breakpoints(op)
        if points is None:
            mask |= lower < upper
        for p in points or ():
            mask |= (lower < p) & (p < upper)
    return mask


def intermediate(
    network: Network,
    inputs: InputSet,
    *,
    refine: Collection[int] | None = None,
    within: NodeBounds | None = None,
    slopes: Slopes = Slopes.ADAPTIVE,
    budget: Budget | None = None,
    sharpen: Sharpen | None = None,
) -> NodeBounds:
    """Bounds (B, *N) on every node that an elementwise operator reads.

    `refine` are the nodes to tighten by backward propagation (default: all where it can help) through lines
    with these `slopes`, and after that by `sharpen`; `within` are bounds known beforehand: if there are none,
    affine forms of few inputs serve, as they do the checker, for they leave half of the neurons to tighten. The
    budget's memory is kept to, in more passes if need be; once it has expired, what is not tightened yet stays
    as it is. Sound (up to float rounding) for every x of the regions.
    """
    budget = budget or Budget()
    graph = network.graph
    refine = worth_refining(graph) if refine is None else refine
    if slopes is Slopes.ADAPTIVE and sharpen is None:
        found = chain.intermediate(network, inputs, refine, within or {}, budget)
        if found is not None:
            return found
    if within is None and refine and graph.input_size <= MOST_INPUTS and inputs.norm is None:
        within = affine_forms(network, inputs)
    wanted = set(read_by_elementwise(graph))
    shape = (len(inputs), *graph.input_shape)
    values: dict[int, Interval] = {0: (inputs.lower.reshape(shape), inputs.upper.reshape(shape))}
    final = {j: i for i, node in enumerate(graph.nodes) for j in node.inputs}
    bounds: NodeBounds = {}
    lines: dict[int, Lines] = {}
    for i, node in enumerate(graph.nodes):
        if i:
            values[i] = step(network, i, [values[j] for j in node.inputs])
        if i in wanted:
            if within is not None and i in within:
                values[i] = intersect(values[i], within[i])
            if i in refine:
                values[i] = _refine(network, inputs, i, values[i], lines, budget)
                if sharpen is not None:
                    values[i] = sharpen(i, values[i], bounds)
            bounds[i] = values[i]
            readers = tuple(e for e in graph.readers[i] if isinstance(graph.nodes[e].op, ops.Nonlinear))
            lines |= slopes.lines(network, bounds, readers)
        for j in set(node.inputs):
            if final[j] == i:
                del values[j]
    return bounds


def _refine(
    network: Network, inputs: InputSet, v: int, interval: Interval, lines: dict[int, Lines], budget: Budget
) -> Interval:
    """Tighten the unstable neurons of node v: all by the compiled sweep where it covers them, or else tile by tile
    where that is cheaper."""
    batch, shape = len(inputs), network.graph.nodes[v].shape
    mask = unstable(network.graph, v, interval).expand(batch, *shape)
    count = int(mask.sum())
    if not count:
        return interval
    lower, upper = (b.expand(batch, *shape).clone() for b in interval)
    tiles = tiling(network, v, 2 * count) if sweeps.sweeper(network, inputs, v) is None else None
    if tiles is None:
        return _refined(network, inputs, v, (lower, upper), mask, lines, budget)
    for window in tiles:
        entries = (slice(None), *(slice(*part) for part in window))
        part = cone(network, v, window) if bool(mask[entries].any()) and not budget.expired else None
        if part is not None:
            last = len(part.network.graph.nodes) - 1
            own = inputs_of(part, network, inputs), last, (lower[entries], upper[entries]), mask[entries]
            lower[entries], upper[entries] = _refined(part.network, *own, lines_of_cone(part, lines), budget)
    return lower, upper


def _refined(
    network: Network,
    inputs: InputSet,
    v: int,
    interval: Interval,
    which: Tensor,
    lines: dict[int, Lines],
    budget: Budget,
) -> Interval:
    """Tighten the neurons `which` (B, *N) of node v, in chunks of domains and of neurons."""
    batch, shape = which.shape[0], which.shape[1:]
    mask = flat(which, 1)
    counts = mask.sum(1)
    lower, upper = (flat(b, 1).clone() for b in interval)
    widest = max(n.size for n in network.graph.nodes[: v + 1])
    memory = min(budget.memory, CACHE) if network.device.type == "cpu" else budget.memory
    number = torch.finfo(network.dtype).bits // 8
    capacity = max(1, memory // (COPIES * widest * number))  # rows at once
    order = torch.argsort(counts, descending=True)
    first = 0
    while first < batch and not budget.expired:
        most = int(counts[order[first]])
        if not most:
            break
        take = max(1, min(batch - first, capacity // (2 * most)))
        domains = order[first : first + take]
        first += take
        columns = mask[domains].any(0).nonzero().squeeze(1)
        for chunk in columns.split(max(1, capacity // 2)):
            if budget.expired:
                break
            _tighten(network, inputs, v, domains, chunk, mask, lines, lower, upper)
    return lower.reshape(batch, *shape), upper.reshape(batch, *shape)


def _tighten(
    network: Network,
    inputs: InputSet,
    v: int,
    domains: Tensor,
    columns: Tensor,
    mask: Tensor,
    lines: dict[int, Lines],
    lower: Tensor,
    upper: Tensor,
) -> None:
    """Bound the neurons `columns` of node v over `domains`, writing into lower and upper (B, size)."""
    shape, k = network.graph.nodes[v].shape, len(columns)
    everyone = len(domains) == len(inputs) and bool((domains[1:] > domains[:-1]).all())
    local = lines if everyone else {e: line.select(domains) for e, line in lines.items()}
    region = inputs if everyone else inputs.select(domains)
    unit = torch.zeros(k, mask.shape[1], dtype=network.dtype, device=network.device)
    unit[torch.arange(k, device=unit.device), columns] = 1
    rows = torch.cat([unit, -unit]).reshape(1, 2 * k, *shape)
    here = mask[domains][:, columns]
    most = int(here.sum(1).max())
    choose, target = None, columns.expand(len(domains), k)
    if len(domains) > 1 and most < 0.8 * k:  # each domain its own neurons, padded to the longest
        own = torch.topk(here.to(network.dtype), most, dim=1).indices
        choose = torch.cat([own, own + k], 1)
        target = columns[own]
    zero = rows.new_zeros(1, 2 * k)
    bound = least(network, v, rows, zero, local, region, choose).expand(len(domains), -1)
    bound = bound.nan_to_num(-torch.inf, torch.inf, -torch.inf)  # NaN, of lines with huge slopes, says nothing
    low, up = bound[:, : target.shape[1]], -bound[:, target.shape[1] :]
    lower[domains] = lower[domains].scatter_reduce(1, target, low, "amax")
    upper[domains] = upper[domains].scatter_reduce(1, target, up, "amin")
