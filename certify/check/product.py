"""Products of two variables as the checker bounds them.

Over a box, x y - s x - r y is linear in x and in y, so its extremes are at corners, whatever the slopes s and r are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certify.check.elementwise import chosen
from certify.check.ops import RULES, Array, Lines, Nonlinear, Shape
from certify.errors import MalformedNetwork
from certify.graph import ops
from certify.graph.ir import Node
from certify.numerics import TINY, UNIT, next_down, next_up


@RULES(ops.Product)
class Product(Nonlinear):
    """y = x[left] * x[right]. Its lines have slopes (B, 2, *N): of the left factors, then of the right ones.

    `most` is the largest number of times that an entry of x is a factor.
    """

    free_slope = True

    def __init__(self, op: ops.Product, node: Node, shapes: Sequence[Shape]) -> None:
        self.size, self.shape = int(np.prod(shapes[0])), node.shape
        self.left, self.right = op.left.reshape(-1), op.right.reshape(-1)
        index = np.concatenate([self.left, self.right])
        if (
            op.left.shape != node.shape
            or op.right.shape != node.shape
            or not ((index >= 0) & (index < self.size)).all()
        ):
            raise MalformedNetwork(f"node {node.name!r} multiplies entries that do not exist")
        self._order = np.argsort(index, kind="stable")
        self._entries, self._starts = np.unique(index[self._order], return_index=True)
        self.most = int(np.diff(np.append(self._starts, len(index))).max(initial=0))

    def of(self, x: Array) -> tuple[Array, Array]:
        """Left and right factors (B, *N) of x (B, *shape)."""
        flat = x.reshape(len(x), -1)
        return flat[:, self.left].reshape(-1, *self.shape), flat[:, self.right].reshape(-1, *self.shape)

    def gathered(self, left: Array, right: Array) -> Array:
        """Parts (k, R, n) that belong to the factors, summed for every entry of x: (k, R, size)."""
        total = np.zeros((*left.shape[:2], self.size))
        if len(self._entries):
            parts = np.concatenate([left, right], -1)[..., self._order]
            total[..., self._entries] = np.add.reduceat(parts, self._starts, axis=-1)
        return total

    def bent(self, lower: Array, upper: Array) -> Array:
        return ~(lower == upper)

    def varies(self, lower: Array, upper: Array) -> Array:
        return lower < upper

    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        (low, other_low), (high, other_high) = self.of(lower), self.of(upper)
        with np.errstate(all="ignore"):
            found = [x * y for x in (low, high) for y in (other_low, other_high)]
        return next_down(np.minimum.reduce(found)), next_up(np.maximum.reduce(found))

    def lines(self, lower: Array, upper: Array, free: Array | None = None) -> Lines:
        """Mixtures of McCormick's planes (1976), of equal parts where `free` does not say otherwise."""
        (low, other_low), (high, other_high) = self.of(lower), self.of(upper)
        t = 0.5 if free is None else chosen(free, np.full_like(free, 0.5))
        with np.errstate(all="ignore"):
            right = (1 - t) * low + t * high
            below = np.stack([(1 - t) * other_low + t * other_high, right], 1)
            above = np.stack([(1 - t) * other_high + t * other_low, right], 1)
        return Lines(below, self.shifts(below, lower, upper)[0], above, self.shifts(above, lower, upper)[1])

    def shifts(self, slopes: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        """At most the minimum, and at least the maximum, of x y - s x - r y over the box, slopes (B, 2, *N): s, r.

        A corner's value is off by at most 3u times the sum of its terms' sizes, but for underflow.
        """
        (low, other_low), (high, other_high) = self.of(lower), self.of(upper)
        least, most = [], []
        with np.errstate(all="ignore"):
            for x in (low, high):
                for y in (other_low, other_high):
                    terms = x * y, slopes[:, 0] * x, slopes[:, 1] * y
                    slack = 4 * UNIT * sum(np.abs(term) for term in terms) + TINY
                    value = (terms[0] - terms[1]) - terms[2]
                    least.append(value - slack)
                    most.append(value + slack)
        return next_down(np.minimum.reduce(least)), next_up(np.maximum.reduce(most))
