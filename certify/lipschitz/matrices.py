"""The affine operators as sparse matrices, and their products with what rounding may have lost.

A matrix is kept as its float64 value and a bound of its error, entry by entry. The matrices of operators are exact;
so is a product with a matrix that only picks entries, and most networks need no other within a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from scipy import sparse

from certify.check.linear import RULES
from certify.check.ops import Array, Shape
from certify.errors import CertifyError
from certify.graph import ops
from certify.graph.ir import Node
from certify.graph.rules import Rules
from certify.numerics import TINY, UNIT, exact, gamma

LARGEST = 2.0**100
"""Entries up to which underflow, wherever it may be, is less than what is added for it (TINY)."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A real matrix within `error` (m, n), entry by entry, of `value` (m, n); both CSR, float64. None is no error."""

    value: sparse.csr_array
    error: sparse.csr_array | None = None

    @classmethod
    def identity(cls, size: int) -> Matrix:
        return cls(sparse.eye_array(size, format="csr"))

    @property
    def shape(self) -> tuple[int, int]:
        return self.value.shape

    @property
    def size(self) -> sparse.csr_array:
        """At least the absolute value of every entry, up to one rounding."""
        return abs(self.value) if self.error is None else abs(self.value) + self.error

    @property
    def T(self) -> Matrix:
        return Matrix(self.value.T.tocsr(), None if self.error is None else self.error.T.tocsr())

    def __matmul__(self, other: Matrix) -> Matrix:
        value = (self.value @ other.value).tocsr()
        if _moves_rows(self.value) or _moves_rows(other.value.T.tocsr()):
            error = None
        else:
            terms = int(np.diff(self.value.indptr).max(initial=0))
            error = gamma(2 * terms + 8) * (abs(self.value) @ abs(other.value))
        for part in (
            None if self.error is None else self.error @ other.size,
            None if other.error is None else abs(self.value) @ other.error,
        ):
            if part is not None:
                error = part if error is None else error + part
        return _checked(Matrix(value, _up(error, self.shape[1])))

    def __add__(self, other: Matrix) -> Matrix:
        value = (self.value + other.value).tocsr()
        apart = value.nnz == self.value.nnz + other.value.nnz  # no entry of one met an entry of the other
        error = None if apart else 2 * UNIT * (abs(self.value) + abs(other.value))
        for part in (self.error, other.error):
            if part is not None:
                error = part if error is None else error + part
        return _checked(Matrix(value, _up(error, 2)))

    def take(self, rows: Array, columns: Array | None = None) -> Matrix:
        """The entries where these rows meet these columns (all, for None)."""

        def taken(part: sparse.csr_array) -> sparse.csr_array:
            return part[rows] if columns is None else part[rows][:, columns]

        return Matrix(taken(self.value), None if self.error is None else taken(self.error))

    def rows_times(self, factors: Array) -> Matrix:
        """Each row times its factor (m,)."""
        return Matrix(sparse.diags_array(factors).tocsr()) @ self


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """The matrices, one below the other."""
    value = sparse.vstack([p.value for p in parts], format="csr")
    if all(p.error is None for p in parts):
        return Matrix(value)
    none = [sparse.csr_array(p.shape) if p.error is None else p.error for p in parts]
    return Matrix(value, sparse.vstack(none, format="csr"))


def _moves_rows(matrix: sparse.csr_array) -> bool:
    """Whether a product with this matrix on the left copies rows, but for powers of two: nothing is rounded."""
    mantissa, exponent = np.frexp(np.abs(matrix.data))
    single = (np.diff(matrix.indptr) <= 1).all() and (np.abs(exponent) < 64).all()
    return bool(single and ((mantissa == 0.5) | (mantissa == 0)).all())


def _up(error: sparse.csr_array | None, terms: int) -> sparse.csr_array | None:
    """What was computed from `terms` numbers >= 0, rounded up."""
    if error is None:
        return None
    error = error.tocsr()
    error.data = error.data * (1 + gamma(4 * terms + 64)) + TINY
    return error


def _checked(matrix: Matrix) -> Matrix:
    if not np.abs(matrix.value.data).max(initial=0.0) < LARGEST:
        raise CertifyError("the weights are too large for bounds of the Lipschitz constant", "scale the network down")
    return matrix


MATRICES: Rules[Callable[[ops.Affine, Node, Sequence[Shape]], list[sparse.csr_array]]] = Rules("Lipschitz bounds")
"""Affine operator -> its exact matrix per input, (size of the node, size of the input)."""


