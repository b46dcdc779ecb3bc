"""A small vision transformer (Dosovitskiy et al. 2021), with batch in place of layer normalisation, so that a
trained one is affine there (Shi et al. 2025, the networks of VNN-COMP)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import Normalise, Residual


def vit(
    shape: Sequence[int],
    classes: int,
    patch: int = 7,
    width: int = 32,
    heads: int = 2,
    depth: int = 1,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Sequential:
    """Transformer on the patches (patch x patch) of x (B, *shape), shape (C, H, W); the mean of the tokens is
    classified. Raises ValueError if patches do not tile the image, or heads do not divide `width`."""
    channels, height, breadth = shape
    if height % patch or breadth % patch or width % heads:
        raise ValueError(f"patches of {patch} do not tile {height} x {breadth}, or {heads} heads {width}")
    tokens = (height // patch) * (breadth // patch)
    front = [Normalise(mean, std)] if mean else []
    blocks = [_block(width, heads) for _ in range(depth)]
    return nn.Sequential(
        *front, Embedding(channels, patch, width, tokens), *blocks, MeanToken(), nn.Linear(width, classes)
    )


def _block(width: int, heads: int) -> nn.Sequential:
    attention = nn.Sequential(TokenNorm(width), Attention(width, heads))
    mixing = nn.Sequential(TokenNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
    return nn.Sequential(Residual(attention, nn.Identity()), Residual(mixing, nn.Identity()))


class Embedding(nn.Module):
    """Patches as tokens (B, T, width), each with its place added."""

    def __init__(self, channels: int, patch: int, width: int, tokens: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2) + self.place


class TokenNorm(nn.Module):
    """Batch normalisation of each feature over samples and tokens (B, T, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Softmax attention with several heads on (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class MeanToken(nn.Module):
    """The mean (B, width) of the tokens (B, T, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)
