"""Which neuron to split: a shortlist by the relaxation's gap, then a look-ahead among it.

The gap of a neuron is what its line costs the bound at the minimiser: coefficient times (function minus
line). For ReLU it ranks as BaBSR (Bunel et al. 2020) does, and it is defined for every operator. The
look-ahead bounds both children of each shortlisted neuron once, without optimising, as FSB (De Palma et
al. 2021), and takes the neuron whose worse child is best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from certify.bab.domains import Domains
from certify.bab.engine import Array, Cut
from certify.bab.points import split_point
from certify.bounds.base import NodeBounds, flat
from certify.bounds.intermediate import unstable
from certify.bounds.optimise import Free, Part, Result, Target, bound, primal
from certify.bounds.relaxation import Relaxation
from certify.graph import ops
from certify.graph.ir import Graph
from certify.relax.elementwise import has_parameter

if TYPE_CHECKING:
    from certify.bab.neuron_split import NeuronSplit

SHORTLIST = 3


class Neurons:
    """The neurons that are not stable at the root, numbered 0..Q-1 across all nonlinear nodes: entries of what these
    read. Their parameters, numbered 0..P-1, belong to the same entries, and for products to each of them."""

    def __init__(self, graph: Graph, bounds: NodeBounds) -> None:
        self.graph = graph
        self.spots: dict[int, Tensor] = {}
        for e in graph.nonlinear:
            v = graph.nodes[e].inputs[0]
            mask = unstable(graph, v, bounds[v])[0].flatten()
            self.spots[e] = mask.nonzero().squeeze(1)
        none = torch.zeros(0, dtype=torch.long)
        self.free = {
            e: torch.arange(graph.nodes[e].size, device=s.device) if isinstance(graph.nodes[e].op, ops.Product) else s
            for e, s in self.spots.items()
            if has_parameter(graph.nodes[e].op)
        }
        self.reader = torch.cat([torch.full_like(s, e) for e, s in self.spots.items()] or [none])
        self.index = torch.cat(list(self.spots.values()) or [none])

    def pack(self, parameters: dict[int, Tensor]) -> Tensor:
        """Line parameters {e: (B, 1, *N)} that matter, (B, P)."""
        parts = [flat(parameters[e], 1)[:, spots] for e, spots in self.free.items()]
        return torch.cat(parts, 1) if parts else torch.zeros(1, 0, device=self.index.device)

    def parameters(self) -> tuple[Array, Array]:
        """Node and neuron of each of the P parameters that `pack` gives."""
        spots = [s.cpu().numpy() for s in self.free.values()]
        node = np.repeat(np.array([*self.free], np.int32), [len(s) for s in spots])
        return node, np.concatenate([np.zeros(0, np.int64), *spots])

    def unpack(self, packed: Tensor) -> dict[int, Tensor]:
        """{e: (B, *N)} from (B, P); stable neurons get 0, which changes nothing."""
        found, first = {}, 0
        for e, spots in self.free.items():
            shape = self.graph.nodes[e].shape
            full = packed.new_zeros(len(packed), self.graph.nodes[e].size)
            full[:, spots] = packed[:, first : first + len(spots)]
            found[e] = full.reshape(len(packed), *shape)
            first += len(spots)
        return found

    def gather(self, values: dict[int, Tensor]) -> Tensor:
        """{e: (B, *N)} -> (B, Q)."""
        return torch.cat([flat(values[e], 1)[:, s] for e, s in self.spots.items()], 1)


def choose(engine: NeuronSplit, domains: Domains, target: Target, result: Result, which: Tensor) -> Cut:
    """The split for each of the domains `which` (all positions in `domains`)."""
    neurons, graph = engine.neurons, engine.network.graph
    scores = domains.lower.new_full((len(domains), len(neurons.index)), -torch.inf)
    places = [torch.zeros_like(scores) for _ in range(3)]
    wanted = torch.zeros(len(domains), dtype=torch.bool, device=which.device)
    wanted[which] = True
    for part in result.parts:
        own = part.select(wanted[part.index].nonzero().squeeze(1))
        if len(own.index):
            scores[own.index], *found = _scores(engine, target.select(own.index), own)
            for place, values in zip(places, found, strict=True):
                place[own.index] = values
    scores = scores[which]
    listed = min(SHORTLIST, scores.shape[1])
    if not listed:
        nothing = torch.zeros(len(which), dtype=torch.long, device=which.device)
        return Cut(nothing, nothing, scores.new_zeros(len(which)), torch.zeros_like(nothing, dtype=torch.bool))
    best, at_neuron = scores.topk(listed, 1)
    points = _points(neurons, at_neuron, *(place[which].gather(1, at_neuron) for place in places))
    picked = _look_ahead(engine, domains.select(which), result.free.select(which), best, at_neuron, points)
    neuron = at_neuron.gather(1, picked.unsqueeze(1)).squeeze(1)
    reads = torch.tensor([n.inputs[0] if n.inputs else 0 for n in graph.nodes], device=which.device)
    chosen = points.gather(1, picked.unsqueeze(1)).squeeze(1)
    return Cut(reads[neurons.reader[neuron]], neurons.index[neuron], chosen, best[:, 0] > -torch.inf)


def _points(neurons: Neurons, neuron: Tensor, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Where to split the shortlisted neurons (M, K), given their values at the minimiser and their bounds."""
    points = torch.zeros_like(z)
    reader = neurons.reader[neuron]
    for e in torch.unique(reader).tolist():
        here = reader == e
        points[here] = split_point(neurons.graph.nodes[e].op, z[here], lower[here], upper[here])
    return points


