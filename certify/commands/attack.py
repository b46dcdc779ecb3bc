"""`certify attack`: how many samples of a data set can be misled, by which attack, and how near."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.picture import drawable
from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import percent, show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from benchmarks.attack import AttackResult, Campaign, PointStore, Standing
    from benchmarks.robust import Array
    from benchmarks.threats import Allowed, Mixture, Moved

NORMS = ("inf", "2", "1", "0")
COLUMNS = 8
"""Images of a grid."""


def attack(
    net: options.Network,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or FILE.npz with arrays x and y; test part.")
    ],
    eps: Annotated[
        str | None, typer.Option(help="Radius, or several with commas; fractions as 2/255; entries for norm 0.")
    ] = None,
    norm: Annotated[str, typer.Option(help="Norm of the ball around each sample: inf, 2, 1 or 0.")] = "inf",
    threat: Annotated[
        list[str] | None, typer.Option(help="A further ball NORM=RADIUS, as 2=0.5; may be given again.")
    ] = None,
    mixture: Annotated[
        list[str] | None,
        typer.Option(
            help="Parts of two balls, as inf=0.1,2=0.5, the adversary's choice, or as weight=0.5 says; again."
        ),
    ] = None,
    spatial: Annotated[
        str | None, typer.Option(help="Turned and shifted images, as rotation=30,translation=3: degrees and pixels.")
    ] = None,
    colour: Annotated[
        str | None, typer.Option(help="Changed colours, as contrast=0.2,brightness=0.1,hue=30; data range 0:1.")
    ] = None,
    name: Annotated[
        str, typer.Option("--attack", help="quick, autoattack, or one attack: a wrong name lists all.")
    ] = "quick",
    queries: Annotated[
        int | None, typer.Option(min=1, help="The most that a sample may cost, for attacks that see outputs only.")
    ] = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(help="For --attack transfer: a network that is attacked in NET's place; may be given again."),
    ] = None,
    diagnose: Annotated[
        bool,
        typer.Option("--diagnose", help="Warn of signs, by name, that attacks tell too little."),
    ] = False,
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
    """Attack a classifier around every sample of a data set, under one threat or several.

    A sample is fooled if the original network misclassifies what the threat allows; one that stands has no guarantee
    (see `certify robust`). Of several kinds of threats the last row says what stands under all of them. Exit status:
    0 all done, 2 bad input, 130 stopped before the end.
    """
    from attacks.catalogue import NAMES, PARAMETERS, TRANSFER
    from benchmarks.attack import AttackResult, Campaign, PointStore, key_of, summarise
    from benchmarks.robust import SampleStore, data_hash
    from certify.frontends.load import load_network
    from models.data import load

    threats = _threats(eps, norm, threat or (), mixture or (), spatial, colour)
    if name not in (*NAMES, *PARAMETERS):
        raise BadOption(f"--attack {name}: there is no such attack", options.did_you_mean(name, (*NAMES, *PARAMETERS)))
    within = options.parse_range("0:1" if data_range is None and not data.endswith(".npz") else data_range)
    options.check_device(device)
    samples = load(data)
    span = options.parse_span(index, len(samples.y_test))
    network, others = load_network(net), tuple(load_network(other) for other in surrogate or ())
    if (name == TRANSFER and not others) or (others and name != TRANSFER and not diagnose):
        raise BadOption("--surrogate networks belong to --attack transfer", "give both, or --diagnose")
    campaign = Campaign(network, samples.x_test, samples.y_test, within, name, seed, device, queries, others)
    if diagnose:
        _warn(campaign, span, threats, as_object)
    store = points = None
    if out is not None:
        settings = {
            "network": network.graph.hash,
            "data": data_hash(samples.x_test, samples.y_test),
            "within": within,
            "attack": name,
            "seed": seed,
            "queries": queries,
            "surrogates": [other.graph.hash for other in others],
        }
        store, points = SampleStore(out, settings, AttackResult), PointStore(out)
    wanted = {(i, *key_of(t.kind, t.eps, t.radius)) for i in span for t in threats}
    results = [r for r in store.results if r.key in wanted] if store is not None else []
    budget, counts = Budget(), Counter("fooled" if r.fooled else "standing" for r in results)
    with Stop(budget), Bar(len(wanted), "samples") as bar:
        for result, x in campaign.run(span, threats, budget, list(results)):
            results.append(result)
            counts["fooled" if result.fooled else "standing"] += 1
            if store is not None:
                points.write(result, x)  # before the line that speaks of it
                store.append(result)
            if as_object:
                emit(as_json(asdict(result)))
            bar.advance(len(results), ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    _show(summarise(results), stderr=as_object)
    if points is not None:
        _picture(results, points, samples.x_test, within)
    if len(results) < len(wanted):
        say(f"stopped: {len(results)} of {len(wanted)} are done" + (f"; {out} keeps them" if out else ""))
        raise typer.Exit(ABORTED)


def _threats(
    eps: str | None,
    norm: str,
    further: Sequence[str],
    mixtures: Sequence[str],
    spatial: str | None,
    colour: str | None,
) -> list[Allowed]:
    """The threats that the options describe, each once. Raises BadOption."""
    from benchmarks.threats import Colour, Spatial

    balls = [] if eps is None else _balls(norm, eps)
    for text in further:
        kind, equals, radius = text.partition("=")
        if not equals:
            raise BadOption(f"--threat {text}: there is no radius", "write it like 2=0.5 or inf=2/255")
        balls += _balls(kind, radius)
    threats: dict[object, Allowed] = {}
    for moved in balls:
        threats.setdefault((moved.kind, moved.radius), moved)
    for text in mixtures:
        threats.setdefault(mixed := _mixture(text), mixed)
    for text, option, make in ((spatial, "--spatial", Spatial), (colour, "--colour", Colour)):
        if text is not None:
            threats[option] = make(**_limits(text, option, [field.name for field in fields(make)]))
    if not threats:
        raise BadOption("there is no threat", "give --eps, --threat, --mixture, --spatial or --colour")
    return list(threats.values())


def _balls(kind: str, text: str) -> list[Moved]:
    """Balls of a norm with the radii that the text names. Raises BadOption."""
    from benchmarks.threats import Moved

    if kind not in NORMS:
        raise BadOption(f"norm {kind}: there is no such norm", "use inf, 2, 1 or 0")
    return [Moved(kind, word, radius) for word, radius in options.parse_radii(text)]


def _mixture(text: str) -> Mixture:
    """The threat of NORM=RADIUS,NORM=RADIUS, with or without ,weight=PART. Raises BadOption."""
    from benchmarks.threats import Mixture

    parts = [part.strip().partition("=") for part in text.split(",")]
    weights = [options.parse_radius(value, "--mixture") for name, _, value in parts if name == "weight"]
    balls = [one for name, _, value in parts if name != "weight" for one in _balls(name, value)]
    if len(balls) != 2 or len(weights) > 1 or any(weight > 1 for weight in weights):
        raise BadOption(
            f"--mixture {text}: it needs two balls, and at most one weight, from 0 to 1",
            "write it like inf=0.1,2=0.5 or inf=0.1,2=0.5,weight=0.5",
        )
    return Mixture(*balls, *weights)


def _limits(text: str, option: str, names: Sequence[str]) -> dict[str, float]:
    """The numbers of NAME=NUMBER,NAME=NUMBER."""
    limits = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in names:
            raise BadOption(f"{option} {text}: there is no limit {name!r}", options.did_you_mean(name, names))
        ((_, limits[name]),) = options.parse_radii(number)
    return limits


def _warn(campaign: Campaign, span: Sequence[int], threats: Sequence[Allowed], as_object: bool) -> None:
    """Shows the warnings about the network, at the first ball."""
    from benchmarks.threats import Moved

    balls = [threat for threat in threats if isinstance(threat, Moved)]
    if not balls:
        raise BadOption("--diagnose compares attacks in a ball", "give --eps")
    cautions = campaign.diagnose(span, balls[0])
    if as_object:
        for caution in cautions:
            emit(as_json({"caution": caution.name, **asdict(caution)}))
    columns = ("warning", "seen", "cause", "remedy")
    if cautions:
        show_table(columns, [(c.name, c.seen, c.cause, c.remedy) for c in cautions], stderr=as_object)
    else:
        say("no sign that attacks tell too little")


def _picture(results: Sequence[AttackResult], points: PointStore, x: Array, within: tuple[float, float] | None) -> None:
    """Keeps a grid of the first samples that attacks fooled, as many for each threat."""
    from attacks.ensemble import CLEAN
    from benchmarks.attack import draw

    changed: dict[str, list[AttackResult]] = {}
    for r in results:
        if r.fooled and r.by != CLEAN and points.path(r).is_file():
            changed.setdefault(r.threat, []).append(r)
    each = max(1, COLUMNS // max(1, len(changed)))
    shown = [(r, points.read(r)) for group in changed.values() for r in group[:each]]
    path = points.folder.parent / "attack.png"
    if shown and drawable(path):
        draw(shown, x, within, path)
        say(f"picture: {path}")


def _show(rows: list[Standing], *, stderr: bool) -> None:
    columns = ("threat", "samples", "clean", "standing", "median distance", "queries each", "seconds", "fooled by")
    show_table(
        columns,
        [
            (
                row.threat,
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
