"""`certify batch`: many instances in one process, resumed where it stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, finite, say
from certify.strategy import Strategy

if TYPE_CHECKING:
    from benchmarks.run import Instance
    from benchmarks.store import Result

EXIT_CONTRARY = 1


@options.with_strategy
def batch(
    instances: Annotated[
        Path,
        typer.Argument(
            metavar="INSTANCES.csv",
            help="Lines onnx,vnnlib,timeout as in VNN-COMP; or with a header category,onnx,vnnlib,timeout_s,expected.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where results go, a row at a time; rows there are not solved again.")] = (
        Path("results.csv")
    ),
    timeout: Annotated[float | None, typer.Option(help="Seconds per instance, instead of those in the list.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only this category; may be given several times.")] = None,
    index: Annotated[str | None, typer.Option(help="Only instances A:B, counted from 0 after --category.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that paths are relative to, if not the list's.")] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Folder for the evidence of every verdict; `certify check` replays it whole.")
    ] = None,
    as_object: options.Json = False,
    *,
    strategy: Strategy,
) -> None:
    """Verify every instance of a list.

    Exit status: 0 all done, 1 if a verdict contradicts the list's `expected`, 2 bad input, 130 stopped before the end.
    """
    from benchmarks.run import Solver, read_instances, run_all
    from benchmarks.store import ResultStore

    if timeout is not None:
        Budget(timeout)  # refuses what is not positive
    chosen = _choose(read_instances(options.existing(instances, "list of instances"), root), category, index, limit)
    if timeout is not None:
        chosen = [replace(instance, timeout=timeout) for instance in chosen]
    options.check_device(strategy.device)
    if evidence is not None:
        from certify.check.store import prepare

        prepare(evidence)
    solver = Solver(strategy, evidence)
    budget = Budget()
    counts: Counter[str] = Counter()
    keys = {instance.key for instance in chosen}
    with ResultStore(out) as store, Stop(budget), Bar(len(keys), "instances") as bar:
        for result in store.results:
            counts[result.verdict] += result.key in keys
        bar.advance(counts.total(), _counted(counts))
        if counts.total():
            say(f"{counts.total()} of {len(keys)} instances are in {out} already")

        def report(result: Result) -> None:
            counts[result.verdict] += 1
            bar.advance(counts.total(), _counted(counts))
            emit(as_json(_object(result)) if as_object else _line(result))

        run_all(chosen, store, solver, budget, report)
        results = [result for result in store.results if result.key in keys]
    _summary(results, stderr=as_object)
    if any(result.contrary for result in results):
        raise typer.Exit(EXIT_CONTRARY)
    if len(results) < len(keys):
        raise typer.Exit(ABORTED)


def _choose(
    listed: list[Instance], categories: Sequence[str] | None, index: str | None, limit: int | None
) -> list[Instance]:
    listed = options.in_categories(listed, categories)
    span = options.parse_span(index, len(listed))
    return [listed[i] for i in span][:limit]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()) if count)


def _line(result: Result) -> str:
    contrary = f"  CONTRARY to the expected {result.expected}" if result.contrary else ""
    detail = ": ".join(" | ".join(part.split("\n")) for part in (result.reason, result.message) if part)
    name = f"{result.category} {Path(result.onnx).name} {Path(result.vnnlib).name}"
    return f"{result.verdict:9} {result.time_s:8.2f} s  {name}{f'  ({detail})' if detail else ''}{contrary}"


def _object(result: Result) -> dict[str, object]:
    return {
        "verdict": result.verdict,
        "reason": result.reason or result.message or None,
        "time_s": result.time_s,
        "grade": result.grade or None,
        "lower": finite(float(result.lower)) if result.lower else None,
        "category": result.category,
        "onnx": result.onnx,
        "vnnlib": result.vnnlib,
        "timeout_s": result.timeout_s,
        "expected": result.expected or None,
    }


def _summary(results: list[Result], *, stderr: bool) -> None:
    from benchmarks.run import summarise

    columns = ("category", "instances", "solved", "verified", "falsified", "unknown", "errors", "median s")
    rows = [
        (r.category, r.instances, r.solved, r.verified, r.falsified, r.unknown, r.errors, f"{r.median_s:.2f}")
        for r in summarise(results)
    ]
    show_table(columns, rows, stderr=stderr)
    contrary = [result for result in results if result.contrary]
    if contrary:
        say(f"!!! {len(contrary)} VERDICTS CONTRARY TO WHAT IS EXPECTED !!!")
        for result in contrary:
            say(f"!!! {_line(result)}")
