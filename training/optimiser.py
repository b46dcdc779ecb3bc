"""Optimisers as frozen settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Adam:
    """Adam with this learning rate (times the plan's schedule) and decoupled weight decay."""

    rate: float = 5e-4
    decay: float = 0.0

    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights, self.rate, weight_decay=self.decay, fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with Nesterov's momentum if there is any."""

    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4

    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        settings = {"weight_decay": self.decay, "nesterov": self.momentum > 0}
        return torch.optim.SGD(weights, self.rate, self.momentum, fused=True, **settings)
