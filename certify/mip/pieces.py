"""The pieces of elementwise operators: what a mixed-integer program chooses among."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from certify.errors import UnsupportedOp
from certify.graph import ops
from certify.graph.ir import Graph, Node
from certify.graph.rules import Rules
from certify.relax.elementwise import LINES
from certify.solvers.csr import Array


@dataclass(frozen=True, eq=False)
class Pieces:
    """For n neurons, K pieces side by side: piece k lies between the lines slope[k] z + shift[k] and top[k] z +
    top_shift[k] for begin[k] <= z <= end[k].

    All fields (K, n). A piece may be a point, or empty (begin > end). Both lines are the same where the operator is
    affine. Where an operator jumps, pieces include both sides of the jump, which makes what is reachable larger, never
    smaller.
    """

    begin: Array
    end: Array
    slope: Array
    shift: Array
    top: Array
    top_shift: Array

    def within(self, lower: Array, upper: Array) -> Pieces:
        """The pieces cut to lower <= z <= upper, each (n,)."""
        return replace(self, begin=np.maximum(self.begin, lower), end=np.minimum(self.end, upper))

    def _ends(self, slope: Array, shift: Array) -> Array:
        """(2, K, n): values of lines at both ends of the pieces."""
        return np.stack([slope * self.begin + shift, slope * self.end + shift])

    def miss(self, z: Array, y: Array) -> Array:
        """(K, n): how far (z, y), each (n,), is from each piece, in the larger of both directions; inf from an empty
        one."""
        off = np.maximum(np.maximum(self.begin - z, z - self.end), 0.0)
        below, above = self.slope * z + self.shift - y, y - self.top * z - self.top_shift
        return np.where(self.begin <= self.end, np.maximum(off, np.maximum(below, above)), np.inf)

    def range(self) -> tuple[Array, Array]:
        """The least and the largest value (n,) of all pieces that are not empty."""
        there = self.begin <= self.end
        low, up = self._ends(self.slope, self.shift), self._ends(self.top, self.top_shift)
        return np.where(there, low, np.inf).min((0, 1)), np.where(there, up, -np.inf).max((0, 1))

    def excess(self, k: int) -> tuple[Array, Array]:
        """How far the function may lie below the lower and above the upper line of piece k, (n,) each, not negative."""
        there = self.begin <= self.end
        low = self._ends(self.slope - self.slope[k], self.shift - self.shift[k])
        up = self._ends(self.top - self.top[k], self.top_shift - self.top_shift[k])
        return (
            np.maximum(-np.where(there, low, 0.0).min((0, 1)), 0.0),
            np.maximum(np.where(there, up, 0.0).max((0, 1)), 0.0),
        )


PARTS = 4
"""Pieces that a smooth operator has unless it is told otherwise."""

PIECES: Rules[Callable[[ops.Op, Node, Array], Pieces]] = Rules("mixed-integer programming")
"""rule(op, node, index): the pieces of the neurons `index` (flat) of elementwise `node`, on the whole line."""


def exact(graph: Graph) -> bool:
    """Whether every operator that is not affine is piecewise linear, so that a program says all there is."""
    return all(PIECES.get(graph.nodes[e].op) is not None for e in graph.nonlinear)


def covers(graph: Graph) -> bool:
    """Whether every operator that is not affine has pieces, or lines around it of which pieces can be made."""
    return not _missing(graph)


def require(graph: Graph) -> None:
    """Raise UnsupportedOp naming every node of which no pieces can be made."""
    if missing := _missing(graph):
        raise UnsupportedOp("mixed-integer programming", missing, "use --method auto")


def _missing(graph: Graph) -> list[tuple[str, str]]:
    nodes = [graph.nodes[e] for e in graph.nonlinear]
    return [
        (type(n.op).__name__, n.name)
        for n in nodes
        if not isinstance(n.op, ops.Elementwise) or (PIECES.get(n.op) is None and LINES.get(n.op) is None)
    ]


def pieces_of(node: Node, index: Array, lower: Array, upper: Array, parts: int) -> Pieces:
    """The pieces of the neurons `index` (flat) of elementwise `node` on lower <= z <= upper, (n,) each.

    A smooth operator gets the lines around it on `parts` intervals of equal length. Sound, up to rounding, as they are;
    the more intervals, the closer.
    """
    rule = PIECES.get(node.op)
    if rule is not None:
        return rule(node.op, node, index).within(lower, upper)
    ends = np.linspace(lower, upper, parts + 1)
    begin, end = (torch.from_numpy(np.ascontiguousarray(e)) for e in (ends[:-1], ends[1:]))
    lines = [t.expand(parts, len(index)).numpy().copy() for t in LINES[node.op](node.op, begin, end, None)]
    return Pieces(ends[:-1], ends[1:], *lines)


def _pieces(points: list[float], slopes: list[Array | float], shifts: list[Array | float], count: int) -> Pieces:
    ends = [-np.inf, *points, np.inf]
    table = (np.stack([np.broadcast_to(x, count).astype(np.float64) for x in row]) for row in (slopes, shifts))
    begin, end = (np.repeat(np.array(part)[:, None], count, 1) for part in (ends[:-1], ends[1:]))
    slope, shift = table
    return Pieces(begin, end, slope, shift, slope, shift)


@PIECES(ops.Relu)
def _relu(op: ops.Relu, node: Node, index: Array) -> Pieces:
    return _pieces([0.0], [0.0, 1.0], [0.0, 0.0], len(index))


@PIECES(ops.LeakyRelu)
def _leaky(op: ops.LeakyRelu, node: Node, index: Array) -> Pieces:
    slope = np.broadcast_to(np.asarray(op.slope, np.float64), node.shape).reshape(-1)[index]
    return _pieces([0.0], [slope, 1.0], [0.0, 0.0], len(index))


@PIECES(ops.Abs)
def _abs(op: ops.Abs, node: Node, index: Array) -> Pieces:
    return _pieces([0.0], [-1.0, 1.0], [0.0, 0.0], len(index))


@PIECES(ops.Clip)
def _clip(op: ops.Clip, node: Node, index: Array) -> Pieces:
    low, high = ([p] if np.isfinite(p) else [] for p in (op.lower, op.upper))
    return _pieces([*low, *high], [*(0.0 for _ in low), 1.0, *(0.0 for _ in high)], [*low, 0.0, *high], len(index))


@PIECES(ops.Sign)
def _sign(op: ops.Sign, node: Node, index: Array) -> Pieces:
    """At 0 all of -1, 0 and 1 count as reachable."""
    return _pieces([0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0], len(index))
