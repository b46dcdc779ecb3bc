"""What makes short training on intervals work: an initialisation and two regularisers (Shi et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.bounds import Bounds, Box
from training.method import Moment


@dataclass(frozen=True)
class IntervalStart:
    """Normal weights of deviation sqrt(2 pi) / n for fan-in n, so that the width of intervals neither grows nor
    shrinks from layer to layer (Shi et al. 2021, sec. 3.1); biases zero."""

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.normal_(0.0, math.sqrt(2 * math.pi) / layer.weight[0].numel())
                if layer.bias is not None:
                    layer.bias.zero_()


@dataclass(frozen=True)
class Regulariser:
    """`weight` times two penalties, fading as the radius grows (Shi et al. 2021, eq. 6-9): intervals more than
    1 / tau times as wide as the input's, and active and inactive neurons out of balance by more than that."""

    weight: float = 0.5
    tau: float = 0.5

    def __call__(self, bounds: Bounds, moment: Moment) -> Tensor:
        boxes = [stage.before for stage in bounds.stages if isinstance(stage.layer, nn.ReLU)]
        share = self.weight * (1 - moment.ramp)
        if not boxes or not bounds.region.radius or share <= 0:
            return bounds.output.like.new_zeros(())
        first = bounds.stages[0].before.spread.mean()
        penalty = sum(self._loose(box, first) + self._unbalanced(box) for box in boxes)
        return share * penalty / (self.tau * len(boxes))

    def _loose(self, box: Box, first: Tensor) -> Tensor:
        return (self.tau - first / box.spread.mean().clamp_min(1e-12)).clamp_min(0)

    def _unbalanced(self, box: Box) -> Tensor:
        center = box.center.flatten(1)
        shifted = center - center.mean()
        values = torch.stack([center, shifted * shifted], 1)  # (B, 2, n)
        masks = torch.stack([box.lower.flatten(1) > 0, box.upper.flatten(1) < 0], 1).to(center.dtype)
        (mean, other_mean), (variance, other_variance) = (values @ masks.mT).sum(0)  # of active, inactive neurons
        means, variances = _balance(mean, -other_mean), _balance(variance, other_variance)
        return (self.tau - means).clamp_min(0) + (self.tau - variances).clamp_min(0)


def _balance(one: Tensor, other: Tensor) -> Tensor:
    """The lesser over the greater of two numbers that are not negative; 1 if both are zero."""
    lesser, greater = torch.minimum(one, other), torch.maximum(one, other)
    return torch.where(greater > 0, lesser / greater.clamp_min(1e-12), torch.ones_like(greater))


def regularised(loss: Tensor, regulariser: Regulariser | None, bounds: Bounds, moment: Moment) -> Tensor:
    """The loss, plus the penalty if there is one."""
    return loss if regulariser is None else loss + regulariser(bounds, moment)
