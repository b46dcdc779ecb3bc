"""How far the nearest unsafe input is: a proved lower and an attained upper bound of the minimum adversarial distance.

`lower` is the radius of a ball around x for which the property was verified, with a proof that the checker accepted;
`upper` the distance of a witness that the original network replayed. What the mixed-integer program says (Tjeng, Xiao
& Tedrake 2019) is a hint: it tells which radius to prove, and where to look for the witness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from certify.budget import Budget
from certify.errors import BadOption
from certify.evidence import Witness
from certify.falsify import Falsifier
from certify.frontends.imported import Imported
from certify.graph.evaluate import Network
from certify.memory import ran_out
from certify.mip.distance import Optimum, bounded, nearest
from certify.mip.pieces import covers
from certify.mip.tighten import Effort
from certify.passes import simplify
from certify.solvers.external import mixed_solver
from certify.spec.property import Property
from certify.spec.query import Case, Query
from certify.spec.regions import Region, ball
from certify.strategy import Method, Solver, Strategy
from certify.verdict import Falsified, Verified
from certify.verifier import verify

Array = np.ndarray
Report = Callable[[float, float], None]
"""Told of both bounds as they change: proved, attained."""

CLOSE = 1e-3
"""Relative gap between the bounds at which the distance counts as exact: runtimes in float32 hardly allow for less."""

HALVINGS = 8
"""Radii that are tried by the fast method."""

BELOW = (1e-3, 0.5)
"""By how much less than the solver's distance is proved, in parts of the gap that counts as exact: the second where the
first margin is too small."""

DEPTHS = (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
"""How deep in the unsafe set, by the values of the clause's rows, a witness is looked for where the solver's own point
is safe by rounding."""

PUSHES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""By how much further from x, relatively, it is looked for then."""

SOLVING = 0.2
"""Part of the time left that the mixed-integer program may take."""

ASKING = 0.25
"""Part of the time left that one radius may take after that."""


@dataclass(frozen=True, eq=False)
class Distance:
    """No unsafe input is at most `lower` away (0: nothing is proved), and one, `witness`, is `upper` away (inf: none
    is known); `exact` if these are next to each other. `proof` is the verdict for the ball of radius `lower`. `solver`
    is what the mixed-integer program said, if it was asked: nobody checked that."""

    lower: float
    upper: float
    witness: Witness | None
    proof: Verified | None
    solver: Optimum | None
    exact: bool


@dataclass(frozen=True)
class Metric:
    """A norm (1, 2 or inf), the data range that inputs stay in, how far from x is looked at most, and the relative
    gap between the bounds at which the distance counts as exact."""

    norm: float
    within: tuple[float, float] | None
    largest: float
    gap: float = CLOSE

    def close(self, lower: float, upper: float) -> bool:
        """Whether the bounds are next to each other."""
        return bool(np.isfinite(upper) and upper - lower <= self.gap * upper)

    def ball(self, x: Array, radius: float) -> Region:
        return ball(x, radius, self.norm, self.within)

    def between(self, x: Array, y: Array) -> float:
        """The distance, rounded up: exact comparison, in rational arithmetic."""
        moves = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        size = math.dist(x, y) if self.norm == 2 else float(np.linalg.norm(x - y, self.norm))  # no square underflows
        while np.isfinite(size) and not self._reaches(Fraction(size), moves):
            size = float(np.nextafter(size, np.inf))
        return size

    def _reaches(self, size: Fraction, moves: list[Fraction]) -> bool:
        if self.norm == 2:
            return size * size >= sum((m * m for m in moves), Fraction(0))
        return size >= (sum(moves, Fraction(0)) if self.norm == 1 else max(moves, default=Fraction(0)))


def distance(
    network: Imported,
    x: Array,
    property: Property,
    metric: Metric,
    *,
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    progress: Report | None = None,
) -> Distance:
    """Bounds of the distance from x to the nearest input that is unsafe for the property.

    Anytime: it ends when the bounds meet, the budget is used up or memory runs out, and `progress` hears of both.
    First comes bisection by linear bounds and attacks. For a piecewise-linear network a mixed-integer program is then
    given some time to find the distance. The default search proves what it found, or goes on bisecting.
    Raises BadOption where x is outside the data range or `largest` not positive; UnsupportedOp as `verify`.
    """
    x = np.asarray(x, np.float64).reshape(-1)
    low, high = metric.within or (-np.inf, np.inf)
    if (x < low).any() or (x > high).any():
        raise BadOption("the input is outside the data range", "give the data's own range, or none")
    if not (np.isfinite(metric.largest) and metric.largest > 0):
        raise BadOption(f"the largest distance must be positive, not {metric.largest}", "such as 1.0")
    hunt = _Hunt(network, x, property, metric, strategy or Strategy(), budget or Budget(), progress)
    return hunt.run()


