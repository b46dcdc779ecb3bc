"""The structure of a split tree: whether it is one, and what its rows' regions and paths are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from certify.check.linear import Network
from certify.errors import EvidenceRejected
from certify.evidence import Tree
from certify.spec.query import Case

Array = np.ndarray

COLUMNS = ("node", "index", "point", "below", "above", "anchor")


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
    """A tree whose form was checked against its case and the network.

    Raises EvidenceRejected unless every row is reached exactly once from row 0, splits name the input or a
    node that an elementwise operator reads, a neuron that exists and a finite point, and the proofs' arrays
    fit one another, leaves, clauses and paths.
    """

    def __init__(self, tree: Tree, case: Case, network: Network) -> None:
        self.tree, self.case, self.network = tree, case, network
        _require_shapes(tree)
        self.size = len(tree.node)
        self.leaf = np.asarray(tree.node == -1)
        self._check_splits()
        self._climb_down()
        self._check_proofs()
        self._check_sharpened()

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
        anchor = tree.anchor[self.leaf]
        _require(((anchor >= 0) & (anchor < self.size)).all(), "an anchor is not a row of the tree")

    def _climb_down(self) -> None:
        """Visit all rows level by level; a row visited twice, or never, is not a tree's."""
        tree = self.tree
        self.parent = np.full(self.size, -1, np.int64)
        self.sign = np.zeros(self.size)
        self.splits = np.zeros(self.size, np.int64)  # neuron splits above each row
        seen = np.zeros(self.size, bool)
        seen[0] = True
        level = np.zeros(1, np.int64)
        while level.size:
            level = level[~self.leaf[level]]
            children = np.concatenate([tree.below[level], tree.above[level]]).astype(np.int64)
            _require(((children > 0) & (children < self.size)).all(), "a child is not a row of the tree")
            _require(not seen[children].any() and len(np.unique(children)) == len(children), "two rows share a child")
            seen[children] = True
            self.parent[children] = np.tile(level, 2)
            self.sign[children] = np.repeat([-1.0, 1.0], len(level))
            self.splits[children] = np.tile(self.splits[level] + (tree.node[level] > 0), 2)
            level = children
        _require(seen.all(), "a row cannot be reached from the root")

    def _check_proofs(self) -> None:
        tree = self.tree
        count = len(tree.leaf)
        clauses = self.case.property.clauses
        _require(bool(len(tree.clauses)), "the tree covers no clause")
        _require(all(0 <= c < len(clauses) for c in tree.clauses), "the tree names a clause that does not exist")
        _require(((tree.leaf >= 0) & (tree.leaf < self.size)).all(), "a proof names a row that does not exist")
        _require(self.leaf[tree.leaf].all(), "a proof names a row that is not a leaf")
        _require(np.isin(tree.clause, list(tree.clauses)).all(), "a proof names a clause that its tree does not cover")
        widest = max(len(clauses[c].offset) for c in tree.clauses)
        _require(tree.weights.shape[1] >= widest or not count, "the weights have too few columns")
        _require(tree.offsets[0] == 0 and tree.offsets[-1] == len(tree.multipliers), "multipliers are left over")
        lengths = np.diff(tree.offsets)
        _require((lengths == self.splits[tree.leaf]).all(), "a proof's multipliers do not match its path")
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

    def _check_sharpened(self) -> None:
        """Rows and nodes exist; parameters are bytes where the node's operator has a free slope."""
        network = self.network
        for row, given in self.tree.sharpened.items():
            _require(isinstance(row, int) and 0 <= row < self.size, "a row that does not exist is sharpened")
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
                    fits = isinstance(e, int) and 0 <= e < part.node and e in network.graph.nonlinear
                    _require(fits, "slopes are given for a node that has none")
                    _require(network.rules[e].free_slope, f"the slopes of node {e} are not free")
                    fits = values.dtype == np.uint8 and values.shape == (rows, network.sizes[e])
                    _require(fits, f"the slopes of node {e} have a wrong shape")

    def climb(self, rows: Array) -> Climb:
        """The boxes and splits of `rows` (P,). Raises EvidenceRejected where the anchor of one is off its path."""
        tree, region = self.tree, self.case.region
        count = len(rows)
        lower, upper = np.tile(region.lower, (count, 1)), np.tile(region.upper, (count, 1))
        found: list[tuple[Array, Array]] = []
        anchored = np.asarray(~self.leaf[rows] | (tree.anchor[rows] == rows))
        who, current = np.arange(count), np.asarray(rows, np.int64)
        while True:
            above = self.parent[current]
            who, current, above = who[above >= 0], current[above >= 0], above[above >= 0]
            if not who.size:
                break
            anchored[who] |= tree.anchor[rows[who]] == above
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


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise EvidenceRejected(otherwise)


def _require_shapes(tree: Tree) -> None:
    """The arrays are arrays of the right kinds of numbers and the right dimensions."""
    whole = (*COLUMNS, "leaf", "clause", "sloped_node", "sloped_neuron")
    kinds: dict[str, tuple[tuple[type, ...], int]] = dict.fromkeys(whole, ((np.int32, np.int64), 1))
    kinds["offsets"] = (np.int64,), 1  # sums of path lengths, which in a narrower type may pass its end
    kinds |= {"point": ((np.float64,), 1), "multipliers": ((np.float64,), 1), "weights": ((np.float64,), 2)}
    kinds |= {"slopes": ((np.uint8,), 2)}
    for name, (types, dims) in kinds.items():
        array = getattr(tree, name)
        fits = isinstance(array, np.ndarray) and array.dtype in types and array.ndim == dims
        _require(fits, f"the tree's {name!r} is not an array of the right kind")
    rows, proofs = len(tree.node), len(tree.leaf)
    _require(rows > 0, "the tree has no row")
    _require(all(len(getattr(tree, name)) == rows for name in COLUMNS), "the tree's columns differ in length")
    _require(len(tree.clause) == proofs and len(tree.weights) == proofs, "the proofs' columns differ in length")
    _require(len(tree.offsets) == proofs + 1, "the proofs' offsets have a wrong length")
    _require(len(tree.sloped_node) == len(tree.sloped_neuron), "the slopes' columns differ in length")
    _require(tree.slopes.shape == (proofs, len(tree.sloped_node)), "the slopes have a wrong shape")
    _require(isinstance(tree.sharpened, dict), "what is sharpened is not a table")
    plain = isinstance(tree.clauses, tuple) and all(isinstance(c, int | np.integer) for c in tree.clauses)
    _require(plain, "the tree's clauses are not numbers")
