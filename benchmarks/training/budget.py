"""Training for so many minutes of the processor: how many epochs they are worth is measured before, and kept. Or for
so many epochs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch

from certify.errors import BadOption
from models.data import Data
from models.nets import describe
from training.checkpoint import replace_file
from training.evaluate import scores
from training.loop import Trained, train
from training.method import Moment
from training.plan import Epoch, Plan
from training.region import Ball

PACE = "pace.json"
TRIED = 5  # steps that are timed, the first of which does not count
GRID = 100  # a share of the data below an epoch is a multiple of one part in so many

PlanOf = Callable[[int], Plan]
"""A plan of so many epochs."""


@dataclass(frozen=True)
class Setup:
    """What methods that are compared share: the data, the network, the minutes of the processor for training, or, where
    they are given, the epochs; and against overfitting changes of the images (`training.augment.parse`), L1 and weight
    decay, and from which part of the run on weights are averaged."""

    data: str
    net: str
    minutes: float
    batch: int = 128
    rate: float = 1e-3
    seed: int = 0
    epochs: int = 0
    augment: str = ""
    l1: float = 0.0
    decay: float = 0.0
    swa: float | None = None

    @property
    def length(self) -> str:
        """The budget in words."""
        return f"{self.epochs} epochs" if self.epochs else f"about {self.minutes:g} minutes of the processor"


def pace(setup: Setup, plan: Plan, data: Data) -> float:
    """Seconds of the processor that an epoch takes, with its scores at the end: a few steps are timed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = describe(setup.net, data).build().train()
        optimiser = plan.optimiser(network.parameters())
        x, y = (torch.from_numpy(part[: plan.batch]) for part in (data.x_train, data.y_train))
        memory: dict[str, torch.Tensor] = {}
        times = []
        for _ in range(TRIED):
            begun = time.process_time()
            optimiser.zero_grad()
            changed = x if plan.augment is None else plan.augment(x)
            plan.method(network, Ball(changed, plan.epsilon / 2, plan.norm), y, Moment(0.5, 0.5, memory)).backward()
            optimiser.step()
            times.append(time.process_time() - begun)
        kept = round(len(data.x_train) * plan.validation)
        begun = time.process_time()
        scores(network, x[:64], y[:64], plan.epsilon, plan.norm)
        scoring = (time.process_time() - begun) * kept / len(x[:64])
    return median(times[1:]) * math.ceil((len(data.x_train) - kept) / plan.batch) + scoring


def shortened(data: Data, share: float) -> Data:
    """The first part of the training data, where a budget is not worth an epoch of all of them."""
    count = max(1, round(len(data.x_train) * share))
    return replace(data, x_train=data.x_train[:count], y_train=data.y_train[:count])


def settled(setup: Setup, plan_of: PlanOf, data: Data, folder: Path) -> tuple[int, float]:
    """Epochs, and the share of the training data, that the budget is worth; decided once and kept in the folder.

    Raises BadOption if the folder holds what was decided for other settings.
    """
    path, asked = folder / PACE, {**asdict(setup), "plan": repr(plan_of(1))}
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        epochs = setup.epochs or setup.minutes * 60 / pace(setup, plan_of(1), data)
        share = 1.0 if epochs >= 1 else max(1, math.floor(GRID * epochs)) / GRID
        decided = {"asked": asked, "epochs": max(1, math.floor(epochs)), "share": share}
        replace_file(path, (json.dumps(decided, indent=2) + "\n").encode())
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["asked"] != asked:
        raise BadOption(f"{folder} belongs to other settings: {kept['asked']}", "choose another --out")
    return kept["epochs"], kept["share"]


def trained(setup: Setup, plan_of: PlanOf, data: Data, folder: Path) -> tuple[Trained, float]:
    """What the budget comes to, and the share of the training data that it was worth; a run that was stopped or
    killed goes on. Its epochs are told on standard error."""
    epochs, share = settled(setup, plan_of, data, folder)

    def tell(epoch: Epoch) -> None:
        shares = f"clean {epoch.clean:.1%}, attacked {epoch.attacked:.1%}, bounded {epoch.bounded:.1%}"
        print(f"{folder.name}, epoch {epoch.epoch} of {epochs}: {shares}, {epoch.cpu_seconds:.1f} s", file=sys.stderr)

    made = train(describe(setup.net, data), shortened(data, share), plan_of(epochs), folder, each_epoch=tell)
    return made, share


def folder_of(out: Path, *parts: str) -> Path:
    """Where a run lies."""
    return out / "".join(c if c.isalnum() or c in ".-" else "-" for c in "-".join(parts))