def _scores(engine: NeuronSplit, target: Target, part: Part) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For the domains of a part, whose target this is, the score of each neuron, -inf if it is stable, its value at the
    minimiser, and its bounds: (B, Q) each."""
    neurons, graph, network = engine.neurons, engine.network.graph, engine.network
    at = primal(target, part.form, part.lines)
    count = len(part.index)
    score, free, bounds = {}, {}, {}
    for e in neurons.spots:
        v = graph.nodes[e].inputs[0]
        z, made = at.read[e].squeeze(1), at.made[e].squeeze(1)
        a = part.form.kept[e].squeeze(1) if e in part.form.kept else torch.zeros_like(made)
        lower, upper = (b.expand(count, *b.shape[1:]) for b in target.bounds[v])
        free[e] = unstable(graph, v, (lower, upper))
        line = part.lines[e]
        # the gap at the minimiser, and a share of the whole lines' distance, for where the gap is nil
        distance = line.gap(z.unsqueeze(1)).squeeze(1).abs()
        cost = a * (network.functions[e](z) - made) + 0.1 * a.abs() * distance
        score[e] = line.charged(cost.unsqueeze(1)).squeeze(1)
        bounds[e] = lower, upper
    ends = (neurons.gather({e: b[side] for e, b in bounds.items()}) for side in (0, 1))
    read = neurons.gather({e: at.read[e].squeeze(1) for e in bounds})
    return neurons.gather(score).masked_fill(~neurons.gather(free), -torch.inf), read, *ends


def _look_ahead(
    engine: NeuronSplit, domains: Domains, free: Free, best: Tensor, neuron: Tensor, points: Tensor
) -> Tensor:
    """(M,) which of the shortlisted neurons (M, K) to take: the best worse child, bounded once."""
    count, listed = neuron.shape
    if listed == 1:
        return torch.zeros(count, dtype=torch.long, device=neuron.device)
    neurons, graph = engine.neurons, engine.network.graph
    reads = torch.tensor([n.inputs[0] if n.inputs else 0 for n in graph.nodes], device=neuron.device)
    every = neuron.flatten()
    copies = torch.arange(count, device=neuron.device).repeat_interleave(listed)
    cut = Cut(
        reads[neurons.reader[every]],
        neurons.index[every],
        points.flatten(),
        torch.ones_like(every, dtype=torch.bool),
    )
    value = []
    for sign in (-1.0, 1.0):
        splits = domains.start.splits.select(copies).extended(
            cut.node, cut.index, cut.point, torch.full_like(cut.point, sign)
        )
        bounds = splits.restrict(engine.bounds, len(copies))
        target = Target(
            engine.network, engine.inputs(len(copies)), bounds, engine.rows.select(domains.tree[copies]), splits
        )
        copied = free.select(copies)
        padded = torch.nn.functional.pad(copied.multipliers, (0, 1))
        relaxation = Relaxation(engine.network, bounds)
        lower, _ = bound(target, Free(copied.lines, copied.weights, padded), relaxation.lines(copied.lines))
        value.append(lower.squeeze(1).reshape(count, listed))
    worse, better = torch.minimum(*value), torch.maximum(*value)
    merit = worse + 1e-2 * better.clamp_max(0)
    return merit.masked_fill(best == -torch.inf, -torch.inf).argmax(1)
