"""Functions that jump: comparisons and choices, rounding, quantising, the place of the largest entry.

Truth values are the numbers 1 and 0. Functions of a builder and operands, which raise as `GraphBuilder` does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from certify.graph.build import Array, GraphBuilder, Operand, Var, axis_of, number

# --- comparisons ---------------------------------------------------------------------------------

COMPARISONS: dict[str, Callable[[GraphBuilder, Operand], Operand]] = {
    "gt": lambda b, s: b.relu(s),
    "lt": lambda b, s: b.relu(b.neg(s)),
    "ge": lambda b, s: b.scale(b.relu(b.neg(s)), -1.0, 1.0),
    "le": lambda b, s: b.scale(b.relu(s), -1.0, 1.0),
    "eq": lambda b, s: b.scale(b.abs(s), -1.0, 1.0),
    "ne": lambda b, s: b.abs(s),
}
"""1 where it holds and 0 elsewhere, from the sign of x - y."""


def compare(b: GraphBuilder, kind: str, x: Operand, y: Operand) -> Operand:
    """Whether x > y ("gt"), and so on, as numbers 1 and 0."""
    return COMPARISONS[kind](b, b.sign(b.sub(x, y)))


def where(b: GraphBuilder, condition: Operand, x: Operand, y: Operand) -> Operand:
    """x where `condition` (truth values, or a variable that is 1 or 0) holds, else y."""
    if isinstance(condition, Var):
        return b.add(y, b.mul(condition, b.sub(x, y)))
    chosen = np.asarray(condition, bool)
    parts = []
    for part, mask in ((x, chosen), (y, ~chosen)):
        shape = np.broadcast_shapes(part.shape, chosen.shape)
        kept = b.mul(part, mask.astype(np.float64)) if isinstance(part, Var) else np.where(mask, number(part), 0)
        parts.append(b.expand(kept, shape))
    return b.add(*parts)


# --- whole numbers -------------------------------------------------------------------------------


def rounded(b: GraphBuilder, x: Operand) -> Operand:
    """The nearest whole number, the even one of two: ceil((2 x - 1) / 4) + floor((2 x + 1) / 4)."""
    return b.add(ceiling(b, b.scale(x, 0.5, -0.25)), b.floor(b.scale(x, 0.5, 0.25)))


def ceiling(b: GraphBuilder, x: Operand) -> Operand:
    return b.neg(b.floor(b.neg(x)))


def truncated(b: GraphBuilder, x: Operand) -> Operand:
    """Towards zero: floor(max(x, 0)) - floor(max(-x, 0))."""
    return b.sub(b.floor(b.relu(x)), b.floor(b.relu(b.neg(x))))


def remainder(b: GraphBuilder, x: Operand, divisor: Array, *, towards_zero: bool) -> Operand:
    """x - d n, where n is x / d rounded down (Python's %), or `towards_zero` (C's fmod)."""
    ratio = b.div(x, divisor)
    whole = truncated(b, ratio) if towards_zero else b.floor(ratio)
    return b.sub(x, b.mul(whole, divisor))


def quantised(b: GraphBuilder, x: Operand, scale: Array, zero: Array, least: int, most: int) -> Operand:
    """round(x / scale) + zero, the even one of two, cut off at `least` and `most` (ONNX QuantizeLinear).

    scale and zero are constants that broadcast to x; what runtimes divide in float32 is divided exactly here.
    """
    return b.clip(b.add(rounded(b, b.div(x, scale)), number(zero).astype(np.float64)), least, most)


def place_of_largest(b: GraphBuilder, x: Operand, axis: int, *, last: bool = False) -> Operand:
    """The place along `axis` (dropped) of the largest entry, of several alike the first (or the `last`).

    An entry is it if none beats it: those before it by being as large, those behind it by being larger.
    """
    axis = axis_of(axis, x)
    n = x.shape[axis]
    if n == 1:
        return np.zeros((*x.shape[:axis], *x.shape[axis + 1 :]))
    earlier = np.tri(n, n - 1, -1).reshape(n, n - 1, *(1,) * (len(x.shape) - axis - 1))
    beaten = b.clip(b.add(b.sign(b.others(x, axis)), 1 - earlier if last else earlier), 0.0, 1.0)
    best = b.relu(b.scale(b.reduce_sum(beaten, [axis + 1]), -1.0, 1.0))
    places = np.arange(n, dtype=np.float64).reshape(n, *(1,) * (len(x.shape) - axis - 1))
    return b.reduce_sum(b.mul(best, places), [axis])
