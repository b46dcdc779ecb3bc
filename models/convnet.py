"""Plain convolutional networks given layer by layer, as the literature of certified training describes them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from models.layers import Normalise


def convnet(
    shape: Sequence[int],
    classes: int,
    convolutions: Sequence[Sequence[int]],
    hidden: Sequence[int] = (100,),
    batch_norm: bool = False,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Sequential:
    """ReLU network on x (B, *shape) with shape (C, H, W): convolutions (channels, kernel, stride, padding), then
    hidden layers of these widths; logits (B, classes).

    `batch_norm` puts a batch normalisation behind every layer but the last; `mean` and `std` (one number per
    channel) a normalisation in front.
    """
    depth, height, width = shape
    layers: list[nn.Module] = [Normalise(mean, std)] if mean else []
    for out, kernel, stride, padding in convolutions:
        layers.append(nn.Conv2d(depth, out, kernel, stride, padding, bias=not batch_norm))
        layers += [nn.BatchNorm2d(out), nn.ReLU()] if batch_norm else [nn.ReLU()]
        depth = out
        height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    layers.append(nn.Flatten())
    before = depth * height * width
    for out in hidden:
        layers.append(nn.Linear(before, out, bias=not batch_norm))
        layers += [nn.BatchNorm1d(out), nn.ReLU()] if batch_norm else [nn.ReLU()]
        before = out
    return nn.Sequential(*layers, nn.Linear(before, classes))
