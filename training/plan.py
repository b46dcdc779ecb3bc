"""What a training run is told, and what it tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from certify.errors import BadOption
from training.augment import Augment
from training.average import Averaging
from training.method import Method
from training.optimiser import SGD, Adam
from training.region import LARGEST
from training.schedule import Schedule, Smooth, Steps

ADAM, SMOOTH, STEPS = Adam(), Smooth(), Steps()


class Start(Protocol):
    """Sets a fresh network's weights; a frozen dataclass."""

    def __call__(self, network: nn.Module) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How to train. Everything is a number or a frozen dataclass, so that `repr` tells two plans apart.

    method      the loss
    epsilon     the final radius, in units of the data
    norm        of the balls: inf, 2 or 1
    growth      the radius over epsilon, by progress
    pace        the learning rate over the optimiser's own, by progress
    start       sets the first weights; None leaves torch's own
    augment     random changes of the images, new ones in every epoch
    l1          times the sum of all absolute weights, those with one axis (biases, normalisations) left out, is added
                to what is minimised
    clip        the largest norm of a step's gradient
    average     the average of the weights, EMA or SWA, that then is the result
    patience    epochs at the full radius without a better score, after which training ends; 0 is no end.
                The result then is the best epoch's: by linear bounds, then by attack, then clean
    replays     steps on each batch (Shafahi et al. 2019, free training)
    validation  share of the training data that is kept aside for the scores after each epoch
    mixed       compute in bfloat16 where torch does; methods that rest on bounds refuse it
    compiled    a backend of torch.compile for the network's forward pass, as "inductor"; "" for none
    device      where to compute: "cpu", "cuda", "cuda:1", ...; what is saved is on the processor again
    seed        of the weights, the order of the samples and the noise, from 0, and below 2**31

    Raises BadOption for numbers that cannot be followed.
    """

    method: Method
    epsilon: float = 0.0
    norm: float = math.inf
    epochs: int = 10
    batch: int = 128
    optimiser: Adam | SGD = ADAM
    growth: Schedule = SMOOTH
    pace: Schedule = STEPS
    start: Start | None = None
    augment: Augment | None = None
    l1: float = 0.0
    clip: float = 10.0
    average: Averaging | None = None
    patience: int = 0
    replays: int = 1
    validation: float = 0.02
    mixed: bool = False
    compiled: str = ""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = min(self.epochs, self.batch, self.replays) >= 1 and self.patience >= 0
        drawn = 0 <= self.seed < 2**31 and self.batch < 2**31
        weights = 0 <= self.epsilon <= LARGEST and 0 <= self.l1 <= LARGEST and self.clip > 0
        if not counts or not drawn or not weights or not 0 <= self.validation < 1:
            remedy = (
                "epochs, batch, replays >= 1; patience >= 0; epsilon, l1 >= 0, and not huge; validation in [0, 1); "
                "clip > 0; seed in [0, 2**31), batch below it"
            )
            raise BadOption(f"this plan cannot be followed: {self}", remedy)


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: the mean loss, the radius at its end, the scores on validation data, the seconds by the
    clock and those of the processor (of all threads; on a machine with other work, these say what it costs)."""

    epoch: int
    loss: float
    radius: float
    clean: float
    attacked: float
    bounded: float
    seconds: float
    cpu_seconds: float = 0.0

    @property
    def score(self) -> tuple[float, float, float]:
        """What early stopping compares."""
        return (self.bounded, self.attacked, self.clean)


def best(history: Sequence[Epoch], epsilon: float) -> int | None:
    """The place of the epoch with the best score, the first of equals; None if there is none. Those before the radius
    is full, `epsilon`, do not count: smaller balls are another task."""
    full = [i for i, epoch in enumerate(history) if epoch.radius >= epsilon]
    return max(full, key=lambda i: (history[i].score, -i), default=None)
