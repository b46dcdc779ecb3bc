"""What networks of a sweep are compared by where linear bounds are too coarse: verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from benchmarks.robust import Assessment, Threat, summarise
from certify.budget import Budget
from certify.errors import BadOption
from certify.frontends.load import load_network
from certify.strategy import Strategy
from models.data import Data
from training.loop import Trained
from training.run import split

RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Verified:
    """Of the first `samples` that the plan kept aside, the shares that are right, and that `certify robust` verifies in
    balls of this radius and norm, within `timeout` seconds each.

    Sound if the verifier is: each sample that counts as certified has its proof checked. On networks that were not
    trained on bounds it sees much that `training.Bounded` does not, and takes longer. Raises BadOption if a plan keeps
    too few samples aside.
    """

    epsilon: float
    norm: float = math.inf
    samples: int = 100
    timeout: float = 5.0

    def __call__(self, trained: Trained, data: Data) -> tuple[float, float]:
        aside, _ = split(len(data.x_train), trained.plan)
        if len(aside) < self.samples:
            what = f"{len(aside)} samples are kept aside, and {self.samples} are to be verified"
            raise BadOption(what, "plan with a larger `validation`, or verify fewer")
        places = aside[: self.samples].numpy()
        x, y = data.x_train[places], data.y_train[places]
        network = load_network(trained.network, torch.from_numpy(x[:1]))
        assessment = Assessment(network, x, y, Threat(self.norm, RANGE), Strategy(), self.timeout)
        (found,) = summarise(assessment.judge(range(len(x)), [(f"{self.epsilon:g}", self.epsilon)], Budget()))
        return found.clean / found.samples, found.certified / found.samples
