"""Accuracy by radius, as `certify smooth` and `certify merge` show and keep it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.picture import drawable
from certify.commands.sampled import number
from certify.commands.tables import percent, show_table
from certify.commands.terminal import say

if TYPE_CHECKING:
    from benchmarks.smooth import Attacked, SmoothResult
    from certify.smoothing.plans import Plan


def table_radii(results: Sequence[SmoothResult], radii: str | None) -> list[float]:
    """The radii of the table: those that the user names, or else steps up to the largest."""
    from benchmarks.smooth import default_radii

    return default_radii(results) if radii is None else [number(word) for word in radii.split(",")]


def show_accuracy(
    results: Sequence[SmoothResult], attacked: Sequence[Attacked], plan: Plan, radii: list[float], *, stderr: bool
) -> None:
    """Print the table, with what the attack did not break where it was asked to."""
    from benchmarks.smooth import as_written, table
    from certify.check.counts import CONFIDENCE

    share = f"{100 * CONFIDENCE:.0f} %"
    columns = [f"radius ({plan.noise.norm})", "samples", "certified", f"at least ({share})", f"at once ({share})"]
    cells = [[as_written(r.radius), r.samples, *(percent(c, r.samples) for c in (r.certified, r.sure, r.together))]
             for r in table(results, plan, radii)]  # fmt: skip
    if attacked:
        columns.append("not broken")
        for row, radius in zip(cells, radii, strict=True):
            row.append(percent(sum(a.broken is None or a.broken > radius for a in attacked), len(attacked)))
    show_table(columns, cells, stderr=stderr)
    draws = sum(sum(r.selection) + sum(r.counts) for r in results)
    say(f"{draws / len(results):.0f} draws per sample, {sum(r.time_s for r in results):.1f} s")


def keep_accuracy(
    results: Sequence[SmoothResult], attacked: Sequence[Attacked], plan: Plan, radii: list[float], out: Path
) -> None:
    """Write the per-sample table, the one by radius and the plot into `out`."""
    from benchmarks.smooth import draw, table, write_table, write_tsv

    write_tsv(results, out / "results.tsv")
    write_table(table(results, plan, radii), out / "table.tsv")
    if drawable(out / "accuracy.png"):
        draw(results, attacked, plan.noise.norm, out / "accuracy.png")
    say(f"evidence and accuracy by radius: {out}")
