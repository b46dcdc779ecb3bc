"""The pieces of piecewise-linear operators: what a mixed-integer program chooses among."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from certify.errors import UnsupportedOp
from certify.graph import ops
from certify.graph.ir import Graph, Node
from certify.graph.rules import Rules
from certify.solvers.csr import Array


@dataclass(frozen=True, eq=False)
class Pieces:
    """For n neurons, K affine pieces side by side: piece k is slope[k] z + shift[k] for begin[k] <= z <= end[k].

    All fields (K, n). A piece may be a point, or empty (begin > end). Where an operator jumps, pieces include both
    sides of the jump, which makes what is reachable larger, never smaller.
    """

    begin: Array
    end: Array
    slope: Array
    shift: Array

    def within(self, lower: Array, upper: Array) -> Pieces:
        """The pieces cut to lower <= z <= upper, each (n,)."""
        return Pieces(np.maximum(self.begin, lower), np.minimum(self.end, upper), self.slope, self.shift)

    def range(self) -> tuple[Array, Array]:
        """The least and the largest value (n,) of all pieces that are not empty."""
        there = self.begin <= self.end
        ends = np.stack([self.slope * self.begin + self.shift, self.slope * self.end + self.shift])
        return (
            np.where(there, ends, np.inf).min((0, 1)),
            np.where(there, ends, -np.inf).max((0, 1)),
        )

    def excess(self, k: int) -> tuple[Array, Array]:
        """How far the function may lie below and above the line of piece k, (n,) each, not negative."""
        there = self.begin <= self.end
        slope, shift = self.slope - self.slope[k], self.shift - self.shift[k]
        gaps = np.stack([slope * self.begin + shift, slope * self.end + shift])
        return (
            np.maximum(-np.where(there, gaps, 0.0).min((0, 1)), 0.0),
            np.maximum(np.where(there, gaps, 0.0).max((0, 1)), 0.0),
        )


PIECES: Rules[Callable[[ops.Op, Node, Array], Pieces]] = Rules("mixed-integer programming")
"""rule(op, node, index): the pieces of the neurons `index` (flat) of elementwise `node`, on the whole line."""


def covers(graph: Graph) -> bool:
    """Whether every elementwise operator has pieces."""
    return all(PIECES.get(graph.nodes[e].op) is not None for e in graph.nonlinear)


def require(graph: Graph) -> None:
    """Raise UnsupportedOp naming every elementwise node that is not piecewise linear."""
    if not covers(graph):
        nodes = [graph.nodes[e] for e in graph.nonlinear]
        missing = [(type(n.op).__name__, n.name) for n in nodes if PIECES.get(n.op) is None]
        raise UnsupportedOp("mixed-integer programming", missing, "use a method that relaxes smooth operators")


def _pieces(points: list[float], slopes: list[Array | float], shifts: list[Array | float], count: int) -> Pieces:
    ends = [-np.inf, *points, np.inf]
    table = (np.stack([np.broadcast_to(x, count).astype(np.float64) for x in row]) for row in (slopes, shifts))
    begin, end = (np.repeat(np.array(part)[:, None], count, 1) for part in (ends[:-1], ends[1:]))
    return Pieces(begin, end, *table)


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
