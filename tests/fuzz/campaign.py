"""Many instances, on several processes; their failures shrunk and saved."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

from certify.verifier import verify
from tests.fuzz import store
from tests.fuzz.generate import instance
from tests.fuzz.harness import Report, examine, same_problem
from tests.fuzz.shrink import shrink


def run(seed: int) -> Report:
    """The report on the instance of this seed."""
    return examine(instance(seed), verify)


def prepare() -> None:
    """One thread per process: the networks are tiny."""
    torch.set_num_threads(1)


def campaign(first: int, size: int, jobs: int, out: Path) -> bool:
    """Runs seeds first .. first + size - 1, prints what came of them, and says whether all was well."""
    seeds = range(first, first + size)
    if jobs == 1:
        bad = _tally(map(run, seeds), size)
    else:
        with multiprocessing.get_context("spawn").Pool(jobs, prepare) as pool:
            bad = _tally(pool.imap_unordered(run, seeds, chunksize=16), size)
    _save(bad, out)
    return not bad


def _tally(reports: Iterable[Report], size: int) -> list[Report]:
    """Counts and prints the reports as they come; returns those with a problem."""
    totals: Counter[str] = Counter()
    started = time.monotonic()
    bad: list[Report] = []
    for done, report in enumerate(reports, 1):
        report.count(totals)
        if report.problem is not None:
            bad.append(report)
            print(f"\nseed {report.seed}: {report.problem.kind}: {report.problem.detail}", flush=True)
        if done % 100 == 0 or done == size:
            rate = done / (time.monotonic() - started)
            print(f"\r{done} of {size}, {rate:.1f} per second, {len(bad)} problems", end="", flush=True)
    print()
    for line, count in sorted(totals.items()):
        print(f"{count:8d}  {line}")
    return bad


def _save(bad: list[Report], out: Path, most: int = 10) -> None:
    """Shrinks and saves one failure of each kind first, `most` in all."""
    kinds: Counter[str] = Counter()
    ranked = []
    for report in sorted(bad, key=lambda r: r.seed):
        ranked.append((kinds[report.problem.kind], report))
        kinds[report.problem.kind] += 1
    for _, report in sorted(ranked, key=lambda pair: pair[0])[:most]:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{report.seed}-{report.problem.kind.replace(' ', '-')}.npz"
        store.save(shrink(instance(report.seed), same_problem(report, verify)), path)
        print(f"saved {path}; again by: python -m tests.fuzz --replay {path}", flush=True)
