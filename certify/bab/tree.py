"""The split tree of one search, kept as growing arrays, and its turning into evidence."""

from __future__ import annotations

import numpy as np

from certify.evidence import Tree

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

    Row 0 is the root. Leaves are rows that were not split.
    """

    def __init__(self, case: int, clauses: tuple[int, ...], width: int) -> None:
        self.case, self.clauses = case, clauses
        self._node, self._index, self._point = _Column(np.int32), _Column(np.int64), _Column(np.float64)
        self._below, self._above, self._anchor = _Column(np.int32), _Column(np.int32), _Column(np.int32)
        self._leaf, self._clause = _Column(np.int32), _Column(np.int32)
        self._weights = _Column(np.float64, (width,))
        self._slopes: dict[int, list[Array]] = {}
        self._multipliers: list[Array] = []
        self._grow(1, np.zeros(1, np.int32))

    def _grow(self, count: int, anchor: Array) -> Array:
        first = len(self._node.view)
        self._node.extend(np.full(count, -1, np.int32))
        self._index.extend(np.zeros(count, np.int64))
        self._point.extend(np.zeros(count))
        self._below.extend(np.zeros(count, np.int32))
        self._above.extend(np.zeros(count, np.int32))
        rows = np.arange(first, first + count, dtype=np.int32)
        self._anchor.extend(anchor)
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
        children = self._grow(2 * count, inherited)
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
        self._multipliers.extend(multipliers)
        return np.arange(first, first + len(rows))

    def tree(self, proofs: Array | None = None) -> Tree:
        """The whole tree with these proofs (all of them if None), as evidence."""
        chosen = np.arange(len(self._leaf.view)) if proofs is None else np.asarray(proofs)
        multipliers = [self._multipliers[p] for p in chosen]
        lengths = np.array([len(m) for m in multipliers], np.int64)
        return Tree(
            case=self.case,
            clauses=self.clauses,
            node=self._node.view,
            index=self._index.view,
            point=self._point.view,
            below=self._below.view,
            above=self._above.view,
            anchor=self._anchor.view,
            leaf=self._leaf.view[chosen],
            clause=self._clause.view[chosen],
            weights=self._weights.view[chosen],
            slopes={e: np.stack([rows[p] for p in chosen]) for e, rows in self._slopes.items()} if len(chosen) else {},
            multipliers=np.concatenate(multipliers) if multipliers else np.zeros(0),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )
