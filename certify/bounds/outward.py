"""Methods whose own bounds are claims, for want of evidence, and the bounds of nodes on which these may rest: those of
the checker, rounded outward."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import Interval, NodeBounds
from certify.bounds.intermediate import worth_refining
from certify.bounds.lp import LpBounds
from certify.bounds.method import BoundMethod, RowBounds
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.check import bounds as rigorous
from certify.check.linear import Bounds
from certify.check.linear import Network as CheckedNetwork
from certify.check.tree import ball_of
from certify.evidence import Sharpened
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.numerics import require_ieee
from certify.spec.inputset import InputSet, stack
from certify.spec.regions import Region


class Outward(dict[int, Interval]):
    """`NodeBounds` in float64, (B, *N) or (1, *N), each rounded outward.

    Whoever makes one vouches for that: methods whose bounds are claims use these, and no others that are given.
    """


def outward(
    network: Network,
    inputs: InputSet,
    within: NodeBounds | None = None,
    sharpened: Sequence[Sequence[Sharpened]] = (),
) -> Outward:
    """Bounds (B, *N) of what elementwise nodes read, over each of B regions, by the checker.

    `within` counts if it is an `Outward`; `sharpened`, for every region or empty, says how bounds may be tightened,
    and each is computed anew. Sound: rounded outward. Raises UnsupportedOp for operators that the checker has no
    rules for.
    """
    checked, own = CheckedNetwork(network.graph), sharpened or [()] * len(inputs)
    every = [
        what_is_read(network.graph, propagated(checked, region, _over(within or {}, b), own[b]))
        for b, region in enumerate(inputs.regions())
    ]
    return _joined(every)


def propagated(
    checked: CheckedNetwork, region: Region, within: NodeBounds, sharpened: Sequence[Sharpened] = ()
) -> Bounds:
    """The checker's bounds of all nodes over one region, which also keep `within` (1, *N) if it is an `Outward`."""
    require_ieee()
    limits = {v: (low.numpy(), up.numpy()) for v, (low, up) in within.items()} if isinstance(within, Outward) else {}
    with np.errstate(all="ignore"):
        return rigorous.propagate(
            checked,
            region.lower[None],
            region.upper[None],
            refined=frozenset(worth_refining(checked.graph)),
            cut=limits,
            sharpened=sharpened,
            ball=ball_of(region),
        )


def what_is_read(graph: Graph, bounds: Bounds) -> Outward:
    """Of the checker's bounds over one region those, (1, *N), of what elementwise nodes read."""
    nodes = {graph.nodes[e].inputs[0] for e in graph.nonlinear}
    return Outward({v: (torch.tensor(bounds.lower[v]), torch.tensor(bounds.upper[v])) for v in nodes})


class Bounded(Protocol):
    """What a method makes of a network over one region."""

    @property
    def nodes(self) -> Outward:
        """Bounds (1, *N) on what elementwise nodes read."""
        ...


P = TypeVar("P", bound=Bounded)


class OutwardBounds(BoundMethod, Generic[P]):
    """Rows one by one, over one region after the other, each from the lines that `LpBounds` names over the same bounds
    of neurons. `within` is used where it is `Outward`.
    """

    outward: ClassVar[bool] = True

    @abstractmethod
    def problem(self, network: Network, region: Region, within: NodeBounds) -> P:
        """The network, in float64, over the region. Sound if `within`, where it is `Outward`, is."""

    @abstractmethod
    def row(self, problem: P, row: Tensor, constant: float, lines: dict[int, Tensor], budget: Budget) -> float:
        """A lower bound of <row, (output, x)> + constant for row (n,) or (n + d,), float64; -inf for none.

        `lines` {e: (size,)} are the parameters in [0, 1] of lines that are good ones. Sound: rounded outward, whatever
        they are.
        """

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        wide, batch, outside = Network(network.graph, torch.float64), len(inputs), torch.device("cpu")
        rows = Rows(rows.matrix.to(outside, wide.dtype), rows.offset.to(outside, wide.dtype), rows.used.to(outside))
        lower = torch.full((batch, *rows.offset.shape[1:]), -torch.inf, dtype=wide.dtype)
        known: list[Outward] = []
        for b, region in enumerate(inputs.regions()):
            problem, own = self.problem(wide, region, _over(within, b)), rows.select(torch.tensor([b]))
            known.append(problem.nodes)
            ((_, one),) = stack([region], wide.dtype)
            lines = LpBounds()(wide, one, own, within=problem.nodes, budget=budget).lines
            for s, r in own.used[0].nonzero().tolist():
                if budget.expired:
                    break
                start = {e: t[0, s, r].reshape(-1) for e, t in lines.items()}
                lower[b, s, r] = self.row(problem, own.matrix[0, s, r], -float(own.offset[0, s, r]), start, budget)
        return RowBounds(lower, _joined(known))


def _over(within: NodeBounds, b: int) -> NodeBounds:
    """The bounds over region b alone, (1, *N); those that are `Outward` stay so."""
    every = {v: tuple(x if len(x) == 1 else x[b : b + 1] for x in limits) for v, limits in within.items()}
    return Outward(every) if isinstance(within, Outward) else every


def _joined(parts: Sequence[Outward]) -> Outward:
    """The bounds over single regions as of a batch."""
    return Outward({v: tuple(torch.cat([p[v][side] for p in parts]) for side in (0, 1)) for v in parts[0]})
