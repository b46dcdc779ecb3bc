"""The search loop: take domains, bound them, record what is proved, split the rest.

What the search closes is handed at once to the independent checker, in a second thread; only what the
checker accepts becomes evidence, and a domain whose proof it rejects goes back into the pool, to be split.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bab.domains import Domains, Pool
from certify.bab.engine import Array, Bounded, Cut, Engine, Proofs
from certify.bab.tree import TreeBuilder
from certify.budget import Budget
from certify.evidence import Tree, Witness
from certify.verdict import Reason

Accept = Callable[[Tree], Array]
"""The checker: (P,) bool, which proofs of the tree it accepts."""

Try = Callable[[Tensor], Witness | None]
"""Inputs (M, d) worth trying -> a witness replayed on the original, if one of them is."""


@dataclass(frozen=True)
class Progress:
    """How far a search is: domains closed and open, the least bound of an open one, seconds."""

    stage: str
    done: int
    open: int
    lower: float
    elapsed: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a search ended: trees that prove everything, or a witness, or the reason for neither."""

    trees: tuple[Tree, ...] = ()
    witness: Witness | None = None
    reason: Reason | None = None
    lower: float = float("inf")


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch of domains whose proofs the checker is looking at."""

    domains: Domains
    bounded: Bounded
    which: Tensor  # positions of the closed domains
    parts: list[tuple[int, Array, Array]]  # per tree: its number, the positions in `which`, the proofs
    verdicts: Future[list[tuple[Array, Array]]]  # per part: owner positions in `which`, accepted


class Search:
    """One branch-and-bound search with one engine."""

    def __init__(
        self,
        engine: Engine,
        case: int,
        accept: Accept,
        attempt: Try,
        budget: Budget,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        self.engine, self.accept, self.attempt, self.budget, self.report = engine, accept, attempt, budget, report
        self.pool = Pool()
        self.pool.push(engine.root())
        self.builders = [TreeBuilder(case, clauses, engine.depth) for clauses in engine.trees]
        self.accepted: list[list[Array]] = [[] for _ in engine.trees]
        self.pending: list[_Batch] = []
        self.closed = 0
        self.stuck: Reason | None = None
        self._worker = ThreadPoolExecutor(1)

    def run(self) -> Outcome:
        try:
            return self._run()
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> Outcome:
        while len(self.pool) or self.pending:
            if self.budget.expired:
                reason = Reason.INTERRUPTED if self.budget.cancelled else Reason.TIMEOUT
                return Outcome(reason=reason, lower=self.pool.lower)
            self._collect(wait=not len(self.pool))
            if not len(self.pool):
                continue
            domains = self.pool.pop(self.engine.width())
            bounded = self.engine.bound(domains)
            witness = self.attempt(bounded.points)
            if witness is not None:
                return Outcome(witness=witness)
            closed = bounded.closed.nonzero().squeeze(1)
            if len(closed):
                self._submit(domains, bounded, closed)
            self._split(domains, bounded, (~bounded.closed).nonzero().squeeze(1))
            if self.report is not None:
                self.report(Progress("search", self.closed, len(self.pool), self.pool.lower, self.budget.elapsed))
        if self.stuck is not None:
            return Outcome(reason=self.stuck, lower=float("-inf"))
        trees = (
            builder.tree(np.concatenate(proofs)) for builder, proofs in zip(self.builders, self.accepted, strict=True)
        )
        return Outcome(trees=tuple(trees))

    def _split(self, domains: Domains, bounded: Bounded, which: Tensor) -> None:
        if not len(which):
            return
        cut = self.engine.cut(domains, bounded, which)
        if not bool(cut.possible.all()):
            self.stuck = Reason.STUCK
            keep = cut.possible.nonzero().squeeze(1)
            which = which[keep]
            cut = Cut(cut.node[keep], cut.index[keep], cut.point[keep], cut.possible[keep])
            if not len(which):
                return
        tree, row = domains.tree[which].cpu().numpy(), domains.row[which].cpu().numpy()
        node, index, point = (t.cpu().numpy() for t in (cut.node, cut.index, cut.point))
        below, above = np.zeros(len(row), np.int32), np.zeros(len(row), np.int32)
        for number in np.unique(tree):
            at = np.flatnonzero(tree == number)
            below[at], above[at] = self.builders[number].split(row[at], node[at], index[at], point[at])
        self.pool.push(self.engine.children(domains, bounded, which, cut, (below, above)))

    def _submit(self, domains: Domains, bounded: Bounded, which: Tensor) -> None:
        proofs = self.engine.prove(domains, bounded, which)
        tree, row = domains.tree[which].cpu().numpy(), domains.row[which].cpu().numpy()
        parts = []
        for number in np.unique(tree):
            at = np.flatnonzero(tree[proofs.owner] == number)
            numbers = self._record(self.builders[number], proofs, at, row)
            parts.append((int(number), proofs.owner[at], numbers))
        trees = [(self.builders[number].part(numbers), owner) for number, owner, numbers in parts]
        future = self._worker.submit(lambda: [(owner, self.accept(tree)) for tree, owner in trees])
        self.pending.append(_Batch(domains, bounded, which, parts, future))

    @staticmethod
    def _record(builder: TreeBuilder, proofs: Proofs, at: Array, row: Array) -> Array:
        return builder.prove(
            row[proofs.owner[at]],
            proofs.clause[at],
            proofs.weights[at],
            {e: s[at] for e, s in proofs.slopes.items()},
            [proofs.multipliers[p] for p in at],
        )

    def _collect(self, wait: bool) -> None:
        """Take in what the checker has decided; rejected domains are split further."""
        if wait and self.pending:
            self._await(self.pending[0].verdicts)
        while self.pending and self.pending[0].verdicts.done():
            batch = self.pending.pop(0)
            good = np.ones(len(batch.which), bool)
            for owner, accepted in batch.verdicts.result():
                np.logical_and.at(good, owner, accepted)
            for number, owner, numbers in batch.parts:
                self.accepted[number].append(numbers[good[owner]])
            self.closed += int(good.sum())
            bad = torch.from_numpy(np.flatnonzero(~good)).to(batch.which.device)
            self._split(batch.domains, batch.bounded, batch.which[bad])

    def _await(self, future: Future[list[tuple[Array, Array]]]) -> None:
        while not future.done() and not self.budget.expired:
            try:
                future.exception(timeout=0.05)
            except TimeoutError:
                continue
