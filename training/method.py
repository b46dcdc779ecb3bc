"""What a training method is: a loss on a batch, given the network, the region and the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from training.region import Ball


@dataclass(frozen=True)
class Moment:
    """Where the training is: `progress` from 0 to 1 of all steps, `ramp`, the share of the final radius, and a
    `memory` of tensors in which a method may keep what its next steps need; checkpoints hold it."""

    progress: float = 1.0
    ramp: float = 1.0
    memory: dict[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """A frozen dataclass, whose `repr` says all there is to know of it."""

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        """The loss, a number, on the samples region.x (B, *N) with classes y (B,); differentiable in the weights.

        Called once per step, with the network in training mode. Random numbers come from torch's own generator,
        on which the loop's repeatability rests.
        """
        ...
