"""A few steps of a training loop, timed: on what, of whom, and by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.training.budget import shortened
from models.data import Data
from models.nets import describe
from training.catalogue import parse, start_of
from training.optimiser import Adam
from training.place import forked
from training.plan import Plan
from training.run import Run, Spent
from training.schedule import Constant

Round = Callable[[], list[Spent]]
"""Trains on all batches once, and says what each step took."""


def clock(device: str) -> Spent:
    """The time, when all that was asked of the device is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return Spent.now()


@dataclass(frozen=True, eq=False)
class Work:
    """What all contestants do: so many steps on batches of the data, in balls of radius epsilon (L-infinity)."""

    data: Data
    net: str
    epsilon: float
    batch: int
    steps: int
    device: str

    @property
    def few(self) -> Data:
        """As many of the data as the steps need."""
        return shortened(self.data, self.batch * self.steps / len(self.data.x_train))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """x (B, *N) and y (B,), on the device."""
        few = self.few
        parts = (torch.from_numpy(part).to(self.device).split(self.batch) for part in (few.x_train, few.y_train))
        yield from zip(*parts, strict=True)

    def network(self, method: str) -> nn.Module:
        """The network as training with this method begins with it; the same weights at each call."""
        with forked(torch.device(self.device)):
            torch.manual_seed(0)
            network = describe(self.net, self.data).build().train()
            if (start := start_of(method)) is not None:
                start(network)
        return network.to(self.device)


class Ours:
    """A method of ours at one share of the radius, in the loop of `certify train`."""

    def __init__(self, work: Work, method: str, ramp: float) -> None:
        settings = {"batch": work.batch, "optimiser": Adam(), "growth": Constant(ramp), "device": work.device}
        plan = Plan(parse(method), work.epsilon, epochs=10**6, validation=0.0, **settings)
        self.run, self.device = Run(describe(work.net, work.data), work.few, plan), work.device
        self.run.network.load_state_dict(work.network(method).state_dict())

    def round(self) -> list[Spent]:
        """Train on all batches; what each step took."""
        begun: list[Spent] = []
        spent: list[Spent] = []

        def begin() -> bool:
            begun.append(clock(self.device))
            return False

        self.run.one_epoch(begin, lambda progress: spent.append(clock(self.device) - begun[-1]))
        return spent


def alternate(rounds: Sequence[Round], times: int) -> list[list[Spent]]:
    """For each of the contestants, the median step of each of its rounds; they take turns, and the first turn of
    all does not count."""
    found: list[list[Spent]] = [[] for _ in rounds]
    for turn in range(times + 1):
        for one, medians in zip(rounds, found, strict=True):
            steps = one()
            if turn:
                medians.append(middle(steps))
    return found


def middle(spent: Sequence[Spent]) -> Spent:
    """The medians."""
    return Spent(*map(median, zip(*spent, strict=True)))
