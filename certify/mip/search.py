"""Branch and bound over neurons on linear programs: mixed-integer programming whose tree can be checked.

It splits as a solver for the big-M program of Tjeng, Xiao & Tedrake (2019) would, and bounds each domain by the
linear program over its relaxing lines. The multipliers of every program become a proof in certify's evidence, so that
nothing rests on the solver's word: what it returns are hints, from which bounds are computed anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from certify.bab.branch import split_point
from certify.bab.domains import Domains, Siblings
from certify.bab.engine import Array, Bounded, Cut, Problem
from certify.bab.neuron_split import NeuronSplit
from certify.bounds import optimise
from certify.bounds.base import NodeBounds, flat
from certify.bounds.intermediate import unstable
from certify.bounds.optimise import Free, Result, Target
from certify.bounds.relaxation import Relaxation
from certify.evidence import Sharpened
from certify.mip.balls import Ball
from certify.mip.columns import Columns
from certify.mip.relaxed import Held, Relaxed
from certify.solvers import highs
from certify.solvers.highs import Status

if TYPE_CHECKING:
    import highspy

AT_ONCE = 8
"""Domains of a batch: each is a program of its own."""

ROUNDS = 8
"""Solutions of one domain that are cut off because they lie outside an L2 ball."""

BASES = 4096
"""Bases that wait for their domains to be bounded."""


@dataclass(frozen=True, eq=False)
class _State:
    """Of N domains: their free values; the bent neurons' z, y and pull (N, P), and the distance of their lines at z;
    and the bases from which their children may start."""

    result: Result
    z: Array
    y: Array
    pull: Array
    distance: Array
    bases: list[highspy.HighsBasis | None]


class LpSplit(NeuronSplit):
    """As NeuronSplit, in float64 and with bounds from linear programs, which are the best that its proofs can reach.

    An L2 ball is read by the programs as half-spaces around it, of which more are added where solutions lie outside.
    """

    def __init__(self, problem: Problem, bounds: NodeBounds, sharpened: tuple[Sharpened, ...] = ()) -> None:
        exact = {v: (lower.double(), upper.double()) for v, (lower, upper) in bounds.items()}
        super().__init__(replace(problem, network=problem.wide, inputs=problem.whole), exact, sharpened)
        self.columns = Columns(self.network, exact, self.problem.inputs)
        self.relaxed = Relaxed(self.columns, self._ball())
        self.objectives = [self.columns.objective(clause) for clause in problem.clauses]
        self.place = self._places()
        self._bases: OrderedDict[tuple[int, int], highspy.HighsBasis] = OrderedDict()

    def _ball(self) -> Ball | None:
        inputs = self.problem.inputs
        if inputs.norm is None:
            return None
        return Ball(self.columns, inputs.norm, inputs.center[0].cpu().numpy(), float(inputs.radius[0]))

    def _places(self) -> Array:
        """(Q,): which of the bent neurons each neuron is that can be split."""
        found, first = [np.zeros(0, np.int64)], 0
        for bent in self.columns.bent:
            spots = self.neurons.spots[bent.node].cpu().numpy()
            found.append(first + np.searchsorted(bent.index, spots))
            first += len(bent.index)
        return np.concatenate(found)

    def width(self) -> int:
        return AT_ONCE

    def bound(self, domains: Domains) -> Bounded:
        target, relaxation, free = self._target(domains)
        target = self._cut_inputs(target)
        count, bent = len(domains), len(self.relaxed.y)
        state = _State(
            Result(domains.lower, free, ()), *(np.zeros((count, bent)) for _ in range(4)), bases=[None] * count
        )
        points = []
        for i in range(count):
            if self.problem.budget.expired:
                break
            point = self._solve(i, domains, target.select(torch.tensor([i])), state)
            points += [] if point is None else [point]
        value, form = optimise.bound(target, free, relaxation.lines(free.lines))
        lower = value.squeeze(1).nan_to_num(nan=-torch.inf)
        own = target.inputs.minimiser(form.input).squeeze(1)
        found = torch.from_numpy(np.array(points).reshape(-1, own.shape[1])).to(own.device)
        if target.inputs.norm is not None:
            found = self.problem.inputs.select(torch.zeros(len(found), dtype=torch.long)).project(found)
        return Bounded(torch.maximum(lower, domains.lower), lower > 0, torch.cat([found, own]), state)

    def _cut_inputs(self, target: Target) -> Target:
        """The target with its splits of the input node, too, made to cut the box."""
        if 0 not in target.splits.nodes():
            return target
        lower, upper = (flat(b, 1) for b in target.bounds[0])
        inputs = target.inputs
        within = inputs.within(torch.maximum(lower, inputs.lower), torch.minimum(upper, inputs.upper))
        return replace(target, inputs=within)

    def _solve(self, i: int, domains: Domains, target: Target, state: _State) -> Array | None:
        """Solve the program of domain i, alone in `target`; keep what its solution says in `state`, and return the
        input (d,) that it found."""
        relaxed, free, budget = self.relaxed, state.result.free, self.problem.budget
        held, lined = self._held(target), relaxed.lined(self.network, target.bounds)
        objective = self.objectives[int(domains.tree[i])]
        basis = self._bases.pop((int(domains.tree[i]), int(domains.row[i])), None)
        for _ in range(ROUNDS):
            program = relaxed.program(lined, held, target.inputs, objective)
            if not highs.manageable(program):
                return None  # the domain is bounded as its parent was, and split
            found = highs.solve(program, budget.remaining, basis, lambda: budget.expired)
            if found.status is Status.MEMORY:
                raise MemoryError("in HiGHS")
            basis = found.basis
            open_ = found.x is not None and found.x[relaxed.level] <= 0 and not budget.expired
            if not (open_ and relaxed.cut(self.columns.input_at(found.x))):
                break
        state.bases[i] = found.basis
        low, up = (lined.slope[k] * 0.0 + lined.shift[k] for k in (0, 1))
        state.distance[i] = up - low
        if found.multipliers is None or not np.isfinite(found.multipliers).all():
            return None
        start = {e: t[i : i + 1] for e, t in free.lines.items()}
        for e, t in relaxed.parameters(found.multipliers, lined, start).items():
            free.lines[e][i] = t[0]
        state.pull[i] = relaxed.pull(found.multipliers)
        rows = len(objective.constant)
        weights, multipliers = (
            relaxed.weights(found.multipliers, rows),
            relaxed.of_splits(found.multipliers, program, held),
        )
        if found.status is Status.INFEASIBLE:
            weights, multipliers = self._contradiction(target, free.select(torch.tensor([i])), multipliers)
        total = weights.sum()
        if not (np.isfinite(total) and total > 0 and np.isfinite(multipliers).all()):
            return None
        free.weights[i, 0, : len(weights)] = torch.from_numpy(weights / total)
        free.multipliers[i, 0] = torch.from_numpy(multipliers / total)
        if found.x is None:
            return None
        state.z[i], state.y[i] = found.x[relaxed.z], found.x[relaxed.y]
        low, up = (lined.slope[k] * state.z[i] + lined.shift[k] for k in (0, 1))
        state.distance[i] = up - low
        return self.columns.input_at(found.x)

    def _held(self, target: Target) -> Held:
        """The domain's splits of neurons."""
        splits = target.splits
        node, index, point, sign = (t[0].cpu().numpy() for t in (splits.node, splits.index, splits.point, splits.sign))
        column, sign = np.full(len(sign), -1), np.where(node == 0, 0.0, sign)
        for v in np.unique(node[sign != 0]):
            mine = (node == v) & (sign != 0)
            column[mine] = self.columns.read[int(v)][index[mine]]
        return Held(column, point, np.where(column < 0, 0.0, sign))

    def _contradiction(self, target: Target, free: Free, multipliers: Array) -> tuple[Array, Array]:
        """Weights and multipliers for splits that contradict one another, as these multipliers show: any row will
        do, if they count enough."""
        lines = Relaxation(self.network, target.bounds).lines(free.lines)
        first = np.zeros(free.weights.shape[2])
        first[0] = 1.0

        def least(weights: Array, multipliers: Array) -> float:
            tried = Free(free.lines, *(torch.from_numpy(a).reshape(1, 1, -1) for a in (weights, multipliers)))
            return float(optimise.bound(target, tried, lines)[0])

        impossible, row = least(0 * first, multipliers), least(first, 0 * multipliers)
        factor = 1.0 + 2.0 * abs(row) / impossible if impossible > 0 else np.nan
        return first[: self.depth], factor * multipliers

    def cut(self, domains: Domains, bounded: Bounded, which: Tensor) -> Cut:
        """The neuron whose lines cost the bound most where the program is optimal, as BaBSR (Bunel et al. 2020)."""
        state: _State = bounded.state
        bounds = domains.start.splits.restrict(self.bounds, len(domains))
        graph, neurons = self.network.graph, self.neurons
        open_, points, made = {}, {}, {}
        for e in neurons.spots:
            v = graph.nodes[e].inputs[0]
            lower, upper = (b.expand(len(domains), *b.shape[1:]) for b in bounds[v])
            z = self._spread(e, state.z).reshape(lower.shape)
            open_[e] = unstable(graph, v, (lower, upper))
            points[e] = split_point(graph.nodes[e].op, z, lower, upper)
            made[e] = self.network.functions[e](z)
        gap = (neurons.gather(made).cpu() - torch.from_numpy(state.y[:, self.place])).abs()
        pull, distance = (torch.from_numpy(np.abs(a[:, self.place])) for a in (state.pull, state.distance))
        score = (pull * (gap + 0.1 * distance) + 1e-9 * distance).nan_to_num(nan=0.0)
        score = score.masked_fill(~neurons.gather(open_).cpu(), -torch.inf)[which.cpu()]
        if not score.shape[1]:
            nothing = torch.zeros(len(which), dtype=torch.long)
            return Cut(nothing, nothing, torch.zeros(len(which)).double(), nothing.bool())
        best, neuron = score.max(1)
        reads = torch.tensor([n.inputs[0] if n.inputs else 0 for n in graph.nodes])
        chosen = neurons.gather(points)[which].gather(1, neuron.unsqueeze(1)).squeeze(1)
        return Cut(reads[neurons.reader[neuron]], neurons.index[neuron], chosen, best > -torch.inf)

    def _spread(self, e: int, values: Array) -> Tensor:
        """(N, size): the values (N, P) of bent neurons at those of node e, 0 elsewhere."""
        first = 0
        for bent in self.columns.bent:
            if bent.node == e:
                full = np.zeros((len(values), self.network.graph.nodes[e].size))
                full[:, bent.index] = values[:, first : first + len(bent.index)]
                return torch.from_numpy(full)
            first += len(bent.index)
        raise KeyError(e)

    def children(
        self, domains: Domains, bounded: Bounded, which: Tensor, cut: Cut, rows: tuple[Array, Array]
    ) -> Siblings:
        for at, tree, *both in zip(which.tolist(), domains.tree[which].tolist(), *rows, strict=True):
            basis = bounded.state.bases[at]
            if basis is not None:
                self._bases.update({(tree, int(row)): basis for row in both})
        while len(self._bases) > BASES:
            self._bases.popitem(last=False)
        return super().children(domains, bounded, which, cut, rows)
