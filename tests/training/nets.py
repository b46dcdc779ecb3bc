"""Small networks and batches for the tests of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import Normalise, Residual

KINDS = ("mlp", "cnn", "resnet")


def small(kind: str, seed: int) -> nn.Module:
    """A network in float64 from inputs of `shape(kind)` to three logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        elif kind == "cnn":
            net = nn.Sequential(
                Normalise([0.4], [0.3]), nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3),
            )  # fmt: skip
        else:
            body = nn.Sequential(nn.Conv2d(2, 2, 3, 1, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, 1, 1))
            net = nn.Sequential(
                nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(), nn.AvgPool2d(2),
                nn.Flatten(), nn.Linear(8, 3),
            )  # fmt: skip
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return net.double()


def batch(kind: str, seed: int, size: int = 3) -> tuple[Tensor, Tensor]:
    """x (B, *shape) in [0, 1], y (B,)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2,) if kind == "mlp" else (1, 4, 4)
    x = torch.rand(size, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)
