"""The convex hull of a ReLU over the box of what it reads, cut by cut (Anderson, Huchette, Ma, Tjandraatmadja & Vielma
2020).

Let z = w . c + b for columns c within a box, and d = 1 where z > 0. For c_i let low_i be the end of its interval at
which w_i c_i is least, and high_i the other one. Whatever the set I of columns, then

    y <= sum over I of w_i (c_i - low_i (1 - d)) + (b + sum over the others of w_i high_i) d      (their equation 9b)

For d = 1, where y = z, each term of the others is at most w_i high_i. For d = 0, where y = 0, each term of I is at
least 0. Of these inequalities, of which there are as many as sets, a point violates that one the most whose every term
is the smaller of the two (their proposition 12). They know which inputs neurons share, as triangles do not: added
where solutions of the linear program violate them, they close much of its gap.
"""

from __future__ import annotations

import numpy as np

from certify.graph.ops import Relu
from certify.mip.encode import Block, Encoded
from certify.solvers.csr import Array

VIOLATED = 1e-6
"""By how much an inequality must be violated to be worth adding, relative to 1 and to y."""

SLACK = 1e-9
"""By how much inequalities are loosened, relative to 1 and to their terms: what rounding might make of them."""


class Hulls:
    """The inequalities of all bent ReLUs of a program, whose z read at most `most` columns."""

    def __init__(self, encoded: Encoded, most: int) -> None:
        self.encoded = encoded
        rows = encoded.columns.equalities
        defining = np.full(encoded.columns.count, -1)
        defining[rows.index[rows.start[1:] - 1]] = np.arange(len(rows.start) - 1)  # a row's last column is its z
        nodes = encoded.columns.network.graph.nodes
        relus = [
            (bent.y, choices[1], defining[bent.z])
            for bent, choices in zip(encoded.columns.bent, encoded.choices, strict=True)
            if isinstance(nodes[bent.node].op, Relu)
        ]
        y, d, row = (np.concatenate([np.zeros(0, np.int64), *(r[k] for r in relus)]) for k in range(3))
        few = np.diff(rows.start)[row] - 1 <= most
        self.y, self.d, row = y[few], d[few], row[few]
        counts = np.diff(rows.start)[row] - 1
        self.neuron = np.repeat(np.arange(len(row)), counts)
        place = np.arange(len(self.neuron)) + np.repeat(rows.start[row] - np.cumsum(counts) + counts, counts)
        self.column, self.weight = rows.index[place], -rows.value[place]  # z - w . c = b
        self.bias = encoded.columns.constants[row]
        ends = self.weight * encoded.lower[self.column], self.weight * encoded.upper[self.column]
        self.least, self.greatest = np.minimum(*ends), np.maximum(*ends)

    def violated(self, x: Array, most: int) -> Block | None:
        """The inequalities, of `most` neurons at most, that the columns x (n,) violate by the most; None if they
        violate none."""
        d = x[self.d][self.neuron]
        inside, outside = self.weight * x[self.column] - self.least * (1 - d), self.greatest * d
        total = self._sums(np.minimum(inside, outside)) + self.bias * x[self.d]
        excess = (x[self.y] - total) / (1 + np.abs(x[self.y]))
        chosen = np.argsort(-excess, kind="stable")[:most]
        chosen = chosen[excess[chosen] > VIOLATED]  # NaN is not
        return self._block(chosen, inside < outside) if len(chosen) else None

    def _sums(self, terms: Array) -> Array:
        return np.bincount(self.neuron, terms, len(self.y))

    def _block(self, chosen: Array, mine: Array) -> Block:
        """The inequalities of the neurons `chosen` (k,), with the entries `mine` as their sets I."""
        least, greatest = self._sums(np.where(mine, self.least, 0.0)), self._sums(np.where(mine, 0.0, self.greatest))
        size = self._sums(np.maximum(np.abs(self.least), np.abs(self.greatest))) + np.abs(self.bias)
        number = np.full(len(self.y), -1)
        number[chosen] = np.arange(len(chosen))
        entries = mine & (number[self.neuron] >= 0)
        every = np.arange(len(chosen))
        return Block(
            np.concatenate([every, number[self.neuron[entries]], every]),
            np.concatenate([self.y[chosen], self.column[entries], self.d[chosen]]),
            np.concatenate([np.ones(len(chosen)), -self.weight[entries], -(least + self.bias + greatest)[chosen]]),
            np.full(len(chosen), -np.inf),
            -least[chosen] + SLACK * (1 + size[chosen]),
        )
