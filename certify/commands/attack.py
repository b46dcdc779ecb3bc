"""`certify attack`: how many samples of a data set can be misled, by which attack, and how near."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import percent, show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from benchmarks.attack import Standing

NORMS = {"inf": inf, "2": 2.0, "1": 1.0, "0": 0.0}
COLUMNS = 8
"""Images of a grid."""


def attack(
    net: options.Network,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or FILE.npz with arrays x and y; test part.")
    ],
    eps: Annotated[str, typer.Option(help="Radius, or several with commas; fractions as 2/255; entries for norm 0.")],
    norm: Annotated[str, typer.Option(help="Norm of the ball around each sample: inf, 2, 1 or 0.")] = "inf",
    name: Annotated[
        str, typer.Option("--attack", help="quick, autoattack, or one attack: a wrong name lists all.")
    ] = "quick",
    index: Annotated[str | None, typer.Option(help="Only samples A:B of the data, counted from 0.")] = None,
    data_range: Annotated[
        str | None,
        typer.Option("--range", help="LOW:HIGH cuts the ball to the data's range; 'none' does not. Named data: 0:1."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a line of JSON per sample, the points, and a picture; a run resumes there."),
    ] = None,
    as_object: options.Json = False,
) -> None:
    """Attack a classifier around every sample of a data set.

    A sample is fooled if the original network misclassifies a point of its ball; one that stands has no guarantee
    (see `certify robust`). Exit status: 0 all done, 2 bad input, 130 stopped before the end.
    """
    from attacks.catalogue import NAMES
    from benchmarks.attack import AttackResult, Campaign, PointStore, draw, summarise
    from benchmarks.robust import SampleStore, data_hash
    from certify.frontends.load import load_network
    from models.data import load

    radii = options.parse_radii(eps)
    if norm not in NORMS:
        raise BadOption(f"--norm {norm}: there is no such norm", "use inf, 2, 1 or 0")
    if name not in NAMES:
        raise BadOption(f"--attack {name}: there is no such attack", options.did_you_mean(name, NAMES))
    within = options.parse_range("0:1" if data_range is None and not data.endswith(".npz") else data_range)
    options.check_device(device)
    samples = load(data)
    span = options.parse_span(index, len(samples.y_test))
    network = load_network(net)
    campaign = Campaign(network, samples.x_test, samples.y_test, NORMS[norm], within, name, seed, device)
    store = points = None
    if out is not None:
        settings = {
            "network": network.graph.hash,
            "data": data_hash(samples.x_test, samples.y_test),
            "norm": norm,
            "within": within,
            "attack": name,
            "seed": seed,
        }
        store, points = SampleStore(out, settings, AttackResult), PointStore(out)
    wanted = {(i, radius) for i in span for _, radius in radii}
    results = [r for r in store.results if r.key in wanted] if store is not None else []
    budget, counts = Budget(), Counter("fooled" if r.fooled else "standing" for r in results)
    with Stop(budget), Bar(len(wanted), "samples") as bar:
        for result, x in campaign.run(span, radii, budget, list(results)):
            results.append(result)
            counts["fooled" if result.fooled else "standing"] += 1
            if store is not None:
                points.write(result, x)  # before the line that speaks of it
                store.append(result)
            if as_object:
                emit(as_json(asdict(result)))
            bar.advance(len(results), ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    _show(summarise(results), stderr=as_object)
    if out is not None:
        kept = [(r, points.read(r)) for r in results if r.fooled and r.distance]
        shown = [(r, x) for r, x in kept[:COLUMNS] if x is not None]
        if shown:
            draw(shown, samples.x_test, within, out / "attack.png")
            say(f"picture: {out / 'attack.png'}")
    if len(results) < len(wanted):
        say(f"stopped: {len(results)} of {len(wanted)} samples are done" + (f"; {out} keeps them" if out else ""))
        raise typer.Exit(ABORTED)


def _show(rows: list[Standing], *, stderr: bool) -> None:
    columns = ("eps", "samples", "clean", "standing", "median distance", "queries each", "seconds", "fooled by")
    show_table(
        columns,
        [
            (
                row.eps,
                row.samples,
                percent(row.clean, row.samples),
                percent(row.standing, row.samples),
                f"{row.median:.4g}",
                f"{row.queries:.0f}",
                f"{row.time_s:.1f}",
                ", ".join(f"{name} {count}" for name, count in row.by.items()) or "-",
            )
            for row in rows
        ],
        stderr=stderr,
    )
