"""Lipschitz bounds of random small networks, from the loosest to the exact one, and what an attack finds.

`python -m benchmarks.lipschitz --out DIR` measures 200 networks and prints how tight each bound is; a run resumes. Each
network has one output and is bounded over a box, in L2 and in L-infinity. Every bound must be above all of 10^5 sampled
gradients: the run ends with an error where one is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import entry
from benchmarks.robust import SampleStore
from certify.errors import CertifyError
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Node, Port
from certify.lipschitz.branch import local_bound
from certify.lipschitz.local import Jacobian, slopes_over, whole_slopes
from certify.lipschitz.network import global_bound
from certify.lipschitz.sdp import Multipliers, lip_sdp
from certify.lipschitz.system import global_slopes
from certify.spec.regions import Region, box

Array = np.ndarray

SAMPLES = 100_000
CLIMBS = 300
DOMAINS, MOST_DOMAINS = 64, 20_000
NORMS = {"2": 2.0, "inf": np.inf}
CONSTANT = 1e-100
"""A network whose slopes are smaller is constant."""

STEPS = ("product", "jacobian", "sdp-layer", "sdp", "local", "local-sdp", "branched", "exact", "attack", "sampled")
"""All inputs first: product of norms, Jacobian, LipSDP with a multiplier per layer and per neuron (L2 only); then over
the region: Jacobian, LipSDP, branch and bound, the same to its end; then what the attack and the samples found."""


@dataclass(frozen=True)
class Measured:
    """One network (its number is its seed) in one norm: sizes of its layers, the value of each step (None where it does
    not apply), whether the exact one was closed, and seconds of processor time."""

    index: int
    norm: str
    sizes: tuple[int, ...]
    values: dict[str, float | None]
    closed: bool
    time_s: float


def random_network(seed: int) -> tuple[Graph, Region]:
    """A ReLU network of 2 to 4 inputs, 1 to 3 hidden layers of 4 to 8, one output; and a box."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(4, 9, rng.integers(1, 4))
    sizes = [int(rng.integers(2, 5)), *map(int, hidden), 1]
    nodes = [Node(ops.Input(), (), (sizes[0],), "x")]
    for into, out in pairwise(sizes):
        weight = (rng.standard_normal((out, into)) * np.sqrt(2 / into)).astype(np.float32)
        bias = (0.3 * rng.standard_normal(out)).astype(np.float32)
        nodes.append(Node(ops.Linear(weight, bias), (len(nodes) - 1,), (out,), f"linear{len(nodes)}"))
        nodes.append(Node(ops.Relu(), (len(nodes) - 1,), (out,), f"relu{len(nodes)}"))
    graph = Graph(tuple(nodes[:-1]), (Port("x", (sizes[0],)),), (Port("y", (1,)),))
    centre, half = rng.standard_normal(sizes[0]), rng.uniform(0.2, 2.0)
    return graph, box(centre - half, centre + half)


def gradient_norms(network: Network, x: Array, norm: float) -> Array:
    """Dual norms (N,) of the gradients of the only output at inputs x (N, d)."""
    points = torch.from_numpy(np.ascontiguousarray(x)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(points).sum(), points)
    return np.linalg.norm(gradient.numpy(), ord={2.0: 2, np.inf: 1}[norm], axis=1)


def attack(network: Network, region: Region, norm: float, start: Array, rng: np.random.Generator) -> float:
    """The largest gradient that steps from the best of `start` (N, d), ever smaller, lead to."""
    sizes = gradient_norms(network, start, norm)
    points = start[np.argsort(-sizes)[:50]]
    best = gradient_norms(network, points, norm)
    half = (region.upper - region.lower) / 2
    for step in range(CLIMBS):
        reach = half * 0.5 ** (8 * step / CLIMBS)
        near = np.clip(points + rng.standard_normal(points.shape) * reach, region.lower, region.upper)
        found = gradient_norms(network, near, norm)
        better = found >= best
        points, best = np.where(better[:, None], near, points), np.where(better, found, best)
    return float(best.max())


