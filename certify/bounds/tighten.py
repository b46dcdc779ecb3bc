"""Intermediate bounds through optimised lines: alpha-CROWN for every neuron (Xu et al. 2021, section 3.2).

Each bound of each neuron gets line parameters of its own, found by projected ascent or otherwise, and then rounded to
bytes; the bound that is used comes from one more pass, with those bytes, which the checker can repeat. That
costs tens of passes, so it is done once, over a whole region, and for the neurons that matter most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from certify.bounds.base import Interval, NodeBounds, flat, padded
from certify.bounds.intermediate import CACHE, unstable
from certify.bounds.linear import Form, least, lines_of
from certify.bounds.optimise import Schedule, Target, initial, optimise
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.evidence import LEVELS, Sharpened
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet

COPIES = 24
"""Tensors of the size of all nodes, per row, that an optimisation holds at once."""

SCHEDULE = Schedule(steps=20, lines=0.25, decay=0.9)

Search = Callable[[Target, Relaxation, Budget], dict[int, Tensor]]
"""Line parameters {e: (1, S, *N)} in [0, 1] that make the bounds of a target's S clauses, of one row each, high."""


def ascent(target: Target, relaxation: Relaxation, budget: Budget) -> dict[int, Tensor]:
    """A `Search` by projected ascent."""
    free = initial(target, relaxation)
    return optimise(target, free, relaxation, SCHEDULE, stop=lambda: budget.expired).free.lines


def importance(network: Network, bounds: NodeBounds, form: Form) -> dict[int, Tensor]:
    """{v: (size,)}: what the relaxation of each neuron of node v may cost the rows of `form` together.

    `form` has the rows kept; bounds are a batch of one. The cost is the coefficient times the distance between
    the lines in the middle of the interval.
    """
    found: dict[int, Tensor] = {}
    for e, line in lines_of(network, bounds, tuple(form.kept)).items():
        v = network.graph.nodes[e].inputs[0]
        middle = ((bounds[v][0] + bounds[v][1]) / 2).unsqueeze(1)
        cost = flat(line.charged(form.kept[e].abs() * line.gap(middle)), 2).sum((0, 1))
        found[v] = found[v] + cost if v in found else cost
    return found


def foremost(network: Network, bounds: NodeBounds, scores: Mapping[int, Tensor], most: int) -> dict[int, Tensor]:
    """{v: (size,) mask}: the `most` unstable neurons of all nodes that have the highest scores."""
    masks = {v: flat(unstable(network.graph, v, bounds[v]), 1)[0] for v in scores}
    every = torch.cat([score[masks[v]] for v, score in scores.items()])
    if len(every) <= most:
        return masks
    least = every.topk(max(most, 1)).values[-1]
    return {v: mask & (scores[v] >= least) for v, mask in masks.items()}


@dataclass(eq=False)
class Sharpener:
    """A `Sharpen` for one region and the neurons in `chosen`, {v: (size,) mask}.

    `found` collects what it did, node after node, for the checker.
    """

    network: Network
    inputs: InputSet
    chosen: Mapping[int, Tensor]
    budget: Budget
    search: Search = ascent
    found: list[Sharpened] = field(default_factory=list)

    def __call__(self, v: int, interval: Interval, bounds: NodeBounds) -> Interval:
        if v not in self.chosen:
            return interval
        mask = flat(unstable(self.network.graph, v, interval), 1)[0] & self.chosen[v]
        part, kept = self.network.until(v)
        known = {k: bounds[i] for k, i in enumerate(kept) if i in bounds}
        relaxation = Relaxation(part, known)
        if not bool(mask.any()) or not relaxation.families:
            return interval
        size = sum(n.size for n in part.graph.nodes)
        lower, upper = (flat(b, 1).clone() for b in interval)
        for chunk in mask.nonzero().squeeze(1).split(max(1, CACHE // (2 * COPIES * 4 * size))):
            if self.budget.expired:
                break
            rows = _unit_rows(chunk, part)
            slopes = self._slopes(rows, part, known, relaxation)
            low = padded(self._bound(rows, part, known, slopes))
            below, above = low[: len(chunk)], -low[len(chunk) :]
            lower[0, chunk] = torch.maximum(lower[0, chunk], below)
            upper[0, chunk] = torch.minimum(upper[0, chunk], above)
            self.found.append(_evidence(v, chunk, {kept[e]: t for e, t in slopes.items()}))
        shape = interval[0].shape
        return lower.reshape(shape), upper.reshape(shape)

    def _slopes(self, rows: Rows, part: Network, known: NodeBounds, relaxation: Relaxation) -> dict[int, Tensor]:
        """Line parameters {e: (1, S, *N)}, whole numbers of 1 / LEVELS, that make the rows' bounds high."""
        found = self.search(Target(part, self.inputs, known, rows), relaxation, self.budget)
        return {e: (t * LEVELS).round() / LEVELS for e, t in found.items()}

    def _bound(self, rows: Rows, part: Network, known: NodeBounds, slopes: dict[int, Tensor]) -> Tensor:
        """The rows' bounds (S,) through these lines."""
        lines = lines_of(part, known, part.graph.nonlinear) | lines_of(part, known, slopes)
        last = len(part.graph.nodes) - 1
        start = rows.matrix.reshape(1, -1, *part.graph.nodes[last].shape)
        zero = rows.matrix.new_zeros(1, start.shape[1])
        return least(part, last, start, zero, lines, self.inputs)[0]


def _unit_rows(neurons: Tensor, part: Network) -> Rows:
    """Clauses of one row each: the values of these neurons of the last node, and then their opposites."""
    count = len(neurons)
    matrix = torch.zeros(2 * count, part.graph.output_size, dtype=part.dtype, device=neurons.device)
    number = torch.arange(count, device=neurons.device)
    matrix[number, neurons], matrix[number + count, neurons] = 1.0, -1.0
    offset = matrix.new_zeros(1, 2 * count, 1)
    return Rows(matrix.reshape(1, 2 * count, 1, -1), offset, torch.ones_like(offset, dtype=torch.bool))


def _evidence(v: int, neurons: Tensor, slopes: dict[int, Tensor]) -> Sharpened:
    count = len(neurons)
    return Sharpened(
        v,
        neurons.repeat(2).cpu().numpy(),
        torch.tensor([1, -1], dtype=torch.int8).repeat_interleave(count).numpy(),
        {e: (flat(t[0], 1) * LEVELS).round().to(torch.uint8).cpu().numpy() for e, t in slopes.items()},
    )
