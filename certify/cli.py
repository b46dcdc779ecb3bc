"""The `certify` program: its commands, and how they are run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import typer

from certify.commands.batch import batch
from certify.commands.check import check
from certify.commands.demo import demo
from certify.commands.inspect import inspect
from certify.commands.robust import robust
from certify.commands.terminal import guarded
from certify.commands.verify import verify

app = typer.Typer(
    help="Formal verification of neural networks: verified, falsified with a witness, or unknown with the reason.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (verify, batch, robust, inspect, check, demo):
    app.command()(guarded(command))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with `arguments`, or else with those of the process; ends by SystemExit.

    A --timeout counts from the start of the process, which is behind us by the processor time used.
    """
    started = time.monotonic() - (time.process_time() if arguments is None else 0.0)
    app(arguments, prog_name="certify", obj=started)
