"""`certify verify`: one property, the networks that it speaks of, one verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.competition import write_result
from certify.commands.progress import SearchStatus
from certify.commands.standard import answer
from certify.commands.startup import importing
from certify.commands.terminal import Stop, Watchdog, as_json, emit, result_object, say
from certify.errors import BadOption
from certify.frontends.files import as_text, parse_files
from certify.strategy import Strategy

if TYPE_CHECKING:
    import numpy as np

    from certify.check.store import RunInfo
    from certify.frontends.question import Question
    from certify.verdict import Verdict

SHOWN = 16  # a witness of more inputs than this is not printed in full


@options.with_strategy
def verify(
    context: typer.Context,
    net: options.Network,
    prop: Annotated[
        Path | None, typer.Argument(metavar="PROPERTY", help="A .vnnlib file, or .vnnlib.gz.", show_default=False)
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="The file of a network that the property declares; once for each. The property then stands alone, in "
            "the place of NET, and the answer is that of VNN-LIB's standard.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds, from the start of the program.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the verdict with its evidence.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            help="With --out, also replay the written files, as `certify check` does. "
            "(A proof is checked before it is called verified in either case.)"
        ),
    ] = True,
    result: Annotated[
        Path | None, typer.Option(help="File for the result as VNN-COMP wants it: sat, unsat, ..., and the witness.")
    ] = None,
    serialise_assignments: Annotated[
        Path | None,
        typer.Option(
            "--serialise-assignments",
            "--assignments",
            help="With --network, a folder for the witness, as TensorProtos.",
        ),
    ] = None,
    allow_empty: options.AllowEmpty = False,
    as_object: options.Json = False,
    *,
    strategy: Strategy,
) -> None:
    """Decide whether a property holds of a network.

    Exit status: 0 verified, 1 falsified, 2 bad input, 3 unknown; with --network, 0 for each of these answers.
    """
    budget = Budget(timeout, started=context.obj)
    given = _given(net, prop, network)
    asked: Question | None = None
    began: float | None = None  # when the network's file began to be read
    with Stop(budget), SearchStatus() as status:

        def conclude(verdict: Verdict) -> int:
            status.stop()
            seconds = budget.elapsed
            own = 0.0 if began is None else seconds - began
            times = {"time_s": seconds, "own_s": own, "checking_s": status.checking}
            times = {name: round(spent, 4) for name, spent in times.items()}
            if asked is not None and out is not None:
                info = RunInfo(*given.names(), strategy.seed, times["time_s"], times["checking_s"])
                verdict = _keep(out, verdict, asked, info, check)
            if result is not None:
                write_result(result, verdict, asked)
            if given.standard and not as_object:
                return answer(verdict, asked, serialise_assignments)
            return _report(verdict, times, asked, out, as_object)

        def overrun() -> int:
            from certify.verdict import Reason, Unknown

            return conclude(Unknown(Reason.TIMEOUT, status.lower))

        with Watchdog(budget, overrun) as watchdog:
            options.existing(given.prop, "property file")
            if out is not None:
                from certify.check.store import RunInfo, discard, prepare

                prepare(out)
            _import_libraries(given.files)
            options.check_device(strategy.device)
            began = budget.elapsed
            asked = given.ask(allow_empty)
            if out is not None:
                discard(out)
            verdict = _decide(asked, strategy, budget, status)
            watchdog.settle()
        raise typer.Exit(conclude(verdict))


@dataclass(frozen=True)
class Given:
    """The property, the file of each network (see `certify.frontends.question`), and whether the command line is the
    one of VNN-LIB's standard."""

    prop: Path
    files: str | dict[str, str]
    standard: bool

    def names(self) -> tuple[str, str]:
        """Networks and property, as they can be found from another working directory."""
        return as_text(self.files), str(self.prop.resolve())

    def ask(self, allow_empty: bool) -> Question:
        from certify.frontends.question import ask

        return ask(self.files, self.prop, allow_empty=allow_empty, strict=self.standard)


