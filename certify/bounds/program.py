"""A network as moves of the compiled sweep: which linear maps, on what places, in what order.

Inside a sweep, the numbers of a node that a convolution makes or reads are ordered [pixel][channel], those of all
others as in the network. Reshapes and permutations are no moves: they show the numbers of another node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Node
from certify.native.sweep import Mapped, Moves, Room, alone, numbers, spread, windows

MOST = 1 << 24
"""Weights, and numbers of one row, beyond which a network is left to torch."""

CACHED = 1 << 13
"""Numbers of a row times vectors in a block, up to which the block stays in the cache."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The ReLUs of node `node`, which reads `read`: where their coefficients begin, and where each neuron stands."""

    node: int
    read: int
    kept: int
    place: Tensor


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
    input_place: Tensor
    output_place: Tensor
    operations: int  # multiply-adds of one row, back and forth
    vectors: int  # of rows in a block


def program(network: Network, last: int) -> Program | None:
    """The program between the input and node `last` of a network in float32 on the processor; None if some operator
    has no moves, or if it would take too much memory."""
    if network.dtype != torch.float32 or network.device.type != "cpu":
        return None
    if _Maps not in network.notes:
        network.notes[_Maps] = _Maps(network.graph)
    return network.notes[_Maps].program(last)


class _Maps:
    """What the programs of one network share: the order of every node's numbers, and the maps in the kernel's layout.

    `same[i]` is the node whose numbers node i shows, itself unless it is a view; `orders[i]` tells which of a node's
    numbers stands where, None if it or a node before it has no move.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.nodes
        self.same = list(range(len(self.nodes)))
        self._free = self._free_orders()
        self.orders: list[np.ndarray | None] = [self._free.get(0, np.arange(self.nodes[0].size))]
        for i, node in enumerate(self.nodes[1:], 1):
            if isinstance(node.op, ops.Reshape | ops.Permute):
                self.same[i] = self.same[node.inputs[0]]
            known = node.inputs and all(self.orders[j] is not None for j in node.inputs)
            self.orders.append(self._order(i) if known else None)
        self._programs: dict[int, Program | None] = {}
        self._mapped: dict[tuple[int, bool], Mapped] = {}

    def program(self, last: int) -> Program | None:
        if last not in self._programs:
            self._programs[last] = None if self.orders[last] is None else _Builder(self, last).build()
        return self._programs[last]

    def inputs(self, node: Node) -> list[int]:
        return [self.same[j] for j in node.inputs]

    def _free_orders(self) -> dict[int, np.ndarray]:
        """The orders of the input, and of what dense layers make, that convolutions need which read it through nothing
        but views, scales and ReLUs: whoever makes these numbers may make them in any order."""
        found: dict[int, np.ndarray] = {}
        for conv in self.nodes:
            if not isinstance(conv.op, ops.Conv):
                continue
            chain, i = [], conv.inputs[0]
            while isinstance(self.nodes[i].op, ops.Reshape | ops.Permute | ops.Scale | ops.Relu):
                chain.append(self.nodes[i])
                i = self.nodes[i].inputs[0]
            free = i == 0 or (isinstance(self.nodes[i].op, ops.Linear) and self._is_single(self.nodes[i]))
            needed = _channels_last(self.nodes[conv.inputs[0]].shape, len(conv.op.stride))
            if not free or needed is None or len(needed) != self.nodes[i].size:
                continue
            order = np.arange(self.nodes[i].size)
            for node in reversed(chain):
                order = self._viewed(node, order)
            found.setdefault(i, np.argsort(order)[needed])
        return found

    def _is_single(self, node: Node) -> bool:
        """Whether a dense layer reads one vector, not several side by side."""
        return node.size == node.op.weight.shape[0]

    def _viewed(self, node: Node, order: np.ndarray) -> np.ndarray:
        """The order of a node that shows another one's numbers, which stand in this order there."""
        if not isinstance(node.op, ops.Permute):
            return order
        before = np.arange(len(order)).reshape(self.nodes[node.inputs[0]].shape)
        return np.argsort(before.transpose(node.op.axes).ravel())[order]

    def _order(self, i: int) -> np.ndarray | None:
        node = self.nodes[i]
        op, first = node.op, self.orders[node.inputs[0]]
        if isinstance(op, ops.Reshape | ops.Permute):
            return self._viewed(node, first)
        if isinstance(op, ops.Relu):
            return first
        if isinstance(op, ops.Linear):
            if self._is_single(node):
                return self._free.get(i, np.arange(node.size))
            return np.arange(node.size) if (np.diff(first) == 1).all() else None
        if isinstance(op, ops.Conv):
            needed = _channels_last(self.nodes[node.inputs[0]].shape, len(op.stride))
            fits = op.groups == 1 and needed is not None and np.array_equal(first, needed)
            return _channels_last(node.shape, len(op.stride)) if fits else None
        if isinstance(op, ops.Scale):
            return first if self.nodes[node.inputs[0]].shape == node.shape else None
        if isinstance(op, ops.Sum):
            alike = all(self.nodes[j].shape == node.shape for j in node.inputs)
            return first if alike and all(np.array_equal(self.orders[j], first) for j in node.inputs) else None
        return None

    def weights(self, i: int) -> int:
        """Numbers that the map of node i is made of in the kernel's layout: weights, and whom each pixel reads."""
        op = self.nodes[i].op
        if not isinstance(op, ops.Linear | ops.Conv):
            return 0
        return op.weight.size + self.nodes[i].size // op.weight.shape[0] * op.weight[0, 0].size

    def mapped(self, i: int, adjoint: bool) -> Mapped:
        """The linear map of node i for the kernel."""
        if (i, adjoint) not in self._mapped:
            self._mapped[i, adjoint] = self._map(i, adjoint)
        return self._mapped[i, adjoint]

    def _map(self, i: int, adjoint: bool) -> Mapped:
        node = self.nodes[i]
        op, source = node.op, self.nodes[node.inputs[0]]
        if isinstance(op, ops.Linear):
            pixels = node.size // op.weight.shape[0]
            read, made = (self.orders[node.inputs[0]], self.orders[i]) if pixels == 1 else (slice(None),) * 2
            weight, pairs, ends = op.weight[made][None][:, :, read], alone(pixels), (pixels, pixels)
        else:
            size, out = (shape[-len(op.stride) :] for shape in (source.shape, node.shape))
            pairs = windows(size, out, op.weight.shape[2:], op.stride, op.before, op.dilation)
            weight = np.moveaxis(op.weight.reshape(*op.weight.shape[:2], -1), 2, 0)
            ends = (int(np.prod(size)), int(np.prod(out)))
        packed = numbers(weight if adjoint else weight.transpose(0, 2, 1))
        return spread(pairs.swapped() if adjoint else pairs, ends[0] if adjoint else ends[1], packed)


