"""Branch and bound over neurons, with multipliers for the splits: beta-CROWN (Wang et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bab.branch import Neurons, choose
from certify.bab.domains import Domains, Siblings, Start
from certify.bab.engine import Array, Bounded, Cut, Problem, Proofs, tensor
from certify.bab.leaf import Leaf, finish
from certify.bounds.base import NodeBounds, flat
from certify.bounds.linear import Splits, no_splits
from certify.bounds.optimise import Free, Result, Schedule, Target, optimise
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import rows_of
from certify.evidence import LEVELS, Sharpened
from certify.spec.inputset import InputSet

SCHEDULE = Schedule(steps=20, lines=0.15, multipliers=0.3, weights=0.2, decay=0.9, trial=3)
"""Few steps, where more would not close the domain: its children go on from where they ended."""

AT_ROOT = Schedule(steps=50, lines=0.25, multipliers=0.3, weights=0.2, decay=0.96)


@dataclass(frozen=True, eq=False)
class _State:
    target: Target
    result: Result


class NeuronSplit:
    """Keeps the root's intermediate bounds, cuts them by each domain's splits, and optimises line
    parameters, row weights and multipliers, starting from the parent's. One tree per clause.

    `bounds` are those of the root, and `sharpened` how they were found if not by adaptive lines alone. They
    should be `apart` enough that a neuron that is stable here is so for the checker, too.
    """

    def __init__(
        self,
        problem: Problem,
        bounds: NodeBounds,
        sharpened: tuple[Sharpened, ...] = (),
        schedule: Schedule = SCHEDULE,
    ) -> None:
        self.problem = problem
        self.network = problem.network
        memory = problem.budget.memory
        self.bounds, self.sharpened = bounds, sharpened
        self.schedule = schedule
        rows = rows_of(problem.clauses, self.network)
        self.rows = type(rows)(*(t.transpose(0, 1) for t in (rows.matrix, rows.offset, rows.used)))
        self.trees = tuple((c,) for c in problem.numbers)
        self.depth = rows.offset.shape[2]
        self.neurons = Neurons(self.network.graph, self.bounds)
        self.sloped = self.neurons.parameters()
        total = sum(n.size for n in self.network.graph.nodes)
        self._widest = int(max(1, min(1024, memory / (40 * total * 4))))

    def root(self) -> Domains:
        count = len(self.trees)
        device, dtype = self.network.device, self.network.dtype
        lower = torch.full((count,), -torch.inf, dtype=dtype, device=device)
        used = self.rows.used[:, 0].to(dtype)
        parameters = _bytes(self.neurons.pack(Relaxation(self.network, self.bounds).initial())).expand(count, -1)
        start = Start(no_splits(lower), lower.new_zeros(count, 0), used / used.sum(1, keepdim=True), parameters)
        tree = torch.arange(count, device=device)
        return Domains(tree, torch.zeros_like(tree), lower, start=start)

    def width(self) -> int:
        return self._widest

    def inputs(self, count: int) -> InputSet:
        """The whole region, `count` times."""
        return self.problem.inputs.select(torch.zeros(count, dtype=torch.long, device=self.network.device))

    def _target(self, domains: Domains) -> tuple[Target, Relaxation, Free]:
        start, count = domains.start, len(domains)
        bounds = start.splits.restrict(self.bounds, count)
        target = Target(self.network, self.inputs(count), bounds, self.rows.select(domains.tree), start.splits)
        lines = self.neurons.unpack(start.parameters.to(self.network.dtype) / LEVELS)
        free = Free(
            {e: t.unsqueeze(1) for e, t in lines.items()},
            start.weights.unsqueeze(1).clone(),
            start.multipliers.unsqueeze(1).clone(),
        )
        return target, Relaxation(self.network, bounds), free

    def bound(self, domains: Domains) -> Bounded:
        target, relaxation, free = self._target(domains)
        at_root = not domains.start.splits.node.shape[1]
        result = optimise(
            target, free, relaxation, AT_ROOT if at_root else self.schedule, stop=lambda: self.problem.budget.expired
        )
        lower = result.lower.squeeze(1)
        points = [target.inputs.select(p.index).minimiser(p.form.input).squeeze(1) for p in result.parts]
        return Bounded(torch.maximum(lower, domains.lower), lower > 0, torch.cat(points), _State(target, result))

    def prove(self, domains: Domains, bounded: Bounded, which: Tensor) -> Proofs:
        state: _State = bounded.state
        free = state.result.free
        splits = domains.start.splits.select(which)
        multipliers = free.multipliers[which, 0].double().cpu().numpy()
        lines = self.neurons.pack({e: t[which] for e, t in free.lines.items()}).expand(len(which), -1)
        used = ((splits.sign != 0) & (splits.node != 0)).cpu().numpy()  # a split of node 0 cuts the input box
        return Proofs(
            owner=np.arange(len(which)),
            clause=np.array(self.problem.numbers, np.int32)[domains.tree[which].cpu().numpy()],
            weights=free.weights[which, 0].double().cpu().numpy(),
            slopes=_bytes(lines).cpu().numpy(),
            multipliers=multipliers[used],
            offsets=np.append(0, np.cumsum(used.sum(1))),
        )

    def cut(self, domains: Domains, bounded: Bounded, which: Tensor) -> Cut:
        state: _State = bounded.state
        return choose(self, domains, state.target, state.result, which)

    def children(
        self, domains: Domains, bounded: Bounded, which: Tensor, cut: Cut, rows: tuple[Array, Array]
    ) -> Siblings:
        free = bounded.state.result.free
        start = Start(
            domains.start.splits.select(which),
            free.multipliers[which, 0],
            free.weights[which, 0],
            _bytes(self.neurons.pack({e: t[which] for e, t in free.lines.items()})).expand(len(which), -1),
        )
        tree, row, lower = domains.tree[which], domains.row[which], bounded.lower[which]
        parents = Domains(tree, row, lower, start=start.packed())
        return Siblings(parents, cut.node, cut.index, cut.point, tensor(np.stack(rows, 1).astype(np.int64), cut.node))

    def finish(self, domains: Domains, bounded: Bounded, which: Tensor) -> tuple[Proofs, Tensor]:
        return finish(self.problem, self._leaves(domains.select(which)), self.depth, len(self.sloped[0]))

    def _leaves(self, domains: Domains) -> Iterator[Leaf]:
        for i, tree in enumerate(domains.tree.tolist()):
            own = domains.start.splits.select(slice(i, i + 1))
            splits = Splits(own.node, own.index, own.point.double(), own.sign.double())
            exact = {v: (lower.double(), upper.double()) for v, (lower, upper) in self.bounds.items()}
            bounds, inputs = splits.restrict(exact, 1), self.problem.whole
            if 0 in bounds:  # splits of the input have cut it
                lower, upper = (flat(b, 1) for b in bounds[0])
                inputs = inputs.within(torch.maximum(lower, inputs.lower), torch.minimum(upper, inputs.upper))
            neurons = splits.only(((own.sign != 0) & (own.node != 0))[0])
            yield Leaf(inputs, bounds, neurons, (tree,))


def _bytes(parameters: Tensor) -> Tensor:
    """Line parameters in [0, 1] as evidence names them."""
    return (parameters * LEVELS).round().to(torch.uint8)
