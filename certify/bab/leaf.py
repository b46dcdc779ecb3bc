"""Leaves that cannot be split: decided in float64 by a linear program over their relaxing lines.

With all neurons of a domain fixed by splits the lines are exact, and so is the program: either its
multipliers prove the clause (Farkas' lemma; the dual is the bound that beta-CROWN ascends to, Wang et al.
2021, theorem 3.2), or its vertex is a counterexample, up to rounding. Of an L1 or L2 ball the program knows the
half-spaces in whose direction it was left (Kelley 1960), while its proofs know the ball. Where some line is not
exact, or half-spaces do not add up to the ball in time, it may give neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bab.engine import Array, Problem, Proofs
from certify.bounds.base import NodeBounds
from certify.bounds.linear import Splits, lines_of, propagate
from certify.budget import Budget
from certify.evidence import DEFAULT
from certify.graph.evaluate import Network
from certify.solvers.highs import LinearProgram, solve, with_row
from certify.spec.inputset import InputSet
from certify.spec.property import Clause

CUTS = 60
"""Half-spaces around a ball at most, for one program."""

OUTSIDE = 1e-9
"""By how much, relatively, a point must be outside a ball for another half-space to be worth adding."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """One domain, in float64: its region and the bounds on its intermediate values, each a batch of one,
    its splits (1, D) of neurons, none of them unused, and the positions of the problem's clauses to prove."""

    inputs: InputSet
    bounds: NodeBounds
    splits: Splits
    clauses: tuple[int, ...]


def finish(problem: Problem, leaves: Iterable[Leaf], depth: int, sloped: int) -> tuple[Proofs, Tensor]:
    """Proofs of those leaves of which all clauses could be proved, and inputs (M, d) worth trying as
    witnesses for the others. `depth` is the number of weights of a proof, `sloped` that of its slopes, which
    are the default ones. Once the problem's budget has expired, leaves are left undecided."""
    owner, clause, weights, multipliers = [], [], [], []
    points = [torch.zeros(0, problem.network.graph.input_size, dtype=torch.float64)]
    for i, leaf in enumerate(leaves):
        if problem.budget.expired:
            break
        decided = [decide(problem.wide, leaf, problem.clauses[s], problem.budget) for s in leaf.clauses]
        points += [d for d in decided if isinstance(d, Tensor)]
        proofs = [d for d in decided if isinstance(d, Combination)]
        if len(proofs) < len(decided):
            continue
        owner += [i] * len(proofs)
        clause += [problem.numbers[s] for s in leaf.clauses]
        weights += [np.pad(p.weights, (0, depth - len(p.weights))) for p in proofs]
        multipliers += [p.multipliers for p in proofs]
    return Proofs(
        np.array(owner, np.int64),
        np.array(clause, np.int32),
        np.array(weights, np.float64).reshape(-1, depth),
        np.full((len(owner), sloped), DEFAULT, np.uint8),
        np.concatenate([np.zeros(0), *multipliers]),
        np.cumsum([0, *map(len, multipliers)]),
    ), torch.cat(points)


@dataclass(frozen=True, eq=False)
class Combination:
    """Weights (R,) of a clause's rows, adding up to 1, and multipliers (D,) of a leaf's splits that prove
    the clause on the leaf, as far as float64 can tell."""

    weights: Array
    multipliers: Array


def decide(network: Network, leaf: Leaf, clause: Clause, budget: Budget) -> Combination | Tensor:
    """A proof that the clause is nowhere unsafe on the leaf, or inputs (M, d) that may show the contrary.

    Two programs are solved. The first keeps the splits and lowers the largest row. The second relaxes rows
    and splits alike: where the first is infeasible by so little that HiGHS cannot tell, it still finds a
    proof, and where it finds none, its vertex lies as deep inside the leaf as it can.
    """
    forms = _forms(network, leaf, clause)
    points: list[Array] = []
    if np.isfinite(forms.matrix).all() and np.isfinite(forms.constant).all():
        for slack in (0.0, 1.0):
            proof = _solved(forms, slack, budget, points)
            if proof is not None:
                return proof
    tried = torch.from_numpy(np.array(points).reshape(-1, network.graph.input_size))
    return tried if leaf.inputs.norm is None else torch.cat([tried, _projected(tried, leaf.inputs)])


def _solved(forms: _Forms, slack: float, budget: Budget, points: list[Array]) -> Combination | None:
    """What the program with this slack proves, with half-spaces around a ball as they are needed; the inputs that it
    finds join `points`."""
    program, basis = forms.program(slack), None
    for _ in range(CUTS + 1):
        found = solve(program, budget.remaining, basis, lambda: budget.expired)
        proof = None if found.multipliers is None else forms.proof(found.multipliers)
        if proof is not None or found.x is None:
            return proof
        points.append(forms.input_at(found.x))
        cut = forms.half_space(points[-1])
        if cut is None or budget.expired:
            return None
        program, basis = with_row(program, *cut), found.basis
    return None


def _projected(points: Tensor, inputs: InputSet) -> Tensor:
    every = inputs.select(torch.zeros(len(points), dtype=torch.long, device=inputs.lower.device))
    return every.project(points.to(inputs.lower.device)).cpu()


