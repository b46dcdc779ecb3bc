"""Rules for ONNX operators: arithmetic, products, shapes, reductions and activations.

Each follows the operator's page in the ONNX standard, opset 7 on; older forms (attributes) and newer
ones (inputs) of an operator share a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from certify.frontends.onnx_node import OnnxNode, Table
from certify.graph import layers, ops, windows
from certify.graph.build import GraphBuilder, NotLowered, Operand, Var, number

OPS = Table()
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""ONNX's numbers of the floating types that variables may have."""


# --- arithmetic ----------------------------------------------------------------------------------


def _two(method: Callable[[GraphBuilder, Operand, Operand], Operand]) -> Callable[[OnnxNode], Operand]:
    return lambda n: method(n.builder, n.operand(0), n.operand(1))


def _one(method: Callable[[GraphBuilder, Operand], Operand]) -> Callable[[OnnxNode], Operand]:
    return lambda n: method(n.builder, n.operand(0))


OPS |= {
    "Add": _two(GraphBuilder.add),
    "Sub": _two(GraphBuilder.sub),
    "Mul": _two(GraphBuilder.mul),
    "Div": _two(GraphBuilder.div),
    "MatMul": _two(GraphBuilder.matmul),
    "Neg": _one(GraphBuilder.neg),
    "Relu": _one(GraphBuilder.relu),
    "Abs": _one(GraphBuilder.abs),
    "Sign": _one(GraphBuilder.sign),
    "Floor": _one(GraphBuilder.floor),
    "Sigmoid": _one(GraphBuilder.sigmoid),
    "Tanh": _one(GraphBuilder.tanh),
    "Exp": _one(GraphBuilder.exp),
    "Reciprocal": _one(GraphBuilder.reciprocal),
    "Sin": _one(GraphBuilder.sin),
    "Cos": _one(GraphBuilder.cos),
    "Identity": lambda n: n.operand(0),
    **{
        name: lambda n, op=op: n.builder.emit(op(), n.operand(0))
        for name, op in {
            "Log": ops.Log,
            "Sqrt": ops.Sqrt,
            "Erf": ops.Erf,
            "Softplus": ops.Softplus,
            "Mish": ops.Mish,
            "HardSwish": ops.HardSwish,
        }.items()
    },
    "Ceil": _one(layers.ceiling),
    "Round": _one(layers.rounded),
    **{
        name: lambda n, kind=kind: layers.compare(n.builder, kind, n.operand(0), n.operand(1))
        for name, kind in {
            "Greater": "gt",
            "GreaterOrEqual": "ge",
            "Less": "lt",
            "LessOrEqual": "le",
            "Equal": "eq",
        }.items()
    },
    "Not": lambda n: n.builder.scale(n.operand(0), -1.0, 1.0),
    "And": lambda n: n.builder.mul(*_numbers(n)),
    "Or": lambda n: n.builder.maximum(*_numbers(n)),
}


def _numbers(n: OnnxNode) -> tuple[Operand, Operand]:
    """Two truth values as 1 and 0."""
    return tuple(x if isinstance(x, Var) else number(x) for x in (n.operand(0), n.operand(1)))


@OPS("Where")
def _where(n: OnnxNode) -> Operand:
    return layers.where(n.builder, n.operand(0), n.operand(1), n.operand(2))


@OPS("Einsum")
def _einsum(n: OnnxNode) -> Operand:
    return layers.einsum(n.builder, n.text("equation", ""), n.inputs)


@OPS("Sum")
def _sum(n: OnnxNode) -> Operand:
    return n.builder.sum(n.inputs, [1.0] * len(n.inputs))


@OPS("Mean")
def _mean(n: OnnxNode) -> Operand:
    return n.builder.sum(n.inputs, [1.0 / len(n.inputs)] * len(n.inputs))


@OPS("Max")
def _max(n: OnnxNode) -> Operand:
    return reduce(n.builder.maximum, n.inputs)


@OPS("Min")
def _min(n: OnnxNode) -> Operand:
    return reduce(n.builder.minimum, n.inputs)


