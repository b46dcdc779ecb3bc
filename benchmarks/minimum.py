"""How near attacks come to exact least distances, of networks small enough that these can be proved.

python -m benchmarks.minimum --out DIR [--net NAME] [--norm NAME] [--samples 12] [--timeout 60]

Distances are those of `certify radius`: no input of another class is at most `lower` away, as a proof says, and one is
`upper` away. A gap is an attack's distance over `lower`, less one; it must be positive, which is compared in rational
arithmetic. Networks are trained on the first run, in seconds; distances, too, are kept in DIR, and a run goes on there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np
import torch

from attacks.apgd import AutoPgd
from attacks.carlini import CarliniWagner
from attacks.catalogue import closest
from attacks.classifier import Classifier, misclassified
from attacks.least import Bisected, FromStart
from attacks.nearest import Ddn, Fab, Fmn, deepfool
from attacks.regions import ball
from benchmarks.attack import confirmed, pushed
from benchmarks.command import entry
from benchmarks.radius import RadiusResult, measure
from benchmarks.robust import Assessment, SampleStore, Threat
from certify.budget import Budget
from certify.frontends.imported import Imported
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.strategy import Strategy
from certify.threads import one_thread_each
from models import zoo
from models.data import Data, load
from training.adversarial import Adversarial
from training.loop import train
from training.optimiser import Adam
from training.plan import Plan
from training.standard import Standard

Array = np.ndarray

NORMS = {"inf": inf, "2": 2.0, "1": 1.0}
DIGITS = zoo.Description("mlp", {"shape": [1, 4, 4], "classes": 10, "hidden": [14]})
NOISE = zoo.Description("mlp", {"shape": [6], "classes": 3, "hidden": [8, 8]})
NORMAL = Plan(Standard(), epochs=30, batch=32, optimiser=Adam(5e-3))
ROBUST = Plan(Adversarial(), epsilon=0.1, epochs=30, batch=32, optimiser=Adam(5e-3))
NETS = {"noise": (NOISE, NORMAL), "digits": (DIGITS, NORMAL), "digits-robust": (DIGITS, ROBUST)}

ATTACKS: dict[str, tuple[tuple[str, ...], Callable[[], FromStart]]] = {
    "deepfool": (("inf", "2", "1"), lambda: deepfool(50, goal=-inf)),
    "fab": (("inf", "2", "1"), lambda: Fab(steps=100, nearest_row=True, goal=-inf)),
    "fmn": (("inf", "2", "1"), lambda: Fmn(steps=200, goal=-inf)),
    "ddn": (("2",), lambda: Ddn(steps=200, goal=-inf)),
    "cw": (("inf", "2", "1"), lambda: CarliniWagner(goal=-inf)),
    "bisected apgd": (("inf", "2", "1"), lambda: Bisected(AutoPgd(steps=30))),
    "closest": (("inf", "2", "1"), closest),
}
"""Norms and attack."""


@dataclass(frozen=True)
class Nearness:
    """What an attack found of the samples whose distance is known: mean, median and largest gap, how many it did not
    mislead, how many of its points are nearer than what is proved (a bug, of either side), queries and seconds of the
    processor per sample."""

    attack: str
    samples: int
    mean: float
    median: float
    largest: float
    failed: int
    below: int
    queries: float
    seconds: float


def data_of(net: str) -> Data:
    """Digits, of which every four pixels became one; or noise, in classes that a random network tells apart."""
    if net != "noise":
        digits = load("digits")
        x_train, x_test = (x.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5)) for x in (digits.x_train, digits.x_test))
        return Data(x_train, digits.y_train, x_test, digits.y_test)
    rng = np.random.default_rng(0)
    x = rng.random((1200, 6), np.float32)
    first, last = rng.standard_normal((6, 30)), rng.standard_normal((30, 3))
    y = (np.tanh((x - 0.5) @ first) @ last).argmax(1)
    return Data(x[:1000], y[:1000], x[1000:], y[1000:])


def network_of(net: str, data: Data, folder: Path) -> Imported:
    """The saved network; trained first if it is not there."""
    path = folder / f"{net}.safetensors"
    if not path.exists():
        description, plan = NETS[net]
        folder.mkdir(parents=True, exist_ok=True)
        train(description, data, plan).save(path, data=data, data_name=net, command="python -m benchmarks.minimum")
    return load_network(str(path))


def answered(network: Imported, data: Data) -> Data:
    """The same test samples, each with the network's own answer as its class: all of them have a distance."""
    answers = [int(np.argmax(network.source(x.reshape(-1).astype(np.float64)))) for x in data.x_test]
    return replace(data, y_test=np.array(answers))


