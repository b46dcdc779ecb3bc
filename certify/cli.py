"""The `certify` program: its commands, and how they are run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from certify import __version__
from certify.commands.attack import attack
from certify.commands.batch import batch
from certify.commands.bench import bench
from certify.commands.check import check
from certify.commands.demo import demo
from certify.commands.extremes import extremes
from certify.commands.inspect import inspect
from certify.commands.lipschitz import lipschitz
from certify.commands.merge import merge
from certify.commands.radius import radius
from certify.commands.robust import robust
from certify.commands.smooth import smooth
from certify.commands.supports import supports
from certify.commands.sweep import sweep
from certify.commands.terminal import emit, guarded
from certify.commands.train import train
from certify.commands.verify import verify
from certify.commands.visualise import visualise
from certify.memory import keep_freed_memory

app = typer.Typer(
    help="Formal verification of neural networks: verified, falsified with a witness, or unknown with the reason.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(__version__)
        raise typer.Exit


def _show_name(wanted: bool) -> None:
    if wanted:
        emit("certify")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version, and end.")
    ] = False,
    name: Annotated[
        bool, typer.Option("--name", callback=_show_name, is_eager=True, help="Say the program's name, and end.")
    ] = False,
) -> None:
    """What comes before the name of a command."""


for command in (
    verify, batch, bench, robust, attack, radius, extremes, smooth, merge, lipschitz, inspect, visualise, check, train,
    sweep, demo,
):  # fmt: skip
    app.command()(guarded(command))
for name in ("supports", "capabilities"):  # the standard's text calls it both
    # A capability is written like an option, but is one of many that only the command knows.
    app.command(name, context_settings={"ignore_unknown_options": True}, hidden=name == "capabilities")(
        guarded(supports)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with `arguments`, or else with those of the process; ends by SystemExit, or the process.

    A --timeout counts from the start of the process, which is behind us by the processor time used.
    """
    if arguments is not None:
        app(arguments, prog_name="certify", obj=time.monotonic())
    keep_freed_memory()
    try:
        app(prog_name="certify", obj=time.monotonic() - time.process_time())
    except SystemExit as ended:
        _leave(ended.code)


def _leave(status: str | int | None) -> NoReturn:
    """End the process now: a checker that is not needed any more is not waited for, and libraries that hold
    nothing but memory are not taken apart, which takes them half a second."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else 0)
