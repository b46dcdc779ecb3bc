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
from certify.mip.balls import Ball
from certify.mip.columns import Affine, Columns
from certify.mip.distance import bounded
from certify.mip.encode import Block, Encoded
from certify.mip.lazy import Lazy, Met, pulls
from certify.mip.pieces import PARTS, exact
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

MOST_PARTS = 32
"""Pieces of a smooth operator at most: they are doubled where fewer do not decide."""


@dataclass(frozen=True, eq=False)
class Word:
    """What the solver says of one clause: whether it is `safe` over the whole region, by a margin of at least `lower`
    (-inf: it did not say), how it ended, and what it said where it failed."""

    safe: bool
    lower: float
    status: Status
    detail: str


class Whole:
    """The programs of one region's clauses, for a network whose operators `certify.mip.pieces` covers."""

    def __init__(self, network: Network, region: Region, solve: SolveMixed, budget: Budget) -> None:
        self.region, self.solve, self.budget = region, solve, budget
        ((_, self.inputs),) = stack([region], torch.float64)
        wide = Network(network.graph, torch.float64)
        self.columns: Columns = bounded(wide, region, budget, Effort(linear=False, whole=0.0))[0]
        self.exact = exact(network.graph)
        self.ball: Ball | None = None
        if region.norm in (1, 2):
            self.ball = Ball(self.columns, region.norm, region.center, region.radius)
        self.around: list[Block] = []  # half-spaces around an L2 ball

    def ask(self, clause: Clause, met: Met, done: Callable[[], bool]) -> Word:
        """What the solver says of the clause; `met` hears of the inputs that it finds, which may be unsafe. Ends early
        when `done()` turns true."""
        rows, pull = self.columns.objective(clause), pulls(self.columns, clause)
        safe = SAFE * (1 + float(np.abs(rows.value).max(initial=0.0)))

        def meet(x: Array) -> None:
            met(self._inside(x))

        def stop() -> bool:
            return self.budget.expired or done()

        lower, said, parts = -np.inf, MixedSolution(Status.STOPPED), PARTS
        while True:
            encoded = self._encoded(rows, parts)
            lazy = Lazy(encoded, pull, self.solve)
            while True:
                limits = Limits(seconds=self.budget.remaining, above=safe, stop=stop)
                said = lazy.minimise(self.level, limits, meet)
                if said.x is not None:
                    meet(self.columns.input_at(said.x))
                if said.status is not Status.INFEASIBLE and said.bound > lower:  # NaN is not
                    lower = said.bound
                ended = said.x is None or lower > safe or stop()
                if ended or not self._cut(said.x) or len(self.around) >= CUTS:
                    break
                encoded.append(self.around[-1])
            parts *= 2
            if ended or self.exact or parts > MOST_PARTS:
                return Word(bool(lower > safe), lower, said.status, said.detail)

    def _encoded(self, rows: Affine, parts: int) -> Encoded:
        """The program of the least level that no row exceeds; column `level` is that."""
        encoded = Encoded(self.columns, parts)
        self.level = encoded.level(rows)
        if self.ball is not None and self.ball.norm == 1:
            count = len(self.columns.varying)
            encoded.append(self.ball.octahedron(encoded.new(np.zeros(count), np.full(count, np.inf))))
        for block in self.around:
            encoded.append(block)
        return encoded

    def _cut(self, x: Array) -> bool:
        """Whether the program's columns x are an input outside an L2 ball; it will be kept from the programs then."""
        if self.ball is None or self.ball.norm != 2:
            return False
        block = self.ball.tangent(self.columns.input_at(x))
        self.around += [] if block is None else [block]
        return block is not None

    def _inside(self, x: Array) -> Array:
        """The input (d,) of the region that is next to x (d,), but for rounding."""
        if self.ball is None:
            return x
        return self.inputs.project(torch.from_numpy(x)[None])[0].numpy()
