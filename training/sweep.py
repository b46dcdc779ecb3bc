"""Training with several plans, and what of it nothing else surpasses: points are compared wrongly, fronts rightly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models import zoo
from models.data import Data
from training import checkpoint
from training.loop import Trained, train
from training.plan import Plan

RESULT = "result.json"


@dataclass(frozen=True)
class Point:
    """A plan and what its network came to: clean and certified accuracy, as the measure of the sweep says."""

    plan: Plan
    clean: float
    certified: float


Measure = Callable[[Trained], tuple[float, float]]
"""Clean and certified accuracy of a network."""


def bounded(trained: Trained) -> tuple[float, float]:
    """Accuracies on the samples that the last epoch kept aside, the second by linear bounds in floating point: quick,
    and no proof. For figures to report, give a measure that asks `certify.verify`."""
    return trained.history[-1].clean, trained.history[-1].bounded


def sweep(
    description: zoo.Description, data: Data, plans: Iterable[Plan], folder: str | Path, measure: Measure = bounded
) -> list[Point]:
    """A point for each plan, in their order. Every plan has its own folder in `folder`, so that a sweep that was
    stopped goes on where it was."""
    points = []
    for plan in plans:
        place = Path(folder) / hashlib.blake2b(repr(plan).encode(), digest_size=6).hexdigest()
        result = place / RESULT
        if not result.is_file():
            clean, certified = measure(train(description, data, plan, place))
            entries = {"plan": repr(plan), "clean": clean, "certified": certified}
            checkpoint.replace_file(result, (json.dumps(entries, indent=2) + "\n").encode())
        entries = json.loads(result.read_text())
        points.append(Point(plan, entries["clean"], entries["certified"]))
    return points


class Asked(Protocol):
    """One choice of settings: an `optuna.Trial`, or what has its `suggest_...` methods."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


class Study(Protocol):
    """What proposes settings and hears what they came to, in two numbers to be raised: an `optuna.Study`, made by
    `optuna.create_study(directions=["maximize", "maximize"])`."""

    def ask(self) -> Asked: ...

    def tell(self, trial: Asked, values: Sequence[float]) -> object: ...


def search(
    description: zoo.Description,
    data: Data,
    choose: Callable[[Asked], Plan],
    study: Study,
    trials: int,
    folder: str | Path,
    measure: Measure = bounded,
) -> list[Point]:
    """A point for each of `trials` proposals of a study, in their order; `choose` makes plans of them.

    A search that was stopped goes on where it was if its study does, or proposes the same again (a sampler with a
    seed): plans that were trained are not trained again.
    """
    points = []
    for _ in range(trials):
        trial = study.ask()
        (point,) = sweep(description, data, [choose(trial)], folder, measure)
        study.tell(trial, (point.clean, point.certified))
        points.append(point)
    return points


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one equals or surpasses in both accuracies, by falling clean accuracy; of equal
    ones, the first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.clean, -p.certified)):
        if not best or point.certified > best[-1].certified:
            best.append(point)
    return best
