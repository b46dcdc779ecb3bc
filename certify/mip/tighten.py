"""Bounds on intermediate values for mixed-integer programs: progressively tighter, neuron by neuron, while it pays.

As in MIPVerify (Tjeng, Xiao & Tedrake 2019, section 4.3), after intervals and linear bounds: optimised lines, then the
linear relaxation of the program, then the program itself. What the second finds is computed anew from multipliers,
rounded outward; the last is a solver's word. They make the programs of `certify.mip` smaller, and no claim that is
graded as checked rests on them.

Neurons of a node share one program but for its objective, so some are bounded at once, on threads of their own (HiGHS
lets go of the interpreter while it solves). How many threads there are changes nothing: which neurons are tried is
decided chunk by chunk, and every linear program starts from the same basis.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from certify.bounds.base import Interval, NodeBounds, flat
from certify.bounds.intermediate import unstable
from certify.bounds.tighten import Sharpener
from certify.budget import Budget
from certify.graph.evaluate import Network
from certify.mip.columns import Columns
from certify.mip.encode import Encoded
from certify.numerics import next_down
from certify.solvers.csr import Array
from certify.solvers.highs import Limits, MixedProgram, Status, manageable, solve, solve_mixed
from certify.solvers.outward import lower_bound
from certify.spec.inputset import InputSet
from certify.threads import for_kernels

PAYS = 0.03
"""A stage ends at a node when a chunk of neurons lost less than this share of their width, on average."""

TRIED, MOST = 6, 48
"""Neurons of the first chunk; each is twice as long as the one before it, up to the second number."""

SLACK = 1e-7
"""By how much a bound that is a solver's word is moved outward, relative to 1 and to the bound."""


@dataclass(frozen=True)
class Effort:
    """Which stages there are: optimised lines, linear programs, and mixed-integer ones for `whole` seconds a bound."""

    optimised: bool = True
    linear: bool = True
    whole: float = 0.2


Least = Callable[[Array, float], float]
"""Coefficients (n,) of a program's columns, and a constant -> a lower bound of the value; -inf where there is none.
Several threads ask at once."""


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
        shape = self.network.graph.nodes[v].shape
        interval = tuple(torch.from_numpy(b).reshape(1, *shape) for b in (lower, upper))
        neurons = self._unstable(v, interval)
        program = encoded.program(np.zeros(len(encoded.lower)))
        example = _objectives(encoded, neurons[:1], shape)[0][0]
        least = self._searched(program) if whole else self._relaxed(program, example)
        first, size = 0, TRIED
        pool = ThreadPoolExecutor(for_kernels())
        try:
            while first < len(neurons) and not self.budget.expired:
                some = neurons[first : first + size]
                costs, constants = _objectives(encoded, some, shape)
                before = upper[some] - lower[some]
                ends = np.array([*pool.map(lambda c, k: _ends(least, c, k), costs, constants)])
                lower[some], upper[some] = np.maximum(lower[some], ends[:, 0]), np.minimum(upper[some], ends[:, 1])
                stable = (lower[some] >= 0) | (upper[some] <= 0)
                if np.where(stable, 1.0, 1 - (upper[some] - lower[some]) / before).mean() < PAYS:
                    return
                first, size = first + size, min(2 * size, MOST)
        finally:
            pool.shutdown(cancel_futures=True)

    def _relaxed(self, program: MixedProgram, cost: Array) -> Least:
        """By linear programs, each from the basis at which the least `cost` (n,) is attained: bounds rounded
        outward."""
        linear, stop = program.linear, lambda: self.budget.expired
        if not manageable(replace(linear, cost=cost)):
            return lambda cost, constant: -np.inf
        basis = solve(replace(linear, cost=cost), self.budget.remaining, stop=stop).basis

        def least(cost: Array, constant: float) -> float:
            mine = replace(linear, cost=cost)
            if self.budget.expired or not manageable(mine):
                return -np.inf
            multipliers = solve(mine, self.budget.remaining, basis, stop).multipliers
            return float(next_down(np.float64(lower_bound(mine, multipliers) + constant)))

        return least

    def _searched(self, program: MixedProgram) -> Least:
        """By mixed-integer programs, until the sign is known: a solver's word, moved outward."""

        def least(cost: Array, constant: float) -> float:
            seconds = min(self.budget.remaining, self.effort.whole)
            limits = Limits(seconds=seconds, above=-constant, stop=lambda: self.budget.expired)
            found = solve_mixed(replace(program, linear=replace(program.linear, cost=cost)), limits)
            if found.status is Status.INFEASIBLE or not np.isfinite(found.bound):
                return -np.inf
            bound = found.bound + constant
            return bound - SLACK * (1 + abs(bound))

        return least


def _objectives(encoded: Encoded, neurons: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The last node's values at some neurons (k,), by a program's columns: coefficients (k, n), constants (k,)."""
    unit = torch.zeros(len(neurons), int(np.prod(shape)), dtype=torch.float64)
    unit[torch.arange(len(neurons)), torch.from_numpy(neurons.copy())] = 1.0
    columns = encoded.columns
    value = columns.affine(len(columns.network.graph.nodes) - 1, unit.reshape(-1, *shape))
    cost = np.zeros((len(neurons), len(encoded.lower)))
    np.add.at(cost, (value.row, value.column), value.value)
    return cost, value.constant


def _ends(least: Least, cost: Array, constant: float) -> tuple[float, float]:
    """Bounds of cost . columns + constant; no upper one (inf) is asked for where the lower one is not negative."""
    low = least(cost, constant)
    return low, np.inf if low >= 0 else -least(-cost, -constant)
