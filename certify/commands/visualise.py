"""`certify visualise`: what a classifier takes for each class, as images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.picture import drawable
from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption

ROWS = 5
"""Samples, if nothing is said."""


def visualise(
    net: options.Network,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or FILE.npz with arrays x and y; test part.")
    ],
    eps: Annotated[str, typer.Option(help="How far images may be moved: a few units in the norm 2.")],
    out: Annotated[Path, typer.Option(help="The picture, FILE.png: a row per sample, a column per class.")],
    norm: Annotated[str, typer.Option(help="Norm of the ball around each sample: inf, 2, 1 or 0.")] = "2",
    toward: Annotated[str | None, typer.Option(help="Only classes A:B, counted from 0.")] = None,
    index: Annotated[
        str | None, typer.Option(help="Samples A:B of the data, counted from 0; else the first 5.")
    ] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Begin with random images in the samples' place.")] = False,
    data_range: Annotated[
        str | None,
        typer.Option("--range", help="LOW:HIGH cuts the ball to the data's range; 'none' does not. Named data: 0:1."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    as_object: options.Json = False,
) -> None:
    """Move images to where a classifier is surest of each class.

    From noise, that shows what a class looks like to it; from a sample, what would have to change. Robust networks
    show objects where others show patterns. Exit status: 0 all done, 2 bad input, 130 stopped before the end.
    """
    from benchmarks import visualise as work
    from benchmarks.attack import Campaign
    from benchmarks.threats import Moved
    from certify.commands.attack import NORMS
    from certify.frontends.load import load_network
    from models.data import load

    if norm not in NORMS:
        raise BadOption(f"norm {norm}: there is no such norm", "use inf, 2, 1 or 0")
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise BadOption(f"--out {out}: that is no picture in a folder that exists", "write it like seen.png")
    threat = Moved(norm, eps, options.parse_radius(eps, "--eps"))
    within = options.parse_range("0:1" if data_range is None and not data.endswith(".npz") else data_range)
    options.check_device(device)
    samples, network = load(data), load_network(net)
    x, y = samples.x_test, samples.y_test
    span = options.parse_span(index, len(x)) if index is not None else range(min(ROWS, len(x)))
    if noise:
        x, y = work.noise(x, span.stop, within, seed), -1 - 0 * y[: span.stop]
    classes = options.parse_span(toward, network.graph.output_size, "--toward")
    campaign, budget, found = Campaign(network, x, y, within, "", seed, device), Budget(), []
    wanted = len(span) * len(classes)
    with Stop(budget), Bar(wanted, "images") as bar:
        for seen, image in work.visualise(campaign, span, classes, threat, budget):
            found.append((seen, image))
            if as_object:
                emit(as_json(asdict(seen)))
            bar.advance(len(found), f"sample {seen.index}")
    if found and drawable(out):
        work.draw(found, x, within, out)
        say(f"picture: {out}")
    columns = ("sample", "label", "toward", "answer", "probability", "distance")
    rows = [
        (s.index, "-" if s.label is None else s.label, s.toward, s.answer, f"{s.probability:.3f}", f"{s.distance:.4g}")
        for s, _ in found
    ]
    show_table(columns, rows, stderr=as_object)
    if len(found) < wanted:
        say(f"stopped: {len(found)} of {wanted} images are done")
        raise typer.Exit(ABORTED)
