"""Lipschitz constants over a region by branch and bound: exact, in the end, for piecewise-linear networks.

A domain is the region with limits of what elementwise operators read. The domain whose Jacobian bound is the largest is
split: at a breakpoint of the neuron on which the bound depends most, or, where an operator is smooth, along an input.
Domains without a point are dropped if multipliers of their limits, from a linear program, show that; the program's
points are where gradients are computed, which is what the bound cannot go below. (Compare the mixed-integer program of
Jordan & Dimakis 2020, "Exactly computing the local Lipschitz constant of ReLU networks".)
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch

from certify.budget import Budget
from certify.check.bounds import propagate
from certify.check.linear import Bounds, Pass
from certify.check.linear import Network as Checked
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.graph.ops import breakpoints
from certify.lipschitz.local import Jacobian
from certify.lipschitz.slopes import slopes_between
from certify.lipschitz.system import require
from certify.numerics import gamma, inflate
from certify.solvers.highs import LinearProgram, solve
from certify.spec.regions import Region

Array = np.ndarray

BATCH = 32
"""Domains that are bounded together."""

CLOSE = 1e-9
"""Relative gap between bound and gradient that counts as none."""

NOTHING = 2.0**-470
"""More than what is added for underflow, of which a root was taken."""


@dataclass(frozen=True)
class LocalBound:
    """The Lipschitz constant lies below `upper`, rounded outward; `attained` is the largest norm of a gradient that was
    met, at `point`, to float rounding (0 and None if none was). `domains` were bounded."""

    upper: float
    attained: float
    point: tuple[float, ...] | None
    domains: int

    @property
    def exact(self) -> bool:
        return self.upper <= self.attained * (1 + 10 * CLOSE) + NOTHING


@dataclass(frozen=True, eq=False)
class _Domain:
    """A box (d,) of inputs, and limits (size,) of what operators read, by graph node."""

    lower: Array
    upper: Array
    limits: dict[int, tuple[Array, Array]]
    bound: float = np.inf


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What bounding a domain says: its bound; what it split next, None where the Jacobian is constant."""

    domain: _Domain
    children: tuple[_Domain, _Domain] | None


def local_bound(
    graph: Graph,
    region: Region,
    norm: float = 2,
    rows: Array | None = None,
    *,
    domains: int = 1,
    budget: Budget | None = None,
) -> LocalBound:
    """A bound of the Lipschitz constant over the region of rows (S, n) of the output (default: the whole output), from
    `norm` (1, 2 or inf) to itself; with one row, of that number. At most about `domains` parts are bounded.

    Raises UnsupportedOp for operators without slopes.
    Sound: every value that operators read is bounded by the checker, and all else is rounded outward.
    """
    require(graph)
    rows = np.eye(graph.output_size) if rows is None else np.atleast_2d(np.asarray(rows, np.float64))
    return _Search(graph, region, norm, rows).run(domains, budget or Budget())


