"""The least and the greatest value of a linear function of a network's output over a region.

One side is proved: the property that no value is beyond it was verified, with a proof that the checker accepted. The
other is attained: the original network answered so at an input of the region. What the mixed-integer program says
(Tjeng, Xiao & Tedrake 2019) is a hint that tells what to prove and where to look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from certify.budget import Budget
from certify.errors import BadOption
from certify.evidence import Witness
from certify.frontends.imported import Imported
from certify.graph.evaluate import Network
from certify.memory import ran_out
from certify.mip.distance import Optimum, bounded, least
from certify.mip.pieces import covers
from certify.mip.tighten import Effort
from certify.numerics import next_up
from certify.passes import simplify
from certify.solvers.external import mixed_solver
from certify.spec.property import Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import Region
from certify.strategy import Method, Solver, Strategy
from certify.verdict import Falsified, Verified
from certify.verifier import verify

Array = np.ndarray
Report = Callable[[float, float], None]
"""Told of both bounds as they change: proved, attained."""

GAP = 1e-6
"""Between the bounds of an extreme value that counts as exact, relative to 1 and to it."""

BELOW = (1e-2, 0.5)
"""By how much less than the program's least value is proved, in parts of the gap."""

SOLVING = 0.3
"""Part of the time that the mixed-integer program may take."""

ASKING = 0.25
"""Part of the time left that one value may take after that."""

FIRST = 1.0
"""How far below the attained value is asked first where nothing is known, relative to 1 and to it."""


@dataclass(frozen=True, eq=False)
class Extreme:
    """No value over the region is beyond `proved` (infinite: nothing is proved), and `attained` is that at x (d,), as
    the original network rounds; `exact` if these are next to each other. `proof` is the verdict that says the first,
    and `solver` what the mixed-integer program said of the least value, if it was asked: nobody checked that."""

    proved: float
    attained: float
    x: Array | None
    proof: Verified | None
    solver: Optimum | None
    exact: bool


def minimum(
    network: Imported,
    region: Region,
    row: Array,
    *,
    gap: float = GAP,
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    progress: Report | None = None,
) -> Extreme:
    """Bounds of the least  row @ y  over the region, for row (n,) on the n outputs, or (n + d,) on the d inputs too.

    Anytime: it ends when the bounds are within `gap` (absolute up to values of 1, relative beyond), the budget is used
    up or memory runs out. Sound if the checker is: only verified properties move `proved`. Raises BadOption for a row
    that does not fit, UnsupportedOp as `verify`.
    """
    row, graph = np.asarray(row, np.float64).reshape(-1), network.graph
    if row.size not in (graph.output_size, graph.output_size + graph.input_size) or not np.isfinite(row).all():
        sizes = f"{graph.output_size}, or {graph.output_size + graph.input_size} with the inputs"
        raise BadOption(f"the row has {row.size} numbers, or some that are not finite", f"give one per output: {sizes}")
    hunt = _Hunt(network, region, row, gap, strategy or Strategy(), budget or Budget())
    hunt.progress = progress
    return hunt.run()


def maximum(
    network: Imported,
    region: Region,
    row: Array,
    *,
    gap: float = GAP,
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    progress: Report | None = None,
) -> Extreme:
    """As `minimum`, of the greatest value: `proved` is above `attained`. The program speaks of minus the value."""
    told = None if progress is None else lambda proved, attained: progress(-proved, -attained)
    negated = -np.asarray(row, np.float64)
    found = minimum(network, region, negated, gap=gap, strategy=strategy, budget=budget, progress=told)
    return replace(found, proved=-found.proved, attained=-found.attained)


