"""The checker: which proofs prove what they claim, and whether they cover the whole query.

The claim, for the real-valued function that the graph's constants define: for every x in the region of
every case, no clause of the case is unsafe. `certify.evidence` is the contract of the proofs.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from certify.check.begin import begin
from certify.check.bounds import CHUNK, PARAMETERS, Bounds, Stopped, propagate
from certify.check.forms import MOST_INPUTS
from certify.check.linear import Network, Pass
from certify.check.ops import Lines
from certify.check.splits import cut_by_splits, limits_of, misses, multiplied, within
from certify.check.tree import Climb, Structure, ball_of, in_groups, require_fit
from certify.errors import EvidenceRejected
from certify.evidence import Sharpened, Tree, TreeProof
from certify.graph.ir import Graph
from certify.numerics import require_ieee
from certify.spec.query import Case, spec_hash
from certify.spec.regions import Region

Array = np.ndarray

BOXES, FEWEST = 128, 32
"""Anchors that are bounded together at most, and at least, if memory allows; in between, so many that a node's values
stay in a processor's cache. An anchor of more than BOXES proofs is bounded alone."""

RARELY = 0.85
"""A round that leaves more than this share of its proofs undecided costs more than it saves."""

JUDGED = 128
"""Proofs after which a round is judged."""

KEPT = 6
"""Single anchors' bounds that outlive a call."""


@dataclass(frozen=True)
class Report:
    """What checking found: `ok` only if nothing failed. `notes` say more exactly what it is that holds."""

    ok: bool
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Effort(NamedTuple):
    """How tight the bounds of a round are: these nodes are refined, and of them all neurons that vary, or
    only those whose operator is bent."""

    refined: frozenset[int]
    thorough: bool


