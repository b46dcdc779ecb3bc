"""The structure of a split tree: whether it is one, and what its rows' regions and paths are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from certify.check.linear import Network
from certify.errors import EvidenceRejected
from certify.evidence import Tree
from certify.spec.property import Clause
from certify.spec.query import Case
from certify.spec.regions import Region

Array = np.ndarray

COLUMNS = ("node", "index", "point", "below", "above", "anchor")
WHOLE, FLOAT, BYTE = ("int32", "int64"), ("float64",), ("uint8",)
ARRAYS = {
    name: (tuple(map(np.dtype, kinds)), axes)
    for names, kinds, axes in (
        (("node", "index", "below", "above", "anchor", "leaf", "clause", "sloped_node", "sloped_neuron"), WHOLE, 1),
        (("offsets",), ("int64",), 1),  # sums of path lengths, which in a narrower type may pass its end
        (("point", "multipliers"), FLOAT, 1),
        (("weights",), FLOAT, 2),
        (("slopes",), BYTE, 2),
    )
    for name in names
}
"""Of each array of a tree what numbers it may hold, and how many axes it has."""

JOINABLE = (*COLUMNS, "leaf", "clause", "weights", "slopes", "multipliers")

JOINED = 1 << 26
"""Slopes that trees which are joined may have together: they are copied."""


def require_fit(network: Network, cases: Sequence[Case]) -> None:
    """Raise EvidenceRejected unless the cases' regions and clauses have the network's sizes."""
    inputs, outputs = network.graph.input_size, network.graph.output_size
    for i, case in enumerate(cases):
        region = case.region
        arrays = [region.lower, region.upper, *([] if region.norm is None else [region.center])]
        fits = all(a.shape == (inputs,) and a.dtype == np.float64 for a in arrays)
        _require(fits, f"the region of case {i} does not have the network's {inputs} inputs")
        _require(region.norm in (None, 1, 2, np.inf), f"the region of case {i} has an unknown norm")
        _require(
            region.norm is None or 0 < region.radius < np.inf, f"the radius of case {i} is not positive and finite"
        )
        for c in case.property.clauses:
            rows = c.offset.shape
            fits = c.matrix.shape in ((*rows, outputs), (*rows, outputs + inputs)) and c.strict.shape == rows
            _require(fits, f"a clause of case {i} does not fit the network's {outputs} outputs")
            plain = c.matrix.dtype == c.offset.dtype == np.float64
            _require(plain, f"a clause of case {i} is not made of float64 numbers")


class Climb(NamedTuple):
    """What lies on the paths from some leaves up to the root.

    lower, upper (P, d): the leaf's box. Every neuron split of every path once, in no order: `leaf` says
    whose (a position in 0..P-1), `node`, `index`, `point`, `sign` (+1 value >= point, -1 value <= point)
    what, `place` its number on the path, counted from the root.
    """

    lower: Array
    upper: Array
    leaf: Array
    node: Array
    index: Array
    point: Array
    sign: Array
    place: Array


class Structure:
    """Trees whose form was checked against their cases and the network, read as one tree of several roots.

    `tree` holds the rows and proofs of all, one tree's after the other's, as they were given. Numbers among those of
    all: `anchor` (T,) of every row, `row` (P,) that each proof closes, `clause` (P,) that it closes, in `clauses`.
    Several trees must be of one group of `in_groups`. Raises EvidenceRejected unless every row is reached exactly
    once from its tree's row 0, splits name the input or a node that an elementwise operator reads, a neuron that
    exists and a finite point, and the proofs' arrays fit one another, leaves, clauses and paths.
    """

    def __init__(self, trees: Sequence[Tree], cases: Sequence[Case], network: Network) -> None:
        self.network = network
        regions = [cases[t.case].region for t in trees]
        self.ball = ball_of(regions[0])
        self._lower, self._upper = np.stack([r.lower for r in regions]), np.stack([r.upper for r in regions])
        self._rows = np.array([len(t.node) for t in trees])
        self._first = np.cumsum(self._rows) - self._rows
        self._of_row = np.repeat(np.arange(len(trees)), self._rows)  # the number of its tree
        self._of_proof = np.repeat(np.arange(len(trees)), [len(t.leaf) for t in trees])
        self.clauses: list[Clause] = []
        self._check_clauses(trees, cases)
        self.sharpened = {}
        for first, tree in zip(self._first.tolist(), trees, strict=True):
            self._check_sharpened(tree)
            self.sharpened |= {first + row: given for row, given in tree.sharpened.items()}
        self.tree = trees[0] if len(trees) == 1 else _joined(trees)
        self.size = len(self.tree.node)
        self.leaf = np.asarray(self.tree.node == -1)
        self._check_splits()
        self._climb_down()
        self._check_proofs()

    def _check_clauses(self, trees: Sequence[Tree], cases: Sequence[Case]) -> None:
        """Each tree covers clauses of its case, and proves no others."""
        starts: dict[int, int] = {}  # where the clauses of a case begin
        numbers = []
        for tree in trees:
            clauses = cases[tree.case].property.clauses
            _require(bool(len(tree.clauses)), "the tree covers no clause")
            _require(all(0 <= c < len(clauses) for c in tree.clauses), "the tree names a clause that does not exist")
            covered = np.zeros(len(clauses), bool)
            covered[list(tree.clauses)] = True
            inside = (tree.clause >= 0) & (tree.clause < len(clauses))
            covers = inside.all() and covered[tree.clause].all()
            _require(covers, "a proof names a clause that its tree does not cover")
            widest = max(len(clauses[c].offset) for c in tree.clauses)
            _require(tree.weights.shape[1] >= widest or not len(tree.leaf), "the weights have too few columns")
            if tree.case not in starts:
                starts[tree.case] = len(self.clauses)
                self.clauses += clauses
            numbers.append(tree.clause.astype(np.int64) + starts[tree.case])
        self.clause = np.concatenate(numbers)

    def _check_splits(self) -> None:
        tree, sizes = self.tree, self.network.sizes
        split = ~self.leaf
        node = tree.node[split]
        allowed = np.array([i == 0 or bool(f) for i, f in enumerate(self.network.functions)])
        inside = (node >= 0) & (node < len(sizes))
        _require(inside.all() and allowed[node].all(), "a split names a node that cannot be split")
        index = tree.index[split]
        _require(((index >= 0) & (index < np.array(sizes)[node])).all(), "a split names a neuron that does not exist")
        _require(np.isfinite(tree.point[split]).all(), "a split's point is not finite")
        within = (tree.anchor >= 0) & (tree.anchor < self._rows[self._of_row])
        _require(within[self.leaf].all(), "an anchor is not a row of the tree")
        self.anchor = tree.anchor + self._first[self._of_row]

    def _climb_down(self) -> None:
        """Visit all rows level by level; a row visited twice, or never, is not a tree's."""
        tree = self.tree
        self.parent = np.full(self.size, -1, np.int64)
        self.sign = np.zeros(self.size)
        self.splits = np.zeros(self.size, np.int64)  # neuron splits above each row
        seen = np.zeros(self.size, bool)
        seen[self._first] = True
        level = self._first[~self.leaf[self._first]]
        while level.size:
            owner = np.tile(self._of_row[level], 2)
            children = np.concatenate([tree.below[level], tree.above[level]]).astype(np.int64)
            _require(((children > 0) & (children < self._rows[owner])).all(), "a child is not a row of the tree")
            children += self._first[owner]
            _require(not seen[children].any() and len(np.unique(children)) == len(children), "two rows share a child")
            seen[children] = True
            self.parent[children] = np.tile(level, 2)
            self.sign[children] = np.repeat([-1.0, 1.0], len(level))
            self.splits[children] = np.tile(self.splits[level] + (tree.node[level] > 0), 2)
            level = children[~self.leaf[children]]
        _require(seen.all(), "a row cannot be reached from the root")

    def _check_proofs(self) -> None:
        tree = self.tree
        inside = (tree.leaf >= 0) & (tree.leaf < self._rows[self._of_proof])
        _require(inside.all(), "a proof names a row that does not exist")
        self.row = tree.leaf + self._first[self._of_proof]
        _require(self.leaf[self.row].all(), "a proof names a row that is not a leaf")
        lengths = np.diff(tree.offsets)
        _require((lengths == self.splits[self.row]).all(), "a proof's multipliers do not match its path")
        self.sloped = self._sloped()

    def _sloped(self) -> dict[int, slice]:
        """Which columns of the tree's slopes belong to each node. They must be in order, so that no neuron has two."""
        node, neuron, sizes = self.tree.sloped_node, self.tree.sloped_neuron, np.array(self.network.sizes)
        free = np.array([getattr(rule, "free_slope", False) for rule in self.network.rules])
        inside = (node >= 0) & (node < len(sizes))
        _require(inside.all() and free[node].all(), "slopes are given for a node that has none")
        _require(((neuron >= 0) & (neuron < sizes[node])).all(), "a slope is given for a neuron that does not exist")
        starts = np.append(0, np.cumsum(sizes))
        _require((np.diff(starts[node] + neuron) > 0).all(), "the slopes' neurons are not in order")
        ends = np.searchsorted(node, np.arange(len(sizes)), side="right")
        first = np.append(0, ends)
        return {int(e): slice(int(first[e]), int(ends[e])) for e in np.unique(node)}

    def _check_sharpened(self, tree: Tree) -> None:
        """Rows and nodes exist; parameters are bytes where the node's operator has a free slope."""
        network = self.network
        for row, given in tree.sharpened.items():
            _require(isinstance(row, int) and 0 <= row < len(tree.node), "a row that does not exist is sharpened")
            _require(isinstance(given, tuple), "what is sharpened is not a list")
            for part in given:
                known = isinstance(part.node, int) and 0 < part.node < len(network.sizes)
                _require(known and bool(network.functions[part.node]), "a node that cannot be sharpened is")
                rows = len(part.neuron)
                fits = part.neuron.dtype == np.int64 and part.neuron.shape == part.sign.shape == (rows,)
                _require(fits and part.sign.dtype == np.int8, "what is sharpened has a wrong shape")
                inside = (part.neuron >= 0) & (part.neuron < network.sizes[part.node])
                _require(bool(inside.all()), "a neuron that does not exist is sharpened")
                _require(bool((np.abs(part.sign) == 1).all()), "a sharpened bound is neither lower nor upper")
                for e, values in part.slopes.items():
                    fits = isinstance(e, int) and 0 <= e <= part.node and e in network.graph.nonlinear
                    _require(fits, "slopes are given for a node that has none")
                    _require(network.rules[e].free_slope, f"the slopes of node {e} are not free")
                    fits = values.dtype == np.uint8 and values.shape == (rows, network.sizes[e])
                    _require(fits, f"the slopes of node {e} have a wrong shape")

    def plausible(self, proofs: Array) -> Array:
        """Which of `proofs` have weights and multipliers that a proof may have: >= 0. (Every byte is a slope.)"""
        tree = self.tree
        weights = tree.weights[proofs]
        sizes = np.array([len(c.offset) for c in self.clauses])[self.clause[proofs]]
        beyond = np.arange(weights.shape[1])[None] >= sizes[:, None]
        good = (np.isfinite(weights) & (weights >= 0)).all(1) & (weights > 0).any(1) & ~(beyond & (weights != 0)).any(1)
        bad_multiplier = np.concatenate([[0], np.cumsum(~(np.isfinite(tree.multipliers) & (tree.multipliers >= 0)))])
        return good & (bad_multiplier[tree.offsets[proofs + 1]] == bad_multiplier[tree.offsets[proofs]])

    def parted(self, found: Array) -> list[Array]:
        """What was found of all proofs, tree by tree."""
        return np.split(found, np.cumsum(np.bincount(self._of_proof, minlength=len(self._rows)))[:-1])

    def climb(self, rows: Array) -> Climb:
        """The boxes and splits of `rows` (P,). Raises EvidenceRejected where the anchor of one is off its path."""
        tree, count, owner = self.tree, len(rows), self._of_row[rows]
        lower, upper = self._lower[owner], self._upper[owner]
        found: list[tuple[Array, Array]] = []
        anchored = np.asarray(~self.leaf[rows] | (self.anchor[rows] == rows))
        who, current = np.arange(count), np.asarray(rows, np.int64)
        while True:
            above = self.parent[current]
            who, current, above = who[above >= 0], current[above >= 0], above[above >= 0]
            if not who.size:
                break
            anchored[who] |= self.anchor[rows[who]] == above
            of_input = tree.node[above] == 0
            for side, bound, tighter in ((-1.0, upper, np.minimum), (1.0, lower, np.maximum)):
                cut = of_input & (self.sign[current] == side)
                at = (who[cut], tree.index[above[cut]])
                bound[at] = tighter(bound[at], tree.point[above[cut]])
            found.append((who[~of_input], current[~of_input]))
            current = above
        _require(anchored.all(), "a leaf's anchor is not on its path")
        leaf, child = (np.concatenate([f[i] for f in found]) if found else np.zeros(0, np.int64) for i in (0, 1))
        split = self.parent[child]
        return Climb(
            lower, upper, leaf, tree.node[split], tree.index[split], tree.point[split], self.sign[child],
            self.splits[split],
        )  # fmt: skip