class _Builder:
    """The moves of one program, as they come."""

    def __init__(self, maps: _Maps, last: int) -> None:
        self.maps, self.nodes, self.last = maps, maps.nodes, last
        every = {last}
        for i in range(last, 0, -1):
            every.update(self.nodes[i].inputs if i in every else ())
        self.connected = 0 in every
        self.needed = [i for i in sorted(every) if i and maps.same[i] == i]
        self.back, self.forth, self.room = Moves(), Moves(), Room()

    def build(self) -> Program | None:
        weights = sum(self.maps.weights(i) for i in self.needed)
        if not self.connected or weights > MOST:
            return None
        last, size = self.maps.same[self.last], self.nodes[self.last].size
        start = self.room.take(size)
        places = {last: start}
        kept = self._send_back(places)
        orders = self.maps.orders
        layers = tuple(Layer(e, self.nodes[e].inputs[0], kept[e], _places(orders[e])) for e in sorted(kept))
        point = self.room.take(self.nodes[0].size)
        self._send_forth({0: point}, {layer.node: k for k, layer in enumerate(layers)})
        held = self.room.size + 5 * sum(len(layer.place) for layer in layers) + 2 * self.nodes[0].size
        if held > MOST:
            return None
        return Program(
            self.back,
            self.forth,
            layers,
            self.room.size,
            start,
            places[0],
            point,
            _places(orders[0]),
            _places(orders[self.last]),
            self.back.operations + self.forth.operations,
            next((v for v in (4, 2) if held * v <= CACHED), 1),
        )

    def _send_back(self, places: dict[int, int]) -> dict[int, int]:
        """The moves back; places get the coefficients of all nodes. {ReLU: where its coefficients stay}."""
        kept: dict[int, int] = {}
        layers = [i for i in self.needed if isinstance(self.nodes[i].op, ops.Relu)]
        for i in reversed(self.needed):
            node, here = self.nodes[i], places[i]
            self._bias(i, here)
            for k, j in enumerate(self.maps.inputs(node)):
                add = j in places
                to = places[j] if add else places.setdefault(j, self.room.take(self.nodes[j].size))
                if isinstance(node.op, ops.Relu):
                    self.back.relu(here, to, add, node.size, layers.index(i))
                elif isinstance(node.op, ops.Sum):
                    self.back.add(here, to, add, node.size, node.op.coefficients[k])
                elif isinstance(node.op, ops.Scale):
                    self.back.scale(here, to, add, node.size, self._vector(i, node.op.scale), None)
                else:
                    self.back.map(here, to, add, self.maps.mapped(i, adjoint=True), None)
            if isinstance(node.op, ops.Relu):
                kept[i] = here
            else:
                self.room.give(here, node.size)
        return kept

    def _send_forth(self, places: dict[int, int], layers: dict[int, int]) -> None:
        """The moves forth, up to the last ReLU."""
        count = max(layers, default=-1) + 1
        every = [i for i in self.needed if i < count]
        final = {j: i for i in every for j in self.maps.inputs(self.nodes[i])}
        for i in every:
            node = self.nodes[i]
            inputs, to = self.maps.inputs(node), self.room.take(node.size)
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
                bias = None if node.op.bias is None else self._constants(i)
                self.forth.map(places[inputs[0]], to, False, self.maps.mapped(i, adjoint=False), bias)
            for j in {j for j in inputs if final[j] == i}:
                self.room.give(places[j], self.nodes[j].size)

    def _bias(self, i: int, here: int) -> None:
        """What a node's own constants add to the bound."""
        op, size = self.nodes[i].op, self.nodes[i].size
        if isinstance(op, ops.Scale) and np.any(op.shift):
            self.back.bias(here, size, self._vector(i, op.shift))
        elif isinstance(op, ops.Linear | ops.Conv) and op.bias is not None:
            self.back.bias(here, size, self._constants(i))

    def _constants(self, i: int) -> Tensor:
        """The bias of a linear node, a number for each channel, in their order."""
        bias, single = self.nodes[i].op.bias, self.nodes[i].size == len(self.nodes[i].op.bias)
        return numbers(bias[self.maps.orders[i]] if single else bias)

    def _vector(self, i: int, values: np.ndarray) -> Tensor:
        """One number for each of node i's, in its order."""
        return numbers(np.broadcast_to(values, self.nodes[i].shape).ravel()[self.maps.orders[i]])


def _channels_last(shape: tuple[int, ...], axes: int) -> np.ndarray | None:
    """The order [pixel][channel] of (1, ..., 1, channels, *pixels); None if there are several of these."""
    size, pixels = int(np.prod(shape)), int(np.prod(shape[-axes:]))
    if size != pixels * shape[-axes - 1]:
        return None
    return np.arange(size).reshape(-1, pixels).T.ravel()


def _places(order: np.ndarray) -> Tensor:
    """Where each number stands, of those that stand in this order."""
    return torch.from_numpy(np.argsort(order).astype(np.int32))