def matrices_of(op: ops.Affine, node: Node, shapes: Sequence[Shape]) -> list[Matrix]:
    """The matrices by which a node multiplies its flattened inputs. Raises CertifyError beyond 2^100."""
    return [_checked(Matrix(m)) for m in MATRICES[op](op, node, shapes)]


@MATRICES(ops.Constant)
def _constant(op: ops.Constant, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    return []


@MATRICES(ops.Linear)
def _linear(op: ops.Linear, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    weight = sparse.csr_array(exact(op.weight))
    lead = prod(shapes[0][:-1])
    return [weight if lead == 1 else sparse.kron(sparse.eye_array(lead), weight, format="csr")]


@MATRICES(ops.Scale)
def _scale(op: ops.Scale, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    return [sparse.diags_array(np.broadcast_to(exact(op.scale), node.shape).reshape(-1)).tocsr()]


@MATRICES(ops.Conv)
def _conv(op: ops.Conv, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    return [_correlation(op, node.shape, shapes[0])]


@MATRICES(ops.ConvTranspose)
def _conv_transpose(op: ops.ConvTranspose, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    return [_correlation(op, shapes[0], node.shape).T.tocsr()]


def _correlation(op: ops.Conv | ops.ConvTranspose, narrow: Shape, wide: Shape) -> sparse.csr_array:
    """The correlation with the kernel from what is padded, `wide`, to `narrow`: (size of narrow, size of wide)."""
    dims, weight = len(op.stride), exact(op.weight)
    lead, spatial = prod(wide[: -dims - 1]), narrow[-dims:]
    size = prod(wide[-dims - 1 :])
    index = np.arange(size).reshape(wide[-dims - 1 :])
    index = np.pad(index, [(0, 0), *zip(op.before, op.after, strict=True)], constant_values=-1)
    target = np.arange(weight.shape[0] * prod(spatial)).reshape(op.groups, -1, 1, prod(spatial))
    rows, columns, values = [], [], []
    for at in np.ndindex(*weight.shape[2:]):
        window = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(at, op.dilation, spatial, op.stride, strict=True)
        )
        source = index[(slice(None), *window)].reshape(op.groups, 1, weight.shape[1], -1)
        tap = weight[(..., *at)].reshape(op.groups, -1, weight.shape[1], 1)
        row, column, value = np.broadcast_arrays(target, source, tap)
        kept = (column >= 0) & (value != 0)
        rows.append(row[kept])
        columns.append(column[kept])
        values.append(value[kept])
    entries = (np.concatenate(part) for part in (values, rows, columns))
    value, row, column = entries
    one = sparse.csr_array((value, (row, column)), (target.size, size))
    return one if lead == 1 else sparse.kron(sparse.eye_array(lead), one, format="csr")


@MATRICES(ops.Sum)
def _sum(op: ops.Sum, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    found = []
    for coefficient, shape in zip(op.coefficients, shapes, strict=True):
        source = np.broadcast_to(np.arange(prod(shape)).reshape(shape), node.shape).reshape(-1)
        found.append(_entries(np.arange(node.size), source, coefficient, (node.size, prod(shape))))
    return found


@MATRICES(ops.Concat, ops.Select, ops.Reshape, ops.Permute, ops.Pad, ops.Expand)
def _moved(op: ops.Affine, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    """Operators whose results are entries of their inputs, or zero: read off by moving the entries' numbers."""
    rule = RULES[op](op, node, shapes)
    found = []
    for k, shape in enumerate(shapes):
        numbers = [np.zeros((1, *s)) for s in shapes]
        numbers[k] = np.arange(1.0, prod(shape) + 1).reshape(1, *shape)
        source = rule.linear(*numbers).reshape(-1).astype(np.int64) - 1
        target = np.flatnonzero(source >= 0)
        found.append(_entries(target, source[target], 1.0, (node.size, prod(shape))))
    return found


@MATRICES(ops.ReduceSum)
def _reduced(op: ops.ReduceSum, node: Node, shapes: Sequence[Shape]) -> list[sparse.csr_array]:
    rule = RULES[op](op, node, shapes)
    (target,) = rule.adjoint(np.arange(float(node.size)).reshape(1, *node.shape))
    source = np.arange(prod(shapes[0]))
    return [_entries(target.reshape(-1).astype(np.int64), source, 1.0, (node.size, source.size))]


def _entries(row: Array, column: Array, value: float, shape: tuple[int, int]) -> sparse.csr_array:
    if not value:
        return sparse.csr_array(shape)
    return sparse.csr_array((np.full(len(row), float(value)), (row, column)), shape)
