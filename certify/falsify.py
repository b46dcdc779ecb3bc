"""Looking for counterexamples: attack the margin, then ask the original network.

Nothing is called falsified that was not replayed: the point lies exactly in the region, and the
original network's own answer makes every row of a clause unsafe, in exact arithmetic. Nor is the
real-valued network provably safe there, so that the runtime's rounding alone would be the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from attacks.base import Result
from attacks.gradient import Descent, Geometric
from attacks.zoom import Zoom
from certify.bounds.rows import Rows, rows_of
from certify.budget import Budget
from certify.check.linear import Network as CheckedNetwork
from certify.check.witness import Agreement, real_agreement
from certify.evidence import Witness
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.graph.surrogate import surrogate
from certify.spec.inputset import InputSet, stack
from certify.spec.query import Query

T = TypeVar("T")

Pair = tuple[int, int]
"""A case and one of its clauses."""

Clauses = Mapping[int, Collection[int]]
"""Case -> those of its clauses that are attacked."""

Run = Callable[["ClauseMargin", InputSet, Tensor], Result]
"""An attack on a batch of clauses over their regions, of which those of one group (a case) fall together."""

TRIES = 8
"""Points of one batch that are replayed on the original network at most."""

QUICK, QUICK_STARTS = Descent(steps=6, restarts=2, step=Geometric(2.0, 0.3)), 8
"""The first attack, which every query pays for: most counterexamples are a step or two of full width away. A case
of few clauses has more restarts, so many in all: small batches cost hardly less."""

RATE = 2e10
"""Multiplications per second, about; fixed, so that an attack does not depend on the machine."""

THOROUGH, BRIEF = 0.05, 0.01
"""Seconds that a thorough attack on a case, and a descent from points that its search met, may take, about."""

FEW_INPUTS, FEW_POINTS = 12, 64
"""Where at most so many inputs vary and at least so many points can be afforded, a thorough attack is a zoom."""

POLISH = Descent(steps=20, step=Geometric(0.05, 0.001), momentum=0.75)
"""What the least safe points that a search meets are given."""

SHARE, HEAD = 0.05, 0.1
"""Part of a search's time that attacks beside it may take, and the first seconds, of which they may take half."""


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


@dataclass(frozen=True, eq=False)
class Near:
    """Points x (M, d), their least margin (M,) over a case's clauses, and the clause (M,) whose it is; a margin of
    at most `slack` the original network, which rounds otherwise, may call unsafe."""

    x: Tensor
    margin: Tensor
    clause: Tensor
    slack: float

    def best(self) -> Near:
        """The TRIES least safe ones."""
        order = torch.argsort(self.margin)[:TRIES]
        return Near(self.x[order], self.margin[order], self.clause[order], self.slack)

    def joined(self, other: Near) -> Near:
        pairs = ((self.x, other.x), (self.margin, other.margin), (self.clause, other.clause))
        return Near(*(torch.cat(pair) for pair in pairs), max(self.slack, other.slack))


