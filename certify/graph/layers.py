"""Layers that are made of several operators: normalisation, curves, running sums and products, resizing.

Functions of a builder and operands; constants may be any array. They raise as `GraphBuilder` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from certify.graph import ops
from certify.graph.build import MOST_POWER, Array, GraphBuilder, NotLowered, Operand, axis_of, number

# --- normalisation -------------------------------------------------------------------------------


def normalise(b: GraphBuilder, x: Operand, axes: Sequence[int], epsilon: float, *, centre: bool = True) -> Operand:
    """(x - mean) / sqrt(variance + epsilon) over `axes`; without `centre`, x / sqrt(mean square + epsilon).

    No entry of the result is larger than sqrt(n), n entries being averaged, which `GraphBuilder.mul` tells all methods.
    """
    axes = sorted(axis_of(a, x) for a in axes)
    if centre:
        x = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    spread = b.add(b.reduce_mean(b.square(x), axes, keepdims=True), np.float64(epsilon))
    return b.mul(x, b.emit(ops.Rsqrt(), spread))


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


def exponential(b: GraphBuilder, base: Array, x: Operand) -> Operand:
    """base^x = exp(x log base), for constants that are positive."""
    base = number(base).astype(np.float64)
    if not (base > 0).all():
        raise NotLowered("powers of a number that is not positive")
    return b.exp(b.mul(x, np.log(base)))


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


def cubic(places: Array, size: int, a: float, *, inside_only: bool) -> Array:
    """The matrix (len(places), size) of cubic convolution between `size` entries, at `places` (Keys 1981).

    Beyond the ends stand copies of the last entries; or, `inside_only`, nothing, and the other weights sum to one.
    """
    places = np.asarray(places, np.float64)
    first = np.floor(places).astype(np.int64) - 1
    matrix = np.zeros((len(places), size))
    rows = np.arange(len(places))
    for k in range(4):
        distance = np.abs(places - first - k)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, far)
        inside = (first + k >= 0) & (first + k < size)
        np.add.at(matrix, (rows, np.clip(first + k, 0, size - 1)), weight * inside if inside_only else weight)
    return matrix / matrix.sum(1, keepdims=True) if inside_only else matrix


# --- products along an axis ----------------------------------------------------------------------


def running_product(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    """The product of each entry along `axis` and all before it."""
    axis = axis_of(axis, x)
    parts = [b.select(x, axis, np.array([i])) for i in range(x.shape[axis])]
    for i in range(1, len(parts)):
        parts[i] = b.mul(parts[i - 1], parts[i])
    return b.concat(parts, axis)


def product(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    """The product over `axes`, which are kept with size one: of pairs, log-deep."""
    for axis in axes:
        while x.shape[axis_of(axis, x)] > 1:
            n = x.shape[axis]
            half = n // 2
            pairs = b.mul(b.slice(x, axis, 0, half), b.slice(x, axis, half, 2 * half))
            x = pairs if n == 2 * half else b.concat([pairs, b.slice(x, axis, n - 1, n)], axis)
    return x


def deviation(b: GraphBuilder, x: Operand, axes: Sequence[int], correction: float, *, keepdims: bool) -> Operand:
    """The variance over `axes`: the sum of squares about the mean over (count - correction)."""
    axes = sorted(axis_of(a, x) for a in axes)
    count = prod(x.shape[a] for a in axes)
    if count <= correction:
        raise ValueError(f"the variance of {count} entries, of which {correction:g} are taken away")
    centred = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    return b.scale(b.reduce_sum(b.square(centred), axes, keepdims), 1.0 / (count - correction), 0.0)


def length(b: GraphBuilder, x: Operand, order: float, axes: Sequence[int], *, keepdims: bool) -> Operand:
    """The norm of order 1 or 2 over `axes`."""
    if order == 1:
        return b.reduce_sum(b.abs(x), axes, keepdims)
    if order == 2:
        return b.emit(ops.Sqrt(), b.reduce_sum(b.square(x), axes, keepdims))
    raise NotLowered(f"the norm of order {order:g}")
