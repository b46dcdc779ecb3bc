"""Where the backward pass of a proof begins: the weighted sum of the rows of its clause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certify.check.linear import Pass
from certify.check.tree import Structure
from certify.numerics import gamma, inflate
from certify.spec.property import Clause

Array = np.ndarray


def begin(work: Pass, structure: Structure, proofs: Array) -> None:
    """Begin with the weighted sum of the clause of each of `proofs` (P,): w @ (matrix @ [y; x] - offset)."""
    network, outputs = work.network, work.network.graph.output_size
    last = len(network.rules) - 1
    numbers, which = np.unique(structure.clause[proofs], return_inverse=True)
    matrix, offset = _stacked([structure.clauses[c] for c in numbers])
    _, terms, width = matrix.shape
    rows, size = np.zeros((len(proofs), width)), np.zeros((len(proofs), width))
    constant, offset_size = np.zeros(len(proofs)), np.zeros(len(proofs))
    for r in range(terms):
        weights = structure.tree.weights[proofs, r]
        part, shift = weights[:, None] * matrix[which, r], weights * offset[which, r]
        rows += part
        size += np.abs(part)
        constant -= shift
        offset_size += np.abs(shift)
    share = gamma(terms + 2)
    work.shift(constant[:, None])
    work.error += inflate(share * offset_size, terms)[:, None]
    for i, columns in ((last, slice(0, outputs)), (0, slice(outputs, None))):
        if columns.start == 0 or size[:, columns].any():  # the computed sum may be 0 where the exact one is not
            work.charge(inflate(share * size[:, None, columns], terms), work.bounds.largest[i])
            work.put(i, rows[:, None, columns])


def _stacked(clauses: Sequence[Clause]) -> tuple[Array, Array]:
    """matrix (M, R, n or n + d) and offset (M, R) of M clauses, zero where one has fewer rows or columns."""
    deepest, width = (max(c.matrix.shape[axis] for c in clauses) for axis in (0, 1))
    matrix, offset = np.zeros((len(clauses), deepest, width)), np.zeros((len(clauses), deepest))
    for m, c in enumerate(clauses):
        matrix[m, : len(c.offset), : c.matrix.shape[1]] = c.matrix
        offset[m, : len(c.offset)] = c.offset
    return matrix, offset
