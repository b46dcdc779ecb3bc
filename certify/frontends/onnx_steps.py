"""Rules for ONNX operators that jump, and for those that change what a tensor holds: truth values and whole numbers."""

from __future__ import annotations

import numpy as np

from certify.frontends.onnx_node import FLOATS, Held, OnnxNode, Table
from certify.graph import steps
from certify.graph.build import NotLowered, Operand, Var, number

STEPS = Table(
    {
        "Floor": lambda n: n.builder.floor(n.operand(0)),
        "Ceil": lambda n: steps.ceiling(n.builder, n.operand(0)),
        "Round": lambda n: steps.rounded(n.builder, n.operand(0)),
        **{
            name: lambda n, kind=kind: steps.compare(n.builder, kind, *_numbers(n))
            for name, kind in {
                "Greater": "gt",
                "GreaterOrEqual": "ge",
                "Less": "lt",
                "LessOrEqual": "le",
                "Equal": "eq",
            }.items()
        },
        "Not": lambda n: n.builder.scale(n.operand(0), -1.0, 1.0),
        "And": lambda n: n.builder.mul(*_numbers(n)),
        "Or": lambda n: n.builder.maximum(*_numbers(n)),
        "Xor": lambda n: n.builder.abs(n.builder.sub(*_numbers(n))),
    }
)
TRUTHS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor"})
COUNTS = frozenset({"ArgMax", "ArgMin", "QuantizeLinear"})
WIDE = {6: "int32", 7: "int64"}
"""ONNX's numbers of the types of whole numbers that hold all that networks round and count."""


def made_of(n: OnnxNode) -> Held:
    """What the results of a node that reads variables hold."""
    if n.op in TRUTHS:
        return Held.TRUTHS
    if n.op in COUNTS:
        return Held.WHOLE
    if n.op in ("Cast", "CastLike"):
        return _wanted(n)
    if n.op == "DequantizeLinear":
        return Held.NUMBERS
    if n.op == "Where":
        return n.held[1]
    return next(h for h, x in zip(n.held, n.inputs, strict=True) if isinstance(x, Var))


def _numbers(n: OnnxNode) -> tuple[Operand, Operand]:
    """Two operands as numbers, truth values as 1 and 0."""
    return tuple(x if isinstance(x, Var) else number(x) for x in (n.operand(0), n.operand(1)))


@STEPS("Where")
def _where(n: OnnxNode) -> Operand:
    return steps.where(n.builder, n.operand(0), n.operand(1), n.operand(2))


@STEPS("Cast", "CastLike")
def _cast(n: OnnxNode) -> Operand:
    """To truth values: whether it is not 0. To whole numbers: towards zero, none being too large for the type."""
    b, x, wanted = n.builder, n.operand(0), _wanted(n)
    if wanted is Held.TRUTHS and n.held[0] is not Held.TRUTHS:
        return steps.compare(b, "ne", x, np.float64(0))
    return steps.truncated(b, x) if wanted is Held.WHOLE and n.held[0] is Held.NUMBERS else x


def _wanted(n: OnnxNode) -> Held:
    """What a cast makes: of its attribute's type, or of its second input's."""
    if n.op == "Cast":
        kind = n.attribute("to", 0)
        if kind in FLOATS:
            return Held.NUMBERS
        wanted = {9: Held.TRUTHS, **dict.fromkeys(WIDE, Held.WHOLE)}.get(kind)
    else:
        like = n.operand(1)
        narrow = n.held[1] is Held.WHOLE and (isinstance(like, Var) or str(like.dtype) not in WIDE.values())
        wanted = None if narrow else n.held[1]
    if wanted is None:
        raise NotLowered("of a variable to whole numbers that wrap around")
    return wanted


@STEPS("Mod")
def _mod(n: OnnxNode) -> Operand:
    return steps.remainder(n.builder, n.operand(0), n.need(1), towards_zero=bool(n.attribute("fmod", 0)))


@STEPS("ArgMax", "ArgMin")
def _arg_max(n: OnnxNode) -> Operand:
    b, x, axis = n.builder, n.operand(0), n.attribute("axis", 0)
    last = bool(n.attribute("select_last_index", 0))
    place = steps.place_of_largest(b, x if n.op == "ArgMax" else b.neg(x), axis, last=last)
    return b.unsqueeze(place, [axis % len(x.shape)]) if n.attribute("keepdims", 1) else place


@STEPS("ThresholdedRelu")
def _thresholded(n: OnnxNode) -> Operand:
    x = n.operand(0)
    alpha = np.float64(n.number("alpha", 1.0))
    return steps.where(n.builder, steps.compare(n.builder, "gt", x, alpha), x, np.zeros(()))


@STEPS("Shrink")
def _shrink(n: OnnxNode) -> Operand:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    b, x, edge, bias = n.builder, n.operand(0), n.number("lambd", 0.5), n.number("bias", 0.0)
    above = steps.where(b, steps.compare(b, "gt", x, np.float64(edge)), b.scale(x, 1.0, -bias), np.zeros(()))
    below = steps.where(b, steps.compare(b, "lt", x, np.float64(-edge)), b.scale(x, 1.0, bias), np.zeros(()))
    return b.add(above, below)


# --- quantised numbers ---------------------------------------------------------------------------


def _per_axis(n: OnnxNode, parameter: np.ndarray) -> np.ndarray:
    """A scale or zero point, one number or one for each entry of an axis, so that it broadcasts against input 0."""
    if n.attribute("block_size", 0):
        raise NotLowered("in blocks")
    if parameter.size == 1:
        return parameter.reshape(())
    after = len(n.operand(0).shape) - 1 - n.attribute("axis", 1) % len(n.operand(0).shape)
    return parameter.reshape(-1, *(1,) * after)


@STEPS("QuantizeLinear")
def _quantize(n: OnnxNode) -> Operand:
    scale, zero = n.need(1), n.constant(2)
    zero = np.zeros((), np.uint8) if zero is None else zero
    if zero.dtype.kind not in "iu" or n.attribute("output_dtype", 0):
        raise NotLowered(f"to {zero.dtype}")
    limits = np.iinfo(zero.dtype)
    made = steps.quantised(
        n.builder, n.operand(0), _per_axis(n, scale), _per_axis(n, zero), int(limits.min), int(limits.max)
    )
    return made if isinstance(made, Var) else made.astype(zero.dtype)


@STEPS("DequantizeLinear")
def _dequantize(n: OnnxNode) -> Operand:
    """(x - zero) * scale, without rounding."""
    b, x, zero = n.builder, n.operand(0), n.constant(2)
    scale = _per_axis(n, n.need(1)).astype(np.float64)
    x = x if isinstance(x, Var) else x.astype(np.float64)
    return b.mul(x if zero is None else b.sub(x, _per_axis(n, zero).astype(np.float64)), scale)
