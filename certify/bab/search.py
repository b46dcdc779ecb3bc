"""The search loop: take domains, bound them, record what is proved, split the rest.

What the search closes is handed at once to the independent checker, in a second thread; only what the
checker accepts becomes evidence, and a domain whose proof it rejects goes back into the pool, to be split.
What cannot be split the engine finishes; only what it cannot decide either leaves the search stuck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from certify.bab.domains import Domains, Pool
from certify.bab.engine import Array, Bounded, Cut, Engine, Proofs, tensor
from certify.bab.tree import TreeBuilder
from certify.budget import Budget
from certify.evidence import Tree, Witness
from certify.verdict import Reason

Accept = Callable[[Tree], Array]
"""The checker: (P,) bool, which proofs of the tree it accepts."""

Try = Callable[[Tensor], Witness | None]
"""Inputs (M, d) worth trying -> a witness replayed on the original, if one of them is."""

FEW = 4
"""Domains that are finished before budget and turn are looked at, and points that are tried together then."""


@dataclass(frozen=True)
class Progress:
    """How far a search is: domains closed and open, the least bound of an open one, seconds; and how many of
    these, of processor time, the checker took."""

    stage: str
    done: int
    open: int
    lower: float
    elapsed: float
    checking: float = 0.0


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
    last: bool  # they cannot be split, should the checker reject them
    parts: list[tuple[int, Array, Array]]  # per tree: its number, the positions in `which`, the proofs
    verdicts: Future[list[tuple[Array, Array]]]  # per part: owner positions in `which`, accepted


HELD = 3
"""Open domains and recorded proofs may take up this many times the memory of one computation."""

COLUMNS = 8
"""What a tree keeps in memory is at most this many times the share of one of its columns."""

PENDING = 4
"""Batches that the checker may be behind: each holds what bounding it left."""

BATCH_SECONDS = 0.5
"""A batch takes about this long at most, so that a search stops soon after it is told to."""


class Search:
    """One branch-and-bound search with one engine."""

    def __init__(
        self,
        engine: Engine,
        case: int,
        accept: Accept,
        attempt: Try,
        budget: Budget,
        origin: Sequence[int],
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        self.engine, self.accept, self.attempt, self.budget, self.report = engine, accept, attempt, budget, report
        self.origin = np.asarray(origin, np.int32)  # the original graph's node for each of the engine's
        self.pool = Pool()
        self.pool.push(engine.root())
        sharpened = tuple(s.renumbered(self.origin) for s in engine.sharpened)
        sloped = self.origin[engine.sloped[0]], engine.sloped[1]
        room = budget.memory // (COLUMNS * len(engine.trees))
        self.builders = [TreeBuilder(case, clauses, engine.depth, sloped, sharpened, room) for clauses in engine.trees]
        self.pending: list[_Batch] = []
        self.ends: list[tuple[Domains, Bounded, Tensor]] = []  # domains that cannot be split, not finished yet
        self.closed = 0
        self.stuck = False  # some domain was left undecided
        self.short = False  # of memory
        self.witness: Witness | None = None
        self._pace = BATCH_SECONDS / 64  # seconds per domain, measured as the search goes
        self._worker = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Let the checker's thread go; what it has not begun is dropped."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def lower(self) -> float:
        """A bound for all that is not proved: closed domains that wait for the checker may be at 0, and what was
        left undecided anywhere."""
        if self.stuck:
            return float("-inf")
        least = min((float(bounded.lower[which].min()) for _, bounded, which in self.ends), default=float("inf"))
        return min(self.pool.lower, least, 0.0 if self.pending else float("inf"))

    def run(self, turn: Budget | None = None) -> Outcome | None:
        """Search to the end; or, given a turn shorter than the budget, until it is over: then None, and
        another call goes on."""
        while (len(self.pool) or self.pending or self.ends) and self.witness is None:
            if self.budget.expired:
                return Outcome(reason=self._why(), lower=self.lower)
            if self.short or self.pool.bytes + sum(b.bytes for b in self.builders) > HELD * self.budget.memory:
                return Outcome(reason=Reason.MEMORY, lower=self.lower)
            if turn is not None and turn.expired:
                return None
            self._collect(wait=len(self.pending) > PENDING or not (len(self.pool) or self.ends))
            if self.ends:
                self._finish(*self.ends.pop())
            elif len(self.pool):
                self._step()
        return self._outcome()

    def _step(self) -> None:
        """One batch, small enough to be done within a fraction of a second."""
        began = time.monotonic()
        allowed = min(BATCH_SECONDS, max(self.budget.remaining, 0.0) / 2)
        domains = self.pool.pop(max(1, min(self._width(), int(allowed / self._pace))))
        try:
            bounded = self.engine.bound(domains)
        except MemoryError:
            self.short = True
            self.pool.push(domains)  # they are open, as before
            return
        self.witness = self.attempt(bounded.points)
        if self.witness is not None:
            return
        closed = bounded.closed.nonzero().squeeze(1)
        if len(closed):
            self._submit(domains, bounded, closed, self.engine.prove(domains, bounded, closed), last=False)
        self._split(domains, bounded, (~bounded.closed).nonzero().squeeze(1))
        self._pace = 0.5 * self._pace + 0.5 * (time.monotonic() - began) / len(domains)
        if self.report is not None:
            self.report(Progress("search", self.closed, len(self.pool), self.lower, self.budget.elapsed))

    def _width(self) -> int:
        """How many domains to take: fewer when those that are open have half of their memory, so that the search goes
        deeper and they hardly become more."""
        room = max(0.0, 1 - self.pool.bytes / self.budget.memory)
        return int(self.engine.width() * min(1.0, 2 * room))

    def finished(self) -> tuple[Tree, ...]:
        """The trees that are proved already; the clauses of the others are open."""
        pairs = [(b, b.accepted) for b in self.builders]
        return tuple(builder.tree(proofs) for builder, proofs in pairs if builder.closed_by(proofs))

    def _outcome(self) -> Outcome:
        if self.witness is not None:
            return Outcome(witness=self.witness)
        if self.stuck:
            return Outcome(reason=self._why(), lower=float("-inf"))
        trees = self.finished()
        if len(trees) < len(self.builders):
            return Outcome(reason=Reason.REJECTED, lower=float("-inf"))
        return Outcome(trees=trees)

    def _why(self) -> Reason:
        if self.budget.expired:
            return Reason.INTERRUPTED if self.budget.cancelled else Reason.TIMEOUT
        return Reason.STUCK

    def _split(self, domains: Domains, bounded: Bounded, which: Tensor) -> None:
        if not len(which):
            return
        cut = self.engine.cut(domains, bounded, which)
        if not bool(cut.possible.all()):
            self.ends.extend((domains, bounded, some) for some in which[~cut.possible].split(FEW))
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
            below[at], above[at] = self.builders[number].split(row[at], self.origin[node[at]], index[at], point[at])
        self.pool.push(self.engine.children(domains, bounded, which, cut, (below, above)))

    def _finish(self, domains: Domains, bounded: Bounded, which: Tensor) -> None:
        """Decide domains that cannot be split."""
        proofs, points = self.engine.finish(domains, bounded, which)
        for part in points.split(FEW):
            self.witness = self.witness or self.attempt(part)
        proved = np.unique(proofs.owner)
        self.stuck |= len(proved) < len(which)
        if len(proved):
            owned = replace(proofs, owner=np.searchsorted(proved, proofs.owner))
            self._submit(domains, bounded, which[tensor(proved, which)], owned, last=True)

    def _submit(self, domains: Domains, bounded: Bounded, which: Tensor, proofs: Proofs, last: bool) -> None:
        """Record proofs of the domains `which` and hand them to the checker."""
        tree, row = domains.tree[which].cpu().numpy(), domains.row[which].cpu().numpy()
        parts = []
        for number in np.unique(tree):
            at = np.flatnonzero(tree[proofs.owner] == number)
            own = proofs.select(at)
            parts.append((int(number), own.owner, self.builders[number].prove(row[own.owner], own)))
        trees = [(self.builders[number].part(numbers), owner) for number, owner, numbers in parts]
        future = self._worker.submit(lambda: [(owner, self.accept(tree)) for tree, owner in trees])
        self.pending.append(_Batch(domains, bounded, which, last, parts, future))

    def _collect(self, wait: bool) -> None:
        """Take in what the checker has decided; rejected domains are split further, or leave the search stuck."""
        if wait and self.pending:
            self._await(self.pending[0].verdicts)
        while self.pending and self.pending[0].verdicts.done():
            batch = self.pending.pop(0)
            good = np.ones(len(batch.which), bool)
            for owner, accepted in batch.verdicts.result():
                np.logical_and.at(good, owner, accepted)
            for number, owner, numbers in batch.parts:
                self.builders[number].accept(numbers[good[owner]])
            self.closed += int(good.sum())
            if batch.last:
                self.stuck |= not good.all()
            else:
                bad = tensor(np.flatnonzero(~good), batch.which)
                self._split(batch.domains, batch.bounded, batch.which[bad])

    def _await(self, future: Future[list[tuple[Array, Array]]]) -> None:
        while not future.done() and not self.budget.expired:
            try:
                future.exception(timeout=0.05)
            except TimeoutError:
                continue
