"""Products of a value and a function of itself: x sigmoid(x), x (1 + erf(x / sqrt 2)), x / (1 + |x|), x / |x|_2, ...

One operator has far tighter lines than the product of two variables, which knows nothing of what they have in common;
and where there is none, of how large the product can be.
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


def is_softsign(nodes: Sequence[Node], x: int, gate: int) -> bool:
    """Whether node `gate` is 1 / (1 + |x|)."""
    if not isinstance(nodes[gate].op, ops.Reciprocal):
        return False
    below = nodes[nodes[gate].inputs[0]]
    if not isinstance(below.op, ops.Scale) or not _is(below.op.scale, 1.0) or not _is(below.op.shift, 1.0):
        return False
    size = nodes[below.inputs[0]]
    return isinstance(size.op, ops.Abs) and size.inputs[0] == x


def _is(array: np.ndarray, value: float) -> bool:
    return bool(array.size) and bool((array == value).all())


class Normed(NamedTuple):
    """x times a node is at most `most` large; `spread` is the node of which that one is 1 / sqrt, if it is."""

    most: float
    spread: int | None


def normed(nodes: Sequence[Node], x: int, gate: int) -> Normed | None:
    """What is known of x times node `gate`, where that is the reciprocal of a Euclidean norm of x, or of more: of
    c sqrt(d (sum of x^2) + e) + f or the like, with x's own square among those in each sum."""
    node, factor = nodes[gate], 1.0
    if isinstance(node.op, ops.Rsqrt):
        spread = node.inputs[0]
        inner, count = _at_least(nodes, spread)
        found = spread
    elif isinstance(node.op, ops.Reciprocal):
        root, factor = _at_least(nodes, node.inputs[0])
        if not isinstance(nodes[root].op, ops.Sqrt):
            return None
        spread = nodes[root].inputs[0]
        inner, count = _at_least(nodes, spread)
        found = spread if root == node.inputs[0] else None
    else:
        return None
    square = nodes[inner]
    if isinstance(square.op, ops.ReduceSum) and square.op.keepdims:
        square = nodes[square.inputs[0]]
    if not isinstance(square.op, ops.Square) or square.inputs[0] != x:
        return None
    return Normed((1 + 1e-9) / (factor * sqrt(count)), found)  # more than what rounding does to the constants


def _at_least(nodes: Sequence[Node], i: int) -> tuple[int, float]:
    """A node and a factor c > 0 so that node i is at least c times that one, which is not negative."""
    factor = 1.0
    while True:
        op = nodes[i].op
        if isinstance(op, ops.Scale) and _one_number(op.scale) and op.scale.flat[0] > 0 and (op.shift >= 0).all():
            factor *= float(op.scale.flat[0])
        elif not isinstance(op, ops.Expand) and not (isinstance(op, ops.Clip) and op.upper == np.inf):
            return i, factor
        i = nodes[i].inputs[0]
