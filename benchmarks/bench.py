"""Tools side by side on the same instances: tables of results as each tool left them, and what they say together."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from certify.errors import MalformedSpec

LEAST = 0.05
"""Seconds below this count as this in a ratio: they are noise, or were rounded to nothing."""

ANSWERS = ("sat", "unsat")
UNSOLVED = ("timeout", "unknown", "error")

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Measured:
    """One run of one instance: a row of results, ours or another tool's.

    `verdict` is "sat", "unsat", "timeout", "unknown: ..." or "error: ...", `expected` "sat", "unsat", "unknown" or
    empty. `wall_s` are the seconds of the whole process as its user sees it, `own_s` those without start-up, from
    the moment the network's file begins to be read; NaN where the tool does not say. `peak_rss_mb` is the largest
    resident set, `load` the machine's load average before the run.
    """

    category: str
    onnx: str
    vnnlib: str
    timeout_s: float
    expected: str
    verdict: str
    wall_s: float
    own_s: float
    peak_rss_mb: float
    load: float

    @property
    def key(self) -> tuple[str, str, str, float]:
        return (self.category, self.onnx, self.vnnlib, self.timeout_s)

    @property
    def instance(self) -> Key:
        """What was asked, whatever the time limit."""
        return (self.category, self.onnx, self.vnnlib)

    @property
    def contrary(self) -> bool:
        """Whether the verdict contradicts what is expected."""
        return self.verdict in ANSWERS and self.expected in ANSWERS and self.verdict != self.expected

    @property
    def solved(self) -> bool:
        """Whether there is an answer, and not a wrong one."""
        return self.verdict in ANSWERS and not self.contrary


Pair = tuple[Measured, Measured]
"""Our run of an instance, and another tool's."""

NEEDED = ("category", "onnx", "vnnlib", "timeout_s", "expected", "verdict", "wall_s", "own_s")


