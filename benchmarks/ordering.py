"""Bounds of small random networks by every method: below the truth, and in the order that theory has them.

python -m benchmarks.ordering --count 500 --out DIR            goes on where it stopped
python -m benchmarks.ordering --out DIR --report               what came out so far

ReLU networks of 2 to 4 inputs and 1 to 3 hidden layers, over boxes. Each method bounds one output from below. All are
given the same bounds of neurons, those of linear programs as the checker rounds them outward, since only over common
ones does theory order the methods. The truth is enumerated in integer arithmetic by `tests.exact`, so this runs from
the repository only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import entry
from benchmarks.robust import SampleStore, stored
from certify.bounds.lp import LpBounds
from certify.bounds.method import BoundMethod
from certify.bounds.methods import IntervalBounds, LinearBounds, WongKolterBounds, ZonotopeBounds
from certify.bounds.multi_neuron import MultiNeuronBounds
from certify.bounds.outward import outward
from certify.bounds.rows import Rows
from certify.bounds.sdp import SdpBounds, SdpFirstOrderBounds
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.spec.inputset import stack
from certify.spec.regions import Region, box

METHODS: dict[str, BoundMethod] = {
    "interval": IntervalBounds(),
    "zonotope": ZonotopeBounds(),
    "wong-kolter": WongKolterBounds(),
    "linear": LinearBounds(),
    "linear, optimised": LinearBounds(steps=20),
    "lp": LpBounds(),
    "multi-neuron": MultiNeuronBounds(),
    "sdp-fo": SdpFirstOrderBounds(steps=50),
    "sdp": SdpBounds(),
}

ORDER = (
    ("interval", "zonotope"),
    ("interval", "linear"),
    ("zonotope", "wong-kolter"),
    *((name, "lp") for name in ("interval", "zonotope", "wong-kolter", "linear", "linear, optimised")),
    ("linear", "linear, optimised"),
    ("lp", "multi-neuron"),
    ("lp", "sdp"),
    ("sdp-fo", "sdp"),
    *((name, "exact") for name in METHODS),
)
"""Looser, tighter."""

EXACT = 1e-9
"""What rounding may cost, in parts of `Ordered.scale`."""

CHARGED = 1e-6
"""What outward rounding may cost."""

BYTES = 0.01
"""What the linear program may lose where its lines' slopes are rounded to bytes for its proof."""

SOLVED = 1e-4
"""How near the conic solver comes to the optimum."""

CLAIMED: dict[tuple[str, str], float] = {
    **{(name, "exact"): EXACT for name in METHODS},
    ("linear", "linear, optimised"): EXACT,
    ("linear", "lp"): EXACT,
    **{(name, "lp"): BYTES for name in ("interval", "zonotope", "wong-kolter", "linear, optimised")},
    ("lp", "multi-neuron"): CHARGED,
    ("lp", "sdp"): CHARGED,
    ("sdp-fo", "sdp"): SOLVED,
}
"""What must hold, and up to what: the looser bound is a case of the tighter one, or the bound would be wrong. The
others of ORDER hold often, and are counted."""

MOST_CELLS = 2000


@dataclass(frozen=True)
class Ordered:
    """One network: the truth, and the bound by each method in the order of METHODS; seconds for each."""

    seed: int
    inputs: int
    neurons: int
    exact: float
    bounds: list[float]
    seconds: list[float]

    def bound(self, name: str) -> float:
        return self.exact if name == "exact" else self.bounds[list(METHODS).index(name)]

    @property
    def scale(self) -> float:
        """What is to be gained: the distance from the interval bound to the truth; where that is nothing, what rounding
        cannot fill."""
        return max(self.exact - self.bound("interval"), 1e-5 * (1 + abs(self.exact)))

    def excess(self, looser: str, tighter: str) -> float:
        """By how much the looser bound is above the tighter one, in parts of `scale`; at most 0 where all is well."""
        return (self.bound(looser) - self.bound(tighter)) / self.scale


