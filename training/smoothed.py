"""Training of base classifiers for randomized smoothing with Gaussian noise of deviation `sigma`.

All of them see `samples` noisy copies of each sample: (B * samples, *N), the copies of a sample side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, nll_loss, softmax

from certify.errors import BadOption
from training.inner import Ascent, Inner, Smoothed, copies, wander
from training.method import Moment
from training.region import Ball

ASCENT = Ascent()


def noisy(x: Tensor, sigma: float, samples: int) -> Tensor:
    """Copies (B * samples, *N) of x (B, *N) with noise; the data's range is not enforced. Raises BadOption for none."""
    if samples < 1:
        raise BadOption(f"nothing is learnt from {samples} noisy copies", "use samples from 1")
    repeated = x.repeat_interleave(samples, 0)
    return repeated + sigma * torch.randn_like(repeated)


def _smoothed(network: nn.Module, region: Ball, y: Tensor, sigma: float, samples: int) -> Smoothed:
    """The base classifier under noise that is drawn now."""
    return Smoothed(network, noisy(torch.zeros_like(region.x), sigma, samples), y, samples)


@dataclass(frozen=True)
class SmoothAdv:
    """Cross-entropy at points within a ball that an attack makes bad for the smoothed classifier, by its mean
    probability over the same noise (Salman et al. 2019, eq. 6 and alg. 1)."""

    sigma: float = 0.25
    samples: int = 2
    attack: Inner = ASCENT

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        smoothed = _smoothed(network, region, y, self.sigma, self.samples)
        points = self.attack(smoothed, region).repeat_interleave(self.samples, 0)
        return cross_entropy(network(points + smoothed.noise), y.repeat_interleave(self.samples))


@dataclass(frozen=True)
class SmoothMix:
    """Noisy cross-entropy + `weight` times the divergence of noisy predictions from softened ones, at points between
    the sample and what `steps` steps of length `size` uphill lead to, without a bound on how far (Jeong et al. 2021):
    at a part t of the way, drawn from [0, 1/2], the aim is 1 - t of the smoothed prediction at the sample (taken as it
    is) and t of the uniform one. Samples that the smoothed classifier gets wrong are not mixed; the weight grows with
    the radius, whose own value plays no part."""

    sigma: float = 0.25
    samples: int = 4
    steps: int = 4
    size: float = 0.5
    weight: float = 5.0

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        smoothed = _smoothed(network, region, y, self.sigma, self.samples)
        far = wander(smoothed, region, self.steps, self.size)
        logits = network(region.x.repeat_interleave(self.samples, 0) + smoothed.noise)
        mean = copies(softmax(logits.detach(), 1), self.samples).mean(1)
        part = torch.rand_like(region.x.flatten(1)[:, :1]) / 2
        aim = (1 - part) * mean + part / mean.shape[1]
        between = region.x.flatten(1) * (1 - part) + far.flatten(1) * part
        mixed = between.view_as(region.x).repeat_interleave(self.samples, 0) + smoothed.noise
        away = copies(-log_softmax(network(mixed), 1), self.samples).mean(1) + aim.clamp_min(1e-12).log()
        right = (mean.argmax(1) == y).to(aim.dtype)
        loss = cross_entropy(logits, y.repeat_interleave(self.samples))
        return loss + self.weight * moment.ramp * (right * (aim * away).sum(1)).mean()


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
        each = copies(log_softmax(logits, 1), self.samples)
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
        logits = copies(network(noisy(region.x, self.sigma, self.samples)), self.samples)
        mean = softmax(logits, 2).mean(1)
        loss = nll_loss(mean.clamp_min(1e-12).log(), y)
        sharp = softmax(self.beta * logits, 2).mean(1)
        own = sharp.gather(1, y[:, None])[:, 0]
        second = sharp.scatter(1, y[:, None], -1.0).amax(1)
        # An inverse of the normal distribution is infinite at 0 and 1; the hinge ends long before.
        deep = [torch.special.ndtri(p.clamp(1e-6, 1 - 1e-6)) for p in (own, second)]
        hinge = (self.gamma - (deep[0] - deep[1])).clamp_min(0) * (own > second)
        return loss + self.weight * self.sigma / 2 * hinge.mean()
