"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from models.layers import Normalise


def mlp(
    shape: Sequence[int],
    classes: int,
    hidden: Sequence[int] = (64, 64),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Sequential:
    """ReLU network on flattened x (B, *shape), with hidden layers of these widths; logits (B, classes).

    `mean` and `std` (one number per channel) put a normalisation in front.
    """
    widths = [prod(shape), *hidden]
    layers: list[nn.Module] = [Normalise(mean, std, len(shape) - 1)] if mean else []
    layers.append(nn.Flatten())
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
