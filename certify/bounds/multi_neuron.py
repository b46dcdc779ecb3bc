"""Constraints on pairs of ReLU neurons beyond the triangle: k-ReLU (Singh et al. 2019), PRIMA (Mueller et al. 2022).

Over an octagon that holds what two neurons read together, (z, max(z, 0)) has a convex hull that is smaller than the
product of two triangles. Planes that cut a solution of the triangle program off from that hull are added to it, a
few times over. What is claimed rests on none of this: each pair has one inequality  read . z + made . y <= most  with
coefficients from anywhere, whose `most` is the exact maximum over the octagon, and backward propagation with these
inequalities added, in the checker's outward-rounded arithmetic, gives the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import NodeBounds
from certify.bounds.lp import LpBounds
from certify.bounds.outward import Outward, OutwardBounds, propagated, what_is_read
from certify.bounds.triangle import Triangle
from certify.budget import Budget
from certify.check.linear import Extra, Pass
from certify.check.linear import Network as CheckedNetwork
from certify.check.ops import RULES
from certify.check.tree import ball_of
from certify.errors import BadOption, CertifyError
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.numerics import next_up
from certify.solvers.highs import LinearProgram, Status, solve
from certify.spec.inputset import stack
from certify.spec.regions import Region

Array = np.ndarray
Point = tuple[Fraction, Fraction]

CUT = 1e-6
"""By how much a plane must cut a solution off to be worth adding."""

NORMALS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
"""Of an octagon's sides; the bounds of side k are  NORMALS[k] . z <= sides[k]."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two neurons, flat C order, of ReLU node `node`, and the corners of what they can read together.

    `corners` are exact: they and their ReLUs span the hull of (z, max(z, 0)) over the octagon.
    """

    node: int
    neurons: Array
    corners: tuple[Point, ...]

    def most(self, read: Array, made: Array) -> Fraction:
        """The exact maximum of  read . z + made . max(z, 0)  over the octagon."""
        a, b = [Fraction(float(v)) for v in read], [Fraction(float(v)) for v in made]
        return max(sum(a[k] * z[k] + b[k] * max(z[k], 0) for k in (0, 1)) for z in self.corners)

    def plane(self, z: Array, y: Array) -> tuple[Array, Array] | None:
        """(read, made), with entries in [-1, 1], of the plane that cuts (z, y) off from the hull by most; or None."""
        points = np.array([[float(v) for v in c] for c in self.corners])
        lifted = np.concatenate([points, np.maximum(points, 0)], 1)
        count = len(points)
        program = LinearProgram(
            np.concatenate([-z, -y, [1.0]]),
            np.array([-1.0] * 4 + [-np.inf]),
            np.array([1.0] * 4 + [np.inf]),
            np.concatenate([lifted, -np.ones((count, 1))], 1),
            np.full(count, -np.inf),
            np.zeros(count),
        )
        try:
            found = solve(program)
        except CertifyError:  # no plane, then
            return None
        if found.status is not Status.OPTIMAL or found.x is None or not np.isfinite(found.x).all():
            return None
        gain = float(found.x[:4] @ np.concatenate([z, y]) - found.x[4])
        return (found.x[:2], found.x[2:4]) if gain > CUT * (1 + np.abs(points).max()) else None


def corners(sides: Sequence[float]) -> tuple[Point, ...]:
    """Where, within the octagon NORMALS[k] . z <= sides[k], two of its sides or of the axes meet: exact.

    A function that is linear on each quadrant has its maximum over the octagon there. Empty for an empty octagon.
    """
    lines = [(n, Fraction(side)) for n, side in zip(NORMALS, sides, strict=True)]
    axes = [((1, 0), Fraction(0)), ((0, 1), Fraction(0))]
    found = []
    for ((a, b), s), ((c, d), t) in combinations([*lines, *axes], 2):
        determinant = a * d - b * c
        if determinant:
            z = ((s * d - b * t) / determinant, (a * t - s * c) / determinant)
            if all(n[0] * z[0] + n[1] * z[1] <= side for n, side in lines):
                found.append(z)
    return tuple(dict.fromkeys(found))


class Certifier:
    """The checker's bounds over one region, and what follows from them for pairs and rows. The bounds also keep
    `within`, where it is `Outward`."""

    def __init__(self, graph: Graph, region: Region, within: NodeBounds | None = None) -> None:
        self.network, self.region = CheckedNetwork(graph), region
        self.box, self.ball = (region.lower[None], region.upper[None]), ball_of(region)
        self._matched: dict[int, list[Pair]] = {}
        self.bounds = propagated(self.network, region, within or {})
        self.nodes: Outward = what_is_read(graph, self.bounds)

    def matched(self, most: int, budget: Budget) -> list[Pair]:
        """The pairs to use, found once; fewer if the budget ends before."""
        if most not in self._matched:
            self._matched[most] = _matched(self, most, budget)
        return self._matched[most]

    def pairs(self, e: int, chosen: Sequence[tuple[int, int]]) -> list[Pair]:
        """Pairs of neurons of ReLU node e, with octagons by backward propagation, where they are finite."""
        v = self.network.graph.nodes[e].inputs[0]
        work = Pass(self.network, self.bounds, (1, len(chosen) * len(NORMALS)))
        rows = np.zeros((1, len(chosen), len(NORMALS), self.network.sizes[v]))
        for p, (i, j) in enumerate(chosen):
            for k, (a, b) in enumerate(NORMALS):
                rows[0, p, k, [i, j]] = -a, -b
        with np.errstate(all="ignore"):
            work.put(v, rows.reshape(1, -1, self.network.sizes[v]))
            work.run({}, {})
            sides = -work.lower(*self.box, self.ball)[0].reshape(len(chosen), -1)
        low, up = (side[v].reshape(-1) for side in (self.bounds.lower, self.bounds.upper))
        found = []
        for (i, j), own in zip(chosen, sides, strict=True):
            own[:4] = np.minimum(own[:4], [up[i], -low[i], up[j], -low[j]])
            points = corners(own.tolist()) if np.isfinite(own).all() else ()
            if points:
                found.append(Pair(e, np.array([i, j]), points))
        return found

    def lower(
        self,
        row: Array,
        constant: float,
        lines: Mapping[int, Array],
        planes: Sequence[tuple[Pair, Array, Array]],
    ) -> float:
        """A lower bound of <row, (output, x)> + constant over the region, for row (n,) or (n + d,); -inf for none.

        `lines` are line parameters {e: (size,)}, NaN for the default, `planes` pairs with coefficients (read, made).
        Sound: for any of both. Rounding is the checker's matter, and a plane's constant is exact, then rounded up.
        """
        graph, last = self.network.graph, len(self.network.rules) - 1
        work = Pass(self.network, self.bounds, (1, 1))
        with np.errstate(all="ignore"):
            work.shift(np.full((1, 1), constant))
            work.put(last, row[None, None, : graph.output_size])
            if len(row) > graph.output_size:
                work.put(0, row[None, None, graph.output_size :])
            given = {}
            for e, free in lines.items():
                node = graph.nodes[e]
                low, up = (side[node.inputs[0]] for side in (self.bounds.lower, self.bounds.upper))
                given[e] = self.network.rules[e].lines(low, up, free.reshape(1, *node.shape))
            work.run(given, self._extras(planes))
            found = float(work.lower(*self.box, self.ball)[0, 0])
        return found if np.isfinite(found) else -np.inf

    def _extras(self, planes: Sequence[tuple[Pair, Array, Array]]) -> dict[int, Extra]:
        """Inequalities that are <= 0, to be added: coefficients at the nodes, and the constant at one of them."""
        rows: dict[int, Array] = {}
        total: dict[int, Fraction] = {}
        for pair, read, made in planes:
            v = self.network.graph.nodes[pair.node].inputs[0]
            own = [rows.setdefault(i, np.zeros((1, 1, self.network.sizes[i]))) for i in (pair.node, v)]
            taken = any(a[0, 0, pair.neurons].any() for a in own)  # sums would have to be rounded
            if taken or not (np.isfinite(read).all() and np.isfinite(made).all()):
                continue
            for a, coefficients in zip(own, (made, read), strict=True):
                a[0, 0, pair.neurons] = coefficients
            total[pair.node] = total.get(pair.node, Fraction(0)) + pair.most(read, made)
        none = np.zeros((1, 1))
        return {
            node: Extra(own, none - _above(total[node]) if node in total else none, none) for node, own in rows.items()
        }


def _above(x: Fraction) -> np.float64:
    """A float64 that is not below x."""
    try:
        return next_up(np.float64(float(x)))
    except OverflowError:
        return np.float64(np.inf)


@dataclass(frozen=True)
class MultiNeuronBounds(OutwardBounds[Certifier]):
    """The triangle program with planes for at most `most` pairs of ReLU neurons of each layer, added in `rounds`.

    Never looser, up to rounding, than `LpBounds` over the same bounds of neurons, whose lines it begins with.
    Sound: bounds are rounded outward; `within` is used if it is `Outward`.
    """

    most: int = 10
    rounds: int = 4

    name: ClassVar[str] = "multi-neuron"

    def __post_init__(self) -> None:
        if self.most < 0 or self.rounds < 0:
            raise BadOption("neither the number of pairs nor that of rounds can be negative")

    def covers(self, op: ops.Op) -> bool:
        return LpBounds().covers(op) and RULES.get(op) is not None

    def problem(self, network: Network, region: Region, within: NodeBounds) -> Certifier:
        return Certifier(network.graph, region, within)

    def row(self, problem: Certifier, row: Tensor, constant: float, lines: dict[int, Tensor], budget: Budget) -> float:
        """The best bound met: by adaptive lines, by those given and the program's, and after every round of planes."""
        with np.errstate(all="ignore"):  # whatever overflows or is not a number bounds nothing
            given = {e: t.numpy() for e, t in lines.items()}
            best = max(problem.lower(row.numpy(), constant, tried, ()) for tried in ({}, given))
            return max(best, self._climbed(problem, row, constant, budget))

    def _climbed(self, certifier: Certifier, row: Tensor, constant: float, budget: Budget) -> float:
        """The best bound of the program and its rounds of planes."""
        graph, best = certifier.network.graph, -np.inf
        ((_, inputs),) = stack([certifier.region], torch.float64)
        program, n = Triangle(Network(graph, torch.float64), inputs, certifier.nodes, budget), graph.output_size
        y, x = row[:n], row[n:] if len(row) > n else None
        pairs = certifier.matched(self.most, budget)
        added: list[tuple[int, int, Array, Array]] = []  # pair, row of the program, coefficients
        for _ in range(self.rounds + 1):
            found = program.solve(y, x) if program.usable and not budget.expired else None
            if found is None or found.x is None:
                break
            lines = {e: t.numpy() for e, t in program.named(found.multipliers).items()}
            planes = _planes(pairs, added, found.multipliers)
            best = max(best, certifier.lower(row.numpy(), constant, lines, planes))
            before = len(added)
            for p, pair in enumerate(pairs):
                v = graph.nodes[pair.node].inputs[0]
                plane = pair.plane(program.at(v, pair.neurons, found.x), program.at(pair.node, pair.neurons, found.x))
                if plane is not None:
                    number = program.cut(pair.node, pair.neurons, *plane, float(pair.most(*plane)))
                    added.append((p, number, *plane))
            if len(added) == before:
                break
        return best


