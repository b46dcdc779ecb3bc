"""What torch's arithmetic, weights and pooling are in the graph. Rules as in `torch_table`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certify.frontends.torch_table import constant, rule
from certify.graph import layers, steps, windows
from certify.graph.build import GraphBuilder, NotLowered, Operand, Var
from certify.graph.windows import Window


def _spread(values: Sequence[int], count: int) -> tuple[int, ...]:
    """One number per axis, where torch lets one stand for all."""
    return tuple(values) * count if len(values) == 1 else tuple(values)


# --- arithmetic ----------------------------------------------------------------------------------


@rule("add.Tensor", "add.Scalar")
def _add(b: GraphBuilder, x: Operand, y: Operand | float, alpha: float) -> Operand:
    return b.sum([x, y if isinstance(y, Var) else np.asarray(y)], [1, alpha])


@rule("sub.Tensor")
def _sub(b: GraphBuilder, x: Operand, y: Operand, alpha: float) -> Operand:
    return b.sum([x, y], [1, -alpha])


@rule("neg.default")
def _neg(b: GraphBuilder, x: Operand) -> Operand:
    return b.neg(x)


@rule("mul.Tensor")
def _mul(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.mul(x, y)


@rule("div.Tensor")
def _div(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.div(x, y)


@rule("where.self")
def _where(b: GraphBuilder, condition: Operand, x: Operand, y: Operand) -> Operand:
    return steps.where(b, condition, x, y)


@rule("cumsum.default")
def _cumsum(b: GraphBuilder, x: Operand, axis: int, dtype: object) -> Operand:
    return layers.cumsum(b, x, axis) if x.shape else x


@rule("cumprod.default")
def _cumprod(b: GraphBuilder, x: Operand, axis: int, dtype: object) -> Operand:
    return layers.running_product(b, x, axis) if x.shape else x


@rule("prod.default")
def _product_of_all(b: GraphBuilder, x: Operand, dtype: object) -> Operand:
    return b.squeeze(layers.product(b, x, range(len(x.shape))))


@rule("prod.dim_int")
def _product(b: GraphBuilder, x: Operand, axis: int, keep: bool, dtype: object) -> Operand:
    made = layers.product(b, x, [axis])
    return made if keep else b.squeeze(made, [axis])


@rule("var.correction")
def _variance(b: GraphBuilder, x: Operand, axes: Sequence[int] | None, correction: float | None, keep: bool) -> Operand:
    chosen = axes or range(len(x.shape))
    return layers.deviation(b, x, chosen, 1.0 if correction is None else float(correction), keepdims=keep)


@rule("linalg_vector_norm.default")
def _norm(b: GraphBuilder, x: Operand, order: float, axes: Sequence[int] | None, keep: bool, dtype: object) -> Operand:
    chosen = axes or range(len(x.shape))
    if order in (np.inf, -np.inf):
        return (_amax if order > 0 else _amin)(b, b.abs(x), chosen, keep)
    return layers.length(b, x, float(order), chosen, keepdims=keep)


@rule("sum.dim_IntList")
def _sum(b: GraphBuilder, x: Operand, axes: Sequence[int] | None, keep: bool, dtype: object) -> Operand:
    return b.reduce_sum(x, axes or None, keep)


@rule("sum.default")
def _sum_all(b: GraphBuilder, x: Operand, dtype: object) -> Operand:
    return b.reduce_sum(x)


@rule("mean.dim")
def _mean(b: GraphBuilder, x: Operand, axes: Sequence[int] | None, keep: bool, dtype: object) -> Operand:
    return b.reduce_mean(x, axes or None, keep)


@rule("mean.default")
def _mean_all(b: GraphBuilder, x: Operand, dtype: object) -> Operand:
    return b.reduce_mean(x)


# --- weights -------------------------------------------------------------------------------------


@rule("linear.default")
def _linear(b: GraphBuilder, x: Operand, weight: Operand, bias: Operand | None) -> Operand:
    return b.linear(x, weight, bias)


@rule("mm.default", "bmm.default", "matmul.default", "mv.default", "dot.default")
def _matmul(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.matmul(x, y)


@rule("addmm.default", "baddbmm.default")
def _addmm(b: GraphBuilder, shift: Operand, x: Operand, y: Operand, beta: float, alpha: float) -> Operand:
    product = b.matmul(x, y)
    return b.sum([product, shift], [alpha, beta]) if beta else b.sum([product], [alpha])


@rule("convolution.default")
def _convolution(
    b: GraphBuilder,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Operand:
    weight = constant(weight, "a convolution's kernel")
    bias = None if bias is None else constant(bias, "a convolution's bias")
    k = weight.ndim - 2
    ends = _spread(padding, k)
    common = {"stride": _spread(stride, k), "before": ends, "after": ends, "dilation": _spread(dilation, k)}
    if transposed:
        extra = _spread(output_padding, k)
        return b.conv_transpose(x, weight, bias, **common, output_padding=extra, groups=groups)
    return b.conv(x, weight, bias, **common, groups=groups)


@rule("_native_batch_norm_legit_no_training.default")
def _batch_norm(
    b: GraphBuilder,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    variance: Operand,
    momentum: float,
    epsilon: float,
) -> tuple[Operand, None, None]:
    mean, variance = constant(mean, "a batch-norm's mean"), constant(variance, "a batch-norm's variance")
    weight = np.ones_like(mean) if weight is None else constant(weight, "a batch-norm's weight")
    bias = np.zeros_like(mean) if bias is None else constant(bias, "a batch-norm's bias")
    return b.batch_norm(x, weight, bias, mean, variance, epsilon), None, None


# --- pooling -------------------------------------------------------------------------------------


def _window(
    count: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> Window:
    kernel, ends = _spread(kernel, count), _spread(padding, count)
    return Window(kernel, _spread(stride, count) or kernel, ends, ends, _spread(dilation, count), ceil)


def _pool_rules(count: int) -> None:
    """The pooling operators over `count` axes."""

    @rule(f"avg_pool{count}d.default")
    def _average(
        b: GraphBuilder,
        x: Operand,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil: bool,
        count_padding: bool,
        divisor: int | None = None,
    ) -> Operand:
        window = _window(count, kernel, stride, padding, ceil=ceil)
        if divisor is not None:
            return windows.sum_pool(b, x, window, 1.0 / divisor)
        return windows.avg_pool(b, x, window, count_padding=count_padding)

    @rule(f"max_pool{count}d_with_indices.default")
    def _maximum(
        b: GraphBuilder,
        x: Operand,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil: bool,
    ) -> tuple[Operand, None]:
        return windows.max_pool(b, x, _window(count, kernel, stride, padding, dilation, ceil)), None

    @rule(f"_adaptive_avg_pool{count}d.default", f"adaptive_avg_pool{count}d.default")
    def _adaptive_average(b: GraphBuilder, x: Operand, size: Sequence[int]) -> Operand:
        if set(size) == {1}:
            return b.reduce_mean(x, range(-count, 0), keepdims=True)
        even = all(n % m == 0 for n, m in zip(x.shape[-count:], size, strict=True))
        return windows.avg_pool(b, x, _even(x, size)) if even else windows.even_pool(b, x, size)

    @rule(f"adaptive_max_pool{count}d.default")
    def _adaptive_maximum(b: GraphBuilder, x: Operand, size: Sequence[int]) -> tuple[Operand, None]:
        return windows.max_pool(b, x, _even(x, size)), None


def _even(x: Operand, size: Sequence[int]) -> Window:
    """The window of an adaptive pooling whose parts are all of one size."""
    spatial = x.shape[len(x.shape) - len(size) :]
    if any(n % m for n, m in zip(spatial, size, strict=True)):
        raise NotLowered(f"adaptive pooling of {spatial} to {tuple(size)}, which does not divide it")
    return _window(len(size), [n // m for n, m in zip(spatial, size, strict=True)], (), (0,))


for _count in (1, 2, 3):
    _pool_rules(_count)


@rule("amax.default")
def _amax(b: GraphBuilder, x: Operand, axes: Sequence[int], keep: bool) -> Operand:
    chosen = list(axes) or list(range(len(x.shape)))
    best = windows.reduce_max(b, x, chosen)
    return best if keep else b.squeeze(best, chosen)


@rule("amin.default")
def _amin(b: GraphBuilder, x: Operand, axes: Sequence[int], keep: bool) -> Operand:
    return b.neg(_amax(b, b.neg(x), axes, keep))


@rule("max.dim")
def _max_over(b: GraphBuilder, x: Operand, axis: int, keep: bool) -> tuple[Operand, None]:
    return _amax(b, x, [axis], keep), None


@rule("min.dim")
def _min_over(b: GraphBuilder, x: Operand, axis: int, keep: bool) -> tuple[Operand, None]:
    return _amin(b, x, [axis], keep), None


@rule("max.default")
def _max_all(b: GraphBuilder, x: Operand) -> Operand:
    return _amax(b, x, (), False)


@rule("min.default")
def _min_all(b: GraphBuilder, x: Operand) -> Operand:
    return _amin(b, x, (), False)
