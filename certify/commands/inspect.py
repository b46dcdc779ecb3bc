"""`certify inspect`: what a network holds, and which methods cover it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.commands import options
from certify.commands.tables import show_table
from certify.commands.terminal import as_json, emit

if TYPE_CHECKING:
    from certify.graph.ir import Graph, Port
    from certify.graph.ops import Op


def inspect(
    net: Annotated[str | None, typer.Argument(help=options.NETWORK_HELP, show_default=False)] = None,
    as_object: options.Json = False,
) -> None:
    """Show a network's graph, ports, operators, size and hash, and which methods cover it; and the card of one that
    was trained here: where it comes from, and what it came to. Without NET, list the saved models."""
    from certify.frontends.load import TRAINED, load_network
    from models.zoo import card_of

    if net is None:
        list_saved(as_object)
        return
    graph = load_network(net).graph
    missing, card = coverage(graph), card_of(Path(net) / TRAINED if (Path(net) / TRAINED).is_file() else net)
    if as_object:
        emit(as_json({**describe(graph, missing), "card": None if card is None else asdict(card)}))
        return
    parameters = [_parameters(node.op) for node in graph.nodes]
    show_table(
        ("node", "name", "operator", "shape", "inputs", "parameters"),
        [
            (i, node.name, type(node.op).__name__, _shape(node.shape), " ".join(map(str, node.inputs)), parameters[i])
            for i, node in enumerate(graph.nodes)
        ],
    )
    for side, ports in (("input", graph.inputs), ("output", graph.outputs)):
        for port in ports:
            emit(f"{side:12} {port.name} {_shape(port.shape)} {port.dtype}")
    emit(f"{'operators':12} {', '.join(f'{n} {op}' for op, n in _operators(graph).items())}")
    emit(f"{'parameters':12} {sum(parameters)}")
    emit(f"{'nonlinear':12} {sum(graph.nodes[i].size for i in graph.nonlinear)} neurons")
    for method, lacks in missing.items():
        emit(f"{method:12} {'covers it' if not lacks else 'has no rule for ' + ', '.join(lacks)}")
    emit(f"{'hash':12} {graph.hash}")
    for i, line in enumerate([] if card is None else str(card).splitlines()):
        emit(f"{'' if i else 'card':12} {line}")


def list_saved(as_object: bool) -> None:
    """The models that come with the package, with a line for each ball that was asked about."""
    from models import zoo

    cards = [(name, zoo.card(name)) for name in zoo.names()]
    if as_object:
        for name, card in cards:
            emit(as_json({"name": name, **asdict(card)}))
        return
    rows: list[tuple[str, ...]] = []
    for name, card in cards:
        made = (
            card.data,
            card.method,
            "" if card.epsilon is None else f"{card.epsilon:g}",
            f"{card.clean_accuracy:.1%}",
        )
        for found in card.measured or (None,):
            asked = ("", "", "") if found is None else (f"{found.epsilon:g}", found.norm, str(found.samples))
            shares = ("", "") if found is None else (f"{found.attacked:.1%}", f"{found.certified:.1%}")
            rows.append((name, *made, *asked, *shares))
    columns = ("model", "data", "method", "trained for", "clean", "radius", "norm", "samples", "attacked", "certified")
    show_table(columns, rows)
    emit("clean: of all test data; attacked, certified: of the first so many, within the radius")


def coverage(graph: Graph) -> dict[str, list[str]]:
    """For every method, and for the checker, the operators of the graph that it has no rule for."""
    from certify.check.linear import RULES
    from certify.verifier import BOUNDS

    missing = {method.name: method.missing(graph) for method in BOUNDS.values()}
    missing["checker"] = RULES.missing(graph)
    return {name: sorted({op for op, _ in lacking}) for name, lacking in missing.items()}


def describe(graph: Graph, missing: dict[str, list[str]]) -> dict[str, object]:
    """The same as one object."""
    return {
        "hash": graph.hash,
        "inputs": [_port(port) for port in graph.inputs],
        "outputs": [_port(port) for port in graph.outputs],
        "parameters": sum(_parameters(node.op) for node in graph.nodes),
        "nonlinear": sum(graph.nodes[i].size for i in graph.nonlinear),
        "operators": _operators(graph),
        "missing": missing,
        "nodes": [
            {"name": n.name, "operator": type(n.op).__name__, "shape": list(n.shape), "inputs": list(n.inputs)}
            for n in graph.nodes
        ],
    }


def _port(port: Port) -> dict[str, object]:
    return {"name": port.name, "shape": list(port.shape), "type": port.dtype}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _operators(graph: Graph) -> dict[str, int]:
    return dict(sorted(Counter(type(node.op).__name__ for node in graph.nodes[1:]).items()))


def _parameters(op: Op) -> int:
    """Stored numbers of an operator; indices of a selection are none."""
    from certify.graph.ir import split_fields

    return sum(array.size for array in split_fields(op)[1].values() if array.dtype.kind == "f")
