"""Branch and bound over input boxes, for networks of few inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bab.domains import Domains
from certify.bab.engine import Array, Bounded, Cut, Problem, Proofs, tensor
from certify.bounds.intermediate import intermediate
from certify.bounds.linear import lines_of, propagate
from certify.bounds.rows import rows_of
from certify.spec.inputset import InputSet


@dataclass(frozen=True, eq=False)
class _State:
    rows: Tensor  # (N, S, R) lower bound of every row of every clause
    coefficients: Tensor  # (N, S, R, d) of the input


class InputSplit:
    """Bounds boxes with adaptive lines, all intermediate values anew for each; halves the input that the
    open rows' linear forms depend on most. One tree serves all clauses."""

    def __init__(self, problem: Problem, memory: int = 1 << 30, widest: int = 4096) -> None:
        self.problem = problem
        self.network = problem.network
        self.rows = rows_of(problem.clauses, self.network)
        self.trees = (problem.numbers,)
        self.depth = self.rows.offset.shape[2]
        self.memory = memory
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
        network, rows = self.network, self.rows
        inputs = domains.inputs
        bounds = intermediate(network, inputs, memory=self.memory)
        lines = lines_of(network, bounds, network.graph.nonlinear)
        _, clauses, depth, width = rows.matrix.shape
        n, last = network.graph.output_size, len(network.graph.nodes) - 1
        flat = rows.matrix.reshape(1, clauses * depth, width)
        start = {last: flat[..., :n].reshape(1, clauses * depth, *network.graph.nodes[last].shape)}
        form = propagate(network, start, -rows.offset.reshape(1, -1), lines)
        coefficients = form.input + flat[..., n:] if width > n else form.input
        lower = (inputs.minimum(coefficients) + form.constant).expand(len(domains), -1)
        lower = lower.reshape(-1, clauses, depth).masked_fill(~rows.used, -torch.inf)
        state = _State(lower, coefficients.expand(len(domains), -1, -1).reshape(*lower.shape, -1))
        by_clause = lower.amax(2)
        worst, which = by_clause.min(1)
        return Bounded(worst, worst > 0, self._points(inputs, state, which), state)

    def _points(self, inputs: InputSet, state: _State, clause: Tensor) -> Tensor:
        """Where each domain's weakest clause has its rows' forms least: all rows of it together."""
        here = torch.arange(len(clause), device=clause.device)
        used = self.rows.used[0][clause]
        combined = (state.coefficients[here, clause] * used.unsqueeze(-1)).sum(1, keepdim=True)
        return inputs.minimiser(combined).squeeze(1)

    def prove(self, domains: Domains, bounded: Bounded, which: Tensor) -> Proofs:
        lower = bounded.state.rows[which]
        count, clauses, depth = lower.shape
        weights = torch.nn.functional.one_hot(lower.argmax(2), depth).reshape(-1, depth)
        return Proofs(
            owner=np.repeat(np.arange(count), clauses),
            clause=np.tile(np.array(self.problem.numbers, np.int32), count),
            weights=weights.double().cpu().numpy(),
            slopes={},
            multipliers=[np.zeros(0)] * (count * clauses),
        )

    def cut(self, domains: Domains, bounded: Bounded, which: Tensor) -> Cut:
        inputs = domains.inputs.select(which)
        lower, coefficients = bounded.state.rows[which], bounded.state.coefficients[which]
        size = inputs.upper - inputs.lower
        best = lower.argmax(2, keepdim=True)
        row = coefficients.gather(2, best.unsqueeze(-1).expand(-1, -1, 1, coefficients.shape[-1])).squeeze(2)
        open_ = (lower.amax(2) <= 0).unsqueeze(-1)
        score = (row.abs().clamp_min(1e-2) * open_).sum(1) * size
        middle = (inputs.lower + inputs.upper) / 2
        splittable = (middle > inputs.lower) & (middle < inputs.upper)
        axis = torch.where(splittable, score, -1.0).argmax(1)
        point = middle.gather(1, axis.unsqueeze(1)).squeeze(1)
        return Cut(torch.zeros_like(axis), axis, point, splittable.any(1))

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