class Falsifier:
    """Attacks the cases of one query, and replays candidates on its source.

    At most `steps` and `restarts` per descent; without steps, only points that others met are replayed.
    """

    def __init__(self, query: Query, network: Network, seed: int = 0, steps: int = 30, restarts: int = 20) -> None:
        self.query, self.network, self.seed, self.steps, self.restarts = query, network, seed, steps, restarts
        self.led = surrogate(network)  # what descents follow
        self.kind = np.dtype(query.graph.inputs[0].dtype)
        self.evaluation = multiplications(network.graph) / RATE  # seconds of one, about

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

    def least_safe(self, case: int, points: Tensor) -> Near:
        """The least safe of points (M, d), of any type, of a case's region."""
        clauses = self.query.cases[case].property.clauses
        with torch.no_grad():
            x = self._cast(points)
            y = self.network(x)
            z = torch.cat([y, x], 1) if self.query.reads_input else y
            margins = torch.stack([c.margin(z[:, : c.matrix.shape[1]]) for c in clauses], 1)
        return Near(points, *margins.nan_to_num(nan=torch.inf).min(1), _slack(y)).best()

    def attempt(self, case: int, near: Near) -> Witness | None:
        """Replay the points that look unsafe."""
        for x in near.x[near.margin <= near.slack].double().cpu().numpy():
            witness = self.replay(case, x)
            if witness is not None:
                return witness
        return None

    def polish(self, case: int, near: Near, budget: Budget) -> Witness | None:
        """Replay what a short descent from each of the points leads to, if it looks unsafe."""
        ((_, whole),) = stack([self.query.cases[case].region], self.network.dtype, self.network.device)
        goal = self._goal([(case, s) for s in near.clause.tolist()])
        together = torch.zeros_like(near.clause)
        descent = replace(POLISH, stop=lambda: budget.expired)
        found = descent(goal, whole.select(together), self._cast(near.x), together)
        return self.attempt(case, Near(found.x, found.margin, near.clause, near.slack))

    def quick(self, clauses: Clauses, budget: Budget) -> dict[int, Witness]:
        """A short attack on these clauses, all together; returns the witnesses found, by case."""
        restarts = min(max(QUICK.restarts, QUICK_STARTS // _most(clauses)), self.restarts)
        attack = replace(
            QUICK, steps=min(QUICK.steps, self.steps), restarts=restarts, seed=self.seed, stop=lambda: budget.expired
        )
        return self._attack(clauses, budget, restarts, lambda goal, inputs, groups: attack(goal, inputs, groups=groups))

    def thorough(self, clauses: Clauses, budget: Budget, turn: int = 0) -> dict[int, Witness]:
        """As `quick`, but for about THOROUGH seconds, if the settings allow; another turn starts from other points."""
        return self._attack(clauses, budget, *self._planned(clauses, budget, turn))

    def _planned(self, clauses: Clauses, budget: Budget, turn: int) -> tuple[int, Run]:
        """The attack of a turn, and how many copies of each clause it makes."""
        seed, affordable = self.seed + turn, THOROUGH / (_most(clauses) * self.evaluation)
        regions = [self.query.cases[k].region for k in clauses]
        points = int(min(Zoom.points, affordable // (Zoom().evaluations / Zoom.points)))
        if points >= FEW_POINTS and all((r.upper > r.lower).sum() <= FEW_INPUTS for r in regions):
            zoom = Zoom(points=points, seed=seed, stop=lambda: budget.expired)
            return points, zoom
        restarts = int(min(self.restarts, max(1, affordable // (3 * self.steps))))
        attack = Descent(steps=self.steps, restarts=restarts, seed=seed, stop=lambda: budget.expired)

        def run(goal: ClauseMargin, inputs: InputSet, groups: Tensor) -> Result:
            start = inputs.sample(torch.Generator().manual_seed(seed)) if turn else None
            return attack(goal, inputs, start, groups)

        return restarts, run

    def _attack(self, clauses: Clauses, budget: Budget, copies: int, run: Run) -> dict[int, Witness]:
        """Run an attack that makes so many copies of each clause, on as many at once as memory allows."""
        found: dict[int, Witness] = {}
        pairs = [(k, s) for k in clauses for s in sorted(clauses[k])]
        per_entry = 8 * 4 * copies * sum(n.size for n in self.network.graph.nodes)
        size = max(1, min(4096, budget.memory // per_entry))
        for first in range(0, len(pairs), size):
            if budget.expired:
                break
            chunk = [(k, s) for k, s in pairs[first : first + size] if k not in found]
            regions = [self.query.cases[k].region for k, _ in chunk]
            for members, inputs in stack(regions, self.network.dtype, self.network.device):
                self._attack_group([chunk[i] for i in members], inputs, run, found)
        return found

    def _attack_group(self, pairs: list[Pair], inputs: InputSet, run: Run, found: dict[int, Witness]) -> None:
        groups = torch.tensor([k for k, _ in pairs], device=self.network.device)
        result = run(self._goal(pairs), inputs, groups)
        order = torch.argsort(result.margin)
        for i in order[result.margin[order] <= _slack(result.margin)].tolist():
            case = pairs[i][0]
            if case not in found:
                witness = self.replay(case, result.x[i].double().cpu().numpy())
                if witness is not None:
                    found[case] = witness

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.network.device, self.network.dtype)

    def _goal(self, pairs: Sequence[Pair]) -> ClauseMargin:
        """An objective whose entry i is the margin of the clause that pair i names."""
        rows = rows_of([self.query.cases[k].property.clauses[s] for k, s in pairs], self.network)
        return ClauseMargin(self.led, Rows(*(t.transpose(0, 1) for t in (rows.matrix, rows.offset, rows.used))))


class Pursuit:
    """Attacks beside one case's search: replays the points that it meets, and now and then looks further.

    Descents from the least safe points, and turns of the thorough attack, get a small part each of the search's
    time, so that a search that ends soon pays nothing. At first an equal one: most counterexamples that the
    first turns do not find, the later ones do not either.
    """

    def __init__(self, falsifier: Falsifier, case: int, clauses: Collection[int], budget: Budget) -> None:
        self.falsifier, self.case, self.clauses, self.budget = falsifier, case, tuple(clauses), budget
        self.began = time.monotonic()
        self.near: Near | None = None  # the least safe points since the last polish
        evaluation, descents = falsifier.evaluation, 3 * falsifier.steps * len(self.clauses)
        self.polishing = _Account(max(BRIEF, 3 * POLISH.steps * TRIES * evaluation))
        self.turning = _Account(max(THOROUGH, descents * evaluation))

    def __call__(self, points: Tensor) -> Witness | None:
        """A witness at one of the points (M, d), or next to it, or elsewhere."""
        if not len(points):
            return None
        falsifier, case = self.falsifier, self.case
        near = falsifier.least_safe(case, points)
        witness = falsifier.attempt(case, near)
        if witness is not None or not falsifier.steps:
            return witness
        self.near = near if self.near is None else self.near.joined(near).best()
        searched = time.monotonic() - self.began - self.polishing.spent - self.turning.spent
        if self.polishing.affords(searched):
            near, self.near = self.near, None
            witness = self.polishing.charge(lambda: falsifier.polish(case, near, self.budget))
        if witness is None and self.turning.affords(searched):
            turn = {case: self.clauses}
            witness = self.turning.charge(lambda: falsifier.thorough(turn, self.budget, self.turning.count)).get(case)
        return witness


@dataclass
class _Account:
    """What one kind of attack took so far; the next time is expected to cost what the last did."""

    cost: float
    spent: float = 0.0
    count: int = 0

    def affords(self, searched: float) -> bool:
        """Whether another time fits into its share of a search of so many seconds."""
        return self.spent + self.cost <= SHARE * searched + min(searched, HEAD)

    def charge(self, attack: Callable[[], T]) -> T:
        began = time.monotonic()
        found = attack()
        self.cost = time.monotonic() - began
        self.spent, self.count = self.spent + self.cost, self.count + 1
        return found


def multiplications(graph: Graph) -> float:
    """How many one evaluation of the network takes, about."""
    total = 0.0
    for node in graph.nodes:
        weight = getattr(node.op, "weight", None)
        total += node.size * (1 if weight is None else weight.size / weight.shape[0])
    return total


def _most(clauses: Clauses) -> int:
    """How many clauses of a case are attacked at most."""
    return max((len(chosen) for chosen in clauses.values()), default=1) or 1


def _slack(values: Tensor) -> float:
    """What rounding may make of a margin, where values are so large."""
    return 1e-5 * (1 + float(values.abs().amax()))


def _violated(clauses: Sequence, y: np.ndarray, x: np.ndarray) -> int | None:
    for s, c in enumerate(clauses):
        z = y if c.matrix.shape[1] == y.size else np.concatenate([y, x])
        if c.unsafe(z):
            return s
    return None