class Checker:
    """Decides for trees over the cases of one query which of their proofs hold.

    `refined` are the nodes whose bounds are tightened, as in `TreeProof`; `memory` bounds, in bytes and
    roughly, what is held at once. Raises UnsupportedOp naming every node without a rule, EvidenceRejected
    for cases that do not fit the network and for a `refined` that is not a tuple of node numbers.
    """

    def __init__(
        self, graph: Graph, cases: Sequence[Case], refined: tuple[int, ...] = (), memory: int = 1 << 30
    ) -> None:
        require_ieee()
        self.network, self.cases, self.memory = Network(graph), tuple(cases), memory
        require_fit(self.network, self.cases)
        for i in refined:
            if not (isinstance(i, int | np.integer) and 0 <= i < len(graph.nodes)):
                raise EvidenceRejected(f"{i!r} is not the number of a node whose bounds could be refined")
        nodes = frozenset(int(i) for i in refined)
        self.rounds = [Effort(nodes, False)]
        if nodes and graph.input_size <= MOST_INPUTS:
            self.rounds = [Effort(frozenset(), False), Effort(nodes, False), Effort(nodes, True)]
        boxes = min(BOXES, max(FEWEST, 2 * CHUNK // max(self.network.sizes)))
        self._boxes = min(boxes, max(1, memory // (128 * sum(self.network.sizes))))
        self._tried: Counter[Effort] = Counter()  # proofs, by round
        self._failed: Counter[Effort] = Counter()
        self._kept: OrderedDict[tuple, tuple[Bounds, tuple[Sharpened, ...]]] = OrderedDict()

    def accept(self, tree: Tree, rows: Array | None = None, deadline: Callable[[], bool] | None = None) -> Array:
        """Which proofs (P,) of the tree hold; only those numbered in `rows` are looked at, if given.

        Stops soon after `deadline()` turns true; what was not checked by then reads False. Raises
        EvidenceRejected where the tree is malformed. Sound: True means that the clause is nowhere unsafe
        for inputs of the proof's leaf.
        """
        in_groups([tree], self.cases)
        return self._decide(Structure([tree], self.cases, self.network), rows, deadline)

    def accept_all(self, trees: Sequence[Tree], deadline: Callable[[], bool] | None = None) -> list[Array]:
        """As `accept`, for many trees, over any cases: those that resemble one another are checked in one batch."""
        accepted = [np.zeros(0, bool)] * len(trees)
        for members in in_groups(trees, self.cases):
            structure = Structure([trees[i] for i in members], self.cases, self.network)
            parts = structure.parted(self._decide(structure, None, deadline))
            for i, part in zip(members, parts, strict=True):
                accepted[i] = part
        return accepted

    def _decide(self, structure: Structure, rows: Array | None, deadline: Callable[[], bool] | None) -> Array:
        """Which of the structure's proofs (P,) hold, as far as `rows` names them and until the deadline."""
        require_ieee()  # of this thread, too
        count = len(structure.row)
        accepted = np.zeros(count, bool)
        chosen = np.arange(count) if rows is None else np.asarray(rows, np.int64)
        chosen = chosen[structure.plausible(chosen)]
        order = np.argsort(structure.anchor[structure.row[chosen]], kind="stable")
        stop = deadline or (lambda: False)
        try:
            with np.errstate(all="ignore"):  # whatever overflows or is not a number proves nothing
                for part in _by_anchor(structure, chosen[order], self._boxes):
                    self._check(structure, part, accepted, stop)
        except Stopped:
            pass  # the rest stays unchecked, and unchecked means not accepted
        return accepted

    def warm(self, case: int, stop: Callable[[], bool]) -> None:
        """Compute what every proof over the whole region of `case` needs, so that `accept` finds it done.

        Returns early, with nothing done, when `stop()`.
        """
        require_ieee()
        region = self.cases[case].region
        whole = Climb(region.lower[None], region.upper[None], *(np.zeros(0, np.int64) for _ in range(6)))
        try:
            with np.errstate(all="ignore"):
                self._bounds_over(whole, ball_of(region), self.rounds[0], (), stop)
        except Stopped:
            return

    def _check(self, structure: Structure, proofs: Array, accepted: Array, stop: Callable[[], bool]) -> None:
        """Check `proofs`, whose anchors are few enough to be bounded together.

        For networks of few inputs, whose searches split boxes, there are several rounds, each for what those before
        did not prove. A proof is accepted if any round would prove it, so that their order, which depends on what
        was checked before, does not change the answer.
        """
        for effort in self._in_order():
            anchors, which = np.unique(structure.anchor[structure.row[proofs]], return_inverse=True)
            bounds = self._bounds(structure, anchors, effort, stop)
            total = sum(self.network.sizes)
            step = max(1, min(self.memory // 128, max(8 * CHUNK, 16 * total)) // total)
            for first in range(0, len(proofs), step):
                if stop():
                    raise Stopped
                part = slice(first, first + step)
                own = bounds.take(which[part]) if len(anchors) > 1 else bounds
                accepted[proofs[part]] = self._replay(structure, proofs[part], own)
            self._tried[effort] += len(proofs)
            proofs = proofs[~accepted[proofs]]
            self._failed[effort] += len(proofs)
            if not len(proofs):
                return

    def _in_order(self) -> list[Effort]:
        """The rounds, cheapest first; but those that hardly prove anything come last."""
        return sorted(self.rounds, key=lambda r: self._failed[r] > RARELY * self._tried[r] and self._tried[r] > JUDGED)

    def _bounds(self, structure: Structure, anchors: Array, effort: Effort, stop: Callable[[], bool]) -> Bounds:
        """Bounds over the boxes of `anchors`."""
        sharpened = structure.sharpened.get(int(anchors[0]), ()) if len(anchors) == 1 and effort.refined else ()
        return self._bounds_over(structure.climb(anchors), structure.ball, effort, sharpened, stop)

    def _bounds_over(
        self,
        climb: Climb,
        ball: Region | None,
        effort: Effort,
        sharpened: tuple[Sharpened, ...],
        stop: Callable[[], bool],
    ) -> Bounds:
        """Bounds over the regions that `climb` describes; those of single ones are kept for the next call.

        What is sharpened starts from the bounds without it, so that only neurons that these leave bent are bounded
        again. The answer does not depend on what was kept.
        """
        count = len(climb.lower)
        alone = count == 1
        limits = limits_of(climb, self.network, count)
        arrays = [climb.lower, climb.upper, *(x for v in sorted(limits) for x in (np.array(v), *limits[v]))]
        key = (id(ball), effort, b"".join(x.tobytes() for x in arrays), tuple(map(id, sharpened)))
        bounds, _ = self._kept.pop(key, (None, ())) if alone else (None, ())
        if bounds is None:
            if sharpened:
                plain = self._bounds_over(climb, ball, effort, (), stop)
                limits = {v: within(limits.get(v), plain, v) for v in {*limits, *effort.refined}}
            bounds = propagate(
                self.network,
                climb.lower,
                climb.upper,
                refined=effort.refined,
                thorough=effort.thorough,
                cut=limits,
                sharpened=sharpened,
                ball=ball,
                memory=self.memory,
                stop=stop,
            )
        if alone:
            self._kept[key] = bounds, sharpened  # which the key names by their identity
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return bounds

    def _replay(self, structure: Structure, proofs: Array, bounds: Bounds) -> Array:
        """Whether each of `proofs` (P,) holds, given its anchor's bounds (P or 1 boxes)."""
        tree = structure.tree
        climb = structure.climb(structure.row[proofs])
        empty = (climb.lower > climb.upper).any(1)
        if structure.ball is not None:
            empty |= misses(structure.ball, climb.lower, climb.upper)
        cut, splits_empty = cut_by_splits(climb, bounds, self.network, len(proofs))
        lines = self._lines(structure, proofs, bounds, cut)
        multipliers = tree.multipliers[tree.offsets[proofs[climb.leaf]] + climb.place]
        extras = multiplied(climb, multipliers, bounds, self.network, len(proofs))
        work = Pass(self.network, bounds, (len(proofs), 1))
        begin(work, structure, proofs)
        work.run(lines, extras)
        lower = work.lower(climb.lower, climb.upper, structure.ball)[:, 0]
        return empty | splits_empty | (np.isfinite(lower) & (lower > 0))

    def _lines(
        self, structure: Structure, proofs: Array, bounds: Bounds, cut: dict[int, tuple[Array, Array]]
    ) -> dict[int, Lines]:
        """The lines of those elementwise nodes for which the proofs have slopes or split intervals."""
        lines, tree = {}, structure.tree
        for e in self.network.graph.nonlinear:
            node = self.network.graph.nodes[e]
            v = node.inputs[0]
            if v not in cut and e not in structure.sloped:
                continue
            lower, upper = cut.get(v, (bounds.lower[v], bounds.upper[v]))
            free = None
            if e in structure.sloped:
                columns = structure.sloped[e]
                free = np.full((len(proofs), node.size), np.nan)
                free[:, tree.sloped_neuron[columns]] = PARAMETERS[tree.slopes[proofs, columns]]
                free = free.reshape(-1, *node.shape)
            lines[e] = self.network.rules[e].lines(lower, upper, free)
        return lines


def check_proof(
    graph: Graph,
    cases: Sequence[Case],
    proof: TreeProof,
    memory: int = 1 << 30,
    deadline: Callable[[], bool] | None = None,
) -> Report:
    """Whether `proof` proves every clause of every case. Evidence that is malformed fails; it raises nothing.

    Raises UnsupportedOp where the checker has no rule for a node of the graph.
    """
    failures = []
    if proof.graph_hash != graph.hash:
        failures.append("the proof is about another network (the hashes differ)")
    if proof.spec_hash != spec_hash(cases):
        failures.append("the proof is about another property (the hashes differ)")
    if not cases:
        failures.append("there is no case: nothing would be proved")
    if failures:
        return Report(False, tuple(failures))
    try:
        checker = Checker(graph, cases, tuple(proof.refined), memory)
        covered: set[tuple[int, int]] = set()
        accepted = checker.accept_all(proof.trees, deadline)
        for number, tree in enumerate(proof.trees):
            open_leaves = _open_leaves(tree, accepted[number])
            if open_leaves:
                failures.append(f"tree {number}: {open_leaves}")
            else:
                covered |= {(int(tree.case), int(c)) for c in tree.clauses}
    except EvidenceRejected as error:
        return Report(False, (*failures, str(error)))
    for i, case in enumerate(cases):
        missing = [c for c in range(len(case.property.clauses)) if (i, c) not in covered]
        if missing:
            failures.append(f"case {i}: no tree proves clause {missing[0]} ({len(missing)} of its clauses are open)")
    return Report(not failures, tuple(failures))


def _open_leaves(tree: Tree, accepted: Array) -> str:
    """Which leaf has no accepted proof for some clause of its tree; empty if none."""
    leaves = np.flatnonzero(tree.node == -1)
    for c in tree.clauses:
        closed = np.zeros(len(tree.node), bool)
        closed[tree.leaf[accepted & (tree.clause == c)]] = True
        still = leaves[~closed[leaves]]
        if still.size:
            return f"{still.size} of {leaves.size} leaves are not proved for clause {c}, the first in row {still[0]}"
    return ""


def _by_anchor(structure: Structure, proofs: Array, boxes: int) -> list[Array]:
    """Proofs, sorted by anchor, in groups of at most `boxes` anchors; one that many share, or that is sharpened,
    stands alone."""
    anchors = structure.anchor[structure.row[proofs]]
    starts = np.flatnonzero(np.diff(anchors, prepend=-1))
    counts = np.diff(np.append(starts, len(proofs)))
    groups, current = [], []
    for start, count in zip(starts, counts, strict=True):
        if count > BOXES or int(anchors[start]) in structure.sharpened:
            groups.append(proofs[start : start + count])
            continue
        current.append(proofs[start : start + count])
        if len(current) == boxes:
            groups.append(np.concatenate(current))
            current = []
    return groups + ([np.concatenate(current)] if current else [])