@OPS("Pow")
def _pow(n: OnnxNode) -> Operand:
    exponent = n.constant(1)
    if exponent is None or not exponent.size or (exponent != exponent.flat[0]).any():
        raise NotLowered("to powers that differ or depend on the input")
    return n.builder.expand(layers.power(n.builder, n.operand(0), float(exponent.flat[0])), exponent.shape)


@OPS("Gemm")
def _gemm(n: OnnxNode) -> Operand:
    """alpha * A' B' + beta * C; a factor other than 1 goes into the constant, where float64 holds it exactly."""
    b, x, y, c = n.builder, n.operand(0), n.operand(1), n.get(2)
    alpha, beta = n.number("alpha", 1.0), n.number("beta", 1.0)
    if len(x.shape) != 2 or len(y.shape) != 2:
        raise ValueError(f"Gemm of {x.shape} and {y.shape}")
    x = b.transpose(x) if n.attribute("transA", 0) else x
    if isinstance(y, Var):
        product = b.mul(b.matmul(x, b.transpose(y) if n.attribute("transB", 0) else y), np.float64(alpha))
    else:
        weight = y if alpha == 1 else number(y).astype(np.float64) * alpha
        product = b.linear(x, weight) if n.attribute("transB", 0) else b.matmul(x, weight)
    return product if c is None else b.sum([product, c], [1.0, beta])


# --- shapes --------------------------------------------------------------------------------------


@OPS("Reshape")
def _reshape(n: OnnxNode) -> Operand:
    x, shape = n.operand(0), [int(s) for s in n.need(1)]
    if not n.attribute("allowzero", 0):
        if any(s == 0 and i >= len(x.shape) for i, s in enumerate(shape)):
            raise ValueError(f"a zero in the new shape {shape} of {x.shape} has no axis to copy")
        shape = [x.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return n.builder.reshape(x, shape)


@OPS("Flatten")
def _flatten(n: OnnxNode) -> Operand:
    x, axis = n.operand(0), n.attribute("axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        raise ValueError(f"axis {axis} of {x.shape}")
    axis = axis + len(x.shape) if axis < 0 else axis
    return n.builder.reshape(x, (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))))


@OPS("Transpose")
def _transpose(n: OnnxNode) -> Operand:
    x = n.operand(0)
    return n.builder.permute(x, n.attribute("perm", range(len(x.shape))[::-1]))


@OPS("Squeeze")
def _squeeze(n: OnnxNode) -> Operand:
    return n.builder.squeeze(n.operand(0), n.integers(1, "axes"))


@OPS("Unsqueeze")
def _unsqueeze(n: OnnxNode) -> Operand:
    axes = n.integers(1, "axes")
    if axes is None:
        raise ValueError("no axes are given")
    return n.builder.unsqueeze(n.operand(0), axes)


@OPS("Expand")
def _expand(n: OnnxNode) -> Operand:
    return n.builder.expand(n.operand(0), n.need(1))


@OPS("Tile")
def _tile(n: OnnxNode) -> Operand:
    return n.builder.tile(n.operand(0), n.need(1))


@OPS("Shape")
def _shape(n: OnnxNode) -> Operand:
    shape = n.operand(0).shape
    return np.array(shape[slice(n.attribute("start", 0), n.attribute("end", None))], np.int64)


@OPS("Size")
def _size(n: OnnxNode) -> Operand:
    return np.array(np.prod(n.operand(0).shape), np.int64)


@OPS("Concat")
def _concat(n: OnnxNode) -> Operand:
    return n.builder.concat(n.inputs, n.attributes["axis"])


