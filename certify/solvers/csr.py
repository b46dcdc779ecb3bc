"""Sparse matrices as solvers read them: compressed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Csr:
    """A matrix (m, `columns`): row r has the entries `value` at columns `index`, from start[r] to start[r + 1].

    start (m + 1,) int32, index (k,) int32, value (k,) float64; no column twice in a row.
    """

    start: Array
    index: Array
    value: Array
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.start) - 1, self.columns

    @property
    def row(self) -> Array:
        """(k,): the row of each entry."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def times(self, x: Array) -> Array:
        """matrix @ x, (m,)."""
        return np.bincount(self.row, self.value * x[self.index], len(self.start) - 1)

    def transposed_times(self, y: Array) -> Array:
        """matrix' @ y, (n,)."""
        return np.bincount(self.index, self.value * y[self.row], self.columns)


def csr(row: Array, column: Array, value: Array, shape: tuple[int, int]) -> Csr:
    """From entries in any order, each array (k,); those at the same place are added up, zeros left out."""
    place = row.astype(np.int64) * shape[1] + column
    places, at = np.unique(place, return_inverse=True)
    total = np.bincount(at, value, len(places))
    kept = total != 0
    places, total = places[kept], total[kept]
    rows, columns = np.divmod(places, shape[1])
    start = np.searchsorted(rows, np.arange(shape[0] + 1)).astype(np.int32)
    return Csr(start, columns.astype(np.int32), total, shape[1])


class Rows(Protocol):
    """Rows by their entries (row, column, value), each (k,), with bounds (R,)."""

    row: Array
    column: Array
    value: Array
    lower: Array


def stacked(first: Csr, below: Sequence[Rows]) -> Csr:
    """The matrix `first`, and further rows below it."""
    parts = [csr(b.row, b.column, b.value, (len(b.lower), first.columns)) for b in below]
    starts, total = [first.start], int(first.start[-1])
    for part in parts:
        starts.append(total + part.start[1:])
        total += int(part.start[-1])
    return Csr(
        np.concatenate(starts).astype(np.int32),
        np.concatenate([first.index, *(part.index for part in parts)]),
        np.concatenate([first.value, *(part.value for part in parts)]),
        first.columns,
    )


def compressed(matrix: Array) -> Csr:
    """A dense matrix (m, n)."""
    row, column = np.nonzero(matrix)
    return csr(row, column, matrix[row, column], matrix.shape)
