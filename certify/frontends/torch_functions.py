"""What torch's functions of numbers are in the graph: activations, softmax, normalisation, attention.

Rules as in `torch_table`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certify.frontends.torch_table import RULES, constant, rule
from certify.graph import layers, ops
from certify.graph.build import GraphBuilder, NotLowered, Operand
from certify.graph.softmax import attention, log_softmax, log_sum_exp, softmax

# --- elementwise ---------------------------------------------------------------------------------


@rule("relu.default")
def _relu(b: GraphBuilder, x: Operand) -> Operand:
    return b.relu(x)


@rule("leaky_relu.default")
def _leaky_relu(b: GraphBuilder, x: Operand, slope: float) -> Operand:
    return b.leaky_relu(x, slope)


@rule("prelu.default")
def _prelu(b: GraphBuilder, x: Operand, slope: Operand) -> Operand:
    """One slope, or one per channel (axis 1)."""
    slope = constant(slope, "a PReLU's slope")
    return b.leaky_relu(x, slope.reshape(-1, *(1,) * (len(x.shape) - 2)) if slope.size > 1 else slope.reshape(()))


@rule("clamp.default", "hardtanh.default")
def _clamp(b: GraphBuilder, x: Operand, lower: float | None, upper: float | None) -> Operand:
    return b.clip(x, -np.inf if lower is None else lower, np.inf if upper is None else upper)


@rule("clamp.Tensor")
def _clamp_between(b: GraphBuilder, x: Operand, lower: Operand | None, upper: Operand | None) -> Operand:
    x = x if lower is None else b.maximum(x, lower)
    return x if upper is None else b.minimum(x, upper)


@rule("hardsigmoid.default")
def _hardsigmoid(b: GraphBuilder, x: Operand) -> Operand:
    return b.hard_sigmoid(x, 1 / 6, 1 / 2)


@rule("abs.default")
def _abs(b: GraphBuilder, x: Operand) -> Operand:
    return b.abs(x)


@rule("sign.default")
def _sign(b: GraphBuilder, x: Operand) -> Operand:
    return b.sign(x)


@rule("sigmoid.default")
def _sigmoid(b: GraphBuilder, x: Operand) -> Operand:
    return b.sigmoid(x)


@rule("tanh.default")
def _tanh(b: GraphBuilder, x: Operand) -> Operand:
    return b.tanh(x)


@rule("maximum.default", "max.other")
def _maximum_of(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.maximum(x, y)


@rule("minimum.default", "min.other")
def _minimum_of(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.minimum(x, y)


@rule("exp.default")
def _exp(b: GraphBuilder, x: Operand) -> Operand:
    return b.exp(x)


@rule("reciprocal.default")
def _reciprocal(b: GraphBuilder, x: Operand) -> Operand:
    return b.reciprocal(x)


@rule("sin.default")
def _sin(b: GraphBuilder, x: Operand) -> Operand:
    return b.sin(x)


@rule("cos.default")
def _cos(b: GraphBuilder, x: Operand) -> Operand:
    return b.cos(x)


@rule("pow.Tensor_Scalar")
def _pow(b: GraphBuilder, x: Operand, exponent: float) -> Operand:
    return layers.power(b, x, exponent)


@rule("pow.Scalar")
def _power_of_a_number(b: GraphBuilder, base: float, x: Operand) -> Operand:
    return layers.exponential(b, np.float64(base), x)


@rule("square.default")
def _square(b: GraphBuilder, x: Operand) -> Operand:
    return b.square(x)


@rule("_softmax.default", "softmax.int")
def _softmax(b: GraphBuilder, x: Operand, axis: int, *rest: object) -> Operand:
    return softmax(b, x, axis)


@rule("_log_softmax.default", "log_softmax.int")
def _log_softmax(b: GraphBuilder, x: Operand, axis: int, *rest: object) -> Operand:
    return log_softmax(b, x, axis)


@rule("logsumexp.default")
def _log_sum_exp(b: GraphBuilder, x: Operand, axes: Sequence[int], keep: bool) -> Operand:
    return log_sum_exp(b, x, axes, keepdims=keep)


def _curve_rules(kinds: dict[str, type[ops.Op]]) -> None:
    """Operators of one argument that the graph has too."""
    for name, kind in kinds.items():
        RULES[f"aten.{name}.default"] = lambda b, x, kind=kind: b.emit(kind(), x)


_curve_rules(
    {
        "log": ops.Log,
        "sqrt": ops.Sqrt,
        "rsqrt": ops.Rsqrt,
        "erf": ops.Erf,
        "silu": ops.Silu,
        "mish": ops.Mish,
        "hardswish": ops.HardSwish,
    }
)


@rule("gelu.default")
def _gelu(b: GraphBuilder, x: Operand, approximate: str) -> Operand:
    return b.emit(ops.GeluTanh() if approximate == "tanh" else ops.Gelu(), x)


@rule("softplus.default")
def _softplus(b: GraphBuilder, x: Operand, beta: float, threshold: float) -> Operand:
    """Beyond the threshold torch takes x itself, which is rounding from 20 on."""
    if threshold < 20:
        raise NotLowered(f"a softplus that jumps at {threshold:g}")
    return layers.softplus(b, x, beta)


@rule("log_sigmoid_forward.default")
def _log_sigmoid(b: GraphBuilder, x: Operand) -> tuple[Operand, None]:
    return b.neg(b.emit(ops.Softplus(), b.neg(x))), None


@rule("elu.default")
def _elu(b: GraphBuilder, x: Operand, alpha: float, scale: float, inner: float) -> Operand:
    return layers.elu(b, x, alpha, scale, inner)


@rule("celu.default")
def _celu(b: GraphBuilder, x: Operand, alpha: float) -> Operand:
    return layers.elu(b, x, alpha, inner=1 / alpha)


@rule("log1p.default")
def _log1p(b: GraphBuilder, x: Operand) -> Operand:
    return b.emit(ops.Log(), b.add(x, np.float64(1)))


@rule("expm1.default")
def _expm1(b: GraphBuilder, x: Operand) -> Operand:
    return b.sub(b.exp(x), np.float64(1))


# --- normalisation and attention ------------------------------------------------------------------


@rule("native_layer_norm.default")
def _layer_norm(
    b: GraphBuilder, x: Operand, shape: Sequence[int], weight: Operand | None, bias: Operand | None, epsilon: float
) -> tuple[Operand, None, None]:
    y = layers.normalise(b, x, range(-len(shape), 0), epsilon)
    return layers.scaled(b, y, weight, bias), None, None


@rule("native_group_norm.default")
def _group_norm(
    b: GraphBuilder,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    batch: int,
    channels: int,
    size: int,
    groups: int,
    epsilon: float,
) -> tuple[Operand, None, None]:
    return layers.group_norm(b, x, groups, weight, bias, epsilon), None, None


@rule("_native_batch_norm_legit.no_stats")
def _norm_of_the_batch(
    b: GraphBuilder,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> tuple[Operand, None, None]:
    """Each channel (axis 1) by its own mean and variance, as in instance-norm."""
    y = layers.normalise(b, x, [a for a in range(len(x.shape)) if a != 1], epsilon)
    column = (-1, *(1,) * (len(x.shape) - 2))
    weight, bias = (None if p is None else b.reshape(p, column) for p in (weight, bias))
    return layers.scaled(b, y, weight, bias), None, None


@rule("scaled_dot_product_attention.default")
def _attention(
    b: GraphBuilder,
    query: Operand,
    key: Operand,
    value: Operand,
    mask: Operand | None,
    dropout: float,
    causal: bool,
    scale: float | None,
    grouped: bool,
) -> Operand:
    if dropout or grouped:
        raise NotLowered("attention with dropout or grouped queries")
    if causal:
        mask = np.tri(query.shape[-2], key.shape[-2], dtype=bool)
    return attention(b, query, key, value, None if mask is None else constant(mask, "a mask"), scale)
