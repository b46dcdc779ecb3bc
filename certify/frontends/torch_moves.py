"""Torch's operators that only move entries about, whatever these are: shapes, selections, joining, scattering, padding.

Rules as in `torch_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from certify.frontends.torch_table import Rule, constant, rule
from certify.graph import layers
from certify.graph.build import GraphBuilder, NotLowered, Operand

MOVED: set[str] = set()
"""Names of the operators of this module."""


def _move(*names: str) -> Callable[[Rule], Rule]:
    """Enter the function below as what moves entries about."""
    MOVED.update(f"aten.{name}" for name in names)
    return rule(*names)


@_move("clone.default", "alias.default", "detach.default", "lift_fresh_copy.default")
def _same(b: GraphBuilder, x: Operand, *rest: Any) -> Operand:
    return x


@_move("view.default", "reshape.default", "_unsafe_view.default")
def _view(b: GraphBuilder, x: Operand, shape: Sequence[int]) -> Operand:
    return b.reshape(x, shape)


@_move("sym_size.int")
def _size(b: GraphBuilder, x: Operand, axis: int) -> int:
    return x.shape[axis]


@_move("_assert_tensor_metadata.default")
def _assertion(b: GraphBuilder, *rest: Any) -> None:
    """Of types and shapes, which are fixed in the graph."""


@_move("permute.default")
def _permute(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    return b.permute(x, axes)


@_move("unsqueeze.default")
def _unsqueeze(b: GraphBuilder, x: Operand, axis: int) -> Operand:
    return b.unsqueeze(x, [axis])


@_move("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(b: GraphBuilder, x: Operand, axes: int | Sequence[int] | None = None) -> Operand:
    if axes is None:
        return b.squeeze(x)
    chosen = [axes] if isinstance(axes, int) else axes
    return b.squeeze(x, [a for a in chosen if x.shape[a] == 1])  # torch leaves the other axes as they are


@_move("expand.default")
def _expand(b: GraphBuilder, x: Operand, shape: Sequence[int], implicit: bool) -> Operand:
    lead = len(shape) - len(x.shape)
    return b.expand(x, [x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)])


@_move("repeat.default")
def _repeat(b: GraphBuilder, x: Operand, repeats: Sequence[int]) -> Operand:
    return b.tile(b.reshape(x, (*(1,) * (len(repeats) - len(x.shape)), *x.shape)), repeats)


@_move("cat.default")
def _cat(b: GraphBuilder, xs: Sequence[Operand], axis: int) -> Operand:
    return b.concat([x for x in xs if x.shape != (0,)], axis)  # torch skips empty vectors of any rank


@_move("split_with_sizes.default")
def _split(b: GraphBuilder, x: Operand, sizes: Sequence[int], axis: int) -> tuple[Operand, ...]:
    return tuple(b.split(x, axis, sizes))


@_move("slice.Tensor")
def _slice(b: GraphBuilder, x: Operand, axis: int, start: int | None, stop: int | None, step: int) -> Operand:
    return b.slice(x, axis, start, stop, step)


@_move("select.int")
def _select(b: GraphBuilder, x: Operand, axis: int, index: int) -> Operand:
    return b.squeeze(b.select(x, axis, np.array([index])), [axis])


@_move("index_select.default")
def _index_select(b: GraphBuilder, x: Operand, axis: int, index: Operand) -> Operand:
    return b.select(x, axis, constant(index, "an index").reshape(-1))


@_move("index.Tensor", "_unsafe_index.Tensor")
def _index(b: GraphBuilder, x: Operand, indices: Sequence[Operand | None]) -> Operand:
    given = [None if i is None else torch.from_numpy(np.array(constant(i, "an index"))) for i in indices]
    axes = [a for a, i in enumerate(given) if i is not None]
    if len(axes) == 1 and given[axes[0]].dtype != torch.bool:
        return b.gather(x, axes[0], given[axes[0]].numpy())
    return _moved(b, x, lambda places: torch.ops.aten.index.Tensor(places, given))


@_move("gather.default")
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


@_move("slice_scatter.default")
def _slice_scatter(
    b: GraphBuilder, x: Operand, given: Operand, axis: int, start: int | None, stop: int | None, step: int
) -> Operand:
    return _put(b, x, given, lambda old, new: torch.slice_scatter(old, new, axis, start, stop, step))


@_move("select_scatter.default")
def _select_scatter(b: GraphBuilder, x: Operand, given: Operand, axis: int, index: int) -> Operand:
    return _put(b, x, given, lambda old, new: torch.select_scatter(old, new, axis, index))


@_move("index_put.default")
def _index_put(
    b: GraphBuilder, x: Operand, indices: Sequence[Operand | None], given: Operand, accumulate: bool
) -> Operand:
    if accumulate:
        raise NotLowered("that accumulates")
    chosen = [None if i is None else torch.from_numpy(np.array(constant(i, "an index"))) for i in indices]
    return _put(b, x, given, lambda old, new: torch.ops.aten.index_put.default(old, chosen, new))


@_move("scatter.src")
def _scatter(b: GraphBuilder, x: Operand, axis: int, index: Operand, given: Operand) -> Operand:
    chosen = torch.from_numpy(np.array(constant(index, "an index")))
    return _put(b, x, given, lambda old, new: torch.scatter(old, axis, chosen, new))


@_move("copy.default")
def _copy(b: GraphBuilder, x: Operand, given: Operand, *rest: Any) -> Operand:
    return b.expand(given, x.shape)


@_move("flip.default")
def _flip(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    for axis in axes:
        x = b.select(x, axis, np.arange(x.shape[axis])[::-1])
    return x


@_move("diagonal.default")
def _diagonal(b: GraphBuilder, x: Operand, offset: int, one: int, two: int) -> Operand:
    return _moved(b, x, lambda places: torch.diagonal(places, offset, one, two))


@_move("unfold.default")
def _unfold(b: GraphBuilder, x: Operand, axis: int, size: int, step: int) -> Operand:
    return _moved(b, x, lambda places: places.unfold(axis, size, step))


def _moved(b: GraphBuilder, x: Operand, move: Callable[[torch.Tensor], torch.Tensor]) -> Operand:
    """What `move` does to entries, found by applying it to their places."""
    places = move(torch.arange(prod(x.shape)).reshape(x.shape)).numpy()
    return b.gather(b.reshape(x, (-1,)), 0, places)


@_move("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _upsample(b: GraphBuilder, x: Operand, size: Sequence[int] | None, scales: Sequence[float] | None) -> Operand:
    for i, n in enumerate(x.shape[2:]):  # torch itself says which entry each new one is, so that rounding agrees
        places = torch.arange(n, dtype=torch.float32).reshape(1, 1, n)
        one = torch.ops.aten.upsample_nearest1d.vec(places, size and size[i : i + 1], scales and scales[i : i + 1])
        x = b.select(x, i + 2, one.reshape(-1).numpy().astype(np.int64))
    return x


@_move("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec")
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


@_move("pad.default")
def _pad(b: GraphBuilder, x: Operand, pads: Sequence[int], mode: str, value: float | None) -> Operand:
    """`pads` begins with the last axis: its two ends, then the last but one's, ..."""
    if mode == "constant":
        return _constant_pad(b, x, pads, value or 0.0)
    return b.pad_copies(x, *_ends(x, pads), {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


@_move("constant_pad_nd.default")
def _constant_pad(b: GraphBuilder, x: Operand, pads: Sequence[int], value: float) -> Operand:
    return b.pad(x, *_ends(x, pads), value)


def _ends(x: Operand, pads: Sequence[int]) -> tuple[list[int], list[int]]:
    still = [0] * (len(x.shape) - len(pads) // 2)
    return still + list(pads[-2::-2]), still + list(pads[::-2])
