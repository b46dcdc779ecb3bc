"""Training curves of methods side by side: one table of all epochs, and one figure over the minutes that they took."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

from benchmarks.picture import drawable, picture
from training.checkpoint import replace_file
from training.run import LOG

SHARES = ("clean", "attacked", "bounded")
Curves = dict[str, list[dict[str, str]]]
"""The epochs of each method, as its table has them."""


def keep(folders: Mapping[str, Path], out: Path) -> None:
    """Write curves.csv and curves.png into `out`, from the folder of each method's run; without matplotlib the first
    alone, and a line that says so."""
    curves: Curves = {}
    for method, folder in folders.items():
        with (folder / LOG).open(newline="", encoding="utf-8") as file:
            curves[method] = list(csv.DictReader(file))
    table = io.StringIO()
    epochs = [{"method": method, **epoch} for method, own in curves.items() for epoch in own]
    rows = csv.DictWriter(table, list(epochs[0]), lineterminator="\n")
    rows.writeheader()
    rows.writerows(epochs)
    replace_file(out / "curves.csv", table.getvalue().encode())
    if drawable(out / "curves.png"):
        _draw(curves, out / "curves.png")


def _draw(curves: Curves, path: Path) -> None:
    """The shares of validation samples, each on its own axes, a line for each method."""
    with picture(path, 1, len(SHARES), (13, 4.5), dpi=90, sharey=True) as (figure, every):
        for axes, share in zip(every, SHARES, strict=True):
            for method, epochs in curves.items():
                minutes = list(accumulate(float(e["cpu_seconds"]) / 60 for e in epochs))
                axes.plot(minutes, [100 * float(e[share]) for e in epochs], marker=".", label=method)
            axes.set(title=f"{share}, % of validation samples", xlabel="minutes of the processor", ylim=(0, 102))
            axes.grid(alpha=0.3)
        figure.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
