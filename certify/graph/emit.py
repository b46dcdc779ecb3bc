"""Appending nodes to a graph, and all that only moves entries about: the lower half of the builder.

An operand is a NumPy array (a constant) or a `Var` (the value of a node). What depends on constants
only is computed at once. A simplification is made only where it leaves the real-valued function
exactly as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import FUNCTIONS
from certify.graph.ir import Graph, Node, Port, split_fields
from certify.graph.shapes import Shape, infer_shape

Array = np.ndarray
Self = TypeVar("Self", bound="Emitter")


@dataclass(frozen=True)
class Var:
    """The value of node `index` of a graph that is being built."""

    index: int
    shape: Shape


Operand = Array | Var


class NotLowered(ValueError):
    """An operation on variables that the operator set cannot express, such as their product."""


class Masked(NamedTuple):
    """What a softmax is given where some scores are minus infinity: the others, and which these are (the shape's)."""

    scores: Var
    kept: Array


MOVES = ops.Reshape | ops.Permute | ops.Select | ops.Expand | ops.Concat
"""Operators whose entries are entries of their operands."""


class Emitter:
    """Appends nodes to a graph. `inputs` holds the ports' values, each in its port's shape.

    Methods take and give operands and refuse those that do not fit with ValueError. Axes may be
    negative, counted from the end. `at(name)` names the nodes that are appended next.
    """

    def __init__(self, ports: Sequence[Port]) -> None:
        if not ports:
            raise ValueError("the network has no input")
        self.ports = tuple(ports)
        self.nodes: list[Node] = []
        self.masked: dict[int, Masked] = {}
        self._name = "input"
        joined = ports[0].shape if len(ports) == 1 else (sum(p.size for p in ports),)
        whole = self._append(ops.Input(), (), joined)
        self.inputs: tuple[Var, ...] = (whole,)
        if len(ports) > 1:
            parts = self.split(whole, 0, [p.size for p in ports])
            self.inputs = tuple(self.reshape(v, p.shape) for v, p in zip(parts, ports, strict=True))

    def at(self: Self, name: str) -> Self:
        """Name the nodes that are appended from now on."""
        self._name = name
        return self

    def build(self, outputs: Sequence[Operand], ports: Sequence[Port]) -> Graph:
        """The graph of `outputs` (one per port), without the nodes that they do not need.

        One output keeps its shape; several are flattened and joined in their order.
        """
        if not outputs or any(o.shape != p.shape for o, p in zip(outputs, ports, strict=True)):
            raise ValueError(f"outputs {[o.shape for o in outputs]} do not fit ports {[p.shape for p in ports]}")
        self.at("output")
        joined = outputs[0] if len(outputs) == 1 else self.concat([self.reshape(o, (-1,)) for o in outputs], 0)
        last = self._variable(joined)
        if last.index == 0:  # a graph's output is a node of its own
            last = self._append(ops.Reshape(), (0,), last.shape)
        needed = {0, last.index}
        for i in range(last.index, 0, -1):
            if i in needed:
                needed.update(self.nodes[i].inputs)
        order = sorted(needed)
        place = {old: new for new, old in enumerate(order)}
        kept = (replace(self.nodes[i], inputs=tuple(place[j] for j in self.nodes[i].inputs)) for i in order)
        return Graph(tuple(kept), self.ports, tuple(ports))

    # --- appending -------------------------------------------------------------------------------

    def _append(self, op: ops.Op, inputs: tuple[int, ...], shape: Shape) -> Var:
        for key, array in split_fields(op)[1].items():
            if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise ValueError(f"the {key} of this {type(op).__name__} holds NaN or infinity")
        self.nodes.append(Node(op, inputs, tuple(map(int, shape)), self._name))
        return Var(len(self.nodes) - 1, self.nodes[-1].shape)

    def _variable(self, x: Operand) -> Var:
        if isinstance(x, Var) and x.index in self.masked:
            raise NotLowered("of minus infinity, which only a softmax may read")
        return x if isinstance(x, Var) else self._append(ops.Constant(number(x)), (), x.shape)

    def leave_out(self, x: Operand, kept: Array) -> Var:
        """x, with minus infinity in the place of the entries that are not `kept` (x's shape, bool).

        The graph knows no infinity: this is a placeholder, which may be moved about, scaled up, and read by a softmax.
        """
        if isinstance(x, Var) and x.index in self.masked:
            x, before = self.masked[x.index]
            kept = kept & before
        placeholder = self._append(ops.Constant(np.broadcast_to(0.0, x.shape)), (), x.shape)
        self.masked[placeholder.index] = Masked(self._variable(x), kept)
        return placeholder

    def emit(self, op: ops.Op, *operands: Operand, shape: Shape | None = None) -> Operand:
        """`op` applied to operands: a new node, or its value where all operands are constants.

        `shape` is the wanted one of a Reshape or Expand.
        """
        shape = infer_shape(op, [x.shape for x in operands], shape)
        if not any(isinstance(x, Var) for x in operands):
            return _fold(Node(op, tuple(range(len(operands))), shape, ""), operands)
        if isinstance(op, MOVES) and any(isinstance(x, Var) and x.index in self.masked for x in operands):
            parts = [self._masked(x) for x in operands]
            kept = _fold(Node(op, tuple(range(len(parts))), shape, ""), [p.kept.astype(np.float64) for p in parts])
            return self.leave_out(self.emit(op, *(p.scores for p in parts), shape=shape), kept > 0)
        return self._append(op, tuple(self._variable(x).index for x in operands), shape)

    def _masked(self, x: Operand) -> Masked:
        known = self.masked.get(x.index) if isinstance(x, Var) else None
        return known or Masked(self._variable(x), np.ones(x.shape, bool))

    def offset(self, x: Operand) -> Array:
        """The numbers (x's shape, float64) that were added last to the entries of x, scaled and moved about as these
        were since: of scores with a mask, the mask."""
        if not isinstance(x, Var):
            return np.asarray(x, np.float64)
        node = self.nodes[x.index]
        if isinstance(node.op, ops.Constant):
            return np.asarray(node.op.value, np.float64)
        if not isinstance(node.op, ops.Scale | MOVES):
            return np.zeros(node.shape)
        below = [self.offset(Var(j, self.nodes[j].shape)) for j in node.inputs]
        if isinstance(node.op, ops.Scale):
            return node.op.scale * below[0] + node.op.shift
        return _fold(Node(node.op, tuple(range(len(below))), node.shape, ""), below)

    def _op(self, x: Operand) -> ops.Op | None:
        return self.nodes[x.index].op if isinstance(x, Var) else None

    # --- the same entries, elsewhere -------------------------------------------------------------

    def reshape(self, x: Operand, shape: Sequence[int]) -> Operand:
        """One axis may be -1."""
        shape = tuple(int(n) for n in shape)
        if shape.count(-1) > 1 or min(shape, default=0) < -1:
            raise ValueError(f"cannot reshape {x.shape} to {shape}")
        if -1 in shape:
            rest = prod(n for n in shape if n != -1)
            shape = tuple((prod(x.shape) // rest if rest else 0) if n == -1 else n for n in shape)
        if shape == x.shape:
            return x
        if isinstance(self._op(x), ops.Reshape):
            inner = self.nodes[x.index].inputs[0]
            return self.reshape(Var(inner, self.nodes[inner].shape), shape)
        return self.emit(ops.Reshape(), x, shape=shape)

    def flatten(self, x: Operand, first: int = 0, last: int = -1) -> Operand:
        """Axes first..last (both inclusive) joined into one."""
        if not x.shape:
            return self.reshape(x, (1,))
        first, last = axis_of(first, x), axis_of(last, x)
        return self.reshape(x, (*x.shape[:first], prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))

    def squeeze(self, x: Operand, axes: Sequence[int] | None = None) -> Operand:
        """Drop axes of size one: all of them, or those given (which must be of size one)."""
        chosen = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [axis_of(a, x) for a in axes]
        if any(x.shape[a] != 1 for a in chosen):
            raise ValueError(f"cannot squeeze axes {chosen} of {x.shape}")
        return self.reshape(x, [n for i, n in enumerate(x.shape) if i not in chosen])

    def unsqueeze(self, x: Operand, axes: Sequence[int]) -> Operand:
        """New axes of size one, which stand at positions `axes` of the result."""
        total = len(x.shape) + len(axes)
        places = {a + total if a < 0 else a for a in axes}
        if len(places) != len(axes) or not all(0 <= a < total for a in places):
            raise ValueError(f"cannot put new axes {tuple(axes)} into {x.shape}")
        rest = iter(x.shape)
        return self.reshape(x, [1 if i in places else next(rest) for i in range(total)])

    def permute(self, x: Operand, axes: Sequence[int]) -> Operand:
        """As numpy.transpose."""
        axes = tuple(axis_of(a, x) for a in axes)
        return x if axes == tuple(range(len(x.shape))) else self.emit(ops.Permute(axes), x)

    def select(self, x: Operand, axis: int, index: Array) -> Operand:
        """Entries `index` (1-d, may be negative, may repeat) along `axis`."""
        axis = axis_of(axis, x)
        size = x.shape[axis]
        index = np.asarray(index, np.int64)
        index = np.where(index < 0, index + size, index)
        if index.size == size and (index == np.arange(size)).all():
            return x
        op = ops.Select(axis, index)
        inner = self._op(x)
        if isinstance(inner, ops.Select) and inner.axis == axis:
            infer_shape(op, [x.shape])
            below = self.nodes[x.index].inputs[0]
            return self.select(Var(below, self.nodes[below].shape), axis, inner.index[index])
        return self.emit(op, x)

    def gather(self, x: Operand, axis: int, index: Array) -> Operand:
        """numpy.take with constant indices of any rank."""
        axis, index = axis_of(axis, x), np.asarray(index)
        taken = self.select(x, axis, index.reshape(-1))
        return self.reshape(taken, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))

    def slice(self, x: Operand, axis: int, start: int | None, stop: int | None, step: int = 1) -> Operand:
        """x[start:stop:step] along `axis`, with Python's meaning of all three."""
        axis = axis_of(axis, x)
        return self.select(x, axis, np.arange(*slice(start, stop, step).indices(x.shape[axis])))

    def split(self, x: Operand, axis: int, sizes: Sequence[int]) -> list[Operand]:
        """Consecutive parts of `sizes` along `axis`."""
        axis = axis_of(axis, x)
        if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
            raise ValueError(f"cannot split axis {axis} of {x.shape} into {tuple(sizes)}")
        ends = np.cumsum(sizes)
        return [self.select(x, axis, np.arange(end - n, end)) for end, n in zip(ends, sizes, strict=True)]

    def concat(self, xs: Sequence[Operand], axis: int) -> Operand:
        """Operands joined along `axis`; empty ones are dropped."""
        if not xs:
            raise ValueError("nothing to join")
        axis = axis_of(axis, xs[0])
        infer_shape(ops.Concat(axis), [x.shape for x in xs])
        full = [x for x in xs if x.shape[axis]] or list(xs[:1])
        return full[0] if len(full) == 1 else self.emit(ops.Concat(axis), *full)

    def stack(self, xs: Sequence[Operand], axis: int) -> Operand:
        """Operands of one shape joined along a new axis."""
        return self.concat([self.unsqueeze(x, [axis]) for x in xs], axis)

    def expand(self, x: Operand, shape: Sequence[int]) -> Operand:
        """x broadcast against `shape`, as ONNX Expand: either side may be the larger on an axis."""
        shape = np.broadcast_shapes(x.shape, tuple(int(n) for n in shape))
        return x if shape == x.shape else self.emit(ops.Expand(), x, shape=shape)

    def tile(self, x: Operand, repeats: Sequence[int]) -> Operand:
        """numpy.tile with one number per axis."""
        if len(repeats) != len(x.shape):
            raise ValueError(f"{len(repeats)} repeats for the axes of {x.shape}")
        for axis, count in enumerate(repeats):
            x = self.select(x, axis, np.tile(np.arange(x.shape[axis]), int(count)))
        return x

    def pad(self, x: Operand, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Operand:
        """`value` put at the two ends of every axis; a negative count cuts entries off instead."""
        for axis, (b, a) in enumerate(zip(before, after, strict=True)):
            if b < 0 or a < 0:
                x = self.slice(x, axis, max(-b, 0), x.shape[axis] - max(-a, 0))
        before, after = (tuple(max(int(n), 0) for n in side) for side in (before, after))
        if not any(before + after):
            return x
        if not np.isfinite(value):
            raise ValueError(f"the padding value is {value}")
        return self.emit(ops.Pad(before, after, float(value)), x)

    def pad_copies(
        self, x: Operand, before: Sequence[int], after: Sequence[int], kind: Literal["reflect", "edge", "wrap"]
    ) -> Operand:
        """Every axis extended by copies of its own entries, as numpy.pad does; negative counts cut."""
        for axis, (b, a) in enumerate(zip(before, after, strict=True)):
            index = np.pad(np.arange(x.shape[axis]), (max(b, 0), max(a, 0)), kind)
            x = self.select(x, axis, index[max(-b, 0) : len(index) - max(-a, 0)])
        return x


def number(x: Array | float) -> Array:
    """x as float32 or float64: as it is if it is one of them, else in the smaller that holds its type."""
    x = np.asarray(x)
    if x.dtype in (np.float32, np.float64):
        return x
    narrow = x.dtype.itemsize <= 2 and x.dtype.kind not in "iub?"  # float16, bfloat16
    return x.astype(np.float32 if narrow else np.float64)


def axis_of(axis: int, x: Operand) -> int:
    """`axis` counted from the front; ValueError if x has no such axis."""
    dims = len(x.shape)
    if not -dims <= axis < dims:
        raise ValueError(f"axis {axis} of {x.shape}")
    return int(axis) % dims


def _fold(node: Node, operands: Sequence[Array]) -> Array:
    """The value of an operator on constants, in the widest type among them and its own."""
    arrays = [np.asarray(a) for a in (*operands, *split_fields(node.op)[1].values())]
    floats = [a.dtype for a in arrays if a.dtype.kind == "f"]
    wide = np.result_type(*floats) if floats else None

    def cast(a: Array) -> torch.Tensor:
        return torch.from_numpy(np.array(a, wide if a.dtype.kind == "f" else None))

    xs = [cast(a)[None] for a in arrays[: len(operands)]]
    if isinstance(node.op, ops.Nonlinear):
        value = FUNCTIONS[node.op](node.op, cast)(*xs)
    else:
        value = MAPS[node.op](node.op, node, [a.shape for a in operands], cast).forward(*xs)
    return np.asarray(value.numpy().reshape(node.shape), order="C")
