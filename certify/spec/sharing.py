"""Inputs that a specification says are equal become one input, so that no search has to find out that they are.

Of two networks on one input, as in `(assert (== X_f[0] X_g[0]))`, what is left are the inputs of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from certify.spec.property import Clause, Property
from certify.spec.query import Case
from certify.spec.regions import Region
from certify.spec.terms import NotFloat

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Shared:
    """Which input stands for which: input i of d is input `index[i]` (d,) of `count`."""

    index: Array
    count: int


def equal_inputs(cases: Sequence[Case], inputs: int) -> Shared | None:
    """The inputs that every clause of every case says are equal; None if there are none.

    A clause says so by the two rows x_i - x_j <= 0 and x_j - x_i <= 0.
    """
    clauses = [clause for case in cases for clause in case.property.clauses]
    pairs: set[tuple[int, int]] | None = None
    seen: dict[int, set[tuple[int, int]]] = {}  # clauses that differ in their offsets share a matrix
    for clause in clauses:
        key = id(clause.matrix)
        if key not in seen or clause.offset.any() or clause.strict.any():
            seen[key] = _pairs(clause, inputs)
        pairs = seen[key] if pairs is None else pairs & seen[key]
        if not pairs:
            return None
    if not pairs:
        return None
    least = np.arange(inputs)
    for i, j in sorted(pairs):  # few: one per equality
        least[least == max(least[i], least[j])] = min(least[i], least[j])
    kept, index = np.unique(least, return_inverse=True)
    return Shared(index, len(kept))


def _pairs(clause: Clause, inputs: int) -> set[tuple[int, int]]:
    """Pairs i < j of inputs that the clause says are equal."""
    first = clause.matrix.shape[1] - inputs  # of z = [y; x], or of y alone, which says nothing about inputs
    found: set[tuple[int, int]] = set()
    for row, offset, strict in zip(clause.matrix, clause.offset, clause.strict, strict=True):
        support = np.flatnonzero(row)
        if len(support) == 2 and support[0] >= first and row[support].sum() == 0 and offset == 0 and not strict:
            minus, plus = sorted(support, key=lambda c: row[c])
            found.add((int(minus) - first, int(plus) - first))
    return {(i, j) for i, j in found if i < j and (j, i) in found}


def share(cases: Sequence[Case], shared: Shared) -> list[Case]:
    """The same cases over fewer inputs; those that hold no point are left out.

    Raises NotFloat where coefficients cannot be added up in float64.
    """
    d = len(shared.index)
    found = []
    for case in cases:
        lower, upper = np.full(shared.count, -np.inf), np.full(shared.count, np.inf)
        np.maximum.at(lower, shared.index, case.region.lower)
        np.minimum.at(upper, shared.index, case.region.upper)
        if (lower > upper).any():
            continue
        clauses = [c for c in (_over_shared(clause, d, shared) for clause in case.property.clauses) if c is not None]
        if not clauses:
            continue
        outputs = clauses[0].matrix.shape[1] - shared.count
        if not any(c.matrix[:, outputs:].any() for c in clauses):
            clauses = [Clause(c.matrix[:, :outputs].copy(), c.offset, c.strict) for c in clauses]
        found.append(Case(Region(lower, upper), Property(tuple(clauses))))
    return found


def _over_shared(clause: Clause, inputs: int, shared: Shared) -> Clause | None:
    """The clause over fewer inputs, without rows that hold anyway; None if one never holds."""
    outputs = clause.matrix.shape[1] - inputs
    matrix = np.zeros((len(clause.offset), outputs + shared.count))
    matrix[:, :outputs] = clause.matrix[:, :outputs]
    for r, row in enumerate(clause.matrix):
        exact: dict[int, Fraction] = {}
        for i in np.flatnonzero(row[outputs:]):
            j = int(shared.index[i])
            exact[j] = exact.get(j, Fraction(0)) + Fraction(row[outputs + i])
        for j, value in exact.items():
            matrix[r, outputs + j] = float(value)
            if Fraction(matrix[r, outputs + j]) != value:
                raise NotFloat("a sum of coefficients needs more digits than float64 has")
    empty = ~matrix.any(1)
    if (empty & ((clause.offset < 0) | (clause.strict & (clause.offset == 0)))).any():
        return None
    keep = ~empty
    if not keep.any():
        return Clause(matrix[:1] * 0, np.zeros(1), np.zeros(1, bool))
    return Clause(matrix[keep], clause.offset[keep], clause.strict[keep])
