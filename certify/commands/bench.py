"""`certify bench`: a suite in fresh processes, beside what other tools needed for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, finite, say
from certify.errors import BadOption
from certify.strategy import Strategy

if TYPE_CHECKING:
    from benchmarks.bench import Measured
    from benchmarks.run import Instance

EXIT_CONTRARY = 1


def bench(
    suite: Annotated[Path, typer.Option(help="CSV list with a header category,onnx,vnnlib,timeout_s,expected.")],
    peer: Annotated[
        list[Path] | None, typer.Option(help="Another tool's results on the suite; may be given several times.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results go, a row at a time; rows there are not run again.")] = (
        Path("bench.csv")
    ),
    timeout: Annotated[float, typer.Option(help="Seconds per instance.")] = 60.0,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the categories' folders; else `vnncomp` beside the list's folder, or that one."),
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only this category; may be given several times.")] = None,
    one_process: Annotated[bool, typer.Option(help="All instances in this process: no start-up in between.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables to this file.")] = None,
    as_object: options.Json = False,
) -> None:
    """Run a suite one instance at a time, each in a process of its own, and compare with other tools.

    Exit status: 0 all done, 1 if a verdict contradicts the list's `expected`, 2 bad input, 130 stopped before the end.
    """
    from benchmarks.bench import Measured, read_peer
    from benchmarks.store import ResultStore

    Budget(timeout)  # refuses what is not positive
    instances = [replace(i, timeout=timeout) for i in _listed(suite, root) if not category or i.category in category]
    if not instances:
        raise BadOption(f"no instance of {suite} is in the categories asked for", "leave --category out")
    peers = {path.stem: read_peer(options.existing(path, "results of another tool")) for path in peer or ()}
    budget = Budget()
    keys = {instance.key for instance in instances}
    run = _Here() if one_process else _fresh
    with ResultStore(out, Measured) as store, Stop(budget), Bar(len(keys), "instances") as bar:
        known = {row.key for row in store.results}
        counts = Counter(row.verdict.split(":")[0] for row in store.results if row.key in keys)
        for instance in instances:
            if instance.key in known:
                continue
            row = run(instance, budget)
            if row is None or budget.expired:
                break
            store.append(row)
            counts[row.verdict.split(":")[0]] += 1
            bar.advance(counts.total(), ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())))
            emit(as_json(_object(row)) if as_object else _line(row))
        rows = [row for row in store.results if row.key in keys]
    _tables(rows, peers, markdown, stderr=as_object)
    if any(row.contrary for row in rows):
        raise typer.Exit(EXIT_CONTRARY)
    if len(rows) < len(keys):
        raise typer.Exit(ABORTED)


def _listed(suite: Path, root: Path | None) -> list[Instance]:
    """The suite's instances, whose files are there."""
    from benchmarks.run import read_instances

    options.existing(suite, "list of instances")
    places = [root] if root is not None else [suite.resolve().parent.parent / "vnncomp", suite.resolve().parent]
    for place in places:
        instances = read_instances(suite, place)
        if all(path.exists() for i in instances for path in (i.network, i.property)):
            return instances
    absent = next(path for i in instances for path in (i.network, i.property) if not path.exists())
    looked = " and ".join(map(str, places))
    raise BadOption(f"files of {suite} are not there: {absent} (looked under {looked})", "say where with --root")


def _fresh(instance: Instance, budget: Budget) -> Measured | None:
    from benchmarks.bench import measure

    return None if budget.expired else measure(instance)


class _Here:
    """Runs instances in this process, one after another."""

    def __init__(self) -> None:
        from benchmarks.run import Solver

        self.solver = Solver(Strategy())

    def __call__(self, instance: Instance, budget: Budget) -> Measured | None:
        import os
        import resource

        from benchmarks.bench import VERDICTS, Measured

        load = os.getloadavg()[0]
        result = self.solver(instance, budget.part(instance.timeout))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        verdict = VERDICTS.get(result.verdict, f"error: {' '.join(result.message.split())}")
        seconds = (result.time_s, result.time_s)
        return Measured(*instance.key, instance.expected, verdict, *seconds, round(memory, 1), round(load, 2))


def _line(row: Measured) -> str:
    contrary = f"  CONTRARY to the expected {row.expected}" if row.contrary else ""
    name = f"{row.category} {Path(row.onnx).name} {Path(row.vnnlib).name}"
    return f"{row.verdict[:60]:8} {row.wall_s:8.2f} s, own {row.own_s:7.2f} s  {name}{contrary}"


def _object(row: Measured) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(row), "wall_s": finite(row.wall_s), "own_s": finite(row.own_s)}


def _tables(rows: Sequence[Measured], peers: dict[str, dict], markdown: Path | None, *, stderr: bool) -> None:
    from benchmarks.bench import Comparison, cells, compare, only, par2
    from benchmarks.bench import markdown as as_markdown

    write: Callable[[str], None] = say if stderr else emit
    solved = sum(row.solved for row in rows)
    write(f"solved {solved} of {len(rows)}, PAR-2 {par2(rows):.0f} s, contrary {sum(row.contrary for row in rows)}")
    texts = []
    for name, peer in peers.items():
        compared: list[Comparison] = compare(rows, peer)
        write(f"beside {name}:")
        columns = ("category", "run", "solved", "its", "both", "PAR-2", "its", "wall / wall", "own / own")
        show_table(columns, [cells(row) for row in compared], stderr=stderr)
        for title, wanted in (
            (f"solved by {name} only", lambda a, b: b.solved and not a.solved),
            ("solved by us only", lambda a, b: a.solved and not b.solved),
        ):
            listed = only(rows, peer, wanted)
            write(f"{title}: {len(listed)}")
            for row in listed:
                write(f"  {_line(row)}")
        texts.append(as_markdown(compared, name))
    for row in rows:
        if row.contrary:
            write(f"!!! {_line(row)}")
    if markdown is not None:
        try:
            markdown.write_text("\n".join(texts), encoding="utf-8")
        except OSError as error:
            raise BadOption(f"{markdown} cannot be written: {error.strerror}", "choose another --markdown") from error
