"""Attacks on the smoothed classifier while its base classifier is trained (Salman et al. 2019).

A sample has `samples` noisy copies, side by side: (B * samples, *N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from attacks.gradient import Constant, Descent
from certify.errors import BadOption
from training import norms
from training.region import Ball


def copies(values: Tensor, samples: int) -> Tensor:
    """(B, samples, classes) from (B * samples, classes)."""
    return values.unflatten(0, (-1, samples))


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The base classifier under fixed noise (B * samples, *N), for samples with classes y (B,). Called, it is an
    attack's objective, to be lowered: the logarithm of the mean probability of y."""

    network: nn.Module
    noise: Tensor
    y: Tensor
    samples: int

    def means(self, x: Tensor) -> Tensor:
        """Logarithms (B, classes) of the mean probabilities at x (B, d)."""
        points = x.repeat_interleave(self.samples, 0).view_as(self.noise) + self.noise
        return copies(log_softmax(self.network(points), 1), self.samples).logsumexp(1) - math.log(self.samples)

    def __call__(self, x: Tensor) -> Tensor:
        return self.means(x).gather(1, self.y[:, None])[:, 0]

    def select(self, index: Tensor) -> Smoothed:
        noise = self.noise.unflatten(0, (-1, self.samples))[index].flatten(0, 1)
        return Smoothed(self.network, noise, self.y[index], self.samples)


class Inner(Protocol):
    """An attack on the smoothed classifier; a frozen dataclass."""

    def __call__(self, smoothed: Smoothed, region: Ball) -> Tensor:
        """Points (B, *N) of the balls."""
        ...


@dataclass(frozen=True)
class Ascent:
    """Projected gradient ascent from the middle, in steps of `size` times the radius (Salman et al. 2019, alg. 1)."""

    steps: int = 4
    size: float = 0.5

    def __call__(self, smoothed: Smoothed, region: Ball) -> Tensor:
        descent = Descent(steps=self.steps, goal=-math.inf, step=Constant(self.size))
        with norms.fixed(smoothed.network, {}):
            return descent(smoothed, region).x.view_as(region.x)


@dataclass(frozen=True)
class DDN:
    """Decoupled direction and norm within the L2 ball (Rony et al. 2019, alg. 1, as Salman et al. 2019 use it): steps
    along the gradient, then onto a sphere around the sample that shrinks by `change` where the smoothed classifier is
    fooled and grows where it is not. The result is the nearest point that fooled it, or the last one.

    size  the first step's length and the first sphere's radius, times the ball's; steps fall to a hundredth of it
          along a cosine
    """

    steps: int = 10
    size: float = 1.0
    change: float = 0.05

    def __call__(self, smoothed: Smoothed, region: Ball) -> Tensor:
        if region.norm != 2.0:
            raise BadOption(f"DDN knows balls of norm 2, not {region.norm}", "train with --norm 2, or another attack")
        center = region.start()
        sphere = center.new_full((len(center), 1), self.size * region.radius)
        point, nearest, fooled = center, torch.full_like(sphere, math.inf), center
        with norms.fixed(smoothed.network, {}):
            for step in range(self.steps + 1):
                means, slope = _slope(smoothed, point)
                hit = (means.argmax(1) != smoothed.y)[:, None]
                distance = torch.linalg.vector_norm(point - center, dim=1, keepdim=True)
                better = hit & (distance < nearest)
                nearest, fooled = torch.where(better, distance, nearest), torch.where(better, point, fooled)
                if step == self.steps:
                    break
                sphere = (sphere * torch.where(hit, 1 - self.change, 1 + self.change)).clamp_max(region.radius)
                length = self.size * region.radius * (0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2)
                shift = point - center + length * slope
                shift = shift * sphere / torch.linalg.vector_norm(shift, dim=1, keepdim=True).clamp_min(1e-12)
                point = region.project(center + shift)
        return torch.where(nearest.isfinite(), fooled, point).view_as(region.x)


def _slope(smoothed: Smoothed, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms (B, classes) of the mean probabilities at x (B, d), and unit vectors along which that of y falls."""
    with torch.enable_grad():
        point = x.detach().requires_grad_(True)
        means = smoothed.means(point)
        (slope,) = torch.autograd.grad(-means.gather(1, smoothed.y[:, None]).sum(), point)
    return means.detach(), slope / torch.linalg.vector_norm(slope, dim=1, keepdim=True).clamp_min(1e-12)


def wander(smoothed: Smoothed, region: Ball, steps: int, length: float) -> Tensor:
    """Points (B, *N) after `steps` steps of this L2 length uphill, bounded by nothing but the data's range (Jeong et
    al. 2021)."""
    free = Ball(region.x, steps * length, 2.0, region.low, region.high)
    point = region.start()
    with norms.fixed(smoothed.network, {}):
        for _ in range(steps):
            _, slope = _slope(smoothed, point)
            point = free.ascend(point, slope, 1 / steps)
    return point.view_as(region.x)
