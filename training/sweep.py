"""Training with several plans, and what of it nothing else surpasses: points are compared wrongly, fronts rightly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from certify.errors import BadOption
from models import zoo
from models.data import Data
from training import checkpoint
from training.evaluate import scores
from training.loop import Trained, train
from training.plan import Plan
from training.run import Diverged, split, subject

RESULT = "result.json"


@dataclass(frozen=True)
class Point:
    """A plan and what its network came to: clean and certified accuracy, as the measure of the sweep says; both are 0
    if its training `failed`, for the reason that this says. `folder` is its run's: `train` with the same arguments and
    this folder gives the network."""

    plan: Plan
    clean: float
    certified: float
    folder: Path = Path()
    failed: str = ""


Measure = Callable[[Trained, Data], tuple[float, float]]
"""Clean and certified accuracy of a network; a function, or a frozen dataclass whose `repr` says all of it."""

Trainer = Callable[[zoo.Description, Data, Plan, Path], Trained]
"""`train`, or what does more about it, as telling how it goes, and stopping."""


@dataclass(frozen=True)
class Bounded:
    """Accuracies on the samples that the plan kept aside, the second within balls by linear bounds in floating point:
    quick, and no proof. For figures to report, give a measure that asks `certify.verify`.

    The radius is the same for all plans, whatever they were trained for: else their points could not be compared.
    Raises BadOption if a plan keeps nothing aside.
    """

    epsilon: float
    norm: float = math.inf

    def __call__(self, trained: Trained, data: Data) -> tuple[float, float]:
        aside, _ = split(len(data.x_train), trained.plan)
        if not len(aside):
            raise BadOption("nothing is kept aside to measure networks on", "plan with a larger `validation`")
        x, y = torch.from_numpy(data.x_train)[aside], torch.from_numpy(data.y_train)[aside]
        found = scores(trained.network, x, y, self.epsilon, self.norm)
        return found.clean, found.bounded


def sweep(
    description: zoo.Description,
    data: Data,
    plans: Iterable[Plan],
    folder: str | Path,
    measure: Measure,
    trainer: Trainer = train,
) -> list[Point]:
    """A point for each plan, in their order; fewer if the trainer was stopped.

    Every plan has its own folder in `folder`, so that a sweep that was stopped or killed goes on where it was: what is
    trained is not trained again, and what is measured is measured again by another measure only. A plan whose training
    diverges is a point that `failed`, and the others go on.
    """
    task, points = subject(description, data), []
    for plan in plans:
        place = Path(folder) / hashlib.blake2b(f"{task}: {plan}".encode(), digest_size=6).hexdigest()
        point = _known(plan, place, called(measure))
        if point is None:
            try:
                trained = trainer(description, data, plan, place)
                if not trained.finished:
                    break
                clean, certified = measure(trained, data)
                point = Point(plan, float(clean), float(certified), place)
            except Diverged as error:
                point = Point(plan, 0.0, 0.0, place, error.what)
            _keep(point, called(measure))
        points.append(point)
    return points


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one equals or surpasses in both accuracies, by falling clean accuracy; of equal
    ones, the first. Those that failed are none of them."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.clean, -p.certified)):
        if not point.failed and (not best or point.certified > best[-1].certified):
            best.append(point)
    return best


def called(what: object) -> str:
    """What tells a function or a frozen dataclass from others, in this process and in the next."""
    return getattr(what, "__qualname__", repr(what))


def _known(plan: Plan, folder: Path, measure: str) -> Point | None:
    """The point in the folder, if it is there, and by this measure or failed."""
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text())
        point = Point(plan, entries["clean"], entries["certified"], folder, entries["failed"])
        return point if point.failed or entries["measure"] == measure else None
    except (ValueError, KeyError, TypeError) as error:
        raise BadOption(f"{path} is not the result of a sweep: {error!r}", "remove it, or choose another") from error


def _keep(point: Point, measure: str) -> None:
    entries = {"plan": repr(point.plan), "measure": measure, "clean": point.clean, "certified": point.certified}
    point.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**entries, "failed": point.failed}, indent=2) + "\n"
    checkpoint.replace_file(point.folder / RESULT, text.encode())
