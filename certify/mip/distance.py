"""The nearest input at which a clause is unsafe, and the least value of an output, by mixed-integer programming.

Everything here rests on the solver and on rounding to nearest: these are hints. `certify.exact` makes claims of them.

L-infinity and L1 distances are linear. For L2, the program minimises r >= g . (x - center) over unit vectors g that
are added one by one (outer approximation, Duran & Grossmann 1986): each time a point is found, the quadratic program
over its activation pattern gives the point x of that pattern that is nearest to the center, and g = (x - center) /
|x - center| makes r right for the whole pattern, which is convex. So no pattern is met twice, up to the accuracy of
that program; the solution's own direction, which is added too, makes up for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from certify.bounds.base import NodeBounds, apart
from certify.bounds.intermediate import intermediate
from certify.budget import Budget
from certify.graph.evaluate import Network
from certify.mip.columns import Affine, Columns
from certify.mip.encode import ROOM, Encoded
from certify.mip.lazy import Lazy, Met, pulls
from certify.mip.pieces import require
from certify.mip.tighten import Effort, Tightener
from certify.solvers.csr import Array
from certify.solvers.external import SolveMixed
from certify.solvers.highs import (
    Limits,
    LinearProgram,
    MixedSolution,
    Status,
    solve,
    solve_mixed,
    solve_quadratic,
    with_row,
)
from certify.spec.inputset import InputSet, stack
from certify.spec.property import Clause
from certify.spec.regions import Region


@dataclass(frozen=True, eq=False)
class Optimum:
    """As the solver says: the optimum lies between `lower` and `upper`, which an input x (d,) attains (None and inf
    if there is none). `status` tells how the solve ended."""

    status: Status
    lower: float
    upper: float
    x: Array | None


def bounded(network: Network, region: Region, budget: Budget, effort: Effort | None = None) -> tuple[Columns, InputSet]:
    """The columns of a network, float64, over a region's box, with bounds from backward propagation and, with an
    `effort`, tightened further."""
    require(network.graph)
    box = Region(region.lower, region.upper)
    ((_, inputs),) = stack([box], torch.float64, network.device)
    sharpen = None if effort is None else Tightener(network, inputs, effort, budget)
    bounds: NodeBounds = apart(intermediate(network, inputs, budget=budget, sharpen=sharpen))
    return Columns(network, bounds, inputs), inputs


def least(
    columns: Columns,
    clause: Clause,
    budget: Budget,
    met: Met | None = None,
    solve: SolveMixed = solve_mixed,
    start: Array | None = None,
) -> Optimum:
    """The least value, over the region's box, of the largest row of `clause`; the solver starts from an input `start`
    (d,) of the box, if given."""
    encoded, rows = Encoded(columns), columns.objective(clause)
    level, point = encoded.level(rows), None
    if start is not None:
        point = encoded.at(start)
        point[level] = rows.at(point).max()
    found = Lazy(encoded, pulls(columns, clause), solve).minimise(level, _limits(budget), met, point)
    return _optimum(found, columns)


def _limits(budget: Budget, cutoff: float = float("inf")) -> Limits:
    return Limits(seconds=budget.remaining, stop=lambda: budget.expired, cutoff=cutoff)


def _optimum(found: MixedSolution, columns: Columns) -> Optimum:
    lower = float("inf") if found.status is Status.INFEASIBLE else found.bound
    return Optimum(found.status, lower, found.objective, None if found.x is None else columns.input_at(found.x))


def nearest(
    columns: Columns,
    center: Array,
    norm: float,
    clauses: Sequence[Clause],
    reach: tuple[float, float],
    budget: Budget,
    met: Met | None = None,
    solve: SolveMixed = solve_mixed,
    start: Array | None = None,
) -> Optimum:
    """The input of the columns' region nearest to `center`, in the norm, among those at which one of the clauses is
    unsafe; upper is the distance. It is looked for between the two numbers of `reach`: nothing nearer than the first
    is unsafe, as the caller knows, and nothing further than the second is wanted. The solver starts from `start`, if it
    is such an input. INFEASIBLE, and lower = inf, if there is none."""
    smallest, largest = reach
    best = Optimum(Status.INFEASIBLE, float("inf"), float("inf"), None)
    for clause in clauses:
        measure = _Measure(columns, center, norm, clause, smallest, solve)
        found = measure.minimise(min(largest, best.upper), budget, met, start)
        nearer = found if found.upper < best.upper else best
        lower = min(best.lower, found.lower)
        status = found.status if found.status not in (Status.OPTIMAL, Status.INFEASIBLE) else nearer.status
        worse = best.status if best.status not in (Status.OPTIMAL, Status.INFEASIBLE) else status
        best = replace(nearer, lower=lower, status=worse)
    return replace(best, lower=min(best.lower, best.upper))


DEPTHS = (1e-9, 1e-7)
"""How far below their offsets the rows of a clause are asked to be, relative to 1 and to their largest coefficient:
what lies on the border of the unsafe set may be outside of it by rounding."""

GAP = 1e-9
"""Relative to the largest distance that is looked for: progress of L2 distances that is none."""


QUADRATIC = 2.0
"""Seconds that a quadratic program may take: nothing else ends one (HiGHS 1.15 asks nobody), and of large networks,
whose programs would last for minutes, solutions' own directions must do."""


