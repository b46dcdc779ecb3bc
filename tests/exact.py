"""A brute-force oracle: the exact truth about small networks, in integer arithmetic.

A piecewise-linear network cuts its region into cells on which it is affine. `cells` enumerates all of
them: every cell is a polytope given by its vertices, every value of the network an affine function of
the free inputs, and both are integers (all floating-point constants are dyadic), so nothing is ever
rounded. What a property says of a cell is then a few more cuts. Exponential, and for small cases only.

Smooth operators are evaluated at points only, to many digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import gcd, inf, isfinite

import mpmath
import numpy as np
import torch

from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.ir import Graph
from certify.spec.property import Clause, Property
from certify.spec.query import Case
from certify.spec.regions import Region

Row = tuple[tuple[int, ...], int]
"""An affine function of the free inputs: (coefficients and constant last, e) means 2**e times them."""

DIGITS = 500  # bits to which smooth operators are evaluated, at points
LEAST = 5000  # they give nothing nearer to zero than 2**-LEAST, except zero


VERTICES = 60  # of one polytope; cutting takes their cube


class TooComplex(Exception):
    """The network has more cells than asked for or one with too many vertices, or a smooth operator on a
    region that is not a point."""


def dyadic(x: float) -> tuple[int, int]:
    """(m, e) with x == m * 2**e."""
    numerator, denominator = float(x).as_integer_ratio()
    return numerator, 1 - denominator.bit_length()


def combine(terms: Sequence[tuple[tuple[int, int], Row]], width: int) -> Row:
    """The sum of dyadic multiples of rows."""
    terms = [(m, e + f, row) for (m, e), (row, f) in terms if m and any(row)]
    if not terms:
        return (0,) * width, 0
    lowest = min(e for _, e, _ in terms)
    total = [0] * width
    for m, e, row in terms:
        m <<= e - lowest
        for k, value in enumerate(row):
            total[k] += m * value
    return tuple(total), lowest


def constant(x: float, width: int) -> Row:
    m, e = dyadic(x)
    return (0,) * (width - 1) + (m,), e


@dataclass(frozen=True)
class Polytope:
    """A bounded polytope by its vertices, some of whose facets may be excluded (double description).

    points   homogeneous integer vertices, last entry positive
    tight    for every vertex, the set (bits) of constraints that it meets with equality
    strict   the constraints that must hold strictly: the polytope is empty if one is tight everywhere
    """

    points: tuple[tuple[int, ...], ...]
    tight: tuple[int, ...]
    count: int
    strict: int = 0

    def cut(self, row: Sequence[int], strict: bool = False) -> Polytope | None:
        """The part where row @ (x, 1) <= 0 (or < 0); None if there is none."""
        heights = [sum(a * b for a, b in zip(row, p, strict=True)) for p in self.points]
        if max(heights) < 0:
            return self
        bit = 1 << self.count
        points = [p for p, h in zip(self.points, heights, strict=True) if h <= 0]
        tight = [t | bit if h == 0 else t for t, h in zip(self.tight, heights, strict=True) if h <= 0]
        for i, above in enumerate(heights):
            for j, below in enumerate(heights):
                if above > 0 > below and self._adjacent(i, j):
                    mixed = [above * b - below * a for a, b in zip(self.points[i], self.points[j], strict=True)]
                    shared = gcd(*mixed)
                    points.append(tuple(m // shared for m in mixed))
                    tight.append(self.tight[i] & self.tight[j] | bit)
        if len(points) > VERTICES:
            raise TooComplex(f"more than {VERTICES} vertices")
        everywhere, must = -1, self.strict | (bit if strict else 0)
        for t in tight:
            everywhere &= t
        return Polytope(tuple(points), tuple(tight), self.count + 1, must) if points and not everywhere & must else None

    def _adjacent(self, i: int, j: int) -> bool:
        """Vertices share an edge iff no third one meets all the constraints that both meet."""
        common = self.tight[i] & self.tight[j]
        return all(common & t != common for k, t in enumerate(self.tight) if k not in (i, j))

    def middle(self) -> list[Fraction]:
        """The mean of the vertices: a point of the relative interior, so every strict constraint holds."""
        size = len(self.points[0]) - 1
        return [sum((Fraction(p[k], p[-1]) for p in self.points), Fraction(0)) / len(self.points) for k in range(size)]

    def least(self, row: Row) -> Fraction:
        """The minimum of an affine function over the closed polytope."""
        values = (Fraction(sum(a * b for a, b in zip(row[0], p, strict=True)), p[-1]) for p in self.points)
        return min(values) * Fraction(2) ** row[1]


def polytope(region: Region) -> tuple[Polytope, tuple[Row, ...]]:
    """A region (not an L2 ball) over its free inputs, and all inputs as functions of those."""
    lower, upper = ([Fraction(v) for v in side.tolist()] for side in (region.lower, region.upper))
    if region.norm == 2:
        raise TooComplex("an L2 ball is not a polytope")
    if region.norm is not None:
        center, radius = [Fraction(v) for v in region.center.tolist()], Fraction(region.radius)
        lower = [max(v, c - radius) for v, c in zip(lower, center, strict=True)]
        upper = [min(v, c + radius) for v, c in zip(upper, center, strict=True)]
    free = [i for i, (a, b) in enumerate(zip(lower, upper, strict=True)) if a < b]
    width = len(free) + 1
    inputs = tuple(
        (tuple(int(k == free.index(i)) for k in range(width)), 0)
        if i in free
        else combine([(_dyadic(lower[i]), constant(1, width))], width)
        for i in range(len(lower))
    )
    points, tight = [], []
    for corner in product((0, 1), repeat=len(free)):
        at = [(upper if side else lower)[i] for side, i in zip(corner, free, strict=True)]
        scale = max((v.denominator for v in at), default=1)  # powers of two
        points.append((*(int(v * scale) for v in at), scale))
        tight.append(sum(1 << (2 * k + side) for k, side in enumerate(corner)))
    shape = Polytope(tuple(points), tuple(tight), 2 * len(free))
    if region.norm == 1:
        left = radius - sum((abs(lower[i] - center[i]) for i in range(len(lower)) if i not in free), Fraction(0))
        for signs in product((-1, 1), repeat=len(free)):
            edge = [Fraction(s) for s in signs]
            edge.append(-left - sum((s * center[i] for s, i in zip(signs, free, strict=True)), Fraction(0)))
            scale = max(v.denominator for v in edge)
            shape = shape.cut([int(v * scale) for v in edge])
            if shape is None:
                raise AssertionError("a region that says it is not empty is")
    return shape, inputs


def _dyadic(x: Fraction) -> tuple[int, int]:
    return x.numerator, 1 - x.denominator.bit_length()


Term = tuple[int, int, tuple[int, int]]
"""One entry of a node's matrix: (which input, which entry of it, the coefficient)."""


