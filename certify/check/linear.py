"""Linear bound propagation backward through a graph, with every rounding charged.

State: for all inputs x of the region,  objective(x) >= sum_i A_i . v_i(x) + c - e,  where v_i(x) are the
exact values of the nodes whose turn has not come, and A, c, e are float64 numbers read as exact.
A step replaces A_i by what its definition puts in its place. The computed matrix *is* the new A; what
rounding made it differ from the exact one is at most gamma(m) |A_i| |M|, and |v| <= h is known, so
gamma(m) |A_i| (|M| h) is added to e (algorithm of Zhang et al. 2018, "CROWN", with multipliers of splits as
in Wang et al. 2021, "beta-CROWN"; the charging is ours). Leading axes: k boxes or proofs, R rows each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from certify.check import affine, convex, elementwise, product, smooth, turning, wave
from certify.check.least import dot, least
from certify.check.ops import RULES, Affine, Array, Elementwise, Lines, Nonlinear
from certify.check.product import Product
from certify.graph.ir import Graph
from certify.numerics import TINY, UNIT, gamma, inflate, next_down
from certify.spec.regions import Region

RULE_MODULES = (affine, convex, elementwise, product, smooth, turning, wave)  # importing them fills the table of rules


class Network:
    """A graph with the checker's rule for each node. Raises UnsupportedOp naming all nodes without one."""

    def __init__(self, graph: Graph) -> None:
        RULES.require(graph, "this network can be searched, but nothing can be proved of it")
        self.graph = graph
        shapes = [n.shape for n in graph.nodes]
        self.rules = [RULES[n.op](n.op, n, [shapes[j] for j in n.inputs]) for n in graph.nodes]
        self.sizes = [n.size for n in graph.nodes]
        self.fan = [0] * len(shapes)
        self.functions: list[list[Nonlinear]] = [[] for _ in shapes]  # the nonlinear readers of each node
        for node, rule in zip(graph.nodes, self.rules, strict=True):
            for j in node.inputs:
                self.fan[j] += 1
                if isinstance(rule, Nonlinear):
                    self.functions[j].append(rule)
        self.exact = [False] * len(shapes)  # interval arithmetic already gives these nodes' ranges over a box
        rounded = [False] * len(shapes)
        for i, (node, rule) in enumerate(zip(graph.nodes, self.rules, strict=True)):
            if isinstance(rule, Affine) and len(node.inputs) < 2 and all(self.exact[j] for j in node.inputs):
                rounded[i] = rule.terms > 0 or any(rounded[j] for j in node.inputs)
                self.exact[i] = not (rule.terms > 0 and any(rounded[j] for j in node.inputs))


@dataclass
class Bounds:
    """What is known of every node over k boxes; arrays are (k, *N), or (1, *N) where all boxes agree."""

    lower: list[Array] | _Picked = field(default_factory=list)
    upper: list[Array] | _Picked = field(default_factory=list)
    largest: list[Array] | _Picked = field(default_factory=list)  # >= |value|
    charge: list[Array | None] | _Picked = field(default_factory=list)  # what e grows by per unit of |A| at this node
    lines: dict[int, Lines] | _Picked = field(default_factory=dict)  # elementwise node -> its lines
    floor: Array = field(default_factory=lambda: np.zeros(1))  # (k,): all underflow of one backward pass

    def take(self, pick: Array) -> Bounds:
        """The bounds for the boxes `pick` (k',), in that order; each is gathered when it is read."""
        columns = (self.lower, self.upper, self.largest, self.charge, self.lines)
        floor = self.floor if len(self.floor) == 1 else self.floor[pick]
        return Bounds(*(_Picked(column, pick) for column in columns), floor)


class _Picked:
    """What a column of bounds says of some of the boxes."""

    def __init__(self, whole: list[Array | None] | dict[int, Lines] | _Picked, pick: Array) -> None:
        self.whole, self.pick = whole, pick

    def __getitem__(self, i: int) -> Array | Lines | None:
        item = self.whole[i]
        return Lines(*map(self._gather, item)) if isinstance(item, Lines) else self._gather(item)

    def _gather(self, a: Array | None) -> Array | None:
        return a if a is None or a.shape[0] == 1 else a[self.pick]


class Extra(NamedTuple):
    """Multipliers of splits at one node: rows (k, 1, n) added to A, constant (k, 1) to c, error (k, 1) to e."""

    rows: Array
    constant: Array
    error: Array