@OPS("Slice")
def _slice(n: OnnxNode) -> Operand:
    x = n.operand(0)
    starts, ends = n.integers(1, "starts"), n.integers(2, "ends")
    if starts is None or ends is None:
        raise ValueError("starts or ends are missing")
    axes = n.integers(3, "axes") or range(len(starts))
    steps = n.integers(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:  # the standard moves a start that lies before the first entry onto it; Python leaves none
            start = max(start, -x.shape[axis])
        x = n.builder.slice(x, axis, start, end, step)
    return x


@OPS("Split")
def _split(n: OnnxNode) -> Sequence[Operand]:
    x, axis, sizes = n.operand(0), n.attribute("axis", 0), n.integers(1, "split")
    size = x.shape[axis]
    if sizes is None:
        count = len(n.outputs)
        part = -(-size // count)
        if size % count and "num_outputs" not in n.attributes:
            raise ValueError(f"an axis of {size} does not split into {count} equal parts")
        sizes = [max(min(part, size - i * part), 0) for i in range(count)]
    return n.builder.split(x, axis, sizes)


@OPS("Gather")
def _gather(n: OnnxNode) -> Operand:
    return n.builder.gather(n.operand(0), n.attribute("axis", 0), n.need(1))


@OPS("Pad")
def _pad(n: OnnxNode) -> Operand:
    x, pads, mode = n.operand(0), n.integers(1, "pads"), n.text("mode", "constant")
    dims = len(x.shape)
    axes = n.integers(3, "") or range(dims)
    if pads is None or len(pads) != 2 * len(axes):
        raise ValueError(f"pads {pads} for {len(axes)} axes")
    before, after = [0] * dims, [0] * dims
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    if mode != "constant":
        return n.builder.pad_copies(x, before, after, mode)
    value = n.constant(2)
    fill = n.number("value", 0.0) if value is None or not value.size else float(value.reshape(-1)[0])
    return n.builder.pad(x, before, after, fill)


@OPS("Dropout")
def _dropout(n: OnnxNode) -> Sequence[Operand]:
    training = n.constant(2)
    if training is not None and training.any():
        raise NotLowered("dropout in training mode")
    return [n.operand(0), np.ones(n.operand(0).shape, bool)]


@OPS("Cast", "CastLike")
def _cast(n: OnnxNode) -> Operand:
    if n.op == "Cast":
        floating = n.attribute("to", 0) in FLOATS
    else:  # CastLike: to the type of its second input
        floating = isinstance(n.operand(1), Var) or n.operand(1).dtype.kind not in "iub"
    if not floating:
        raise NotLowered("of a variable to a type that is not floating")
    return n.operand(0)


# --- reductions ----------------------------------------------------------------------------------


@OPS("ReduceSum", "ReduceMean")
def _reduce(n: OnnxNode) -> Operand:
    axes, x = n.integers(1, "axes"), n.operand(0)
    if not axes and n.attribute("noop_with_empty_axes", 0):
        return x
    method = n.builder.reduce_sum if n.op == "ReduceSum" else n.builder.reduce_mean
    return method(x, axes or None, bool(n.attribute("keepdims", 1)))


@OPS("CumSum")
def _cumsum(n: OnnxNode) -> Operand:
    exclusive, reverse = (bool(n.attribute(name, 0)) for name in ("exclusive", "reverse"))
    return layers.cumsum(n.builder, n.operand(0), int(n.need(1)), exclusive=exclusive, reverse=reverse)


@OPS("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
def _reduced(n: OnnxNode) -> Operand:
    b, x, axes = n.builder, n.operand(0), n.integers(1, "axes")
    if not axes and n.attribute("noop_with_empty_axes", 0):
        raise NotLowered("over no axes")
    chosen, keep = axes or list(range(len(x.shape))), bool(n.attribute("keepdims", 1))
    if n.op in ("ReduceMax", "ReduceMin"):
        sign = b.neg if n.op == "ReduceMin" else (lambda y: y)
        best = sign(windows.reduce_max(b, sign(x), chosen))
        return best if keep else b.squeeze(best, chosen)
    total = b.reduce_sum(b.abs(x) if n.op == "ReduceL1" else b.square(x), chosen, keep)
    return b.emit(ops.Sqrt(), total) if n.op == "ReduceL2" else total


# --- activations ---------------------------------------------------------------------------------


@OPS("LeakyRelu")
def _leaky(n: OnnxNode) -> Operand:
    return n.builder.leaky_relu(n.operand(0), np.float32(n.number("alpha", 0.01)))


@OPS("PRelu")
def _prelu(n: OnnxNode) -> Operand:
    return n.builder.leaky_relu(n.operand(0), n.need(1))


@OPS("HardSigmoid")
def _hard_sigmoid(n: OnnxNode) -> Operand:
    return n.builder.hard_sigmoid(n.operand(0), n.number("alpha", 0.2), n.number("beta", 0.5))


@OPS("Clip")
def _clip(n: OnnxNode) -> Operand:
    limits = []
    for i, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        given = n.constant(i)
        limits.append(n.attribute(name, default) if given is None else float(given.reshape(-1)[0]))
    return n.builder.clip(n.operand(0), *limits)


@OPS("Softmax")
def _softmax(n: OnnxNode) -> Operand:
    x, axis = n.operand(0), n.attribute("axis", -1 if n.opset >= 13 else 1)
    if n.opset >= 13:
        return n.builder.softmax(x, axis)
    axis = axis + len(x.shape) if axis < 0 else axis
    lead = int(np.prod(x.shape[:axis]))
    rows = n.builder.reshape(x, (lead, -1))  # before opset 13, over all axes from this one on
    return n.builder.reshape(n.builder.softmax(rows, 1), x.shape)


@OPS("LogSoftmax")
def _log_softmax(n: OnnxNode) -> Operand:
    x, axis = n.operand(0), n.attribute("axis", -1 if n.opset >= 13 else 1)
    if n.opset >= 13:
        return layers.log_softmax(n.builder, x, axis)
    axis = axis + len(x.shape) if axis < 0 else axis
    rows = n.builder.reshape(x, (int(np.prod(x.shape[:axis])), -1))
    return n.builder.reshape(layers.log_softmax(n.builder, rows, 1), x.shape)


@OPS("Gelu")
def _gelu(n: OnnxNode) -> Operand:
    kind = ops.GeluTanh if n.text("approximate", "none") == "tanh" else ops.Gelu
    return n.builder.emit(kind(), n.operand(0))


@OPS("Swish")
def _swish(n: OnnxNode) -> Operand:
    alpha = n.number("alpha", 1.0)
    if not alpha:
        return n.builder.scale(n.operand(0), 0.5, 0.0)
    inner = n.builder.scale(n.operand(0), np.float64(alpha), 0.0)
    return n.builder.scale(n.builder.emit(ops.Silu(), inner), np.float64(1 / alpha), 0.0)


@OPS("Elu", "Selu", "Celu")
def _elu(n: OnnxNode) -> Operand:
    b, x = n.builder, n.operand(0)
    if n.op == "Selu":
        return layers.elu(b, x, n.number("alpha", 1.67326319217681884765625), n.number("gamma", 1.0507010221481323))
    alpha = n.number("alpha", 1.0)
    return layers.elu(b, x, alpha) if n.op == "Elu" else layers.elu(b, x, alpha, inner=1 / alpha)


# --- normalisation -------------------------------------------------------------------------------


@OPS("LayerNormalization", "RMSNormalization")
def _layer_norm(n: OnnxNode) -> Sequence[Operand]:
    """The mean and the deviation, which runtimes give as well, are not computed."""
    x, axis = n.operand(0), n.attribute("axis", -1)
    axis = axis + len(x.shape) if axis < 0 else axis
    if n.outputs[1:] and any(n.outputs[1:]):
        raise NotLowered("with its second or third result")
    centre = n.op == "LayerNormalization"
    y = layers.normalise(n.builder, x, range(axis, len(x.shape)), n.number("epsilon", 1e-5), centre=centre)
    return [layers.scaled(n.builder, y, n.get(1), n.get(2) if centre else None)]


@OPS("InstanceNormalization", "GroupNormalization")
def _group_norm(n: OnnxNode) -> Operand:
    x = n.operand(0)
    groups = x.shape[1] if n.op == "InstanceNormalization" else n.attributes["num_groups"]
    weight, bias = n.need(1), n.need(2)
    if len(weight) != x.shape[1]:  # of operator set 18: one number per group
        weight, bias = (np.repeat(p, x.shape[1] // groups) for p in (weight, bias))
    return layers.group_norm(n.builder, x, groups, weight, bias, n.number("epsilon", 1e-5))
