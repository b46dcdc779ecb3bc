"""Optimisers as frozen settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from certify.errors import BadOption


@dataclass(frozen=True)
class Adam:
    """Adam with this learning rate (times the plan's schedule) and decoupled weight decay. Raises BadOption for
    negative or infinite ones."""

    rate: float = 5e-4
    decay: float = 0.0

    def __post_init__(self) -> None:
        _require(self, 0 <= self.rate < math.inf and 0 <= self.decay < math.inf)

    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights, self.rate, weight_decay=self.decay, fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with Nesterov's momentum if there is any. Raises BadOption as Adam does, and for a
    momentum outside [0, 1)."""

    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4

    def __post_init__(self) -> None:
        _require(self, 0 <= self.rate < math.inf and 0 <= self.decay < math.inf and 0 <= self.momentum < 1)

    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        settings = {"weight_decay": self.decay, "nesterov": self.momentum > 0}
        return torch.optim.SGD(weights, self.rate, self.momentum, fused=True, **settings)


def _require(optimiser: Adam | SGD, possible: bool) -> None:
    if not possible:
        raise BadOption(f"nothing is optimised by {optimiser}", "rate, decay >= 0 and finite; momentum in [0, 1)")