class _Hunt:
    """Both bounds of a least value, as they come closer."""

    def __init__(
        self, network: Imported, region: Region, row: Array, gap: float, strategy: Strategy, budget: Budget
    ) -> None:
        self.network, self.region, self.row, self.gap = network, region, row, gap
        self.strategy, self.budget = strategy, budget
        self.progress: Report | None = None
        self.proved, self.attained = -np.inf, np.inf
        self.x: Array | None = None
        self.proof: Verified | None = None
        self.said: Optimum | None = None
        self.mixed = mixed_solver(strategy.solver)
        self.graph = simplify(network.graph).graph

    def run(self) -> Extreme:
        try:
            self._hunt()
        except Exception as error:  # without memory, what is known stands
            if not ran_out(error):
                raise
        return Extreme(self.proved, self.attained, self.x, self.proof, self.said, self._close(self.attained))

    def _hunt(self) -> None:
        self._try((self.region.lower + self.region.upper) / 2 if self.region.center is None else self.region.center)
        self.said = said = self._solve_if_there_is_room() if covers(self.graph) else None
        if said is not None and np.isfinite(said.lower):
            for below in BELOW:
                self._prove(said.lower - below * self._allowed(said.lower))
        self._bisect()

    def _allowed(self, value: float) -> float:
        return self.gap * max(1.0, abs(value))

    def _close(self, end: float) -> bool:
        return bool(np.isfinite(end) and end - self.proved <= self._allowed(end))

    def _try(self, x: Array) -> None:
        """Ask the original network at an input, or right next to it."""
        inside = self.region.pull_inside(x, np.dtype(self.network.graph.inputs[0].dtype))
        if inside is not None:
            self._take(inside, np.asarray(self.network.source(inside), np.float64).reshape(-1))

    def _take(self, x: Array, y: Array) -> None:
        z = np.append(y, x)[: self.row.size]
        if not np.isfinite(z).all():
            return
        terms = zip(self.row.tolist(), z.tolist(), strict=True)
        exact = sum((Fraction(a) * Fraction(v) for a, v in terms), Fraction(0))
        value = float(exact)
        value = value if Fraction(value) >= exact else float(next_up(np.float64(value)))
        if value < self.attained:
            self.attained, self.x = value, x
            self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.proved, self.attained)

    def _solve_if_there_is_room(self) -> Optimum | None:
        """Without memory for the program, there is no hint."""
        try:
            return self._solve()
        except Exception as error:
            if not ran_out(error):
                raise
            return None

    def _solve(self) -> Optimum:
        share = None if self.budget.timeout is None else SOLVING * max(self.budget.remaining, 0.0)
        part = self.budget.part(share)
        columns, _ = bounded(Network(self.graph, torch.float64), self.region, part, Effort(linear=False, whole=0.0))
        said = least(columns, clause(self.row[None], [0.0]), part, self._try, self.mixed, self.x)
        if said.x is not None:
            self._try(said.x)
        return said

    def _prove(self, value: float) -> None:
        """By the search that is best at tiny margins, then by the one that is fastest, unless it is known already."""
        for method in (Method.MIP, Method.AUTO):
            if value > self.proved and not (self.budget.expired or self._close(self.attained)):
                self._ask(value, method)

    def _ask(self, value: float, method: Method) -> bool:
        """Whether all values are above this one, or not; whether that was decided."""
        prop = Property((clause(self.row[None], [value]),))
        query = Query(self.network.source, self.network.graph, (Case(self.region, prop),))
        strategy = replace(self.strategy, method=method, solver=Solver.OWN)  # which proves what it says
        share = None if self.budget.timeout is None else ASKING * max(self.budget.remaining, 0.0)
        verdict = verify(query, strategy, self.budget.part(share))
        if isinstance(verdict, Verified) and value > self.proved:
            self.proved, self.proof = value, verdict
            self._tell()
        elif isinstance(verdict, Falsified):
            self._witness(verdict.witness)
        return isinstance(verdict, Verified | Falsified)

    def _witness(self, witness: Witness) -> None:
        self._take(witness.x, witness.y)

    def _bisect(self) -> None:
        """Values between the bounds, or below the attained one while nothing is proved. One that stays open is taken
        for the upper end of those asked after it."""
        end, step = self.attained, FIRST * max(1.0, abs(self.attained))
        while np.isfinite(end) and not (self.budget.expired or self._close(end)):
            value = end - step if np.isinf(self.proved) else (self.proved + end) / 2
            if not self.proved < value < end:  # no float64 lies between the bounds
                return
            decided = self._ask(value, Method.AUTO)
            end = min(end, self.attained) if decided else value
            step *= 4 if np.isinf(self.proved) else 1
