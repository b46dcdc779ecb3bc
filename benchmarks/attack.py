"""Attacks on the samples of a data set: which are fooled, by what, how near, and with how many queries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attacks.catalogue import TRANSFER
from attacks.classifier import Classifier
from attacks.diagnostics import Caution, diagnose, flat_parts
from attacks.ensemble import CLEAN
from attacks.threats import Around
from benchmarks.picture import picture
from benchmarks.threats import Allowed, Moved
from certify.budget import Budget
from certify.errors import BadOption, MalformedNetwork
from certify.exact import PUSHES
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.surrogate import surrogate

if TYPE_CHECKING:
    from certify.frontends.imported import Imported

Array = np.ndarray
FLAT = (ops.Sign, ops.Floor)
"""Operators whose derivative is zero almost everywhere."""

BATCH = 64
"""Samples that are attacked together, and lost together if a run is stopped."""


@dataclass(frozen=True)
class AttackResult:
    """One sample under one threat: a ball of a norm (inf, 2, 1, 0) and a radius, a "mixture" of two, or "spatial" or
    "colour" changes.

    `fooled`: the original network, asked again, misclassifies what the threat allows; `by` is the attack that found
    it, "clean" if none was needed, "" if there is none; `distance` is how far it is from the sample in a ball's norm,
    `parameters` are a change's, if they are few; `time_s` shares out evenly what was spent on a whole batch."""

    index: int
    label: int
    norm: str
    eps: str
    radius: float | None
    fooled: bool
    by: str
    distance: float | None
    parameters: list[float] | None
    queries: int
    time_s: float

    @property
    def key(self) -> tuple[int, str, str]:
        return (self.index, *key_of(self.norm, self.eps, self.radius))

    @property
    def threat(self) -> str:
        """In words."""
        return self.eps if self.radius is None else f"{self.norm}={self.eps}"


def key_of(kind: str, eps: str, radius: float | None) -> tuple[str, str]:
    """What tells a threat from others, however its radius was written."""
    return (kind, eps if radius is None else repr(radius))


