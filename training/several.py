"""Robustness to several perturbations at once (Tramèr & Boneh 2019): the worst of them, their mean, one drawn by
chance, or steps that choose among norms (Maini et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training import norms
from training.adversarial import Climb
from training.augment import moved
from training.method import Moment
from training.region import Ball

CLIMB = Climb(steps=10, size=0.25)


class Threat(Protocol):
    """A kind of perturbation, and how bad ones are found; a frozen dataclass."""

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, ramp: float) -> Tensor:
        """Perturbed samples like region.x (B, *N); `ramp` scales the threat's full strength."""
        ...


@dataclass(frozen=True)
class Within:
    """A ball of its own radius and norm, attacked by `attack`."""

    epsilon: float
    norm: float = math.inf
    attack: Climb = CLIMB

    def ball(self, region: Ball, ramp: float) -> Ball:
        """The ball around region's samples."""
        return Ball(region.x, self.epsilon * ramp, self.norm, region.low, region.high)

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, ramp: float) -> Tensor:
        return self.attack(network, self.ball(region, ramp), y)


@dataclass(frozen=True)
class Moved:
    """Rotated by up to `degrees` and shifted by up to `pixels`: the worst of `tries` random ones (Engstrom et al.
    2019, worst-of-k). For images (B, C, H, W); zeros enter at the edges."""

    degrees: float = 30.0
    pixels: float = 3.0
    tries: int = 5

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, ramp: float) -> Tensor:
        tried = [moved(region.x, ramp * self.pixels, ramp * self.degrees) for _ in range(self.tries)]
        return _worst(network, torch.stack([region.x, *tried]), y)


@torch.no_grad()
def _worst(network: nn.Module, points: Tensor, y: Tensor) -> Tensor:
    """Of points (K, B, *N), for each sample the one with the largest loss, in eval mode."""
    with norms.fixed(network, {}):
        losses = torch.stack([cross_entropy(network(x), y, reduction="none") for x in points])
    return points[losses.argmax(0), torch.arange(len(y), device=y.device)]


@dataclass(frozen=True)
class Worst:
    """Cross-entropy under each sample's worst threat ("max")."""

    threats: tuple[Threat, ...]

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        points = torch.stack([threat(network, region, y, moment.ramp) for threat in self.threats])
        return cross_entropy(network(_worst(network, points, y)), y)


@dataclass(frozen=True)
class Average:
    """Mean cross-entropy under all threats ("avg")."""

    threats: tuple[Threat, ...]

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        points = torch.cat([threat(network, region, y, moment.ramp) for threat in self.threats])
        return cross_entropy(network(points), y.repeat(len(self.threats)))


@dataclass(frozen=True)
class Mixture:
    """Cross-entropy under a threat that is drawn for each batch, with these weights (all equal if none are given)."""

    threats: tuple[Threat, ...]
    weights: tuple[float, ...] = ()

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        weights = torch.tensor(self.weights or (1.0,) * len(self.threats))
        threat = self.threats[int(torch.multinomial(weights, 1))]
        return cross_entropy(network(threat(network, region, y, moment.ramp)), y)


@dataclass(frozen=True)
class MSD:
    """Cross-entropy at points found by ascent whose every step is the best of one for each ball (Maini et al. 2020,
    alg. 1): each moves uphill in its own norm and is projected on its own ball."""

    balls: tuple[Within, ...]
    steps: int = 10
    size: float = 0.25

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        balls = [threat.ball(region, moment.ramp) for threat in self.balls]
        point = region.x
        with norms.fixed(network, {}):
            for _ in range(self.steps):
                point = point.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(cross_entropy(network(point), y), point)
                x, uphill = point.detach().flatten(1), slope.flatten(1)
                steps = torch.stack([b.ascend(x, uphill, self.size).view_as(region.x) for b in balls])
                point = _worst(network, steps, y)
        return cross_entropy(network(point), y)
