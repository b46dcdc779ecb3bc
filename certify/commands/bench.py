"""`certify bench`: a suite in fresh processes, beside what other tools needed for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.side_by_side import Report, finite_fields, line
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption
from certify.strategy import Strategy

if TYPE_CHECKING:
    from benchmarks.bench import Key, Measured
    from benchmarks.run import Instance
    from benchmarks.store import ResultStore

    Run = Callable[[Instance, Budget], Measured | None]

EXIT_CONTRARY = 1


@options.with_strategy
def bench(
    suite: Annotated[Path, typer.Option(help="CSV list with a header category,onnx,vnnlib,timeout_s,expected.")],
    peer: Annotated[
        list[Path] | None,
        typer.Option(help="Another tool's results, or an earlier --out; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where results go, a row at a time; rows there are not run again. "
            "[default: bench.csv, with --one-process bench-one-process.csv]"
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds per instance, whatever the list says.")] = 60.0,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the categories' folders. [default: ../vnncomp beside the list's folder, or that]"),
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only this category; may be given several times.")] = None,
    one_process: Annotated[
        bool, typer.Option("--one-process", help="All instances in this process: no start-up, networks are kept.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables to this file, in Markdown.")] = None,
    as_object: options.Json = False,
    *,
    strategy: Strategy,
) -> None:
    """Run a suite one instance at a time, each in a process of its own, and compare with other tools.

    With --json, one object per instance that is run, then one with all tables.

    Exit status: 0 all done, 1 if a verdict contradicts what is expected, or where nothing is, another tool;
    2 bad input, 130 stopped before the end.
    """
    from benchmarks.bench import Measured, disagree
    from benchmarks.store import ResultStore

    Budget(timeout)  # refuses what is not positive
    instances = [replace(instance, timeout=timeout) for instance in _listed(suite, root, category)]
    peers = _read_peers(peer or [])
    options.check_device(strategy.device)
    if markdown is not None:
        _write(markdown, "", "a")  # refused now rather than at the end
    run = _Here(strategy) if one_process else _fresh(options.as_arguments(strategy))
    out = out or Path("bench-one-process.csv" if one_process else "bench.csv")
    keys = {instance.key for instance in instances}

    def show(row: Measured) -> None:
        emit(as_json(finite_fields(row)) if as_object else line(row))

    with ResultStore(out, Measured) as store:
        _run_all(instances, store, run, show, note=one_process)
        rows = [row for row in store.results if row.key in keys]
    report = Report(rows, peers)
    if as_object:
        emit(as_json(report.fields()))
    report.show(say if as_object else emit)
    if markdown is not None:
        _write(markdown, report.markdown(), "w")
    if any(row.contrary for row in rows) or any(disagree(p) for pairs in report.pairs.values() for p in pairs):
        raise typer.Exit(EXIT_CONTRARY)
    if len(rows) < len(keys):
        raise typer.Exit(ABORTED)


def _listed(suite: Path, root: Path | None, categories: Sequence[str] | None) -> list[Instance]:
    """The suite's instances, whose files are there. Raises BadOption that says where they were looked for."""
    from benchmarks.run import read_instances

    options.existing(suite, "list of instances")
    beside = suite.resolve().parent
    looked = []
    for place in [root] if root is not None else [beside.parent / "vnncomp", beside]:
        instances = options.in_categories(read_instances(suite, place), categories)
        wanted = [path for instance in instances for path in instance.files]
        absent = [path for path in wanted if not path.is_file()]
        if not absent:
            return instances
        looked.append(f"under {place}, {len(absent)} of {len(wanted)} are not there, the first {absent[0]}")
    raise BadOption(f"files of {suite} are missing: {'; '.join(looked)}", "say with --root where they are")


def _read_peers(paths: Sequence[Path]) -> dict[str, dict[Key, Measured]]:
    """Other tools' results by the names of their files, or by their paths where several have the same name."""
    from benchmarks.bench import read_peer

    names = Counter(path.stem for path in paths)
    return {
        path.stem if names[path.stem] == 1 else str(path): read_peer(options.existing(path, "results of another tool"))
        for path in paths
    }


def _run_all(
    instances: Sequence[Instance],
    store: ResultStore[Measured],
    run: Run,
    show: Callable[[Measured], None],
    *,
    note: bool,
) -> None:
    """Run what the store does not hold, and put each row on the disk at once; Ctrl-C ends it early.

    With `note`, the file says which instance is being run, so that one that ends this process is not run again.
    """
    keys = {instance.key for instance in instances}
    known = {row.key for row in store.results}
    counts = Counter(_kind(row) for row in store.results if row.key in keys)
    budget = Budget()
    with Stop(budget), Bar(len(keys), "instances") as bar:
        bar.advance(counts.total(), _counted(counts))
        if counts.total():
            say(f"{counts.total()} of {len(keys)} instances are in {store.path} already, and are not run again")
        for instance in instances:
            if instance.key in known:
                continue
            known.add(instance.key)
            if store.crashed == tuple(map(str, instance.key)):
                row = _died(instance)
            else:
                if note:
                    store.started(instance.key)
                row = None if budget.expired else run(instance, budget)
            if row is None or budget.expired:
                return
            store.append(row)
            counts[_kind(row)] += 1
            bar.advance(counts.total(), _counted(counts))
            show(row)


def _died(instance: Instance) -> Measured:
    from benchmarks.bench import Measured

    verdict = "error: an earlier run died on this instance; remove the row to try it again"
    return Measured(*instance.key, instance.expected, verdict, *[math.nan] * 4)


def _kind(row: Measured) -> str:
    return "CONTRARY" if row.contrary else row.verdict.split(":")[0]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _fresh(arguments: Sequence[str]) -> Run:
    from benchmarks.fresh import measure

    return lambda instance, budget: measure(instance, budget, arguments)


class _Here:
    """Runs instances in this process, one after another. Its largest resident set is that of all until then."""

    def __init__(self, strategy: Strategy) -> None:
        from benchmarks.run import Solver

        self._solve = Solver(strategy)

    def __call__(self, instance: Instance, budget: Budget) -> Measured:
        import os
        import resource

        from benchmarks.bench import Measured
        from certify.frontends.load import import_libraries

        for file in instance.files[:-1]:
            import_libraries(file)
        load = os.getloadavg()[0]
        result = self._solve(instance, budget.part(instance.timeout))
        verdict = {"verified": "unsat", "falsified": "sat", "error": f"error: {' '.join(result.message.split())}"}.get(
            result.verdict, "timeout" if result.reason == "timeout" else f"unknown: {result.reason}"
        )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        numbers = (result.time_s, result.time_s, round(memory, 1), round(load, 2))
        return Measured(*instance.key, instance.expected, verdict, *numbers)


def _write(path: Path, text: str, how: str) -> None:
    try:
        with open(path, how, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadOption(f"{path} cannot be written: {error.strerror}", "choose another --markdown") from error