def _given(net: str, prop: Path | None, network: list[str] | None) -> Given:
    if not network:
        if prop is None:
            raise BadOption("the property is missing", "write certify verify NET PROPERTY, or PROPERTY --network f=NET")
        return Given(prop, parse_files(net), False)
    if prop is not None:
        raise BadOption(f"{net} and --network both name networks", "with --network, name the property alone")
    pairs = [word.partition("=") for word in network]
    if wrong := next((word for word, pair in zip(network, pairs, strict=True) if not all(pair)), None):
        raise BadOption(f"--network {wrong!r} is no assignment", "write --network NAME=FILE")
    files = {name: file for name, _, file in pairs}
    if len(files) < len(pairs):
        raise BadOption("--network gives one network two files", "give each one")
    return Given(Path(net), files, True)


def _import_libraries(files: str | dict[str, str]) -> None:
    """Import what every query needs: what is done before the clock of the own seconds starts."""
    with importing():
        from certify.frontends.load import import_libraries

        for file in [files] if isinstance(files, str) else files.values():
            import_libraries(file)
        for module in ("certify.frontends.question", "certify.verifier"):
            import_module(module)


def _decide(asked: Question, strategy: Strategy, budget: Budget, status: SearchStatus) -> Verdict:
    from certify.spec.query import Query
    from certify.verdict import Grade, Verified
    from certify.verifier import verify as decide

    if not asked.cases:
        return Verified(None, Grade.VACUOUS)
    return decide(Query(asked.source, asked.graph, asked.cases), strategy, budget, status)


def _keep(out: Path, verdict: Verdict, asked: Question, info: RunInfo, check: bool) -> Verdict:
    """Write the verdict with its evidence; returns what is left of it once the written files were replayed."""
    from certify.check.store import check_directory, save
    from certify.verdict import Grade, Reason, Unknown

    save(out, verdict, info, asked.graph, asked.cases)
    trusted = (Grade.RECOMPUTED, Grade.TRUSTED)
    without = verdict.name == "verified" and verdict.grade in trusted  # evidence, and its grade says so
    if not check or without or verdict.name == "unknown":
        return verdict
    report = check_directory(out, asked.graph, asked.cases, source=asked.source)
    if report.ok:
        return verdict
    say(f"certify: the replay of the files in {out} failed: {'; '.join(report.failures)}")
    if verdict.name == "verified":
        verdict = Unknown(Reason.REJECTED, detail=report.failures[0])
        save(out, verdict, info, asked.graph, asked.cases)
    return verdict


def _report(
    verdict: Verdict, times: dict[str, float], asked: Question | None, out: Path | None, as_object: bool
) -> int:
    """Print the verdict; returns the exit status that says it. `times` are seconds: since the process started, since
    reading began, and of the checker."""
    from certify.verdict import EXIT_STATUS

    if as_object:
        fields = result_object(verdict, times["time_s"]) | times
        if verdict.name == "falsified":
            fields["witness"] = asked.every_input(verdict.witness.x).tolist()
        emit(as_json(fields))
    else:
        emit(f"{verdict.name} in {times['time_s']:.2f} s: {_because(verdict)}")
        if verdict.name == "falsified":
            _show_witness(asked, verdict.witness.x, out)
        if out is not None and asked is not None:
            emit(f"saved in {out}")
    return EXIT_STATUS[verdict.name]


def _because(verdict: Verdict) -> str:
    if verdict.name == "verified":
        margin = f", margin at least {verdict.lower:.6g}" if math.isfinite(verdict.lower) else ""
        return f"{verdict.grade.value}{f' ({verdict.detail})' if verdict.detail else ''}{margin}"
    if verdict.name == "falsified":
        return f"replayed on {verdict.witness.replayed_on}"
    margin = f", margin at least {verdict.lower:.6g}" if math.isfinite(verdict.lower) else ""
    detail = f" ({verdict.detail})" if verdict.detail else ""
    return f"{verdict.reason.name.lower()}{detail}; {verdict.reason.value}{margin}"


def _show_witness(asked: Question, x: np.ndarray, out: Path | None) -> None:
    values = asked.every_input(x).tolist()
    if len(values) <= SHOWN:
        for i, value in enumerate(values):
            emit(f"  {asked.input_name(i)} = {value!r}")
    elif out is None:
        emit(f"  the witness has {len(values)} inputs; --out DIR keeps it, --json prints it")
