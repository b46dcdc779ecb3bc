"""A bound of a linear program that any multipliers prove, rounded outward (Neumaier & Shcherbina 2004, section 3).

For every feasible x, cost . x = y . (matrix x) + (cost - matrix' y) . x: the first part is at least the rows' sides
weighted with y, the second at least what its smallest value over the box of x is. Nothing is asked of y.
"""

from __future__ import annotations

import math

import numpy as np

from certify.numerics import gamma, inflate, next_down, next_up
from certify.solvers.csr import Array, Csr, compressed
from certify.solvers.highs import LinearProgram


def lower_bound(program: LinearProgram, multipliers: Array | None) -> float:
    """A number that cost . x is not below at any feasible x, as `multipliers` (m,) show; -inf where they show none.

    Sound if the program's numbers are what is meant: for any multipliers, NaN and infinite ones included. The best
    bound is that of the dual values, and the optimum itself but for rounding.
    """
    if multipliers is None or multipliers.shape != program.row_lower.shape or not np.isfinite(multipliers).all():
        return -math.inf
    matrix = program.matrix if isinstance(program.matrix, Csr) else compressed(program.matrix)
    side = np.where(multipliers > 0, program.row_lower, program.row_upper)
    y = np.where(np.isfinite(side), multipliers, 0.0)
    with np.errstate(all="ignore"):
        terms = len(y) + 1
        sizes = Csr(matrix.start, matrix.index, np.abs(matrix.value), matrix.columns).transposed_times(np.abs(y))
        error = inflate(gamma(2 * terms + 8) * inflate(np.abs(program.cost) + sizes, terms), terms)
        reduced = program.cost - matrix.transposed_times(y)
        ends = next_down(reduced - error), next_up(reduced + error)
        worst = np.min([next_down(_times(r, x)) for r in ends for x in (program.lower, program.upper)], 0)
        parts = [*worst.tolist(), *next_down(_times(y, side)).tolist()]
    if not np.isfinite(parts).all():
        return -math.inf
    try:
        return float(next_down(np.float64(math.fsum(parts))))  # fsum rounds once, to nearest
    except OverflowError:
        return -math.inf


def _times(a: Array, b: Array) -> Array:
    """The products, 0 times infinity being 0."""
    return np.where(a == 0, 0.0, a * b)
