"""The shape of an operator's output from those of its inputs; refuses operands that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod

import numpy as np

from certify.graph import ops
from certify.graph.rules import Rules

Shape = tuple[int, ...]

SHAPES: Rules[Callable[[ops.Op, Sequence[Shape]], Shape]] = Rules("shape inference")


def infer_shape(op: ops.Op, inputs: Sequence[Shape], wanted: Shape | None = None) -> Shape:
    """The output shape *N of `op`; `wanted` is the one asked of a Reshape or Expand, which do not hold it.

    Raises ValueError, saying what does not fit.
    """
    inputs = [tuple(s) for s in inputs]
    if isinstance(op, ops.Reshape):
        if wanted is None or len(inputs) != 1 or prod(inputs[0]) != prod(wanted):
            raise ValueError(f"cannot reshape {inputs} to {wanted}")
        return tuple(wanted)
    if isinstance(op, ops.Expand):
        if wanted is None or len(inputs) != 1 or np.broadcast_shapes(inputs[0], wanted) != tuple(wanted):
            raise ValueError(f"cannot expand {inputs} to {wanted}")
        return tuple(wanted)
    count = {ops.Constant: 0, ops.Sum: len(inputs), ops.Concat: len(inputs)}.get(type(op), 1)
    if len(inputs) != count or (not inputs and count):
        raise ValueError(f"{type(op).__name__} takes {count} inputs, not {len(inputs)}")
    return SHAPES[op](op, inputs)


@SHAPES(ops.Elementwise)
def _elementwise(op: ops.Elementwise, inputs: Sequence[Shape]) -> Shape:
    if isinstance(op, ops.LeakyRelu) and np.broadcast_shapes(op.slope.shape, inputs[0]) != inputs[0]:
        raise ValueError(f"a slope of shape {op.slope.shape} does not broadcast to {inputs[0]}")
    if isinstance(op, ops.Clip) and not op.lower <= op.upper:
        raise ValueError(f"the limits of a clip must be increasing, not {op.lower}, {op.upper}")
    if isinstance(op, ops.Elu) and not 0 < op.alpha < inf:
        raise ValueError(f"the factor of an ELU must be positive, not {op.alpha}")
    return inputs[0]


@SHAPES(ops.Product)
def _product(op: ops.Product, inputs: Sequence[Shape]) -> Shape:
    size = prod(inputs[0])
    if op.left.shape != op.right.shape or any(((i < 0) | (i >= size)).any() for i in (op.left, op.right)):
        raise ValueError(f"factors {op.left.shape} and {op.right.shape} among the entries of {inputs[0]}")
    return op.left.shape


@SHAPES(ops.Constant)
def _constant(op: ops.Constant, inputs: Sequence[Shape]) -> Shape:
    return op.value.shape


@SHAPES(ops.Linear)
def _linear(op: ops.Linear, inputs: Sequence[Shape]) -> Shape:
    if op.weight.ndim != 2 or not inputs[0] or inputs[0][-1] != op.weight.shape[1]:
        raise ValueError(f"a weight (out, in) of shape {op.weight.shape} does not fit an input of shape {inputs[0]}")
    if op.bias is not None and op.bias.shape != op.weight.shape[:1]:
        raise ValueError(f"a bias of shape {op.bias.shape} does not fit a weight of shape {op.weight.shape}")
    return (*inputs[0][:-1], op.weight.shape[0])


def _check_conv(op: ops.Conv | ops.ConvTranspose, shape: Shape, channels: int, out: int) -> int:
    """The number of spatial axes; `channels` in and `out` are those of the weight."""
    k = op.weight.ndim - 2
    sizes = (op.stride, op.before, op.after, op.dilation)
    if k not in (1, 2, 3) or any(len(s) != k for s in sizes):
        raise ValueError(f"a convolution over {k} axes with stride, pads, dilation {sizes}")
    if min((*op.stride, *op.dilation, op.groups)) < 1 or min(op.before + op.after) < 0:
        raise ValueError(f"stride, dilation and groups must be positive, pads not negative: {sizes}, {op.groups}")
    if len(shape) < k + 1 or shape[-k - 1] != channels or channels % op.groups or out % op.groups:
        raise ValueError(f"a weight of shape {op.weight.shape}, groups {op.groups}, does not fit an input {shape}")
    if op.bias is not None and op.bias.shape != (out,):
        raise ValueError(f"a bias of shape {op.bias.shape} does not fit {out} channels")
    return k


@SHAPES(ops.Conv)
def _conv(op: ops.Conv, inputs: Sequence[Shape]) -> Shape:
    (shape,), out = inputs, op.weight.shape[0]
    k = _check_conv(op, shape, op.weight.shape[1] * op.groups, out)
    size = tuple(
        (n + b + a - d * (w - 1) - 1) // s + 1
        for n, b, a, d, w, s in zip(
            shape[-k:], op.before, op.after, op.dilation, op.weight.shape[2:], op.stride, strict=True
        )
    )
    if min(size) < 1:
        raise ValueError(f"a kernel {op.weight.shape[2:]}, dilation {op.dilation}, is larger than the input {shape}")
    return (*shape[: -k - 1], out, *size)


@SHAPES(ops.ConvTranspose)
def _conv_transpose(op: ops.ConvTranspose, inputs: Sequence[Shape]) -> Shape:
    (shape,), out = inputs, op.weight.shape[1] * op.groups
    k = _check_conv(op, shape, op.weight.shape[0], out)
    if len(op.output_padding) != k:
        raise ValueError(f"output padding {op.output_padding} for {k} axes")
    size = tuple(
        (n - 1) * s + d * (w - 1) + 1 + o - b - a
        for n, b, a, d, w, s, o in zip(
            shape[-k:],
            op.before,
            op.after,
            op.dilation,
            op.weight.shape[2:],
            op.stride,
            op.output_padding,
            strict=True,
        )
    )
    if min(size) < 1:
        raise ValueError(f"the padding {op.before}, {op.after} leaves nothing of an input {shape}")
    return (*shape[: -k - 1], out, *size)


@SHAPES(ops.Scale)
def _scale(op: ops.Scale, inputs: Sequence[Shape]) -> Shape:
    if np.broadcast_shapes(op.scale.shape, op.shift.shape, inputs[0]) != inputs[0]:
        raise ValueError(f"constants of shape {op.scale.shape} and {op.shift.shape} do not broadcast to {inputs[0]}")
    return inputs[0]


@SHAPES(ops.Sum)
def _sum(op: ops.Sum, inputs: Sequence[Shape]) -> Shape:
    if len(op.coefficients) != len(inputs):
        raise ValueError(f"{len(op.coefficients)} coefficients for {len(inputs)} inputs")
    return np.broadcast_shapes(*inputs)


@SHAPES(ops.Concat)
def _concat(op: ops.Concat, inputs: Sequence[Shape]) -> Shape:
    rest = {(*s[: op.axis], *s[op.axis + 1 :]) for s in inputs}
    if len(rest) != 1 or not all(0 <= op.axis < len(s) for s in inputs):
        raise ValueError(f"cannot join {inputs} along axis {op.axis}")
    first = inputs[0]
    return (*first[: op.axis], sum(s[op.axis] for s in inputs), *first[op.axis + 1 :])


@SHAPES(ops.Select)
def _select(op: ops.Select, inputs: Sequence[Shape]) -> Shape:
    (shape,) = inputs
    if not 0 <= op.axis < len(shape) or op.index.ndim != 1:
        raise ValueError(f"cannot select along axis {op.axis} of {shape}")
    if op.index.size and not 0 <= op.index.min() <= op.index.max() < shape[op.axis]:
        raise ValueError(f"index {op.index.min()}..{op.index.max()} is outside axis {op.axis} of {shape}")
    return (*shape[: op.axis], op.index.size, *shape[op.axis + 1 :])


@SHAPES(ops.Permute)
def _permute(op: ops.Permute, inputs: Sequence[Shape]) -> Shape:
    if sorted(op.axes) != list(range(len(inputs[0]))):
        raise ValueError(f"{op.axes} is not an order of the axes of {inputs[0]}")
    return tuple(inputs[0][a] for a in op.axes)


@SHAPES(ops.Pad)
def _pad(op: ops.Pad, inputs: Sequence[Shape]) -> Shape:
    if not len(op.before) == len(op.after) == len(inputs[0]) or min((*op.before, *op.after), default=0) < 0:
        raise ValueError(f"cannot pad {inputs[0]} by {op.before} and {op.after}")
    return tuple(b + n + a for b, n, a in zip(op.before, inputs[0], op.after, strict=True))


@SHAPES(ops.ReduceSum)
def _reduce_sum(op: ops.ReduceSum, inputs: Sequence[Shape]) -> Shape:
    (shape,) = inputs
    if not all(0 <= a < len(shape) for a in op.axes) or len(set(op.axes)) != len(op.axes):
        raise ValueError(f"cannot sum {shape} over axes {op.axes}")
    if op.keepdims:
        return tuple(1 if i in op.axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in op.axes)
