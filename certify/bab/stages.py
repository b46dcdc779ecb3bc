"""A search over neurons in two stages: first with plain intermediate bounds, then with sharpened ones.

Sharpening costs as much as many passes over the whole network. A search that lasts less than that is done
before; one that lasts longer starts again, with what it did not prove, and loses at most half of its time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from certify.bab.engine import Engine, Known, Problem
from certify.bab.neuron_split import NeuronSplit
from certify.bab.search import Outcome, Search
from certify.bounds import tighten
from certify.bounds.base import apart
from certify.bounds.intermediate import intermediate, unstable
from certify.bounds.linear import lines_of
from certify.bounds.optimise import Free, Target, bound
from certify.bounds.rows import rows_of
from certify.budget import Budget
from certify.relax.elementwise import has_parameter

SHARE = 0.3
"""Part of the time left that sharpening may take, as far as can be foreseen."""

PASSES = 1
"""What one step of the optimisation costs, in plain passes over the same rows."""


class Stages:
    """Runs like a `Search`; `make` turns an `engine` into one.

    The first stage has `patience` seconds, and if that is not 0, as long as sharpening is likely to take.
    """

    def __init__(
        self,
        problem: Problem,
        refined: tuple[int, ...],
        patience: float,
        make: Callable[[Engine], Search],
        engine: type[NeuronSplit] = NeuronSplit,
    ) -> None:
        self.problem, self.refined, self.make, self.engine = problem, refined, make, engine
        known = problem.known or self._pass()
        self.bounds, self.seconds = apart(known.bounds), known.seconds
        self.search = make(engine(problem, self.bounds))
        self.outcome: Outcome | None = None
        self.sharp = not self._can_sharpen()
        self.left = patience + self._foreseen(1.0) if patience else 0.0  # seconds until the second stage
        self.proved: tuple = ()

    def close(self) -> None:
        self.search.close()

    def run(self, turn: Budget | None = None) -> Outcome | None:
        """As `Search.run`."""
        while True:
            if not self.sharp and self.left <= 0:
                self._sharpen()
            began = time.monotonic()
            outcome = self.search.run(self._until(turn))
            if outcome is not None:
                return replace(outcome, trees=(*self.proved, *outcome.trees)) if outcome.trees else outcome
            self.left -= time.monotonic() - began
            if turn is not None and turn.expired:
                return None

    def _until(self, turn: Budget | None) -> Budget | None:
        """The end of the turn, or of the first stage if that is nearer; None if there is neither."""
        if self.sharp or math.isinf(self.left):
            return turn
        stage = self.problem.budget.part(self.left)
        return turn if turn is not None and turn.remaining < stage.remaining else stage

    def _pass(self) -> Known:
        """Bounds through adaptive lines."""
        began, problem = time.monotonic(), self.problem
        bounds = intermediate(problem.network, problem.inputs, refine=self.refined, budget=problem.budget)
        return Known(bounds, time.monotonic() - began)

    def _can_sharpen(self) -> bool:
        nodes = self.problem.network.graph.nodes
        sloped = [e for e in self.problem.network.graph.nonlinear if has_parameter(nodes[e].op)]
        return bool(sloped) and any(v > min(sloped) for v in self.refined)

    def _foreseen(self, share: float) -> float:
        """Seconds that sharpening this share of the unstable neurons would take."""
        return share * PASSES * tighten.SCHEDULE.steps * self.seconds

    def _sharpen(self) -> None:
        """Begin the second stage with the clauses that the first did not prove."""
        self.sharp = True
        self.search.close()
        self.proved = self.search.finished()
        done = {clause for tree in self.proved for clause in tree.clauses}
        keep = [i for i, number in enumerate(self.problem.numbers) if number not in done]
        problem = replace(
            self.problem,
            clauses=tuple(self.problem.clauses[i] for i in keep),
            numbers=tuple(self.problem.numbers[i] for i in keep),
        )
        sharpener = tighten.Sharpener(problem.network, problem.inputs, self._chosen(problem), problem.budget)
        bounds = intermediate(
            problem.network, problem.inputs, refine=self.refined, budget=problem.budget, sharpen=sharpener
        )
        self.search = self.make(self.engine(problem, apart(bounds), tuple(sharpener.found)))

    def _chosen(self, problem: Problem) -> dict[int, torch.Tensor]:
        """The neurons to sharpen: all, or as many of the foremost as there is time for."""
        network = problem.network
        rows = rows_of(problem.clauses, network)
        lines = lines_of(network, self.bounds, network.graph.nonlinear)
        weights = torch.ones_like(rows.offset) * rows.used
        target = Target(network, problem.inputs, self.bounds, rows)
        form = bound(target, Free({}, weights, weights.new_zeros(1, len(problem.clauses), 0)), lines, keep=True)[1]
        scores = tighten.importance(network, self.bounds, form)
        count = sum(int(unstable(network.graph, v, self.bounds[v]).sum()) for v in self.refined)
        share = min(1.0, SHARE * max(problem.budget.remaining, 0.0) / max(self._foreseen(1.0), 1e-9))
        scores = {v: score for v, score in scores.items() if v in self.refined}
        return tighten.foremost(network, self.bounds, scores, int(share * count))
