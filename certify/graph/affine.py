"""What each affine operator does to tensors: y = M x + b, |M| x, and the adjoint M^T a.

All tensors carry one leading batch axis, so (batch, *N). Interval, zonotope and linear bounds are
written on these four maps alone; an affine operator is one class here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph import ops
from certify.graph.ir import Node
from certify.graph.rules import Rules
from certify.graph.sparse import Sparse, sparse
from certify.native.products import covers, multiply
from certify.native.weights import Weights

Cast = Callable[[np.ndarray], Tensor]
"""A stored constant as a tensor of the wanted type on the wanted device."""


class Map:
    """An affine map of one node, for its input shapes. `bias` broadcasts to *N; None stands for zero."""

    bias: Tensor | None = None

    def linear(self, *xs: Tensor) -> Tensor:
        """M x; inputs (batch, *N_i) -> (batch, *N)."""
        raise NotImplementedError

    def absolute(self, *xs: Tensor) -> Tensor:
        """|M| x, entrywise absolute values."""
        return self.linear(*xs)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        """M^T a: (batch, *N) -> one (batch, *N_i) per input."""
        raise NotImplementedError

    def forward(self, *xs: Tensor) -> Tensor:
        """M x + b."""
        y = self.linear(*xs)
        return y if self.bias is None else y + self.bias

    def bias_term(self, a: Tensor) -> Tensor | None:
        """<a, b> per batch entry: (batch, *N) -> (batch,), None for zero."""
        if self.bias is None:
            return None
        bias = self.bias.expand(a.shape[1:]).reshape(-1)
        return a.reshape(a.shape[0], bias.shape[0]) @ bias  # flatten refuses scalar nodes


MAPS: Rules[Callable[[ops.Op, Node, Sequence[tuple[int, ...]], Cast], Map]] = Rules("evaluation")


@MAPS(ops.Constant)
class ConstantMap(Map):
    def __init__(self, op: ops.Constant, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.bias = cast(op.value)

    def forward(self, *xs: Tensor) -> Tensor:
        return self.bias[None]

    def linear(self, *xs: Tensor) -> Tensor:
        return torch.zeros_like(self.bias)[None]

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return ()


@MAPS(ops.Linear)
def _linear(op: ops.Linear, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> Map:
    slots = sparse(op.weight)
    return LinearMap(op, cast) if slots is None else SparseMap(op, slots, cast)


class SparseMap(Map):
    """A linear map of few entries."""

    def __init__(self, op: ops.Linear, slots: Sparse, cast: Cast) -> None:
        self.rows, self.columns = ([tuple(map(cast, s)) for s in zip(*side, strict=True)] for side in slots)
        self.bias = None if op.bias is None else cast(op.bias)

    def linear(self, *xs: Tensor) -> Tensor:
        return _gathered(xs[0], self.rows)

    def absolute(self, *xs: Tensor) -> Tensor:
        return _gathered(xs[0], [(index, value.abs()) for index, value in self.rows])

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (_gathered(a, self.columns),)


def _gathered(x: Tensor, slots: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The matrix of these slots times x, along the last axis."""
    total = x.new_zeros(())
    for index, value in slots:
        total = torch.addcmul(total, x.index_select(-1, index), value)
    return total


class LinearMap(Map):
    def __init__(self, op: ops.Linear, cast: Cast) -> None:
        self.weight = cast(op.weight)
        self.bias = None if op.bias is None else cast(op.bias)

    @cached_property
    def packed(self) -> Weights:
        """The same for the compiled kernels."""
        return Weights(self.weight, self.bias)

    def linear(self, *xs: Tensor) -> Tensor:
        if covers(xs[0], self.weight):
            return multiply(xs[0], self.packed.forth)
        return F.linear(xs[0], self.weight)

    def forward(self, *xs: Tensor) -> Tensor:
        if covers(xs[0], self.weight):
            return multiply(xs[0], self.packed.forth, self.bias)
        return F.linear(xs[0], self.weight, self.bias)

    def absolute(self, *xs: Tensor) -> Tensor:
        if covers(xs[0], self.weight):
            return multiply(xs[0], self.packed.size)
        return F.linear(xs[0], self.weight.abs())

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        if covers(a, self.weight):
            return (multiply(a, self.packed.back),)
        return (a @ self.weight,)


