"""`certify check`: replays saved evidence with the independent checker, from files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certify.commands import options
from certify.commands.terminal import as_json, emit

EXIT_REJECTED = 1


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `certify verify --out` wrote.")],
    net: Annotated[str | None, typer.Option(help="The network, if it is not where the verdict says.")] = None,
    prop: Annotated[Path | None, typer.Option("--property", help="The property, likewise.")] = None,
    as_object: options.Json = False,
) -> None:
    """Replay a saved verdict with the independent checker.

    Exit status: 0 accepted, 1 rejected, 2 files are missing or are not those that the verdict names.
    """
