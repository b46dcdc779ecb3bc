"""What torch's functions that jump are in the graph: comparisons and choices, rounding, quantising, arg-max.

Rules as in `torch_table`. Truth values are 1 and 0.
"""

from __future__ import annotations

import numpy as np

from certify.frontends.torch_moves import MOVED
from certify.frontends.torch_table import RULES, Rule, constant, rule
from certify.graph import steps
from certify.graph.build import GraphBuilder, Operand, Var

TRUTHS: set[str] = set()
"""Operators whose results are truth values."""


def _comparison_rules() -> None:
    def comparison(kind: str) -> Rule:
        return lambda b, x, y: steps.compare(b, kind, x, y if isinstance(y, Var) else np.asarray(y))

    for kind in steps.COMPARISONS:
        for form in ("Scalar", "Tensor"):
            RULES[f"aten.{kind}.{form}"] = comparison(kind)
            TRUTHS.add(f"aten.{kind}.{form}")


_comparison_rules()


def _truth(x: Operand) -> Operand:
    return x if isinstance(x, Var) else x.astype(np.float64)


@rule("logical_not.default", "bitwise_not.default")
def _not(b: GraphBuilder, x: Operand) -> Operand:
    return b.scale(x, -1.0, 1.0)


@rule("logical_and.default", "bitwise_and.Tensor")
def _and(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.mul(_truth(x), _truth(y))


@rule("logical_or.default", "bitwise_or.Tensor")
def _or(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.maximum(_truth(x), _truth(y))


@rule("logical_xor.default")
def _xor(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    return b.abs(b.sub(_truth(x), _truth(y)))


LOGICAL = frozenset(f"aten.logical_{name}.default" for name in ("not", "and", "or", "xor"))
"""Operators that take whatever is not 0 for true; here, truth values only."""

TRUTHS |= LOGICAL | {"aten.bitwise_not.default", "aten.bitwise_and.Tensor", "aten.bitwise_or.Tensor"}

WHOLE = frozenset({"aten.argmax.default", "aten.argmin.default"})
"""Operators whose results are whole numbers."""

EXACT = MOVED | {"aten.where.self"}
"""Operators that mean the same for whole numbers and truth values as for other numbers."""


@rule("threshold.default")
def _threshold(b: GraphBuilder, x: Operand, threshold: float, value: float) -> Operand:
    """x above the threshold, else the value."""
    if threshold == value:
        return b.clip(x, lower=threshold)
    return steps.where(b, steps.compare(b, "gt", x, np.float64(threshold)), x, np.float64(value))


# --- whole numbers -------------------------------------------------------------------------------


@rule("floor.default")
def _floor(b: GraphBuilder, x: Operand) -> Operand:
    return b.floor(x)


@rule("ceil.default")
def _ceil(b: GraphBuilder, x: Operand) -> Operand:
    return steps.ceiling(b, x)


@rule("round.default")
def _round(b: GraphBuilder, x: Operand) -> Operand:
    return steps.rounded(b, x)


@rule("trunc.default")
def _trunc(b: GraphBuilder, x: Operand) -> Operand:
    return steps.truncated(b, x)


@rule("remainder.Scalar", "remainder.Tensor")
def _remainder(b: GraphBuilder, x: Operand, divisor: Operand | float) -> Operand:
    return steps.remainder(b, x, np.asarray(constant(divisor, "a divisor")), towards_zero=False)


@rule("fmod.Scalar", "fmod.Tensor")
def _fmod(b: GraphBuilder, x: Operand, divisor: Operand | float) -> Operand:
    return steps.remainder(b, x, np.asarray(constant(divisor, "a divisor")), towards_zero=True)


@rule("argmax.default")
def _argmax(b: GraphBuilder, x: Operand, axis: int | None, keep: bool) -> Operand:
    if axis is None:
        place = steps.place_of_largest(b, b.reshape(x, (-1,)), 0)
        return b.reshape(place, (1,) * len(x.shape)) if keep else place
    place = steps.place_of_largest(b, x, axis)
    return b.unsqueeze(place, [axis % len(x.shape)]) if keep else place


@rule("argmin.default")
def _argmin(b: GraphBuilder, x: Operand, axis: int | None, keep: bool) -> Operand:
    return _argmax(b, b.neg(x), axis, keep)


@rule("fake_quantize_per_tensor_affine_cachemask.default")
def _fake_quantize(b: GraphBuilder, x: Operand, scale: float, zero: int, least: int, most: int) -> tuple[Operand, None]:
    return _requantised(b, x, np.float64(scale), np.float64(zero), (least, most)), None


@rule("fake_quantize_per_channel_affine_cachemask.default")
def _fake_quantize_channels(
    b: GraphBuilder, x: Operand, scale: Operand, zero: Operand, axis: int, least: int, most: int
) -> tuple[Operand, None]:
    column = (-1, *(1,) * (len(x.shape) - 1 - axis % len(x.shape)))
    given = (constant(p, "a quantiser's parameter").astype(np.float64).reshape(column) for p in (scale, zero))
    return _requantised(b, x, *given, (least, most)), None


def _requantised(b: GraphBuilder, x: Operand, scale: np.ndarray, zero: np.ndarray, limits: tuple[int, int]) -> Operand:
    """(q - zero) * scale with q = round(x / scale + zero) within the limits."""
    q = b.clip(steps.rounded(b, b.scale(x, 1 / scale, zero)), *limits)
    return b.scale(q, scale, -zero * scale)
