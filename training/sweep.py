"""Training with several plans, and what of it nothing else surpasses: points are compared wrongly, fronts rightly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one equals or surpasses in both accuracies, by falling clean accuracy; of equal
    ones, the first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.clean, -p.certified)):
        if not best or point.certified > best[-1].certified:
            best.append(point)
    return best
