"""Intermediate bounds through optimised lines: alpha-CROWN for every neuron (Xu et al. 2021, section 3.2).

Each bound of each neuron gets line parameters of its own, found in float32 by projected ascent and then
rounded to bytes; the bound that is used comes from one float64 pass with those bytes, which the checker
can repeat. That costs tens of passes, so it is done once, over a whole region, before neurons are split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from certify.bounds.base import Interval, NodeBounds, flat, narrowed
from certify.bounds.intermediate import CACHE, unstable
from certify.bounds.linear import lines_of, propagate
from certify.bounds.optimise import Relaxation, Schedule, Target, initial, optimise
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet

LEVELS = 254
"""A line parameter is a whole number of this many parts of 1."""

COPIES = 24
"""Tensors of the size of all nodes, per row, that an optimisation holds at once."""


@dataclass(frozen=True, eq=False)
class Sharpened:
    """How the bounds of some neurons of one node were found.

    Row r bounds sign[r] * (value of neuron[r]) from below, through lines with the parameters
    slopes[e][r] / LEVELS, (R, size of e) uint8, at elementwise node e.
    """

    neuron: Tensor
    sign: Tensor
    slopes: dict[int, Tensor]


@dataclass(eq=False)
class Sharpener:
    """A `Sharpen` for one region, given as `inputs` for the float32 `network` and `whole` for the float64 `wide`.

    `found` collects what it did, node after node, for the checker.
    """

    network: Network
    inputs: InputSet
    wide: Network
    whole: InputSet
    schedule: Schedule
    budget: Budget
    found: dict[int, Sharpened] = field(default_factory=dict)

    def __call__(self, v: int, interval: Interval, bounds: NodeBounds) -> Interval:
        neurons = flat(unstable(self.network.graph, v, interval), 1)[0].nonzero().squeeze(1)
        part, kept = self.network.until(v)
        near = narrowed({k: bounds[i] for k, i in enumerate(kept) if i in bounds}, self.network.dtype)
        relaxation = Relaxation(part, near)
        if not len(neurons) or not relaxation.gain:
            return interval
        size = sum(n.size for n in part.graph.nodes)
        rows = max(2, CACHE // (COPIES * 4 * size))
        lower, upper = (flat(b, 1).clone() for b in interval)
        pieces = []
        for chunk in neurons.split(max(1, rows // 2)):
            if self.budget.expired:
                break
            pieces.append(piece := self._chunk(v, chunk, part, kept, near, relaxation))
            low = self._bound(v, piece, bounds)
            k = len(chunk)
            lower[0, chunk] = torch.maximum(lower[0, chunk], low[:k])
            upper[0, chunk] = torch.minimum(upper[0, chunk], -low[k:])
        if pieces:
            self.found[v] = Sharpened(
                torch.cat([p.neuron for p in pieces]),
                torch.cat([p.sign for p in pieces]),
                {e: torch.cat([p.slopes[e] for p in pieces]) for e in pieces[0].slopes},
            )
        shape = interval[0].shape
        return lower.reshape(shape), upper.reshape(shape)

    def _chunk(
        self, v: int, chunk: Tensor, part: Network, kept: tuple[int, ...], near: NodeBounds, relaxation: Relaxation
    ) -> Sharpened:
        """Parameters for both bounds of the neurons `chunk`."""
        sign = torch.ones(2 * len(chunk), device=chunk.device)
        sign[len(chunk) :] = -1
        matrix = _unit_rows(chunk, sign, part.graph.output_size, part.dtype)
        count = len(sign)
        rows = Rows(
            matrix.reshape(1, count, 1, -1), matrix.new_zeros(1, count, 1), torch.ones(1, count, 1, dtype=torch.bool)
        )
        target = Target(part, self.inputs, near, rows)
        result = optimise(
            target, initial(target, relaxation), relaxation, self.schedule, stop=lambda: self.budget.expired
        )
        slopes = {kept[e]: (flat(t[0], 1) * LEVELS).round().to(torch.uint8) for e, t in result.free.lines.items()}
        return Sharpened(chunk.repeat(2), sign, slopes)

    def _bound(self, v: int, piece: Sharpened, bounds: NodeBounds) -> Tensor:
        """The bounds (R,) in float64."""
        nodes = self.wide.graph.nodes
        given = {
            e: (t.to(self.wide.dtype) / LEVELS).reshape(1, -1, *nodes[e].shape) for e, t in piece.slopes.items()
        }
        fixed = tuple(e for e in self.wide.graph.nonlinear if e < v and e not in given)
        lines = lines_of(self.wide, bounds, fixed) | lines_of(self.wide, bounds, given)
        unit = _unit_rows(piece.neuron, piece.sign.to(self.wide.dtype), nodes[v].size, self.wide.dtype)
        zero = unit.new_zeros(1, len(unit))
        return propagate(self.wide, {v: unit.reshape(1, -1, *nodes[v].shape)}, zero, lines).minimum(self.whole)[0]


def _unit_rows(neuron: Tensor, sign: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """(R, size): sign times the unit row of each neuron."""
    rows = torch.zeros(len(sign), size, dtype=dtype, device=neuron.device)
    index = neuron.repeat(len(sign) // len(neuron))
    rows[torch.arange(len(sign), device=neuron.device), index] = sign.to(dtype)
    return rows
