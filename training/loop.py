"""The one training loop: from a description, data and a plan to a network that `certify` reads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from certify.errors import BadOption
from models import zoo
from models.data import Data
from training.evaluate import scores
from training.method import Method, Moment
from training.region import Ball
from training.schedule import Schedule, Smooth, Steps

SMOOTH, STEPS = Smooth(), Steps()


@dataclass(frozen=True)
class Adam:
    """Adam with this learning rate (times the plan's schedule) and decoupled weight decay."""

    rate: float = 5e-4
    decay: float = 0.0

    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights, self.rate, weight_decay=self.decay)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with Nesterov momentum."""

    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4

    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(weights, self.rate, self.momentum, weight_decay=self.decay, nesterov=True)


@dataclass(frozen=True)
class Plan:
    """How to train. Everything is a number or a frozen dataclass, so that `repr` tells two plans apart.

    method      the loss
    epsilon     the final radius, in units of the data
    norm        of the balls: inf, 2 or 1
    growth      the radius over epsilon, by progress
    pace        the learning rate over the optimiser's own, by progress
    clip        the largest norm of a step's gradient
    validation  share of the training data that is kept aside for the scores after each epoch
    seed        of the weights, the order of the samples and the noise
    """

    method: Method
    epsilon: float = 0.0
    norm: float = math.inf
    epochs: int = 10
    batch: int = 128
    optimiser: Adam | SGD = Adam()
    growth: Schedule = SMOOTH
    pace: Schedule = STEPS
    clip: float = 10.0
    validation: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not 0 <= self.epsilon < math.inf or not 0 <= self.validation < 1:
            raise BadOption(f"this plan cannot be followed: {self}", "epochs, batch >= 1; epsilon >= 0; validation < 1")


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: the mean loss, the radius at its end, the scores on validation data, the seconds."""

    epoch: int
    loss: float
    radius: float
    clean: float
    attacked: float
    bounded: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in eval mode, what it is, how it was made, and how that went."""

    network: nn.Module
    description: zoo.Description
    plan: Plan
    history: tuple[Epoch, ...]

    def save(self, path: str | Path, *, data: Data, data_name: str, command: str = "python") -> zoo.Card:
        """Write the weights (.safetensors) that `certify` reads, and their card beside them."""
        clean = accuracy(self.network, data)
        notes = {"plan": repr(self.plan), "torch": torch.__version__.split("+")[0]}
        notes["history"] = [asdict(e) for e in self.history[-1:]]
        epsilon = self.plan.epsilon or None
        card = zoo.Card(data_name, type(self.plan.method).__name__, epsilon, round(clean, 4), command, notes)
        zoo.save(self.description, self.network, path, card)
        return card


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Share of the test data that the network classifies as it should."""
    right = sum(
        int((network(x).argmax(1) == y).sum())
        for x, y in zip(*(torch.from_numpy(a).split(512) for a in (data.x_test, data.y_test)), strict=True)
    )
    return right / max(1, len(data.x_test))


def train(
    description: zoo.Description, data: Data, plan: Plan, *, each_epoch: Callable[[Epoch], None] | None = None
) -> Trained:
    """A network of this architecture, trained on data's training part as the plan says.

    The same arguments give the same weights on the same machine and number of threads; torch's random state is
    left as it was. `each_epoch` hears how every epoch went. Raises BadOption if there is nothing to train on.
    """
    if not len(data.x_train):
        raise BadOption("there are no training data", "use data with a training part, not an .npz file")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        run = Run(description, data, plan)
        while run.epoch < plan.epochs:
            epoch = run.one_epoch()
            if each_epoch is not None:
                each_epoch(epoch)
    return Trained(run.network.eval().requires_grad_(False), description, plan, tuple(run.history))


class Run:
    """A training run in progress."""

    def __init__(self, description: zoo.Description, data: Data, plan: Plan) -> None:
        self.plan = plan
        x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
        kept = round(len(x) * plan.validation)
        aside = torch.randperm(len(x), generator=torch.Generator().manual_seed(plan.seed))
        self.aside, chosen = (x[aside[:kept]], y[aside[:kept]]), aside[kept:]
        self.x, self.y = x[chosen], y[chosen]
        self.network = description.build().train()
        self.optimiser = plan.optimiser(self.network.parameters())
        self.epoch = 0
        self.history: list[Epoch] = []

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return -(-len(self.x) // self.plan.batch)

    def one_epoch(self) -> Epoch:
        begun = time.perf_counter()
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.plan.seed * 7919 + self.epoch))
        total = 0.0
        for i, chosen in enumerate(order.split(self.plan.batch)):
            progress = (self.epoch + i / self.steps) / self.plan.epochs
            total += self.one_step(self.x[chosen], self.y[chosen], progress) * len(chosen)
        self.epoch += 1
        radius = self.plan.epsilon * self.plan.growth(self.epoch / self.plan.epochs)
        found = scores(self.network, *self.aside, self.plan.epsilon, self.plan.norm)
        seconds = time.perf_counter() - begun
        self.history.append(Epoch(self.epoch, total / len(self.x), radius, **asdict(found), seconds=seconds))
        return self.history[-1]

    def one_step(self, x: Tensor, y: Tensor, progress: float) -> float:
        """The loss on the batch before the step."""
        ramp = self.plan.growth(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.optimiser.rate * self.plan.pace(progress)
        self.optimiser.zero_grad()
        region = Ball(x, self.plan.epsilon * ramp, self.plan.norm)
        loss = self.plan.method(self.network, region, y, Moment(progress, ramp))
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
        self.optimiser.step()
        return loss.item()