@lru_cache(maxsize=4)
def matrices(graph: Graph) -> list[list[tuple[list[Term], float]]]:
    """For every affine node and every entry of its value: its terms and its bias.

    Read off `MAPS` with unit vectors, which is exact: every coefficient is one stored number.
    """
    shapes = [node.shape for node in graph.nodes]
    found: list[list[tuple[list[Term], float]]] = []
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, ops.Nonlinear) or not i:
            found.append([])
            continue
        inputs = [shapes[j] for j in node.inputs]
        mapping = MAPS[node.op](node.op, node, inputs, _cast)
        zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in inputs]
        bias = mapping.forward(*zeros).expand(1, *node.shape).reshape(-1).tolist()
        terms: list[list[Term]] = [[] for _ in bias]
        for slot, shape in enumerate(inputs):
            units = torch.eye(graph.nodes[node.inputs[slot]].size, dtype=torch.float64)
            xs = [z.expand(len(units), *z.shape[1:]) for z in zeros]
            xs[slot] = units.reshape(-1, *shape)
            matrix = mapping.linear(*xs).reshape(len(units), -1).numpy()
            for source, target in zip(*np.nonzero(matrix), strict=True):
                terms[target].append((slot, int(source), dyadic(matrix[source, target])))
        found.append(list(zip(terms, bias, strict=True)))
    return found


