"""Softmax and what is made of it, by sums of exponentials of two numbers at a time.

log(exp(a) + exp(b)) is a + softplus(b - a), of which linear bounds lose nothing: over a box, the best planes around it
are those that the best lines around softplus make. So they lose little of log-sum-exp, as a tree of such pairs, and of
softmax, as the sigmoid of how far an entry is above the log-sum-exp of the others. No exponential overflows, and n
entries need O(n) nonlinear operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

from certify.graph import ops
from certify.graph.build import Array, GraphBuilder, NotLowered, Operand, Var, axis_of, number

FAR = 1e3
"""How much less than others a mask must add to some scores for these to be added up apart."""


def softmax(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """exp(x_i) / sum_j exp(x_j) over `axis`: the sigmoid of x_i - log sum_{j != i} exp(x_j).

    Entries that are minus infinity (`Emitter.leave_out`) give zeros. Those to which a mask adds a large negative
    number are added up apart: as differences from it, the others would be lost in its rounding.
    """
    axis = axis_of(axis, x)
    last = [a for a in range(len(x.shape)) if a != axis] + [axis]
    if isinstance(x, Var) and x.index in b.masked:
        scores, kept = b.masked[x.index]
        made = masked_softmax(b, b.permute(scores, last), np.transpose(kept, last))
        return b.permute(made, np.argsort(last))
    if x.shape[axis] == 1:
        return np.ones(x.shape)
    offset = b.offset(x)
    high = offset >= offset.max(axis, keepdims=True) - FAR
    if not high.all():
        made = _by_pattern(b, b.permute(x, last), np.transpose(high, last), _in_two)
        return b.permute(made, np.argsort(last))
    return b.sigmoid(b.sub(x, _of_the_others(b, x, axis)))


def _in_two(b: GraphBuilder, x: Operand, high: Array) -> Operand:
    """The softmax over the last axis of x (R, n), of which the entries `high` (n,) are far above the rest."""
    if high.all():
        return softmax(b, x, 1)
    upper, lower = (b.select(x, 1, np.flatnonzero(which)) for which in (high, ~high))
    top, bottom = (log_sum_exp(b, part, [1], keepdims=True) for part in (upper, lower))
    above = bottom if upper.shape[1] == 1 else _added(b, _of_the_others(b, upper, 1), bottom)
    below = top if lower.shape[1] == 1 else _added(b, top, _of_the_others(b, lower, 1))
    made = b.concat([b.sigmoid(b.sub(upper, above)), b.sigmoid(b.sub(lower, below))], 1)
    return b.select(made, 1, np.argsort(np.argsort(~high, kind="stable")))


def log_softmax(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """x_i - log sum_j exp(x_j) over `axis`."""
    return b.sub(x, log_sum_exp(b, x, [axis], keepdims=True))


def log_sum_exp(b: GraphBuilder, x: Operand, axes: Sequence[int], *, keepdims: bool = False) -> Operand:
    """log sum exp(x) over `axes`."""
    axes = sorted(axis_of(a, x) for a in axes)
    for axis in axes:
        while x.shape[axis] > 1:
            n = x.shape[axis]
            half = n // 2
            pairs = _added(b, b.slice(x, axis, 0, half), b.slice(x, axis, half, 2 * half))
            x = pairs if n == 2 * half else b.concat([pairs, b.slice(x, axis, n - 1, n)], axis)
    return x if keepdims else b.squeeze(x, axes)


def _added(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    """log(exp(x) + exp(y))."""
    return b.add(x, b.emit(ops.Softplus(), b.sub(y, x)))


def _of_the_others(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """For each entry along `axis`, of which there are two or more, the log-sum-exp of all others.

    Pairs of neighbours are added up, the others of each pair found in the same way, and each entry's others are its
    neighbour and those of the pair.
    """
    n = x.shape[axis]
    if n == 2:
        return b.select(x, axis, np.array([1, 0]))
    even = n - n % 2
    first, second = b.slice(x, axis, 0, even, 2), b.slice(x, axis, 1, even, 2)
    pairs = [_added(b, first, second), b.slice(x, axis, even, n)]
    others = _of_the_others(b, b.concat(pairs, axis), axis)
    outside = b.slice(others, axis, 0, even // 2)
    both = b.stack([_added(b, second, outside), _added(b, first, outside)], axis + 1)
    both = b.reshape(both, (*x.shape[:axis], even, *x.shape[axis + 1 :]))
    return b.concat([both, b.slice(others, axis, even // 2, (n + 1) // 2)], axis)


def attention(
    b: GraphBuilder, query: Operand, key: Operand, value: Operand, mask: Array | None, scale: float | None
) -> Operand:
    """softmax(query key^T scale + mask) value over the last two axes; `scale` is 1 / sqrt(E) where it is None.

    query (..., L, E), key (..., S, E), value (..., S, V); a mask that broadcasts to (..., L, S) holds truth values, or
    numbers to add, of which -inf leaves an entry out.
    """
    factor = 1 / sqrt(query.shape[-1]) if scale is None else scale
    scores = b.mul(b.matmul(query, b.transpose(key)), np.float64(factor))
    return b.matmul(masked_softmax(b, scores, mask), value)


def masked_softmax(b: GraphBuilder, scores: Operand, mask: Array | None) -> Operand:
    """The softmax over the last axis of scores + mask, with zeros where the mask leaves an entry out."""
    if mask is None:
        return softmax(b, scores, -1)
    kept = mask if mask.dtype == bool else ~np.isneginf(mask)
    if mask.dtype != bool:
        scores = b.add(scores, np.where(kept, number(mask), 0))
    kept = np.broadcast_to(kept, scores.shape)
    if not kept.any(-1).all():
        raise NotLowered("a softmax of which a row is masked out")
    return _by_pattern(b, scores, kept, _of_the_kept)


def _of_the_kept(b: GraphBuilder, x: Operand, kept: Array) -> Operand:
    """The softmax over the last axis of x (R, n), zeros standing for the entries that are not `kept` (n,)."""
    part = softmax(b, b.select(x, 1, np.flatnonzero(kept)), 1)
    if kept.all():
        return part
    return b.select(b.pad(part, (0, 0), (0, 1)), 1, np.where(kept, np.cumsum(kept) - 1, int(kept.sum())))


def _by_pattern(
    b: GraphBuilder, x: Operand, patterns: Array, make: Callable[[GraphBuilder, Operand, Array], Operand]
) -> Operand:
    """What `make` does to rows (R, n) of x (..., n), all those of one pattern (n,) of `patterns` (..., n) at once."""
    width = x.shape[-1]
    rows = b.reshape(x, (-1, width))
    distinct, which = np.unique(patterns.reshape(-1, width), axis=0, return_inverse=True)
    members = [np.flatnonzero(which.reshape(-1) == i) for i in range(len(distinct))]
    found = [make(b, b.select(rows, 0, some), pattern) for some, pattern in zip(members, distinct, strict=True)]
    back = np.argsort(np.concatenate(members))
    return b.reshape(b.select(b.concat(found, 0), 0, back), x.shape)
