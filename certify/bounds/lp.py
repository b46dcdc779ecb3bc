"""Linear programming over the triangle relaxation as a bound method; see `certify.bounds.triangle`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from certify.bounds.base import NodeBounds
from certify.bounds.intermediate import intermediate, worth_refining
from certify.bounds.interval import INTERVAL
from certify.bounds.method import BoundMethod, RowBounds, single_rows
from certify.bounds.optimise import Free, Target, bound, initial
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import Rows
from certify.bounds.slopes import Slopes
from certify.bounds.tighten import Sharpener, foremost, importance
from certify.bounds.triangle import best_lines
from certify.budget import Budget
from certify.errors import BadOption
from certify.evidence import Sharpened
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import Network
from certify.relax.elementwise import LINES
from certify.spec.inputset import InputSet


@dataclass(frozen=True)
class LpBounds(BoundMethod):
    """The triangle linear program (Ehlers 2017), each row on its own, over intermediate bounds from adaptive lines.

    Of each region, the bounds of the `neurons` unstable neurons whose relaxation costs the rows most are tightened
    by linear programs first, two for each.
    Never looser than linear bounds with adaptive lines.
    """

    neurons: int = 0

    name: ClassVar[str] = "lp"

    def __post_init__(self) -> None:
        if self.neurons < 0:
            raise BadOption(f"the number of neurons must not be negative, as {self.neurons} is")

    def covers(self, op: ops.Op) -> bool:
        """Not products: a program's rows are the lines of single neurons."""
        relaxed = LINES.get(op) is not None and not isinstance(op, ops.Product)
        return INTERVAL.get(op) is not None and (MAPS.get(op) is not None or relaxed)

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        if len(inputs) > 1:  # a program speaks of one region
            found = []
            for b in range(len(inputs)):
                at = slice(b, b + 1)
                known = {v: tuple(x if len(x) == 1 else x[at] for x in limits) for v, limits in within.items()}
                own = rows if len(rows.matrix) == 1 else rows.select(torch.tensor([b], device=rows.matrix.device))
                found.append(self._bound(network, inputs.select(at), own, known, budget))
            return _joined(found)
        nodes, sharpened = intermediate(network, inputs, within=within or None, budget=budget), ()
        if self.neurons:
            nodes, sharpened = self._sharpened(network, inputs, rows, nodes, budget)
        found = [
            _through_best_lines(Target(network, inputs, nodes, part), budget)
            for part in single_rows(network, inputs, rows, budget.memory, own_lines=True)
        ]
        shape = rows.offset.shape[1:]
        lower = torch.cat([lower for lower, _ in found], 1).reshape(1, *shape)
        every = {e: torch.cat([lines[e] for _, lines in found], 1) for e in found[0][1]}
        return RowBounds(lower, nodes, {e: t.reshape(1, *shape, *t.shape[2:]) for e, t in every.items()}, (sharpened,))

    def _sharpened(
        self, network: Network, inputs: InputSet, rows: Rows, nodes: NodeBounds, budget: Budget
    ) -> tuple[NodeBounds, tuple[Sharpened, ...]]:
        weights = torch.ones_like(rows.offset) * rows.used
        target = Target(network, inputs, nodes, rows)
        free = Free({}, weights, weights.new_zeros(*weights.shape[:2], 0))
        lines = Slopes.ADAPTIVE.lines(network, nodes, network.graph.nonlinear)
        scores = importance(network, nodes, bound(target, free, lines, keep=True)[1])
        refined = worth_refining(network.graph)
        scores = {v: score for v, score in scores.items() if v in refined}
        if not scores:
            return nodes, ()
        chosen = foremost(network, nodes, scores, self.neurons)
        sharpener = Sharpener(network, inputs, chosen, budget, best_lines)
        tight = intermediate(network, inputs, within=nodes, budget=budget, sharpen=sharpener)
        return tight, tuple(sharpener.found)


def _through_best_lines(target: Target, budget: Budget) -> tuple[Tensor, dict[int, Tensor]]:
    """Lower bounds (1, S) of clauses of one row each over one region, and their lines {e: (1, S, *N)}: those that
    a linear program names, or adaptive ones where these are better."""
    relaxation = Relaxation(target.network, target.bounds)
    free = initial(target, relaxation)
    free.weights = torch.ones_like(free.weights)
    plain = bound(target, free, relaxation.lines(free.lines))[0]
    named = best_lines(target, relaxation, budget)
    lower = bound(target, free, relaxation.lines(named))[0]
    better = lower > plain  # not where it is NaN
    lines = {e: torch.where(better.reshape(1, -1, *[1] * (t.dim() - 2)), t, free.lines[e]) for e, t in named.items()}
    return torch.where(better, lower, plain), lines


def _joined(parts: list[RowBounds]) -> RowBounds:
    """The bounds of single regions, as of a batch."""
    nodes = {v: tuple(torch.cat([p.nodes[v][side] for p in parts]) for side in (0, 1)) for v in parts[0].nodes}
    lines = {e: torch.cat([p.lines[e] for p in parts]) for e in parts[0].lines}
    return RowBounds(torch.cat([p.lower for p in parts]), nodes, lines, tuple(s for p in parts for s in p.sharpened))