def _cast(array: np.ndarray) -> torch.Tensor:
    tensor = torch.tensor(array)
    return tensor.double() if tensor.is_floating_point() else tensor


Piece = tuple[list[tuple[Row, bool]], Row]
"""Where an elementwise operator is affine: rows that are <= 0 (or < 0) there, and its value."""


def pieces(op: ops.Elementwise, x: Row, slope: float, width: int) -> list[Piece]:
    """The pieces of `op` at an entry whose argument is x; `slope` is that entry's, for a LeakyRelu."""
    one, minus, zero = (1, 0), (-1, 0), constant(0, width)
    above, below = (combine([(minus, x)], width), False), (x, False)  # x >= 0, x <= 0
    if isinstance(op, ops.Relu):
        return [([above], x), ([below], zero)]
    if isinstance(op, ops.LeakyRelu):
        return [([above], x), ([below], combine([(dyadic(slope), x)], width))]
    if isinstance(op, ops.Abs):
        return [([above], x), ([below], combine([(minus, x)], width))]
    if isinstance(op, ops.Sign):
        strictly = (above[0], True), (below[0], True)
        return [
            ([strictly[0]], constant(1, width)),
            ([strictly[1]], constant(-1, width)),
            ([above, below], zero),
        ]
    if isinstance(op, ops.Clip):
        inside, found = [], []
        for limit, sign in ((op.lower, one), (op.upper, minus)):
            if isfinite(limit):
                edge = combine([(sign, constant(limit, width)), ((-sign[0], 0), x)], width)  # <= 0 inside
                inside.append((edge, False))
                found.append(([(combine([(minus, edge)], width), False)], constant(limit, width)))
        return [(inside, x), *found]
    if any(x[0][:-1]):
        raise TooComplex(f"{type(op).__name__} is not piecewise linear")
    return [([], _smooth(op, x, width))]


CURVES = {
    ops.Tanh: mpmath.tanh,
    ops.Sigmoid: lambda x: 1 / (1 + mpmath.exp(-x)),
    ops.Exp: mpmath.exp,
    ops.Square: lambda x: x * x,
    ops.Reciprocal: lambda x: 1 / x,
    ops.Sin: mpmath.sin,
    ops.Cos: mpmath.cos,
    ops.Floor: mpmath.floor,
    ops.Log: mpmath.log,
    ops.Sqrt: mpmath.sqrt,
    ops.Rsqrt: lambda x: 1 / mpmath.sqrt(x),
    ops.Softplus: lambda x: mpmath.log1p(mpmath.exp(-abs(x))) + max(x, 0),
    ops.Erf: mpmath.erf,
    ops.Gelu: lambda x: x * mpmath.ncdf(x),
    ops.GeluTanh: lambda x: x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3))),
    ops.Silu: lambda x: x / (1 + mpmath.exp(-x)),
    ops.Mish: lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(-abs(x))) + max(x, 0)),
    ops.HardSwish: lambda x: x * min(max(x + 3, 0), 6) / 6,
}


def curve(op: ops.Elementwise, x: mpmath.mpf) -> mpmath.mpf:
    """A smooth operator's value."""
    if isinstance(op, ops.Elu):
        return x if x >= 0 else op.alpha * mpmath.expm1(x)
    return CURVES[type(op)](x)


def _smooth(op: ops.Elementwise, x: Row, width: int) -> Row:
    with mpmath.workprec(DIGITS):
        argument = mpmath.ldexp(mpmath.mpf(x[0][-1]), x[1])
        value = curve(op, argument)
        if 0 < abs(value) < mpmath.ldexp(1, -LEAST):
            value = mpmath.sign(value) * mpmath.ldexp(1, -LEAST)
        sign, mantissa, exponent, _ = mpmath.mpf(value)._mpf_
    return (0,) * (width - 1) + ((-1) ** sign * int(mantissa),), exponent


