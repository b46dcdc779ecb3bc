"""Our verifier beside others on the same instances: fresh processes, measured; tables of ratios."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.run import Instance
from certify.errors import MalformedSpec

LEAST_OWN = 0.05
"""Own times below this many seconds count as this: they are noise, or were rounded to nothing."""

GRACE = 30.0
"""Seconds beyond its limit after which a process is stopped."""

VERDICTS = {"verified": "unsat", "falsified": "sat", "unknown": "timeout"}

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Measured:
    """One run of one instance: a row of results, ours or another tool's.

    `verdict` is "sat", "unsat", "timeout" or "error: ..."; `wall_s` the whole process as its user sees it, `own_s` the
    part behind start-up and reading; `peak_rss_mb` its largest resident set; `load` the machine's load before it.
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
    def solved(self) -> bool:
        return self.verdict in ("sat", "unsat")

    @property
    def contrary(self) -> bool:
        """Whether the verdict contradicts what is expected."""
        return self.solved and self.expected in ("sat", "unsat") and self.verdict != self.expected


def measure(instance: Instance, options: Sequence[str] = ()) -> Measured:
    """Run `certify verify` on the instance in a process of its own. Whatever that does becomes a row."""
    command = [sys.executable, "-m", "certify", "verify", str(instance.network), str(instance.property)]
    command += ["--timeout", str(instance.timeout), "--json", *options]
    load = os.getloadavg()[0]
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        usage = _wait(process, began + instance.timeout + GRACE)
        wall = time.monotonic() - began
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    verdict, own = _answer(*texts)
    memory = usage.ru_maxrss / 1024 if usage is not None else 0.0
    place = (instance.category, instance.onnx, instance.vnnlib, instance.timeout, instance.expected)
    return Measured(*place, verdict, round(wall, 3), round(own, 4), round(memory, 1), round(load, 2))


def _wait(process: subprocess.Popen[bytes], deadline: float) -> object:
    """The ended process's resource usage; it is killed at the deadline, and when we are interrupted."""
    try:
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                process.returncode = os.waitstatus_to_exitcode(status)
                return usage
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.005)
    except BaseException:
        process.kill()
        process.wait()
        raise


def _answer(out: str, err: str) -> tuple[str, float]:
    """The verdict and own seconds that a process printed."""
    try:
        found = json.loads(out)
        return VERDICTS[found["verdict"]], float(found["own_s"])
    except (ValueError, KeyError, TypeError):
        lines = [line for line in err.splitlines() if line.strip()]
        ours = [line.removeprefix("certify: ") for line in lines if line.startswith("certify: ")]
        return f"error: {' '.join((ours or lines[-1:] or ['no result'])[0].split())}", 0.0


def read_peer(path: str | Path) -> dict[Key, Measured]:
    """Another tool's results, by category, network and property. Raises MalformedSpec with file and line."""
    needed = ("category", "onnx", "vnnlib", "timeout_s", "expected", "verdict", "wall_s", "own_s")
    remedy = f"the file needs a header with {', '.join(needed)}"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MalformedSpec(f"{path} cannot be read: {error}", remedy) from error
    found = {}
    for line, row in enumerate(rows, 2):
        try:
            numbers = [float(row[name] or 0) for name in ("wall_s", "own_s")]
            entry = Measured(
                *(row[name] for name in needed[:3]), float(row["timeout_s"]), row["expected"], row["verdict"], *numbers,
                float(row.get("peak_rss_mb") or 0), float(row.get("load") or 0),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedSpec(f"not a row of results: {error!r}", remedy, path=str(path), line=line, column=1) from (
                error
            )
        found[entry.key[:3]] = entry
    return found


@dataclass(frozen=True)
class Comparison:
    """We and one other tool on the instances of one category (or all) that both ran.

    PAR-2 is the sum of wall seconds, with twice the limit for what is unsolved. `wall` and `own` are geometric means
    of our time over theirs, over the instances that both solved; NaN if there are none.
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
    """Seconds, twice the limit for each run that did not solve its instance."""
    return sum(r.wall_s if r.solved else 2 * r.timeout_s for r in runs)


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def compare(ours: Sequence[Measured], peer: Mapping[Key, Measured]) -> list[Comparison]:
    """One row per category, in order of name, and a row "all"."""
    pairs = [(r, peer[r.key[:3]]) for r in ours if r.key[:3] in peer]
    names = sorted({r.category for r, _ in pairs})
    groups = [(name, [p for p in pairs if p[0].category == name]) for name in names]
    return [_compared(name, group) for name, group in [*groups, ("all", pairs)]]


def _compared(name: str, pairs: Sequence[tuple[Measured, Measured]]) -> Comparison:
    both = [(a, b) for a, b in pairs if a.solved and b.solved]
    return Comparison(
        name,
        len(pairs),
        sum(a.solved for a, _ in pairs),
        sum(b.solved for _, b in pairs),
        len(both),
        par2(a for a, _ in pairs),
        par2(b for _, b in pairs),
        _mean([max(a.wall_s, 1e-3) / max(b.wall_s, 1e-3) for a, b in both]),
        _mean([max(a.own_s, LEAST_OWN) / max(b.own_s, LEAST_OWN) for a, b in both]),
    )


def only(
    ours: Sequence[Measured], peer: Mapping[Key, Measured], wanted: Callable[[Measured, Measured], bool]
) -> list[Measured]:
    """Our rows for which `wanted(ours, theirs)`."""
    return [r for r in ours if r.key[:3] in peer and wanted(r, peer[r.key[:3]])]


def markdown(rows: Sequence[Comparison], name: str) -> str:
    """The comparison as a table."""
    head = f"| category | run | we solved | {name} solved | both | our PAR-2 | its PAR-2 | wall / wall | own / own |"
    lines = [head, "|---|" + "---:|" * 8]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def cells(row: Comparison) -> list[str]:
    """The row's fields as text."""
    numbers = [row.instances, row.solved, row.peer_solved, row.both]
    ratios = ["-" if math.isnan(x) else f"{x:.2f}" for x in (row.wall, row.own)]
    return [row.category, *map(str, numbers), f"{row.par2:.0f}", f"{row.peer_par2:.0f}", *ratios]
