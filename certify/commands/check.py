"""`certify check`: replays saved evidence with the independent checker, from files alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.commands import options
from certify.commands.terminal import as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from certify.check.checker import Report
    from certify.check.store import Record

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
    from certify.check.checker import Report
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
        _answer(folder, record, "unknown", Report(False, ("an unknown verdict claims nothing",)), as_object)
        raise typer.Exit(EXIT_UNKNOWN)
    report = check_directory(folder, graph, cases, source=network.source)
    _answer(folder, record, "accepted" if report.ok else "rejected", report, as_object)
    raise typer.Exit(0 if report.ok else EXIT_REJECTED)


def _recorded(record: Record, what: str, option: str) -> str:
    """The path that the verdict names, unless it is not there."""
    path = str(record.header[what])
    known = Path(path).exists() or os.sep not in path  # else the name of a saved model
    if not known:
        raise BadOption(f"the {what} {path} is not there", f"name it with {option}")
    return path


def _answer(folder: Path, record: Record, answer: str, report: Report, as_object: bool) -> None:
    verdict = record.verdict
    if as_object:
        said = {"failures": list(report.failures), "notes": list(report.notes)}
        emit(as_json({"check": answer, "verdict": verdict.name, "grade": record.header.get("grade"), **said}))
        return
    grade = " (vacuous: there are no inputs to cover)" if verdict.name == "verified" and not record.cases else ""
    emit(f"{answer}: {verdict.name}{grade} in {folder}")
    for line in (*report.failures, *report.notes):
        emit(f"  {line}")