Cell = tuple[Polytope, list[Row]]
"""A part of the region on which the network is affine, and z = (y, x) there."""


def cells(graph: Graph, region: Region, limit: float = inf) -> Iterator[Cell]:
    """All cells of the region; raises TooComplex once there are more than `limit`."""
    whole, inputs = polytope(region)
    yield from _walk(graph, matrices(graph), whole, inputs, limit)


def _products(op: ops.Product, x: Sequence[Row], width: int) -> list[Row]:
    """Of factors of which one of each two is constant on the cell."""
    found = []
    for one, other in zip(op.left.flat, op.right.flat, strict=True):
        row, factor = (x[one], x[other]) if not any(x[other][0][:-1]) else (x[other], x[one])
        if any(factor[0][:-1]):
            raise TooComplex("a product of variables is not piecewise linear")
        found.append(combine([((factor[0][-1], factor[1]), row)], width))
    return found


def _walk(
    graph: Graph, linear: list[list[tuple[list[Term], float]]], whole: Polytope, inputs: Sequence[Row], limit: float
) -> Iterator[Cell]:
    width, seen = len(whole.points[0]), 0
    stack: list[tuple[int, dict[int, list[Row]], Polytope]] = [(1, {0: list(inputs)}, whole)]
    while stack:
        i, values, part = stack.pop()
        while i < len(graph.nodes) and not isinstance(graph.nodes[i].op, ops.Elementwise):
            sources = [values[j] for j in graph.nodes[i].inputs]
            if isinstance(graph.nodes[i].op, ops.Product):
                values[i] = _products(graph.nodes[i].op, sources[0], width)
                i += 1
                continue
            values[i] = [
                combine([*((c, sources[s][k]) for s, k, c in terms), ((1, 0), constant(bias, width))], width)
                for terms, bias in linear[i]
            ]
            i += 1
        if i == len(graph.nodes):
            seen += 1
            if seen > limit:
                raise TooComplex(f"more than {limit} cells")
            yield part, [*values[i - 1], *inputs]
            continue
        node = graph.nodes[i]
        parts: list[tuple[list[Row], Polytope]] = [([], part)]
        slopes = np.broadcast_to(getattr(node.op, "slope", np.zeros(())), node.shape).reshape(-1)
        for x, slope in zip(values[node.inputs[0]], slopes, strict=True):
            choices = pieces(node.op, x, float(slope), width)
            parts = [
                ([*rows, value], smaller)
                for rows, old in parts
                for conditions, value in choices
                if (smaller := _cut_all(old, conditions)) is not None
            ]
            if len(parts) > limit:
                raise TooComplex(f"more than {limit} cells")
        stack.extend((i + 1, {**values, i: rows}, smaller) for rows, smaller in parts)


def _cut_all(part: Polytope | None, conditions: Sequence[tuple[Row, bool]]) -> Polytope | None:
    for row, strict in conditions:
        if part is None:
            return None
        part = part.cut(row[0], strict)
    return part


@dataclass(frozen=True)
class Violation:
    """An input, as exact numbers, that makes every row of a case's clause unsafe."""

    case: int
    clause: int
    x: tuple[Fraction, ...]


def _rows(clause: Clause, z: Sequence[Row]) -> list[tuple[Row, bool]]:
    """matrix @ z - offset, row by row, and whether it must be < 0 rather than <= 0."""
    width = len(z[0][0])
    return [
        (
            combine(
                [*((dyadic(a), z[k]) for k, a in enumerate(row) if a), ((-1, 0), constant(offset, width))],
                width,
            ),
            bool(strict),
        )
        for row, offset, strict in zip(clause.matrix, clause.offset, clause.strict, strict=True)
    ]


