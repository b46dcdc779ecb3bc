"""Cones: the part of a network that some entries of one node depend on.

An entry of an early convolution depends on a small window of the image, so that bounding it takes a small network:
the same operators on the windows that they need. A window is a box of entries of a node: per axis of *N, where it
begins and where it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from certify.graph import ops
from certify.graph.affine import MAPS, ConvMap
from certify.graph.evaluate import FUNCTIONS, Network
from certify.graph.ir import Graph, Node, Port
from certify.graph.rules import Rules

Window = tuple[tuple[int, int], ...]
"""[begin, end) along each axis of *N."""

Shapes = Sequence[tuple[int, ...]]
Found = tuple[ops.Op, list[Window]] | None
Rule = Callable[[ops.Op, Window, Shapes], Found]

WINDOWS: Rules[Rule] = Rules("windows")
"""rule(op, window of its output, shapes of its inputs): the operator that makes this window out of windows of the
inputs, and these; None if windows cannot say it."""


@dataclass(frozen=True, eq=False)
class Cone:
    """A network whose output is a window of node `node` of another one, and whose node i is the window `windows[i]`
    of that one's node `origin[i]`; -1 for a node of its own, which only cuts a window out of one that is larger."""

    network: Network
    node: int
    origin: tuple[int, ...]
    windows: tuple[Window, ...]

    def of(self, i: int) -> tuple[slice, ...]:
        """The entries that node i is: an index into the axes *N of its origin."""
        return tuple(slice(begin, end) for begin, end in self.windows[i])

    @property
    def cost(self) -> int:
        """Multiplications and numbers that one pass through it takes, roughly."""
        return cost_of(self.network.graph)


def cost_of(graph: Graph) -> int:
    """Multiplications and numbers that one pass through a graph takes, roughly."""
    total = 0
    for node in graph.nodes:
        weight = node.op.weight if isinstance(node.op, ops.Conv | ops.ConvTranspose | ops.Linear) else None
        total += node.size * (4 if weight is None else 4 + weight[0].size)
    return total


def cone(network: Network, v: int, window: Window) -> Cone | None:
    """What the entries `window` of node v depend on; None if some operator's windows cannot be told."""
    nodes = network.graph.nodes
    needed: dict[int, Window] = {v: window}
    made: dict[int, tuple[ops.Op, list[Window]]] = {}
    for i in range(v, 0, -1):
        if i not in needed:
            continue
        rule = WINDOWS.get(nodes[i].op)
        shapes = [nodes[j].shape for j in nodes[i].inputs]
        found = rule(nodes[i].op, needed[i], shapes) if rule is not None else None
        if found is None:
            return None
        made[i] = found
        for j, part in zip(nodes[i].inputs, found[1], strict=True):
            needed[j] = _union(needed[j], part) if j in needed else part
    return _assembled(network, v, needed, made) if 0 in needed else None


def _assembled(
    network: Network, v: int, needed: dict[int, Window], made: dict[int, tuple[ops.Op, list[Window]]]
) -> Cone:
    """The network of these operators, each input cut to what its reader wants of it."""
    old = network.graph.nodes
    shape = _shape(needed[0])
    nodes, origin, windows = [Node(ops.Input(), (), shape, old[0].name)], [0], [needed[0]]
    place = {0: 0}
    for i in sorted(made):
        op, wanted = made[i]
        inputs = []
        for j, part in zip(old[i].inputs, wanted, strict=True):
            at, inner = place[j], _within(part, needed[j])
            for axis, (begin, end) in enumerate(inner):
                if end - begin < nodes[at].shape[axis]:
                    cut = (*nodes[at].shape[:axis], end - begin, *nodes[at].shape[axis + 1 :])
                    nodes.append(Node(ops.Select(axis, np.arange(begin, end)), (at,), cut, old[j].name))
                    origin.append(-1)
                    windows.append(())
                    at = len(nodes) - 1
            inputs.append(at)
        place[i] = len(nodes)
        nodes.append(Node(op, tuple(inputs), _shape(needed[i]), old[i].name))
        origin.append(i)
        windows.append(needed[i])
    graph = Graph(tuple(nodes), (Port("x", shape),), ())
    return Cone(_compiled(network, graph, origin), v, tuple(origin), tuple(windows))


