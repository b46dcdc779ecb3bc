"""How good a network is while it is trained: measurements in floating point, which claim nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certify.errors import UnsupportedOp
from models.lipschitz import pair_constants
from training.adversarial import Climb
from training.bounds import propagate
from training.certified import interval_margins, linear_margins
from training.lipschitz import shifted
from training.place import forked
from training.region import Ball

BATCH = 64  # a linear form has a row per class and layer entry: much memory for wide networks


@dataclass(frozen=True)
class Scores:
    """Shares of samples: classified right; besides, not moved by an attack; besides, right by linear bounds.

    `bounded` is what a verifier can hope to prove at least, not what it proves: `certify robust` decides that. It is
    0 for a network with layers that `training.bounds` has no rule for, unless its Lipschitz constant is 1.
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
    with forked(x.device):
        torch.manual_seed(0)
        for some, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            region = Ball(some, radius, norm)
            right = network(some).argmax(1) == labels
            attacked = right & (network(Climb(steps=10, size=0.25)(network, region, labels)).argmax(1) == labels)
            bounded = right & _bounded(network, region, labels)
            counts += torch.stack([right.sum(), attacked.sum(), bounded.sum()]).cpu()
    network.train(training)
    return Scores(*(counts / max(1, len(x))).tolist())


def _bounded(network: nn.Module, region: Ball, y: Tensor) -> Tensor:
    """(B,): whether bounds say that no other class comes up to y's."""
    if pair_constants(network) is not None:
        worst = shifted(network, region, y)
    else:
        try:
            bounds = propagate(network, region)
        except UnsupportedOp:
            return torch.zeros_like(y, dtype=torch.bool)
        worst = torch.minimum(interval_margins(bounds, y), linear_margins(bounds, y))
    return worst.scatter(1, y[:, None], -math.inf).amax(1) < 0
