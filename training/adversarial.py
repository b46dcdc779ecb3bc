"""Training on the worst points that an attack finds (Danskin: the gradient there is that of the maximum)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.gradient import Constant, Descent
from training import norms
from training.method import Moment
from training.norms import Held
from training.region import Ball


@dataclass(frozen=True)
class Climb:
    """Projected gradient ascent on the cross-entropy from a random point; steps of `size` times the radius."""

    steps: int = 7
    size: float = 0.4

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, held: Held | None = None) -> Tensor:
        """The point (B, *N) of each ball with the largest loss that was met. Batch normalisations act as `held`,
        or else with running statistics; the weights gather no gradient."""
        descent = Descent(steps=self.steps, goal=-math.inf, step=Constant(self.size))
        objective = _Confidence(network, y, region.x.shape[1:])
        with torch.enable_grad(), norms.fixed(network, held or {}), _still(network):
            found = descent(objective, region, start=region.sample())
        return found.x.view_as(region.x)


@dataclass(frozen=True, eq=False)
class _Confidence:
    """Minus the cross-entropy of each entry: an attack's objective, to be lowered."""

    network: nn.Module
    y: Tensor
    shape: torch.Size

    def __call__(self, x: Tensor) -> Tensor:
        return -cross_entropy(self.network(x.view(-1, *self.shape)), self.y, reduction="none")

    def select(self, index: Tensor) -> _Confidence:
        return _Confidence(self.network, self.y[index], self.shape)


class _still:
    """While it is entered, the weights need no gradient, which spares an attack half of the backward pass."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = [p for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for p in self._weights:
            p.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for p in self._weights:
            p.requires_grad_(True)


@dataclass(frozen=True)
class Adversarial:
    """Mean cross-entropy at attacked points (Madry et al. 2018)."""

    attack: Climb = Climb()

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        return cross_entropy(network(self.attack(network, region, y)), y)
