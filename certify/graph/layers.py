"""Layers that are made of several operators: normalisation, attention, comparisons, running sums, resizing.

Functions of a builder and operands; constants may be any array. They raise as `GraphBuilder` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt

import numpy as np

from certify.graph import ops
from certify.graph.build import MOST_POWER, Array, GraphBuilder, NotLowered, Operand, Var, axis_of, number

# --- normalisation -------------------------------------------------------------------------------


def normalise(b: GraphBuilder, x: Operand, axes: Sequence[int], epsilon: float, *, centre: bool = True) -> Operand:
    """(x - mean) / sqrt(variance + epsilon) over `axes`; without `centre`, x / sqrt(mean square + epsilon).

    No entry of the result is larger than sqrt(n), n entries being averaged: the clip at that number never acts, but
    tells all methods.
    """
    axes = sorted(axis_of(a, x) for a in axes)
    if centre:
        x = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    spread = b.add(b.reduce_mean(b.square(x), axes, keepdims=True), np.float64(epsilon))
    most = sqrt(prod(x.shape[a] for a in axes)) * (1 + 1e-9)
    return b.clip(b.mul(x, b.emit(ops.Rsqrt(), spread)), -most, most)


def scaled(b: GraphBuilder, x: Operand, weight: Operand | None, bias: Operand | None) -> Operand:
    """weight * x + bias, either of which may be left out."""
    x = x if weight is None else b.mul(x, weight)
    return x if bias is None else b.add(x, bias)


def group_norm(
    b: GraphBuilder, x: Operand, groups: int, weight: Operand | None, bias: Operand | None, epsilon: float
) -> Operand:
    """Each of `groups` parts of the channels (axis 1) normalised, then scaled by channel; weight and bias (C,)."""
    batch, channels = x.shape[:2]
    if channels % groups:
        raise ValueError(f"{channels} channels in {groups} groups")
    parts = b.reshape(x, (batch, groups, -1))
    y = b.reshape(normalise(b, parts, [2], epsilon), x.shape)
    column = (channels, *(1,) * (len(x.shape) - 2))
    weight, bias = (None if p is None else b.reshape(p, column) for p in (weight, bias))
    return scaled(b, y, weight, bias)


# --- softmax and attention -----------------------------------------------------------------------


def log_softmax(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """x_i - log sum_j exp(x_j) over `axis` as -log(1 + sum_{j != i} exp(x_j - x_i)), as `GraphBuilder.softmax`."""
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
        return b.softmax(scores, -1)
    kept = mask if mask.dtype == bool else ~np.isneginf(mask)
    if mask.dtype != bool:
        scores = b.add(scores, np.where(kept, number(mask), 0))
    kept = np.broadcast_to(kept, scores.shape).reshape(-1, scores.shape[-1])
    if not kept.any(1).all():
        raise NotLowered("attention of which a row is masked out")
    rows, width = b.reshape(scores, kept.shape), kept.shape[1]
    patterns, which = np.unique(kept, axis=0, return_inverse=True)
    found, order = [], []
    for i, pattern in enumerate(patterns):
        chosen = np.flatnonzero(which.reshape(-1) == i)
        part = b.softmax(b.select(b.select(rows, 0, chosen), 1, np.flatnonzero(pattern)), 1)
        part = b.pad(part, (0, 0), (0, 1)) if not pattern.all() else part
        places = np.where(pattern, np.cumsum(pattern) - 1, int(pattern.sum()))
        found.append(b.select(part, 1, places) if not pattern.all() else part)
        order.append(chosen)
    back = np.argsort(np.concatenate(order))
    return b.reshape(b.select(b.concat(found, 0), 0, back), (*scores.shape[:-1], width))


# --- comparisons ---------------------------------------------------------------------------------

COMPARISONS: dict[str, Callable[[GraphBuilder, Operand], Operand]] = {
    "gt": lambda b, s: b.relu(s),
    "lt": lambda b, s: b.relu(b.neg(s)),
    "ge": lambda b, s: b.scale(b.relu(b.neg(s)), -1.0, 1.0),
    "le": lambda b, s: b.scale(b.relu(s), -1.0, 1.0),
    "eq": lambda b, s: b.scale(b.abs(s), -1.0, 1.0),
    "ne": lambda b, s: b.abs(s),
}
"""1 where it holds and 0 elsewhere, from the sign of x - y."""


def compare(b: GraphBuilder, kind: str, x: Operand, y: Operand) -> Operand:
    """Whether x > y ("gt"), and so on, as numbers 1 and 0."""
    return COMPARISONS[kind](b, b.sign(b.sub(x, y)))


def where(b: GraphBuilder, condition: Operand, x: Operand, y: Operand) -> Operand:
    """x where `condition` (truth values, or a variable that is 1 or 0) holds, else y."""
    if isinstance(condition, Var):
        return b.add(y, b.mul(condition, b.sub(x, y)))
    chosen = np.asarray(condition, bool)
    parts = []
    for part, mask in ((x, chosen), (y, ~chosen)):
        shape = np.broadcast_shapes(part.shape, chosen.shape)
        kept = b.mul(part, mask.astype(np.float64)) if isinstance(part, Var) else np.where(mask, number(part), 0)
        parts.append(b.expand(kept, shape))
    return b.add(*parts)


def rounded(b: GraphBuilder, x: Operand) -> Operand:
    """The nearest whole number, the even one of two: ceil((2 x - 1) / 4) + floor((2 x + 1) / 4)."""
    return b.add(ceiling(b, b.scale(x, 0.5, -0.25)), b.floor(b.scale(x, 0.5, 0.25)))


def ceiling(b: GraphBuilder, x: Operand) -> Operand:
    return b.neg(b.floor(b.neg(x)))


# --- curves --------------------------------------------------------------------------------------


def elu(b: GraphBuilder, x: Operand, alpha: float, scale: float = 1.0, inner: float = 1.0) -> Operand:
    """scale * (x where x >= 0, else alpha (exp(inner x) - 1)): that is elu_{alpha inner}(inner x) scale / inner."""
    if not (alpha * inner > 0 and inner > 0):
        raise NotLowered(f"an ELU with the factors {alpha:g}, {inner:g}")
    y = b.emit(ops.Elu(float(alpha) * float(inner)), b.scale(x, np.float64(inner), 0.0))
    return b.scale(y, np.float64(scale / inner), 0.0)


def softplus(b: GraphBuilder, x: Operand, beta: float = 1.0) -> Operand:
    """log(1 + exp(beta x)) / beta."""
    if not beta:
        raise ValueError("a softplus with beta 0")
    return b.scale(b.emit(ops.Softplus(), b.scale(x, np.float64(beta), 0.0)), np.float64(1 / beta), 0.0)


def power(b: GraphBuilder, x: Operand, exponent: float) -> Operand:
    """x^exponent: by products for whole numbers and halves, else exp(exponent log x), which needs x > 0."""
    if exponent == round(exponent) and abs(exponent) <= MOST_POWER:
        return b.power(x, int(exponent))
    if exponent in (0.5, -0.5):
        return b.emit(ops.Sqrt() if exponent > 0 else ops.Rsqrt(), x)
    if 2 * exponent == round(2 * exponent) and 0 < exponent <= MOST_POWER:
        return b.mul(b.power(x, int(exponent - 0.5)), b.emit(ops.Sqrt(), x))
    if exponent == round(exponent):
        raise NotLowered(f"to the power {exponent:g}")
    return b.exp(b.scale(b.emit(ops.Log(), x), np.float64(exponent), 0.0))


# --- linear maps along an axis -------------------------------------------------------------------


def along(b: GraphBuilder, x: Operand, axis: int, matrix: Array) -> Operand:
    """`matrix` (new, old) applied to each line of x along `axis`."""
    axis = axis_of(axis, x)
    order = [a for a in range(len(x.shape)) if a != axis] + [axis]
    return b.permute(b.linear(b.permute(x, order), matrix), np.argsort(order))


def cumsum(b: GraphBuilder, x: Operand, axis: int, *, exclusive: bool = False, reverse: bool = False) -> Operand:
    """Running sums along `axis`; `exclusive` leaves each entry itself out, `reverse` runs from the end."""
    n = x.shape[axis_of(axis, x)]
    matrix = np.tril(np.ones((n, n)), -1 if exclusive else 0)
    return along(b, x, axis, matrix.T if reverse else matrix)


def interpolation(places: Array, size: int) -> Array:
    """The matrix (len(places), size) of linear interpolation between `size` entries, at `places` among them."""
    inside = np.clip(np.asarray(places, np.float64), 0, size - 1)
    first = np.minimum(np.floor(inside).astype(np.int64), max(size - 2, 0))
    share = inside - first
    matrix = np.zeros((len(inside), size))
    rows = np.arange(len(inside))
    matrix[rows, first] += 1 - share
    matrix[rows, np.minimum(first + 1, size - 1)] += share
    return matrix


def einsum(b: GraphBuilder, equation: str, operands: Sequence[Operand]) -> Operand:
    """Sums of products by Einstein's convention, of one or two operands, no letter twice in one of them."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) if c != "," and left.count(c) == 1))
    if "." in equation or len(terms) > 2 or any(len(set(t)) < len(t) for t in (*terms, right)):
        raise NotLowered(f"the sum {equation}")
    if len(terms) != len(operands) or any(len(t) != len(x.shape) for t, x in zip(terms, operands, strict=False)):
        raise ValueError(f"the sum {equation} of {[x.shape for x in operands]}")
    summed = [
        _summed(b, x, term, (*terms[:i], *terms[i + 1 :], right))
        for i, (x, term) in enumerate(zip(operands, terms, strict=True))
    ]
    if len(summed) == 1:
        x, term = summed[0]
        return b.permute(x, [term.index(c) for c in right])
    (x, one), (y, other) = summed
    shared = [c for c in one if c in other and c in right]
    inner = [c for c in one if c in other and c not in right]
    rows, columns = [c for c in one if c not in other], [c for c in other if c not in one]
    sizes = {c: n for v, term in summed for c, n in zip(term, v.shape, strict=True)}
    count = {name: prod(sizes[c] for c in part) for name, part in (("r", rows), ("i", inner), ("c", columns))}
    lead = tuple(sizes[c] for c in shared)
    x = b.reshape(b.permute(x, [one.index(c) for c in (*shared, *rows, *inner)]), (*lead, count["r"], count["i"]))
    y = b.reshape(b.permute(y, [other.index(c) for c in (*shared, *inner, *columns)]), (*lead, count["i"], count["c"]))
    made = b.reshape(b.matmul(x, y), tuple(sizes[c] for c in (*shared, *rows, *columns)))
    letters = [*shared, *rows, *columns]
    return b.permute(made, [letters.index(c) for c in right])


def _summed(b: GraphBuilder, x: Operand, term: str, others: Sequence[str]) -> tuple[Operand, str]:
    """x without the letters that occur nowhere else, which are summed over."""
    alone = [i for i, c in enumerate(term) if not any(c in t for t in others)]
    if alone:
        x = b.reduce_sum(x, alone)
    return x, "".join(c for i, c in enumerate(term) if i not in alone)