@dataclass(frozen=True, eq=False)
class Campaign:
    """Samples x (N, *shape) with labels (N,), and what attacks them; `queries` limits what a sample may cost, and
    `surrogates` are networks for transfer attacks."""

    network: Imported
    x: Array
    labels: Array
    within: tuple[float, float] | None
    attack: str
    seed: int = 0
    device: str = "cpu"
    queries: int | None = None
    surrogates: tuple[Imported, ...] = ()

    @cached_property
    def classifier(self) -> Classifier:
        """The network as attacks ask it. Raises BadOption, MalformedNetwork."""
        return self._asked(self.network)

    @cached_property
    def others(self) -> tuple[Classifier, ...]:
        """The surrogate networks."""
        others = tuple(self._asked(network) for network in self.surrogates)
        for network in self.surrogates:
            if network.graph.output_size != self.network.graph.output_size:
                raise BadOption("a surrogate network has another number of classes", "choose one for the same data")
        return others

    def _asked(self, network: Imported) -> Classifier:
        graph = network.graph
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
        threats: Sequence[Allowed],
        budget: Budget,
        known: Iterable[AttackResult] = (),
    ) -> Iterator[tuple[AttackResult, Array]]:
        """Results with the inputs (d,) they speak of, but for those in `known`; ends early once cancelled."""
        done = {result.key for result in known}
        for threat in threats:
            left = [i for i in indices if (i, *key_of(threat.kind, threat.eps, threat.radius)) not in done]
            for first in range(0, len(left), BATCH):
                if budget.cancelled:
                    return
                found = self._batch(left[first : first + BATCH], threat, budget)
                if budget.cancelled:
                    return
                yield from found

    def diagnose(self, indices: Sequence[int], threat: Moved) -> list[Caution]:
        """Signs that attacks on the network itself, not on what stands in for its flat parts, tell too little."""
        chosen = list(indices[:BATCH])
        graph = self.network.graph
        x, y = self._samples(chosen)
        around = threat.around(x, self.within, "quick", {"seed": self.seed})
        own = Classifier(Network(graph, torch.float32, self.device), self.classifier.shape)
        flat = [f"{node.name or type(node.op).__name__} ({type(node.op).__name__})" for node in graph.nodes
                if isinstance(node.op, FLAT)]  # fmt: skip
        return [*flat_parts(flat), *diagnose(own, around.region, y, self.seed, self.others)]

    def _samples(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        x, y = (torch.from_numpy(np.ascontiguousarray(a[chosen])).to(self.device) for a in (self.x, self.labels))
        return x, y

    def _batch(self, chosen: list[int], threat: Allowed, budget: Budget) -> list[tuple[AttackResult, Array]]:
        began = time.monotonic()
        x, y = self._samples(chosen)
        options = {"seed": self.seed, "stop": lambda: budget.cancelled, "queries": self.queries}
        if self.attack == TRANSFER:
            options["surrogates"] = self.others
        around = threat.around(x, self.within, self.attack, options)
        outcome = around(self.classifier, y)
        each = round((time.monotonic() - began) / len(chosen), 4)
        inputs = around.inputs(outcome.x)
        balls = isinstance(around, Around)
        found = []
        for k, i in enumerate(chosen):
            point, label = inputs[k].cpu().numpy(), int(self.labels[i])
            near = pushed(point, self.x[i], self.within) if balls else (point,)
            fooling = confirmed(self.network, near if outcome.fooled[k] else (), label)
            far = parameters = None
            if fooling is not None and balls:
                x = torch.from_numpy(fooling)[None].to(self.device)
                own = around.region.select(torch.tensor([k], device=self.device))
                fooling, far = (fooling, float(own.distance(x))) if bool(own.contains(x)) else (None, None)
            elif fooling is not None and threat.told:
                parameters = outcome.x[k].tolist()
            by, point = ("", point) if fooling is None else (outcome.by[k], fooling)
            what = (threat.kind, threat.eps, threat.radius, fooling is not None, by, far, parameters)
            found.append((AttackResult(i, label, *what, int(outcome.queries[k]), each), point))
        return found


def confirmed(network: Imported, candidates: Iterable[Array], label: int) -> Array | None:
    """The first of the candidates (d,) that the original network misclassifies; None if there is none."""
    for x in candidates:
        y = np.asarray(network.source(x.astype(np.float64)), np.float64).reshape(-1)
        if bool(np.isfinite(y).all()) and int(y.argmax()) != label:
            return x
    return None


def pushed(x: Array, center: Array, within: tuple[float, float] | None) -> Iterator[Array]:
    """The point x (d,) and others a little further from the centre, in the data range: at the very boundary of two
    classes the original network may round otherwise than the copy that was attacked."""
    yield x
    for push in PUSHES[1:]:
        yield np.clip(x + push * (x - center.reshape(-1)), *(within or (-np.inf, np.inf))).astype(x.dtype)


@dataclass(frozen=True)
class Standing:
    """All samples under one threat, or under the union of all: how many there are, are right as they are, and stand;
    what fooled the others (of a union: the first threat that did)."""

    threat: str
    samples: int
    clean: int
    standing: int
    by: dict[str, int]
    median: float
    queries: float
    time_s: float


def summarise(results: Sequence[AttackResult]) -> list[Standing]:
    """A row per threat; the median is of the distances of those that an attack fooled, NaN if it fooled none. If there
    are several kinds of threats, a row for their union comes last."""
    threats: dict[tuple[str, str], list[AttackResult]] = {}
    for r in results:
        threats.setdefault(r.key[1:], []).append(r)
    rows = [_row(group[0].threat, group, [r.by for r in group]) for group in threats.values()]
    if len({kind for kind, _ in threats}) > 1:
        samples: dict[int, list[AttackResult]] = {}
        for r in results:
            samples.setdefault(r.index, []).append(r)
        worst, by = [], []
        for group in (g for g in samples.values() if len(g) == len(threats)):
            first = next((r for r in group if r.fooled), group[0])
            spent, seconds = sum(r.queries for r in group), sum(r.time_s for r in group)
            worst.append(replace(first, queries=spent, time_s=seconds, distance=None))
            by.append(first.by if first.by in ("", CLEAN) else first.threat)
        rows.append(_row("union", worst, by))
    return rows


def _row(threat: str, results: Sequence[AttackResult], by: Sequence[str]) -> Standing:
    counts = {name: by.count(name) for name in dict.fromkeys(by) if name not in ("", CLEAN)}
    distances = [r.distance for r in results if r.by != CLEAN and r.distance is not None]
    median = float(np.median(distances)) if distances else float("nan")
    queries = float(np.mean([r.queries for r in results])) if results else float("nan")
    stand, clean = sum(not r.fooled for r in results), len(results) - by.count(CLEAN)
    return Standing(threat, len(results), clean, stand, counts, median, queries, sum(r.time_s for r in results))


class PointStore:
    """Points by sample and radius, one file each in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "points"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, result: AttackResult) -> Path:
        """Where the point of a result is."""
        return self.folder / f"{'_'.join(map(str, result.key))}.npy"

    def write(self, result: AttackResult, x: Array) -> None:
        """Keep the point x (d,) of a result."""
        np.save(self.path(result), x, allow_pickle=False)

    def read(self, result: AttackResult) -> Array | None:
        """The point (d,), None if it was not kept."""
        path = self.path(result)
        return np.load(path, allow_pickle=False) if path.is_file() else None


def draw(pairs: Sequence[tuple[AttackResult, Array]], x: Array, within: tuple[float, float] | None, path: Path) -> None:
    """A grid as PNG: original, perturbed and difference (around grey, at its own scale), a column per sample."""
    size = (1.4 * len(pairs) + 0.6, 4.8)
    with picture(path, 3, len(pairs), size, "tight", squeeze=False) as (_, axes):
        low, high = within or (float(x.min()), float(x.max()))
        for column, (result, point) in zip(axes.T, pairs, strict=True):
            before = pixels(x[result.index])
            after = pixels(point.reshape(x[result.index].shape))
            change = after - before
            scale = max(float(np.abs(change).max()), 1e-12)
            for place, image in zip(column, (before, after, None), strict=True):
                shown = 0.5 + change / (2 * scale) if image is None else (image - low) / (high - low)
                place.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                place.set_axis_off()
            what = result.threat.replace(",", "\n")
            column[0].set_title(f"{result.index}: {result.label}\n{what}\n{result.by}", fontsize=8)


def pixels(x: Array) -> Array:
    """An image (height, width) or (height, width, 3) of what has one to three axes, channels first."""
    if x.ndim == 3:
        return np.moveaxis(x, 0, -1) if x.shape[0] == 3 else x.mean(0)
    return x if x.ndim == 2 else x.reshape(1, -1)
