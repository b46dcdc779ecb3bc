"""Exact adversarial accuracy of trained networks: what is decided, how fast, and what each part of the method gains.

python -m benchmarks.exact_accuracy --data mnist --net cnn-ibp --out DIR [--images 100] [--timeout 120] [--ways ...]
python -m benchmarks.exact_accuracy --data mnist --net cnn-ibp --out DIR --report

Nets are an MLP of 3 x 100 ReLUs and a CNN of two convolutions and a dense layer (4804 ReLUs), each trained normally
or on interval bounds; a net that DIR/models does not hold is trained first, in minutes. Each image is judged in the
L-infinity ball of radius --eps by every way in turn, in one run: `auto` and `mip` are what `certify verify` does, with
a proof that the checker accepts; `naive` is `benchmarks.naive`; the others solve one big-M program for each class that
intervals do not exclude, stopped at the sign of its bound, with bounds of neurons by ever more stages of tightening.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from benchmarks import naive
from benchmarks.command import entry
from benchmarks.robust import SampleStore, stored
from certify.bounds.intermediate import unstable
from certify.budget import Budget
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.mip.columns import Columns
from certify.mip.distance import bounded
from certify.mip.encode import Encoded
from certify.mip.tighten import Effort
from certify.passes import simplify
from certify.solvers.highs import Limits, solve_mixed
from certify.spec.property import Clause, Property, robust
from certify.spec.query import Case, Query
from certify.spec.regions import Region, ball
from certify.strategy import Method, Strategy
from certify.verifier import verify
from models import zoo
from models.data import Data, load
from training.certified import IBP
from training.loop import train
from training.optimiser import Adam
from training.plan import Plan
from training.standard import Standard

Array = np.ndarray

IMAGE = {"shape": [1, 28, 28], "classes": 10}
MLP = zoo.Description("mlp", {**IMAGE, "hidden": [100, 100, 100]})
CNN = zoo.Description("cnn", {**IMAGE, "channels": [4, 8], "hidden": 100})
NORMAL = Plan(Standard(), epochs=3, batch=64, optimiser=Adam(2e-3))
ROBUST = Plan(IBP(), epsilon=0.1, epochs=10, batch=64, optimiser=Adam(2e-3))
NETS = {"mlp": (MLP, NORMAL), "cnn": (CNN, NORMAL), "mlp-ibp": (MLP, ROBUST), "cnn-ibp": (CNN, ROBUST)}

SAFE = 1e-6
"""A program's least margin counts as positive from here on: solvers work with tolerances."""

STAGES: dict[str, Effort | None] = {
    "linear": None,
    "optimised": Effort(linear=False, whole=0.0),
    "lp": Effort(whole=0.0),
    "whole": Effort(),
}
"""Bounds of neurons for the program: by backward propagation, then by ever more stages."""

SEARCHES = {"auto": Method.AUTO, "mip": Method.MIP}
WAYS = (*SEARCHES, "naive", *STAGES)


@dataclass(frozen=True)
class Judged:
    """One image by one way: the verdict, seconds (wall clock, and of this thread's processor), and for the stages how
    many neurons stay unstable and the seconds that their bounds took."""

    index: int
    label: int
    way: str
    verdict: str
    time_s: float
    thread_s: float
    unstable: int | None = None
    bounding_s: float | None = None

    @property
    def decided(self) -> bool:
        return self.verdict in ("verified", "falsified")


