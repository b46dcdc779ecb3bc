"""Margin losses for networks of Lipschitz constant 1 (`models.lipschitz`): what counts is to be right by a distance.

Outputs whose differences have constants K_jy in L2 change against each other by at most K_jy times the distance that an
input is moved by, in L2. One pass through the network so bounds the worst case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certify.errors import BadOption
from models.lipschitz import pair_constants
from training.method import Moment
from training.region import Ball


def reach(region: Ball) -> float:
    """The largest L2 distance of a point of a ball from its middle; the data's range is not asked."""
    return region.radius * (math.sqrt(region.x[0].numel()) if region.norm == math.inf else 1.0)


def constants(network: nn.Module) -> Tensor:
    """As `models.lipschitz.pair_constants`. Raises BadOption for a network of other layers."""
    found = pair_constants(network)
    if found is None:
        raise BadOption(
            "margin losses are for networks of Lipschitz constant 1, and this one has other layers",
            "train lipschitz-mlp or lipschitz-cnn, or networks of the layers in models.lipschitz",
        )
    return found


def shifted(network: nn.Module, region: Ball, y: Tensor) -> Tensor:
    """Upper bounds (B, classes) on each logit minus that of y, over the balls; up to rounding."""
    logits = network(region.x)
    return logits - logits.gather(1, y[:, None]) + reach(region) * constants(network)[y]


@dataclass(frozen=True)
class LipschitzBound:
    """Worst-case cross-entropy over the balls, by Lipschitz constants of pairs of outputs (Tsuzuku et al. 2018, with a
    constant for each pair). Margins are divided by `temperature` and the loss is multiplied by it: outputs of constant
    1 are too close to each other for a softmax as it is. With 1 it is an upper bound of the plain loss."""

    temperature: float = 0.25

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        return self.temperature * cross_entropy(shifted(network, region, y) / self.temperature, y)


@dataclass(frozen=True)
class LipschitzMargin:
    """Cross-entropy with `offset` times sqrt(2) taken from the output of y, whatever the radius (Prach & Lampert 2022,
    sec. 5); `temperature` as in `LipschitzBound`. Where it is small, inputs are certified up to about the offset."""

    offset: float = 1.0
    temperature: float = 0.25

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        constants(network)  # refuses what the loss says nothing about
        logits = network(region.x)
        lowered = logits.scatter_add(1, y[:, None], logits.new_full((len(y), 1), -self.offset * math.sqrt(2)))
        return self.temperature * cross_entropy(lowered / self.temperature, y)
