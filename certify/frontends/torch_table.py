"""The table of what each operator of torch's ATen set is in the graph: from its name to a builder function.

A rule takes the builder and the operator's arguments in the order of its schema, defaults filled in:
tensors as operands (arrays or variables), numbers as Python numbers. It gives an operand, or a tuple
where the operator has several results; None in a tuple stands for a result that we do not compute.
It raises NotLowered for what the graph cannot express.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from certify.graph.build import NotLowered, Operand, Var

Array = np.ndarray
Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
"""Name of the operator with its overload, such as "aten.add.Tensor" -> rule; the modules of rules fill it."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter the function below for these operators of the aten set."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten.{name}"] = function
        return function

    return register


def constant(x: Operand, what: str) -> Array:
    """x, which must not depend on the network's input. Raises NotLowered, naming `what` does."""
    if isinstance(x, Var):
        raise NotLowered(f"{what} that depends on the input")
    return x
