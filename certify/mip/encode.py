"""A network as a mixed-integer program: big-M with the tightest known bounds (Tjeng, Xiao & Tedrake 2019), written for
any number of pieces.

One binary per piece of a bent neuron; exactly one of them is 1. The output lies between the lines of the chosen piece,
which are the same for a piecewise-linear operator, and off those of the others by at most as much as the bounds on z
allow; z lies within the chosen piece. For a ReLU that is y >= 0, y >= z, y <= u d, y <= z - l (1 - d). Neurons that do
not bend on their bounds have no binary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from certify.graph.ops import Sign
from certify.mip.columns import Affine, Bent, Columns
from certify.mip.pieces import PARTS, Pieces, pieces_of
from certify.solvers.csr import Array, csr
from certify.solvers.highs import LinearProgram, MixedProgram

ROOM = 1e-6
"""By how much a level's bounds are moved outward, relative to 1 and to them: they need hold, and need not be tight."""


@dataclass(frozen=True, eq=False)
class Block:
    """Rows  lower <= sum of the entries <= upper; `row` counts from 0 within the block, lower and upper (R,)."""

    row: Array
    column: Array
    value: Array
    lower: Array
    upper: Array


class Encoded:
    """The program's columns (those of `columns`, then binaries, then what callers add), bounds and rows.

    `binaries` are the columns of the binaries. Every input of the region, with what the network makes of it, is a
    point of the program; and every point of the program is one, but where an operator jumps or is smooth. A smooth one
    has `parts` pieces.
    """

    def __init__(self, columns: Columns, parts: int = PARTS) -> None:
        self.columns, self.parts = columns, parts
        count = columns.count
        self.lower, self.upper = np.full(count, -np.inf), np.full(count, np.inf)
        inputs = len(columns.varying)
        self.lower[:inputs], self.upper[:inputs] = -1.0, 1.0
        for v, column in columns.read.items():
            known = column >= 0
            for side, bound in zip((self.lower, self.upper), columns.bounds[v], strict=True):
                side[column[known]] = bound[0].double().cpu().numpy().reshape(-1)[known]
        self.blocks: list[Block] = []
        base = columns.equalities
        self.append(Block(base.row, base.index, base.value, columns.constants, columns.constants))
        self.pieces: list[Pieces] = []
        self.choices: list[Array] = []  # of each of columns.bent, the binaries (K, k) of its pieces
        first = len(self.lower)
        for bent in columns.bent:
            self._choose(bent)
        self.binaries = np.arange(first, len(self.lower))

    def append(self, block: Block) -> None:
        if len(block.lower):
            self.blocks.append(block)

    def new(self, lower: Array, upper: Array) -> Array:
        """New columns with these bounds, each (k,)."""
        first = len(self.lower)
        self.lower, self.upper = np.append(self.lower, lower), np.append(self.upper, upper)
        return np.arange(first, len(self.lower))

    def rows(self, terms: list[tuple[Array, Array | float]], lower: Array | float, upper: Array | float) -> None:
        """Rows (R,), each the sum of one entry (column, value) of each of the terms."""
        count = len(terms[0][0])
        every = np.arange(count)
        self.append(
            Block(
                np.tile(every, len(terms)),
                np.concatenate([column for column, _ in terms]),
                np.concatenate([np.broadcast_to(np.asarray(value, np.float64), count) for _, value in terms]),
                np.broadcast_to(np.asarray(lower, np.float64), count),
                np.broadcast_to(np.asarray(upper, np.float64), count),
            )
        )

    def affine(self, rows: Affine, lower: float, upper: float, extra: Array | None = None) -> None:
        """lower <= rows (- extra) <= upper, `extra` (R,) being further columns."""
        extra = np.zeros(0, np.int64) if extra is None else extra
        self.append(
            Block(
                np.append(rows.row, np.arange(len(extra))),
                np.append(rows.column, extra),
                np.append(rows.value, -np.ones(len(extra))),
                lower - rows.constant,
                upper - rows.constant,
            )
        )

    def _choose(self, bent: Bent) -> None:
        node = self.columns.network.graph.nodes[bent.node]
        pieces = pieces_of(node, bent.index, self.lower[bent.z], self.upper[bent.z], self.parts)
        least, most = pieces.range()
        self.lower[bent.y], self.upper[bent.y] = least, most
        there = pieces.begin <= pieces.end
        if not isinstance(
            node.op, Sign
        ):  # a piece of a continuous function that is but a point is part of its neighbour
            wide = pieces.begin < pieces.end
            there &= wide | ~wide.any(0)
        # that z lies within the chosen piece follows from lines where there are two, which meet
        lines = ((pieces.slope == pieces.top) & (pieces.shift == pieces.top_shift)).all(0)
        apart = ~lines | (there.sum(0) != 2) | isinstance(node.op, Sign)
        chosen = [self.new(np.zeros(len(bent.index)), mine.astype(np.float64)) for mine in there]
        self.pieces.append(pieces)
        self.choices.append(np.stack(chosen))
        self.rows([(d, 1.0) for d in chosen], 1.0, 1.0)
        for k, d in enumerate(chosen):
            below, above = pieces.excess(k)
            # y - upper line <= above (1 - d), y - lower line >= -below (1 - d)
            self.rows([(bent.y, 1.0), (bent.z, -pieces.top[k]), (d, above)], -np.inf, pieces.top_shift[k] + above)
            self.rows([(bent.y, 1.0), (bent.z, -pieces.slope[k]), (d, -below)], pieces.shift[k] - below, np.inf)
            low, up = self.lower[bent.z], self.upper[bent.z]
            begin, end = (np.where(there[k], x, b) for x, b in ((pieces.begin[k], low), (pieces.end[k], up)))
            left, right = apart & (low < begin), apart & (end < up)
            self.rows([(bent.z[left], 1.0), (d[left], (low - begin)[left])], low[left], np.inf)
            self.rows([(bent.z[right], 1.0), (d[right], (up - end)[right])], -np.inf, up[right])

    def level(self, rows: Affine) -> int:
        """A new column that no row is above: one between the largest of their least and of their greatest values."""
        ends = [rows.value * bound[rows.column] for bound in (self.lower, self.upper)]
        least, most = (
            (np.bincount(rows.row, side, len(rows.constant)) + rows.constant).max()
            for side in (np.minimum(*ends), np.maximum(*ends))
        )
        room = ROOM * (1 + np.abs([least, most]))
        (level,) = self.new(np.full(1, least - room[0]), np.full(1, most + room[1]))
        self.affine(rows, -np.inf, 0.0, np.repeat(level, len(rows.constant)))
        return int(level)

    def at(self, x: Array) -> Array:
        """The columns (n,) at an input (d,) of the region's box, as the network computes it; 0 for those that callers
        added."""
        columns, found = self.columns, np.zeros(len(self.lower))
        network, inputs = columns.network, columns.varying
        values = network.values(torch.from_numpy(x).to(network.dtype).reshape(1, *network.graph.input_shape))
        known = [value.double().cpu().numpy().reshape(-1) for value in values]
        found[: len(inputs)] = ((x - columns.middle)[inputs]) / columns.half[inputs]
        for v, column in columns.read.items():
            found[column[column >= 0]] = known[v][column >= 0]
        for bent in columns.bent:
            found[bent.y] = known[bent.node][bent.index]
        return self.misses(found)[1]

    def misses(self, x: Array) -> tuple[Array, Array]:
        """By how much the columns x (n,) miss each bent neuron (P,), node after node: the distance of y from the
        nearest piece, relative to 1 and to z. And x with the binaries of those pieces."""
        rounded, found = x.copy(), [np.zeros(0)]
        for bent, pieces, choices in zip(self.columns.bent, self.pieces, self.choices, strict=True):
            z = x[bent.z]
            miss = pieces.miss(z, x[bent.y])
            rounded[choices] = np.arange(len(choices))[:, None] == miss.argmin(0)
            found.append(miss.min(0) / (1 + np.abs(z)))
        return np.concatenate(found), rounded

    def program(self, cost: Array, whole: Array | None = None) -> MixedProgram:
        """The program that minimises cost (n,) . columns. With `whole` (P,) bool, the binaries of no other bent
        neurons need be whole numbers, which makes it a relaxation."""
        heights = np.cumsum([0, *(len(b.lower) for b in self.blocks)])
        row = np.concatenate([b.row + h for b, h in zip(self.blocks, heights[:-1], strict=True)])
        column = np.concatenate([b.column for b in self.blocks])
        value = np.concatenate([b.value for b in self.blocks])
        matrix = csr(row, column, value, (int(heights[-1]), len(self.lower)))
        low, up = (np.concatenate([getattr(b, side) for b in self.blocks]) for side in ("lower", "upper"))
        integer = np.zeros(len(self.lower), bool)
        integer[self.binaries] = True
        if whole is not None:
            first = 0
            for choices in self.choices:
                mine = whole[first : first + choices.shape[1]]
                integer[choices[:, ~mine]] = False
                first += len(mine)
        return MixedProgram(LinearProgram(cost, self.lower, self.upper, matrix, low, up), integer)