def measure(index: int, name: str) -> Measured:
    """All steps of one network. Raises CertifyError where a bound is below a gradient that was sampled."""
    began, norm = time.thread_time(), NORMS[name]
    graph, region = random_network(index)
    network, rng, rows = Network(graph, torch.float64), np.random.default_rng(index), np.eye(1)
    inside = slopes_over(graph, region)
    jacobian = Jacobian(graph)
    exact = local_bound(graph, region, norm, domains=MOST_DOMAINS)
    x = rng.uniform(region.lower, region.upper, (SAMPLES, region.size))
    anywhere = 3 * rng.standard_normal((SAMPLES, region.size))
    values: dict[str, float | None] = {
        "product": global_bound(graph, norm).constant,
        "jacobian": float(jacobian.bound(rows, whole_slopes(global_slopes(graph)), norm).constants()[0]),
        "sdp-layer": lip_sdp(graph, multipliers=Multipliers.LAYER)[0] if norm == 2 else None,
        "sdp": lip_sdp(graph)[0] if norm == 2 else None,
        "local": float(jacobian.bound(rows, whole_slopes(inside), norm).constants()[0]),
        "local-sdp": lip_sdp(graph, inside)[0] if norm == 2 else None,
        "branched": local_bound(graph, region, norm, domains=DOMAINS).upper,
        "exact": exact.upper,
        "attack": attack(network, region, norm, x[: SAMPLES // 10], rng),
        "sampled": float(gradient_norms(network, x, norm).max()),
    }
    beyond = float(gradient_norms(network, anywhere, norm).max())
    for step, value in values.items():
        if step in ("attack", "sampled") or value is None:
            continue
        over_all = STEPS.index(step) < STEPS.index("local")
        met = max(values["attack"], values["sampled"], exact.attained, beyond if over_all else 0.0)
        if not value >= met * (1 - 1e-12):
            raise CertifyError(f"network {index}, norm {name}: {step} says {value!r}, but a gradient has {met!r}")
    sizes = tuple(n.size for n in graph.nodes if not isinstance(n.op, ops.Relu))
    return Measured(index, name, sizes, values, exact.exact, round(time.thread_time() - began, 3))


def chain(values: dict[str, float | None]) -> list[tuple[str, float]]:
    """The best bound after each step, global to exact, and then what was attained: it falls from step to step."""
    found, best = [], np.inf
    for step, parts in {
        "global": ("product",),
        "local": ("product", "jacobian", "local"),
        "LipSDP-refined": ("sdp-layer", "sdp", "local-sdp"),
        "branched": ("branched",),
        "exact": ("exact",),
    }.items():
        best = min([best, *(values[p] for p in parts if values[p] is not None)])
        found.append((step, best))
    return [*found, ("attack", max(values["attack"], values["sampled"]))]


def summary(results: Sequence[Measured]) -> str:
    """A table: each step's bound as a multiple of the exact one (median, 90th percentile, worst), per norm, of the
    networks that are not constant over their region, where the exact one is 0 but for rounding."""
    lines = []
    for name in NORMS:
        mine = [r for r in results if r.norm == name and r.closed and r.values["exact"] > CONSTANT]
        if not mine:
            continue
        every = sum(r.norm == name for r in results)
        still = sum(r.norm == name and r.values["exact"] <= CONSTANT for r in results)
        lines.append(f"norm {name}: {every} networks, {still} constant, {len(mine)} others closed to 1e-8, of which:")
        lines.append(f"  {'bound / exact':16} {'median':>10} {'90 %':>10} {'worst':>10}")
        for step in STEPS:
            ratios = [r.values[step] / r.values["exact"] for r in mine if r.values[step] is not None]
            if ratios:
                worst = min(ratios) if step in ("attack", "sampled") else max(ratios)
                lines.append(f"  {step:16} {np.median(ratios):10.4f} {np.quantile(ratios, 0.9):10.4f} {worst:10.4f}")
        steps = [chain(r.values) for r in mine]
        falls = sum(all(a[1] >= b[1] * (1 - 1e-12) for a, b in pairwise(one)) for one in steps)
        shown = " >= ".join(f"{s} {np.mean([one[k][1] for one in steps]):.4f}" for k, (s, _) in enumerate(steps[0]))
        lines.append(f"  means: {shown}; in this order for {falls} of {len(steps)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="folder for a line of JSON per network; a run resumes")
    given = parser.parse_args()
    settings = {"samples": SAMPLES, "domains": DOMAINS, "most": MOST_DOMAINS}
    store = SampleStore(given.out, settings, Measured)
    known = {(r.index, r.norm) for r in store.results}
    torch.set_num_threads(1)
    for index in range(given.count):
        for name in NORMS:
            if (index, name) not in known:
                store.append(measure(index, name))
    print(summary(store.results))


if __name__ == "__main__":
    entry(main)