def network_file(name: str, data_name: str, data: Data, folder: Path) -> Path:
    """The saved net; trained first if it is not there."""
    path = folder / "models" / f"{data_name}-{name}.safetensors"
    if not path.exists():
        description, plan = NETS[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        trained = train(description, data, plan, each_epoch=lambda epoch: print(epoch, flush=True))
        trained.save(path, data=data, data_name=data_name, command="python -m benchmarks.exact_accuracy")
    return path


class Judge:
    """All ways to decide an image of one network."""

    def __init__(self, path: Path, eps: float, timeout: float) -> None:
        self.network, self.eps, self.timeout = load_network(str(path)), eps, timeout
        self.wide = Network(simplify(self.network.graph).graph, torch.float64)

    def __call__(self, index: int, x: Array, label: int, way: str) -> Judged:
        region = ball(x.reshape(-1), self.eps, within=(0, 1))
        prop = robust(label, self.network.graph.output_size)
        if self._unsafe(prop)(x.reshape(-1).astype(np.float64)):
            return Judged(index, label, way, "misclassified", 0.0, 0.0)
        budget, began, thread = Budget(self.timeout), time.monotonic(), time.thread_time()
        left, bounding = None, None
        if way in SEARCHES:
            query = Query(self.network.source, self.network.graph, (Case(region, prop),))
            verdict = verify(query, Strategy(method=SEARCHES[way]), budget).name
        elif way == "naive":
            verdict = naive.decide(self.wide, region, prop, budget, self._unsafe(prop))
        else:
            columns, _ = bounded(self.wide, region, budget, STAGES[way])
            left, bounding = _unstable(columns), round(time.monotonic() - began, 3)
            verdict = self._by_program(columns, region, prop, budget)
        seconds = round(time.monotonic() - began, 3), round(time.thread_time() - thread, 3)
        return Judged(index, label, way, verdict, *seconds, left, bounding)

    def _unsafe(self, prop: Property) -> Callable[[Array], bool]:
        def unsafe(x: Array) -> bool:
            y = np.asarray(self.network.source(x), np.float64).reshape(-1)
            return prop.violated(y) is not None

        return unsafe

    def _by_program(self, columns: Columns, region: Region, prop: Property, budget: Budget) -> str:
        """One program for each clause, until the sign of its bound is known."""
        unsafe, met = self._unsafe(prop), []

        def better(objective: float, x: Array) -> None:
            point = np.clip(columns.input_at(x), region.lower, region.upper)
            if unsafe(point):
                met.append(point)

        for clause in prop.clauses:
            if not _safe(columns, clause, budget, better, lambda: bool(met)):
                return "falsified" if met else "unknown"
        return "verified"


def _safe(
    columns: Columns,
    clause: Clause,
    budget: Budget,
    better: Callable[[float, Array], None],
    enough: Callable[[], bool],
) -> bool:
    """Whether the solver says that the clause's largest row stays positive."""
    encoded, rows = Encoded(columns), columns.objective(clause)
    level = encoded.new(np.array([-np.inf]), np.array([np.inf]))
    encoded.affine(rows, -np.inf, 0.0, np.repeat(level, len(rows.constant)))
    cost = np.zeros(len(encoded.lower))
    cost[level] = 1.0
    limits = Limits(seconds=budget.remaining, above=SAFE, stop=lambda: budget.expired or enough())
    found = solve_mixed(encoded.program(cost), limits, better=better)
    if found.x is not None:
        better(found.objective, found.x)
    return found.bound > SAFE


def _unstable(columns: Columns) -> int:
    graph = columns.network.graph
    return sum(int(unstable(graph, v, interval).sum()) for v, interval in columns.bounds.items())


def campaign(
    judge: Judge, data: Data, images: int, ways: Sequence[str], store: SampleStore[Judged]
) -> Iterator[Judged]:
    """Every image by every way, but for what the store has."""
    done = {(row.index, row.way) for row in store.results}
    for index in range(images):
        for way in ways:
            if (index, way) not in done:
                row = judge(index, data.x_test[index], int(data.y_test[index]), way)
                store.append(row)
                yield row


def report(rows: Sequence[Judged], timeout: float) -> str:
    """For every way: images classified right, robust and not, decided, median seconds (an undecided image counts as
    the limit) and of the processor, unstable neurons; then pairs of ways on the images that both saw."""
    lines = [f"{'way':10} images  right  robust  not  decided  median s  thread s  unstable  bounding s"]
    by_way = {way: {r.index: r for r in rows if r.way == way} for way in WAYS}
    for way, found in by_way.items():
        right = [r for r in found.values() if r.verdict != "misclassified"]
        if not right:
            continue
        counts = [sum(r.verdict == v for r in right) for v in ("verified", "falsified")]
        share = sum(r.decided for r in right) / len(right)
        median, thread = _median(right, timeout), float(np.median([r.thread_s for r in right]))
        extra = [[getattr(r, name) for r in right] for name in ("unstable", "bounding_s")]
        shown = ["" if None in values else f"{np.median(values):.1f}" for values in extra]
        lines.append(
            f"{way:10} {len(found):6}  {len(right):5}  {counts[0]:6}  {counts[1]:3}  {share:7.0%}  {median:8.2f}  "
            f"{thread:8.2f}  {shown[0]:>8}  {shown[1]:>10}"
        )
    for before, after in (("naive", "mip"), ("naive", "auto"), *zip(list(STAGES), list(STAGES)[1:], strict=False)):
        both = sorted(by_way[before].keys() & by_way[after].keys())
        pairs = [(by_way[before][i], by_way[after][i]) for i in both if by_way[before][i].verdict != "misclassified"]
        if pairs:
            ratio = np.median([max(a.time_s, 1e-3) / max(b.time_s, 1e-3) for a, b in pairs])
            medians = [_median([pair[k] for pair in pairs], timeout) for k in (0, 1)]
            lines.append(
                f"{before} -> {after}, {len(pairs)} images: median {medians[0]:.2f} s -> {medians[1]:.2f} s, "
                f"median ratio {ratio:.1f}, decided {sum(a.decided for a, _ in pairs)} -> "
                f"{sum(b.decided for _, b in pairs)}"
            )
    contrary = {
        i for i in {r.index for r in rows} if {"verified", "falsified"} <= {r.verdict for r in rows if r.index == i}
    }
    return "\n".join([*lines, f"images on which ways contradict each other: {sorted(contrary) or 'none'}"])


def _median(rows: Sequence[Judged], timeout: float) -> float:
    return float(np.median([r.time_s if r.decided else timeout for r in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", choices=("mnist", "fashion-mnist"))
    parser.add_argument("--net", default="cnn-ibp", choices=tuple(NETS))
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=100, help="the first of the test images")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for an image by one way")
    parser.add_argument("--ways", default="auto,mip,naive", help=f"of {', '.join(WAYS)}; with commas")
    parser.add_argument("--out", type=Path, required=True, help="folder of nets and results; a run goes on there")
    parser.add_argument("--report", action="store_true", help="only say what is there")
    options = parser.parse_args()
    ways = options.ways.split(",")
    if strange := [w for w in ways if w not in WAYS]:
        parser.error(f"there is no way {strange[0]!r}; there are {', '.join(WAYS)}")
    torch.set_num_threads(1)
    folder = options.out / f"{options.data}-{options.net}"
    if not options.report:
        data = load(options.data)
        path = network_file(options.net, options.data, data, options.out)
        settings = {"eps": options.eps, "timeout": options.timeout, "net": sha256(path.read_bytes()).hexdigest()}
        store = SampleStore(folder, settings, Judged)
        for row in campaign(Judge(path, options.eps, options.timeout), data, options.images, ways, store):
            print(row, flush=True)
    print(report(stored(folder, Judged), options.timeout))


if __name__ == "__main__":
    entry(main)