def _forms(network: Network, leaf: Leaf, clause: Clause) -> _Forms:
    """Linear lower bounds of the clause's R rows, and of -sign * (value - point) of the leaf's D splits: all
    from one backward pass. They are these functions themselves where the lines are exact."""
    graph, splits, count = network.graph, leaf.splits, len(clause.offset)
    total, outputs, last = count + splits.node.shape[1], graph.output_size, len(graph.nodes) - 1
    rows, offset = (torch.from_numpy(a).to(network.device) for a in (clause.matrix, clause.offset))
    start = {v: rows.new_zeros(1, total, graph.nodes[v].size) for v in {last, *splits.nodes()}}
    start[last][0, :count] = rows[:, :outputs]
    for v in splits.nodes():
        mine = (splits.node[0] == v).nonzero().squeeze(1)
        start[v][0, count + mine, splits.index[0, mine]] = -splits.sign[0, mine]
    constant = torch.cat([-offset, (splits.sign * splits.point)[0]]).unsqueeze(0)
    shaped = {v: a.reshape(1, total, *graph.nodes[v].shape) for v, a in start.items()}
    form = propagate(network, shaped, constant, lines_of(network, leaf.bounds, graph.nonlinear))
    matrix = form.input[0].clone()
    if rows.shape[1] > outputs:
        matrix[:count] += rows[:, outputs:]
    return _Forms(matrix.cpu().numpy(), form.constant[0].cpu().numpy(), count, leaf.inputs)


class _Forms:
    """Affine forms matrix x + constant, (R + D, d) and (R + D,), of which the first `rows` are a clause's and
    the others must not be positive; and the linear programs over them.

    A program's variables are the inputs that vary, moved and scaled to [-1, 1], and one level. Each form is
    divided by its size, so that its values lie in [-1, 1] too.
    """

    def __init__(self, matrix: Array, constant: Array, rows: int, inputs: InputSet) -> None:
        self.matrix, self.constant, self.rows, self.inputs = matrix, constant, rows, inputs
        self.lower, self.upper = inputs.lower[0].cpu().numpy(), inputs.upper[0].cpu().numpy()
        self.middle, self.half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        self.varying = np.flatnonzero(self.half > 0)
        self.slopes = (matrix * self.half)[:, self.varying]
        self.level = matrix @ self.middle + constant
        size = np.abs(self.slopes).sum(1) + np.abs(self.level)
        self.size = np.where(size > 0, size, 1.0)

    def program(self, slack: float) -> LinearProgram:
        """Minimise a level that no row exceeds, and no other form exceeds `slack` times it."""
        relaxed = np.where(np.arange(len(self.level)) < self.rows, 1.0, slack)
        count = self.slopes.shape[1]
        return LinearProgram(
            cost=np.eye(count + 1)[-1],
            lower=np.append(np.full(count, -1.0), -2.0),
            upper=np.append(np.full(count, 1.0), 2.0),
            matrix=np.column_stack([self.slopes / self.size[:, None], -relaxed]),
            row_lower=np.full(len(self.level), -np.inf),
            row_upper=-self.level / self.size,
        )

    def half_space(self, x: Array) -> tuple[Array, float] | None:
        """The row, and its upper side, of the half-space around the ball in the direction of x (d,); None if x is
        inside, or the region is a box."""
        inputs = self.inputs
        if inputs.norm is None:
            return None
        center, radius = inputs.center[0].cpu().numpy(), float(inputs.radius[0])
        move = x - center
        size = float(np.linalg.norm(move, inputs.norm))
        if not size > radius * (1 + OUTSIDE):
            return None
        away = np.sign(move) if inputs.norm == 1 else move / size  # a subgradient of the norm
        row = np.append((away * self.half)[self.varying], 0.0)
        scale = float(np.abs(row).max()) or 1.0
        return row / scale, (radius * (1 + OUTSIDE / 2) - float(away @ (self.middle - center))) / scale

    def input_at(self, vertex: Array) -> Array:
        """The input (d,) at a program's variables."""
        x = self.middle.copy()
        x[self.varying] += self.half[self.varying] * vertex[:-1]
        return np.clip(x, self.lower, self.upper)

    def proof(self, multipliers: Array) -> Combination | None:
        """The proof that a program's multipliers are, if they are one. What overflows is none."""
        with np.errstate(all="ignore"):
            return self._proof(multipliers)

    def _proof(self, multipliers: Array) -> Combination | None:
        found = np.maximum(-multipliers[: len(self.size)], 0.0) / self.size  # the others are of half-spaces
        of_rows, of_splits = found.copy(), found.copy()
        of_rows[self.rows :] = of_splits[: self.rows] = 0.0
        impossible = self._least(of_splits)
        if impossible > 0:  # the splits contradict one another: any row will do, if they count enough
            first = np.eye(len(found))[0]
            found = first + of_splits * (1.0 + 2.0 * abs(self._least(first)) / impossible)
        elif of_rows.any():
            found = found / of_rows.sum()
        else:
            return None
        if not (np.isfinite(found).all() and self._least(found) > 0):
            return None
        return Combination(found[: self.rows], found[self.rows :])

    def _least(self, combination: Array) -> float:
        """The least value of a combination of the forms over the region."""
        a = torch.from_numpy(combination @ self.matrix).to(self.inputs.lower.device)
        return float(self.inputs.minimum(a.reshape(1, 1, -1))) + float(combination @ self.constant)
