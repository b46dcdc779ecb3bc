"""Tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal

from certify.commands.terminal import emit, say

PIPED_WIDTH = 200  # characters, where there is no terminal that says how wide it is


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, stderr: bool = False) -> None:
    """A table on standard output, or on standard error; all columns but the first are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(stderr=stderr, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    with console.capture() as text:  # left to print, rich would end the process where nobody reads the results
        console.print(table)
    (say if stderr else emit)(text.get().rstrip("\n"))


def percent(count: int, total: int) -> str:
    """count / total as a percentage; "-" where there is nothing."""
    return f"{100 * count / total:.1f} %" if total else "-"


def rounded(number: float, digits: int, way: str) -> str:
    """The number with so many digits, rounded the way that a constant of `decimal` names: to nearest, a bound might
    say more than is known."""
    if not math.isfinite(number):
        return f"{number:g}"
    return f"{Context(digits, way).create_decimal(Decimal(number)).normalize():g}"
