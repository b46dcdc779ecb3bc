"""`certify merge`: one smoothing run from the folders of the machines that shared it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certify.commands.accuracy import keep_accuracy, show_accuracy, table_radii
from certify.commands.terminal import emit


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of `certify smooth --out`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the whole run.")],
    radii: Annotated[str | None, typer.Option(help="Radii of the table, with commas.")] = None,
) -> None:
    """Join what several machines did of one smoothing run: other samples each, or shares of the same samples' draws.

    The folder then holds what one machine would have left there, and `certify check` replays it. Runs of another
    network, data set, noise, plan or seed are refused, and so are draws that are there twice, or missing. Exit
    status: 0 joined, 2 refused.
    """
    from benchmarks.shares import merge as join

    results, plan = join(folders, out)
    emit(f"merged: {len(results)} samples of {len(folders)} folders in {out}")
    if results:
        asked = table_radii(results, radii)
        show_accuracy(results, [], plan, asked, stderr=False)
        keep_accuracy(results, [], plan, asked, out)
