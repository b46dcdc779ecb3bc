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


ROW = np.dtype(
    [
        ("node", "i4"),
        ("index", "i8"),
        ("point", "f8"),
        ("below", "i4"),
        ("above", "i4"),
        ("anchor", "i4"),
        ("parent", "i4"),
    ]
)

NAMED = ("node", "index", "point", "below", "above", "anchor")
"""The columns that rows have in evidence."""


class TreeBuilder:
    """Records splits and proofs as the search makes them; `tree(proofs)` gives them as evidence.

    Row 0 is the root; `sharpened` is how its bounds were found. Leaves are rows that were not split. `sloped`
    are the nodes and neurons whose line parameters the proofs name, in the order of evidence. At most about
    eight times `memory` bytes stay in memory, the rest goes to files.
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
        self._rows = Column(ROW, (), memory)
        # `end` is where a proof's multipliers end; those of the first begin at 0
        proof = [("leaf", "i4"), ("clause", "i4"), ("end", "i8"), ("accepted", "?"), ("weights", "f8", (width,))]
        self._proofs = Column(np.dtype(proof), (), memory)
        self._slopes = Column(np.uint8, (len(sloped[0]),), memory)
        self._multipliers = Column(np.float64, (), memory)
        self._grow(np.zeros(1, np.int32), np.full(1, -1, np.int32))

    def _grow(self, anchor: Array, parent: Array) -> Array:
        first, rows = self.size, np.zeros(len(anchor), ROW)
        rows["node"], rows["anchor"], rows["parent"] = -1, anchor, parent
        self._rows.extend(rows)
        return np.arange(first, self.size, dtype=np.int32)

    @property
    def size(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Array:
        """The records of the rows as they are now."""
        return self._rows.view

    @property
    def bytes(self) -> int:
        """What the tree and its proofs take up in memory."""
        return sum(column.bytes for column in (self._rows, self._proofs, self._slopes, self._multipliers))

    def split(self, rows: Array, node: Array, index: Array, point: Array) -> tuple[Array, Array]:
        """Split the leaves `rows`; returns the rows of the `below` and the `above` children.

        A child of an input split is its own anchor, a child of a neuron split keeps its parent's.
        """
        children = self.size + np.arange(2 * len(rows), dtype=np.int32)
        below, above = children[: len(rows)], children[len(rows) :]
        anchor = np.where(np.tile(np.asarray(node) == 0, 2), children, np.tile(self._rows.view["anchor"][rows], 2))
        self._grow(anchor, np.tile(rows, 2))
        view = self._rows.view
        for name, values in zip(ROW.names, (node, index, point, below, above), strict=False):
            view[name][rows] = values
        return below, above

    def prove(self, rows: Array, proofs: Proofs) -> Array:
        """Record proofs, the i-th of which closes its clause on leaf `rows[i]`; returns their numbers."""
        first, found = len(self._proofs), np.zeros(len(rows), self._proofs.dtype)
        found["leaf"], found["clause"], found["weights"] = rows, proofs.clause, proofs.weights
        found["end"] = len(self._multipliers) + proofs.offsets[1:]
        self._proofs.extend(found)
        self._slopes.extend(proofs.slopes)
        self._multipliers.extend(proofs.multipliers)
        return np.arange(first, first + len(rows))

    def accept(self, proofs: Array) -> None:
        """These proofs were accepted by the checker."""
        self._proofs.view["accepted"][proofs] = True

    @property
    def accepted(self) -> Array:
        """The numbers of the proofs that were accepted, ascending."""
        return np.flatnonzero(self._proofs.view["accepted"])

    def tree(self, proofs: Array) -> Tree:
        """The whole tree with these proofs, as evidence. Its arrays are the columns themselves, so that what lies in
        files stays there: what is split later changes them."""
        rows, chosen = self._rows.view, self._gathered(self._proofs, np.asarray(proofs), lambda some: some)
        return self._evidence({name: rows[name] for name in NAMED}, chosen["leaf"], chosen, np.asarray(proofs))

    def closed_by(self, proofs: Array) -> bool:
        """Whether every leaf has one of these proofs for each clause."""
        split, view = self._rows.view["node"] >= 0, self._proofs.view
        for c in self.clauses:
            closed = split.copy()
            for first in range(0, len(proofs), GATHERED):
                some = view[proofs[first : first + GATHERED]]
                closed[some["leaf"][some["clause"] == c]] = True
            if not closed.all():
                return False
        return True

    def part(self, proofs: Array) -> Tree:
        """Only the paths to the leaves of these proofs, other branches being leaves without a proof: all
        that a checker needs to judge these. Later splits do not change what was returned."""
        view = self._rows.view
        rows = np.unique(self._proofs.view["leaf"][proofs])
        found = [np.zeros(1, np.int32)]
        while rows.size:
            own = view[rows]
            split = own[own["node"] >= 0]
            found += [rows, split["below"], split["above"]]
            rows = np.unique(own["parent"][own["parent"] >= 0])
        rows, chosen = np.unique(np.concatenate(found)), self._proofs.view[proofs]
        own = view[rows]

        def number(named: Array) -> tuple[Array, Array]:
            """The new numbers of rows, 0 for those left out; and which are not."""
            found = np.searchsorted(rows, named).astype(np.int32)
            known = rows[np.minimum(found, len(rows) - 1)] == named
            return np.where(known, found, 0), known

        columns = {"index": own["index"].copy(), "point": own["point"].copy()}
        for name in ("below", "above", "anchor"):
            columns[name], known = number(own[name])
            if name == "below":
                columns["node"] = np.where(known, own["node"], -1).astype(np.int32)  # else its children were left out
        return self._evidence(columns, number(chosen["leaf"])[0], chosen, np.asarray(proofs))

    def _evidence(self, columns: dict[str, Array], leaf: Array, chosen: Array, proofs: Array) -> Tree:
        """The tree whose rows have these columns, with the proofs `chosen`, whose numbers are `proofs`."""
        return Tree(
            case=self.case,
            clauses=self.clauses,
            **columns,
            leaf=leaf,
            clause=chosen["clause"],
            weights=chosen["weights"],
            sloped_node=self.sloped[0],
            sloped_neuron=self.sloped[1],
            slopes=self._gathered(self._slopes, proofs, lambda some: some),
            multipliers=self._gathered(self._multipliers, proofs, lambda some: spans(*self._spans(some))),
            offsets=self._offsets(proofs),
            sharpened={0: self.sharpened} if self.sharpened else {},
        )

    def _offsets(self, proofs: Array) -> Array:
        """Where each of these proofs' multipliers begin, those of one behind those of another, and where they end."""
        found, last = Column(np.int64, (), self.memory), np.zeros(1, np.int64)
        found.extend(last)
        for first in range(0, len(proofs), GATHERED):
            starts, ends = self._spans(proofs[first : first + GATHERED])
            offsets = last + np.cumsum(ends - starts)
            found.extend(offsets)
            last = offsets[-1:]
        return found.view

    def _gathered(self, column: Column, proofs: Array, places: Callable[[Array], Array]) -> Array:
        """What a column holds at the places of these proofs; in a file again, where it is much."""
        if np.array_equal(proofs, np.arange(len(self._proofs))):
            return column.view
        found, view = Column(column.dtype, column.shape, self.memory), column.view
        for first in range(0, len(proofs), GATHERED):
            found.extend(view[places(proofs[first : first + GATHERED])])
        return found.view

    def _spans(self, proofs: Array) -> tuple[Array, Array]:
        """Where each of these proofs' multipliers begin and end."""
        ends = self._proofs.view["end"]
        return np.where(proofs > 0, ends[proofs - 1], 0), ends[proofs]
