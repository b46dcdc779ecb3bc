"""`certify radius`: how far the samples of a data set are from the nearest input that is misclassified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from decimal import ROUND_CEILING, ROUND_FLOOR
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.picture import drawable
from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.robust import threat_of
from certify.commands.tables import rounded, show_table
from certify.commands.terminal import ABORTED, Stop, Watchdog, as_json, emit, patience, say
from certify.strategy import Strategy

if TYPE_CHECKING:
    from benchmarks.radius import Radii, RadiusResult
    from benchmarks.robust import Assessment


@options.with_strategy
def radius(
    net: options.Network,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or FILE.npz with arrays x and y; test part.")
    ],
    norm: Annotated[str, typer.Option(help="Norm of the distance: inf, 2 or 1.")] = "inf",
    largest: Annotated[str, typer.Option(help="How far to look at most; fractions as 8/255.")] = "1",
    index: Annotated[str | None, typer.Option(help="Only samples A:B of the data, counted from 0.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds per sample; inf for no limit.")] = 10.0,
    targets: Annotated[str | None, typer.Option(help="Only against these classes, with commas; else all.")] = None,
    data_range: Annotated[
        str | None,
        typer.Option("--range", help="LOW:HIGH keeps to the data's range; 'none' does not. Named data: 0:1."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a line of JSON per sample and a histogram; a run resumes there.")
    ] = None,
    as_object: options.Json = False,
    *,
    strategy: Strategy,
) -> None:
    """Measure how far samples are from misclassification.

    For every sample a radius within which all inputs are provably classified right, and the distance of the nearest
    input found that is not. Linear bounds come first, then mixed-integer programming, and a search that proves what
    these say, whatever --method is. Exit status: 0 all done, 2 bad input, 130 stopped before the end.
    """
    from benchmarks.radius import RadiusResult, draw, summarise
    from benchmarks.robust import Assessment, SampleStore, data_hash
    from certify.frontends.load import load_network
    from models.data import load

    most = options.parse_radius(largest, "--largest")
    Budget(timeout)  # refuses what is not positive
    threat = threat_of(norm, data_range, targets, data)
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
            "largest": most,
            "timeout": timeout,
        }
        store = SampleStore(out, settings, RadiusResult)
    results = [r for r in store.results if r.index in set(span)] if store is not None else []
    budget, known = Budget(), {r.index for r in results}

    def keep(result: RadiusResult) -> None:
        results.append(result)
        if store is not None:
            store.append(result)
        if as_object:
            emit(as_json(asdict(result)))

    with Stop(budget), Bar(len(span), "samples") as bar:
        for i in (i for i in span if i not in known):
            result = None if budget.cancelled else _watched(assessment, i, most, budget.part(timeout), keep)
            if result is None:
                break
            keep(result)
            bar.advance(len(results), f"{sum(r.exact for r in results)} exact")
    if results:
        _show(summarise(results), stderr=as_object)
    if results and out is not None and drawable(out / "radius.png"):
        draw(results, out / "radius.png")
        say(f"histogram: {out / 'radius.png'}")
    if len(results) < len(span):
        say(f"stopped: {len(results)} of {len(span)} samples are done" + (f"; {out} keeps them" if out else ""))
        raise typer.Exit(ABORTED)


def _watched(
    assessment: Assessment, index: int, largest: float, budget: Budget, keep: Callable[[RadiusResult], None]
) -> RadiusResult | None:
    """One sample, as `measure_one`. If one of its steps does not end, the run does, and `keep` hears of what is
    known."""
    from benchmarks.radius import RadiusResult, measure_one

    bounds = [0.0, math.inf]

    def heard(lower: float, upper: float) -> None:
        bounds[:] = lower, upper

    def overrun() -> int:
        upper = bounds[1] if math.isfinite(bounds[1]) else None
        label = int(assessment.labels[index])
        keep(RadiusResult(index, label, bounds[0], upper, None, False, round(budget.elapsed, 4)))
        say(f"stopped: sample {index} takes far longer than --timeout; with --out, the same command goes on after it")
        return ABORTED

    with Watchdog(budget, overrun, patience(budget.timeout or 0.0)) as watchdog:
        result = measure_one(assessment, index, largest, budget, heard)
        watchdog.settle()
    return result


def _show(radii: Radii, *, stderr: bool) -> None:
    columns = ("samples", "misclassified", "exact", "mean proved", "attained", "median proved", "attained", "seconds")
    ways = (ROUND_FLOOR, ROUND_CEILING) * 2  # so that what is said of the numbers remains true
    numbers = (rounded(x, 4, way) for x, way in zip((*radii.mean, *radii.median), ways, strict=True))
    show_table(columns, [(radii.samples, radii.wrong, radii.exact, *numbers, f"{radii.time_s:.1f}")], stderr=stderr)
