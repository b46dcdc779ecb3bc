"""Branch and bound over input boxes, for networks of few inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bab.domains import Domains
from certify.bab.engine import Array, Bounded, Cut, Problem, Proofs, tensor
from certify.bab.leaf import Leaf, finish
from certify.bounds.base import NodeBounds
from certify.bounds.intermediate import intermediate
from certify.bounds.linear import lines_of, no_splits, propagate
from certify.bounds.rows import rows_of
from certify.bounds.weights import combine
from certify.bounds.zonotope import affine_forms
from certify.evidence import Sharpened
from certify.spec.inputset import InputSet


@dataclass(frozen=True, eq=False)
class _State:
    lower: Tensor  # (N, S) bound of every clause
    weights: Tensor  # (N, S, R) that give it
    combined: Tensor  # (N, S, d) coefficients of the rows so weighted
    bounds: NodeBounds


class InputSplit:
    """Bounds boxes with adaptive lines, all intermediate values anew for each. One tree serves all clauses.

    `refined` are the nodes whose bounds go beyond affine forms of the inputs; none make boxes cheap, and many.
    """

    sloped = (np.zeros(0, np.int32), np.zeros(0, np.int64))
    sharpened: tuple[Sharpened, ...] = ()

    def __init__(self, problem: Problem, refined: tuple[int, ...], widest: int = 512) -> None:
        self.problem, self.refined = problem, refined
        self.network = problem.network
        self.rows = rows_of(problem.clauses, self.network)
        self.trees = (problem.numbers,)
        self.depth = self.rows.offset.shape[2]
        self.memory = memory = problem.budget.memory
        neurons = sum(n.size for n in self.network.graph.nodes)
        self._widest = int(max(1, min(widest, memory / (64 * neurons * 4))))
        self._taken = 1

    def root(self) -> Domains:
        zero = torch.zeros(1, dtype=torch.long, device=self.network.device)
        return Domains(zero, zero.clone(), self.problem.inputs, self.problem.inputs.lower.new_full((1,), -torch.inf))

    def width(self) -> int:
        self._taken = min(self._widest, 4 * self._taken)
        return self._taken

    def bound(self, domains: Domains) -> Bounded:
        network, inputs = self.network, domains.inputs
        bounds = intermediate(
            network,
            inputs,
            within=affine_forms(network, inputs),
            refine=self.refined,
            budget=self.problem.budget,
        )
        coefficients, constants = self._final(inputs, bounds)
        lower, weights = combine(inputs, coefficients, constants, self.rows.used)
        worst, which = lower.min(1)
        combined = (weights.unsqueeze(-1) * coefficients).sum(2)
        state = _State(lower, weights, combined, bounds)
        closed = (worst > 0) | inputs.misses()
        return Bounded(worst, closed, self._points(inputs, coefficients, combined, which), state)

    def _final(self, inputs: InputSet, bounds: NodeBounds) -> tuple[Tensor, Tensor]:
        """Every row's linear form of the input: coefficients (N, S, R, d) and constants (N, S, R)."""
        network, rows = self.network, self.rows
        _, clauses, depth, width = rows.matrix.shape
        n, last = network.graph.output_size, len(network.graph.nodes) - 1
        flat = rows.matrix.reshape(1, clauses * depth, width)
        start = {last: flat[..., :n].reshape(1, clauses * depth, *network.graph.nodes[last].shape)}
        lines = lines_of(network, bounds, network.graph.nonlinear)
        form = propagate(network, start, -rows.offset.reshape(1, -1), lines)
        coefficients = form.input + flat[..., n:] if width > n else form.input
        shape = (len(inputs), clauses, depth)
        constants = form.constant.expand(len(inputs), -1).reshape(shape)
        return coefficients.expand(len(inputs), -1, -1).reshape(*shape, -1), constants

    def _points(self, inputs: InputSet, coefficients: Tensor, combined: Tensor, clause: Tensor) -> Tensor:
        """Where each domain's weakest clause may be unsafe: where its rows' forms are least, taken all alike
        and as they were combined; and the middle."""
        here = torch.arange(len(clause), device=clause.device)
        used = self.rows.used[0][clause]
        alike = (coefficients[here, clause] * used.unsqueeze(-1)).sum(1, keepdim=True)
        forms = torch.cat([alike, combined[here, clause].unsqueeze(1)], 1)
        points = torch.cat([inputs.minimiser(forms), inputs.start().unsqueeze(1)], 1)
        every = inputs.select(here.repeat_interleave(points.shape[1]))
        flat = points.flatten(0, 1)
        return flat if inputs.norm is None else every.project(flat)  # a corner may lie off the ball

    def prove(self, domains: Domains, bounded: Bounded, which: Tensor) -> Proofs:
        weights = bounded.state.weights[which]
        count, clauses, depth = weights.shape
        return Proofs(
            owner=np.repeat(np.arange(count), clauses),
            clause=np.tile(np.array(self.problem.numbers, np.int32), count),
            weights=weights.reshape(-1, depth).double().cpu().numpy(),
            slopes=np.zeros((count * clauses, 0), np.uint8),
            multipliers=np.zeros(0),
            offsets=np.zeros(count * clauses + 1, np.int64),
        )

    def cut(self, domains: Domains, bounded: Bounded, which: Tensor) -> Cut:
        """Half of the domains, by a hash of their number, are cut where their linear form says, the others
        where a look-ahead says. Either rule alone has networks on which it fails; mixed, each gets the
        other out of its dead ends."""
        inputs = domains.inputs.select(which)
        state: _State = bounded.state
        middle = (inputs.lower + inputs.upper) / 2
        splittable = (middle > inputs.lower) & (middle < inputs.upper)
        score = self._steepest(inputs, state.lower[which], state.combined[which])
        if self.refined:  # else a look ahead would cost as much as the children themselves
            look = ((domains.row[which] * 2654435761 >> 13) % 2 == 1).nonzero().squeeze(1)
            score[look] = self._look_ahead(inputs.select(look), state, which[look], middle[look])
        axis = torch.where(splittable, score, -torch.inf).argmax(1)
        point = middle.gather(1, axis.unsqueeze(1)).squeeze(1)
        possible = splittable.any(1)
        if not self.network.graph.nonlinear and inputs.norm is None:
            possible = torch.zeros_like(possible)  # one linear program decides an affine network over a box
        return Cut(torch.zeros_like(axis), axis, point, possible)

    @staticmethod
    def _steepest(inputs: InputSet, lower: Tensor, combined: Tensor) -> Tensor:
        """(N, d): how much each input moves the open clauses' forms (N, S, d) over its width."""
        open_ = (lower <= 0).unsqueeze(-1)
        return (combined.abs().clamp_min(1e-2) * open_).sum(1) * (inputs.upper - inputs.lower)

    def _look_ahead(self, inputs: InputSet, state: _State, which: Tensor, middle: Tensor) -> Tensor:
        """(N, d): the bounds of the two children that halving each input would give, summed over children
        and open clauses. Their intermediate bounds are the parent's and those of affine forms: cheap."""
        d = middle.shape[1]
        varying = (inputs.upper > inputs.lower).any(0).nonzero().squeeze(1)
        score = torch.full_like(middle, -torch.inf)
        if not len(varying):
            return score
        widest = max(n.size for n in self.network.graph.nodes)
        chunk = max(1, self.memory // (64 * len(varying) * (d + 2) * widest))
        for part in torch.arange(len(which), device=which.device).split(chunk):
            value = self._halved(inputs.select(part), state, which[part], middle[part], varying)
            score[part.unsqueeze(1), varying] = value
        return score

    def _halved(self, inputs: InputSet, state: _State, which: Tensor, middle: Tensor, varying: Tensor) -> Tensor:
        """(N, k) as `_look_ahead`, for the k inputs `varying`, all children at once."""
        count, k = len(which), len(varying)
        lower = inputs.lower.unsqueeze(1).repeat(1, 2 * k, 1)
        upper = inputs.upper.unsqueeze(1).repeat(1, 2 * k, 1)
        each = torch.arange(k, device=middle.device)
        upper[:, each, varying] = middle[:, varying]
        lower[:, k + each, varying] = middle[:, varying]
        copies = torch.arange(count, device=middle.device).repeat_interleave(2 * k)
        children = inputs.select(copies).within(lower.flatten(0, 1), upper.flatten(0, 1))
        parents = which[copies]
        bounds = state.bounds.items()
        known = {v: (lo, up) if lo.shape[0] == 1 else (lo[parents], up[parents]) for v, (lo, up) in bounds}
        coefficients, constants = self._final(children, affine_forms(self.network, children, known))
        weights = state.weights[parents]  # the parent's: good enough to compare by
        value = children.minimum((weights.unsqueeze(-1) * coefficients).sum(2)) + (weights * constants).sum(2)
        return value.clamp_max(0).sum(1).reshape(count, 2, k).sum(1)

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
        return Domains(parents.tree.repeat(2), row, inputs, bounded.lower[which].repeat(2))

    def finish(self, domains: Domains, bounded: Bounded, which: Tensor) -> tuple[Proofs, Tensor]:
        """In float32 these boxes have no point between their ends; in float64 they are decided all the same."""
        inputs = domains.inputs.select(which)
        proofs, points = finish(self.problem, self._leaves(inputs), self.depth, 0)
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
