"""The affine operators as the checker computes them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from certify.check.ops import RULES, Affine, Array, Shape
from certify.errors import MalformedNetwork
from certify.graph import ops
from certify.graph.ir import Node
from certify.graph.sparse import Slots, Sparse, sparse
from certify.numerics import exact


@RULES(ops.Constant)
class Constant(Affine):
    def __init__(self, op: ops.Constant, node: Node, shapes: Sequence[Shape]) -> None:
        self.bias = exact(op.value).reshape(node.shape)

    def linear(self, *xs: Array) -> Array:
        return np.zeros((1, *self.bias.shape))

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return ()


@RULES(ops.Linear)
def _linear(op: ops.Linear, node: Node, shapes: Sequence[Shape]) -> Affine:
    slots = sparse(exact(op.weight))
    return Linear(op, node) if slots is None else SparseLinear(op, node, slots)


class SparseLinear(Affine):
    """A matrix of few entries: as many products per sum as there are slots."""

    def __init__(self, op: ops.Linear, node: Node, slots: Sparse) -> None:
        self.slots, self.inputs = slots, op.weight.shape[1]
        self.lead = node.shape[:-1]
        self.terms, self.back_terms = (max(1, len(side.index)) for side in slots)
        if op.bias is not None:
            self.bias = np.broadcast_to(exact(op.bias), node.shape)

    def linear(self, *xs: Array) -> Array:
        return _gathered(xs[0], self.slots.rows)

    def absolute(self, *xs: Array) -> Array:
        return _gathered(xs[0], Slots(self.slots.rows.index, np.abs(self.slots.rows.value)))

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (_gathered(a, self.slots.columns),)

    def unit_rows(self, index: Array) -> Array | None:
        if prod(self.lead) != 1:
            return None
        return self.slots.rows.rows(index, self.inputs).reshape(*index.shape, *self.lead, -1)


def _gathered(x: Array, slots: Slots) -> Array:
    """The matrix of these slots times x, along the last axis."""
    total = np.zeros((*x.shape[:-1], slots.index.shape[1]))
    for index, value in zip(*slots, strict=True):
        total += x.take(index, -1) * value
    return total


class Linear(Affine):
    def __init__(self, op: ops.Linear, node: Node) -> None:
        self.weight = exact(op.weight)
        self.lead = node.shape[:-1]
        self.back_terms, self.terms = self.weight.shape
        if op.bias is not None:
            self.bias = np.broadcast_to(exact(op.bias), node.shape)
        self._absolute = np.abs(self.weight)

    def _map(self, x: Array, matrix: Array) -> Array:
        return (x.reshape(-1, matrix.shape[0]) @ matrix).reshape(-1, *self.lead, matrix.shape[1])

    def linear(self, *xs: Array) -> Array:
        return self._map(xs[0], self.weight.T)

    def absolute(self, *xs: Array) -> Array:
        return self._map(xs[0], self._absolute.T)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (self._map(a, self.weight),)

    def unit_rows(self, index: Array) -> Array | None:
        if prod(self.lead) != 1:
            return None
        return self.weight[index].reshape(*index.shape, *self.lead, -1)


class _Spatial(Affine):
    """A correlation with a kernel over padded input, and its adjoint: one matrix product per kernel entry.

    `wide` (C_w, *W) is the padded input's side of the correlation, `narrow` (C_n, *S) its result's;
    weight (C_n, C_w / groups, *kernel).
    """

    def __init__(self, op: ops.Conv | ops.ConvTranspose, node: Node, shape: Shape) -> None:
        self.dims = len(op.stride)
        self.groups = op.groups
        weight = exact(op.weight)
        self.kernel = weight.shape[2:]
        self.shape, self.out_shape = shape, node.shape
        # (groups, C_n / groups, C_w / groups) for every kernel entry
        cut = weight.reshape(op.groups, -1, weight.shape[1], prod(self.kernel))
        self.taps = np.ascontiguousarray(np.moveaxis(cut, -1, 0))
        self.absolute_taps = np.abs(self.taps)
        if op.bias is not None:
            self.bias = np.broadcast_to(exact(op.bias).reshape(-1, *([1] * self.dims)), node.shape)

    def _windows(self, op: ops.Conv | ops.ConvTranspose, narrow: Shape) -> list[tuple[slice, ...]]:
        """For every kernel entry the positions in the padded input that it meets."""
        return [
            tuple(
                slice(k * d, k * d + (n - 1) * s + 1, s)
                for k, d, n, s in zip(at, op.dilation, narrow, op.stride, strict=True)
            )
            for at in np.ndindex(*self.kernel)
        ]

    def _gather(self, x: Array, taps: Array, narrow: Shape) -> Array:
        """The correlation: x (B, C_w, *W) -> (B, C_n, *S)."""
        batch = x.shape[0]
        result = np.zeros((batch, self.groups, taps.shape[2], prod(narrow)))
        for tap, window in zip(taps, self.windows, strict=True):
            seen = x[(..., *window)].reshape(batch, self.groups, taps.shape[3], -1)
            result += np.matmul(tap, seen)
        return result.reshape(batch, -1, *narrow)

    def _scatter(self, a: Array, taps: Array, wide: Shape) -> Array:
        """Its adjoint: a (B, C_n, *S) -> (B, C_w, *W)."""
        batch, result = a.shape[0], np.zeros((a.shape[0], self.groups * taps.shape[3], *wide))
        inside = occupied(a)
        if inside is None:
            return result
        narrow = tuple(s.stop - s.start for s in inside)
        parts = a[(..., *inside)].reshape(batch, self.groups, taps.shape[2], -1)
        for tap, window in zip(taps.swapaxes(-1, -2), self.windows, strict=True):
            part = tuple(
                slice(w.start + s.start * w.step, w.start + (s.stop - 1) * w.step + 1, w.step)
                for w, s in zip(window, inside, strict=True)
            )
            result[(..., *part)] += np.matmul(tap, parts).reshape(batch, -1, *narrow)
        return result

    def _split(self, x: Array, shape: Shape) -> Array:
        """Leading axes join the batch."""
        return x.reshape(-1, *shape[-self.dims - 1 :])

    def _join(self, x: Array, shape: Shape) -> Array:
        return x.reshape(-1, *shape)


def occupied(a: Array) -> tuple[slice, ...] | None:
    """The smallest box of places outside which a (B, C, *S) is zero; None if it is zero everywhere.

    Rows of neurons that lie near one another are zero at most places of the layers just before them. The products
    that are left out are exactly zero, as weights are finite, so that the sums are the same; a NaN is not left out.
    """
    used = (a != 0).any((0, 1))
    ends = []
    for axis in range(used.ndim):
        along = np.flatnonzero(used.any(tuple(i for i in range(used.ndim) if i != axis)))
        if not along.size:
            return None
        ends.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(ends)


def _pad(x: Array, before: Shape, after: Shape) -> Array:
    if not any((*before, *after)):
        return x
    lead = [(0, 0)] * (x.ndim - len(before))
    return np.pad(x, [*lead, *zip(before, after, strict=True)])


def _inner(before: Shape, sizes: Shape) -> tuple:
    return (..., *(slice(b, b + n) for b, n in zip(before, sizes, strict=True)))


@RULES(ops.Conv)
class Conv(_Spatial):
    def __init__(self, op: ops.Conv, node: Node, shapes: Sequence[Shape]) -> None:
        super().__init__(op, node, shapes[0])
        self.before, self.after = op.before, op.after
        self.small, self.size = node.shape[-self.dims :], shapes[0][-self.dims :]
        self.windows = self._windows(op, self.small)
        self.terms = self.taps.shape[0] * self.taps.shape[3]
        self.back_terms = self.taps.shape[0] * self.taps.shape[2]

    def _correlate(self, x: Array, taps: Array) -> Array:
        padded = _pad(self._split(x, self.shape), self.before, self.after)
        return self._join(self._gather(padded, taps, self.small), self.out_shape)

    def linear(self, *xs: Array) -> Array:
        return self._correlate(xs[0], self.taps)

    def absolute(self, *xs: Array) -> Array:
        return self._correlate(xs[0], self.absolute_taps)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        wide = tuple(b + n + e for b, n, e in zip(self.before, self.size, self.after, strict=True))
        full = self._scatter(self._split(a, self.out_shape), self.taps, wide)
        return (self._join(full[_inner(self.before, self.size)], self.shape),)


@RULES(ops.ConvTranspose)
class ConvTranspose(_Spatial):
    def __init__(self, op: ops.ConvTranspose, node: Node, shapes: Sequence[Shape]) -> None:
        super().__init__(op, node, shapes[0])
        self.before, self.after = op.before, op.after
        self.small, self.size = shapes[0][-self.dims :], node.shape[-self.dims :]
        self.windows = self._windows(op, self.small)
        self.terms = self.taps.shape[0] * self.taps.shape[2]
        self.back_terms = self.taps.shape[0] * self.taps.shape[3]

    def _spread(self, x: Array, taps: Array) -> Array:
        wide = tuple(b + n + e for b, n, e in zip(self.before, self.size, self.after, strict=True))
        full = self._scatter(self._split(x, self.shape), taps, wide)
        return self._join(full[_inner(self.before, self.size)], self.out_shape)

    def linear(self, *xs: Array) -> Array:
        return self._spread(xs[0], self.taps)

    def absolute(self, *xs: Array) -> Array:
        return self._spread(xs[0], self.absolute_taps)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        padded = _pad(self._split(a, self.out_shape), self.before, self.after)
        return (self._join(self._gather(padded, self.taps, self.small), self.shape),)


@RULES(ops.Scale)
class Scale(Affine):
    terms = back_terms = 1

    def __init__(self, op: ops.Scale, node: Node, shapes: Sequence[Shape]) -> None:
        self.scale = exact(op.scale)
        shift = exact(op.shift)
        self.bias = np.broadcast_to(shift, node.shape) if shift.any() else None

    def linear(self, *xs: Array) -> Array:
        return xs[0] * self.scale

    def absolute(self, *xs: Array) -> Array:
        return xs[0] * np.abs(self.scale)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (a * self.scale,)


def _align(x: Array, dims: int) -> Array:
    """Axes of size one put behind the batch axis, so that `dims` axes follow it."""
    return x.reshape(x.shape[0], *([1] * (dims - x.ndim + 1)), *x.shape[1:])


def _unbroadcast(a: Array, shape: Shape) -> Array:
    """The adjoint of broadcasting (B, *shape) to a's shape."""
    lead = a.ndim - 1 - len(shape)
    a = a.sum(tuple(range(1, lead + 1))) if lead else a
    stretched = tuple(i + 1 for i, n in enumerate(shape) if n == 1 and a.shape[i + 1] != 1)
    return a.sum(stretched, keepdims=True) if stretched else a


