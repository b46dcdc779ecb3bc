"""The split tree of one search, kept as growing arrays, and its turning into evidence."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from certify.bab.column import Column
from certify.bab.engine import Array, Proofs, spans
from certify.evidence import Sharpened, Tree

GATHERED = 1 << 14
"""Proofs that are gathered at a time."""


class TreeBuilder:
    """Records splits and proofs as the search makes them; `tree(proofs)` gives them as evidence.

    Row 0 is the root; `sharpened` is how its bounds were found. Leaves are rows that were not split. `sloped`
    are the nodes and neurons whose line parameters the proofs name, in the order of evidence. Of parameters
    and multipliers, which are what proofs mostly consist of, at most `memory` bytes each are kept in memory.
    """

    def __init__(
        self,
        case: int,
        clauses: tuple[int, ...],
        width: int,
        sloped: tuple[Array, Array],
        sharpened: tuple[Sharpened, ...] = (),
        memory: int = sys.maxsize,
    ) -> None:
        self.case, self.clauses, self.sloped, self.sharpened = case, clauses, sloped, sharpened
        self.memory = memory
        self._node, self._index, self._point = Column(np.int32), Column(np.int64), Column(np.float64)
        self._below, self._above, self._anchor = Column(np.int32), Column(np.int32), Column(np.int32)
        self._parent = Column(np.int32)
        self._leaf, self._clause = Column(np.int32), Column(np.int32)
        self._weights = Column(np.float64, (width,))
        self._slopes = Column(np.uint8, (len(sloped[0]),), memory)
        self._multipliers = Column(np.float64, (), memory)
        self._ends = Column(np.int64)  # of each proof's multipliers, after a 0
        self._ends.extend(np.zeros(1))
        self._grow(np.zeros(1, np.int32), np.full(1, -1, np.int32))

    def _grow(self, anchor: Array, parent: Array) -> Array:
        count, first = len(anchor), self.size
        self._node.extend(np.full(count, -1))
        for column in (self._index, self._point, self._below, self._above):
            column.extend(np.zeros(count))
        self._anchor.extend(anchor)
        self._parent.extend(parent)
        return np.arange(first, first + count, dtype=np.int32)

    @property
    def size(self) -> int:
        return len(self._node)

    @property
    def bytes(self) -> int:
        """What the tree and its proofs take up in memory."""
        return sum(column.bytes for column in vars(self).values() if isinstance(column, Column))

    def split(self, rows: Array, node: Array, index: Array, point: Array) -> tuple[Array, Array]:
        """Split the leaves `rows`; returns the rows of the `below` and the `above` children.

        A child of an input split is its own anchor, a child of a neuron split keeps its parent's.
        """
        count = len(rows)
        inherited = np.tile(self._anchor.view[rows], 2)
        children = self._grow(inherited, np.tile(rows, 2))
        below, above = children[:count], children[count:]
        self._node.view[rows], self._index.view[rows], self._point.view[rows] = node, index, point
        self._below.view[rows], self._above.view[rows] = below, above
        of_input = np.tile(np.asarray(node) == 0, 2)
        self._anchor.view[children[of_input]] = children[of_input]
        return below, above

    def prove(self, rows: Array, proofs: Proofs) -> Array:
        """Record proofs, the i-th of which closes its clause on leaf `rows[i]`; returns their numbers."""
        first, multipliers = len(self._leaf), len(self._multipliers)
        self._leaf.extend(rows)
        self._clause.extend(proofs.clause)
        self._weights.extend(proofs.weights)
        self._slopes.extend(proofs.slopes)
        self._multipliers.extend(proofs.multipliers)
        self._ends.extend(multipliers + proofs.offsets[1:])
        return np.arange(first, first + len(rows))

    def tree(self, proofs: Array) -> Tree:
        """The whole tree with these proofs, as evidence."""
        return self._evidence(np.arange(self.size), np.asarray(proofs))

    def closed_by(self, proofs: Array) -> bool:
        """Whether every leaf has one of these proofs for each clause."""
        leaves, leaf, clause = np.flatnonzero(self._node.view < 0), self._leaf.view[proofs], self._clause.view[proofs]
        return all(np.isin(leaves, leaf[clause == c]).all() for c in self.clauses)

    def part(self, proofs: Array) -> Tree:
        """Only the paths to the leaves of these proofs, other branches being leaves without a proof: all
        that a checker needs to judge these. Later splits do not change what was returned."""
        rows = np.unique(self._leaf.view[proofs])
        found = [np.zeros(1, np.int32)]
        while rows.size:
            split = rows[self._node.view[rows] >= 0]
            found += [rows, self._below.view[split], self._above.view[split]]
            parents = self._parent.view[rows]
            rows = np.unique(parents[parents >= 0])
        return self._evidence(np.unique(np.concatenate(found)), np.asarray(proofs))

    def _evidence(self, rows: Array, proofs: Array) -> Tree:
        """The tree of these rows (in order, the root first), which become 0, 1, 2, ..."""

        def number(column: Column) -> tuple[Array, Array]:
            """The new numbers of the rows that a column names, 0 for those left out; and which are not."""
            named = column.view[rows]
            found = np.searchsorted(rows, named).astype(np.int32)
            known = rows[np.minimum(found, len(rows) - 1)] == named
            return np.where(known, found, 0), known

        node = self._node.view[rows]
        (below, known), (above, _), (anchor, _) = map(number, (self._below, self._above, self._anchor))
        node[~known] = -1  # its children were left out
        lengths = self._ends.view[proofs + 1] - self._ends.view[proofs]
        return Tree(
            case=self.case,
            clauses=self.clauses,
            node=node,
            index=self._index.view[rows],
            point=self._point.view[rows],
            below=below,
            above=above,
            anchor=anchor,
            leaf=np.searchsorted(rows, self._leaf.view[proofs]).astype(np.int32),
            clause=self._clause.view[proofs],
            weights=self._weights.view[proofs],
            sloped_node=self.sloped[0],
            sloped_neuron=self.sloped[1],
            slopes=self._gathered(self._slopes, proofs, lambda some: some),
            multipliers=self._gathered(self._multipliers, proofs, self._of_paths),
            offsets=np.append(0, np.cumsum(lengths)),
            sharpened={0: self.sharpened} if self.sharpened else {},
        )

    def _gathered(self, column: Column, proofs: Array, places: Callable[[Array], Array]) -> Array:
        """What a column holds at the places of these proofs; in a file again, where it is much."""
        if np.array_equal(proofs, np.arange(len(self._leaf))):
            return column.view
        found, view = Column(column.dtype, column.shape, self.memory), column.view
        for first in range(0, len(proofs), GATHERED):
            found.extend(view[places(proofs[first : first + GATHERED])])
        return found.view

    def _of_paths(self, proofs: Array) -> Array:
        """The places of these proofs' multipliers."""
        ends = self._ends.view
        return spans(ends[proofs], ends[proofs + 1])