def _compiled(network: Network, graph: Graph, origin: Sequence[int]) -> Network:
    """The network of `graph`, sharing the weights of the one that it is a part of."""
    part = copy(network)
    part.graph, part.notes = graph, {}
    part.maps, part.functions = [None] * len(graph.nodes), [None] * len(graph.nodes)
    for i, node in enumerate(graph.nodes[1:], 1):
        shapes = [graph.nodes[j].shape for j in node.inputs]
        whole = network.maps[origin[i]] if origin[i] >= 0 else None
        if isinstance(node.op, ops.Nonlinear):
            part.functions[i] = FUNCTIONS[node.op](node.op, network.cast)
        elif isinstance(whole, ConvMap):
            part.maps[i] = whole.moved(node.op, shapes[0], node.shape)
        elif isinstance(node.op, ops.Linear):
            part.maps[i] = whole
        else:
            part.maps[i] = MAPS[node.op](node.op, node, shapes, network.cast)
    return part


def _shape(window: Window) -> tuple[int, ...]:
    return tuple(end - begin for begin, end in window)


def _union(a: Window, b: Window) -> Window:
    return tuple((min(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


def _within(inner: Window, outer: Window) -> Window:
    """A window's place in a larger one."""
    return tuple((a - c, b - c) for (a, b), (c, _) in zip(inner, outer, strict=True))


def _aligned(window: Window, shape: tuple[int, ...]) -> Window:
    """What of a tensor of `shape`, broadcast, makes up the window."""
    own = window[len(window) - len(shape) :]
    return tuple((0, 1) if n == 1 else part for n, part in zip(shape, own, strict=True))


def _cut(array: np.ndarray, window: Window) -> np.ndarray:
    """The entries of a constant that broadcasts against the window's node."""
    array = np.asarray(array)
    return array[tuple(slice(*part) for part in _aligned(window, array.shape))]


@WINDOWS(ops.Elementwise)
def _elementwise(op: ops.Elementwise, window: Window, inputs: Shapes) -> Found:
    return (ops.LeakyRelu(_cut(op.slope, window)) if isinstance(op, ops.LeakyRelu) else op), [window]


@WINDOWS(ops.Constant)
def _constant(op: ops.Constant, window: Window, inputs: Shapes) -> Found:
    return ops.Constant(_cut(op.value, window)), []


@WINDOWS(ops.Scale)
def _scale(op: ops.Scale, window: Window, inputs: Shapes) -> Found:
    return ops.Scale(_cut(op.scale, window), _cut(op.shift, window)), [window]


@WINDOWS(ops.Sum)
def _sum(op: ops.Sum, window: Window, inputs: Shapes) -> Found:
    return op, [_aligned(window, shape) for shape in inputs]


@WINDOWS(ops.Conv)
def _conv(op: ops.Conv, window: Window, inputs: Shapes) -> Found:
    """All channels; along each spatial axis what the kernels reach, less what of it is padding."""
    (shape,), axes = inputs, len(op.stride)
    lead, channels, places = window[: -axes - 1], window[-axes - 1], window[-axes:]
    if channels != (0, op.weight.shape[0]):
        return None
    read, before, after = [], [], []
    for (begin, end), n, k, s, b, d in zip(
        places, shape[-axes:], op.weight.shape[2:], op.stride, op.before, op.dilation, strict=True
    ):
        first, last = begin * s - b, (end - 1) * s - b + d * (k - 1) + 1
        if first >= n or last <= 0:
            return None
        read.append((max(first, 0), min(last, n)))
        before.append(max(-first, 0))
        after.append(max(last - n, 0))
    moved = replace(op, before=tuple(before), after=tuple(after))
    return moved, [(*lead, (0, shape[-axes - 1]), *read)]


@WINDOWS(ops.Linear)
def _linear(op: ops.Linear, window: Window, inputs: Shapes) -> Found:
    if window[-1] != (0, len(op.weight)):
        return None
    return op, [(*window[:-1], (0, inputs[0][-1]))]


@WINDOWS(ops.Select)
def _select(op: ops.Select, window: Window, inputs: Shapes) -> Found:
    begin, end = window[op.axis]
    index = op.index[begin:end]
    if not len(index):
        return None
    least = int(index.min())
    read = (least, int(index.max()) + 1)
    return ops.Select(op.axis, index - least), [(*window[: op.axis], read, *window[op.axis + 1 :])]


@WINDOWS(ops.Permute)
def _permute(op: ops.Permute, window: Window, inputs: Shapes) -> Found:
    return op, [tuple(window[op.axes.index(i)] for i in range(len(window)))]


@WINDOWS(ops.ReduceSum)
def _reduce_sum(op: ops.ReduceSum, window: Window, inputs: Shapes) -> Found:
    kept = iter(window)
    read = []
    for i, n in enumerate(inputs[0]):
        own = next(kept) if op.keepdims or i not in op.axes else None
        read.append((0, n) if i in op.axes else own)
    return op, [tuple(read)]


@WINDOWS(ops.Expand)
def _expand(op: ops.Expand, window: Window, inputs: Shapes) -> Found:
    return op, [_aligned(window, inputs[0])]
