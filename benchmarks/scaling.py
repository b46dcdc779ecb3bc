"""What one more domain costs a search that has bounded a thousand, and one that has bounded a million.

`python -m benchmarks.scaling [--domains 1000000] [--memory 256] [--only boxes|neurons] [--json]`, some minutes.
Networks have random weights, fixed by a seed. The property bounds the output by so little less than the least that
was met that the search does not end; nothing is attacked. Every proof goes to the checker. Times are those of the
searching thread, which other work on the machine stretches less; resident memory is that of the whole process.

What a domain costs depends on the domain: at first all are large, none is closed, and each is looked at closely to
split it; later half of them are closed. So beside the time per domain as they come there is that of the same domains
every time, bounded and cut once more at each mark, and that of all the search does beside bounding and splitting: its
pool, its trees and what passes between it and the checker. Where these two are flat, nothing grows with the past.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import entry
from benchmarks.throughput import mlp
from certify.bab.domains import Domains
from certify.bab.engine import Engine, Problem
from certify.bab.input_split import InputSplit
from certify.bab.neuron_split import NeuronSplit
from certify.bab.search import Progress, Search
from certify.bounds.base import apart
from certify.bounds.intermediate import intermediate, worth_refining
from certify.bounds.optimise import Schedule
from certify.budget import Budget
from certify.check.checker import Checker
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Graph
from certify.memory import keep_freed_memory
from certify.spec.inputset import stack
from certify.spec.property import Property, clause
from certify.spec.query import Case
from certify.spec.regions import box
from certify.threads import one_thread_each

CHEAP = Schedule(steps=2, lines=0.15, multipliers=0.3, weights=0.2, trial=1)
SAMPLES = 10_000
TRIES = 5
"""How often the same domains are bounded at every mark; the best time counts."""

FIRST = 1000
"""Domains before the first measurement: what comes before is start-up."""


@dataclass(frozen=True)
class Hard:
    """A search that lasts: over boxes or neurons, of an MLP on the unit box scaled by `radius`, whose output is asked
    to stay above its sampled minimum less `gap` of its sampled range."""

    name: str
    widths: tuple[int, ...]
    radius: float
    gap: float


HARD = (
    Hard("boxes", (10, 32, 32, 1), 2.0, 0.005),
    Hard("neurons", (32, 64, 64, 1), 0.2, 0.02),
)


@dataclass(frozen=True)
class Mark:
    """How far a search was: domains bounded, open and closed; seconds of its thread and of the process since the mark
    before, per domain; of these its thread's outside the engine; those of one of the same domains every time; bytes
    resident, per open domain, on paper, and of the tree and its proofs in memory."""

    bounded: int
    open: int
    closed: int
    searching: float
    all: float
    keeping: float
    same: float
    resident: int
    each: float
    paper: float
    evidence: int


def problem_of(hard: Hard, budget: Budget) -> tuple[Problem, Case]:
    """The search problem, and the case that it is of."""
    rng = np.random.default_rng(0)
    graph = mlp(hard.widths, rng)
    centre = rng.uniform(-1, 1, hard.widths[0])
    lower, upper = centre - hard.radius, centre + hard.radius
    values = evaluate(graph, rng.uniform(lower, upper, (SAMPLES, len(centre))))
    below = lowest(graph, lower, upper, rng) - hard.gap * float(values.max() - values.min())
    case = Case(box(lower, upper), Property((clause(np.ones((1, 1)), np.array([below])),)))
    ((_, inputs),) = stack([case.region], torch.float32)
    return Problem(Network(graph), 0, case.region, inputs, case.property.clauses, (0,), budget), case


def lowest(graph: Graph, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> float:
    """The least output met by random steps downhill, ever shorter, from many starts."""
    at = rng.uniform(lower, upper, (256, len(lower)))
    for reach in 0.5 * 0.85 ** np.arange(50):
        steps = reach * (upper - lower) * rng.uniform(-1, 1, (len(at), 32, len(lower)))
        tried = np.concatenate([at[:, None], (at[:, None] + steps).clip(lower, upper)], 1)
        values = evaluate(graph, tried.reshape(-1, len(lower))).reshape(len(at), -1)
        at = tried[np.arange(len(at)), values.argmin(1)]
    return float(evaluate(graph, at).min())


def engine_of(hard: Hard, problem: Problem) -> Engine:
    if hard.name == "boxes":
        return InputSplit(problem, worth_refining(problem.network.graph))
    return NeuronSplit(problem, apart(intermediate(problem.network, problem.inputs)), schedule=CHEAP)


def paper(search: Search) -> float:
    """Bytes per open domain, counted by hand: both ends of a box, its tree, row and bound; or half of what two siblings
    share: a byte per line, 17 per split of the path, the weights, the cut, trees, rows and bound. A pool holds some
    more, up to twice as much, as layers that are partly taken are copied when half of them is."""
    engine = search.engine
    if isinstance(engine, InputSplit):
        return 2 * 4 * engine.network.graph.input_size + 20
    return (len(engine.sloped[0]) + 17 * depth(search) + 4 * engine.depth + 20 + 20 + 16) / 2


def depth(search: Search) -> float:
    """The mean depth of leaves of the first tree, open or not."""
    rows = search.builders[0].rows
    leaves = np.flatnonzero(rows["node"] < 0)
    leaves = leaves[np.linspace(0, len(leaves) - 1, 1000).astype(int)]
    total, left = 0, leaves
    while len(left):
        total += len(left)
        left = rows["parent"][left]
        left = left[left > 0]
    return total / len(leaves) - 1


def resident() -> int:
    """Bytes of this process that lie in memory now; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Marks:
    """Takes marks as a search reports its progress, at 1, 3, 10, 30, ... thousand domains, and stops it at the last."""

    def __init__(self, most: int, budget: Budget, note: Callable[[Mark], None]) -> None:
        self.budget, self.note = budget, note
        self.search: Search | None = None
        self._at = [n for k in range(3, 10) for n in (10**k, 3 * 10**k) if n <= most]
        self._last = (0, 0.0, 0.0)
        self._inside = 0.0
        self._sample: Domains | None = None

    def watch(self, engine: Engine) -> Engine:
        """The engine, its seconds counted, and the domains kept that it was given last before the first mark."""
        whole = engine.bound

        def bound(domains: Domains) -> object:
            if not self._last[0]:
                self._sample = domains
            return whole(domains)

        def counted(work: Callable[..., object]) -> Callable[..., object]:
            def run(*given: object) -> object:
                began = time.thread_time()
                try:
                    return work(*given)
                finally:
                    self._inside += time.thread_time() - began

            return run

        for name in ("bound", "prove", "cut", "children"):
            setattr(engine, name, counted(bound if name == "bound" else getattr(engine, name)))
        return engine

    def _same(self, search: Search) -> float:
        """Seconds per domain of bounding and cutting the same ones every time, the best of some tries."""
        engine = search.engine

        def work() -> float:
            began = time.thread_time()
            bounded = engine.bound(self._sample)
            engine.cut(self._sample, bounded, (~bounded.closed).nonzero().squeeze(1))
            return time.thread_time() - began

        return min(work() for _ in range(TRIES)) / len(self._sample)

    def __call__(self, progress: Progress) -> None:
        search = self.search
        bounded = sum(b.size for b in search.builders) - len(search.pool)
        if not self._at or bounded < self._at[0]:
            return
        now = (bounded, time.thread_time(), time.process_time())
        count, searching, everything = (b - a for a, b in zip(self._last, now, strict=True))
        keeping = searching - self._inside
        mark = Mark(
            bounded,
            len(search.pool),
            search.closed,
            searching / count,
            everything / count,
            keeping / count,
            self._same(search),
            resident(),
            search.pool.bytes / max(len(search.pool), 1),
            paper(search),
            sum(b.bytes for b in search.builders),
        )
        self.note(mark)
        self._at = [n for n in self._at if n > bounded]
        if not self._at:
            self.budget.cancel()
        self._inside = 0.0
        everything = time.process_time()  # first, as it is read last above: the process's span holds the thread's
        self._last = (bounded, time.thread_time(), everything)


