"""The linear program between a network's relaxing lines, and the proof that its multipliers are.

Its optimum is the best bound that backward propagation through those lines can reach, over all slopes, row weights
and multipliers of splits together (Salman et al. 2019, theorem 2; with splits, Wang et al. 2021, theorem 3.2). z has
no bounds of its own but those of splits: they are all that a proof in certify's evidence can use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import NodeBounds, flat
from certify.bounds.relaxation import Kinked, Relaxation
from certify.evidence import LEVELS
from certify.graph.evaluate import Network
from certify.mip.balls import Ball
from certify.mip.columns import Affine, Columns
from certify.mip.encode import Block
from certify.solvers.csr import Array, Csr, stacked
from certify.solvers.highs import LinearProgram
from certify.spec.inputset import InputSet

CUTS = 200
"""Half-spaces around an L2 ball at most."""

Parameters = dict[int, Tensor]
"""Line parameters {e: (1, 1, *N)} of elementwise nodes."""


@dataclass(frozen=True, eq=False)
class Held:
    """A split: column z (D,) is >= point where sign is +1, <= point where it is -1; 0 is unused."""

    column: Array
    point: Array
    sign: Array


@dataclass(frozen=True, eq=False)
class Lined:
    """The lines of all bent neurons (P,) in one domain: slope and shift of the lower, the upper, and one `other`
    line, where the parameter t = 1 gives another than t = 0. `side` is +1 where that is a lower line, -1 an upper
    one, 0 where there is none; `exact` where lower and upper line are the same."""

    slope: Array  # (3, P)
    shift: Array  # (3, P)
    side: Array
    exact: Array


class Relaxed:
    """Linear programs over the columns of a network, for domains that differ in lines, splits and input box.

    A program minimises a level that no row of `objective` (an affine function of the columns, R rows) exceeds. If the
    inputs are in an L1 or L2 `ball`, its last rows say so; of an L2 ball, as far as `cut` was told where it is.
    """

    def __init__(self, columns: Columns, ball: Ball | None = None) -> None:
        self.columns, self.ball = columns, ball
        self.level = columns.count
        self.total = self.level + 1 + (len(columns.varying) if ball is not None and ball.norm == 1 else 0)
        self.around: list[Block] = []
        if ball is not None and ball.norm == 1:
            self.around.append(ball.octahedron(np.arange(self.level + 1, self.total)))
        self.y = np.concatenate([np.zeros(0, np.int64), *(b.y for b in columns.bent)])
        self.z = np.concatenate([np.zeros(0, np.int64), *(b.z for b in columns.bent)])
        count = len(self.y)
        base = columns.equalities
        pairs = np.tile(np.stack([self.z, self.y], 1).ravel(), 3).astype(np.int32)
        start = np.append(base.start, base.start[-1] + 2 * np.arange(1, 3 * count + 1)).astype(np.int32)
        self.slopes_at = base.start[-1] + 2 * np.arange(3 * count)  # the entries that are minus the lines' slopes
        self.base = Csr(start, np.append(base.index, pairs), np.append(base.value, np.ones(6 * count)), columns.count)

    def lined(self, network: Network, bounds: NodeBounds) -> Lined:
        """The lines between bounds (1, *N)."""
        relaxation = Relaxation(network, bounds)
        kinked = {e: isinstance(f, Kinked) for e, f in relaxation.families.items()}
        starts = relaxation.initial()
        ends = [{e: torch.full_like(t, end) if kinked[e] else t for e, t in starts.items()} for end in (0.0, 1.0)]
        found = []
        for lines in map(relaxation.lines, ends):
            parts = []
            for bent in self.columns.bent:
                like = bounds[network.graph.nodes[bent.node].inputs[0]][0]
                four = (p.expand(1, 1, *like.shape[1:]) for p in lines[bent.node])
                parts.append(np.stack([flat(p, 2)[0, 0].cpu().numpy()[bent.index] for p in four]))
            found.append(np.concatenate([np.zeros((4, 0)), *parts], 1))
        (low, low_shift, up, up_shift), (low1, low_shift1, up1, up_shift1) = found
        below = (low != low1) | (low_shift != low_shift1)
        above = (up != up1) | (up_shift != up_shift1)
        return Lined(
            np.stack([low, up, np.where(below, low1, up1)]),
            np.stack([low_shift, up_shift, np.where(below, low_shift1, up_shift1)]),
            np.where(below, 1, np.where(above, -1, 0)),
            (low == up) & (low_shift == up_shift) & ~below & ~above,
        )

    def cut(self, x: Array) -> bool:
        """Keep an input x (d,) that is outside an L2 ball from all programs from now on; whether it was."""
        if self.ball is None or self.ball.norm != 2 or len(self.around) >= CUTS:
            return False
        block = self.ball.tangent(x)
        self.around += [] if block is None else [block]
        return block is not None

    def program(self, lined: Lined, held: Held, inputs: InputSet, objective: Affine) -> LinearProgram:
        """The program of one domain: rows of the network, of lines, of `objective`, and around the ball."""
        columns = self.columns
        value = self.base.value.copy()
        value[self.slopes_at] = -lined.slope.ravel()
        rows = len(objective.constant)
        goal = Block(
            np.append(objective.row, np.arange(rows)),
            np.append(objective.column, np.full(rows, self.level)),
            np.append(objective.value, -np.ones(rows)),
            np.full(rows, -np.inf),
            -objective.constant,
        )
        matrix = stacked(Csr(self.base.start, self.base.index, value, self.total), [goal, *self.around])
        low, up, other = lined.shift
        free = np.full(len(low), np.inf)
        lower, upper = self._box(held, inputs)
        return LinearProgram(
            cost=np.eye(1, self.total, self.level)[0],
            lower=lower,
            upper=upper,
            matrix=matrix,
            row_lower=np.concatenate(
                [
                    columns.constants,
                    low,
                    -free,
                    np.where(lined.side > 0, other, -free),
                    *(block.lower for block in (goal, *self.around)),
                ]
            ),
            row_upper=np.concatenate(
                [
                    columns.constants,
                    np.where(lined.exact, low, free),
                    np.where(lined.exact, free, up),
                    np.where(lined.side < 0, other, free),
                    *(block.upper for block in (goal, *self.around)),
                ]
            ),
        )

    def _box(self, held: Held, inputs: InputSet) -> tuple[Array, Array]:
        """Bounds (n,) of the columns: the input box and the splits."""
        columns = self.columns
        lower, upper = np.full(self.total, -np.inf), np.full(self.total, np.inf)
        varying, middle, half = columns.varying, columns.middle[columns.varying], columns.half[columns.varying]
        for bound, side in ((lower, inputs.lower), (upper, inputs.upper)):
            own = side[0].double().cpu().numpy()[varying]
            bound[: len(varying)] = np.clip((own - middle) / half, -1, 1)
        above, below = held.sign > 0, held.sign < 0
        np.maximum.at(lower, held.column[above], held.point[above])
        np.minimum.at(upper, held.column[below], held.point[below])
        return lower, upper

    def parameters(self, multipliers: Array, lined: Lined, start: Parameters) -> Parameters:
        """The line parameters that a program's multipliers name, as whole numbers of 1 / LEVELS; those of neurons
        of which they say nothing are as in `start`."""
        duals = self._of_lines(multipliers)
        pull, (low, up, other) = duals.sum(0), lined.slope
        from_, known = np.where(lined.side > 0, low, up), (lined.side * pull > 0) & np.isfinite(pull)
        slope = (duals * lined.slope).sum(0) / np.where(known, pull, 1.0)  # what the multipliers make of z, per pull
        t = (slope - from_) / np.where(known, other - from_, 1.0)
        t = np.rint(LEVELS * np.clip(np.where(known, t, 0.0), 0, 1)) / LEVELS
        found, first = {e: p.clone() for e, p in start.items()}, 0
        for bent in self.columns.bent:
            own = slice(first, first + len(bent.index))
            first += len(bent.index)
            if bent.node in found:
                at = bent.index[known[own]]
                found[bent.node].view(-1)[torch.from_numpy(at)] = torch.from_numpy(t[own][known[own]])
        return found

    def _of_lines(self, multipliers: Array) -> Array:
        """(3, P)."""
        first = len(self.columns.constants)
        return multipliers[first : first + 3 * len(self.y)].reshape(3, -1)

    def weights(self, multipliers: Array, rows: int) -> Array:
        """The weights (rows,) >= 0 of the rows of the objective."""
        first = len(self.columns.constants) + 3 * len(self.y)
        return np.maximum(-multipliers[first : first + rows], 0.0)

    def of_splits(self, multipliers: Array, program: LinearProgram, held: Held) -> Array:
        """The multipliers (D,) >= 0 of the splits: reduced costs of their columns, each given to one split."""
        reduced = program.cost - program.matrix.transposed_times(multipliers)
        found = np.zeros(len(held.sign))
        taken: set[tuple[int, float]] = set()
        for d in np.flatnonzero(held.sign):
            column, sign = int(held.column[d]), float(held.sign[d])
            tightest = (program.lower if sign > 0 else program.upper)[column]
            if held.point[d] == tightest and (column, sign) not in taken:
                found[d] = max(sign * reduced[column], 0.0)
                taken.add((column, sign))
        return found

    def pull(self, multipliers: Array) -> Array:
        """(P,): the coefficient of each bent neuron's output in the bound that the multipliers prove."""
        return self._of_lines(multipliers).sum(0)
