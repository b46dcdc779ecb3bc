"""Attacks on the samples of a data set: which are fooled, by what, how near, and with how many queries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from attacks.catalogue import by_name
from attacks.classifier import Classifier
from attacks.ensemble import CLEAN
from attacks.regions import ball
from certify.budget import Budget
from certify.errors import BadOption, MalformedNetwork
from certify.graph.evaluate import Network
from certify.graph.surrogate import surrogate

if TYPE_CHECKING:
    from certify.frontends.imported import Imported

Array = np.ndarray
BATCH = 64
"""Samples that are attacked together, and lost together if a run is stopped."""


@dataclass(frozen=True)
class AttackResult:
    """One sample and radius. `fooled`: the original network, asked again, misclassifies a point of the ball; `by` is
    the attack that found it, "clean" if none was needed, "" if there is none; `distance` is how far it is from the
    sample, in the norm asked for; `time_s` shares out evenly what was spent on a whole batch."""

    index: int
    label: int
    eps: str
    radius: float
    fooled: bool
    by: str
    distance: float | None
    queries: int
    time_s: float

    @property
    def key(self) -> tuple[int, float]:
        return (self.index, self.radius)


@dataclass(frozen=True, eq=False)
class Campaign:
    """Samples x (N, *shape) with labels (N,), the balls around them, and what attacks them."""

    network: Imported
    x: Array
    labels: Array
    norm: float
    within: tuple[float, float] | None
    attack: str
    seed: int = 0
    device: str = "cpu"

    @cached_property
    def classifier(self) -> Classifier:
        """The network as attacks ask it. Raises BadOption, MalformedNetwork."""
        graph = self.network.graph
        if graph.input_size != self.x[0].size:
            raise BadOption(
                f"the network has {graph.input_size} inputs, a sample {self.x[0].size}", "choose the data it is for"
            )
        if graph.output_size < 2:
            raise MalformedNetwork("a classifier has two outputs or more, this network one", "attack it by a property")
        return Classifier(surrogate(Network(graph, torch.float32, self.device)), (graph.input_size,))

    def run(
        self,
        indices: Sequence[int],
        radii: Sequence[tuple[str, float]],
        budget: Budget,
        known: Iterable[AttackResult] = (),
    ) -> Iterator[tuple[AttackResult, Array]]:
        """Results with the points (d,) they speak of, but for those in `known`; ends early once cancelled."""
        done = {result.key for result in known}
        for word, radius in radii:
            left = [i for i in indices if (i, radius) not in done]
            for first in range(0, len(left), BATCH):
                if budget.cancelled:
                    return
                found = self._batch(left[first : first + BATCH], word, radius, budget)
                if budget.cancelled:
                    return
                yield from found

    def _batch(self, chosen: list[int], word: str, radius: float, budget: Budget) -> list[tuple[AttackResult, Array]]:
        began = time.monotonic()
        x, y = (torch.from_numpy(np.ascontiguousarray(a[chosen])).to(self.device) for a in (self.x, self.labels))
        try:
            region = ball(x, radius, self.norm, self.within or (-np.inf, np.inf))
        except ValueError as error:
            raise BadOption(str(error), "check --eps, --norm and --range") from error
        attack = by_name(self.attack, self.x.shape[1:], seed=self.seed, stop=lambda: budget.cancelled)
        outcome = attack(self.classifier, region, y)
        each = round((time.monotonic() - began) / len(chosen), 4)
        distances = region.distance(outcome.x).tolist()
        found = []
        for k, i in enumerate(chosen):
            point, label = outcome.x[k].cpu().numpy(), int(self.labels[i])
            fooled = bool(outcome.fooled[k]) and self._misclassified(point, label)
            by = outcome.by[k] if fooled else ""
            far = (0.0 if by == CLEAN else distances[k]) if fooled else None
            result = AttackResult(i, label, word, radius, fooled, by, far, int(outcome.queries[k]), each)
            found.append((result, point))
        return found

    def _misclassified(self, x: Array, label: int) -> bool:
        """Whether the original network gives another class the largest output."""
        y = np.asarray(self.network.source(x.astype(np.float64)), np.float64).reshape(-1)
        return bool(np.isfinite(y).all()) and int(y.argmax()) != label


@dataclass(frozen=True)
class Standing:
    """All samples at one radius: how many there are, are right as they are, and stand; what fooled the others."""

    eps: str
    samples: int
    clean: int
    standing: int
    by: dict[str, int]
    median: float
    queries: float
    time_s: float


def summarise(results: Sequence[AttackResult]) -> list[Standing]:
    """A row per radius; the median is of the distances of those that an attack fooled, NaN if it fooled none."""
    rows = []
    for eps in dict.fromkeys(r.eps for r in results):
        own = [r for r in results if r.eps == eps]
        attacked = [r for r in own if r.fooled and r.by != CLEAN]
        by = {name: sum(r.by == name for r in attacked) for name in dict.fromkeys(r.by for r in attacked)}
        wrong = sum(r.by == CLEAN for r in own)
        median = float(np.median([r.distance for r in attacked])) if attacked else float("nan")
        stand = sum(not r.fooled for r in own)
        queries = float(np.mean([r.queries for r in own]))
        rows.append(Standing(eps, len(own), len(own) - wrong, stand, by, median, queries, sum(r.time_s for r in own)))
    return rows


class PointStore:
    """Points by sample and radius, one file each in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "points"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, result: AttackResult) -> Path:
        """Where the point of a result is."""
        return self.folder / f"{result.index}_{result.radius!r}.npy"

    def write(self, result: AttackResult, x: Array) -> None:
        """Keep the point x (d,) of a result."""
        np.save(self.path(result), x, allow_pickle=False)

    def read(self, result: AttackResult) -> Array | None:
        """The point (d,), None if it was not kept."""
        path = self.path(result)
        return np.load(path, allow_pickle=False) if path.is_file() else None


def draw(pairs: Sequence[tuple[AttackResult, Array]], x: Array, within: tuple[float, float] | None, path: Path) -> None:
    """A grid as PNG: original, perturbed and difference (around grey, at its own scale), a column per sample."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, len(pairs), figsize=(1.4 * len(pairs) + 0.6, 4.8), squeeze=False)
    low, high = within or (float(x.min()), float(x.max()))
    for column, (result, point) in zip(axes.T, pairs, strict=True):
        before = _picture(x[result.index])
        after = _picture(point.reshape(x[result.index].shape))
        change = after - before
        scale = max(float(np.abs(change).max()), 1e-12)
        for place, image in zip(column, (before, after, None), strict=True):
            shown = 0.5 + change / (2 * scale) if image is None else (image - low) / (high - low)
            place.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            place.set_axis_off()
        column[0].set_title(f"{result.index}: {result.label}\neps {result.eps}\n{result.by}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _picture(x: Array) -> Array:
    """An image (height, width) or (height, width, 3) of what has one to three axes, channels first."""
    if x.ndim == 3:
        return np.moveaxis(x, 0, -1) if x.shape[0] == 3 else x.mean(0)
    return x if x.ndim == 2 else x.reshape(1, -1)
