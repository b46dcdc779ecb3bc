"""A network as moves of the compiled sweep: which linear maps, on what places, in what order.

Inside a sweep, the numbers of a node that a convolution makes or reads are ordered [pixel][channel], those of all
others as in the network. Reshapes are not moves: the node keeps its input's numbers and their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Node
from certify.native.sweep import Mapped, Moves, Room, alone, spread, windows


@dataclass(frozen=True, eq=False)
class Layer:
    """The ReLUs of node `node`, which reads `read`: the place of their coefficients, and which neuron stands where."""

    node: int
    read: int
    kept: int
    order: Tensor


@dataclass(frozen=True, eq=False)
class Program:
    """Moves back from a network's last node to its input, and forth to its last ReLU.

    `start`, `form` and `point` are the places of the last node's coefficients, the input's, and the input's values.
    """

    back: Moves
    forth: Moves
    layers: tuple[Layer, ...]
    room: int
    start: int
    form: int
    point: int
    input_order: Tensor
    output_order: Tensor
    operations: int  # multiply-adds of one row, back and forth
    dense: bool  # no convolutions


@lru_cache(maxsize=4)
def program(network: Network) -> Program | None:
    """The program of a network in float32 on the processor; None if some operator has no moves."""
    return _Builder(network).build() if network.dtype == torch.float32 and network.device.type == "cpu" else None


class _Builder:
    def __init__(self, network: Network) -> None:
        self.network, self.nodes = network, network.graph.nodes
        self.same = list(range(len(self.nodes)))  # the node whose numbers a reshape shows
        for i, node in enumerate(self.nodes):
            if i and isinstance(node.op, ops.Reshape):
                self.same[i] = self.same[node.inputs[0]]
        self.orders: dict[int, np.ndarray] = {}
        self.back, self.forth, self.room = Moves(), Moves(), Room()
        self.operations = 0

    def build(self) -> Program | None:
        last = self.same[-1]
        self.orders[0] = self._input_order()
        for i, node in enumerate(self.nodes[1:], 1):
            if self.same[i] == i:
                order = self._order(node)
                if order is None:
                    return None
                self.orders[i] = order
        start = self.room.take(self.nodes[last].size)
        places = {last: start}
        kept = self._send_back(places)
        if kept is None or 0 not in places:
            return None
        layers = tuple(Layer(e, self.nodes[e].inputs[0], kept[e], _index(self.orders[e])) for e in sorted(kept))
        point = self.room.take(self.nodes[0].size)
        self._send_forth({0: point}, {layer.node: k for k, layer in enumerate(layers)})
        return Program(
            self.back,
            self.forth,
            layers,
            self.room.size,
            start,
            places[0],
            point,
            _index(self.orders[0]),
            _index(self.orders[last]),
            self.operations,
            not any(isinstance(node.op, ops.Conv) for node in self.nodes),
        )

    def _inputs(self, node: Node) -> list[int]:
        return [self.same[j] for j in node.inputs]

    def _input_order(self) -> np.ndarray:
        """That of the first convolution, if it reads the input's numbers."""
        for node in self.nodes[1:]:
            if isinstance(node.op, ops.Conv) and self.nodes[node.inputs[0]].size == self.nodes[0].size:
                return _channels_last(self.nodes[node.inputs[0]].shape)
        return np.arange(self.nodes[0].size)

    def _order(self, node: Node) -> np.ndarray | None:
        """Which of a node's numbers stands where; None if no move makes it."""
        op, inputs = node.op, self._inputs(node)
        if any(j not in self.orders for j in inputs):
            return None
        if isinstance(op, ops.Relu):
            return self.orders[inputs[0]]
        if isinstance(op, ops.Linear):
            pixels, first = node.size // op.weight.shape[0], self.orders[inputs[0]]
            return np.arange(node.size) if pixels == 1 or (np.diff(first) == 1).all() else None
        if isinstance(op, ops.Conv):
            shape = self.nodes[node.inputs[0]].shape
            plain = op.groups == 1 and len(shape) == len(op.stride) + 1
            fits = plain and np.array_equal(self.orders[inputs[0]], _channels_last(shape))
            return _channels_last(node.shape) if fits else None
        if isinstance(op, ops.Scale):
            return self.orders[inputs[0]] if self.nodes[node.inputs[0]].shape == node.shape else None
        if isinstance(op, ops.Sum):
            alike = all(self.nodes[j].shape == node.shape for j in node.inputs)
            alike = alike and all(np.array_equal(self.orders[j], self.orders[inputs[0]]) for j in inputs)
            return self.orders[inputs[0]] if alike else None
        return None

    def _send_back(self, places: dict[int, int]) -> dict[int, int] | None:
        """The moves back; places get the coefficients of all nodes. {ReLU: where its coefficients stay}."""
        kept: dict[int, int] = {}
        layers = sorted(i for i, node in enumerate(self.nodes) if isinstance(node.op, ops.Relu))
        for i in range(len(self.nodes) - 1, 0, -1):
            node = self.nodes[i]
            if self.same[i] != i:
                continue
            if i not in places:
                return None
            here = places[i]
            self._bias(i, here)
            for k, j in enumerate(self._inputs(node)):
                add = j in places
                to = places[j] if add else places.setdefault(j, self.room.take(self.nodes[j].size))
                if isinstance(node.op, ops.Relu):
                    self.back.relu(here, to, add, node.size, layers.index(i))
                elif isinstance(node.op, ops.Sum):
                    self.back.add(here, to, add, node.size, node.op.coefficients[k])
                elif isinstance(node.op, ops.Scale):
                    self.back.scale(here, to, add, node.size, self._vector(i, node.op.scale), None)
                else:
                    self.back.map(here, to, add, self._taps(i, adjoint=True), None)
            if isinstance(node.op, ops.Relu):
                kept[i] = here
            else:
                self.room.give(here, node.size)
        return kept

    def _send_forth(self, places: dict[int, int], layers: dict[int, int]) -> None:
        """The moves forth, up to the last ReLU."""
        count = max(layers, default=-1) + 1
        final = {j: i for i in range(1, count) if self.same[i] == i for j in self._inputs(self.nodes[i])}
        for i in range(1, count):
            node = self.nodes[i]
            if self.same[i] != i:
                continue
            inputs, to = self._inputs(node), self.room.take(node.size)
            places[i] = to
            if isinstance(node.op, ops.Relu):
                self.forth.relu(places[inputs[0]], to, False, node.size, layers[i])
            elif isinstance(node.op, ops.Sum):
                for k, j in enumerate(inputs):
                    self.forth.add(places[j], to, k > 0, node.size, node.op.coefficients[k])
            elif isinstance(node.op, ops.Scale):
                scale, shift = (self._vector(i, v) for v in (node.op.scale, node.op.shift))
                self.forth.scale(places[inputs[0]], to, False, node.size, scale, shift)
            else:
                bias = None if node.op.bias is None else self.network.cast(node.op.bias)
                self.forth.map(places[inputs[0]], to, False, self._taps(i, adjoint=False), bias)
            for j in {j for j in inputs if final[j] == i}:
                self.room.give(places[j], self.nodes[j].size)

    def _bias(self, i: int, here: int) -> None:
        """What a node's own constants add to the bound."""
        op, size = self.nodes[i].op, self.nodes[i].size
        if isinstance(op, ops.Scale) and np.any(op.shift):
            self.back.bias(here, size, self._vector(i, op.shift))
        elif isinstance(op, ops.Linear | ops.Conv) and op.bias is not None:
            self.back.bias(here, size, self.network.cast(op.bias))

    def _vector(self, i: int, values: np.ndarray) -> Tensor:
        """One number for each of node i's, in its order."""
        every = np.broadcast_to(values, self.nodes[i].shape).ravel()
        return self.network.cast(every[self.orders[i]].copy())

    def _taps(self, i: int, adjoint: bool) -> Mapped:
        """The linear map of node i for the kernel."""
        node = self.nodes[i]
        op, source = node.op, self.nodes[node.inputs[0]]
        if isinstance(op, ops.Linear):
            pixels = node.size // op.weight.shape[0]
            order = self.orders[self.same[node.inputs[0]]] if pixels == 1 else slice(None)
            weight, pairs, ends = op.weight[None][:, :, order], alone(pixels), (pixels, pixels)
        else:
            size, out = source.shape[1:], node.shape[1:]
            pairs = windows(size, out, op.weight.shape[2:], op.stride, op.before, op.dilation)
            weight = np.moveaxis(op.weight.reshape(*op.weight.shape[:2], -1), 2, 0)
            ends = (int(np.prod(size)), int(np.prod(out)))
        self.operations += 2 * len(pairs.tap) * weight[0].size
        packed = self.network.cast(np.ascontiguousarray(weight if adjoint else weight.transpose(0, 2, 1)))
        return spread(pairs.swapped() if adjoint else pairs, ends[0] if adjoint else ends[1], packed)


def _channels_last(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape[0], -1).T.ravel()


def _index(order: np.ndarray) -> Tensor:
    return torch.from_numpy(order.astype(np.int32))
