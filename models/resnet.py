"""Residual networks (He et al. 2016, basic blocks)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from models.layers import Normalise, Residual


def resnet(
    shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32),
    blocks: int = 1,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Sequential:
    """Stages of `blocks` residual blocks on x (B, *shape) with shape (C, H, W); logits (B, classes).

    Every stage after the first halves height and width. `mean` and `std` (one number per channel) put
    a normalisation in front.
    """
    layers: list[nn.Module] = [Normalise(mean, std)] if mean else []
    layers += [nn.Conv2d(shape[0], channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()]
    depth = channels[0]
    for stage, out in enumerate(channels):
        for block in range(blocks):
            layers += [_block(depth, out, 2 if stage and not block else 1), nn.ReLU()]
            depth = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, classes))


def _block(depth: int, out: int, stride: int) -> Residual:
    body = nn.Sequential(
        nn.Conv2d(depth, out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out),
    )
    if stride == 1 and depth == out:
        return Residual(body, nn.Identity())
    return Residual(body, nn.Sequential(nn.Conv2d(depth, out, 1, stride, bias=False), nn.BatchNorm2d(out)))
