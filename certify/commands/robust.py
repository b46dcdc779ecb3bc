"""`certify robust`: clean, attacked and certified accuracy of a classifier on a data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import percent, show_table
from certify.commands.terminal import ABORTED, Stop, Watchdog, as_json, emit, patience, say
from certify.errors import BadOption
from certify.strategy import Strategy

if TYPE_CHECKING:
    from benchmarks.robust import Accuracy, SampleResult, Threat, Watch

NORMS = {"inf": math.inf, "2": 2.0, "1": 1.0}


@options.with_strategy
def robust(
    net: options.Network,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or FILE.npz with arrays x and y; test part.")
    ],
    eps: Annotated[str, typer.Option(help="Radius, or several with commas; fractions as 2/255; nearest float64.")],
    norm: Annotated[str, typer.Option(help="Norm of the ball around each sample: inf, 2 or 1.")] = "inf",
    index: Annotated[str | None, typer.Option(help="Only samples A:B of the data, counted from 0.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds per sample and radius; inf for no limit.")] = 10.0,
    targets: Annotated[str | None, typer.Option(help="Only against these classes, with commas; else all.")] = None,
    data_range: Annotated[
        str | None,
        typer.Option("--range", help="LOW:HIGH cuts the ball to the data's range; 'none' does not. Named data: 0:1."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a line of JSON per sample; a run resumes there.")] = None,
    as_object: options.Json = False,
    *,
    strategy: Strategy,
) -> None:
    """Certify a classifier around every sample of a data set.

    A sample is clean if it is classified right, attacked if besides no misclassified input was found in its ball,
    certified if there provably is none. Exit status: 0 all done, 2 bad input, 130 stopped before the end.
    """
    from benchmarks.robust import Assessment, SampleStore, data_hash, summarise
    from certify.frontends.load import load_network
    from models.data import load

    radii = options.parse_radii(eps)
    Budget(timeout)  # refuses what is not positive
    threat = threat_of(norm, data_range, targets, data)
    options.check_device(strategy.device)
    samples = load(data)
    span = [i for i in options.parse_span(index, len(samples.y_test)) if threat.concerns(int(samples.y_test[i]))]
    network = load_network(net)
    assessment = Assessment(network, samples.x_test, samples.y_test, threat, strategy, timeout)
    store = None
    if out is not None:
        settings = {
            "network": network.graph.hash,
            "data": data_hash(samples.x_test, samples.y_test),
            **{k: v for k, v in asdict(threat).items() if k != "norm"},
            "norm": norm,
            "timeout": timeout,
            "method": strategy.method.value,
        }
        store = SampleStore(out, settings)
    wanted = {(i, radius) for i in span for _, radius in radii}
    results = [r for r in store.results if r.key in wanted] if store is not None else []
    budget = Budget()

    def keep(result: SampleResult) -> None:
        results.append(result)
        if store is not None:
            store.append(result)
        if as_object:
            emit(as_json(_object(result)))

    def finish() -> int:
        _show(summarise(results), stderr=as_object)
        if len(results) == len(wanted):
            return 0
        say(f"stopped: {len(results)} of {len(wanted)} samples are done" + (f"; {out} keeps them" if out else ""))
        return ABORTED

    with Stop(budget), Bar(len(wanted), "samples") as bar:
        for result in assessment.judge(span, radii, budget, list(results), _watch(timeout, keep, finish)):
            keep(result)
            counts = sorted(Counter(r.verdict for r in results).items())
            bar.advance(len(results), ", ".join(f"{n} {v}" for v, n in counts))
    raise typer.Exit(finish())


def _watch(timeout: float, keep: Callable[[SampleResult], None], finish: Callable[[], int]) -> Watch:
    """If work on samples does not end, the run does: `keep` hears of what is known of them."""

    def watch(budget: Budget, late: Sequence[SampleResult]) -> Watchdog:
        def overrun() -> int:
            for result in late:
                keep(result)
            say(f"stopped: sample {late[0].index} takes far longer than --timeout; with --out, a run goes on after it")
            finish()
            return ABORTED

        return Watchdog(budget, overrun, patience(timeout))

    return watch


def threat_of(norm: str, data_range: str | None, targets: str | None, data: str) -> Threat:
    """The threat that these options describe. Raises BadOption."""
    from benchmarks.robust import Threat

    if norm not in NORMS:
        raise BadOption(f"--norm {norm}: there is no such norm", "use inf, 2 or 1")
    if data_range is None and not data.endswith(".npz"):
        data_range = "0:1"
    try:
        classes = () if targets is None else tuple(int(word) for word in targets.split(","))
    except ValueError as error:
        raise BadOption(f"--targets {targets!r} is not a list of classes", "write it like 3 or 1,7") from error
    return Threat(NORMS[norm], options.parse_range(data_range), classes)


def _object(result: SampleResult) -> dict[str, object]:
    fields = asdict(result)
    first = ("verdict", "reason", "time_s", "grade", "lower")
    return {k: fields[k] for k in (*first, *(k for k in fields if k not in first))}


def _show(rows: list[Accuracy], *, stderr: bool) -> None:
    columns = ("eps", "samples", "clean", "attacked", "certified", "seconds")
    show_table(
        columns,
        [
            (r.eps, r.samples, *(percent(n, r.samples) for n in (r.clean, r.attacked, r.certified)), f"{r.time_s:.1f}")
            for r in rows
        ],
        stderr=stderr,
    )
