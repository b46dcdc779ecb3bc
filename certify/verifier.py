"""From a query to verdicts: attack, bounds, search, each claim checked before it is made.

Cheapest first: a short attack; interval bounds and one linear pass over all cases together; a longer
attack on what is left; then branch and bound. The checker accepts every proof before it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from certify.bab.engine import Engine, Known, Problem
from certify.bab.race import race
from certify.bab.search import Progress, Search
from certify.bounds.base import flat
from certify.bounds.intermediate import worth_refining
from certify.bounds.method import BoundMethod, RowBounds, at_once
from certify.bounds.methods import METHODS, LinearBounds
from certify.bounds.multi_neuron import MultiNeuronBounds
from certify.bounds.rows import Rows, rows_of
from certify.bounds.sdp import SdpBounds, SdpFirstOrderBounds
from certify.budget import Budget, Stopwatch
from certify.check.checker import Checker
from certify.check.forms import MOST_INPUTS
from certify.device import device_of
from certify.evidence import Tree, TreeProof, Witness, in_bytes, single_leaves
from certify.falsify import Clauses, Falsifier, Pursuit
from certify.graph.evaluate import Network
from certify.graph.products import full_products
from certify.lipschitz.method import LipschitzBounds
from certify.memory import ran_out
from certify.mip.columns import require_elementwise
from certify.mip.pieces import require as require_pieces
from certify.mip.whole import Whole
from certify.passes import simplify
from certify.plan import bounds_are_cheaper, boxes_are_cheaper, searches
from certify.solvers.external import mixed_solver
from certify.solvers.highs import Status
from certify.spec.inputset import InputSet, stack
from certify.spec.query import Query
from certify.strategy import Method, Solver, Strategy
from certify.threads import one_thread_each
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified

Report = Callable[[Progress], None]

OUTWARD: tuple[BoundMethod, ...] = (MultiNeuronBounds(), SdpBounds(), SdpFirstOrderBounds(), LipschitzBounds())
BOUNDS: dict[str, BoundMethod] = {method.name: method for method in (*METHODS, *OUTWARD)}
ATTACK_SHARE = 0.15
"""Part of the time left that one round of attacks may take."""

SEARCHES = (Method.AUTO, Method.INPUT_SPLIT, Method.NEURON_SPLIT, Method.MIP)


def verify(
    query: Query, strategy: Strategy | None = None, budget: Budget | None = None, progress: Report | None = None
) -> Verdict:
    """Whether every case of the query holds.

    Falsified carries a witness replayed on the original network; Verified carries a proof that the
    independent checker accepted. Raises UnsupportedOp, before any work, for a graph that the method does
    not cover, and BadOption for a device that is not there.
    """
    return Run(query, strategy or Strategy(), budget or Budget(), progress).together()


def verify_each(
    query: Query, strategy: Strategy | None = None, budget: Budget | None = None, progress: Report | None = None
) -> list[Verdict]:
    """One verdict per case of the query, all bounded in one batch; otherwise as `verify`."""
    return Run(query, strategy or Strategy(), budget or Budget(), progress).each()


class Run:
    """One run over one query: what is proved, refuted and open, case by case."""

    def __init__(self, query: Query, strategy: Strategy, budget: Budget, progress: Report | None) -> None:
        self.query, self.strategy, self.budget, self.progress = query, strategy, budget, progress
        self.method = BOUNDS.get(strategy.method.value, LinearBounds())
        self.method.require(query.graph)
        simplified = simplify(query.graph)
        if strategy.solver is not Solver.OWN:
            require_pieces(simplified.graph)
            self.mixed = mixed_solver(strategy.solver)
        elif strategy.method is Method.MIP:
            require_elementwise(query.graph)
        self.origin = simplified.origin
        self.network = Network(simplified.graph, torch.float32, device_of(strategy.device))
        self.falsifier = Falsifier(query, self.network, strategy.seed, strategy.steps, strategy.restarts)
        self.refined = () if strategy.method is Method.INTERVAL else worth_refining(simplified.graph)
        self.witnesses: dict[int, Witness] = {}
        self.trees: dict[int, list[Tree]] = {k: [] for k in range(len(query.cases))}
        self.open: dict[int, set[int]] = {k: set(range(len(c.property.clauses))) for k, c in enumerate(query.cases)}
        self.lower: dict[int, float] = dict.fromkeys(range(len(query.cases)), float("-inf"))
        self.reason: dict[int, Reason] = {}
        self.detail: dict[int, str] = {}
        self.trusted: set[int] = set()  # cases of which a solver is believed
        self.known: dict[int, Known] = {}
        self._warm: Future[None] | None = None
        self._checking = Stopwatch()

    def together(self) -> Verdict:
        """All cases as one: stops at the first witness."""
        self._work(stop_at_witness=True)
        self._report("done")
        if self.witnesses:
            return Falsified(next(iter(self.witnesses.values())))
        undecided = [k for k in self.open if self.open[k]]
        if undecided:
            k = undecided[0]
            return Unknown(self._why(k), min(self.lower[k] for k in undecided), self.detail.get(k, ""))
        return self._verified(self.trees)

    def each(self) -> list[Verdict]:
        self._work(stop_at_witness=False)
        self._report("done")
        return [self._verdict(k) for k in range(len(self.query.cases))]

    def _verdict(self, k: int) -> Verdict:
        if k in self.witnesses:
            return Falsified(self.witnesses[k])
        if self.open[k]:
            return Unknown(self._why(k), self.lower[k], self.detail.get(k, ""))
        return self._verified({k: self.trees[k]})

    def _verified(self, trees: Mapping[int, list[Tree]]) -> Verified:
        if self.method.outward:
            return Verified(None, Grade.RECOMPUTED)
        if self.trusted.intersection(trees):
            return Verified(None, Grade.TRUSTED, detail=self.strategy.solver.value)
        return Verified(self._proof(tuple(t for own in trees.values() for t in own)), Grade.CHECKED)

    def _proof(self, trees: tuple[Tree, ...]) -> TreeProof:
        return TreeProof(trees, self.to_check, self.query.graph.hash, self.query.spec_hash)

    def _why(self, k: int) -> Reason:
        if k in self.reason:
            return self.reason[k]
        if self.budget.expired:
            return Reason.INTERRUPTED if self.budget.cancelled else Reason.TIMEOUT
        return Reason.INCOMPLETE

    def _undecided(self) -> list[int]:
        return [k for k in self.open if self.open[k] and k not in self.witnesses]

    def _work(self, stop_at_witness: bool) -> None:
        """All stages. Where memory runs out, what was decided and bounded by then stands."""
        try:
            with one_thread_each(), full_products():
                self._stages(stop_at_witness)
        except Exception as error:
            if not ran_out(error):
                raise
            self.reason |= dict.fromkeys(self._undecided(), Reason.MEMORY)

    def _stages(self, stop_at_witness: bool) -> None:
        strategy = self.strategy

        def finished() -> bool:
            return self.budget.expired or not self._undecided() or (stop_at_witness and bool(self.witnesses))

        stages = [self._glance, self._bound]
        if bounds_are_cheaper(self.network, len(self.query.cases)):
            stages.reverse()
        for stage in stages:
            stage()
            if finished():
                return
        searched = strategy.method in SEARCHES
        if strategy.steps and not (searched and len(self._undecided()) == 1):  # one case is attacked beside its search
            self._attack(self.falsifier.thorough)
        for k in self._undecided():
            if finished():
                return
            if self.strategy.solver is not Solver.OWN:
                self._believe(k)
            elif searched:
                self._search(k)

    def _glance(self) -> None:
        if self.strategy.steps:
            self._attack(self.falsifier.quick)

    def _boxes_are_cheaper(self) -> bool:
        undecided = self._undecided()
        return len(undecided) == 1 and boxes_are_cheaper(self._problem(undecided[0]), self.strategy)

    def _attack(self, attack: Callable[[Clauses, Budget], dict[int, Witness]]) -> None:
        self._report("attack")
        share = None if self.budget.timeout is None else ATTACK_SHARE * max(self.budget.remaining, 0.0)
        self.witnesses |= attack({k: self.open[k] for k in self._undecided()}, self.budget.part(share))

    def _report(self, stage: str) -> None:
        if self.progress is not None:
            undecided = self._undecided()
            done = len(self.open) - len(undecided)
            lower = min((self.lower[k] for k in undecided), default=float("inf"))
            self.progress(Progress(stage, done, len(undecided), lower, self.budget.elapsed, self._checking.seconds))

    def _heard(self, k: int, progress: Progress) -> None:
        """Keep what a search of case k bounds, and pass it on as a bound for all undecided cases."""
        self.lower[k] = max(self.lower[k], progress.lower)
        if self.progress is not None:
            lower = min(self.lower[j] for j in self._undecided())
            self.progress(replace(progress, lower=lower, checking=self._checking.seconds))

    def _bound(self) -> None:
        """One pass over all undecided cases; what it proves is handed to the checker."""
        if self.method.outward:
            self._claim()
            return
        if self._boxes_are_cheaper():
            return
        self._warm_up()
        self._report("bound")
        undecided = self._undecided()
        groups = stack([self.query.cases[k].region for k in undecided], self.network.dtype, self.network.device)
        size = at_once(self.network, self.budget.memory)
        for members, inputs in groups:
            for first in range(0, len(members), size):
                if self.budget.expired:
                    return
                chosen = [undecided[i] for i in members[first : first + size]]
                self._bound_batch(chosen, inputs.select(slice(first, first + size)))

    def _claim(self) -> None:
        """Clauses of which a bound, rounded outward, shows a row to be positive: of the original graph, over each
        region in float64."""
        self._report("bound")
        network = Network(self.query.graph, torch.float64)
        for k in self._undecided():
            if self.budget.expired:
                return
            case = self.query.cases[k]
            ((_, region),) = stack([case.region], network.dtype, network.device)
            numbers = sorted(self.open[k])
            rows = rows_of([case.property.clauses[s] for s in numbers], network)
            least = self.method(network, region, rows, budget=self.budget).lower[0].amax(1).tolist()
            self.lower[k] = max(self.lower[k], min(least))
            self.open[k] -= {s for s, lower in zip(numbers, least, strict=True) if lower > 0}

    def _bound_batch(self, cases: list[int], inputs: InputSet) -> None:
        deepest = max(len(self.query.cases[k].property.clauses) for k in cases)
        clauses = [
            [*self.query.cases[k].property.clauses, *[self.query.cases[k].property.clauses[0]] * deepest][:deepest]
            for k in cases
        ]
        rows = rows_of([c for group in clauses for c in group], self.network)
        rows = Rows(*(t.reshape(len(cases), deepest, *t.shape[2:]) for t in (rows.matrix, rows.offset, rows.used)))
        began = time.monotonic()
        bounds = self.method(self.network, inputs, rows, budget=self.budget)
        if len(cases) == 1 and self.method == LinearBounds() and not self.budget.expired:
            self.known[cases[0]] = Known(bounds.nodes, time.monotonic() - began)
        self._take_in(cases, bounds)

    def _take_in(self, cases: list[int], bounds: RowBounds) -> None:
        """The rows with a positive lower bound prove their clauses, if the checker agrees."""
        values, which = (t.cpu().numpy() for t in bounds.lower.double().max(2))
        counts = np.array([len(self.query.cases[k].property.clauses) for k in cases])
        real = np.arange(values.shape[1]) < counts[:, None]
        for k, least in zip(cases, np.where(real, values, np.inf).min(1).tolist(), strict=True):
            self.lower[k] = max(self.lower[k], least)
        member, clause = np.nonzero(real & (values > 0))
        if not len(member):
            return
        weights = np.eye(bounds.lower.shape[2])[which[member, clause]]
        slopes = {}
        for e, t in self.method.parameters(self.network, bounds.nodes).items():
            own = in_bytes(flat(t, 1).cpu().numpy())
            slopes[self.origin[e]] = np.broadcast_to(own, (len(cases), own.shape[1]))[member]
        for e, t in bounds.lines.items():
            slopes[self.origin[e]] = in_bytes(flat(t[member, clause, which[member, clause]], 1).cpu().numpy())
        given = zip(cases, bounds.sharpened or [()] * len(cases), strict=True)
        sharpened = {k: tuple(s.renumbered(self.origin) for s in own) for k, own in given}

        def leaves(some: np.ndarray) -> list[Tree]:
            numbers = np.array(cases)[member[some]]
            kept = {e: t[some] for e, t in slopes.items()}
            return single_leaves(numbers, clause[some], weights[some], kept, sharpened)

        trees = leaves(np.ones(len(member), bool))
        accepted = self._accept_all(trees)
        for tree in trees if accepted.all() else leaves(accepted):
            self.trees[tree.case].append(tree)
            self.open[tree.case] -= set(tree.clauses)

    def _warm_up(self) -> None:
        """Let the checker bound the whole region, which every proof will need, beside the search's own bounding.

        Networks of few inputs are bounded box by box, and many cases once each.
        """
        undecided = self._undecided()
        if len(undecided) == 1 and self.query.graph.input_size > MOST_INPUTS:
            worker = ThreadPoolExecutor(1)
            self._warm = worker.submit(self._warmed, undecided[0])
            worker.shutdown(wait=False)

    def _warmed(self, k: int) -> None:
        with self._checking.running():
            self.checker.warm(k, lambda: self.budget.expired)

    @cached_property
    def checker(self) -> Checker:
        """Made when the first proof is: it holds the weights in float64 once more."""
        return Checker(self.query.graph, self.query.cases, self.to_check, self.budget.memory)

    @cached_property
    def to_check(self) -> tuple[int, ...]:
        """The nodes of the original graph whose bounds the checker refines: where affine operators were
        merged, it needs more of them than the search."""
        return () if self.strategy.method is Method.INTERVAL else worth_refining(self.query.graph)

    def _accept(self, tree: Tree) -> np.ndarray:
        if self._warm is not None:
            self._warm.result()
        with self._checking.running():
            return self.checker.accept(tree, deadline=lambda: self.budget.expired)

    def _accept_all(self, trees: list[Tree]) -> np.ndarray:
        """Which proofs of the trees, one tree's after the other's, hold."""
        if self._warm is not None:
            self._warm.result()
        with self._checking.running():
            found = self.checker.accept_all(trees, lambda: self.budget.expired)
        return np.concatenate([np.zeros(0, bool), *found])

    def _problem(self, k: int) -> Problem:
        """The clauses of case k that are open."""
        case, numbers, network = self.query.cases[k], tuple(sorted(self.open[k])), self.network
        ((_, inputs),) = stack([case.region], network.dtype, network.device)
        clauses = tuple(case.property.clauses[s] for s in numbers)
        return Problem(network, k, case.region, inputs, clauses, numbers, self.budget, self.known.get(k))

    def _believe(self, k: int) -> None:
        """Take a mixed-integer solver's word for the clauses of case k that are open; unsafe inputs are replayed."""
        self._report("solve")
        case = self.query.cases[k]
        whole = Whole(self.network, case.region, self.mixed, self.budget)
        least = np.inf

        def met(x: np.ndarray) -> None:
            witness = None if k in self.witnesses else self.falsifier.replay(k, x)
            if witness is not None:
                self.witnesses[k] = witness

        for s in sorted(self.open[k]):
            said = whole.ask(case.property.clauses[s], met, lambda: k in self.witnesses)
            if k in self.witnesses:
                return
            if said.safe:
                self.open[k].discard(s)
                self.trusted.add(k)
                continue
            least = min(least, said.lower)
            if not self.budget.expired:
                open_ = {Status.OPTIMAL: Reason.STUCK, Status.REACHED: Reason.STUCK, Status.MEMORY: Reason.MEMORY}
                self.reason[k] = open_.get(said.status, Reason.SOLVER)
            word = f"{self.strategy.solver.value} says that the margin is at least {least:.6g}, which nobody checked"
            self.detail[k] = "; ".join(part for part in (word if least > -np.inf else "", said.detail) if part)
            if self.budget.expired:
                return

    def _search(self, k: int) -> None:
        pursuit = Pursuit(self.falsifier, k, self.open[k], self.budget)

        def make(engine: Engine) -> Search:
            return Search(
                engine,
                k,
                self._accept,
                pursuit,
                self.budget,
                self.origin,
                lambda progress: self._heard(k, progress),
            )

        found, late = searches(self._problem(k), self.strategy, self.refined, make)
        outcome = race(found, self.budget, late)
        if outcome.witness is not None:
            self.witnesses[k] = outcome.witness
        elif outcome.reason is not None:
            self.reason[k] = outcome.reason
            self.lower[k] = max(self.lower[k], outcome.lower)
        else:
            self.trees[k].extend(outcome.trees)
            self.open[k] -= {s for tree in outcome.trees for s in tree.clauses}