def unsafe_parts(graph: Graph, case: Case, limit: float = inf) -> Iterator[tuple[int, Polytope, Sequence[Row]]]:
    """All (clause, part of a cell where it is violated, inputs there). An L2 ball is taken for its box.

    Raises TooComplex where enumeration does not apply or would take more than `limit` cells.
    """
    region = Region(case.region.lower, case.region.upper) if case.region.norm == 2 else case.region
    whole, inputs = polytope(region)
    for part, z in _walk(graph, matrices(graph), whole, inputs, limit):
        for k, clause in enumerate(case.property.clauses):
            bad = _cut_all(part, _rows(clause, z[: clause.matrix.shape[1]]))
            if bad is not None:
                yield k, bad, inputs


def violation(graph: Graph, cases: Sequence[Case], limit: float = inf) -> Violation | None:
    """A point that violates one of the cases, or None: then they all hold, without any doubt.

    Raises TooComplex as `unsafe_parts` does, and for L2 balls.
    """
    if any(case.region.norm == 2 for case in cases):
        raise TooComplex("an L2 ball is not a polytope")
    for number, case in enumerate(cases):
        for k, bad, inputs in unsafe_parts(graph, case, limit):
            return Violation(number, k, at(inputs, bad.middle()))
    return None


def at(inputs: Sequence[Row], free: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """All inputs, where the free ones have these values."""
    return tuple(_value(row, [*free, Fraction(1)]) for row in inputs)


def minimum(graph: Graph, region: Region, row: np.ndarray, limit: float = inf) -> Fraction:
    """The exact minimum of row @ z over the region, for z = y or (y, x). Not for graphs with Sign,
    where it may not be attained."""
    one = Clause(np.atleast_2d(np.asarray(row, np.float64)), np.zeros(1), np.zeros(1, bool))
    return min(part.least(_rows(one, z[: one.matrix.shape[1]])[0][0]) for part, z in cells(graph, region, limit))


def outputs(graph: Graph, x: Sequence[Fraction | float]) -> list[Fraction]:
    """z = (y, x) at a rational point x: exact, or to DIGITS bits behind a smooth operator (x dyadic then)."""
    exact = [Fraction(v) for v in x]
    odd = 1  # one free input, fixed at 1 / odd, makes all of them dyadic
    for v in exact:
        part = v.denominator // (v.denominator & -v.denominator)
        odd = odd * part // gcd(odd, part)
    inputs = [
        combine([(_dyadic(v), ((0, 1), 0))] if _is_dyadic(v) else [(_dyadic(v * odd), ((1, 0), 0))], 2) for v in exact
    ]
    _, z = next(
        _walk(graph, matrices(graph), Polytope(((1, odd),), (0,), 0), inputs, inf)
    )  # on a border, all cells agree
    return [_value(row, (Fraction(1, odd), Fraction(1))) for row in z]


def _is_dyadic(x: Fraction) -> bool:
    return not x.denominator & (x.denominator - 1)


def _value(row: Row, at: Sequence[Fraction]) -> Fraction:
    """A row's value at a point, given with a 1 at its end."""
    return sum((a * v for a, v in zip(row[0], at, strict=True)), Fraction(0)) * Fraction(2) ** row[1]


def margin(prop: Property, z: Sequence[Fraction]) -> Fraction:
    """min over clauses of max over rows of matrix @ z - offset."""
    return min(
        max(
            sum((Fraction(a) * v for a, v in zip(row.tolist(), z, strict=False) if a), Fraction(0)) - Fraction(offset)
            for row, offset in zip(clause.matrix, clause.offset.tolist(), strict=True)
        )
        for clause in prop.clauses
    )


def violated(prop: Property, z: Sequence[Fraction]) -> int | None:
    """The first clause of which z makes every row unsafe (strictly where it says so)."""
    for k, clause in enumerate(prop.clauses):
        rows = zip(clause.matrix, clause.offset.tolist(), clause.strict, strict=True)
        for row, offset, strict in rows:
            value = sum((Fraction(a) * v for a, v in zip(row.tolist(), z, strict=False) if a), Fraction(0))
            if value > Fraction(offset) or (strict and value == Fraction(offset)):
                break
        else:
            return k
    return None
