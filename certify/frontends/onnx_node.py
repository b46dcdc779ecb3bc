"""One ONNX node as the rules see it: its operands, its attributes, and the builder to append to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from certify.graph.build import GraphBuilder, NotLowered, Operand, Var

Array = np.ndarray
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""ONNX's numbers of the floating types that variables may have."""


class Held(Enum):
    """What a tensor holds, as far as operators care: whole numbers cut off and wrap around."""

    NUMBERS = "numbers"
    WHOLE = "whole numbers"
    TRUTHS = "truth values"

    @classmethod
    def of(cls, dtype: np.dtype) -> Held:
        return {"b": cls.TRUTHS, "i": cls.WHOLE, "u": cls.WHOLE}.get(dtype.kind, cls.NUMBERS)


@dataclass(frozen=True)
class OnnxNode:
    """`inputs` holds None where an optional input is left out, `held` what is in each of them; `outputs` the names, ""
    if not wanted."""

    builder: GraphBuilder
    op: str
    opset: int
    inputs: Sequence[Operand | None]
    held: Sequence[Held]
    outputs: Sequence[str]
    attributes: dict[str, Any]

    def get(self, i: int) -> Operand | None:
        """Input i, or None if it is left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def operand(self, i: int) -> Operand:
        """Input i, which must be there."""
        x = self.get(i)
        if x is None:
            raise ValueError(f"input {i} is missing")
        return x

    def constant(self, i: int) -> Array | None:
        """Input i as a constant, or None if it is left out."""
        x = self.get(i)
        if isinstance(x, Var):
            raise NotLowered(f"input {i} is not constant")
        return x

    def need(self, i: int) -> Array:
        """Input i as a constant, which must be there."""
        self.operand(i)
        return self.constant(i)

    def attribute(self, name: str, default: Any) -> Any:
        """The attribute, or the standard's default."""
        return self.attributes.get(name, default)

    def text(self, name: str, default: str) -> str:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def number(self, name: str, default: float) -> float:
        """A float attribute; the default as the standard means it, a float32."""
        return float(np.float32(self.attributes.get(name, default)))

    def integers(self, i: int, name: str) -> list[int] | None:
        """A list of integers that newer operator sets give as input i, older ones as an attribute."""
        given = self.constant(i)
        if given is None:
            given = self.attributes.get(name)
        return None if given is None else [int(n) for n in np.asarray(given).reshape(-1)]


Rule = Callable[[OnnxNode], Operand | Sequence[Operand]]
"""Appends what a node computes; gives its outputs (one, or in the node's order)."""


class Table(dict[str, Rule]):
    """Operator type -> rule; `@table("Add")` above a function enters it."""

    def __call__(self, *names: str) -> Callable[[Rule], Rule]:
        def enter(rule: Rule) -> Rule:
            for name in names:
                if name in self:
                    raise ValueError(f"there is a rule for {name} already")
                self[name] = rule
            return rule

        return enter