class _Search:
    def __init__(self, graph: Graph, region: Region, norm: float, rows: Array) -> None:
        self.graph, self.region, self.norm, self.rows = graph, region, norm, rows
        self.checked, self.jacobian = Checked(graph), Jacobian(graph)
        self.network = Network(graph, torch.float64)
        self.reads = tuple(dict.fromkeys(graph.nodes[e].inputs[0] for e in graph.nonlinear))
        self.ball = region if region.norm in (1, 2) else None
        self.linear = all(breakpoints(graph.nodes[e].op) is not None for e in graph.nonlinear)
        self.attained, self.point = 0.0, None
        self.domains = 0

    def run(self, most: int, budget: Budget) -> LocalBound:
        self._visit((self.region.lower + self.region.upper) / 2)
        order = count()
        open_: list[tuple[float, int, _Outcome]] = []
        closed = 0.0

        def take(outcomes: list[_Outcome]) -> float:
            least = closed
            for outcome in outcomes:
                if outcome.children is None:
                    least = max(least, outcome.domain.bound)
                else:
                    heapq.heappush(open_, (-outcome.domain.bound, next(order), outcome))
            return least

        closed = take(self._bound([_Domain(self.region.lower, self.region.upper, {})]))
        while open_ and self.domains < most and not budget.expired:
            if -open_[0][0] <= max(self.attained * (1 + CLOSE), closed):
                break
            parents = [heapq.heappop(open_)[2] for _ in range(min(BATCH // 2, len(open_)))]
            closed = take(self._bound([child for p in parents for child in p.children]))
        upper = max(closed, -open_[0][0] if open_ else 0.0)
        return LocalBound(float(upper), float(self.attained), self.point, self.domains)

    def _bound(self, domains: list[_Domain]) -> list[_Outcome]:
        """The domains, bounded, but for those that are shown to be empty."""
        self.domains += len(domains)
        lower, upper = (np.stack([getattr(d, side) for d in domains]) for side in ("lower", "upper"))
        cut = {}
        for v in {v for d in domains for v in d.limits}:
            free = np.full(self.graph.nodes[v].size, np.inf)
            sides = zip(*(d.limits.get(v, (-free, free)) for d in domains), strict=True)
            cut[v] = tuple(np.stack(side).reshape(-1, *self.graph.nodes[v].shape) for side in sides)
        bounds = propagate(self.checked, lower, upper, refined=self.reads, cut=cut, ball=self.ball)
        kept = [k for k, domain in enumerate(domains) if not self._empty(domain, bounds, k, len(domains))]
        if not kept:
            return []
        slopes = {}
        for e in self.graph.nonlinear:
            v = self.graph.nodes[e].inputs[0]
            low, high = (
                np.broadcast_to(b[v], (len(domains), *b[v].shape[1:]))[kept] for b in (bounds.lower, bounds.upper)
            )
            slopes[e] = tuple(s.reshape(len(kept), -1) for s in slopes_between(self.graph, e, low, high))
        found = self.jacobian.bound(self.rows, slopes, self.norm)
        constants = found.constants()
        outcomes = []
        for at, k in enumerate(kept):
            domain = replace(domains[k], bound=min(domains[k].bound, float(constants[at])))
            scores = [
                (high[at] - low[at]) * found.gradients[j + 1].size[min(at, len(found.gradients[j + 1].size) - 1)].max(0)
                for j, (low, high) in enumerate(slopes.values())
            ]
            sizes = found.entries.size[at].max(0)
            outcomes.append(_Outcome(domain, self._children(domain, bounds, k, scores, sizes)))
        return outcomes

    def _children(
        self, domain: _Domain, bounds: Bounds, k: int, scores: list[Array], sizes: Array
    ) -> tuple[_Domain, _Domain] | None:
        if not any(score.any() for score in scores) or not np.isfinite(domain.bound):
            return None
        if not self.linear:
            axis = int(np.argmax((domain.upper - domain.lower) * sizes))
            middle = 0.5 * domain.lower[axis] + 0.5 * domain.upper[axis]
            if not domain.lower[axis] < middle < domain.upper[axis]:
                return None
            below, above = domain.upper.copy(), domain.lower.copy()
            below[axis] = above[axis] = middle
            return replace(domain, upper=below), replace(domain, lower=above)
        first = next(j for j, score in enumerate(scores) if score.any())
        e = self.graph.nonlinear[first]
        v = self.graph.nodes[e].inputs[0]
        low, high = (_row(side[v], k) for side in (bounds.lower, bounds.upper))
        neuron = int(np.argmax(scores[first] * np.minimum(high - low, np.finfo(float).max)))
        inside = [p for p in breakpoints(self.graph.nodes[e].op) if low[neuron] < p < high[neuron]]
        if not inside:
            return None
        point = inside[len(inside) // 2]
        free = np.full(len(low), np.inf)
        before = domain.limits.get(v, (-free, free))
        below, above = before[1].copy(), before[0].copy()
        below[neuron], above[neuron] = point, point
        return (
            replace(domain, limits={**domain.limits, v: (before[0], below)}),
            replace(domain, limits={**domain.limits, v: (above, before[1])}),
        )

    def _empty(self, domain: _Domain, bounds: Bounds, k: int, total: int) -> bool:
        """Whether the domain is shown to hold no input: bounds that cross, or limits that no input keeps."""
        if any((_row(bounds.lower[v], k) > _row(bounds.upper[v], k)).any() for v in self.reads):
            return True
        parts = []  # (node, sign, neuron, limit): sign * value >= sign * limit
        for v, (low, high) in domain.limits.items():
            parts += [(v, 1.0, i, low[i]) for i in np.flatnonzero(np.isfinite(low))]
            parts += [(v, -1.0, i, high[i]) for i in np.flatnonzero(np.isfinite(high))]
        if not parts:
            return False
        work = Pass(self.checked, bounds.take(np.array([k])) if total > 1 else bounds, (1, len(parts)))
        for v in domain.limits:
            unit = np.zeros((1, len(parts), self.graph.nodes[v].size))
            for r, (node, sign, neuron, _) in enumerate(parts):
                if node == v:
                    unit[0, r, neuron] = -sign
            work.put(v, unit)
        work.run({}, {})
        # -sign * value >= a x + c - error, so that every input of the domain keeps  a x <= -sign * limit - c + error
        a = work.pending[0][0]
        error = inflate(work.error[0], 16 * (len(self.graph.nodes) + sum(self.checked.fan)))
        limit = np.array([-sign * point for _, sign, _, point in parts]) - work.constant[0]
        most = limit + inflate(error + gamma(8) * (np.abs(work.constant[0]) + np.abs(limit)), 8)
        return self._infeasible(a, most, domain.lower, domain.upper)

    def _infeasible(self, a: Array, most: Array, lower: Array, upper: Array) -> bool:
        """Whether multipliers y >= 0 show that  a x <= most  holds nowhere in the box: y a x > y most on all of it."""
        norms = np.abs(a).sum(1)
        scale = np.where(norms > 0, norms, 1.0)
        rows = np.concatenate([a / scale[:, None], np.ones((len(a), 1))], 1)
        program = LinearProgram(
            np.append(np.zeros(a.shape[1]), -1.0),
            np.append(lower, -1e3),
            np.append(upper, 1e3),
            rows,
            np.full(len(a), -np.inf),
            most / scale,
        )
        found = solve(program)
        if found.x is not None and found.x[-1] > 1e-12:
            self._visit(np.clip(found.x[:-1], lower, upper))
            return False
        if found.multipliers is None:
            return False
        y = np.maximum(-found.multipliers, 0.0) / scale
        row = y @ a
        least = np.minimum(row * lower, row * upper).sum()
        size = (np.abs(y) @ np.abs(a)) @ np.maximum(np.abs(lower), np.abs(upper)) + y @ np.abs(most)
        terms = a.size + len(lower) + 16
        return bool(least - y @ most > inflate(gamma(2 * terms) * size, terms))

    def _visit(self, x: Array) -> None:
        """The gradient at x, if it lies in the region."""
        if not self.region.contains(x):
            return
        point = torch.from_numpy(x.copy()).requires_grad_()
        y = torch.from_numpy(self.rows) @ self.network(point[None])[0]
        gradients = [torch.autograd.grad(v, point, retain_graph=True, allow_unused=True)[0] for v in y]
        matrix = np.stack([np.zeros(len(x)) if g is None else g.numpy() for g in gradients])
        size = float(np.linalg.norm(matrix, ord=self.norm))
        if size > self.attained:
            self.attained, self.point = size, tuple(x.tolist())


def _row(values: Array, k: int) -> Array:
    return values[min(k, len(values) - 1)].reshape(-1)
