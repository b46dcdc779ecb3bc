"""Looking for counterexamples: attack the margin, then ask the original network.

Nothing is called falsified that was not replayed: the point lies exactly in the region, and the
original network's own answer makes every row of a clause unsafe, in exact arithmetic. Nor is the
real-valued network provably safe there, so that the runtime's rounding alone would be the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attacks.gradient import Descent, Geometric, pgd
from certify.bounds.rows import Rows, rows_of
from certify.budget import Budget
from certify.check.linear import Network as CheckedNetwork
from certify.check.witness import Agreement, real_agreement
from certify.evidence import Witness
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet, stack
from certify.spec.query import Query

TRIES = 8
"""Points of one batch that are replayed on the original network at most."""

POLISH = 8
"""Steps of the descent that points met during a search are given."""


class ClauseMargin:
    """The margin of one clause per batch entry: max over its rows (<= 0 is unsafe). An attack's objective."""

    def __init__(self, network: Network, rows: Rows) -> None:
        self.network, self.rows = network, rows  # rows (B, 1, R, n or n + d)

    def _values(self, x: Tensor) -> Tensor:
        y = self.network(x)
        matrix = self.rows.matrix[:, 0]
        z = y if matrix.shape[-1] == y.shape[-1] else torch.cat([y, x], 1)
        values = torch.matmul(matrix, z.unsqueeze(-1)).squeeze(-1) - self.rows.offset[:, 0]
        return values.masked_fill(~self.rows.used[:, 0], -torch.inf)

    def __call__(self, x: Tensor) -> Tensor:
        return self._values(x).amax(1)

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, loss): all rows that are not yet unsafe pull, not the worst one alone."""
        values = self._values(x)
        margin = values.amax(1)
        return margin, (margin if values.shape[1] == 1 else values.clamp_min(0).sum(1))

    def select(self, index: Tensor) -> ClauseMargin:
        rows = self.rows
        return ClauseMargin(self.network, Rows(rows.matrix[index], rows.offset[index], rows.used[index]))


class Falsifier:
    """Attacks the cases of one query, and replays candidates on its source."""

    def __init__(self, query: Query, network: Network, seed: int = 0, polish: int = POLISH) -> None:
        self.query, self.network, self.seed, self.polish = query, network, seed, polish
        self.kind = np.dtype(query.graph.inputs[0].dtype)

    def replay(self, case: int, x: np.ndarray) -> Witness | None:
        """A witness at x or right next to it, if the original network agrees."""
        region, prop = self.query.cases[case].region, self.query.cases[case].property
        inside = region.pull_inside(x, self.kind)
        if inside is None:
            return None
        y = np.asarray(self.query.source(inside), np.float64).reshape(-1)
        clause = _violated(prop.clauses, y, inside)
        if clause is None:
            return None
        if real_agreement(self._checked, prop.clauses[clause], inside) is Agreement.CONTRADICTED:
            return None
        return Witness(case, clause, inside, y, self.query.source.name)

    @cached_property
    def _checked(self) -> CheckedNetwork:
        """Made when the first violation is: it holds the weights in float64 once more."""
        return CheckedNetwork(self.query.graph)

    def attempt(self, case: int, points: Tensor) -> Witness | None:
        """Evaluate points (M, d), of any type, of one case's region; replay those that look unsafe, and what a
        short descent from the least safe ones leads to."""
        if not len(points):
            return None
        clauses = self.query.cases[case].property.clauses
        with torch.no_grad():
            near = points.to(self.network.device, self.network.dtype)
            y = self.network(near)
            z = torch.cat([y, near], 1) if self.query.reads_input else y
            margins = torch.stack([c.margin(z[:, : c.matrix.shape[1]]) for c in clauses], 1)
        margin, clause = margins.min(1)
        order = torch.argsort(margin)[:TRIES]
        witness = self._replay_some(case, points[order], _promising(margin[order], y))
        if witness is not None or not self.polish:
            return witness
        ((_, whole),) = stack([self.query.cases[case].region], self.network.dtype, self.network.device)
        rows = rows_of([clauses[s] for s in clause[order].tolist()], self.network)
        goal = ClauseMargin(self.network, Rows(*(t.transpose(0, 1) for t in (rows.matrix, rows.offset, rows.used))))
        descent = Descent(steps=self.polish, step=Geometric(0.02, 0.0005))
        found = descent(goal, whole.select(torch.zeros_like(order)), near[order])
        return self._replay_some(case, found.x, _promising(found.margin, y))

    def _replay_some(self, case: int, points: Tensor, which: Tensor) -> Witness | None:
        for x in points[which].double().cpu().numpy():
            witness = self.replay(case, x)
            if witness is not None:
                return witness
        return None

    def attack(self, cases: Sequence[int], budget: Budget, steps: int, restarts: int) -> dict[int, Witness]:
        """Attack every clause of these cases together; returns the witnesses found, by case."""
        found: dict[int, Witness] = {}
        pairs = [(k, s) for k in cases for s in range(len(self.query.cases[k].property.clauses))]
        per_entry = 8 * 4 * restarts * sum(n.size for n in self.network.graph.nodes)
        size = max(1, min(4096, budget.memory // per_entry))
        for first in range(0, len(pairs), size):
            if budget.expired:
                break
            chunk = [(k, s) for k, s in pairs[first : first + size] if k not in found]
            regions = [self.query.cases[k].region for k, _ in chunk]
            for members, inputs in stack(regions, self.network.dtype, self.network.device):
                self._attack_group([chunk[i] for i in members], inputs, budget, steps, restarts, found)
        return found

    def _attack_group(
        self,
        pairs: list[tuple[int, int]],
        inputs: InputSet,
        budget: Budget,
        steps: int,
        restarts: int,
        found: dict[int, Witness],
    ) -> None:
        rows = rows_of([self.query.cases[k].property.clauses[s] for k, s in pairs], self.network)
        rows = Rows(*(t.transpose(0, 1) for t in (rows.matrix, rows.offset, rows.used)))
        attack = pgd(steps=steps, restarts=restarts, seed=self.seed, stop=lambda: budget.expired)
        result = attack(ClauseMargin(self.network, rows), inputs)
        order = torch.argsort(result.margin)
        hopeful = order[_promising(result.margin[order], result.margin)].tolist()
        for i in hopeful:
            case = pairs[i][0]
            if case not in found:
                witness = self.replay(case, result.x[i].double().cpu().numpy())
                if witness is not None:
                    found[case] = witness


def _promising(margin: Tensor, scale: Tensor) -> Tensor:
    """Margins that the original network, which rounds otherwise, may call unsafe."""
    return margin <= 1e-5 * (1 + scale.abs().amax())


def _violated(clauses: Sequence, y: np.ndarray, x: np.ndarray) -> int | None:
    for s, c in enumerate(clauses):
        z = y if c.matrix.shape[1] == y.size else np.concatenate([y, x])
        if c.unsafe(z):
            return s
    return None