class Pass:
    """One backward pass: `start` some rows, then `run`, then read `rows`, `constant` and `error` at the input."""

    def __init__(self, network: Network, bounds: Bounds, shape: tuple[int, int]) -> None:
        self.network, self.bounds = network, bounds
        self.pending: dict[int, Array] = {}
        self.constant = np.zeros(shape)
        self.error = np.broadcast_to(bounds.floor[:, None], shape).copy()

    def charge(self, a: Array, weight: Array) -> None:
        """e += |a| . weight; a weight that underflowed, as u h for tiny h, would count too little where a is huge"""
        self.error += inflate(dot(np.abs(a), weight + TINY), a.shape[-1])

    def shift(self, value: Array) -> None:
        """c += value"""
        self.constant = self.constant + value
        self.error += 2 * UNIT * np.abs(self.constant)

    def put(self, i: int, part: Array, rounded: bool = False) -> None:
        """A_i += part (k, R, n); `rounded` says that each entry of it was rounded once."""
        if rounded and not direct(self.network, i):
            self.charge(part, 2 * UNIT * self.bounds.largest[i])
        if i in self.pending:
            part = self.pending[i] + part
            self.charge(part, 2 * UNIT * self.bounds.largest[i])
        self.pending[i] = part

    def run(self, lines: dict[int, Lines], extras: dict[int, Extra]) -> None:
        """Go from the last node that has a row down to the input. `lines` overrides the bounds' own."""
        for i in range(max((*self.pending, *extras)), 0, -1):
            a = self.pending.pop(i, None)
            if i in extras:
                a = self._add_splits(i, a, extras[i])
            if a is None:
                continue
            rule = self.network.rules[i]
            weight = self.bounds.charge[i]
            if weight is not None:
                self.charge(a, weight)
            if isinstance(rule, Nonlinear):
                self._through_lines(i, a, lines.get(i) or self.bounds.lines[i])
            else:
                self._through_map(i, a, rule)
        if 0 in extras:
            self.pending[0] = self._add_splits(0, self.pending.get(0), extras[0])
        if not self.pending:
            self.pending[0] = np.zeros((*self.constant.shape, self.network.sizes[0]))
        if self.bounds.charge[0] is not None:
            self.charge(self.pending[0], self.bounds.charge[0])

    def _add_splits(self, i: int, a: Array | None, extra: Extra) -> Array:
        self.shift(extra.constant)
        self.error += extra.error
        if a is None:
            return extra.rows
        h = 2 * UNIT * self.bounds.largest[i]
        self.charge(a, h)
        a = a + extra.rows
        self.charge(a, h)
        return a

    def _through_map(self, i: int, a: Array, rule: Affine) -> None:
        k, rows = a.shape[:2]
        node = self.network.graph.nodes[i]
        if rule.bias is not None:
            self.shift(dot(a, rule.bias))  # its rounding is in the node's charge
        parts = rule.adjoint(a.reshape(k * rows, *node.shape))
        for j, part in zip(node.inputs, parts, strict=True):
            self.put(j, part.reshape(k, rows, -1))

    def _through_lines(self, i: int, a: Array, lines: Lines) -> None:
        n = a.shape[-1]
        negative = np.minimum(a, 0)
        positive = a - negative  # exact
        share = gamma(n + 4)
        for part, shift in ((positive, lines.lower_shift), (negative, lines.upper_shift)):
            if shift is None:
                continue
            value = dot(part, shift)
            self.shift(value)
            if (shift >= 0).all():  # then all terms have one sign, and |value| is their size
                self.error += inflate(share * np.abs(value), n)
            else:
                self.charge(part, share * np.abs(shift))
        rule = self.network.rules[i]
        if isinstance(rule, Product):
            self._to_factors(self.network.graph.nodes[i].inputs[0], rule, positive, negative, lines)
            return
        below, above = (s.reshape(-1, 1, n) for s in (lines.lower_slope, lines.upper_slope))
        positive *= below
        negative *= above
        positive += negative  # one of the two is zero
        self.put(self.network.graph.nodes[i].inputs[0], positive, rounded=True)

    def _to_factors(self, j: int, rule: Product, positive: Array, negative: Array, lines: Lines) -> None:
        """Put a product's coefficients to node j, which holds its factors: each of up to 2 n terms, once rounded."""
        n = positive.shape[-1]
        slopes = [s.reshape(len(s), 2, 1, n) for s in (lines.lower_slope, lines.upper_slope)]
        left, right = (positive * slopes[0][:, k] + negative * slopes[1][:, k] for k in (0, 1))  # one term is zero
        size = rule.gathered(np.abs(left), np.abs(right))
        self.charge(size, gamma(2 * rule.most + 8) * self.bounds.largest[j])
        self.put(j, rule.gathered(left, right))

    def lower(self, lower: Array, upper: Array, ball: Region | None) -> Array:
        """The proved lower bounds (k, R) over the boxes lower, upper (k, d), within `ball` if there is one."""
        best = least(self.pending[0], lower, upper, ball)
        error = inflate(self.error, 16 * (len(self.network.rules) + sum(self.network.fan)))
        return next_down(next_down(self.constant + best) - error)


def direct(network: Network, i: int) -> bool:
    """Whether A at node i comes from one elementwise reader alone: its rounding is then in `Bounds.charge`."""
    readers = network.functions[i]
    return i > 0 and network.fan[i] == 1 and len(readers) == 1 and isinstance(readers[0], Elementwise)
