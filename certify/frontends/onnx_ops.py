"""Rules for ONNX operators: arithmetic, products, reductions and activations.

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
from certify.graph.einsum import einsum
from certify.graph.softmax import log_softmax, log_sum_exp, softmax

OPS = Table()


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
    "Sigmoid": _one(GraphBuilder.sigmoid),
    "Tanh": _one(GraphBuilder.tanh),
    "Exp": _one(GraphBuilder.exp),
    "Reciprocal": _one(GraphBuilder.reciprocal),
    "Sin": _one(GraphBuilder.sin),
    "Cos": _one(GraphBuilder.cos),
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
}


@OPS("Einsum")
def _einsum(n: OnnxNode) -> Operand:
    return einsum(n.builder, n.text("equation", ""), n.inputs)


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
    if not isinstance(n.operand(0), Var):
        return layers.exponential(n.builder, n.need(0), n.operand(1))
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
@OPS("ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
def _reduced(n: OnnxNode) -> Operand:
    b, x, axes = n.builder, n.operand(0), n.integers(1, "axes")
    if not axes and n.attribute("noop_with_empty_axes", 0):
        raise NotLowered("over no axes")
    chosen, keep = axes or list(range(len(x.shape))), bool(n.attribute("keepdims", 1))
    if n.op in ("ReduceMax", "ReduceMin"):
        sign = b.neg if n.op == "ReduceMin" else (lambda y: y)
        best = sign(windows.reduce_max(b, sign(x), chosen))
        return best if keep else b.squeeze(best, chosen)
    if n.op == "ReduceProd":
        made = layers.product(b, x, chosen)
        return made if keep else b.squeeze(made, chosen)
    if n.op == "ReduceLogSumExp":
        return log_sum_exp(b, x, chosen, keepdims=keep)
    if n.op in ("ReduceL1", "ReduceL2"):
        return layers.length(b, x, 1 if n.op == "ReduceL1" else 2, chosen, keepdims=keep)
    total = b.reduce_sum(b.square(x) if n.op == "ReduceSumSquare" else x, chosen, keep)
    return b.emit(ops.Log(), total) if n.op == "ReduceLogSum" else total


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
        return softmax(n.builder, x, axis)
    axis = axis + len(x.shape) if axis < 0 else axis
    lead = int(np.prod(x.shape[:axis]))
    rows = n.builder.reshape(x, (lead, -1))  # before opset 13, over all axes from this one on
    return n.builder.reshape(softmax(n.builder, rows, 1), x.shape)


@OPS("LogSoftmax")
def _log_softmax(n: OnnxNode) -> Operand:
    x, axis = n.operand(0), n.attribute("axis", -1 if n.opset >= 13 else 1)
    if n.opset >= 13:
        return log_softmax(n.builder, x, axis)
    axis = axis + len(x.shape) if axis < 0 else axis
    rows = n.builder.reshape(x, (int(np.prod(x.shape[:axis])), -1))
    return n.builder.reshape(log_softmax(n.builder, rows, 1), x.shape)


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


@OPS("Softsign")
def _softsign(n: OnnxNode) -> Operand:
    b, x = n.builder, n.operand(0)
    return b.div(x, b.add(b.abs(x), np.float64(1)))


@OPS("Sinh", "Cosh")
def _hyperbolic(n: OnnxNode) -> Operand:
    b, x = n.builder, n.operand(0)
    return b.sum([b.exp(x), b.exp(b.neg(x))], [0.5, -0.5 if n.op == "Sinh" else 0.5])


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
