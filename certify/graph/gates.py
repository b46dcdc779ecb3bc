"""Products of a value and a function of itself that are one operator: x sigmoid(x), x (1 + erf(x / sqrt 2)), ...

One operator has far tighter lines than the product of two variables, which knows nothing of what they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from certify.graph import ops
from certify.graph.ir import Node


class Gate(NamedTuple):
    """outer * op(inner * node `base`)."""

    op: ops.Elementwise
    base: int
    inner: float
    outer: float


def gated(nodes: Sequence[Node], x: int, gate: int) -> Gate | None:
    """The product of nodes x and `gate` as one operator, if it is one."""
    base, factor = _origin(nodes, x)
    node, share = nodes[gate], 1.0
    if isinstance(node.op, ops.Scale) and _one_number(node.op.scale, node.op.shift):
        share, node = float(node.op.scale.flat[0]), nodes[node.inputs[0]]  # of c (1 + f)
        if not isinstance(node.op, ops.Erf):
            return None
    elif isinstance(node.op, ops.Erf):
        return None
    if isinstance(node.op, ops.Tanh) and isinstance(nodes[node.inputs[0]].op, ops.Softplus):
        source, inner = _origin(nodes, nodes[node.inputs[0]].inputs[0])
        return Gate(ops.Mish(), base, 1.0, factor) if (source, inner) == (base, 1.0) else None
    if not isinstance(node.op, ops.Sigmoid | ops.Erf):
        return None
    source, inner = _origin(nodes, node.inputs[0])
    if source != base or not inner > 0:
        return None
    if isinstance(node.op, ops.Sigmoid):
        return Gate(ops.Silu(), base, inner, factor / inner)
    inner *= sqrt(2)
    return Gate(ops.Gelu(), base, inner, 2 * share * factor / inner)


def _one_number(*arrays: np.ndarray) -> bool:
    """Whether all entries of all arrays are one number, not 0."""
    first = arrays[0].flat[0] if arrays[0].size else 0
    return bool(first) and all(a.size and (a == first).all() for a in arrays)


def _origin(nodes: Sequence[Node], i: int) -> tuple[int, float]:
    """The node that node i is a multiple of, and the factor."""
    factor = 1.0
    while isinstance(nodes[i].op, ops.Scale) and not nodes[i].op.shift.any() and _one_number(nodes[i].op.scale):
        if nodes[nodes[i].inputs[0]].shape != nodes[i].shape:
            break
        factor, i = factor * float(nodes[i].op.scale.flat[0]), nodes[i].inputs[0]
    return i, factor
