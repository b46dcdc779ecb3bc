"""Mixed-integer programs whose neurons become whole one after the other, as solutions call for them.

Without its binaries' integrality a ReLU is its triangle, so a program in which only some neurons are whole is a
relaxation: its bound holds for the program that is meant, and a solution of it that no neuron misses is one of that.
First comes the linear program, with the inequalities of `certify.mip.cuts` that its solutions violate: it settles most
questions, and what it settles is computed anew from multipliers. Then the neurons that solutions miss are made whole,
those first that cost most: how far they are missed, times their pull on the objective, which is the score that BaBSR
(Bunel et al. 2020) branches by. HiGHS 1.15 has neither priorities of branching nor callbacks that could choose: the
order in which neurons become whole is where these scores count.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from certify.bounds.base import flat
from certify.bounds.linear import lines_of, propagate
from certify.mip.columns import Columns
from certify.mip.cuts import Hulls
from certify.mip.encode import Encoded
from certify.solvers.csr import Array, csr, stacked
from certify.solvers.external import SolveMixed
from certify.solvers.highs import Kept, Limits, Listener, MixedSolution, Status, below, manageable
from certify.solvers.outward import lower_bound
from certify.spec.property import Clause

Met = Callable[[Array], None]
"""Told of inputs (d,) that the solver meets."""

MISS = 1e-8
"""By how much a neuron that is not whole may be missed, relative to 1 and to what it reads: about what solvers allow
one that is."""

LEAST = 8
"""Neurons that become whole at once, at least; or as many as there are whole ones."""


INPUTS = 500
"""Columns that a neuron may read at most for its hull to be cut out: all that was gained was gained behind the first
layer, and of the 784 inputs of an image none of its neurons had an inequality that was violated."""

AT_ONCE, ROUNDS, PAYS = 500, 10, 0.05
"""Inequalities that are added at once, and how often, at most; a round that gains less than this share of what all
rounds gained is the last one."""


def pulls(columns: Columns, clause: Clause) -> Array:
    """(P,): how much the rows of a clause depend on each bent neuron, node after node: the coefficients with which
    backward propagation arrives there, by size."""
    network = columns.network
    last = network.graph.nodes[-1]
    rows = torch.from_numpy(clause.matrix[:, : network.graph.output_size]).to(network.dtype)
    lines = lines_of(network, columns.bounds, network.graph.nonlinear)
    start = {len(network.graph.nodes) - 1: rows.reshape(1, -1, *last.shape)}
    kept = propagate(network, start, rows.new_zeros(1, len(rows)), lines, keep=True).kept
    found = [np.zeros(0)]
    for bent in columns.bent:  # no row may arrive at a node
        size = network.graph.nodes[bent.node].size
        pull = flat(kept[bent.node].abs(), 2).sum((0, 1)).cpu().numpy() if bent.node in kept else np.zeros(size)
        found.append(np.nan_to_num(pull[bent.index]))
    return np.concatenate(found)


MANY = 400
"""With more bent neurons than these, all are whole from the start: for several, solvers find cuts that single ones do
not have, and on a convolutional network with 1300 these were worth more than small programs."""


class Lazy:
    """The programs of `encoded`, solved by `solve`; `pull` (P,) is that of the bent neurons. `whole` (P,) tells which
    of them are whole by now."""

    def __init__(self, encoded: Encoded, pull: Array, solve: SolveMixed) -> None:
        self.encoded, self.pull, self.solve = encoded, pull, solve
        self.whole = np.full(len(pull), len(pull) > MANY)

    def minimise(
        self, column: int, limits: Limits, met: Met | None = None, start: Array | None = None
    ) -> MixedSolution:
        """The least value of a column of the program, as `solve` would find it with all neurons whole: `bound` is the
        best of all programs so far, whichever way the last one ended, and x none but a point that no neuron misses.

        Where limits.above asks for a sign, each program ends at a point that shows that it does not know it: the
        neurons missed there are as good as those of an optimum. Where the value itself is asked for, all neurons are
        whole at once: on distances, programs that grow took twice as long, and inequalities before them did, too.
        `met` hears of the inputs (d,) of all points.
        """
        target = limits.above if np.isfinite(limits.above) else limits.target
        ends = time.monotonic() + limits.seconds
        cost = np.zeros(len(self.encoded.lower))
        cost[column] = 1.0
        best = -np.inf
        self.whole |= not np.isfinite(limits.above)
        if not self.whole.any():
            with contextlib.suppress(MemoryError):  # whether there is room for a search the solver will say
                best = self._cut(cost, limits)
        while not best > limits.above:
            left = replace(limits, seconds=ends - time.monotonic(), target=target)
            found = self.solve(self.encoded.program(cost, self.whole), left, start, better=self._listener(met))
            if found.status is Status.INFEASIBLE:
                return MixedSolution(found.status, found.bound, detail=found.detail)
            best = max(best, found.bound)  # NaN is not
            found = replace(found, bound=best)
            if found.x is None or found.x.shape != cost.shape or not np.isfinite(found.x).all():
                found = replace(found, x=None, objective=np.inf)
            if self.whole.all():
                return found
            miss = None
            if found.x is not None:
                miss, rounded = self.encoded.misses(found.x)
                if (miss[~self.whole] <= MISS).all():
                    return replace(found, x=rounded)
            over = found.status in (Status.CANCELLED, Status.MEMORY) or time.monotonic() >= ends
            if best > limits.above or over:
                return replace(found, x=None, objective=np.inf)
            self._add(miss if found.status in (Status.OPTIMAL, Status.REACHED) else None)
        return MixedSolution(Status.REACHED, best)

    def _cut(self, cost: Array, limits: Limits) -> float:
        """Add what the solutions of the linear program violate of the hulls, while it pays; what its multipliers prove
        of the least value."""
        ends, encoded = time.monotonic() + limits.seconds, self.encoded
        linear = encoded.program(cost, self.whole).linear
        if not manageable(linear):
            return -np.inf
        linear = linear if np.isinf(limits.cutoff) else below(linear, limits.cutoff)
        kept, hulls, best, values, cuts = Kept(linear, limits.stop), Hulls(encoded, INPUTS), -np.inf, [], []
        while True:
            found = kept.minimise(cost, ends - time.monotonic())
            best = max(best, lower_bound(linear, found.multipliers))
            if found.x is None or best > limits.above:
                break
            values.append(float(cost @ found.x))
            cut = hulls.violated(found.x, AT_ONCE)
            if cut is None or len(cuts) >= ROUNDS or _idle(values):
                break
            cuts.append(cut)
            rows = csr(cut.row, cut.column, cut.value, (len(cut.lower), len(cost)))
            kept.add(rows, cut.lower, cut.upper)
            linear = replace(
                linear,
                matrix=stacked(linear.matrix, [cut]),
                row_lower=np.append(linear.row_lower, cut.lower),
                row_upper=np.append(linear.row_upper, cut.upper),
            )
        for cut in cuts:
            encoded.append(cut)
        return best

    def _listener(self, met: Met | None) -> Listener | None:
        return None if met is None else lambda objective, x: met(self.encoded.columns.input_at(x))

    def _add(self, miss: Array | None) -> None:
        """Make those neurons whole that are missed and cost most; all of them, should the solver have failed (None),
        which at another program it may not, or should it show none."""
        missed = np.zeros(0, np.int64) if miss is None else np.flatnonzero(~self.whole & (miss > MISS))
        if not len(missed):
            self.whole[:] = True
            return
        worst = np.argsort(-self.pull[missed] * miss[missed], kind="stable")
        self.whole[missed[worst[: max(LEAST, int(self.whole.sum()))]]] = True


def _idle(values: list[float]) -> bool:
    """Whether the last of these ever larger values is hardly larger than the one before it."""
    return len(values) > 1 and values[-1] - values[-2] <= PAYS * (values[-1] - values[0])
