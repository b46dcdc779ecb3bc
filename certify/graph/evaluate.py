"""Running a graph on tensors: the compiled network that attacks and bounds share."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from certify.graph import ops
from certify.graph.affine import MAPS, Cast, Map
from certify.graph.ir import Graph
from certify.graph.rules import Rules


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to the last places everywhere (torch's own is x beyond 20)."""
    return x.clamp_min(0) + torch.log1p(torch.exp(-x.abs()))


FUNCTIONS: Rules[Callable[[ops.Op, Cast], Callable[[Tensor], Tensor]]] = Rules("evaluation")
"""Nonlinear operator -> its function on tensors (batch, *N)."""


@FUNCTIONS(ops.Relu)
def _relu(op: ops.Relu, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.relu


@FUNCTIONS(ops.LeakyRelu)
def _leaky(op: ops.LeakyRelu, cast: Cast) -> Callable[[Tensor], Tensor]:
    slope = cast(op.slope)
    return lambda x: torch.where(x >= 0, x, x * slope)


@FUNCTIONS(ops.Clip)
def _clip(op: ops.Clip, cast: Cast) -> Callable[[Tensor], Tensor]:
    return lambda x: x.clamp(op.lower, op.upper)


@FUNCTIONS(ops.Abs)
def _abs(op: ops.Abs, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.abs


@FUNCTIONS(ops.Sign)
def _sign(op: ops.Sign, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.sign


@FUNCTIONS(ops.Floor)
def _floor(op: ops.Floor, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.floor


@FUNCTIONS(ops.Sigmoid)
def _sigmoid(op: ops.Sigmoid, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.sigmoid


@FUNCTIONS(ops.Tanh)
def _tanh(op: ops.Tanh, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.tanh


@FUNCTIONS(ops.Exp)
def _exp(op: ops.Exp, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.exp


@FUNCTIONS(ops.Square)
def _square(op: ops.Square, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.square


@FUNCTIONS(ops.Reciprocal)
def _reciprocal(op: ops.Reciprocal, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.reciprocal


@FUNCTIONS(ops.Sin)
def _sin(op: ops.Sin, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.sin


@FUNCTIONS(ops.Cos)
def _cos(op: ops.Cos, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.cos


@FUNCTIONS(ops.Log)
def _log(op: ops.Log, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.log


@FUNCTIONS(ops.Sqrt)
def _sqrt(op: ops.Sqrt, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.sqrt


@FUNCTIONS(ops.Rsqrt)
def _rsqrt(op: ops.Rsqrt, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.rsqrt


@FUNCTIONS(ops.Softplus)
def _softplus(op: ops.Softplus, cast: Cast) -> Callable[[Tensor], Tensor]:
    return softplus


@FUNCTIONS(ops.Erf)
def _erf(op: ops.Erf, cast: Cast) -> Callable[[Tensor], Tensor]:
    return torch.erf


@FUNCTIONS(ops.Gelu)
def _gelu(op: ops.Gelu, cast: Cast) -> Callable[[Tensor], Tensor]:
    return functional.gelu


@FUNCTIONS(ops.GeluTanh)
def _gelu_tanh(op: ops.GeluTanh, cast: Cast) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.gelu(x, approximate="tanh")


@FUNCTIONS(ops.Silu)
def _silu(op: ops.Silu, cast: Cast) -> Callable[[Tensor], Tensor]:
    return functional.silu


@FUNCTIONS(ops.Mish)
def _mish(op: ops.Mish, cast: Cast) -> Callable[[Tensor], Tensor]:
    return functional.mish


@FUNCTIONS(ops.Elu)
def _elu(op: ops.Elu, cast: Cast) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.elu(x, op.alpha)


@FUNCTIONS(ops.HardSwish)
def _hard_swish(op: ops.HardSwish, cast: Cast) -> Callable[[Tensor], Tensor]:
    return functional.hardswish


@FUNCTIONS(ops.Product)
def _product(op: ops.Product, cast: Cast) -> Callable[[Tensor], Tensor]:
    left, right = cast(op.left), cast(op.right)

    def function(x: Tensor) -> Tensor:
        entries = x.reshape(x.shape[0], -1)
        return entries[:, left] * entries[:, right]

    return function


class Network:
    """A graph whose constants are tensors of one floating type on one device.

    `maps[i]` is the affine map of node i, `functions[i]` the function of nonlinear node i; the other
    of the two is None; `notes` is for what others work out about it and want again. Raises UnsupportedOp naming
    every node that cannot be run.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> None:
        self.graph, self.dtype, self.device = graph, dtype, torch.device(device)
        self.notes: dict[type, object] = {}
        shapes = [n.shape for n in graph.nodes]
        self.maps: list[Map | None] = [None] * len(shapes)
        self.functions: list[Callable[[Tensor], Tensor] | None] = [None] * len(shapes)
        for i, node in enumerate(graph.nodes):
            if isinstance(node.op, ops.Nonlinear):
                self.functions[i] = FUNCTIONS[node.op](node.op, self.cast)
            elif i:
                self.maps[i] = MAPS[node.op](node.op, node, [shapes[j] for j in node.inputs], self.cast)

    def until(self, v: int) -> tuple[Network, tuple[int, ...]]:
        """The network whose output is node v, sharing this one's constants; and what number each of its nodes,
        which are the input and those that v depends on, has here."""
        needed = {0, v}
        for i in range(v, 0, -1):
            if i in needed:
                needed.update(self.graph.nodes[i].inputs)
        kept = tuple(sorted(needed))
        place = {i: k for k, i in enumerate(kept)}
        nodes = tuple(replace(n, inputs=tuple(place[j] for j in n.inputs)) for n in (self.graph.nodes[i] for i in kept))
        part = copy(self)
        part.graph, part.notes = Graph(nodes, self.graph.inputs, ()), {}
        part.maps = [self.maps[i] for i in kept]
        part.functions = [self.functions[i] for i in kept]
        return part, kept

    def cast(self, array: np.ndarray) -> Tensor:
        """A stored constant on this network's device; numbers in its type, indices unchanged."""
        tensor = torch.from_numpy(np.asarray(array, order="C")) if array.flags.writeable else torch.tensor(array)
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def apply(self, i: int, *xs: Tensor) -> Tensor:
        """Node i's value from its inputs' values, each (batch, *N)."""
        function = self.functions[i]
        return function(xs[0]) if function is not None else self.maps[i].forward(*xs)

    def values(self, x: Tensor) -> list[Tensor]:
        """Every node's value for inputs x (batch, d) or (batch, *N)."""
        found = [x.reshape(-1, *self.graph.input_shape)]
        for i, node in enumerate(self.graph.nodes[1:], 1):
            found.append(self.apply(i, *(found[j] for j in node.inputs)))
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """The flattened output (batch, n) for inputs x (batch, d). Differentiable."""
        last = len(self.graph.nodes) - 1
        final = {j: i for i, node in enumerate(self.graph.nodes) for j in node.inputs}
        kept: dict[int, Tensor] = {0: x.reshape(-1, *self.graph.input_shape)}
        for i, node in enumerate(self.graph.nodes):
            if i:
                kept[i] = self.apply(i, *(kept[j] for j in node.inputs))
                for j in set(node.inputs):
                    if final[j] == i and j != last:
                        del kept[j]
        return kept[last].expand(x.shape[0], *self.graph.nodes[last].shape).reshape(x.shape[0], -1)


def evaluate(graph: Graph, x: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """The flattened outputs (B, n) of `graph` for inputs x (B, d), computed in `dtype`."""
    kind = torch.float64 if dtype == np.float64 else torch.float32
    with torch.no_grad():
        return Network(graph, kind)(torch.as_tensor(np.asarray(x), dtype=kind)).numpy()
