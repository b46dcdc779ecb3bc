"""An L1 or L2 ball among the rows of a program whose first columns are the inputs that vary, scaled to [-1, 1].

An L1 ball is an octahedron: one further column for each |x - center|. An L2 ball is the common part of half-spaces, one
for each direction; those that a solution violates are added as they are met (Kelley 1960).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certify.mip.columns import Columns
from certify.mip.encode import Block
from certify.solvers.csr import Array

OUTSIDE = 1e-8
"""By how much, relatively, a point must be outside an L2 ball for another half-space to be worth adding."""


@dataclass(frozen=True, eq=False)
class Ball:
    """The ball of this norm (1 or 2) and radius around center (d,)."""

    columns: Columns
    norm: float
    center: Array
    radius: float

    def octahedron(self, parts: Array) -> Block:
        """An L1 ball, by rows that make `parts`, a column for each input that varies, at least |x - center|, and
        their sum at most the radius."""
        at = self.columns.varying
        count, offset = len(at), self.center - self.columns.middle  # x - center = half * column - offset
        fixed = np.abs(np.delete(offset, at)).sum()
        every = np.arange(count)
        row = np.concatenate([np.tile(every, 2), count + np.tile(every, 2), np.full(count, 2 * count)])
        half, one = self.columns.half[at], np.ones(count)
        free = np.full(count, np.inf)
        return Block(
            row,
            np.concatenate([every, parts, every, parts, parts]),
            np.concatenate([half, -one, half, one, one]),
            np.concatenate([-free, offset[at], [-np.inf]]),
            np.concatenate([offset[at], free, [(self.radius - fixed) * (1 + OUTSIDE)]]),
        )

    def tangent(self, x: Array) -> Block | None:
        """The half-space around an L2 ball in the direction of an input x (d,), as a row; None if x is inside."""
        move = x - self.center
        size = float(np.linalg.norm(move))
        if not size > self.radius * (1 + OUTSIDE):
            return None
        away, columns = move / size, self.columns
        constant = float(away @ (columns.middle - self.center))
        values = (away * columns.half)[columns.varying]
        most = self.radius * (1 + OUTSIDE / 2) - constant
        return Block(
            np.zeros(len(values), np.int64), np.arange(len(values)), values, np.full(1, -np.inf), np.full(1, most)
        )
