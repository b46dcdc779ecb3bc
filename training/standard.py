"""Training without a worst case: on the data as they are, or with noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.method import Moment
from training.region import Ball


@dataclass(frozen=True)
class Standard:
    """Mean cross-entropy on the data as they are."""

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        return cross_entropy(network(region.x), y)


@dataclass(frozen=True)
class Gaussian:
    """Mean cross-entropy with Gaussian noise of standard deviation `sigma` (Cohen et al. 2019); the range is not
    enforced, as randomized smoothing does not enforce it either."""

    sigma: float

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        return cross_entropy(network(region.x + self.sigma * torch.randn_like(region.x)), y)