@RULES(ops.Sum)
class Sum(Affine):
    def __init__(self, op: ops.Sum, node: Node, shapes: Sequence[Shape]) -> None:
        self.coefficients = exact(np.array(op.coefficients, np.float64)).tolist()
        self.shapes, self.shape = shapes, node.shape
        self.terms = len(shapes)
        self.back_terms = 1 + max(node.size // max(prod(s), 1) for s in shapes)

    def _sum(self, xs: Sequence[Array], coefficients: Sequence[float]) -> Array:
        total = np.zeros((1, *self.shape))
        for x, c in zip(xs, coefficients, strict=True):
            total = total + c * _align(x, len(self.shape))
        return total

    def linear(self, *xs: Array) -> Array:
        return self._sum(xs, self.coefficients)

    def absolute(self, *xs: Array) -> Array:
        return self._sum(xs, [abs(c) for c in self.coefficients])

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return tuple(_unbroadcast(c * a, s) for c, s in zip(self.coefficients, self.shapes, strict=True))


@RULES(ops.Concat)
class Concat(Affine):
    def __init__(self, op: ops.Concat, node: Node, shapes: Sequence[Shape]) -> None:
        self.axis = op.axis + 1
        self.ends = np.cumsum([s[op.axis] for s in shapes])[:-1]

    def linear(self, *xs: Array) -> Array:
        return np.concatenate(xs, self.axis)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return tuple(np.split(a, self.ends, self.axis))


@RULES(ops.Select)
class Select(Affine):
    def __init__(self, op: ops.Select, node: Node, shapes: Sequence[Shape]) -> None:
        self.axis, self.size = op.axis + 1, shapes[0][op.axis]
        self.index = np.asarray(op.index, np.int64)
        if ((self.index < 0) | (self.index >= self.size)).any():
            raise MalformedNetwork(f"node {node.name!r} selects entries that its input does not have")
        self.order = np.argsort(self.index, kind="stable")
        self.found, self.starts, counts = np.unique(self.index[self.order], return_index=True, return_counts=True)
        most = int(counts.max(initial=0))
        self.back_terms = most if most > 1 else 0

    def linear(self, *xs: Array) -> Array:
        return xs[0].take(self.index, self.axis)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        result = np.zeros((*a.shape[: self.axis], self.size, *a.shape[self.axis + 1 :]))
        if self.found.size:
            summed = a.take(self.order, self.axis)
            if self.back_terms:
                summed = np.add.reduceat(summed, self.starts, self.axis)
            result[(slice(None),) * self.axis + (self.found,)] = summed
        return (result,)


@RULES(ops.Reshape)
class Reshape(Affine):
    def __init__(self, op: ops.Reshape, node: Node, shapes: Sequence[Shape]) -> None:
        self.shape, self.out_shape = shapes[0], node.shape

    def linear(self, *xs: Array) -> Array:
        return xs[0].reshape(-1, *self.out_shape)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (a.reshape(-1, *self.shape),)


@RULES(ops.Permute)
class Permute(Affine):
    def __init__(self, op: ops.Permute, node: Node, shapes: Sequence[Shape]) -> None:
        self.axes = (0, *(a + 1 for a in op.axes))
        self.back = tuple(int(i) for i in np.argsort(self.axes))

    def linear(self, *xs: Array) -> Array:
        return xs[0].transpose(self.axes)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (a.transpose(self.back),)


@RULES(ops.Pad)
class Pad(Affine):
    def __init__(self, op: ops.Pad, node: Node, shapes: Sequence[Shape]) -> None:
        self.before, self.after = op.before, op.after
        self.inner = _inner(op.before, shapes[0])
        if op.value:
            self.bias = np.full(node.shape, exact(np.float64(op.value)))
            self.bias[self.inner] = 0

    def linear(self, *xs: Array) -> Array:
        return _pad(xs[0], self.before, self.after)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (a[self.inner],)


@RULES(ops.ReduceSum)
class ReduceSum(Affine):
    def __init__(self, op: ops.ReduceSum, node: Node, shapes: Sequence[Shape]) -> None:
        self.shape, self.keepdims = shapes[0], op.keepdims
        self.axes = tuple(a + 1 for a in op.axes)
        self.kept = tuple(1 if i in op.axes else n for i, n in enumerate(self.shape))
        self.terms = prod(self.shape[i] for i in op.axes)

    def linear(self, *xs: Array) -> Array:
        return xs[0].sum(self.axes, keepdims=self.keepdims)

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (np.broadcast_to(a.reshape(-1, *self.kept), (a.shape[0], *self.shape)),)


@RULES(ops.Expand)
class Expand(Affine):
    def __init__(self, op: ops.Expand, node: Node, shapes: Sequence[Shape]) -> None:
        self.shape, self.out_shape = shapes[0], node.shape
        copies = node.size // max(prod(self.shape), 1)
        self.back_terms = copies if copies > 1 else 0

    def linear(self, *xs: Array) -> Array:
        return np.broadcast_to(_align(xs[0], len(self.out_shape)), (xs[0].shape[0], *self.out_shape))

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (_unbroadcast(a, self.shape),)
