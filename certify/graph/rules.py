"""A method's table of rules: operator type -> function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from certify.errors import UnsupportedOp
from certify.graph.ir import Graph
from certify.graph.ops import Op

F = TypeVar("F", bound=Callable)


class Rules(Generic[F]):
    """What one method does for each operator type.

    `rules = Rules("interval")`, then `@rules(Relu)` above the function that handles it. A rule for a
    base class serves its subclasses that have none of their own. `rules.require(graph)` names, before
    any work is done, everything the graph holds and the method has no rule for.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.table: dict[type[Op], F] = {}

    def __call__(self, *ops: type[Op]) -> Callable[[F], F]:
        def register(function: F) -> F:
            for op in ops:
                if op in self.table:
                    raise ValueError(f"{self.method} has a rule for {op.__name__} already")
                self.table[op] = function
            return function

        return register

    def get(self, op: Op) -> F | None:
        for cls in type(op).__mro__:
            if cls in self.table:
                return self.table[cls]
        return None

    def __getitem__(self, op: Op) -> F:
        function = self.get(op)
        if function is None:
            raise UnsupportedOp(self.method, [(type(op).__name__, "")])
        return function

    def missing(self, graph: Graph) -> list[tuple[str, str]]:
        """(operator, node name) for every node that has no rule."""
        return [(type(n.op).__name__, n.name) for n in graph.nodes if self.get(n.op) is None]

    def require(self, graph: Graph, remedy: str = "") -> None:
        """Raise `UnsupportedOp` naming every node without a rule."""
        missing = self.missing(graph)
        if missing:
            raise UnsupportedOp(self.method, missing, remedy)
