"""Rigorous upper bounds of operator norms: of matrices in L1, L2 and L-infinity.

The spectral norm is the root of the largest eigenvalue of the Gram matrix G, which is enclosed: some s is at least
that eigenvalue if s I - G has a Cholesky factor. Power iteration, which gives estimates from below, only proposes s.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from certify.bounds.quadratic import smallest_eigenvalue
from certify.lipschitz.matrices import Matrix
from certify.numerics import TINY, UNIT, gamma, inflate, next_up

Array = np.ndarray

DENSE = 1200
"""Rows up to which a symmetric matrix is handled densely."""

MOST_WORK = 1e11
"""Multiplications that a banded Cholesky factor may take (some seconds)."""

TOLERANCES = (1e-6, 1e-4)
"""Of the estimated eigenvalue, relatively: the second is tried where the first is not reached soon."""

MOST_ENTRIES = 1 << 27
"""Numbers that it may hold (1 GiB)."""


class How(enum.Enum):
    """What a bound of a norm rests on."""

    ENCLOSED = "exact up to rounding"
    CIRCULAR = "circular convolution on a larger image"
    PRODUCT = "from the L1 and L-infinity norms"
    PATHS = "sum over paths"
    QUADRATIC = "multipliers of slope constraints"
    SLOPE = "largest slope"


@dataclass(frozen=True)
class Norm:
    """An upper bound of an operator norm."""

    value: float
    how: How


def up(x: float) -> float:
    """Above any real number that rounds to x."""
    return float(next_up(np.float64(x)))


def product(factors: Iterable[float]) -> float:
    """At least the product of numbers >= 0; a factor of 0 outweighs one that is infinite."""
    found = 1.0
    for factor in factors:
        if factor == 0:
            return 0.0
        found = factor if found == 1 else found if factor == 1 else up(found * factor)
    return found


def total(terms: Iterable[float]) -> float:
    """At least the sum of numbers >= 0."""
    found = 0.0
    for term in terms:
        found = term if found == 0 else found if term == 0 else up(found + term)
    return found


def operator_norm(matrix: Matrix, norm: float) -> Norm:
    """An upper bound of max ||M x|| / ||x|| in the norm 1, 2 or inf, for every M within the matrix's error.

    Sound: every rounding is charged. In L1 and L-infinity and, as far as it is ENCLOSED, in L2 the bound is off by
    rounding alone.
    """
    if norm == 2:
        return _spectral(matrix)
    size = matrix.size if norm != 1 else matrix.size.T.tocsr()
    largest = float(np.asarray(size.sum(1)).max(initial=0.0))
    terms = int(np.diff(size.indptr).max(initial=0))
    exact = largest == 0 or (terms <= 1 and matrix.error is None)
    return Norm(largest if exact else float(inflate(np.float64(largest), terms)), How.ENCLOSED)


def row_norms(matrix: Matrix, norm: float) -> Array:
    """At least the norm (1, 2 or inf) of every row, (m,)."""
    size, terms = matrix.size, matrix.shape[1]
    if norm == 1:
        return inflate(np.asarray(size.sum(1)).reshape(-1), terms)
    if norm == 2:
        squares = np.asarray(size.multiply(size).sum(1)).reshape(-1)
        return inflate(np.sqrt(inflate(squares, 2 * terms)), 8)
    return inflate(size.max(1).toarray().reshape(-1), 1)


def _spectral(matrix: Matrix) -> Norm:
    error = 0.0
    if matrix.error is not None:
        error = _interpolated(Matrix(matrix.error))
    value = matrix.value
    for one in (value, value.T.tocsr()):
        if (np.diff(one.indptr) <= 1).all():  # then columns do not overlap, and the longest one is the norm
            single = np.bincount(one.indices, minlength=one.shape[1]).max(initial=0) <= 1
            entries = np.abs(one.data)
            longest = float(entries.max(initial=0.0) if single else row_norms(Matrix(one.T.tocsr()), 2).max(initial=0))
            return Norm(total([longest, error]), How.ENCLOSED)
    coarse = _interpolated(Matrix(value))
    narrow = value if value.shape[0] <= value.shape[1] else value.T.tocsr()
    lost = float(inflate(gamma(2 * narrow.shape[1] + 8) * coarse * coarse, 8))  # bounds | |M| |M|' |
    largest = up(-least_eigenvalue(-_gram(narrow)) + lost)
    fine = float(inflate(np.sqrt(largest), 1))
    if fine < coarse:
        return Norm(total([fine, error]), How.ENCLOSED)
    return Norm(total([coarse, error]), How.PRODUCT)


def _gram(value: sparse.csr_array) -> sparse.csr_array | Array:
    """M M', symmetric to the last bit."""
    if len(value.indptr) - 1 <= DENSE:
        dense = value.toarray()
        found = dense @ dense.T
        return np.tril(found) + np.tril(found, -1).T
    found = (value @ value.T).tocsr()
    lower = sparse.tril(found, -1, format="csr")
    return (sparse.diags_array(found.diagonal()) + lower + lower.T).tocsr()