def measure(hard: Hard, most: int, memory: int, note: Callable[[Mark], None]) -> None:
    """Bound up to `most` domains, and `note` the marks."""
    budget = Budget(None, memory)
    problem, case = problem_of(hard, budget)
    checker = Checker(problem.network.graph, (case,), worth_refining(problem.network.graph), memory)
    marks = Marks(most, budget, note)
    search = Search(
        marks.watch(engine_of(hard, problem)),
        0,
        lambda tree: checker.accept(tree, deadline=lambda: budget.expired),
        lambda points: None,
        budget,
        range(len(problem.network.graph.nodes)),
        marks,
    )
    marks.search = search
    try:
        search.run()
    finally:
        search.close()


HEADS = (
    "bounded",
    "open",
    "closed",
    "search us",
    "all us",
    "keeping us",
    "same us",
    "resident MB",
    "B/open",
    "on paper",
    "evidence MB",
)


def shown(m: Mark) -> str:
    """A mark as a line of text, under HEADS."""
    counts = (f"{n:,}" for n in (m.bounded, m.open, m.closed))
    times = (f"{1e6 * t:.1f}" for t in (m.searching, m.all, m.keeping, m.same))
    sizes = (f"{m.resident / 1e6:.0f}", f"{m.each:.0f}", f"{m.paper:.0f}", f"{m.evidence / 1e6:.1f}")
    return "".join(f"{c:>12}" for c in (*counts, *times, *sizes))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--domains", type=int, default=1_000_000, help="how many to bound, at least 1000")
    parser.add_argument("--memory", type=int, default=256, help="the budget's megabytes")
    parser.add_argument("--only", choices=[h.name for h in HARD])
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead of tables")
    given = parser.parse_args(arguments)
    keep_freed_memory()  # as the program does
    with one_thread_each(), torch.no_grad():
        for hard in HARD:
            if given.only not in (None, hard.name):
                continue
            if given.json:
                note = partial(_as_json, hard.name)
            else:
                print(
                    f"{hard.name}: per domain since the line before\n" + "".join(f"{h:>12}" for h in HEADS), flush=True
                )
                note = _as_text
            measure(hard, max(given.domains, FIRST), given.memory << 20, note)


def _as_text(mark: Mark) -> None:
    print(shown(mark), flush=True)


def _as_json(name: str, mark: Mark) -> None:
    print(json.dumps({"search": name, **asdict(mark)}), flush=True)


if __name__ == "__main__":
    entry(main)
