"""`certify check`: replays saved evidence with the independent checker, from files alone."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.commands import options
from certify.commands.counts import holds_counts, replay_counts
from certify.commands.progress import Bar
from certify.commands.terminal import as_json, emit, say
from certify.errors import BadOption, CertifyError
from certify.frontends.files import parse_files

if TYPE_CHECKING:
    from certify.check.checker import Report
    from certify.check.store import Record
    from certify.frontends.load import Imported
    from certify.graph.ir import Graph
    from certify.spec.query import Case, Source

EXIT_REJECTED, EXIT_UNREADABLE, EXIT_UNKNOWN = 1, 2, 3
ANSWERS = {0: "accepted", EXIT_REJECTED: "rejected", EXIT_UNREADABLE: "not readable", EXIT_UNKNOWN: "unknown"}
GRAVEST = (EXIT_REJECTED, EXIT_UNREADABLE)
"""Of many, an unknown verdict spoils nothing: it claims nothing."""


def check(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of `certify verify --out` or `certify smooth --out`, or one that holds many verdicts, as "
            "`certify batch --evidence` writes.",
        ),
    ],
    net: Annotated[str | None, typer.Option(help="The network, if it is not where the verdict says.")] = None,
    prop: Annotated[Path | None, typer.Option("--property", help="The property, likewise.")] = None,
    recount: Annotated[
        int, typer.Option(min=0, help="Of a run of `certify smooth`: draw the counts of so many samples again.")
    ] = 0,
    as_object: options.Json = False,
) -> None:
    """Replay a saved verdict, or all below a folder, with the independent checker.

    Exit status: 0 accepted (where there are many: all), 1 rejected, 2 files are missing, damaged or not those that
    the verdict is about, 3 the verdict is unknown, so that there is nothing to check.
    """
    if holds_counts(folder):
        raise typer.Exit(0 if replay_counts(folder, net, recount, as_object) else EXIT_REJECTED)
    below = [] if (folder / "verdict.json").exists() else sorted(path.parent for path in folder.rglob("verdict.json"))
    replay = Replay(as_object)
    if not below:
        raise typer.Exit(replay(folder, net, prop))
    if net is not None or prop is not None:
        raise BadOption(
            f"{folder} holds {len(below)} verdicts", "name one of its folders, or leave --net and --property"
        )
    statuses: Counter[int] = Counter()
    with Bar(len(below), "verdicts") as bar:
        for one in below:
            try:
                status = replay(one)
            except CertifyError as error:
                say(f"certify: {one}: {error}")
                status = EXIT_UNREADABLE
            statuses[status] += 1
            bar.advance(statuses.total(), _counted(statuses))
    say(f"{folder}: {_counted(statuses)}")
    raise typer.Exit(next((status for status in GRAVEST if statuses[status]), 0))


def _counted(statuses: Counter[int]) -> str:
    return ", ".join(f"{statuses[status]} {name}" for status, name in ANSWERS.items() if statuses[status])


class Replay:
    """Replays verdicts and reports each, keeping the last network, as neighbouring folders often share it."""

    def __init__(self, as_object: bool) -> None:
        self.as_object = as_object
        self._name: str | None = None
        self._network: Imported | None = None

    def __call__(self, folder: Path, net: str | None = None, prop: Path | None = None) -> int:
        """The exit status that says what became of the verdict in `folder`. Raises CertifyError where it, its network
        or its property cannot be read, or are not those that it is about."""
        from certify.check.checker import Report
        from certify.check.store import check_directory, load
        from certify.spec.query import spec_hash
        from certify.spec.vnnlib import read_vnnlib

        record = load(folder)
        files = parse_files(net or _recorded(record, "network", "--net"))
        if prop is None and Path(str(record.header["property"])).is_file():
            prop = Path(str(record.header["property"]))
        graph, source, cases = self._asked(files, prop)
        if graph.hash != record.graph_hash:
            raise BadOption(
                f"{folder} is about another network: its graph hashes to {record.graph_hash}, this one to {graph.hash}",
                "name the right one with --net",
            )
        if prop is None:
            say(f"the property's file is not there: checking what {folder} says of it; --property compares them")
        else:
            if cases is None:
                cases = tuple(read_vnnlib(prop, graph.input_size, graph.output_size, allow_empty=True))
            if spec_hash(cases) != record.spec_hash:
                raise BadOption(f"{folder} is about another property than {prop}", "name the right one with --property")
        if record.verdict.name == "unknown":
            report = Report(False, ("an unknown verdict claims nothing",))
            status = EXIT_UNKNOWN
        else:
            report = check_directory(folder, graph, cases, source=source)
            status = 0 if report.ok else EXIT_REJECTED
        _answer(folder, record, ANSWERS[status], report, self.as_object)
        return status

    def _asked(self, files: str | dict[str, str], prop: Path | None) -> tuple[Graph, Source, tuple[Case, ...] | None]:
        """Graph and original of what was asked; and its cases, where these tell what the graph is (version 2.0)."""
        from certify.frontends.question import ask
        from certify.spec.vnnlib import read_declarations

        if prop is not None and read_declarations(prop) is not None:
            question = ask(files, prop, allow_empty=True, load=self._load)
            return question.graph, question.source, question.cases
        if not isinstance(files, str):
            raise BadOption("without its property, several networks cannot be joined", "name it with --property")
        network = self._load(files)
        return network.graph, network.source, None

    def _load(self, name: str) -> Imported:
        from certify.frontends.load import load_network

        if name != self._name or self._network is None:
            self._name = self._network = None  # the old network need not be in memory while the new one is read
            self._network = load_network(name)
            self._name = name
        return self._network


def _recorded(record: Record, what: str, option: str) -> str:
    """The paths that the verdict names, unless one is not there."""
    recorded = str(record.header[what])
    files = parse_files(recorded)
    for path in [files] if isinstance(files, str) else files.values():
        known = Path(path).exists() or os.sep not in path  # else the name of a saved model
        if not known:
            raise BadOption(f"the {what} {path} is not there", f"name it with {option}")
    return recorded


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
