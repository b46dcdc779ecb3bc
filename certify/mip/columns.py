"""A network's values as columns of a program.

Columns are the inputs that vary, moved and scaled to [-1, 1]; z, what enters an elementwise operator; and y, what
leaves one that bends on its interval. Where it does not bend, its output is an affine function of z. All affine
operators between them are folded into one row per z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import NodeBounds, flat
from certify.bounds.intermediate import unstable
from certify.bounds.linear import lines_of
from certify.errors import UnsupportedOp
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Node
from certify.solvers.csr import Array, Csr, csr
from certify.spec.inputset import InputSet
from certify.spec.property import Clause

ENTRIES = 1 << 22
"""Coefficients of rows that are folded at once."""


def require_elementwise(graph: Graph) -> None:
    """Raise UnsupportedOp naming every node that is neither affine nor elementwise: it has no single z."""
    missing = [(type(n.op).__name__, n.name) for n in (graph.nodes[e] for e in graph.nonlinear) if not _elementwise(n)]
    if missing:
        raise UnsupportedOp("the search on linear programs", missing, "use --method auto")


def _elementwise(node: Node) -> bool:
    return isinstance(node.op, ops.Elementwise)


@dataclass(frozen=True, eq=False)
class Terms:
    """The values of one node, each (size,): slope * column + shift; shift alone where the column is -1."""

    column: Array
    slope: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Bent:
    """The neurons of elementwise node `node` that have a y: flat index (k,), and the columns y and z (k,)."""

    node: int
    index: Array
    y: Array
    z: Array


@dataclass(frozen=True, eq=False)
class Affine:
    """Affine functions of the columns: the entries (row, column, value), each (k,), of a matrix, and constants (R,)."""

    row: Array
    column: Array
    value: Array
    constant: Array

    def at(self, x: Array) -> Array:
        """(R,): the values where the columns are x."""
        return np.bincount(self.row, self.value * x[self.column], len(self.constant)) + self.constant


class Columns:
    """The columns of `network`, float64, over one region, given bounds (1, *N) on what elementwise operators read.

    `read[v]` (size,) are the columns of the z of node v, -1 where nobody needs it; `bent` the neurons with a y, node
    after node; `equalities` (E, n) and `constants` (E,) say  equalities @ columns = constants.
    """

    def __init__(self, network: Network, bounds: NodeBounds, inputs: InputSet) -> None:
        self.network, self.bounds = network, bounds
        self.terms: dict[int, Terms] = {}
        self.read: dict[int, Array] = {}
        self.bent: list[Bent] = []
        lower, upper = (b[0].double().cpu().numpy() for b in (inputs.lower, inputs.upper))
        self.middle, self.half = (lower + upper) / 2, (upper - lower) / 2
        self.varying = np.flatnonzero(self.half > 0)
        self.count = len(self.varying)
        column = np.full(len(lower), -1)
        column[self.varying] = np.arange(self.count)
        self.terms[0] = Terms(column, self.half, self.middle)
        self._rows: list[Affine] = []
        self._height = 0
        for e in network.graph.nonlinear:
            self._add(e)
        self.equalities = self.matrix(self._rows)
        self.constants = np.concatenate([np.zeros(0), *(r.constant for r in self._rows)])

    def _new(self, count: int) -> Array:
        first, self.count = self.count, self.count + count
        return np.arange(first, self.count)

    def _add(self, e: int) -> None:
        graph = self.network.graph
        v = graph.nodes[e].inputs[0]
        readers = [r for r in graph.readers[v] if _elementwise(graph.nodes[r])]
        shapes = {r: self._shape(r) for r in readers}
        if v not in self.read:
            needed = np.flatnonzero(np.any([bends | (slope != 0) for bends, slope, _ in shapes.values()], axis=0))
            self.read[v] = np.full(graph.nodes[v].size, -1)
            self.read[v][needed] = self._new(len(needed))
            self._define(v, needed)
        bends, slope, shift = shapes[e]
        index = np.flatnonzero(bends)
        y = self._new(len(index))
        column = np.where(slope != 0, self.read[v], -1)
        column[index], slope[index], shift[index] = y, 1.0, 0.0
        self.terms[e] = Terms(column, slope, shift)
        self.bent.append(Bent(e, index, y, self.read[v][index]))

    def _shape(self, e: int) -> tuple[Array, Array, Array]:
        """(size,) each: whether the operator bends on a neuron's interval; and where not, its slope and shift."""
        graph = self.network.graph
        v = graph.nodes[e].inputs[0]
        line = lines_of(self.network, self.bounds, (e,))[e]
        like = self.bounds[v][0]
        parts = (part.expand(1, 1, *like.shape[1:]) for part in line)
        low, low_shift, up, up_shift = (flat(p, 2)[0, 0].cpu().numpy().copy() for p in parts)
        bends = flat(unstable(graph, v, self.bounds[v]), 1)[0].cpu().numpy()
        return bends | (low != up) | (low_shift != up_shift), low, low_shift

    def _define(self, v: int, neurons: Array) -> None:
        """Rows  z - (its affine function of earlier columns) = constant  for neurons of node v."""
        node = self.network.graph.nodes[v]
        step = max(1, ENTRIES // max(n.size for n in self.network.graph.nodes[: v + 1]))
        for first in range(0, len(neurons), step):
            some = neurons[first : first + step]
            unit = torch.zeros(len(some), node.size, dtype=self.network.dtype, device=self.network.device)
            unit[torch.arange(len(some)), torch.from_numpy(some)] = 1.0
            found, own = self.affine(v, unit.reshape(len(some), *node.shape)), np.arange(len(some))
            self._rows.append(
                Affine(
                    self._height + np.append(found.row, own),
                    np.append(found.column, self.read[v][some]),
                    np.append(-found.value, np.ones(len(some))),
                    found.constant,
                )
            )
            self._height += len(some)

    def affine(self, v: int, rows: Tensor) -> Affine:
        """The rows (R, *N) of node v's value, as functions of the columns before it."""
        row, column, value = [], [], []
        constant = np.zeros(len(rows))
        for s, a in folded(self.network, v, rows, constant):
            terms = self.terms[s]
            constant += a @ terms.shift
            scaled = np.where(terms.column < 0, 0.0, a * terms.slope)
            at, neuron = np.nonzero(scaled)
            row.append(at)
            column.append(terms.column[neuron])
            value.append(scaled[at, neuron])
        joined = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (row, column))
        return Affine(*joined, np.concatenate([np.zeros(0), *value]), constant)

    def objective(self, clause: Clause) -> Affine:
        """The rows of a clause, matrix @ z - offset, as functions of the columns."""
        graph = self.network.graph
        last, outputs = graph.nodes[-1], graph.output_size
        y = torch.from_numpy(clause.matrix[:, :outputs].reshape(-1, *last.shape)).to(self.network.device)
        found, x = self.affine(len(graph.nodes) - 1, y), clause.matrix[:, outputs:]
        if not x.shape[1]:
            return replace(found, constant=found.constant - clause.offset)
        scaled = (x * self.half)[:, self.varying]
        row, column = np.nonzero(scaled)
        return Affine(
            np.append(found.row, row),
            np.append(found.column, column),
            np.append(found.value, scaled[row, column]),
            found.constant + x @ self.middle - clause.offset,
        )

    def matrix(self, parts: list[Affine]) -> Csr:
        """The matrix of affine functions with different rows."""
        row, column, value = (
            np.concatenate([np.zeros(0, kind), *(getattr(p, name) for p in parts)])
            for name, kind in (("row", np.int64), ("column", np.int64), ("value", np.float64))
        )
        return csr(row, column, value, (sum(len(p.constant) for p in parts), self.count))

    def input_at(self, x: Array) -> Array:
        """The input (d,) of a program's columns (n,), inside the region's box."""
        found = self.middle.copy()
        found[self.varying] += self.half[self.varying] * np.clip(x[: len(self.varying)], -1, 1)
        return np.clip(found, self.middle - self.half, self.middle + self.half)


def folded(network: Network, v: int, rows: Tensor, constant: Array) -> Iterator[tuple[int, Array]]:
    """The rows (R, *N) of node v's value in terms of the input and of elementwise outputs: node after node, and the
    coefficients (R, size) of its values. What biases add goes to `constant` (R,)."""
    pending = {v: rows}
    for i in range(v, -1, -1):
        a = pending.pop(i, None)
        if a is None:
            continue
        if i == 0 or network.functions[i] is not None:
            yield i, flat(a, 1).double().cpu().numpy()
            continue
        term = network.maps[i].bias_term(a)
        if term is not None:
            constant += term.double().cpu().numpy()
        for j, back in zip(network.graph.nodes[i].inputs, network.maps[i].adjoint(a), strict=True):
            back = back.reshape(len(a), *network.graph.nodes[j].shape)
            pending[j] = pending[j] + back if j in pending else back
