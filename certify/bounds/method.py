"""What every bound method is: the rows of a property, bounded over a batch of regions.

    method(network, inputs, rows, within=..., budget=...) -> RowBounds

A method is a small frozen object that holds its settings. It says which operators it covers, and which
parameters of the relaxing lines let backward propagation, which is what the checker replays, prove what
the method proves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from certify.bounds.base import NodeBounds
from certify.bounds.rows import Rows
from certify.bounds.slopes import Slopes
from certify.budget import Budget
from certify.errors import UnsupportedOp
from certify.evidence import Sharpened
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.relax.elementwise import has_slope
from certify.spec.inputset import InputSet

COPIES = 8
"""Tensors of coefficients that may exist at once in a backward pass."""


@dataclass(frozen=True, eq=False)
class RowBounds:
    """lower (B, S, R): lower bounds of the margin  matrix @ z - offset  of every row, -inf for unused ones;
    `nodes`: the bounds on values in the network that they rest on.

    For the proof: `lines`, parameters {e: (B, S, R, *N)} in [0, 1] of each row's own lines, where it has such; and
    `sharpened`, for every region or empty, how bounds of `nodes` were tightened."""

    lower: Tensor
    nodes: NodeBounds
    lines: dict[int, Tensor] = field(default_factory=dict)
    sharpened: tuple[tuple[Sharpened, ...], ...] = ()


class BoundMethod(ABC):
    """Bounds rows of a network's output. Sound up to float rounding; nothing here claims."""

    name: ClassVar[str]
    outward: ClassVar[bool] = False
    """Whether its bounds are rounded outward: claims that rest on the method's own code, for want of evidence."""

    def __call__(
        self,
        network: Network,
        inputs: InputSet,
        rows: Rows,
        *,
        within: NodeBounds | None = None,
        budget: Budget | None = None,
    ) -> RowBounds:
        """Bounds of `rows` over each of B regions. Bounds known beforehand, `within`, are used where they are
        tighter. The budget is kept to as by `intermediate`."""
        found = self._bound(network, inputs, rows, within or {}, budget or Budget())
        lower = found.lower.masked_fill(~rows.used | found.lower.isnan(), -inf)  # NaN is no bound
        return replace(found, lower=lower)

    @abstractmethod
    def _bound(
        self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget
    ) -> RowBounds: ...

    @abstractmethod
    def covers(self, op: ops.Op) -> bool:
        """Whether the method has rules for this operator."""

    def missing(self, graph: Graph) -> list[tuple[str, str]]:
        """(operator, node name) for every node without a rule."""
        return [(type(n.op).__name__, n.name) for n in graph.nodes[1:] if not self.covers(n.op)]

    def require(self, graph: Graph) -> None:
        """Raise UnsupportedOp, naming every node without a rule."""
        missing = self.missing(graph)
        if missing:
            raise UnsupportedOp(f"{self.name} bounds", missing)

    def parameters(self, network: Network, nodes: NodeBounds) -> dict[int, Tensor]:
        """Line parameters (B or 1, *N) in [0, 1] of elementwise nodes, for the proof; those left out are adaptive."""
        return {}


def at_once(network: Network, memory: int) -> int:
    """How many regions to bound together, so that what is kept of all their values fits into `memory` bytes."""
    return max(1, memory // (256 * sum(node.size for node in network.graph.nodes)))


def sloped(network: Network) -> list[int]:
    """The elementwise nodes of which a line has a free slope."""
    return [e for e in network.graph.nonlinear if has_slope(network.graph.nodes[e].op)]


def parallel(network: Network, nodes: NodeBounds) -> dict[int, Tensor]:
    """`BoundMethod.parameters` of lines parallel to the chord."""
    return {e: Slopes.PARALLEL.parameter(*nodes[network.graph.nodes[e].inputs[0]]) for e in sloped(network)}


def single_rows(network: Network, inputs: InputSet, rows: Rows, memory: int, own_lines: bool) -> Iterator[Rows]:
    """Single rows as clauses of one row each, as many at once as memory allows."""
    nodes = network.graph.nodes
    numbers = COPIES * max(node.size for node in nodes)
    if own_lines:  # values, gradient, two moments, and what makes them
        numbers += COPIES * sum(nodes[e].size for e in network.graph.nonlinear)
    room = max(1, memory // (numbers * (torch.finfo(network.dtype).bits // 8) * len(inputs)))
    flattened = (t.flatten(1, 2).unsqueeze(2) for t in (rows.matrix, rows.offset, rows.used))
    yield from (Rows(*part) for part in zip(*(t.split(room, 1) for t in flattened), strict=True))
