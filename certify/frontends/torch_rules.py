"""What each operator of torch's ATen set is in the graph: a table from its name to a builder function.

A rule takes the builder and the operator's arguments in the order of its schema, defaults filled in:
tensors as operands (arrays or variables), numbers as Python numbers. It gives an operand, or a tuple
where the operator has several results; None in a tuple stands for a result that we do not compute.
It raises NotLowered for what the graph cannot express.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from certify.graph import layers, steps, windows
from certify.graph.build import GraphBuilder, NotLowered, Operand, Var
from certify.graph.windows import Window

Array = np.ndarray
Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
"""Name of the operator with its overload, such as "aten.add.Tensor" -> rule."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter the function below for these operators of the aten set."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten.{name}"] = function
        return function

    return register


def _spread(values: Sequence[int], count: int) -> tuple[int, ...]:
    """One number per axis, where torch lets one stand for all."""
    return tuple(values) * count if len(values) == 1 else tuple(values)


def constant(x: Operand, what: str) -> Array:
    if isinstance(x, Var):
        raise NotLowered(f"{what} that depends on the input")
    return x


# --- the same entries, elsewhere -----------------------------------------------------------------


@rule("clone.default", "alias.default", "detach.default", "lift_fresh_copy.default")
def _same(b: GraphBuilder, x: Operand, *rest: Any) -> Operand:
    return x


@rule("view.default", "reshape.default", "_unsafe_view.default")
def _view(b: GraphBuilder, x: Operand, shape: Sequence[int]) -> Operand:
    return b.reshape(x, shape)


@rule("sym_size.int")
def _size(b: GraphBuilder, x: Operand, axis: int) -> int:
    return x.shape[axis]


@rule("_assert_tensor_metadata.default")
def _assertion(b: GraphBuilder, *rest: Any) -> None:
    """Of types and shapes, which are fixed in the graph."""


