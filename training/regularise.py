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
        # All layers' numbers side by side: on a GPU, an operation on few numbers costs as much as one on many.
        widths = torch.stack([box.spread.mean() for box in boxes])
        loose = self.tau - bounds.stages[0].before.spread.mean() / widths.clamp_min(1e-12)
        unbalanced = self.tau - _balance(torch.stack([_sums(box) for box in boxes]))
        penalty = loose.clamp_min(0).sum() + unbalanced.clamp_min(0).sum()
        return share * penalty / (self.tau * len(boxes))


def _sums(box: Box) -> Tensor:
    """Sizes (2, 2) of the sums, over active and over inactive neurons, of centres and of their squared deviations."""
    center = box.center.flatten(1)
    shifted = center - center.mean()
    values = torch.stack([center, shifted * shifted], 1)  # (B, 2, n)
    masks = torch.stack([box.lower.flatten(1) > 0, box.upper.flatten(1) < 0], 1).to(center.dtype)
    return (values @ masks.mT).sum(0).abs()  # where a neuron is inactive, its centre is negative


def _balance(sums: Tensor) -> Tensor:
    """The lesser over the greater (...) of two numbers (..., 2) that are not negative; 1 if both are zero."""
    lesser, greater = sums.amin(-1), sums.amax(-1)
    return torch.where(greater > 0, lesser / greater.clamp_min(1e-12), 1.0)


def regularised(loss: Tensor, regulariser: Regulariser | None, bounds: Bounds, moment: Moment) -> Tensor:
    """The loss, plus the penalty if there is one."""
    return loss if regulariser is None else loss + regulariser(bounds, moment)
