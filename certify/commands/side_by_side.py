"""Tables and lists of a suite's results, ours beside other tools'."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from certify.commands.tables import show_table
from certify.commands.terminal import finite, say

if TYPE_CHECKING:
    from benchmarks.bench import Comparison, Key, Measured, Pair, Standing

SHOWN = 60  # characters of an error in a list
STANDING = ("category", "run", "solved", "contrary", "PAR-2 s", "median wall s", "median own s")


def line(row: Measured) -> str:
    """The run for people, on one line."""
    contrary = f"  CONTRARY TO THE EXPECTED {row.expected}" if row.contrary else ""
    own = "-" if math.isnan(row.own_s) else f"{row.own_s:.2f}"
    name = f"{row.category} {Path(row.onnx).name} {Path(row.vnnlib).name}"
    return f"{row.verdict[:SHOWN]:8} {row.wall_s:8.2f} s, own {own:>6} s  {name}{contrary}"


def finite_fields(row: Measured | Standing | Comparison) -> dict[str, object]:
    """The row for --json: null for numbers that are not there."""
    return {name: finite(value) if isinstance(value, float) else value for name, value in asdict(row).items()}


class Report:
    """What all runs say together: our own table, and one for each other tool over the instances that both ran."""

    def __init__(self, rows: Sequence[Measured], peers: dict[str, dict[Key, Measured]]) -> None:
        from benchmarks.bench import compare, paired, standings

        self.rows = rows
        self.ours: list[Standing] = standings(rows)
        self.pairs: dict[str, list[Pair]] = {name: paired(rows, peer) for name, peer in peers.items()}
        self.compared: dict[str, list[Comparison]] = {name: compare(pairs) for name, pairs in self.pairs.items()}

    def fields(self) -> dict[str, object]:
        """For --json: the tables, with null for means over nothing."""
        tables = {name: [finite_fields(row) for row in rows] for name, rows in self.compared.items()}
        return {"ours": [finite_fields(row) for row in self.ours], "peers": tables}

    def show(self, write: Callable[[str], None]) -> None:
        """All of it for people, a line at a time."""
        stderr = write is say
        show_table(STANDING, map(_standing_cells, self.ours), stderr=stderr)
        write(self._summary())
        for name, rows in self.compared.items():
            write("")
            write(_heading(name, self.pairs[name], rows))
            show_table(_columns(name), map(_comparison_cells, rows), stderr=stderr)
            self._show_lists(name, write)
        for row in self.rows:
            if row.contrary:
                write(f"!!! {line(row)}")

    def _show_lists(self, name: str, write: Callable[[str], None]) -> None:
        from benchmarks.bench import disagree

        pairs = self.pairs[name]
        only_its = [(a, b) for a, b in pairs if b.solved and not a.solved]
        only_ours = [(a, b) for a, b in pairs if a.solved and not b.solved]
        for title, found in ((f"only {name} solved", only_its), ("only we solved", only_ours)):
            write(f"{title}: {len(found)}")
            for ours, its in found:
                write(f"  {line(ours)}  ({name}: {its.verdict[:SHOWN]}, {its.wall_s:.2f} s)")
        for ours, its in pairs:
            if disagree((ours, its)):
                write(f"!!! {line(ours)}  WHERE {name} SAYS {its.verdict}")
            if its.contrary:
                write(f"!!! {name} SAYS {its.verdict} OF  {ours.category} {ours.onnx} {ours.vnnlib}")

    def _summary(self) -> str:
        total = self.ours[-1]
        loads = [row.load for row in self.rows if not math.isnan(row.load)]
        text = f"Solved {total.solved} of {total.instances} at {_limits(self.rows)} each, PAR-2 {total.par2:.0f} s, "
        text += f"{total.contrary} CONTRARY" if total.contrary else "none contrary"
        return f"{text}; load before a run up to {max(loads):.1f}." if loads else f"{text}."

    def markdown(self) -> str:
        """The tables, without the lists."""
        parts = [self._summary(), _markdown(STANDING, map(_standing_cells, self.ours))]
        for name, rows in self.compared.items():
            parts += [_heading(name, self.pairs[name], rows), _markdown(_columns(name), map(_comparison_cells, rows))]
        return "\n\n".join(parts) + "\n"


def _columns(name: str) -> tuple[str, ...]:
    counts = ("category", "run", "solved", f"{name} solved", "both")
    return (*counts, "PAR-2 s", f"{name} PAR-2 s", "wall ratio", "own ratio")


def _heading(name: str, pairs: Sequence[Pair], rows: Sequence[Comparison]) -> str:
    """What the table beside the tool compares, and where we are worst."""
    from benchmarks.bench import LEAST, worst

    text = f"Beside {name}, on the {len(pairs)} instances that it ran too. Ratios: our seconds over its, each at least "
    text += f"{LEAST:g}, geometric mean over the {rows[-1].both} instances that both solved"
    found = worst(rows)
    if found is not None:
        wall, own = found
        text += f"; worst in {wall.category} ({_number(wall.wall)} wall), {own.category} ({_number(own.own)} own)"
    if any(ours.timeout_s != its.timeout_s for ours, its in pairs):
        text += f". Its limit was {_limits(its for _, its in pairs)}, ours {_limits(ours for ours, _ in pairs)}"
    return f"{text}."


def _limits(rows: Iterable[Measured]) -> str:
    return "/".join(f"{seconds:g} s" for seconds in sorted({row.timeout_s for row in rows})) or "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _standing_cells(row: Standing) -> list[str]:
    counts = map(str, (row.instances, row.solved, row.contrary))
    return [row.category, *counts, f"{row.par2:.0f}", _number(row.wall_s), _number(row.own_s)]


def _comparison_cells(row: Comparison) -> list[str]:
    counts = map(str, (row.instances, row.solved, row.peer_solved, row.both))
    return [row.category, *counts, f"{row.par2:.0f}", f"{row.peer_par2:.0f}", _number(row.wall), _number(row.own)]


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