def problem(seed: int) -> tuple[Graph, Region]:
    """The network and box of this seed. Weights are float16 numbers, which keeps the integers of the oracle short."""
    rng = np.random.default_rng(seed)

    def short(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float16).astype(np.float64)

    sizes = [int(rng.integers(2, 5)), *(int(n) for n in rng.integers(3, 8, int(rng.integers(1, 4)))), 1]
    build = GraphBuilder([Port("x", (sizes[0],), "float64")])
    x = build.inputs[0]
    for k, (before, after) in enumerate(pairwise(sizes)):
        weight = short(rng.standard_normal((after, before)) * np.sqrt(2 / before))
        x = build.emit(ops.Linear(weight, short(0.3 * rng.standard_normal(after))), x)
        if k < len(sizes) - 2:
            x = build.emit(ops.Relu(), x)
    center, radius = short(rng.uniform(-1, 1, sizes[0])), float(rng.choice([0.125, 0.5, 1.0]))
    return build.build([x], [Port("y", (1,))]), box(center - radius, center + radius)


def measure(seed: int) -> Ordered | None:
    """All bounds of one network; None where it has too many cells for the oracle."""
    from tests import exact

    graph, region = problem(seed)
    try:
        truth = float(exact.minimum(graph, region, np.ones(1), limit=MOST_CELLS))
    except exact.TooComplex:
        return None
    network = Network(graph, torch.float64)
    ((_, inputs),) = stack([region], torch.float64)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    rows = Rows(one, one[..., 0] * 0, one[..., 0] > 0)
    common = outward(network, inputs, sharpened=LpBounds(neurons=1000)(network, inputs, rows).sharpened)
    bounds, seconds = [], []
    for method in METHODS.values():
        began = time.thread_time()
        bounds.append(float(method(network, inputs, rows, within=common).lower[0, 0, 0]))
        seconds.append(round(time.thread_time() - began, 4))
    neurons = sum(graph.nodes[e].size for e in graph.nonlinear)
    return Ordered(seed, graph.input_size, neurons, truth, bounds, seconds)


def campaign(count: int, store: SampleStore[Ordered], of: Callable[[int], Ordered | None]) -> Iterator[Ordered]:
    """Measure every seed that is not in the store, until it has `count` networks."""
    seed = 1 + max((row.seed for row in store.results), default=-1)
    while len(store.results) < count:
        row = of(seed)
        if row is not None:
            store.append(row)
            yield row
        seed += 1


def violations(rows: Sequence[Ordered]) -> list[str]:
    """What contradicts soundness or theory; empty if all is well."""
    found = []
    for (looser, tighter), allowed in CLAIMED.items():
        wrong = [row.seed for row in rows if not row.excess(looser, tighter) <= allowed]
        found += [f"{looser} is above {tighter}: seeds {wrong}"] if wrong else []
    return found


def report(rows: Sequence[Ordered]) -> str:
    """Two tables: how near each method comes to the truth on the way from intervals (1 is exact), and its time; how
    often each pair is in order, and by how much it is not at worst."""
    lines = [f"{len(rows)} networks", f"{'method':18}  {'mean':>6}  {'median':>6}  {'exact':>5}  {'ms':>6}"]
    for k, name in enumerate(METHODS):
        tight = np.array([1 - row.excess("exact", name) if name != "exact" else 1.0 for row in rows])
        tight = np.clip(tight, 0.0, 1.0)
        time_ms = 1e3 * float(np.median([row.seconds[k] for row in rows]))
        hit = float((tight > 1 - 1e-6).mean())
        lines.append(f"{name:18}  {tight.mean():6.3f}  {np.median(tight):6.3f}  {hit:5.0%}  {time_ms:6.1f}")
    lines.append(f"{'looser <= tighter':36}  {'in order':>8}  {'worst':>7}  claimed")
    for looser, tighter in ORDER:
        excess = np.array([row.excess(looser, tighter) for row in rows])
        held = f"{int((excess <= EXACT).sum())}/{len(rows)}"
        allowed = CLAIMED.get((looser, tighter))
        kind = "often" if allowed is None else f"up to {allowed:g}"
        lines.append(f"{looser + ' <= ' + tighter:36}  {held:>8}  {max(excess.max(), 0.0):7.1e}  {kind}")
    return "\n".join([*lines, *(violations(rows) or ["no violation"])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="how many networks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; a run goes on there")
    parser.add_argument("--report", action="store_true", help="only say what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        store = SampleStore(options.out, {"methods": [repr(m) for m in METHODS.values()]}, Ordered)
        for row in campaign(options.count, store, measure):
            print(f"{row.seed}: {row.exact:.4f} {[round(b, 4) for b in row.bounds]}", flush=True)
    found = stored(options.out, Ordered)
    if found:
        print(report(found))
    raise SystemExit(1 if violations(found) else 0)


if __name__ == "__main__":
    entry(main)
