"""Convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from models.layers import Normalise


def cnn(
    shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Sequential:
    """Convolutions, then one hidden layer, on x (B, *shape) with shape (C, H, W); logits (B, classes).

    The first convolution (3x3) keeps the size, each later one (4x4, stride 2) halves it.
    `mean` and `std` (one number per channel) put a normalisation in front.
    """
    depth, height, width = shape
    layers: list[nn.Module] = [Normalise(mean, std)] if mean else []
    for i, out in enumerate(channels):
        layers += [nn.Conv2d(depth, out, 4, 2, 1) if i else nn.Conv2d(depth, out, 3, 1, 1), nn.ReLU()]
        depth = out
        if i:
            height, width = height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(depth * height * width, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))
