"""Matrices of which nearly all entries are zero: the few of each row, in slots.

Lattice networks (tree-like minima and maxima) written as dense layers have a handful of entries per row; as
slots, products with them cost a thousandth. The field's word for the layout is ELL.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray

SLOTS = 8
"""Rows with more entries than this are left dense."""

LEAST = 1 << 14
"""So are matrices of fewer entries: there is nothing to gain."""


class Slots(NamedTuple):
    """Row r of the matrix has the entries value[k, r] in columns index[k, r], for k = 0, 1, ...; both (K, rows).

    Slots that a row does not need hold 0 in column 0.
    """

    index: Array
    value: Array

    def rows(self, which: Array, columns: int) -> Array:
        """The rows `which` (any shape) of the matrix, (*which.shape, columns)."""
        found = np.zeros((which.size, columns), self.value.dtype)
        at = np.arange(which.size)
        for index, value in zip(self.index, self.value, strict=True):
            np.add.at(found, (at, index[which.reshape(-1)]), value[which.reshape(-1)])
        return found.reshape(*which.shape, columns)


class Sparse(NamedTuple):
    """A matrix by its rows and by its columns."""

    rows: Slots
    columns: Slots


def sparse(matrix: Array) -> Sparse | None:
    """The matrix in slots; None if it is small, or not sparse enough in both directions."""
    if matrix.size < LEAST:
        return None
    filled = matrix != 0
    most = max(int(filled.sum(axis).max(initial=0)) for axis in (0, 1))
    if most > SLOTS or 4 * most > min(matrix.shape):
        return None
    row, column = np.nonzero(filled)
    value = matrix[row, column]
    order = np.argsort(column, kind="stable")
    return Sparse(
        _slots(row, column, value, matrix.shape[0]),
        _slots(column[order], row[order], value[order], matrix.shape[1]),
    )


def _slots(row: Array, column: Array, value: Array, count: int) -> Slots:
    """From entries in the order of their rows."""
    starts = np.searchsorted(row, np.arange(count))
    place = np.arange(len(row)) - starts[row]
    depth = int(place.max(initial=-1)) + 1
    slots = Slots(np.zeros((depth, count), np.int64), np.zeros((depth, count), value.dtype))
    slots.index[place, row], slots.value[place, row] = column, value
    return slots
