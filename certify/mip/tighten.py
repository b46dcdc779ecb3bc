"""Bounds on intermediate values for mixed-integer programs: progressively tighter, neuron by neuron, while it pays.

As in MIPVerify (Tjeng, Xiao & Tedrake 2019, section 4.3), after intervals and linear bounds: optimised lines, then the
linear relaxation of the program, then the program itself. What the second finds is computed anew from multipliers,
rounded outward; the last is a solver's word. They make the programs of `certify.mip` smaller, and no claim that is
graded as checked rests on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from certify.bounds.base import Interval, NodeBounds, flat
from certify.bounds.intermediate import unstable
from certify.bounds.tighten import Sharpener
from certify.budget import Budget
from certify.graph.evaluate import Network
from certify.mip.columns import Affine, Columns
from certify.mip.encode import Encoded
from certify.numerics import next_down
from certify.solvers.csr import Array
from certify.solvers.highs import Limits, Status, manageable, solve, solve_mixed
from certify.solvers.outward import lower_bound
from certify.spec.inputset import InputSet

PAYS = 0.03
"""A stage ends at a node when the last `TRIED` neurons lost less than this share of their width, on average."""

TRIED = 6

SLACK = 1e-7
"""By how much a bound that is a solver's word is moved outward, relative to 1 and to the bound."""


@dataclass(frozen=True)
class Effort:
    """Which stages there are: optimised lines, linear programs, and mixed-integer ones for `whole` seconds a bound."""

    optimised: bool = True
    linear: bool = True
    whole: float = 0.2


class Tightener:
    """A `Sharpen` (see `certify.bounds.intermediate`) over one region, for a network in float64."""

    def __init__(self, network: Network, inputs: InputSet, effort: Effort, budget: Budget) -> None:
        self.network, self.inputs, self.effort, self.budget = network, inputs, effort, budget
        every = {v: torch.ones(n.size, dtype=torch.bool) for v, n in enumerate(network.graph.nodes)}
        self.sharpener = Sharpener(network, inputs, every, budget)

    def __call__(self, v: int, interval: Interval, bounds: NodeBounds) -> Interval:
        if self.effort.optimised:
            interval = self.sharpener(v, interval, bounds)
        if not (self.effort.linear or self.effort.whole) or not self._unstable(v, interval).size:
            return interval
        part, kept = self.network.until(v)
        columns = Columns(part, {k: bounds[i] for k, i in enumerate(kept) if i in bounds}, self.inputs)
        encoded = Encoded(columns)
        lower, upper = (flat(b, 1)[0].cpu().numpy().copy() for b in interval)
        for whole in (False, True):
            if not encoded.binaries.size or not (self.effort.whole if whole else self.effort.linear):
                continue
            self._stage(encoded, v, lower, upper, whole)
            shape = interval[0].shape
            interval = tuple(torch.from_numpy(b.copy()).reshape(shape) for b in (lower, upper))
        return interval

    def _unstable(self, v: int, interval: Interval) -> Array:
        """The neurons that are not stable, widest first."""
        width = flat(interval[1] - interval[0], 1)[0].cpu().numpy()
        mask = flat(unstable(self.network.graph, v, interval), 1)[0].cpu().numpy()
        order = np.argsort(-width, kind="stable")
        return order[mask[order]]

    def _stage(self, encoded: Encoded, v: int, lower: Array, upper: Array, whole: bool) -> None:
        """Tighten lower and upper (size,) of node v in place."""
        columns, shape = encoded.columns, self.network.graph.nodes[v].shape
        interval = tuple(torch.from_numpy(b).reshape(1, *shape) for b in (lower, upper))
        gains: list[float] = []
        for neuron in self._unstable(v, interval):
            if self.budget.expired or (len(gains) >= TRIED and np.mean(gains[-TRIED:]) < PAYS):
                return
            unit = torch.zeros(1, len(lower), dtype=torch.float64)
            unit[0, neuron] = 1.0
            value = columns.affine(len(columns.network.graph.nodes) - 1, unit.reshape(1, *shape))
            before = upper[neuron] - lower[neuron]
            lower[neuron] = max(lower[neuron], self._least(encoded, value, 1.0, whole))
            if lower[neuron] < 0:
                upper[neuron] = min(upper[neuron], -self._least(encoded, value, -1.0, whole))
            gains.append(
                1.0 if lower[neuron] >= 0 or upper[neuron] <= 0 else 1 - (upper[neuron] - lower[neuron]) / before
            )

    def _least(self, encoded: Encoded, value: Affine, sign: float, whole: bool) -> float:
        """A lower bound of sign * value; -inf where the solver has none."""
        cost = np.zeros(len(encoded.lower))
        cost[value.column] = sign * value.value
        program = encoded.program(cost)
        constant = sign * float(value.constant[0])
        if not whole:
            multipliers = (
                solve(program.linear, self.budget.remaining).multipliers if manageable(program.linear) else None
            )
            return float(next_down(np.float64(lower_bound(program.linear, multipliers) + constant)))
        seconds = min(self.budget.remaining, self.effort.whole)
        found = solve_mixed(program, Limits(seconds=seconds, above=-constant, stop=lambda: self.budget.expired))
        if found.status is Status.INFEASIBLE or not np.isfinite(found.bound):
            return -np.inf
        bound = found.bound + constant
        return bound - SLACK * (1 + abs(bound))