class _Hunt:
    """Both bounds of one distance, as they come closer."""

    def __init__(
        self,
        network: Imported,
        x: Array,
        prop: Property,
        metric: Metric,
        strategy: Strategy,
        budget: Budget,
        progress: Report | None,
    ) -> None:
        self.network, self.x, self.prop, self.metric = network, x, prop, metric
        self.strategy, self.budget, self.progress = strategy, budget, progress
        self.mixed = mixed_solver(strategy.solver)
        self.lower, self.upper = 0.0, np.inf
        self.witness: Witness | None = None
        self.proof: Verified | None = None
        self.solver: Optimum | None = None
        self.graph = simplify(network.graph).graph
        self.wide = Network(self.graph, torch.float64)
        self.falsifier = Falsifier(self._query(metric.largest), Network(self.graph), strategy.seed)

    def run(self) -> Distance:
        try:
            self._hunt()
        except Exception as error:  # without memory, what is known stands
            if not ran_out(error):
                raise
        exact = self.metric.close(self.lower, self.upper)
        return Distance(self.lower, self.upper, self.witness, self.proof, self.solver, exact)

    def _hunt(self) -> None:
        self._take(self.falsifier.replay(0, self.x))
        if self.upper > 0:
            self._bisect(Method.LINEAR, HALVINGS)
            if covers(self.graph) and not self._done():
                self._solve_if_there_is_room()
            self._bisect(Method.AUTO, None)

    def _done(self) -> bool:
        top = min(self.upper, self.metric.largest)
        return self.budget.expired or self.lower >= top or self.metric.close(self.lower, self.upper)

    def _query(self, radius: float) -> Query:
        return Query(self.network.source, self.network.graph, (Case(self.metric.ball(self.x, radius), self.prop),))

    def _take(self, witness: Witness | None) -> None:
        if witness is None:
            return
        size = self.metric.between(self.x, witness.x)
        if size < self.upper:
            self.upper, self.witness = size, witness
            self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.lower, self.upper)

    def _ask(self, radius: float, method: Method, seconds: float, attack: bool = True) -> bool:
        """Verify the ball of this radius, in so many seconds (inf: no limit); whether that was decided."""
        strategy = replace(self.strategy, method=method, solver=Solver.OWN)  # which proves what it says
        strategy = strategy if attack else replace(strategy, steps=0)
        part = self.budget.part(None if seconds == np.inf else seconds)
        verdict = verify(self._query(radius), strategy, part)
        if isinstance(verdict, Verified) and radius > self.lower:
            self.lower, self.proof = radius, verdict
            self._tell()
        elif isinstance(verdict, Falsified):
            self._take(verdict.witness)
        return isinstance(verdict, Verified | Falsified)

    def _bisect(self, method: Method, rounds: int | None) -> None:
        """Radii between the bounds, for so many rounds if that is given, else until the bounds meet; a radius that
        stays open is taken for the upper end of those tried after it."""
        end, tried = min(self.metric.largest, self.upper), 0
        radius = (self.lower + end) / 2 if end == self.upper else end
        while tried != rounds and radius > self.lower and not self._done():  # no float64 may lie between the bounds
            seconds = np.inf if rounds is not None else ASKING * max(self.budget.remaining, 0.0)
            decided = self._ask(radius, method, seconds)
            end = min(end, self.upper) if decided else radius
            if self.metric.close(self.lower, end):
                return
            radius, tried = (self.lower + end) / 2, tried + 1

    def _solve_if_there_is_room(self) -> None:
        """Without memory for the program, there is no hint."""
        try:
            self._solve()
        except Exception as error:
            if not ran_out(error):
                raise

    def _solve(self) -> None:
        """The mixed-integer program, then a proof for the ball just below its distance."""
        largest = min(self.upper, self.metric.largest)
        region = self.metric.ball(self.x, largest)
        share = None if self.budget.timeout is None else SOLVING * max(self.budget.remaining, 0.0)
        part = self.budget.part(share)
        columns, _ = bounded(self.wide, region, part, Effort(linear=False, whole=0.0))
        reach, start = (self.lower, largest), None if self.witness is None else self.witness.x
        found = nearest(columns, self.x, self.metric.norm, self.prop.clauses, reach, part, self._met, self.mixed, start)
        self.solver = found
        if found.x is not None:
            self._met(found.x)
        if found.lower > largest:
            self._prove(largest)
        elif np.isfinite(found.lower):
            for below in BELOW:
                self._prove(found.lower * (1 - below * self.metric.gap))

    def _prove(self, radius: float) -> None:
        """By the search that is fastest, then by the one that is best at tiny margins, unless it is known already."""
        for method in (Method.AUTO, Method.MIP):
            if radius > self.lower and not self._done():
                self._ask(radius, method, ASKING * max(self.budget.remaining, 0.0), attack=False)

    def _met(self, x: Array) -> None:
        """Look for a witness at an input that the solver met, or just behind it."""
        if not np.isfinite(x).all() or self.metric.between(self.x, x) >= self.upper or self.budget.expired:
            return
        down = self._down(x)
        moved = (*(depth * down for depth in DEPTHS), *(push * (x - self.x) for push in PUSHES))
        for move in (np.zeros_like(x), *moved):
            witness = self.falsifier.replay(0, x + move)
            if witness is not None:
                self._take(witness)
                return

    def _down(self, x: Array) -> Array:
        """The shortest move (d,) along which the rows of the clause that is nearest to unsafe at x, but for those that
        are far below their offsets, fall by 1 per unit to first order; 0 if there is none."""
        at = torch.from_numpy(x)[None]
        z = self._values(at)[0].detach()
        each = [c.matrix @ z[: c.matrix.shape[1]].numpy() - c.offset for c in self.prop.clauses]
        clause = int(np.argmin([values.max() for values in each]))
        matrix = torch.from_numpy(self.prop.clauses[clause].matrix[each[clause] > -DEPTHS[-1]])
        if not len(matrix):
            return np.zeros_like(x)

        def rows(points: Tensor) -> Tensor:
            return (self._values(points)[:, : matrix.shape[1]] @ matrix.T)[0]

        slopes = torch.autograd.functional.jacobian(rows, at)[:, 0].numpy()
        if not np.isfinite(slopes).all():
            return np.zeros_like(x)
        down = -np.linalg.lstsq(slopes, np.ones(len(slopes)), rcond=None)[0]
        return down if np.isfinite(down).all() else np.zeros_like(x)

    def _values(self, x: Tensor) -> Tensor:
        """What clauses read, outputs and inputs, in float64: x (B, d)."""
        return torch.cat([self.wide(x), x], 1)