class _Spatial(Map):
    """Shared by the two convolutions: leading axes join the batch, as torch wants it."""

    def __init__(self, op: ops.Conv | ops.ConvTranspose, node: Node, shape: tuple[int, ...], cast: Cast) -> None:
        self.op = op
        self.dims = len(op.stride)
        self.weight = cast(op.weight)
        self.shape, self.out_shape = shape, node.shape
        if op.bias is not None:
            self.bias = cast(op.bias).reshape(-1, *([1] * self.dims))

    def _split(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.reshape(-1, *shape[-self.dims - 1 :])

    def _join(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return y.reshape(-1, *shape)

    def _correlate(self, x: Tensor, weight: Tensor) -> Tensor:
        op = self.op
        if op.before == op.after:
            padding = op.before
        else:
            pads = [p for pair in zip(reversed(op.before), reversed(op.after), strict=True) for p in pair]
            x, padding = F.pad(x, pads), (0,) * self.dims
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        return conv(x, weight, None, op.stride, padding, op.dilation, op.groups)

    def _scatter(self, a: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
        """The adjoint of `_correlate`, onto an input of spatial shape `size`."""
        op = self.op
        kernel = weight.shape[2:]
        extra = tuple(
            n + b + e - ((m - 1) * s + d * (k - 1) + 1)
            for n, b, e, m, s, d, k in zip(
                size, op.before, op.after, a.shape[2:], op.stride, op.dilation, kernel, strict=True
            )
        )
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]
        if op.before == op.after and all(
            0 <= x < max(s, d) for x, s, d in zip(extra, op.stride, op.dilation, strict=True)
        ):
            if self.dims == 2 and max(op.stride) > 1 and a.device.type == "cpu":
                # on a processor, torch spreads strided maps several times faster with the channels last
                a = a.contiguous(memory_format=torch.channels_last)
            return transpose(a, weight, None, op.stride, op.before, extra, op.groups, op.dilation).contiguous()
        full = transpose(a, weight, None, op.stride, 0, 0, op.groups, op.dilation)
        if any(extra):  # entries of the input that no window reached, or that the result must be cut to
            full = F.pad(full, [p for e in reversed(extra) for p in (0, e)])
        cut = tuple(slice(b, b + n) for b, n in zip(op.before, size, strict=True))
        return full[(..., *cut)]


@MAPS(ops.Conv)
class ConvMap(_Spatial):
    def __init__(self, op: ops.Conv, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        super().__init__(op, node, shapes[0], cast)

    def moved(self, op: ops.Conv, shape: tuple[int, ...], out_shape: tuple[int, ...]) -> ConvMap:
        """The map of `op`, which has the same weights, between these shapes *N: it shares this one's tensors."""
        found = copy(self)
        found.op, found.shape, found.out_shape = op, shape, out_shape
        return found

    def linear(self, *xs: Tensor) -> Tensor:
        return self._join(self._correlate(self._split(xs[0], self.shape), self.weight), self.out_shape)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self._join(self._correlate(self._split(xs[0], self.shape), self.weight.abs()), self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        size = self.shape[-self.dims :]
        return (self._join(self._scatter(self._split(a, self.out_shape), self.weight, size), self.shape),)


@MAPS(ops.ConvTranspose)
class ConvTransposeMap(_Spatial):
    def __init__(self, op: ops.ConvTranspose, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        super().__init__(op, node, shapes[0], cast)

    def linear(self, *xs: Tensor) -> Tensor:
        size = self.out_shape[-self.dims :]
        return self._join(self._scatter(self._split(xs[0], self.shape), self.weight, size), self.out_shape)

    def absolute(self, *xs: Tensor) -> Tensor:
        size = self.out_shape[-self.dims :]
        return self._join(self._scatter(self._split(xs[0], self.shape), self.weight.abs(), size), self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        y = self._correlate(self._split(a, self.out_shape), self.weight)
        return (self._join(y[(..., *(slice(0, n) for n in self.shape[-self.dims :]))], self.shape),)


@MAPS(ops.Scale)
class ScaleMap(Map):
    def __init__(self, op: ops.Scale, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.scale = None if np.all(op.scale == 1) else cast(op.scale)  # a mere shift, as a bias often is
        self.bias = cast(op.shift) if np.any(op.shift) else None

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] if self.scale is None else xs[0] * self.scale

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] if self.scale is None else xs[0] * self.scale.abs()

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a if self.scale is None else a * self.scale,)


def _reduce_to(a: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The adjoint of broadcasting (batch, *shape) to a's shape."""
    lead = a.dim() - 1 - len(shape)
    if lead:
        a = a.sum(tuple(range(1, lead + 1)))
    kept = [i + 1 for i, n in enumerate(shape) if n == 1 and a.shape[i + 1] != 1]
    return a.sum(kept, keepdim=True) if kept else a


def _align(x: Tensor, dims: int) -> Tensor:
    """Axes of size one put behind the batch axis, so that `dims` axes follow it."""
    return x.reshape(x.shape[0], *([1] * (dims - x.dim() + 1)), *x.shape[1:])


@MAPS(ops.Sum)
class SumMap(Map):
    def __init__(self, op: ops.Sum, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.coefficients, self.shapes, self.dims = op.coefficients, shapes, len(node.shape)

    def _sum(self, xs: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        terms = [
            _align(x, self.dims) * c if c != 1 else _align(x, self.dims) for x, c in zip(xs, coefficients, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def linear(self, *xs: Tensor) -> Tensor:
        return self._sum(xs, self.coefficients)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self._sum(xs, [abs(c) for c in self.coefficients])

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            _reduce_to(a * c if c != 1 else a, shape) for c, shape in zip(self.coefficients, self.shapes, strict=True)
        )


@MAPS(ops.Concat)
class ConcatMap(Map):
    def __init__(self, op: ops.Concat, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.axis = op.axis + 1
        self.sizes = [shape[op.axis] for shape in shapes]

    def linear(self, *xs: Tensor) -> Tensor:
        batch = max(x.shape[0] for x in xs)  # constants come with a batch of one
        return torch.cat([x.expand(batch, *x.shape[1:]) for x in xs], self.axis)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return a.split(self.sizes, self.axis)


@MAPS(ops.Select)
class SelectMap(Map):
    def __init__(self, op: ops.Select, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.axis, self.size = op.axis + 1, shapes[0][op.axis]
        steps = np.diff(op.index)
        step = int(steps[0]) if steps.size else 1
        self.slice = None
        if op.index.size and step > 0 and (steps == step).all():  # a view, and an adjoint without scatter
            self.slice = (slice(None),) * self.axis + (slice(int(op.index[0]), int(op.index[-1]) + 1, step),)
        self.index = cast(op.index)

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0][self.slice] if self.slice else xs[0].index_select(self.axis, self.index)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        out = a.new_zeros(*a.shape[: self.axis], self.size, *a.shape[self.axis + 1 :])
        if self.slice:
            out[self.slice] = a
        else:
            out.index_add_(self.axis, self.index, a)
        return (out,)


@MAPS(ops.Reshape)
class ReshapeMap(Map):
    def __init__(self, op: ops.Reshape, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.shape, self.out_shape = shapes[0], node.shape

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].reshape(-1, *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(-1, *self.shape),)


@MAPS(ops.Permute)
class PermuteMap(Map):
    def __init__(self, op: ops.Permute, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.axes = (0, *(a + 1 for a in op.axes))
        self.inverse = tuple(int(i) for i in np.argsort(self.axes))

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].permute(self.axes)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.permute(self.inverse),)


@MAPS(ops.Pad)
class PadMap(Map):
    def __init__(self, op: ops.Pad, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.pads = [p for pair in zip(reversed(op.before), reversed(op.after), strict=True) for p in pair]
        self.cut = tuple(slice(b, b + n) for b, n in zip(op.before, shapes[0], strict=True))
        if op.value:
            shift = np.full(node.shape, op.value)
            shift[self.cut] = 0
            self.bias = cast(shift)

    def linear(self, *xs: Tensor) -> Tensor:
        return F.pad(xs[0], self.pads)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a[(slice(None), *self.cut)],)


@MAPS(ops.ReduceSum)
class ReduceSumMap(Map):
    def __init__(self, op: ops.ReduceSum, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.axes, self.keepdims, self.shape = tuple(a + 1 for a in op.axes), op.keepdims, shapes[0]
        self.kept = tuple(1 if i in op.axes else n for i, n in enumerate(self.shape))

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].sum(self.axes, keepdim=self.keepdims) if self.axes else xs[0]  # torch reads () as all axes

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(-1, *self.kept).expand(-1, *self.shape),)


@MAPS(ops.Expand)
class ExpandMap(Map):
    def __init__(self, op: ops.Expand, node: Node, shapes: Sequence[tuple[int, ...]], cast: Cast) -> None:
        self.shape, self.out_shape = shapes[0], node.shape

    def linear(self, *xs: Tensor) -> Tensor:
        return _align(xs[0], len(self.out_shape)).expand(-1, *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (_reduce_to(a, self.shape),)