def in_groups(trees: Sequence[Tree], cases: Sequence[Case]) -> list[list[int]]:
    """Numbers of trees that a `Structure` can join: over boxes, or over one case, with slopes of the same neurons.

    Raises EvidenceRejected for a tree whose case does not exist, or whose arrays are not of the right kinds and shapes.
    """
    groups: list[list[int]] = []
    filled: dict[tuple, tuple[list[int], int]] = {}  # the last group of a kind, and the slopes in it
    for number, tree in enumerate(trees):
        known = isinstance(tree.case, int | np.integer) and 0 <= tree.case < len(cases)
        _require(known, "the tree names a case that does not exist")
        _require_shapes(tree)
        case = None if ball_of(cases[tree.case].region) is None else int(tree.case)
        columns = tree.weights.shape[1], tree.slopes.shape[1]
        kind = case, *columns, tree.sloped_node.tobytes(), tree.sloped_neuron.tobytes()
        group, slopes = filled.get(kind, ([], 0))
        if not group or slopes + tree.slopes.size > JOINED:
            group, slopes = [], 0
            groups.append(group)
        group.append(number)
        filled[kind] = group, slopes + tree.slopes.size
    return groups


def ball_of(region: Region) -> Region | None:
    """The region if its dual norm says more than its bounding box."""
    return region if region.norm in (1, 2) else None


