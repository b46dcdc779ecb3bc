"""The split tree of one search, kept as growing arrays, and its turning into evidence."""

from __future__ import annotations

import numpy as np

from certify.evidence import Sharpened, Tree

Array = np.ndarray


class _Column:
    """An array that grows at its end."""

    def __init__(self, dtype: type, width: tuple[int, ...] = ()) -> None:
        self._data = np.zeros((64, *width), dtype)
        self._size = 0

    def extend(self, values: Array) -> None:
        need = self._size + len(values)
        if need > len(self._data):
            grown = np.zeros((max(need, 2 * len(self._data)), *self._data.shape[1:]), self._data.dtype)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        self._data[self._size : need] = values
        self._size = need

    @property
    def view(self) -> Array:
        return self._data[: self._size]


class TreeBuilder:
    """Records splits and proofs as the search makes them; `tree(proofs)` gives them as evidence.

    Row 0 is the root; `sharpened` is how its bounds were found. Leaves are rows that were not split.
    """

    def __init__(self, case: int, clauses: tuple[int, ...], width: int, sharpened: tuple[Sharpened, ...] = ()) -> None:
        self.case, self.clauses, self.sharpened = case, clauses, sharpened
        self._node, self._index, self._point = _Column(np.int32), _Column(np.int64), _Column(np.float64)
        self._below, self._above, self._anchor = _Column(np.int32), _Column(np.int32), _Column(np.int32)
        self._parent = _Column(np.int32)
        self._leaf, self._clause = _Column(np.int32), _Column(np.int32)
        self._weights = _Column(np.float64, (width,))
        self._slopes: dict[int, list[Array]] = {}
        self._multipliers: list[Array] = []
        self.bytes = 0  # of the slopes, which are what proofs mostly consist of
        self._grow(np.zeros(1, np.int32), np.full(1, -1, np.int32))

    def _grow(self, anchor: Array, parent: Array) -> Array:
        count = len(anchor)
        first = len(self._node.view)
        self._node.extend(np.full(count, -1, np.int32))
        self._index.extend(np.zeros(count, np.int64))
        self._point.extend(np.zeros(count))
        self._below.extend(np.zeros(count, np.int32))
        self._above.extend(np.zeros(count, np.int32))
        rows = np.arange(first, first + count, dtype=np.int32)
        self._anchor.extend(anchor)
        self._parent.extend(parent)
        return rows

    @property
    def size(self) -> int:
        return len(self._node.view)

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

    def prove(
        self, rows: Array, clause: Array, weights: Array, slopes: dict[int, Array], multipliers: list[Array]
    ) -> Array:
        """Record proofs that close `clause[i]` on leaf `rows[i]`; returns the proofs' numbers."""
        first = len(self._leaf.view)
        self._leaf.extend(rows)
        self._clause.extend(clause)
        self._weights.extend(weights)
        for e, values in slopes.items():
            self._slopes.setdefault(e, []).extend(np.asarray(values, np.float32))
            self.bytes += 4 * values.size
        self._multipliers.extend(multipliers)
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
        onpath = np.zeros(self.size, bool)
        rows = np.unique(self._leaf.view[proofs])
        while rows.size:
            onpath[rows] = True
            split = rows[self._node.view[rows] >= 0]
            onpath[self._below.view[split]] = onpath[self._above.view[split]] = True
            parents = self._parent.view[rows]
            rows = np.unique(parents[parents >= 0])
        return self._evidence(np.flatnonzero(onpath), np.asarray(proofs))

    def _evidence(self, rows: Array, proofs: Array) -> Tree:
        """The tree of these rows (in order, the root first), which become 0, 1, 2, ..."""
        number = np.zeros(self.size, np.int32)
        number[rows] = np.arange(len(rows))
        node = self._node.view[rows].copy()
        below, above = number[self._below.view[rows]], number[self._above.view[rows]]
        node[(node >= 0) & (below == 0)] = -1  # its children were left out
        multipliers = [self._multipliers[p] for p in proofs]
        lengths = np.array([len(m) for m in multipliers], np.int64)
        return Tree(
            case=self.case,
            clauses=self.clauses,
            node=node,
            index=self._index.view[rows],
            point=self._point.view[rows],
            below=below,
            above=above,
            anchor=number[self._anchor.view[rows]],
            leaf=number[self._leaf.view[proofs]],
            clause=self._clause.view[proofs],
            weights=self._weights.view[proofs],
            slopes={e: np.stack([given[p] for p in proofs]) for e, given in self._slopes.items() if len(proofs)},
            multipliers=np.concatenate(multipliers) if multipliers else np.zeros(0),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            sharpened={0: self.sharpened} if self.sharpened else {},
        )
