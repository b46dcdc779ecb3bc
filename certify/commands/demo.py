"""`certify demo`: the saved models certified on handwritten digits, as a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.picture import drawable, picture
from certify.budget import Budget
from certify.commands.tables import percent, show_table
from certify.commands.terminal import ABORTED, Stop, emit, say, writable_directory

if TYPE_CHECKING:
    from benchmarks.robust import Accuracy

MODELS = {
    "digits-mlp": "trained as usual",
    "digits-mlp-adv": "trained on attacked images",
    "digits-mlp-ibp": "trained on bounds, for certification",
    "digits-cnn-ibp": "convolutional, trained likewise",
}
"""What is shown; the one that takes longest comes last, as what the others leave of the time is its."""
RADII = (("0.01", 0.01), ("0.02", 0.02), ("0.05", 0.05), ("0.1", 0.1))
SAMPLES = 100
SECONDS = 45.0  # for all models and radii together; what is open by then counts as unknown
PER_SAMPLE = 1.0

Curve = tuple[str, "list[Accuracy]"]  # a model's name, its accuracy by radius


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("demo"),
    samples: Annotated[int, typer.Option(min=1, max=256, help="How many test images.")] = SAMPLES,
) -> None:
    """Certify the saved models on scikit-learn's handwritten digits."""
    from benchmarks.robust import Assessment, Threat, summarise
    from certify.frontends.load import load_network
    from certify.strategy import Strategy
    from models import data

    path = writable_directory(out) / "certified.png"
    digits = data.load("digits")
    indices = range(min(samples, len(digits.y_test)))
    threat = Threat(math.inf, (0.0, 1.0))
    say(
        f"certifying {len(MODELS)} networks on {len(indices)} images of handwritten digits: does the answer stay right "
        f"if every pixel (0..1) changes by up to eps? {SECONDS:.0f} seconds"
    )
    curves: list[Curve] = []
    budget = Budget()
    with Stop(budget):
        for m, name in enumerate(MODELS):
            network = load_network(name)
            part = budget.part(max(SECONDS - budget.elapsed, 1.0) / (len(MODELS) - m))
            assessment = Assessment(network, digits.x_test, digits.y_test, threat, Strategy(), PER_SAMPLE)
            results = []
            for result in assessment.judge(indices, RADII, part):
                results.append(result)
                if len(results) % len(indices) == 0:
                    say(f"  {budget.elapsed:4.1f} s: {name}, eps {result.eps}")
            if len(results) < len(indices) * len(RADII):
                break
            curves.append((name, summarise(results)))
    if curves:
        _tell(curves)
    if curves and drawable(path):
        draw(curves, path)
        emit(f"picture: {path}")
    if len(curves) < len(MODELS):
        say(f"stopped: {len(curves)} of {len(MODELS)} networks are done")
        raise typer.Exit(ABORTED)


def _tell(curves: Sequence[Curve]) -> None:
    show_table(
        ("model", "eps", "clean", "attacked", "certified"),
        [
            (name, row.eps, *(percent(n, row.samples) for n in (row.clean, row.attacked, row.certified)))
            for name, rows in curves
            for row in rows
        ],
    )
    for line in LEGEND:
        emit(line)
    emit(f"Accuracy whatever happens to the pixels within eps {RADII[-1][0]}:")
    for name, rows in curves:
        emit(f"  {name} ({MODELS[name]}): {_span(rows[-1])}")


LEGEND = (
    "clean: the network is right. attacked: it is, and no change of up to eps was found that misleads it.",
    "certified: it is proved that there is none. The truth lies between certified and attacked.",
)


def _span(row: Accuracy) -> str:
    least, most = percent(row.certified, row.samples), percent(row.attacked, row.samples)
    return least if least == most else f"between {least} and {most}"


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Certified (solid) and attacked (dashed) accuracy over the radius, one colour per model, as a PNG."""
    with picture(path) as (_, axes):
        for name, rows in curves:
            radii = [0.0, *(float(row.eps) for row in rows)]
            clean = 100 * rows[0].clean / rows[0].samples
            certified = [clean, *(100 * row.certified / row.samples for row in rows)]
            attacked = [clean, *(100 * row.attacked / row.samples for row in rows)]
            (line,) = axes.plot(radii, certified, marker="o", label=name)
            axes.plot(radii, attacked, linestyle="--", color=line.get_color())
            axes.fill_between(radii, certified, attacked, color=line.get_color(), alpha=0.1, linewidth=0)
        axes.set_xlabel("radius of the L-inf ball (pixels in 0..1)")
        axes.set_ylabel("accuracy on the samples, %")
        axes.set_title("Robust accuracy lies between certified (solid) and attacked (dashed)")
        axes.set_ylim(0, 102)
        axes.legend(loc="lower left")
