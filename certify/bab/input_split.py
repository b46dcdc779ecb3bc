"""Branch and bound over input boxes, for networks of few inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from certify.bab.branch import Neurons
from certify.bab.domains import Domains
from certify.bab.engine import Array, Bounded, Cut, Problem, Proofs, tensor
from certify.bab.leaf import Leaf, finish
from certify.bounds import chain
from certify.bounds.base import NodeBounds
from certify.bounds.intermediate import intermediate
from certify.bounds.linear import Form, lines_of, no_splits, propagate
from certify.bounds.optimise import Free, Schedule, Target, bound, initial, optimise
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import rows_of
from certify.bounds.weights import combine
from certify.bounds.zonotope import affine_forms
from certify.evidence import Sharpened, in_bytes
from certify.spec.inputset import InputSet

SCHEDULE = Schedule(steps=8, lines=0.4, weights=0.2, decay=0.9, trial=2)
"""A few steps close most of the boxes that adaptive lines barely leave open, for a fraction of what cutting costs."""

SURPLUS = 0.01
"""What a bound above 0 counts in a look-ahead, beside one below: enough to tell apart cuts that close both halves."""


@dataclass(frozen=True, eq=False)
class _State:
    """N bounded boxes: `lower` (N, S) are the least values of `form`, which `free` makes of the target's rows."""

    target: Target
    free: Free
    lower: Tensor
    form: Form

    def select(self, index: Tensor) -> _State:
        return _State(self.target.select(index), self.free.select(index), self.lower[index], self.form.select(index))

    def owned(self) -> _State:
        """The same, each box with numbers of its own, which `take` may change."""
        form = replace(self.form, input=self.form.input.contiguous(), constant=self.form.constant.contiguous())
        return replace(self, lower=self.lower.contiguous(), form=form)

    def take(self, which: Tensor, better: Tensor, other: _State) -> None:
        """Put `other`, of the boxes `which`, in the place of what is known where it is `better` (n, S)."""
        pairs = (
            (self.lower, other.lower),
            (self.form.input, other.form.input),
            (self.form.constant, other.form.constant),
            *zip(self.free.tensors(), other.free.tensors(), strict=True),
        )
        for mine, new in pairs:
            where = better.reshape(*better.shape, *[1] * (new.dim() - 2))
            mine[which] = torch.where(where, new, mine[which])


