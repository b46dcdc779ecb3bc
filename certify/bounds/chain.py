"""Intermediate bounds of fully connected ReLU networks over boxes, by the compiled kernels.

The same numbers as `certify.bounds.intermediate` computes in torch, up to rounding, with two differences:
of every domain exactly its own unstable neurons are tightened, and neurons that are 0 all over a domain take
no part in its products.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from certify.bounds.base import NodeBounds, flat
from certify.budget import Budget
from certify.graph import ops
from certify.graph.affine import LinearMap
from certify.graph.evaluate import Network
from certify.native import chains
from certify.native.library import Library, library
from certify.spec.inputset import InputSet

SLICE = 2e9
"""Operations between two looks at the budget, nearly; a domain that takes more is left to torch."""


def chain_of(network: Network) -> tuple[int, ...] | None:
    """The nodes that ReLUs read, if the graph is a chain of dense layers and ReLUs up to the last one; else None."""
    graph = network.graph
    if not graph.nonlinear:
        return None
    found, vector = [], True  # whether a layer comes next, or else its ReLU
    for i, node in enumerate(graph.nodes[1 : graph.nonlinear[-1] + 1], 1):
        layer = network.maps[i]
        if node.inputs != (i - 1,):
            return None
        if vector and isinstance(node.op, ops.Reshape):
            continue
        if vector and isinstance(layer, LinearMap) and node.size == layer.weight.shape[0]:
            found.append(i)
        elif vector or not isinstance(node.op, ops.Relu):
            return None
        vector = not vector
    return tuple(found)


def covers(network: Network, inputs: InputSet) -> bool:
    """Whether `intermediate` does its work, at a fraction of what it costs in torch."""
    return _task(network, inputs) is not None


def _task(network: Network, inputs: InputSet) -> tuple[Library, tuple[int, ...], list[LinearMap], float] | None:
    """Kernels, nodes to bound, the maps that lead to them, and operations per domain; None for what is not covered."""
    kernels = library()
    if kernels is None or network.device.type != "cpu" or network.dtype != torch.float32 or inputs.norm is not None:
        return None
    nodes = chain_of(network)
    if nodes is None:
        return None
    maps = [network.maps[v] for v in nodes]
    work = _operations(maps)
    return None if work > SLICE else (kernels, nodes, maps, work)


def intermediate(
    network: Network, inputs: InputSet, refine: Collection[int], within: NodeBounds, budget: Budget
) -> NodeBounds | None:
    """As `certify.bounds.intermediate.intermediate` with adaptive slopes; None for what the kernels do not cover."""
    task = _task(network, inputs)
    if task is None:
        return None
    kernels, nodes, maps, work = task
    layers = [m.packed for m in maps]
    size = max(1, int(SLICE / work))
    parts = []
    for first in range(0, len(inputs), size):
        here = slice(first, first + size)
        known = [_known(within, v, here) for v in nodes]
        on = [v in refine and not budget.expired for v in nodes]
        parts.append(chains.bounds(kernels, layers, inputs.lower[here], inputs.upper[here], known, on))
    found = {}
    for v, pieces in zip(nodes, zip(*parts, strict=True), strict=True):
        lower, upper = (torch.cat(side) if len(side) > 1 else side[0] for side in zip(*pieces, strict=True))
        shape = (len(inputs), *network.graph.nodes[v].shape)
        found[v] = (lower.reshape(shape), upper.reshape(shape))
    return found


def _operations(maps: list[LinearMap]) -> float:
    """Floating-point operations per domain if all neurons were unstable."""
    total = back = 0.0
    for m in maps:
        total += 2 * m.weight.shape[0] * back
        back += 2 * m.weight.numel()
    return max(total, 2 * back)


def _known(within: NodeBounds, v: int, here: slice) -> tuple[torch.Tensor, torch.Tensor] | None:
    if v not in within:
        return None
    lower, upper = (flat(b if b.shape[0] == 1 else b[here], 1) for b in within[v])
    return lower, upper
