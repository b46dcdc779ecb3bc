"""The balls around a batch of samples in which a network is trained to be right."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certify.errors import BadOption

LARGEST = 1e30
"""Of radii and weights: far from what float32 overflows at, and from all that makes sense."""


@dataclass(frozen=True, eq=False)
class Ball:
    """The points within `radius` of each sample of x (B, *N), in the L-infinity, L2 or L1 norm, and within [low, high].

    It is the `Region` of `attacks`, whose methods take and give flat points (B, d).
    Norms 2 and 1: the cut by [low, high] follows the projection on the ball; x itself lies in the range, so
    that the result is in both, though it need not be the nearest point.
    """

    x: Tensor
    radius: float
    norm: float = math.inf
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in (math.inf, 2.0, 1.0):
            raise BadOption(f"there is no ball of norm {self.norm}", "use inf, 2 or 1")
        if not 0 <= self.radius <= LARGEST:
            raise BadOption(f"a ball's radius is not {self.radius}", "use a number from 0, and not a huge one")

    def box(self) -> tuple[Tensor, Tensor]:
        """Lower and upper ends (B, *N) of the smallest box around each ball."""
        return (self.x - self.radius).clamp_min(self.low), (self.x + self.radius).clamp_max(self.high)

    def around(self, x: Tensor, radius: float) -> Ball:
        """Another ball of this norm and range."""
        return replace(self, x=x, radius=radius)

    def maximum(self, rows: Tensor) -> Tensor:
        """Upper bounds (B, S) on rows (B, S, *N) times x over each ball: exact for L-infinity.

        For the other norms the ball's dual norm bounds it, or the box around it, whichever is less.
        """
        lower, upper = (end.flatten(1) for end in self.box())
        rows = rows.flatten(2)
        center, spread = (lower + upper) / 2, (upper - lower) / 2
        by_box = (rows @ center[:, :, None] + rows.abs() @ spread[:, :, None])[..., 0]
        if self.norm == math.inf:
            return by_box
        dual = torch.linalg.vector_norm(rows, math.inf if self.norm == 1.0 else 2.0, dim=-1)
        return torch.minimum(by_box, (rows @ self.x.flatten(1)[:, :, None])[..., 0] + self.radius * dual)

    # what `attacks` asks of a region

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: Tensor) -> Ball:
        return replace(self, x=self.x[index])

    def start(self) -> Tensor:
        return self.x.flatten(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A random point of each ball, (B, d): uniform in the box for L-infinity, else of a random direction. Without a
        generator, the one of x's device is asked."""
        shift = torch.empty_like(self.x).uniform_(-1, 1, generator=generator).flatten(1)
        if self.norm != math.inf:
            share = torch.empty_like(shift[:, :1]).uniform_(generator=generator)
            shift = share * shift / torch.linalg.vector_norm(shift, self.norm, dim=1, keepdim=True).clamp_min(1e-12)
        return (self.start() + self.radius * shift).clamp(self.low, self.high)

    def project(self, x: Tensor) -> Tensor:
        center = self.start()
        shift = x - center
        if self.norm == math.inf:
            shift = shift.clamp(-self.radius, self.radius)
        elif self.norm == 2.0:
            length = torch.linalg.vector_norm(shift, dim=1, keepdim=True).clamp_min(1e-12)
            shift = shift * (self.radius / length).clamp_max(1)
        else:
            shift = _onto_l1(shift, self.radius)
        return (center + shift).clamp(self.low, self.high)

    def ascend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """x moved uphill by `step` times the radius: by signs (L-infinity), the normalised gradient (L2), or
        the largest twentieth of the entries (L1; Tramèr & Boneh 2019, sparse steps)."""
        if self.norm == math.inf:
            move = gradient.sign()
        elif self.norm == 2.0:
            move = gradient / torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_min(1e-12)
        else:
            kept = max(1, gradient.shape[1] // 20)
            least = gradient.abs().topk(kept, dim=1).values[:, -1:]
            move = gradient.sign() * (gradient.abs() >= least) / kept
        return self.project(x + step * self.radius * move)


def _onto_l1(shift: Tensor, radius: float) -> Tensor:
    """The nearest vectors (B, d) whose absolute values sum to at most `radius` (Duchi et al. 2008, fig. 1)."""
    ordered = shift.abs().sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - radius) / torch.arange(1, shift.shape[1] + 1, dtype=shift.dtype, device=shift.device)
    last = (ordered > excess).sum(1, keepdim=True).clamp_min(1) - 1
    return shift.sign() * (shift.abs() - excess.gather(1, last).clamp_min(0)).clamp_min(0)
