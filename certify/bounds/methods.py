"""The bound methods behind one signature (`certify.bounds.method`), from the cheapest to the tightest."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from certify.bounds.base import NodeBounds, flat
from certify.bounds.intermediate import intermediate
from certify.bounds.interval import INTERVAL, interval
from certify.bounds.lp import LpBounds
from certify.bounds.method import BoundMethod, RowBounds, parallel, single_rows, sloped
from certify.bounds.optimise import Free, Schedule, Target, bound, optimise
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import Rows
from certify.bounds.slopes import Slopes
from certify.bounds.zonotope import zonotope
from certify.budget import Budget
from certify.errors import BadOption
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import Network
from certify.relax.elementwise import LINES, has_slope
from certify.relax.parallel import BANDS
from certify.spec.inputset import InputSet


@dataclass(frozen=True)
class IntervalBounds(BoundMethod):
    """Interval arithmetic (Gowal et al. 2018): one forward pass. Reads an L1 or L2 ball as the box around it."""

    name: ClassVar[str] = "interval"

    def covers(self, op: ops.Op) -> bool:
        return INTERVAL.get(op) is not None

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        nodes = dict(enumerate(interval(network, inputs, within)))
        lower, upper = (flat(b, 1)[:, None, :, None] for b in nodes[len(nodes) - 1])
        n = network.graph.output_size
        y = rows.matrix[..., :n]
        least = (y.clamp_min(0) @ lower + y.clamp_max(0) @ upper).squeeze(-1) + _rest(inputs, rows, n)
        return RowBounds(least.expand(len(inputs), *least.shape[1:]), nodes)

    def parameters(self, network: Network, nodes: NodeBounds) -> dict[int, Tensor]:
        """The flattest lines: of ReLU-like operators, they make backward propagation never looser than intervals."""
        found = {}
        for e in sloped(network):
            op, lower = network.graph.nodes[e].op, nodes[network.graph.nodes[e].inputs[0]][0]
            piece = {ops.Relu: 0.0, ops.Abs: -1.0}.get(type(op))  # the slope below 0; above, it is 1
            a = lower.new_tensor(op.slope) if piece is None else lower.new_tensor(piece)
            flattest = torch.where(a < 1, a / torch.where(a < 1, a - 1, -1), 1).clamp(0, 1)  # a + t (1 - a) next to 0
            found[e] = flattest.expand_as(lower)
        return found


@dataclass(frozen=True)
class ZonotopeBounds(BoundMethod):
    """Zonotopes (DeepZ, Singh et al. 2018): one forward pass with a generator per input and unstable neuron.

    Reads an L1 or L2 ball as the box around it.
    """

    name: ClassVar[str] = "zonotope"

    def covers(self, op: ops.Op) -> bool:
        relaxed = type(op) in BANDS.table or LINES.get(op) is not None  # a band can be made of lines
        return INTERVAL.get(op) is not None and (MAPS.get(op) is not None or relaxed)

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        n, shape = network.graph.output_size, rows.offset.shape[1:]
        y = rows.matrix[..., :n].flatten(1, 2)
        found = zonotope(network, inputs, y if y.shape[0] > 1 else y[0], within=within or None, memory=budget.memory)
        least = found.lower.expand(len(inputs), -1).reshape(-1, *shape) + _rest(inputs, rows, n)
        return RowBounds(least, dict(enumerate(found.bounds)))

    def parameters(self, network: Network, nodes: NodeBounds) -> dict[int, Tensor]:
        """Lower lines parallel to the chord, as in the zonotope."""
        return parallel(network, nodes)


@dataclass(frozen=True)
class LinearBounds(BoundMethod):
    """Backward propagation of linear bounds (CROWN, Zhang et al. 2018), intermediate bounds included.

    `slopes` is the rule for the free lines of ReLU-like operators, everywhere. With `steps`, those of the last
    pass are then optimised for each row by so many gradient steps (alpha-CROWN, Xu et al. 2021).
    """

    slopes: Slopes = Slopes.ADAPTIVE
    steps: int = 0

    name: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise BadOption(f"steps must not be negative, as {self.steps} is", "0 does not optimise")

    def covers(self, op: ops.Op) -> bool:
        return INTERVAL.get(op) is not None and (MAPS.get(op) is not None or LINES.get(op) is not None)

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        nodes = intermediate(network, inputs, within=within or None, slopes=self.slopes, budget=budget)
        parts = single_rows(network, inputs, rows, budget.memory, own_lines=self.steps > 0)
        least = [self._rows(Target(network, inputs, nodes, part)) for part in parts]
        return RowBounds(torch.cat(least, 1).reshape(len(inputs), *rows.offset.shape[1:]), nodes)

    def _rows(self, target: Target) -> Tensor:
        """(B, S) for clauses of one row each."""
        network, batch = target.network, len(target.inputs)
        weights = torch.ones_like(target.rows.offset).expand(batch, -1, -1)
        free = Free({}, weights, weights.new_zeros(*weights.shape[:2], 0))
        relaxation = Relaxation(network, target.bounds) if self.steps else None
        if relaxation is None or not relaxation.families:
            lines = self.slopes.lines(network, target.bounds, network.graph.nonlinear)
            return bound(target, free, lines)[0].expand(batch, -1)
        for e, start in relaxation.initial().items():
            if has_slope(network.graph.nodes[e].op):
                start = self.slopes.parameter(*target.bounds[network.graph.nodes[e].inputs[0]]).unsqueeze(1)
            free.lines[e] = start.expand(batch, weights.shape[1], *start.shape[2:]).clone()
        free.weights = weights.clone()
        return optimise(target, free, relaxation, Schedule(steps=self.steps), threshold=inf).lower


@dataclass(frozen=True)
class WongKolterBounds(BoundMethod):
    """The dual network of Wong & Kolter (2018) with their fixed dual solution (their theorem 1 and algorithm 1).

    That is backward propagation through parallel lines, intermediate bounds included. The paper has it for ReLU
    between dense layers.
    """

    name: ClassVar[str] = "wong-kolter"

    def covers(self, op: ops.Op) -> bool:
        return LinearBounds().covers(op)

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        return LinearBounds(Slopes.PARALLEL)(network, inputs, rows, within=within, budget=budget)

    def parameters(self, network: Network, nodes: NodeBounds) -> dict[int, Tensor]:
        """Lower lines parallel to the chord."""
        return parallel(network, nodes)


METHODS: tuple[BoundMethod, ...] = (
    IntervalBounds(),
    ZonotopeBounds(),
    WongKolterBounds(),
    LinearBounds(),
    LpBounds(),
)


def _rest(inputs: InputSet, rows: Rows, outputs: int) -> Tensor:
    """Lower bounds (B, S, R) of what the rows say apart from the output: the input's part and the offset."""
    x = rows.matrix[..., outputs:]
    if not x.shape[-1]:
        return -rows.offset
    least = inputs.minimum(x.flatten(1, 2).expand(len(inputs), -1, -1))
    return least.reshape(-1, *rows.offset.shape[1:]) - rows.offset