class _Measure:
    """The program of the distance to one clause. Its last columns are r and, for L1, those of its parts."""

    def __init__(
        self, columns: Columns, center: Array, norm: float, clause: Clause, smallest: float, solve: SolveMixed
    ) -> None:
        self.columns, self.norm, self.smallest = columns, norm, smallest
        self.encoded = Encoded(columns)
        self.unsafe = columns.objective(clause)
        self.encoded.affine(self.unsafe, -np.inf, 0.0)
        self.lazy = Lazy(self.encoded, pulls(columns, clause), solve)
        at = columns.varying
        self.inputs, self.scale = np.arange(len(at)), columns.half[at]
        self.offset = (center - columns.middle)[at]  # x - center = scale * column - offset
        self.center = center
        furthest = self.scale + np.abs(self.offset)  # of the region's box, input by input
        most = max(smallest, float(np.linalg.norm(furthest, norm))) * (1 + ROOM)
        (self.r,) = self.encoded.new(np.full(1, smallest), np.full(1, most))
        self.parts = np.zeros(0, np.int64)
        if norm == 1:
            self.parts = parts = self.encoded.new(np.zeros(len(at)), furthest * (1 + ROOM))
            self._beyond(parts)
            self._sum(np.append(parts, self.r), np.append(np.ones(len(at)), -1.0), 0.0)
        else:
            self._beyond(np.repeat(self.r, len(at)))

    def _beyond(self, sizes: Array) -> None:
        """|x - center| <= these columns, input by input."""
        self.encoded.rows([(self.inputs, self.scale), (sizes, -1.0)], -np.inf, self.offset)
        self.encoded.rows([(self.inputs, self.scale), (sizes, 1.0)], self.offset, np.inf)

    def _sum(self, columns: Array, values: Array, upper: float) -> None:
        row = Affine(np.zeros(len(columns), np.int64), columns, values, np.zeros(1))
        self.encoded.affine(row, -np.inf, upper)

    def _beyond_tangent(self, move: Array) -> None:
        """r >= g . (x - center), where g is the unit vector in the direction of `move` (d,)."""
        away = (move / np.linalg.norm(move))[self.columns.varying]
        values = np.append(away * self.scale, -1.0)
        self._sum(np.append(self.inputs, self.r), values, float(away @ self.offset))

    def _point(self, x: Array | None) -> Array | None:
        """The program's columns at an input x (d,), if that is unsafe."""
        if x is None:
            return None
        point, move = self.encoded.at(x), x - self.center
        point[self.r] = max(self.smallest, float(np.linalg.norm(move, self.norm)))
        point[self.parts] = np.abs(move[self.columns.varying])[: len(self.parts)]
        return point if (self.unsafe.at(point) <= 0).all() else None

    def minimise(self, largest: float, budget: Budget, met: Met | None, start: Array | None) -> Optimum:
        """The distance, if it is at most `largest`; the search starts from the input `start` if that is unsafe."""
        columns, point, pattern = self.columns, self._point(start), None
        best = Optimum(Status.STOPPED, 0.0, float("inf"), None)
        while True:
            limits = _limits(budget, cutoff=min(largest, best.upper))
            found = self.lazy.minimise(int(self.r), limits, met, point)
            mine = _optimum(found, columns)
            lower = max(best.lower, min(mine.lower, best.upper))
            if found.x is None or self.norm != 2:
                self._tell_deeper(pattern if found.x is None else found.x, met, budget)
                mine = mine if self.norm != 2 or best.x is None else replace(best, status=mine.status)
                return replace(mine, lower=lower if mine.x is None or self.norm == 2 else mine.lower)
            nearest = self._nearest_of_pattern(found.x, budget)
            move = nearest - self.center
            size = float(np.linalg.norm(move))
            if met is not None:
                met(nearest)
            stalled = max(lower - best.lower, best.upper - size) <= GAP * largest
            if size < best.upper:
                best, pattern = replace(best, upper=size, x=nearest), found.x
            best = replace(best, lower=min(lower, best.upper), status=mine.status)
            closed = best.upper - best.lower <= GAP * largest
            if stalled or closed or budget.expired or found.status is not Status.OPTIMAL:
                self._tell_deeper(pattern, met, budget)
                return best
            self._beyond_tangent(move)
            self._beyond_tangent(columns.input_at(found.x) - self.center)

    def _tell_deeper(self, x: Array | None, met: Met | None, budget: Budget) -> None:
        """Let `met` hear of the nearest inputs of the activation pattern of the solution x that are a little inside
        the unsafe set."""
        if x is None or met is None:
            return
        cost = np.zeros(len(x))
        cost[self.r] = 1.0
        program, rows = self._of_pattern(cost, x), self.unsafe
        for depth in DEPTHS:
            deeper = program
            for k, constant in enumerate(rows.constant):
                row, own = np.zeros(len(x)), rows.row == k
                row[rows.column[own]] = rows.value[own]
                deeper = with_row(deeper, row, -constant - depth * (1 + np.abs(row).max()))
            found = solve(deeper, budget.remaining, stop=lambda: budget.expired)
            if found.x is not None:
                met(self.columns.input_at(found.x))

    def _of_pattern(self, cost: Array, x: Array) -> LinearProgram:
        """The program whose binaries are those of the solution x."""
        program, binaries = self.encoded.program(cost).linear, self.encoded.binaries
        lower, upper = program.lower.copy(), program.upper.copy()
        lower[binaries] = upper[binaries] = np.clip(np.rint(x), lower, upper)[binaries]
        return replace(program, lower=lower, upper=upper)

    def _nearest_of_pattern(self, x: Array, budget: Budget) -> Array:
        """The nearest input (d,) of the activation pattern of the solution x, or x's own where that fails."""
        curvature = np.zeros(len(x))
        curvature[self.inputs] = self.scale**2
        cost = np.zeros(len(x))
        cost[self.inputs] = -self.scale * self.offset
        program = self._of_pattern(cost, x)
        program.upper[self.r] = np.inf
        found = solve_quadratic(program, curvature, min(budget.remaining, QUADRATIC))
        own = self.columns.input_at(x)
        if found.x is None or not np.isfinite(found.x).all():
            return own
        moved = self.columns.input_at(found.x)
        sizes = [np.linalg.norm(p - self.center) for p in (own, moved)]
        return moved if sizes[1] <= sizes[0] else own
