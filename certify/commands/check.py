"""`certify check`: replays saved evidence with the independent checker, from files alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.commands import options
from certify.commands.terminal import as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from certify.check.store import Record
    from certify.spec.query import Source

EXIT_REJECTED, EXIT_UNKNOWN = 1, 3


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `certify verify --out` wrote.")],
    net: Annotated[str | None, typer.Option(help="The network, if it is not where the verdict says.")] = None,
    prop: Annotated[Path | None, typer.Option("--property", help="The property, likewise.")] = None,
    as_object: options.Json = False,
) -> None:
    """Replay a saved verdict with the independent checker.

    Exit status: 0 accepted, 1 rejected, 2 files are missing, damaged or not those that the verdict is about,
    3 the verdict is unknown, so that there is nothing to check.
    """
    from certify.check.store import check_directory, load
    from certify.frontends.load import load_network
    from certify.spec.query import spec_hash
    from certify.spec.vnnlib import read_vnnlib

    record = load(folder)
    network = load_network(net or _recorded(record, "network", "--net"))
    graph = network.graph
    if graph.hash != record.graph_hash:
        raise BadOption(
            f"{folder} is about another network: its graph hashes to {record.graph_hash}, this one to {graph.hash}",
            "name the right one with --net",
        )
    cases = None
    if prop is None and Path(str(record.header["property"])).is_file():
        prop = Path(str(record.header["property"]))
    if prop is None:
        say(f"the property's file is not there: checking what {folder} says of it; --property compares them")
    else:
        cases = tuple(read_vnnlib(prop, graph.input_size, graph.output_size, allow_empty=True))
        if spec_hash(cases) != record.spec_hash:
            raise BadOption(f"{folder} is about another property than {prop}", "name the right one with --property")
    if record.verdict.name == "unknown":
        _answer(folder, record, "unknown", ("an unknown verdict claims nothing",), as_object)
        raise typer.Exit(EXIT_UNKNOWN)
    failures = [*check_directory(folder, graph, cases).failures, *_replay(network.source, record)]
    _answer(folder, record, "rejected" if failures else "accepted", failures, as_object)
    raise typer.Exit(EXIT_REJECTED if failures else 0)


def _recorded(record: Record, what: str, option: str) -> str:
    """The path that the verdict names, unless it is not there."""
    path = str(record.header[what])
    known = Path(path).exists() or os.sep not in path  # else the name of a saved model
    if not known:
        raise BadOption(f"the {what} {path} is not there", f"name it with {option}")
    return path


def _replay(source: Source, record: Record) -> list[str]:
    """Ask the original network about a witness again; what is wrong with the answer."""
    if record.verdict.name != "falsified":
        return []
    import numpy as np

    witness = record.verdict.witness
    cases = record.cases
    if not (0 <= witness.case < len(cases) and 0 <= witness.clause < len(cases[witness.case].property.clauses)):
        return []  # the checker has said so
    clause = cases[witness.case].property.clauses[witness.clause]
    z = np.concatenate([source(witness.x), witness.x])[: clause.matrix.shape[1]]
    return [] if clause.unsafe(z) else [f"{source.name}, asked again, does not violate the property"]


def _answer(folder: Path, record: Record, answer: str, failures: Sequence[str], as_object: bool) -> None:
    if as_object:
        emit(as_json({"check": answer, "verdict": record.verdict.name, "failures": list(failures)}))
        return
    emit(f"{answer}: {record.verdict.name} in {folder}")
    for failure in failures:
        emit(f"  {failure}")