def _interpolated(matrix: Matrix) -> float:
    """At least the spectral norm of |M|: the root of the product of the L1 and the L-infinity norm."""
    sides = (operator_norm(matrix, norm).value for norm in (1, np.inf))
    return float(inflate(np.sqrt(product(sides)), 1))


def least_eigenvalue(matrix: sparse.csr_array | Array) -> float:
    """A lower bound of the least eigenvalue of a symmetric matrix (n, n), not above 0; -inf where none is found.

    Large matrices are permuted to a narrow band (reverse Cuthill-McKee). If the Cholesky factor of B = A + s I is
    found, then B + D = R' R with |D| <= gamma |R'| |R|, hence |D| <= gamma / (1 - gamma) trace B, and A >= -s - |D|
    (Demmel 1989; Rump 2006, theorem 2.3; Higham, theorem 10.3). gamma is that of twice the sums' length, as some
    libraries multiply by reciprocals.
    Sound if Cholesky's algorithm is computed by sums of products in any order.
    """
    count = matrix.shape[0]
    if count <= DENSE:
        dense = matrix.toarray() if sparse.issparse(matrix) else matrix
        return smallest_eigenvalue(torch.from_numpy(np.ascontiguousarray(dense)))
    return _banded(sparse.csr_array(matrix))


def _banded(matrix: sparse.csr_array) -> float:
    from scipy.linalg import LinAlgError, cholesky_banded

    count = matrix.shape[0]
    order = sparse.csgraph.reverse_cuthill_mckee(matrix, symmetric_mode=True)
    band = matrix[order][:, order].tocoo()
    distance = band.row - band.col
    width = int(distance.max(initial=0)) + 1
    scale = float(np.asarray(abs(matrix).sum(1)).max(initial=0.0))
    if count * width * width > MOST_WORK or count * width > MOST_ENTRIES or not np.isfinite(scale):
        return float("-inf")
    low = distance >= 0
    bands = np.zeros((width, count))
    bands[distance[low], band.col[low]] = band.data[low]
    share = gamma(2 * (width + 8))
    negative = max(-_estimate(matrix), 0.0)
    step = 1e-10 * scale + TINY
    while step < 4 * scale + 2 * TINY:
        shift = negative + step
        shifted = bands.copy()
        shifted[0] += shift
        try:
            cholesky_banded(shifted, overwrite_ab=True, lower=True, check_finite=False)
        except LinAlgError:
            step *= 8
            continue
        trace = inflate(np.abs(bands[0] + shift).sum(), count)
        return -float(inflate(shift + 2 * share * trace + 2 * UNIT * (scale + shift), 8))
    return float("-inf")


def _estimate(matrix: sparse.csr_array) -> float:
    """About the least eigenvalue, by Lanczos' method; nothing rests on it. Where eigenvalues crowd, as those of almost
    orthogonal maps do, it does not get near the last digit, but three of them are soon there."""
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    for tolerance in TOLERANCES:
        try:
            found = eigsh(matrix, 1, which="SA", v0=start, ncv=40, maxiter=30, tol=tolerance, return_eigenvectors=False)
            return float(found[0])
        except ArpackNoConvergence:
            continue
        except ArpackError:
            break
    return _by_power(matrix, start)


def _by_power(matrix: sparse.csr_array, vector: Array) -> float:
    scale = float(np.asarray(abs(matrix).sum(1)).max(initial=0.0))
    for _ in range(100):
        vector = scale * vector - matrix @ vector
        vector = vector / np.linalg.norm(vector)
    return float(vector @ (matrix @ vector))