@rule("permute.default")
def _permute(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    return b.permute(x, axes)


@rule("unsqueeze.default")
def _unsqueeze(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    return b.unsqueeze(x, [axis])


@rule("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(b: GraphBuilder, x: Operand, axes: int | Sequence[int] | None = None) -> Operand:
    if axes is None:
        return b.squeeze(x)
    chosen = [axes] if isinstance(axes, int) else axes
    return b.squeeze(x, [a for a in chosen if x.shape[a] == 1])  # torch leaves the other axes as they are


@rule("expand.default")
def _expand(b: GraphBuilder, x: Operand, shape: Sequence[int], implicit: bool) -> Operand:
    lead = len(shape) - len(x.shape)
    return b.expand(x, [x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)])


@rule("repeat.default")
def _repeat(b: GraphBuilder, x: Operand, repeats: Sequence[int]) -> Operand:
    return b.tile(b.reshape(x, (*(1,) * (len(repeats) - len(x.shape)), *x.shape)), repeats)


@rule("cat.default")
def _cat(b: GraphBuilder, xs: Sequence[Operand], axis: int) -> Operand:
    return b.concat([x for x in xs if x.shape != (0,)], axis)  # torch skips empty vectors of any rank


@rule("split_with_sizes.default")
def _split(b: GraphBuilder, x: Operand, sizes: Sequence[int], axis: int) -> tuple[Operand, ...]:
    return tuple(b.split(x, axis, sizes))


@rule("slice.Tensor")
def _slice(b: GraphBuilder, x: Operand, axis: int, start: int | None, stop: int | None, step: int) -> Operand:
    return b.slice(x, axis, start, stop, step)


@rule("select.int")
def _select(b: GraphBuilder, x: Operand, axis: int, index: int) -> Operand:
    return b.squeeze(b.select(x, axis, np.array([index])), [axis])


@rule("index_select.default")
def _index_select(b: GraphBuilder, x: Operand, axis: int, index: Operand) -> Operand:
    return b.select(x, axis, constant(index, "an index").reshape(-1))


@rule("index.Tensor", "_unsafe_index.Tensor")
def _index(b: GraphBuilder, x: Operand, indices: Sequence[Operand | None]) -> Operand:
    given = [None if i is None else torch.from_numpy(np.array(constant(i, "an index"))) for i in indices]
    axes = [a for a, i in enumerate(given) if i is not None]
    if len(axes) == 1 and given[axes[0]].dtype != torch.bool:
        return b.gather(x, axes[0], given[axes[0]].numpy())
    return _moved(b, x, lambda places: torch.ops.aten.index.Tensor(places, given))


@rule("gather.default")
def _gather(b: GraphBuilder, x: Operand, axis: int, index: Operand, sparse: bool) -> Operand:
    chosen = torch.from_numpy(np.array(constant(index, "an index")))
    return _moved(b, x, lambda places: torch.gather(places, axis, chosen))


def _put(b: GraphBuilder, x: Operand, given: Operand, move: Callable[..., torch.Tensor]) -> Operand:
    """x with entries of `given` in other's places, as `move` does it to places of both."""
    count = prod(x.shape)
    places = torch.arange(count).reshape(x.shape)
    new = torch.arange(count, count + prod(given.shape)).reshape(given.shape)
    joined = b.concat([b.reshape(x, (-1,)), b.reshape(given, (-1,))], 0)
    return b.gather(joined, 0, move(places, new).numpy())


@rule("slice_scatter.default")
def _slice_scatter(
    b: GraphBuilder, x: Operand, given: Operand, axis: int, start: int | None, stop: int | None, step: int
) -> Operand:
    return _put(b, x, given, lambda old, new: torch.slice_scatter(old, new, axis, start, stop, step))


@rule("select_scatter.default")
def _select_scatter(b: GraphBuilder, x: Operand, given: Operand, axis: int, index: int) -> Operand:
    return _put(b, x, given, lambda old, new: torch.select_scatter(old, new, axis, index))


@rule("index_put.default")
def _index_put(
    b: GraphBuilder, x: Operand, indices: Sequence[Operand | None], given: Operand, accumulate: bool
) -> Operand:
    if accumulate:
        raise NotLowered("that accumulates")
    chosen = [None if i is None else torch.from_numpy(np.array(constant(i, "an index"))) for i in indices]
    return _put(b, x, given, lambda old, new: torch.ops.aten.index_put.default(old, chosen, new))


@rule("scatter.src")
def _scatter(b: GraphBuilder, x: Operand, axis: int, index: Operand, given: Operand) -> Operand:
    chosen = torch.from_numpy(np.array(constant(index, "an index")))
    return _put(b, x, given, lambda old, new: torch.scatter(old, axis, chosen, new))


@rule("copy.default")
def _copy(b: GraphBuilder, x: Operand, given: Operand, *rest: Any) -> Operand:
    return b.expand(given, x.shape)


@rule("flip.default")
def _flip(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    for axis in axes:
        x = b.select(x, axis, np.arange(x.shape[axis])[::-1])
    return x


@rule("diagonal.default")
def _diagonal(b: GraphBuilder, x: Operand, offset: int, one: int, two: int) -> Operand:
    return _moved(b, x, lambda places: torch.diagonal(places, offset, one, two))


@rule("unfold.default")
def _unfold(b: GraphBuilder, x: Operand, axis: int, size: int, step: int) -> Operand:
    return _moved(b, x, lambda places: places.unfold(axis, size, step))


def _moved(b: GraphBuilder, x: Operand, move: Callable[[torch.Tensor], torch.Tensor]) -> Operand:
    """What `move` does to entries, found by applying it to their places."""
    places = move(torch.arange(prod(x.shape)).reshape(x.shape)).numpy()
    return b.gather(b.reshape(x, (-1,)), 0, places)


@rule("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _upsample(b: GraphBuilder, x: Operand, size: Sequence[int] | None, scales: Sequence[float] | None) -> Operand:
    for i, n in enumerate(x.shape[2:]):  # torch itself says which entry each new one is, so that rounding agrees
        places = torch.arange(n, dtype=torch.float32).reshape(1, 1, n)
        one = torch.ops.aten.upsample_nearest1d.vec(places, size and size[i : i + 1], scales and scales[i : i + 1])
        x = b.select(x, i + 2, one.reshape(-1).numpy().astype(np.int64))
    return x


@rule("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec")
def _interpolate(
    b: GraphBuilder, x: Operand, size: Sequence[int] | None, corners: bool, scales: Sequence[float] | None
) -> Operand:
    for i, n in enumerate(x.shape[2:]):  # torch itself gives the weights
        one = torch.eye(n, dtype=torch.float64).reshape(1, n, n)
        made = torch.ops.aten.upsample_linear1d.vec(
            one, size and size[i : i + 1], corners, scales and scales[i : i + 1]
        )
        x = layers.along(b, x, i + 2, made[0].T.numpy())
    return x


@rule("pad.default")
def _pad(b: GraphBuilder, x: Operand, pads: Sequence[int], mode: str, value: float | None) -> Operand:
    """`pads` begins with the last axis: its two ends, then the last but one's, ..."""
    if mode == "constant":
        return _constant_pad(b, x, pads, value or 0.0)
    return b.pad_copies(x, *_ends(x, pads), {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


@rule("constant_pad_nd.default")
def _constant_pad(b: GraphBuilder, x: Operand, pads: Sequence[int], value: float) -> Operand:
    return b.pad(x, *_ends(x, pads), value)


def _ends(x: Operand, pads: Sequence[int]) -> tuple[list[int], list[int]]:
    still = [0] * (len(x.shape) - len(pads) // 2)
    return still + list(pads[-2::-2]), still + list(pads[::-2])


MOVED = frozenset(RULES)
"""Operators that only move entries about, whatever these are."""


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
