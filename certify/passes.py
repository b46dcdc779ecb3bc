"""Making a graph cheaper to search, with the way back.

The search runs on the simplified graph, whose constants are rounded products of the original ones; proofs
speak of the original graph, on which the checker replays them. So a pass may round, and even an error
here could cost a proof but never make a false one.

Max-pooling, batch normalisation and the like are lowered to the operators of `graph.ops` by the
frontends already, exactly; what is left to do here is to merge neighbouring affine operators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from certify.graph import ops
from certify.graph.ir import Graph, Node

Array = np.ndarray

COSTLY = 10**9
"""Multiplications that merging two matrices may take."""


@dataclass(frozen=True, eq=False)
class Simplified:
    """`graph`, whose node i computes what node `origin[i]` of the original graph computes, up to rounding."""

    graph: Graph
    origin: tuple[int, ...]


def simplify(graph: Graph) -> Simplified:
    """Merge a `Scale` or `Linear` into the affine operator before it, where nothing else reads that one."""
    nodes: list[Node] = []
    origin: list[int] = []
    place: dict[int, int] = {}  # original node -> its node in the new graph
    last = len(graph.nodes) - 1
    for i, node in enumerate(graph.nodes):
        moved = replace(node, inputs=tuple(place[j] for j in node.inputs))
        before = node.inputs[0] if len(node.inputs) == 1 else 0
        k = place.get(before, 0)
        alone = before and graph.readers[before] == (i,) and (i != last or k == len(nodes) - 1)
        op = _merged(nodes[k], moved) if alone else None
        if op is None:
            place[i] = len(nodes)
            nodes.append(moved)
            origin.append(i)
        else:
            place[i] = k
            nodes[k] = Node(op, nodes[k].inputs, moved.shape, moved.name)
            origin[k] = i
    return Simplified(Graph(tuple(nodes), graph.inputs, graph.outputs), tuple(origin))


def _merged(first: Node, second: Node) -> ops.Op | None:
    """One operator for `second` after `first`; None if there is none, or if it would cost more."""
    a, b = first.op, second.op
    if isinstance(a, ops.Scale) and isinstance(b, ops.Scale):
        scale = np.asarray(b.scale, np.float64)
        return ops.Scale(scale * a.scale, scale * a.shift + b.shift)
    if isinstance(a, ops.Scale) and isinstance(b, ops.Linear):
        scale, shift = (_along(c, first.shape, -1) for c in (a.scale, a.shift))
        if scale is None or shift is None:
            return None
        weight = np.asarray(b.weight, np.float64)
        return ops.Linear(weight * scale, weight @ shift + _bias(b.bias, len(weight)))
    if isinstance(a, ops.Linear) and isinstance(b, ops.Linear):
        inner, outer = a.weight.shape, b.weight.shape
        if outer[0] * inner[1] > outer[0] * outer[1] + inner[0] * inner[1] or outer[0] * inner[1] * outer[1] > COSTLY:
            return None
        weight = np.asarray(b.weight, np.float64)
        return ops.Linear(weight @ a.weight, weight @ _bias(a.bias, inner[0]) + _bias(b.bias, outer[0]))
    if isinstance(a, ops.Linear | ops.Conv) and isinstance(b, ops.Scale):
        axis = -1 if isinstance(a, ops.Linear) else -1 - len(a.stride)
        scale, shift = (_along(c, first.shape, axis) for c in (b.scale, b.shift))
        if scale is None or shift is None:
            return None
        each = scale.reshape(-1, *[1] * (a.weight.ndim - 1))
        return replace(a, weight=each * a.weight, bias=scale * _bias(a.bias, len(scale)) + shift)
    return None


def _along(constant: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """A constant that varies along one axis of `shape` only, as a float64 vector; None if it varies otherwise."""
    constant = np.asarray(constant, np.float64)
    full = constant.reshape(*[1] * (len(shape) - constant.ndim), *constant.shape)
    others = [n for i, n in enumerate(full.shape) if i != len(shape) + axis]
    if any(n != 1 for n in others):
        return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],))


def _bias(bias: Array | None, size: int) -> Array:
    return np.zeros(size) if bias is None else np.asarray(bias, np.float64)