def distances(
    network: Imported, data: Data, norm: str, samples: int, timeout: float, store: SampleStore[RadiusResult]
) -> list[RadiusResult]:
    """Of the first test samples to another class than theirs; those in the store are known."""
    threat = Threat(NORMS[norm], (0.0, 1.0))
    assessment = Assessment(network, data.x_test, data.y_test, threat, Strategy(), timeout)
    largest = float(np.linalg.norm(np.ones(data.x_test[0].size), NORMS[norm]))
    for result in measure(assessment, range(samples), largest, Budget(), store.results):
        store.append(result)
        print(result, file=sys.stderr, flush=True)
    return [r for r in store.results if r.index < samples]


def compare(
    network: Imported, data: Data, norm: str, exact: Sequence[RadiusResult], names: Iterable[str]
) -> list[Nearness]:
    """A row per attack, about the samples whose distance is exact."""
    known = [r for r in exact if r.exact and r.lower > 0]
    x, y = (torch.from_numpy(a[[r.index for r in known]]) for a in (data.x_test, data.y_test))
    classifier = Classifier(Network(network.graph, torch.float32), (data.x_test[0].size,))
    rows = []
    for name in names:
        objective, began = misclassified(classifier, y), time.thread_time()
        found = ATTACKS[name][1]()(objective, ball(x, 0.0, NORMS[norm]))
        seconds = (time.thread_time() - began) / len(known)
        centers = x.flatten(1).numpy()
        met = [confirmed(network, pushed(p, c, (0, 1)), r.label)
               for p, c, r in zip(found.x.numpy(), centers, known, strict=True)]  # fmt: skip
        pairs = [(p.astype(np.float64), c.astype(np.float64), r.lower)
                 for p, c, r in zip(met, centers, known, strict=True) if p is not None]  # fmt: skip
        below = [nearer(p, c, lower, NORMS[norm]) for p, c, lower in pairs]
        gaps = [float(np.linalg.norm(p - c, NORMS[norm])) / lower - 1 for p, c, lower in pairs]
        shown = [float(f(gaps)) if gaps else inf for f in (np.mean, np.median, np.max)]
        asked = float(objective.spent.double().mean())
        rows.append(Nearness(name, len(known), *shown, len(known) - len(pairs), sum(below), asked, seconds))
    return rows


def nearer(x: Array, center: Array, radius: float, norm: float) -> bool:
    """Whether x is at most `radius` from the centre, in rational arithmetic."""
    moves = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x.tolist(), center.tolist(), strict=True)]
    if norm == 2:
        return sum(m * m for m in moves) <= Fraction(radius) ** 2
    return (sum(moves) if norm == 1 else max(moves)) <= Fraction(radius)


def report(title: str, rows: Sequence[Nearness]) -> str:
    """A table."""
    lines = [f"{title:22} samples  mean gap   median  largest  failed  below  queries  seconds"]
    for r in rows:
        lines.append(
            f"  {r.attack:20} {r.samples:7}  {r.mean:8.2%} {r.median:8.2%} {r.largest:8.2%}  {r.failed:6}"
            f"  {r.below:5}  {r.queries:7.0f}  {r.seconds:7.3f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Distances, then a table for every network and norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--net", action="append", choices=tuple(NETS))
    parser.add_argument("--norm", action="append", choices=tuple(NORMS))
    parser.add_argument("--samples", type=int, default=12, help="the first of the test samples")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a distance")
    parser.add_argument("--attack", action="append", choices=tuple(ATTACKS))
    options = parser.parse_args(arguments)
    with one_thread_each():
        for net in options.net or NETS:
            data = data_of(net)
            network = network_of(net, data, options.out)
            data = answered(network, data)
            for norm in options.norm or NORMS:
                settings = {"network": network.graph.hash, "norm": norm, "timeout": options.timeout}
                store = SampleStore(options.out / f"{net}-{norm}", settings, RadiusResult)
                exact = distances(network, data, norm, options.samples, options.timeout, store)
                names = [n for n in options.attack or ATTACKS if norm in ATTACKS[n][0]]
                print(report(f"{net}, norm {norm}", compare(network, data, norm, exact, names)), flush=True)


if __name__ == "__main__":
    entry(main)