def _joined(trees: Sequence[Tree]) -> Tree:
    """All rows and proofs, in order, with the numbers that they have in their own trees."""
    columns = {name: np.concatenate([getattr(t, name) for t in trees]) for name in JOINABLE}
    starts = np.cumsum([0, *(len(t.multipliers) for t in trees)])
    offsets = [t.offsets[:-1] + start for t, start in zip(trees, starts, strict=False)]
    return replace(trees[0], **columns, offsets=np.concatenate([*offsets, starts[-1:]]), sharpened={})


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise EvidenceRejected(otherwise)


def _require_shapes(tree: Tree) -> None:
    """The arrays are arrays of the right kinds of numbers and the right dimensions."""
    for name, (kinds, dims) in ARRAYS.items():
        array = getattr(tree, name)
        fits = isinstance(array, np.ndarray) and array.dtype in kinds and array.ndim == dims
        _require(fits, f"the tree's {name!r} is not an array of the right kind")
    rows, proofs = len(tree.node), len(tree.leaf)
    _require(rows > 0, "the tree has no row")
    _require(all(len(getattr(tree, name)) == rows for name in COLUMNS), "the tree's columns differ in length")
    _require(len(tree.clause) == proofs and len(tree.weights) == proofs, "the proofs' columns differ in length")
    _require(len(tree.offsets) == proofs + 1, "the proofs' offsets have a wrong length")
    whole = tree.offsets[0] == 0 and tree.offsets[-1] == len(tree.multipliers)
    _require(whole, "multipliers are left over")
    _require(len(tree.sloped_node) == len(tree.sloped_neuron), "the slopes' columns differ in length")
    _require(tree.slopes.shape == (proofs, len(tree.sloped_node)), "the slopes have a wrong shape")
    _require(isinstance(tree.sharpened, dict), "what is sharpened is not a table")
    plain = isinstance(tree.clauses, tuple) and all(isinstance(c, int | np.integer) for c in tree.clauses)
    _require(plain, "the tree's clauses are not numbers")