def _matched(certifier: Certifier, most: int, budget: Budget) -> list[Pair]:
    """At most `most` pairs in each layer, no neuron in two: of the neurons with the largest triangles, those first
    whose hull cuts off most of the point over the middle of both triangles."""
    found, graph = [], certifier.network.graph
    for e in graph.nonlinear:
        if not isinstance(graph.nodes[e].op, ops.Relu) or budget.expired:
            continue
        v = graph.nodes[e].inputs[0]
        low, up = (side[v].reshape(-1) for side in (certifier.bounds.lower, certifier.bounds.upper))
        bent = np.flatnonzero((low < 0) & (up > 0))
        largest = bent[np.argsort(-(up * low / (low - up))[bent], kind="stable")][: 2 * most].tolist()
        gains: list[tuple[float, Pair]] = []
        candidates = list(combinations(largest, 2))
        for pair in certifier.pairs(e, candidates) if candidates else []:
            if budget.expired:
                break
            middle, top = (low + up)[pair.neurons] / 2, up[pair.neurons] / 2
            plane = pair.plane(middle, top)
            if plane is not None:
                gains.append((float(plane[0] @ middle + plane[1] @ top) - float(pair.most(*plane)), pair))
        taken: set[int] = set()
        for _, pair in sorted(gains, key=lambda g: -g[0]):
            if not taken & set(pair.neurons.tolist()) and len(taken) < 2 * most:
                taken |= set(pair.neurons.tolist())
                found.append(pair)
    return found


def _planes(
    pairs: Sequence[Pair], added: Sequence[tuple[int, int, Array, Array]], multipliers: Array
) -> list[tuple[Pair, Array, Array]]:
    """For every pair the sum of its planes, weighted with their multipliers."""
    total = {p: (np.zeros(2), np.zeros(2)) for p, *_ in added}
    with np.errstate(all="ignore"):
        for p, number, read, made in added:
            weight = max(-float(multipliers[number]), 0.0)
            total[p] = total[p][0] + weight * read, total[p][1] + weight * made
    return [(pairs[p], read, made) for p, (read, made) in total.items() if read.any() or made.any()]
