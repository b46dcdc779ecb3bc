"""A 1-Lipschitz convolutional network, trained and certified: clean and certified L2 accuracy on test images.

`python -m benchmarks.lipschitz_cnn --data fashion-mnist --epochs 10` trains, stores the weights as float32 (a
graph, `--out FILE.npz`, which every command of certify reads), proves the constant of what is stored, and
counts the test images whose class is proved within 36/255, 72/255 and 108/255.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.command import entry
from certify.frontends.load import load_network
from certify.graph.ir import Graph
from certify.graph.store import save
from certify.lipschitz.margin import Outputs, Pairs
from certify.lipschitz.network import GlobalBound, global_bound
from models.data import Data, load
from models.lipschitz import lipschitz_cnn, stored

RADII = (36 / 255, 72 / 255, 108 / 255)
TEMPERATURE, OFFSET = 0.25, 1.0
"""Of the loss of Prach & Lampert (2022, section 5): cross-entropy of (outputs - offset at the label) / temperature, in
units of a margin: what counts is to be right by a distance."""

CHUNK = 128


@dataclass(frozen=True)
class Plan:
    """How to train: epochs, size of batches, largest rate of Adam (it rises, and falls as a cosine), channels of the
    stages and width of the hidden layer; the first `samples` of the training data (None: all)."""

    epochs: int = 10
    batch: int = 256
    rate: float = 0.01
    channels: tuple[int, ...] = (32, 64)
    hidden: int = 256
    samples: int | None = None
    seed: int = 0


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy with a margin, for outputs of a network of constant 1."""
    shifted = outputs - OFFSET * math.sqrt(2) * one_hot(labels, outputs.shape[1])
    return cross_entropy(shifted / TEMPERATURE, labels) * TEMPERATURE


def fit(data: Data, plan: Plan) -> nn.Sequential:
    """A trained network with plain float32 layers."""
    torch.manual_seed(plan.seed)
    network = lipschitz_cnn(data.shape, data.classes, plan.channels, plan.hidden)
    x, y = (torch.from_numpy(part[: plan.samples]) for part in (data.x_train, data.y_train))
    steps = plan.epochs * max(1, len(x) // plan.batch)
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=steps + 1)
    done = 0
    for epoch in range(plan.epochs):
        total = 0.0
        for chosen in torch.randperm(len(x)).split(plan.batch)[: max(1, len(x) // plan.batch)]:
            found = loss(network(x[chosen]), y[chosen])
            optimiser.zero_grad()
            found.backward()
            optimiser.step()
            schedule.step()
            total, done = total + float(found.detach()), done + 1
        print(f"epoch {epoch + 1}/{plan.epochs}: loss {total * plan.epochs / steps:.4f}", flush=True)
    return stored(network)


@dataclass(frozen=True)
class Certified:
    """Of `samples` test images how many are classified right by the real-valued network, and of how many that is
    proved within each radius; and the proved constant."""

    samples: int
    clean: int
    radii: tuple[float, ...]
    counts: tuple[int, ...]
    constant: float

    def table(self) -> str:
        """As text."""
        lines = [
            f"Lipschitz constant in L2 at most {self.constant:.9f}",
            f"clean       {self.clean / self.samples:.2%}",
        ]
        lines += [f"{r * 255:5.0f}/255   {c / self.samples:.2%}" for r, c in zip(self.radii, self.counts, strict=True)]
        return "\n".join(lines)


def assess(graph: Graph, x: np.ndarray, labels: np.ndarray, radii: Sequence[float] = RADII) -> Certified:
    """Certified accuracy of a graph on samples x (N, *shape) with labels (N,)."""
    bound: GlobalBound = global_bound(graph, 2)
    outputs, classes = Outputs(graph), graph.output_size
    pairs = [Pairs.of(bound, label, classes) for label in range(classes)]
    found = []
    for first in range(0, len(x), CHUNK):
        part = x[first : first + CHUNK].reshape(-1, graph.input_size).astype(np.float64)
        low, high = outputs(part)
        mine = labels[first : first + CHUNK]
        found += [pairs[int(y)].radius(a, b) for y, a, b in zip(mine, low, high, strict=True)]
    proved = np.array(found)
    counts = tuple(int((proved > r).sum()) for r in radii)
    return Certified(len(x), int((proved > 0).sum()), tuple(radii), counts, bound.constant)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=None, help="only the first training images")
    parser.add_argument("--test", type=int, default=None, help="only the first test images")
    parser.add_argument("--out", type=Path, default=None, help="FILE.npz for the trained network's graph")
    given = parser.parse_args()
    data = load(given.data)
    network = fit(data, Plan(epochs=given.epochs, samples=given.samples))
    graph = load_network(network, torch.zeros(1, *data.shape)).graph
    if given.out is not None:
        save(graph, given.out)
    print(assess(graph, data.x_test[: given.test], data.y_test[: given.test]).table())


if __name__ == "__main__":
    entry(main)
