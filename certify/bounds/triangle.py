"""The triangle linear program ("Planet", Ehlers 2017): all lines around all neurons at once, on HiGHS.

Its optimum over fixed intermediate bounds is the best that one line below and one above each neuron can give,
line by line (Salman et al. 2019, theorem 4.2). So the solver's multipliers name lines: backward propagation
through them gives the program's bound again, which the checker can repeat. Nothing else of what the solver
says is used; lines from a solver that is wrong are lines all the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import NodeBounds, flat
from certify.bounds.linear import lines_of
from certify.bounds.optimise import Target
from certify.bounds.relaxation import Relaxation
from certify.budget import Budget
from certify.errors import CertifyError
from certify.evidence import LEVELS
from certify.graph.evaluate import Network
from certify.relax.elementwise import has_parameter, has_slope
from certify.solvers.csr import csr
from certify.solvers.highs import LARGEST, Kept, LinearProgram, Solution, Status
from certify.spec.inputset import InputSet

Array = np.ndarray

MOST = 1 << 27
"""Entries of one affine map, as a matrix; of a network that needs more, every neuron keeps its line of least area."""

TANGENTS, OUTSIDE = 20, 1e-4
"""An L2 ball is cut out of its box by so many tangents for each solve, where its solution is further outside than this
part of the radius."""

APART = 1e-6
"""By what part of an interval's width upper lines are raised in a program. Else both lines of a neuron could be tight
together, at an end of its interval: then their multipliers stand for a bound on what the neuron reads, which no choice
of lines can express."""

ENDS, SPREAD = (0.0, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)
"""Line parameters that enter a program: those of kinked operators depend on theirs linearly, others do not."""


def best_lines(target: Target, relaxation: Relaxation, budget: Budget) -> dict[int, Tensor]:
    """Line parameters {e: (B, S, *N)}, whole multiples of 1 / LEVELS, for S clauses of one row each over B
    regions: those that the triangle program's multipliers name, and where there are none, those of least area.

    Any parameters in [0, 1] are sound.
    """
    batch, clauses = len(target.inputs), target.rows.matrix.shape[1]
    found = {e: t.expand(batch, clauses, *t.shape[2:]).clone() for e, t in relaxation.initial().items()}
    network = Network(target.network.graph, torch.float64)
    y, x, _ = target.rows.start(torch.ones_like(target.rows.offset), network.graph.output_size)
    for b in range(batch if found else 0):
        one = target.select(torch.tensor([b]))
        program = Triangle(network, one.inputs, one.bounds, budget)
        for s in range(clauses):
            if budget.expired or not program.usable:
                break
            at = b if y.shape[0] > 1 else 0
            named = program.parameters(y[at, s], None if x is None else x[at, s])
            for e, t in named.items():
                old = found[e][b, s]
                new = t.to(old.device, old.dtype).reshape(old.shape)
                found[e][b, s] = torch.where(new.isnan(), old, new)
    return {e: (t * LEVELS).round() / LEVELS for e, t in found.items()}


class _Values:
    """A node's entries: slope * (the program's variable `column`) + shift, each (n,)."""

    def __init__(self, column: Array) -> None:
        self.column, self.slope, self.shift = column, np.ones(len(column)), np.zeros(len(column))


class Triangle:
    """The program of one region (a batch of one), solved for one cost after the other, each from the last basis.

    Variables are the inputs, every node that an elementwise operator reads, and the neurons whose two lines
    differ; all but the inputs are free, because multipliers of bounds on them would not name a line. An L1 ball is
    in it as it is, an L2 ball by tangents, as solutions call for them. `usable` tells whether it is finite and not too
    large; nor is one that the budget ended before. Solves end with the budget, too.
    """

    def __init__(self, network: Network, inputs: InputSet, bounds: NodeBounds, budget: Budget) -> None:
        self.network, self.budget = network, budget
        self.bounds = {v: (lo.cpu().double(), up.cpu().double()) for v, (lo, up) in bounds.items()}
        self.columns = self.rows = 0
        self.entries: list[tuple[Array, Array, Array]] = []  # row, column, coefficient
        self.sides: list[tuple[Array, Array]] = []  # lower and upper bounds of rows
        self.lines: dict[int, tuple[Array, list[tuple[float, Array]]]] = {}  # neurons; parameter and rows of each line
        self.values = {0: self._fresh(network.graph.input_size)}
        self.box = tuple(flat(b, 1)[0].cpu().double().numpy() for b in (inputs.lower, inputs.upper))
        self.ball: tuple[Array, float] | None = None  # of an L2 ball: its center and radius
        self.model: Kept | None = None
        self.usable = network.graph.input_size > 0 and self._affordable()
        if not self.usable:
            return
        for e in network.graph.nonlinear:
            if budget.expired:
                self.usable = False
                return
            v = network.graph.nodes[e].inputs[0]
            if v not in self.values:
                self._define(v)
            self._relax(e)
        if inputs.norm is not None:
            center, radius = inputs.center[0].cpu().double().numpy(), float(inputs.radius[0])
            if inputs.norm == 1:
                self._within(center, radius)
            else:
                self.ball = center, radius
        self._build()

    def parameters(self, y: Tensor, x: Tensor | None) -> dict[int, Tensor]:
        """Line parameters {e: (size,)} for the row <y, output> + <x, input>, y (n,), x (d,); NaN where the
        multipliers name none. Empty where HiGHS has no multipliers."""
        found = self.solve(y, x)
        return {} if found is None else self.named(found.multipliers)

    def solve(self, y: Tensor, x: Tensor | None) -> Solution | None:
        """What HiGHS says of the least <y, output> + <x, input>: multipliers for all rows but some
        of the last tangents, or None."""
        cost, found = self._cost(y, x), None
        for left in range(TANGENTS, -1, -1):
            try:
                latest = self.model.minimise(cost, self.budget.remaining)
            except (CertifyError, MemoryError):  # HiGHS does not take it: there is no hint, and none is needed
                return found
            unfit = latest.multipliers is None or len(latest.multipliers) != self.rows
            if latest.status is not Status.OPTIMAL or unfit:
                return found
            found = latest
            over = found.x is None or not left or self.budget.expired
            if self.ball is None or over or not self._touch(found.x):
                break
        return found

    def named(self, multipliers: Array) -> dict[int, Tensor]:
        """The line parameters {e: (size,)} that multipliers of all rows name, as in `parameters`."""
        return {e: self._named(e, multipliers) for e in self.lines}

    def cut(self, e: int, neurons: Array, read: Array, made: Array, most: float) -> int:
        """Add the row  read @ (what `neurons` of node e read) + made @ (what they make) <= most; its number."""
        v = self.network.graph.nodes[e].inputs[0]
        entries, number = [], np.zeros(len(neurons), np.int64)
        for node, a in ((v, read), (e, made)):
            known = self.values[node]
            most = most - float(a @ known.shift[neurons])
            entries.append((number, known.column[neurons], a * known.slope[neurons]))
        return self._append(entries, most)

    def at(self, node: int, neurons: Array, x: Array) -> Array:
        """What `neurons` of a node are at the program's variables x."""
        known = self.values[node]
        return known.slope[neurons] * x[known.column[neurons]] + known.shift[neurons]

    def _named(self, e: int, multipliers: Array) -> Tensor:
        """The parameter of the line that is the sum of node e's lines, weighted with their multipliers, on the side
        that outweighs the other."""
        neurons, lines = self.lines[e]
        low, up, low_sum, up_sum = (np.zeros(len(neurons)) for _ in range(4))
        with np.errstate(all="ignore"):
            for t, rows in lines:
                above, below = np.maximum(multipliers[rows], 0.0), np.maximum(-multipliers[rows], 0.0)
                low, low_sum = low + above, low_sum + t * above
                up, up_sum = up + below, up_sum + t * below
            t = np.where(low >= up, low_sum / low, up_sum / up)
        named = np.full(self.network.graph.nodes[e].size, np.nan)
        named[neurons] = np.clip(t, 0.0, 1.0)
        return torch.from_numpy(named)

    def _cost(self, y: Tensor, x: Tensor | None) -> Array:
        last = len(self.network.graph.nodes) - 1
        shape = self.network.graph.nodes[last].shape
        cost = np.zeros(self.columns)
        for source, a in self._affine(last, y.cpu().double().reshape(1, *shape))[0].items():
            known = self.values[source]
            np.add.at(cost, known.column, a[0] * known.slope)
        if x is not None:
            cost[self.values[0].column] += x.cpu().double().numpy()
        return cost

    def _affordable(self) -> bool:
        """Whether the affine maps between what is read and what is made fit into memory, as matrices."""
        graph = self.network.graph
        sources = [graph.nodes[i].size for i in (0, *graph.nonlinear)]
        return all(graph.nodes[graph.nodes[e].inputs[0]].size * max(sources) <= MOST for e in graph.nonlinear)

    def _build(self) -> None:
        """Hand the program to HiGHS, if it takes it."""
        row, column, value = (np.concatenate([np.zeros(0, np.int64), *part]) for part in _columns(self.entries))
        sides = [np.concatenate([np.zeros(0), *part]) for part in zip(*self.sides, strict=True)]
        sides = sides or [np.zeros(0), np.zeros(0)]
        lower, upper = np.full(self.columns, -np.inf), np.full(self.columns, np.inf)
        lower[self.values[0].column], upper[self.values[0].column] = self.box
        finite = all(np.isfinite(a).all() for a in (value, np.maximum(sides[0], -sides[1]), *self.box))
        self.usable = finite and self.rows > 0 and bool((np.abs(value) < LARGEST).all())
        if not self.usable:
            return
        matrix = csr(row, column, value, (self.rows, self.columns))
        program = LinearProgram(np.zeros(self.columns), lower, upper, matrix, *sides)
        try:
            self.model = Kept(program, lambda: self.budget.expired)
        except (CertifyError, MemoryError):
            self.usable = False

    def _within(self, center: Array, radius: float) -> None:
        """An L1 ball: how far each input moves, and how far all of them together."""
        x, size = self.values[0].column, len(center)
        way = self._fresh(size).column
        number, infinite = np.arange(size), np.full(size, np.inf)
        for sign in (1.0, -1.0):
            entries = [(number, way, np.ones(size)), (number, x, np.full(size, sign))]
            self._add(entries, sign * center, infinite)
        self._add([(np.zeros(size, np.int64), way, np.ones(size))], np.full(1, -np.inf), np.full(1, radius))

    def _touch(self, x: Array) -> bool:
        """Cut a solution off by a tangent of the L2 ball; False where it lies within."""
        center, radius = self.ball
        away = x[self.values[0].column] - center
        size = float(np.linalg.norm(away))
        if not radius * (1 + OUTSIDE) < size < np.inf:
            return False
        away = away / size
        self._append([(np.zeros(len(away), np.int64), self.values[0].column, away)], radius + float(away @ center))
        return True

    def _append(self, entries: list[tuple[Array, Array, Array]], most: float) -> int:
        """One more row, of a program that HiGHS has; its number."""
        row, column, value = (np.concatenate(part) for part in _columns(entries))
        self.model.add(csr(row, column, value, (1, self.columns)), np.full(1, -np.inf), np.full(1, most))
        self.rows += 1
        return self.rows - 1

    def _fresh(self, count: int) -> _Values:
        self.columns += count
        return _Values(np.arange(self.columns - count, self.columns))

    def _add(self, entries: list[tuple[Array, Array, Array]], lower: Array, upper: Array) -> Array:
        """Rows of which `entries` say (number among them, variable, coefficient); their numbers in the program."""
        self.entries += [(row + self.rows, column, value) for row, column, value in entries]
        self.sides.append((lower, upper))
        self.rows += len(lower)
        return np.arange(self.rows - len(lower), self.rows)

    def _define(self, v: int) -> None:
        """Variables for node v, which is affine, and the equations that define it."""
        node = self.network.graph.nodes[v]
        eye = torch.eye(node.size, dtype=torch.float64).reshape(node.size, *node.shape)
        parts, constant = self._affine(v, eye)
        self.values[v] = own = self._fresh(node.size)
        number = np.arange(node.size)
        entries = [(number, own.column, np.ones(node.size))]
        for source, a in parts.items():
            known = self.values[source]
            constant = constant + a @ known.shift
            row, at = np.nonzero(a)
            entries.append((row, known.column[at], -(a * known.slope)[row, at]))
        self._add(entries, constant, constant)

    def _relax(self, e: int) -> None:
        """Node e's values: where its lines coincide, the line; else a variable between all of them."""
        node = self.network.graph.nodes[e]
        read = self.values[node.inputs[0]]
        low, shift, up, top = self._sides(e, None)
        bent = np.flatnonzero((low != up) | (shift != top))
        own = self.values[e] = _Values(read.column.copy())
        own.slope, own.shift = low * read.slope, low * read.shift + shift
        own.column[bent], own.slope[bent], own.shift[bent] = self._fresh(len(bent)).column, 1.0, 0.0
        chosen = (ENDS if has_slope(node.op) else SPREAD) if has_parameter(node.op) else (None,)
        infinite = np.full(len(bent), np.inf)
        lower, upper = (flat(b, 1)[0].numpy() for b in self.bounds[node.inputs[0]])
        raised = APART * (upper - lower)[bent]
        rows: list[tuple[float, Array]] = []
        seen: list[Array] = []
        for t in chosen:
            low, shift, up, top = self._sides(e, t)
            for slope, offset, below in ((low[bent], shift[bent], True), (up[bent], top[bent], False)):
                line = np.array([slope, offset, np.full(len(bent), below)])
                if any(np.array_equal(line, old) for old in seen):
                    continue
                seen.append(line)
                offset = offset + slope * read.shift[bent] + (0.0 if below else raised)
                number = np.arange(len(bent))
                entries = [
                    (number, own.column[bent], np.ones(len(bent))),
                    (number, read.column[bent], -slope * read.slope[bent]),
                ]
                sides = (offset, infinite) if below else (-infinite, offset)
                rows.append((0.0 if t is None else t, self._add(entries, *sides)))
        if has_parameter(node.op):
            self.lines[e] = bent, rows

    def _sides(self, e: int, t: float | None) -> tuple[Array, ...]:
        """Slope and shift below, slope and shift above, of node e's lines with parameter t, each (size,)."""
        node = self.network.graph.nodes[e]
        shape = (1, 1, *node.shape)
        given = (e,) if t is None else {e: torch.full(shape, t, dtype=torch.float64)}
        lines = lines_of(self.network, self.bounds, given)[e]
        return tuple(a.expand(shape).reshape(-1).numpy() for a in lines)

    def _affine(self, v: int, rows: Tensor) -> tuple[dict[int, Array], Array]:
        """Rows (S, *N) of node v in terms of the input and of elementwise nodes: {source: (S, size)}, and (S,)."""
        network = self.network
        pending, found = {v: rows}, {}
        constant = np.zeros(len(rows))
        for i in range(v, -1, -1):
            a = pending.pop(i, None)
            if a is None:
                continue
            if i == 0 or network.functions[i] is not None:
                found[i] = flat(a, 1).numpy()
                continue
            term = network.maps[i].bias_term(a)
            if term is not None:
                constant = constant + term.numpy()
            for j, back in zip(network.graph.nodes[i].inputs, network.maps[i].adjoint(a), strict=True):
                pending[j] = pending[j] + back if j in pending else back
        return found, constant


def _columns(entries: list[tuple[Array, Array, Array]]) -> list[list[Array]]:
    return [[entry[k] for entry in entries] for k in range(3)]
