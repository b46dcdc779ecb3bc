"""`certify lipschitz`: how fast a network's outputs may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from certify.commands import options
from certify.commands.robust import NORMS
from certify.commands.tables import show_table
from certify.commands.terminal import as_json, emit
from certify.errors import BadOption

if TYPE_CHECKING:
    from certify.graph.ir import Graph
    from certify.lipschitz.network import GlobalBound


def lipschitz(
    net: options.Network,
    norm: Annotated[str, typer.Option(help="Norm of inputs and outputs: 2, inf or 1.")] = "2",
    as_object: options.Json = False,
) -> None:
    """Bound a network's Lipschitz constant over all inputs.

    The constants of its parts, and their product, every one of them rounded up.
    """
    from certify.frontends.load import load_network
    from certify.lipschitz.network import global_bound

    if norm not in NORMS:
        raise BadOption(f"--norm {norm}: there is no such norm", "use 2, inf or 1")
    graph = load_network(net).graph
    found = global_bound(graph, NORMS[norm])
    if as_object:
        emit(as_json(_object(graph, norm, found)))
        return
    show_table(
        ("part", "operators", "constant", "rests on"),
        [(_part(graph, p.first, p.last), _operators(graph, p.first, p.last), f"{p.bound.value:.9g}", p.bound.how.value)
         for p in found.parts],
    )  # fmt: skip
    emit(f"constant  {found.constant:.9g}")


def _part(graph: Graph, first: int, last: int) -> str:
    return graph.nodes[last].name if last == first + 1 else f"{graph.nodes[first + 1].name} to {graph.nodes[last].name}"


def _operators(graph: Graph, first: int, last: int) -> str:
    names = [type(node.op).__name__ for node in graph.nodes[first + 1 : last + 1]]
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} operators"


def _object(graph: Graph, norm: str, found: GlobalBound) -> dict[str, object]:
    parts = [
        {"first": p.first, "last": p.last, "constant": p.bound.value, "how": p.bound.how.name.lower()}
        for p in found.parts
    ]
    return {"hash": graph.hash, "norm": norm, "constant": found.constant, "parts": parts}
