"""Attacks that never see the model: points that mislead other models are tried on it, one query each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attacks.base import Attack, Region, Result
from attacks.classifier import Loss, Misclassified, cross_entropy
from attacks.gradient import Descent, Geometric

PUSH = Descent(steps=30, step=Geometric(1.0, 0.05), momentum=1.0, goal=-torch.inf)
"""Momentum makes points that mislead other models, too (Dong et al. 2018); goal -inf goes on behind the boundary."""


@dataclass(frozen=True, eq=False)
class Committee:
    """The mean of several models' log-probabilities (an ensemble of models: Liu et al. 2017, section 5)."""

    models: tuple[Callable[[Tensor], Tensor], ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, C)."""
        return torch.stack([model(x).log_softmax(1) for model in self.models]).mean(0)


@dataclass(frozen=True, eq=False)
class Transfer:
    """Every surrogate model in turn, and all of them together if there are several, is attacked, and the points found
    are tried on the target (Papernot et al. 2016).

    surrogates  flattened inputs (B, d) to logits (B, C), as a `Classifier`; their queries do not count
    attack      on a surrogate; it should have goal -inf, as points just behind a boundary mislead no other model
    """

    surrogates: tuple[Callable[[Tensor], Tensor], ...]
    attack: Attack = field(default=PUSH)
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise ValueError("a transfer attack needs at least one surrogate model")

    def __call__(self, objective: Misclassified, region: Region) -> Result:
        """The best candidate (B, d) of each region, and the target's margin there."""
        several = (Committee(self.surrogates),) if len(self.surrogates) > 1 else ()
        x = region.start().clone()
        found = Result(x, torch.full_like(x[:, 0], torch.inf))
        for surrogate in (*several, *self.surrogates):
            up = (found.margin > 0).nonzero()[:, 0]
            if not len(up) or self.attack.stop():
                break
            goal = objective.select(up)
            blind = replace(goal.led_by(self.loss), classifier=surrogate, spent=torch.zeros_like(goal.spent))
            x = self.attack(blind, region.select(up)).x
            with torch.no_grad():
                margin = goal(x).to(x.dtype)
            better = margin < found.margin[up]
            found.margin[up] = torch.where(better, margin, found.margin[up])
            found.x[up] = torch.where(better[:, None], x, found.x[up])
        return found