def read_peer(path: str | Path) -> dict[Key, Measured]:
    """Another tool's results, or an earlier run of ours. Raises MalformedSpec with file and line.

    The header names at least NEEDED, perhaps peak_rss_mb and load. Only what is unsolved may lack wall_s.
    """
    remedy = f"the file needs a header with {', '.join(NEEDED)}, and a row for each instance"
    found: dict[Key, Measured] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if absent:
                raise MalformedSpec(f"the header has no {', '.join(absent)}", remedy, path=str(path), line=1, column=1)
            for row in reader:
                try:
                    entry = _entry(row)
                    if entry.instance in found:
                        raise ValueError("the instance is there twice")
                except ValueError as error:
                    place = {"path": str(path), "line": reader.line_num, "column": 1}
                    raise MalformedSpec(f"not a row of results: {error}", remedy, **place) from error
                found[entry.instance] = entry
    except OSError as error:
        raise MalformedSpec(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedSpec(f"{path} is not a CSV file: {error}", remedy) from error
    return found


def _entry(row: Mapping[str, str | None]) -> Measured:
    """The row's result. Raises ValueError if it is none."""
    if any(row[name] is None for name in NEEDED):
        raise ValueError("it has too few columns")
    words = {name: str(row[name]).strip() for name in ("category", "onnx", "vnnlib", "expected", "verdict")}
    if words["verdict"].split(":")[0] not in (*ANSWERS, *UNSOLVED):
        raise ValueError(f"the verdict {words['verdict']!r} is none of {', '.join((*ANSWERS, *UNSOLVED))}")
    numbers = {name: _seconds(name, row.get(name)) for name in ("timeout_s", "wall_s", "own_s", "peak_rss_mb", "load")}
    entry = Measured(**words, **numbers)
    if not entry.timeout_s > 0:
        raise ValueError("timeout_s must be positive")
    if entry.verdict in ANSWERS and math.isnan(entry.wall_s):
        raise ValueError("it is solved, but says no wall_s")
    return entry


def _seconds(name: str, text: str | None) -> float:
    """The number, NaN if there is none. Raises ValueError if it is negative, infinite or something else."""
    value = float(text) if text is not None and text.strip() else math.nan
    if value < 0 or math.isinf(value):
        raise ValueError(f"{name} cannot be {value:g}")
    return value


@dataclass(frozen=True)
class Standing:
    """What one tool did on one category, or on all: PAR-2, and medians over what it solved, NaN if that is nothing."""

    category: str
    instances: int
    solved: int
    contrary: int
    par2: float
    wall_s: float
    own_s: float


@dataclass(frozen=True)
class Comparison:
    """We and one other tool on the instances of one category, or of all, that both ran.

    `wall` and `own` are geometric means of our seconds over its seconds, each at least LEAST, over the instances
    that both solved, and whose times both say; NaN if there are none.
    """

    category: str
    instances: int
    solved: int
    peer_solved: int
    both: int
    par2: float
    peer_par2: float
    wall: float
    own: float


def par2(runs: Iterable[Measured]) -> float:
    """Wall seconds, with twice the limit for each run that did not solve its instance."""
    return math.fsum(r.wall_s if r.solved else 2 * r.timeout_s for r in runs)


def standings(runs: Sequence[Measured]) -> list[Standing]:
    """One row per category, in order of name, and a row "all"."""
    groups = {name: [r for r in runs if r.category == name] for name in sorted({r.category for r in runs})}
    return [_standing(name, group) for name, group in [*groups.items(), ("all", list(runs))]]


def _standing(name: str, runs: Sequence[Measured]) -> Standing:
    solved = [r for r in runs if r.solved]
    medians = (_median([r.wall_s for r in solved]), _median([r.own_s for r in solved]))
    return Standing(name, len(runs), len(solved), sum(r.contrary for r in runs), par2(runs), *medians)


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def paired(ours: Iterable[Measured], peer: Mapping[Key, Measured]) -> list[Pair]:
    """The instances that both ran. What is expected of an instance is what our list says, for both."""
    return [(r, replace(peer[r.instance], expected=r.expected)) for r in ours if r.instance in peer]


def compare(pairs: Sequence[Pair]) -> list[Comparison]:
    """One row per category, in order of name, and a row "all"."""
    groups = {name: [p for p in pairs if p[0].category == name] for name in sorted({a.category for a, _ in pairs})}
    return [_compared(name, group) for name, group in [*groups.items(), ("all", list(pairs))]]


def _compared(name: str, pairs: Sequence[Pair]) -> Comparison:
    both = [(a, b) for a, b in pairs if a.solved and b.solved]
    return Comparison(
        name,
        len(pairs),
        sum(a.solved for a, _ in pairs),
        sum(b.solved for _, b in pairs),
        len(both),
        par2(a for a, _ in pairs),
        par2(b for _, b in pairs),
        _mean_ratio([(a.wall_s, b.wall_s) for a, b in both]),
        _mean_ratio([(a.own_s, b.own_s) for a, b in both]),
    )


def _mean_ratio(seconds: Iterable[tuple[float, float]]) -> float:
    """The geometric mean of a / b, each at least LEAST, where both are known; NaN if that is nowhere."""
    logs = [math.log(max(a, LEAST) / max(b, LEAST)) for a, b in seconds if not math.isnan(a) and not math.isnan(b)]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def worst(rows: Iterable[Comparison]) -> tuple[Comparison, Comparison] | None:
    """The categories with the largest ratio of wall seconds, and of own ones; None where nothing is solved by both."""
    known = [row for row in rows if row.category != "all" and not math.isnan(row.wall) and not math.isnan(row.own)]
    return (max(known, key=lambda row: row.wall), max(known, key=lambda row: row.own)) if known else None


def disagree(pair: Pair) -> bool:
    """Whether the two give opposite answers where nothing is expected: one of them is wrong."""
    ours, its = pair
    return ours.expected not in ANSWERS and {ours.verdict, its.verdict} == set(ANSWERS)