class InputSplit:
    """Bounds boxes, all intermediate values anew for each through adaptive lines; then rows and lines of what is open
    are optimised. One tree serves all clauses.

    `refined` are the nodes whose bounds go beyond affine forms of the inputs; none make boxes cheap, and many.
    """

    sharpened: tuple[Sharpened, ...] = ()

    def __init__(self, problem: Problem, refined: tuple[int, ...], widest: int = 512) -> None:
        self.problem, self.refined = problem, refined
        self.network = problem.network
        self.rows = rows_of(problem.clauses, self.network)
        self.trees = (problem.numbers,)
        self.depth = self.rows.offset.shape[2]
        self.memory = memory = problem.budget.memory
        self.compiled = chain.covers(self.network, problem.inputs)
        # A box of many neurons is dear to bound. Some that affine forms leave unstable are not: no harm.
        root = self._intermediate(problem.inputs) if self.compiled else affine_forms(self.network, problem.inputs)
        self.neurons = Neurons(self.network.graph, root)
        self.sloped = self.neurons.parameters()
        neurons = sum(n.size for n in self.network.graph.nodes)
        self._widest = int(max(1, min(widest, memory / ((64 + 16 * len(problem.clauses)) * neurons * 4))))
        self._taken = 1

    def root(self) -> Domains:
        zero = torch.zeros(1, dtype=torch.long, device=self.network.device)
        return Domains(zero, zero.clone(), self.problem.inputs.lower.new_full((1,), -torch.inf), self.problem.inputs)

    def width(self) -> int:
        self._taken = min(self._widest, 4 * self._taken)
        return self._taken

    def _intermediate(self, inputs: InputSet) -> NodeBounds:
        """Affine forms first, as a filter, where what follows is dear."""
        forms = None if self.compiled else affine_forms(self.network, inputs)
        return intermediate(self.network, inputs, refine=self.refined, within=forms, budget=self.problem.budget)

    def bound(self, domains: Domains) -> Bounded:
        inputs = domains.inputs
        target = Target(self.network, inputs, self._intermediate(inputs), self.rows)
        relaxation = Relaxation(self.network, target.bounds)
        free = initial(target, relaxation)
        if self.depth > 1:
            free.weights.copy_(self._weights(target))
        state = _State(target, free, *bound(target, free, relaxation.lines(free.lines))).owned()
        empty = self._misses(inputs)
        if self.refined:  # else another cut is cheaper than a step
            self._optimise(state, ((state.lower <= 0).any(1) & ~empty).nonzero().squeeze(1))
        worst, weakest = state.lower.min(1)
        return Bounded(worst, (worst > 0) | empty, self._points(state, weakest), state)

    def _misses(self, inputs: InputSet) -> Tensor:
        """(N,): which boxes lie apart from the ball: asked in float64, since between the ball and what float32 sees as
        apart from it they could only be cut."""
        if inputs.norm is None:
            return inputs.misses()
        every = torch.zeros(len(inputs), dtype=torch.long, device=inputs.lower.device)
        return self.problem.whole.select(every).within(inputs.lower.double(), inputs.upper.double()).misses()

    def _optimise(self, state: _State, which: Tensor) -> None:
        """Raise the bounds of the open clauses of the boxes `which`, in place."""
        if not len(which) or not self.network.graph.nonlinear:
            return
        target = state.target.select(which)
        relaxation = Relaxation(self.network, target.bounds)
        stop = self.problem.budget
        found = optimise(target, state.free.select(which), relaxation, SCHEDULE, stop=lambda: stop.expired)
        reached, form = bound(target, found.free, relaxation.lines(found.free.lines))
        better = (state.lower[which] <= 0) & (reached > state.lower[which])
        state.take(which, better, _State(target, found.free, reached, form))

    def _weights(self, target: Target) -> Tensor:
        """Weights (N, S, R) of the clauses' rows, by the rows' own linear forms."""
        network, rows = self.network, self.rows
        _, clauses, depth, width = rows.matrix.shape
        n, last = network.graph.output_size, len(network.graph.nodes) - 1
        flat = rows.matrix.reshape(1, clauses * depth, width)
        start = {last: flat[..., :n].reshape(1, clauses * depth, *network.graph.nodes[last].shape)}
        lines = lines_of(network, target.bounds, network.graph.nonlinear)
        form = propagate(network, start, -rows.offset.reshape(1, -1), lines)
        count = len(target.inputs)
        constants = form.constant.expand(count, -1).reshape(count, clauses, depth)
        coefficients = form.input + flat[..., n:] if width > n else form.input
        coefficients = coefficients.expand(count, -1, -1).reshape(*constants.shape, -1)
        return combine(target.inputs, coefficients, constants, rows.used)[1]

    def _points(self, state: _State, clause: Tensor) -> Tensor:
        """Where each domain's weakest clause may be unsafe: where its form is least; and the middle."""
        inputs, here = state.target.inputs, torch.arange(len(clause), device=clause.device)
        least = inputs.minimiser(state.form.input[here, clause].unsqueeze(1))
        points = torch.cat([least, inputs.start().unsqueeze(1)], 1)
        flat = points.flatten(0, 1)
        if inputs.norm is None:
            return flat
        return inputs.select(here.repeat_interleave(points.shape[1])).project(flat)  # a corner may lie off the ball

    def prove(self, domains: Domains, bounded: Bounded, which: Tensor) -> Proofs:
        free: Free = bounded.state.free.select(which)
        count, clauses, depth = free.weights.shape
        slopes = self.neurons.pack({e: t.flatten(0, 1).unsqueeze(1) for e, t in free.lines.items()})
        return Proofs(
            owner=np.repeat(np.arange(count), clauses),
            clause=np.tile(np.array(self.problem.numbers, np.int32), count),
            weights=free.weights.reshape(-1, depth).double().cpu().numpy(),
            slopes=in_bytes(slopes.expand(count * clauses, -1).cpu().numpy()),
            multipliers=np.zeros(0),
            offsets=np.zeros(count * clauses + 1, np.int64),
        )

    def cut(self, domains: Domains, bounded: Bounded, which: Tensor) -> Cut:
        """Where bounding a box costs little, a look-ahead says which input to cut. Elsewhere it is less exact, and
        asked for half of the domains only, by a hash of their number; the others are cut where their form says."""
        state: _State = bounded.state.select(which)
        inputs = state.target.inputs
        middle = (inputs.lower + inputs.upper) / 2
        splittable = (middle > inputs.lower) & (middle < inputs.upper)
        score = self._steepest(state)
        if self.refined:  # else a look ahead would cost as much as the children themselves
            look = (state.lower <= 0).any(1)
            if not self.compiled:
                look &= (domains.row[which] * 2654435761 >> 13) % 2 == 1
            look = look.nonzero().squeeze(1)
            score[look] = self._look_ahead(state.select(look), middle[look])
        axis = torch.where(splittable, score, -torch.inf).argmax(1)
        point = middle.gather(1, axis.unsqueeze(1)).squeeze(1)
        possible = splittable.any(1)
        if not self.network.graph.nonlinear and inputs.norm is None:
            possible = torch.zeros_like(possible)  # one linear program decides an affine network over a box
        return Cut(torch.zeros_like(axis), axis, point, possible)

    @staticmethod
    def _steepest(state: _State) -> Tensor:
        """(N, d): how much each input moves the open clauses' forms over its width; all clauses' forms where the
        checker was not content with what closed them."""
        inputs, proved = state.target.inputs, state.lower > 0
        open_ = (~proved | proved.all(1, keepdim=True)).unsqueeze(-1)
        return (state.form.input.abs().clamp_min(1e-2) * open_).sum(1) * (inputs.upper - inputs.lower)

    def _look_ahead(self, state: _State, middle: Tensor) -> Tensor:
        """(N, d): the bounds of the two children that halving each input would give, summed over children
        and open clauses."""
        inputs = state.target.inputs
        clauses, d = state.lower.shape[1], middle.shape[1]
        varying = (inputs.upper > inputs.lower).any(0).nonzero().squeeze(1)
        score = torch.full_like(middle, -torch.inf)
        if not len(varying):
            return score
        widest = max(n.size for n in self.network.graph.nodes)
        chunk = max(1, self.memory // (64 * len(varying) * (d + 2 + clauses) * widest))
        for part in torch.arange(len(middle), device=middle.device).split(chunk):
            score[part.unsqueeze(1), varying] = self._halved(state.select(part), middle[part], varying)
        return score

    def _halved(self, state: _State, middle: Tensor, varying: Tensor) -> Tensor:
        """(N, k) as `_look_ahead`, for the k inputs `varying`, all children at once.

        The children keep their parent's lines and weights: only then is what they gain due to the cut. Lines made
        anew jump at random, and inputs that matter no more would win again and again.
        """
        inputs, (count, k) = state.target.inputs, (len(middle), len(varying))
        lower = inputs.lower.unsqueeze(1).repeat(1, 2 * k, 1)
        upper = inputs.upper.unsqueeze(1).repeat(1, 2 * k, 1)
        each = torch.arange(k, device=middle.device)
        upper[:, each, varying] = middle[:, varying]
        lower[:, k + each, varying] = middle[:, varying]
        parents = state.select(torch.arange(count, device=middle.device).repeat_interleave(2 * k))
        children = parents.target.inputs.within(lower.flatten(0, 1), upper.flatten(0, 1))
        if self.compiled:
            bounds = intermediate(self.network, children, refine=self.refined, budget=self.problem.budget)
        else:
            bounds = affine_forms(self.network, children, parents.target.bounds)
        lines = Relaxation(self.network, bounds).lines(parents.free.lines)
        value, _ = bound(Target(self.network, children, bounds, self.rows), parents.free, lines)
        value = torch.maximum(value, parents.form.minimum(children))  # which holds for the children, too
        gain = value.clamp_max(0) + SURPLUS * value.clamp_min(0)
        return (gain * (parents.lower <= 0)).sum(1).reshape(count, 2, k).sum(1)

    def children(
        self, domains: Domains, bounded: Bounded, which: Tensor, cut: Cut, rows: tuple[Array, Array]
    ) -> Domains:
        parents = domains.select(which)
        lower, upper = parents.inputs.lower, parents.inputs.upper
        axis, point = cut.index.unsqueeze(1), cut.point.unsqueeze(1)
        twice = torch.arange(len(which), device=axis.device).repeat(2)
        inputs = parents.inputs.select(twice).within(
            torch.cat([lower, lower.scatter(1, axis, point)]), torch.cat([upper.scatter(1, axis, point), upper])
        )
        row = tensor(np.concatenate(rows).astype(np.int64), axis)
        return Domains(parents.tree.repeat(2), row, bounded.lower[which].repeat(2), inputs)

    def finish(self, domains: Domains, bounded: Bounded, which: Tensor) -> tuple[Proofs, Tensor]:
        """In float32 these boxes have no point between their ends; in float64 they are decided all the same."""
        inputs = domains.inputs.select(which)
        proofs, points = finish(self.problem, self._leaves(inputs), self.depth, len(self.sloped[0]))
        return proofs, torch.cat([points, inputs.lower.double().cpu(), inputs.upper.double().cpu()])

    def _leaves(self, inputs: InputSet) -> Iterator[Leaf]:
        """These boxes in float64: where a box ends as the whole region does, that end is the region's own."""
        problem, every = self.problem, tuple(range(len(self.problem.clauses)))
        lower = torch.where(inputs.lower == problem.inputs.lower, problem.whole.lower, inputs.lower.double())
        upper = torch.where(inputs.upper == problem.inputs.upper, problem.whole.upper, inputs.upper.double())
        for i in range(len(inputs)):
            box = problem.whole.within(lower[i : i + 1], upper[i : i + 1])
            yield Leaf(
                box,
                intermediate(problem.wide, box, budget=problem.budget),
                no_splits(box.lower),
                every,
            )
