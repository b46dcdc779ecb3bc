"""Properties decided by a mixed-integer solver's word: the least margin of a clause over a region, in one program.

The formulation of Tjeng, Xiao & Tedrake (2019), stopped as soon as the sign of the least margin is known. What the
solver says leaves nothing that could be checked, so a verdict made of it is graded as trusted; `certify.mip.search`
is the same method with a proof. The program asks for the least value of the largest row, which every input has: a
solver that calls it infeasible is not believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from certify.budget import Budget
from certify.graph.evaluate import Network
from certify.mip.columns import Affine, Columns
from certify.mip.distance import Met, bounded
from certify.mip.encode import Encoded
from certify.mip.tighten import Effort
from certify.solvers.csr import Array
from certify.solvers.external import SolveMixed
from certify.solvers.highs import Limits, MixedSolution, Status
from certify.spec.inputset import stack
from certify.spec.property import Clause
from certify.spec.regions import Region

SAFE = 1e-5
"""A least margin counts as positive above this, relative to 1 and the program's largest coefficient of a row: solvers
work with tolerances, of which those on whole numbers are multiplied by bounds on neurons."""

CUTS = 50
"""Half-spaces around an L2 ball that are added at most."""

TANGENT = 1e-7
"""By how much, relatively, a point must be outside a ball for another half-space to be worth adding."""


@dataclass(frozen=True, eq=False)
class Word:
    """What the solver says of one clause: whether it is `safe` over the whole region, by a margin of at least `lower`
    (-inf: it did not say), how it ended, and what it said where it failed."""

    safe: bool
    lower: float
    status: Status
    detail: str


class Whole:
    """The programs of one region's clauses, for a network all of whose operators have pieces."""

    def __init__(self, network: Network, region: Region, solve: SolveMixed, budget: Budget) -> None:
        self.region, self.solve, self.budget = region, solve, budget
        ((_, self.inputs),) = stack([region], torch.float64)
        wide = Network(network.graph, torch.float64)
        self.columns: Columns = bounded(wide, region, budget, Effort(linear=False, whole=0.0))[0]

    def ask(self, clause: Clause, met: Met, done: Callable[[], bool]) -> Word:
        """What the solver says of the clause; `met` hears of the inputs that it finds, which may be unsafe. Ends early
        when `done()` turns true."""
        encoded, rows = Encoded(self.columns), self.columns.objective(clause)
        safe = SAFE * (1 + float(np.abs(rows.value).max(initial=0.0)))
        level = encoded.new(np.array([-np.inf]), np.array([np.inf]))
        encoded.affine(rows, -np.inf, 0.0, np.repeat(level, len(rows.constant)))
        if self.region.norm == 1:
            self._octahedron(encoded)

        def hear(objective: float, x: Array) -> None:
            met(self._inside(x))

        def stop() -> bool:
            return self.budget.expired or done()

        lower, found = -np.inf, MixedSolution(Status.STOPPED)
        for _ in range(CUTS):
            cost = np.zeros(len(encoded.lower))
            cost[level] = 1.0
            limits = Limits(seconds=self.budget.remaining, above=safe, stop=stop)
            found = self.solve(encoded.program(cost), limits, better=hear)
            if found.status is not Status.INFEASIBLE and found.bound > lower:  # NaN is not
                lower = found.bound
            if found.x is not None:
                met(self._inside(found.x))
            outside = None if found.x is None or lower > safe or stop() else self._outside(found.x)
            if outside is None:
                break
            self._half_space(encoded, outside)
        return Word(bool(lower > safe), lower, found.status, found.detail)

    def _inside(self, x: Array) -> Array:
        """The input (d,) of the region that is next to the one of a program's columns, but for rounding."""
        found = self.columns.input_at(x)
        if self.region.norm not in (1, 2):
            return found
        return self.inputs.project(torch.from_numpy(found)[None])[0].numpy()

    def _octahedron(self, encoded: Encoded) -> None:
        """The sum of all |x - center| is at most the radius: a column for each."""
        at = self.columns.varying
        inputs, scale = np.arange(len(at)), self.columns.half[at]
        offset = (self.region.center - self.columns.middle)[at]
        rest = np.abs(self.region.center - self.columns.middle).sum() - np.abs(offset).sum()  # of inputs that are fixed
        parts = encoded.new(np.zeros(len(at)), np.full(len(at), np.inf))
        encoded.rows([(inputs, scale), (parts, -1.0)], -np.inf, offset)
        encoded.rows([(inputs, scale), (parts, 1.0)], offset, np.inf)
        total = Affine(np.zeros(len(at), np.int64), parts, np.ones(len(at)), np.zeros(1))
        encoded.affine(total, -np.inf, (self.region.radius - rest) * (1 + TANGENT))

    def _outside(self, x: Array) -> Array | None:
        """The unit vector (d,) from the center towards an input that is outside an L2 ball; None if it is inside."""
        if self.region.norm != 2:
            return None
        move = self.columns.input_at(x) - self.region.center
        size = float(np.linalg.norm(move))
        return move / size if size > self.region.radius * (1 + TANGENT) else None

    def _half_space(self, encoded: Encoded, away: Array) -> None:
        """away . (x - center) <= radius."""
        columns, at = self.columns, self.columns.varying
        constant = away @ (columns.middle - self.region.center) - self.region.radius * (1 + TANGENT / 2)
        scaled = (away * columns.half)[at]
        row = Affine(np.zeros(len(at), np.int64), np.arange(len(at)), scaled, np.array([constant]))
        encoded.affine(row, -np.inf, 0.0)
