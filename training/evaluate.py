"""How good a network is while it is trained: measurements in floating point, which claim nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.adversarial import Climb
from training.bounds import propagate
from training.certified import interval_margins, linear_margins
from training.region import Ball


@dataclass(frozen=True)
class Scores:
    """Shares of samples: classified right; besides, not moved by an attack; besides, right by linear bounds.

    `bounded` is what a verifier can hope to prove at least, not what it proves: `certify robust` decides that.
    """

    clean: float
    attacked: float
    bounded: float


@torch.no_grad()
def scores(network: nn.Module, x: Tensor, y: Tensor, radius: float, norm: float = math.inf) -> Scores:
    """The network's scores on x (N, *shape), y (N,), in eval mode, in batches; the generator's state is kept."""
    counts = torch.zeros(3)
    training = network.training
    network.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for some, labels in zip(x.split(256), y.split(256), strict=True):
            region = Ball(some, radius, norm)
            right = network(some).argmax(1) == labels
            attacked = right & (network(Climb(steps=10, size=0.25)(network, region, labels)).argmax(1) == labels)
            bounds = propagate(network, region)
            worst = torch.minimum(interval_margins(bounds, labels), linear_margins(bounds, labels))
            others = worst.scatter(1, labels[:, None], -math.inf).amax(1)
            counts += torch.stack([right.sum(), attacked.sum(), (right & (others < 0)).sum()])
    network.train(training)
    return Scores(*(counts / max(1, len(x))).tolist())
