"""Softmax and what is made of it: of differences, so that no product of variables and no overflow is left."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from certify.graph import ops
from certify.graph.build import Array, GraphBuilder, NotLowered, Operand, Var, axis_of, number


def softmax(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """exp(x_i) / sum_j exp(x_j) over `axis` as 1 / (1 + sum_{j != i} exp(x_j - x_i)): no product of variables,
    every value within (0, 1] whatever x's bounds, and tighter than the quotient (Wei et al. 2023, "Convex bounds
    on the softmax function", section 3). Entries that are minus infinity (`Emitter.leave_out`) give zeros.
    """
    axis = axis_of(axis, x)
    if isinstance(x, Var) and x.index in b.masked:
        last = [a for a in range(len(x.shape)) if a != axis] + [axis]
        scores, kept = b.masked[x.index]
        made = masked_softmax(b, b.permute(scores, last), np.transpose(kept, last))
        return b.permute(made, np.argsort(last))
    if x.shape[axis] == 1:
        return np.ones(x.shape)
    gaps = b.others(x, axis)
    return b.reciprocal(b.add(b.reduce_sum(b.exp(gaps), [axis + 1]), np.float64(1)))


def log_softmax(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """x_i - log sum_j exp(x_j) over `axis` as -log(1 + sum_{j != i} exp(x_j - x_i)), as `softmax`."""
    axis = axis_of(axis, x)
    if x.shape[axis] == 1:
        return np.zeros(x.shape)
    gaps = b.others(x, axis)
    if x.shape[axis] == 2:
        return b.neg(b.emit(ops.Softplus(), b.squeeze(gaps, [axis + 1])))
    total = b.add(b.reduce_sum(b.exp(gaps), [axis + 1]), np.float64(1))
    return b.neg(b.emit(ops.Log(), total))


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
    kept = np.broadcast_to(kept, scores.shape).reshape(-1, scores.shape[-1])
    if not kept.any(1).all():
        raise NotLowered("a softmax of which a row is masked out")
    rows, width = b.reshape(scores, kept.shape), kept.shape[1]
    patterns, which = np.unique(kept, axis=0, return_inverse=True)
    found, order = [], []
    for i, pattern in enumerate(patterns):
        chosen = np.flatnonzero(which.reshape(-1) == i)
        part = softmax(b, b.select(b.select(rows, 0, chosen), 1, np.flatnonzero(pattern)), 1)
        part = b.pad(part, (0, 0), (0, 1)) if not pattern.all() else part
        places = np.where(pattern, np.cumsum(pattern) - 1, int(pattern.sum()))
        found.append(b.select(part, 1, places) if not pattern.all() else part)
        order.append(chosen)
    back = np.argsort(np.concatenate(order))
    return b.reshape(b.select(b.concat(found, 0), 0, back), (*scores.shape[:-1], width))


def log_sum_exp(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    """log sum_j exp(x_j) over `axes`, which are dropped: x_0 + log(1 + sum_{j > 0} exp(x_j - x_0))."""
    axes = sorted(axis_of(a, x) for a in axes)
    rest = [a for a in range(len(x.shape)) if a not in axes]
    rows = b.reshape(b.permute(x, [*rest, *axes]), (*(x.shape[a] for a in rest), -1))
    n = rows.shape[-1]
    first = b.select(rows, -1, np.array([0]))
    gaps = b.sub(b.select(rows, -1, np.arange(1, n)), first)
    if n == 2:
        above = b.emit(ops.Softplus(), gaps)
    else:
        above = b.emit(ops.Log(), b.add(b.reduce_sum(b.exp(gaps), [-1], keepdims=True), np.float64(1)))
    return b.squeeze(b.add(first, above), [-1])
