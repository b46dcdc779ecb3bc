"""What a batch solved, by category and by how hard others found it: `python -m benchmarks.tiers RESULTS TIERS`.

TIERS is a CSV file with columns category, onnx, vnnlib, expected and tier: `expected` is "sat" or "unsat" where the
tools that tried the instance agree on it, and `tier` is one of TIERS, by how many solved it and how fast.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import entry
from benchmarks.store import Result, ResultStore
from certify.errors import MalformedSpec

TIERS = ("easy", "medium", "hard", "very_hard", "unsolved")
COLUMNS = ("category", "onnx", "vnnlib", "expected", "tier")

Key = tuple[str, str, str]


@dataclass
class Cell:
    """Instances of one category and tier: how many were run, solved by us, and decided by the others' consensus."""

    run: int = 0
    solved: int = 0
    decided: int = 0

    def __str__(self) -> str:
        return f"{self.solved}/{self.run}" if self.run else "-"


def read_tiers(path: str | Path) -> dict[Key, tuple[str, str]]:
    """(expected, tier) of every instance. Raises MalformedSpec."""
    remedy = f"the file needs a header with {', '.join(COLUMNS)}, and tiers among {', '.join(TIERS)}"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MalformedSpec(f"{path} cannot be read: {error}", remedy) from error
    if not rows or any(name not in rows[0] for name in COLUMNS):
        raise MalformedSpec(f"{path} lacks columns or rows", remedy)
    if strange := {row["tier"] for row in rows} - set(TIERS):
        raise MalformedSpec(f"{path} names the tier {min(strange)!r}", remedy)
    return {(row["category"], row["onnx"], row["vnnlib"]): (row["expected"], row["tier"]) for row in rows}


def by_tier(results: Iterable[Result], tiers: Mapping[Key, tuple[str, str]]) -> dict[tuple[str, str], Cell]:
    """{(category, tier): cell}, with "total" as a category and as a tier. What `tiers` lacks is left out; a verdict
    contrary to the consensus is not solved."""
    cells: dict[tuple[str, str], Cell] = defaultdict(Cell)
    for result in results:
        key = (result.category, result.onnx, result.vnnlib)
        if key not in tiers:
            continue
        expected, tier = tiers[key]
        for place in ((c, t) for c in (result.category, "total") for t in (tier, "total")):
            cell = cells[place]
            cell.run += 1
            cell.solved += result.verdict in ("verified", "falsified") and not result.contrary
            cell.decided += expected in ("sat", "unsat")
    return dict(cells)


def table(cells: Mapping[tuple[str, str], Cell]) -> str:
    """A line per category: solved/run in each tier and in all, and how many the others' consensus decides."""
    names = [*sorted({category for category, _ in cells} - {"total"}), "total"]
    lines = [("category", *TIERS, "total", "consensus")]
    for name in names:
        row = [cells.get((name, tier), Cell()) for tier in (*TIERS, "total")]
        lines.append((name, *map(str, row), str(row[-1].decided)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a batch solved, by category and by how hard others found it.")
    parser.add_argument("results", type=Path, help="what `certify batch --out` wrote")
    parser.add_argument("tiers", type=Path, help="the instances' tiers")
    chosen = parser.parse_args()
    if not chosen.results.is_file():
        parser.error(f"{chosen.results} is not there")
    with ResultStore(chosen.results) as store:
        found = list(store.results)
    print(table(by_tier(found, read_tiers(chosen.tiers))))


if __name__ == "__main__":
    entry(main)
