"""Training of base classifiers for randomized smoothing with Gaussian noise of deviation `sigma`.

All of them see `samples` noisy copies of each sample: (B * samples, *N), the copies of a sample side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, nll_loss, softmax

from attacks.gradient import Constant, Descent
from training import norms
from training.method import Moment
from training.region import Ball


def noisy(x: Tensor, sigma: float, samples: int) -> Tensor:
    """Copies (B * samples, *N) of x (B, *N) with noise; the data's range is not enforced."""
    copies = x.repeat_interleave(samples, 0)
    return copies + sigma * torch.randn_like(copies)


def _copies(values: Tensor, samples: int) -> Tensor:
    """(B, samples, classes) from (B * samples, classes)."""
    return values.unflatten(0, (-1, samples))


@dataclass(frozen=True)
class SmoothAdv:
    """Cross-entropy at points within an L2 ball that projected gradient ascent makes bad for the smoothed
    classifier, by its mean probability over the same noise (Salman et al. 2019, eq. 6 and alg. 1)."""

    sigma: float = 0.25
    samples: int = 2
    steps: int = 4
    size: float = 0.5

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        noise = noisy(torch.zeros_like(region.x), self.sigma, self.samples)
        descent = Descent(steps=self.steps, goal=-math.inf, step=Constant(self.size))
        with norms.fixed(network, {}):
            found = descent(_Smoothed(network, noise, y, self.samples), region)
        points = found.x.view_as(region.x).repeat_interleave(self.samples, 0)
        return cross_entropy(network(points + noise), y.repeat_interleave(self.samples))


@dataclass(frozen=True, eq=False)
class _Smoothed:
    """The logarithm of the mean probability of y over the noise: an attack's objective, to be lowered."""

    network: nn.Module
    noise: Tensor
    y: Tensor
    samples: int

    def __call__(self, x: Tensor) -> Tensor:
        points = x.repeat_interleave(self.samples, 0).view_as(self.noise) + self.noise
        chance = _copies(log_softmax(self.network(points), 1), self.samples).logsumexp(1) - math.log(self.samples)
        return chance.gather(1, self.y[:, None])[:, 0]

    def select(self, index: Tensor) -> _Smoothed:
        noise = self.noise.unflatten(0, (-1, self.samples))[index].flatten(0, 1)
        return _Smoothed(self.network, noise, self.y[index], self.samples)


@dataclass(frozen=True)
class Stability:
    """Clean cross-entropy + `weight` times the divergence of the noisy from the clean prediction (Li et al. 2019)."""

    sigma: float = 0.25
    weight: float = 2.0

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        logits = network(region.x)
        other = log_softmax(network(noisy(region.x, self.sigma, 1)), 1)
        return cross_entropy(logits, y) + self.weight * kl_div(other, softmax(logits, 1), reduction="batchmean")


@dataclass(frozen=True)
class Consistency:
    """Noisy cross-entropy + `weight` times the divergence of each noisy prediction from their mean + `entropy`
    times the mean's entropy (Jeong & Shin 2020, eq. 9)."""

    sigma: float = 0.25
    samples: int = 2
    weight: float = 10.0
    entropy: float = 0.5

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        logits = network(noisy(region.x, self.sigma, self.samples))
        each = _copies(log_softmax(logits, 1), self.samples)
        mean = each.exp().mean(1).clamp_min(1e-12)
        apart = (mean[:, None] * (mean.log()[:, None] - each)).sum(2).mean()
        spread = -(mean * mean.log()).sum(1).mean()
        loss = cross_entropy(logits, y.repeat_interleave(self.samples))
        return loss + self.weight * apart + self.entropy * spread


@dataclass(frozen=True)
class MACER:
    """Cross-entropy of the smoothed classifier + `weight` times the hinge of its certified radius, where it is
    right: gamma minus the radius, by probabilities sharpened with `beta` (Zhai et al. 2020, eq. 12)."""

    sigma: float = 0.25
    samples: int = 8
    weight: float = 6.0
    gamma: float = 4.0
    beta: float = 16.0

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        logits = _copies(network(noisy(region.x, self.sigma, self.samples)), self.samples)
        mean = softmax(logits, 2).mean(1)
        loss = nll_loss(mean.clamp_min(1e-12).log(), y)
        sharp = softmax(self.beta * logits, 2).mean(1)
        own = sharp.gather(1, y[:, None])[:, 0]
        second = sharp.scatter(1, y[:, None], -1.0).amax(1)
        # An inverse of the normal distribution is infinite at 0 and 1; the hinge ends long before.
        deep = [torch.special.ndtri(p.clamp(1e-6, 1 - 1e-6)) for p in (own, second)]
        hinge = (self.gamma - (deep[0] - deep[1])).clamp_min(0) * (own > second)
        return loss + self.weight * self.sigma / 2 * hinge.mean()
