"""Rules for ONNX operators that only move entries about: shapes, selections, joining, scattering, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from certify.frontends.onnx_node import OnnxNode, Table
from certify.graph.build import Array, NotLowered, Operand, axis_of

MOVES = Table({"Identity": lambda n: n.operand(0)})


@MOVES("Reshape")
def _reshape(n: OnnxNode) -> Operand:
    x, shape = n.operand(0), [int(s) for s in n.need(1)]
    if not n.attribute("allowzero", 0):
        if any(s == 0 and i >= len(x.shape) for i, s in enumerate(shape)):
            raise ValueError(f"a zero in the new shape {shape} of {x.shape} has no axis to copy")
        shape = [x.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return n.builder.reshape(x, shape)


@MOVES("Flatten")
def _flatten(n: OnnxNode) -> Operand:
    x, axis = n.operand(0), n.attribute("axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        raise ValueError(f"axis {axis} of {x.shape}")
    axis = axis + len(x.shape) if axis < 0 else axis
    return n.builder.reshape(x, (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))))


@MOVES("Transpose")
def _transpose(n: OnnxNode) -> Operand:
    x = n.operand(0)
    return n.builder.permute(x, n.attribute("perm", range(len(x.shape))[::-1]))


@MOVES("Squeeze")
def _squeeze(n: OnnxNode) -> Operand:
    return n.builder.squeeze(n.operand(0), n.integers(1, "axes"))


@MOVES("Unsqueeze")
def _unsqueeze(n: OnnxNode) -> Operand:
    axes = n.integers(1, "axes")
    if axes is None:
        raise ValueError("no axes are given")
    return n.builder.unsqueeze(n.operand(0), axes)


@MOVES("Expand")
def _expand(n: OnnxNode) -> Operand:
    return n.builder.expand(n.operand(0), n.need(1))


@MOVES("Tile")
def _tile(n: OnnxNode) -> Operand:
    return n.builder.tile(n.operand(0), n.need(1))


@MOVES("Shape")
def _shape(n: OnnxNode) -> Operand:
    shape = n.operand(0).shape
    return np.array(shape[slice(n.attribute("start", 0), n.attribute("end", None))], np.int64)


@MOVES("Size")
def _size(n: OnnxNode) -> Operand:
    return np.array(np.prod(n.operand(0).shape), np.int64)


@MOVES("Concat")
def _concat(n: OnnxNode) -> Operand:
    return n.builder.concat(n.inputs, n.attributes["axis"])


@MOVES("Slice")
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


@MOVES("Split")
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


@MOVES("Gather")
def _gather(n: OnnxNode) -> Operand:
    return n.builder.gather(n.operand(0), n.attribute("axis", 0), n.need(1))


@MOVES("Pad")
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


@MOVES("Dropout")
def _dropout(n: OnnxNode) -> Sequence[Operand]:
    training = n.constant(2)
    if training is not None and training.any():
        raise NotLowered("dropout in training mode")
    return [n.operand(0), np.ones(n.operand(0).shape, bool)]


@MOVES("DepthToSpace")
def _depth_to_space(n: OnnxNode) -> Operand:
    """Blocks of channels become blocks of pixels; mode DCR has the block's place first in the channels, CRD last."""
    b, x, size = n.builder, n.operand(0), n.attributes["blocksize"]
    batch, channels, height, width = x.shape
    first = n.text("mode", "DCR") == "DCR"
    split = (size, size, channels // size**2) if first else (channels // size**2, size, size)
    order = (0, 3, 4, 1, 5, 2) if first else (0, 1, 4, 2, 5, 3)
    y = b.permute(b.reshape(x, (batch, *split, height, width)), order)
    return b.reshape(y, (batch, -1, height * size, width * size))


@MOVES("SpaceToDepth")
def _space_to_depth(n: OnnxNode) -> Operand:
    b, x, size = n.builder, n.operand(0), n.attributes["blocksize"]
    batch, channels, height, width = x.shape
    y = b.reshape(x, (batch, channels, height // size, size, width // size, size))
    return b.reshape(b.permute(y, (0, 3, 5, 1, 2, 4)), (batch, -1, height // size, width // size))


@MOVES("Trilu")
def _triangle(n: OnnxNode) -> Operand:
    x, k, upper = n.operand(0), n.constant(1), n.attribute("upper", 1)
    ones = np.ones(x.shape[-2:])
    shift = 0 if k is None else int(k.reshape(-1)[0])
    return n.builder.scale(x, np.triu(ones, shift) if upper else np.tril(ones, shift), 0.0)


# --- by places -----------------------------------------------------------------------------------


def _placed(n: OnnxNode, move: Callable[[Array], Array]) -> Operand:
    """What `move` does to input 0, found by applying it to the places of its entries."""
    x = n.operand(0)
    places = move(np.arange(prod(x.shape)).reshape(x.shape))
    return n.builder.gather(n.builder.reshape(x, (-1,)), 0, places)


def _inside(index: Array, size: int | Array) -> Array:
    """Indices counted from the front. Raises ValueError if one is out of range."""
    if ((index < -size) | (index >= size)).any():
        raise ValueError("an index that is out of range")
    return np.where(index < 0, index + size, index)


def _points(index: Array, shape: Sequence[int]) -> tuple[Array, ...]:
    """The last axis of `index` as a tuple of indices into the first axes of `shape`."""
    return tuple(np.moveaxis(_inside(index, np.array(shape[: index.shape[-1]])), -1, 0))


@MOVES("GatherElements")
def _gather_elements(n: OnnxNode) -> Operand:
    axis = axis_of(n.attribute("axis", 0), n.operand(0))
    index = _inside(n.need(1), n.operand(0).shape[axis])
    return _placed(n, lambda places: _along(places, index, axis))


def _along(places: Array, index: Array, axis: int) -> Array:
    """places at `index` along `axis`, and at index's own places along the other axes."""
    return places[tuple(index if a == axis else g for a, g in enumerate(np.indices(index.shape, sparse=True)))]


@MOVES("GatherND")
def _gather_points(n: OnnxNode) -> Operand:
    if n.attribute("batch_dims", 0):
        raise NotLowered("with batch_dims")
    points = _points(n.need(1), n.operand(0).shape)
    return _placed(n, lambda places: places[points])


@MOVES("ScatterElements", "ScatterND")
def _scatter(n: OnnxNode) -> Operand:
    """Input 0 with entries of input 2 in other's places; of several for one place, the last."""
    b, x, given, index = n.builder, n.operand(0), n.operand(2), n.need(1)
    if n.text("reduction", "none") != "none":
        raise NotLowered(f"with reduction {n.text('reduction', '')}")
    places = np.arange(prod(x.shape)).reshape(x.shape)
    if n.op == "ScatterND":
        chosen = places[_points(index, x.shape)]
    else:
        axis = axis_of(n.attribute("axis", 0), x)
        chosen = _along(places, _inside(index, x.shape[axis]), axis)
    if chosen.shape != given.shape:
        raise ValueError(f"{given.shape} entries for {chosen.shape} places")
    flat = places.reshape(-1).copy()
    flat[chosen.reshape(-1)] = places.size + np.arange(chosen.size)
    joined = b.concat([b.reshape(x, (-1,)), b.reshape(given, (-1,))], 0)
    return b.gather(joined, 0, flat.reshape(x.shape))
