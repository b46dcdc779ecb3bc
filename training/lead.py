"""The first affine layer over L2 and L1 balls: the dual norm of each of its rows, where a box would be far too wide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from models.layers import Normalise
from training.region import Ball


@dataclass(frozen=True, eq=False)
class Lead:
    """What scalings have made of a batch of balls: centres (B, *N), and the factor (1, *N) of each entry."""

    center: Tensor
    scale: Tensor
    region: Ball

    @classmethod
    def of(cls, region: Ball) -> Lead:
        """Before the first layer."""
        return cls(region.x, torch.ones_like(region.x[:1]), region)

    def behind(self, layer: nn.Module) -> Lead | None:
        """The same behind a scaling; None behind any other layer."""
        if isinstance(layer, Normalise):
            return Lead(layer(self.center), self.scale / layer.std, self.region)
        if isinstance(layer, nn.Flatten | nn.Identity):
            return Lead(layer(self.center), layer(self.scale), self.region)
        return None

    def ends(self, layer: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Lower and upper ends of a linear or convolutional layer's values over the balls, without the data's range;
        exact but for L1 and convolutions, whose rows are taken to be cut nowhere. None for another layer."""
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            return None
        center = layer(self.center)
        reach = self.region.radius * (self._euclidean(layer) if self.region.norm == 2.0 else self._largest(layer))
        return center - reach, center + reach

    def _euclidean(self, layer: nn.Linear | nn.Conv2d) -> Tensor:
        square, weight = self.scale.square(), layer.weight.square()
        if isinstance(layer, nn.Linear):
            total = linear(square, weight)
        else:
            total = conv2d(square, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return total.clamp_min(1e-24).sqrt()  # a root has no slope at zero

    def _largest(self, layer: nn.Linear | nn.Conv2d) -> Tensor:
        if isinstance(layer, nn.Linear):
            return (layer.weight.abs() * self.scale).amax(1)
        return (layer.weight.abs().amax((1, 2, 3)) * self.scale.amax())[:, None, None]
