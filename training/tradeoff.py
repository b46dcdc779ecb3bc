"""Adversarial training that weighs clean accuracy against robustness, or costs little more than standard training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, nll_loss

from training.adversarial import Climb
from training.method import Moment
from training.plan import Epoch
from training.region import Ball

TEN = Climb(steps=10, size=0.25)


@dataclass(frozen=True)
class TRADES:
    """Clean cross-entropy + `beta` times the divergence of the attacked from the clean prediction, which the
    attack makes large (Zhang et al. 2019, eq. 5)."""

    beta: float = 6.0
    attack: Climb = TEN

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        with torch.no_grad():
            # Cross-entropy to a fixed distribution is the divergence and a constant, so one attack serves both.
            aim = _predicted(network, region.x)
        point = self.attack(network, region, aim)
        logits = network(region.x)
        away = kl_div(log_softmax(network(point), 1), logits.softmax(1), reduction="batchmean")
        return cross_entropy(logits, y) + self.beta * away


def _predicted(network: nn.Module, x: Tensor) -> Tensor:
    """Probabilities (B, classes) in eval mode."""
    training = network.training
    try:
        return network.eval()(x).softmax(1)
    finally:
        network.train(training)


@dataclass(frozen=True)
class MART:
    """Boosted cross-entropy at attacked points + `beta` times their divergence from the clean prediction, weighted
    by how wrong that is (Wang et al. 2020, eq. 11)."""

    beta: float = 5.0
    attack: Climb = TEN

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        attacked = log_softmax(network(self.attack(network, region, y)), 1)
        clean = log_softmax(network(region.x), 1)
        other = attacked.exp().scatter(1, y[:, None], 0.0).amax(1)
        boosted = nll_loss(attacked, y) - (1 - other).clamp_min(1e-6).log().mean()
        away = (clean.exp() * (clean - attacked)).sum(1)
        wrong = 1 - clean.exp().gather(1, y[:, None])[:, 0]
        return boosted + self.beta * (away * wrong).mean()


@dataclass(frozen=True)
class Fast:
    """One signed gradient step of `size` times the radius from a random point (Wong et al. 2020).

    It can overfit to its own step, so that robustness is suddenly lost: see `overfitted`.
    """

    size: float = 1.25

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        start = region.sample().requires_grad_(True)
        (slope,) = torch.autograd.grad(cross_entropy(network(start.view_as(region.x)), y), start)
        point = region.ascend(start.detach(), slope, self.size).view_as(region.x)
        return cross_entropy(network(point), y)


@dataclass(frozen=True)
class Free:
    """The gradient of each step moves the perturbation, too, which the next step goes on with (Shafahi et al.
    2019, alg. 1); with a plan of several replays, so that a batch meets its own perturbation again."""

    size: float = 1.0

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        center = region.start()
        kept = moment.memory.get("shift")
        shift = torch.zeros_like(center)
        if kept is not None:
            shift[: len(kept)] = kept[: len(center)]
        point = region.project(center + shift).requires_grad_(True)

        def move(slope: Tensor) -> None:
            moment.memory["shift"] = region.ascend(point.detach(), slope, self.size) - center

        point.register_hook(move)
        return cross_entropy(network(point.view_as(region.x)), y)


def overfitted(history: Sequence[Epoch], drop: float = 0.2) -> Epoch | None:
    """The first epoch at whose end the accuracy under attack was lower by `drop` than at the end of an earlier
    one, though clean accuracy was not: catastrophic overfitting (Wong et al. 2020, sec. 5). None if there is none.

    Only epochs at the same radius are compared: while it grows, accuracy falls as it should.
    """
    for i, epoch in enumerate(history):
        before = [e for e in history[:i] if e.radius == epoch.radius]
        if any(e.attacked - epoch.attacked >= drop and e.clean - epoch.clean < drop / 2 for e in before):
            return epoch
    return None
