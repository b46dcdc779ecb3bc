"""A batch of input regions as tensors: what attacks move in and bounds minimise over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from certify.spec.regions import Region

APART = 100
"""By how many roundings, relative to the radius, a box must lie further from a ball's centre than that to miss it."""

ROUNDS = 30
"""How often at most the multiplier of an L2 ball's constraint is corrected."""


@dataclass(frozen=True, eq=False)
class InputSet:
    """B regions: boxes lower <= x <= upper, each (B, d), met with L1 or L2 balls if `norm` is 1 or 2.

    center (B, d) and radius (B,) belong to the balls. An L-infinity ball is its box.
    """

    lower: Tensor
    upper: Tensor
    norm: float | None = None
    center: Tensor | None = None
    radius: Tensor | None = None

    def __len__(self) -> int:
        return self.lower.shape[0]

    def select(self, index: Tensor | slice) -> InputSet:
        """The regions at `index`, in that order."""
        if self.norm is None:
            return InputSet(self.lower[index], self.upper[index])
        return InputSet(self.lower[index], self.upper[index], self.norm, self.center[index], self.radius[index])

    def within(self, lower: Tensor, upper: Tensor) -> InputSet:
        """The same balls with other boxes."""
        return replace(self, lower=lower, upper=upper)

    def regions(self) -> list[Region]:
        """Each of them, as the float64 numbers that it is made of say exactly."""
        box = [side.double().cpu().numpy() for side in (self.lower, self.upper)]
        if self.norm is None:
            return [Region(lower, upper) for lower, upper in zip(*box, strict=True)]
        ball = zip(self.center.double().cpu().numpy(), self.radius.tolist(), strict=True)
        return [Region(lo, up, c, r, self.norm) for lo, up, (c, r) in zip(*box, ball, strict=True)]

    def part(self, a: Tensor) -> Tensor:
        """The part (B, S, d) of a that the balls are to bound in `minimum`: at most t large for L1, where t is the
        multiplier of the ball's constraint; t (center - x) for L2, where x is the minimiser."""
        return _Lagrangian(self, a).part

    def minimum(self, a: Tensor) -> Tensor:
        """A lower bound of min <a, x> over each region: a (B, S, d) -> (B, S).

        Over a box it is exact; over a ball in a box it is, for any part p of a, the sum of the least <p, x> over the
        ball (dual norm: Xu et al. 2020, eq. 8) and the least <a - p, x> over the box. Three are tried, of which the
        last is nearly the best of all: all, nothing, and what `_Lagrangian` says. Not outward-rounded.
        """
        bound = self._over_box(a)
        if self.norm is None:
            return bound
        bound = torch.maximum(bound, self._over_ball(a))
        part = self.part(a)
        both = self._over_box(a - part) + self._over_ball(part)
        return torch.where(both > bound, both, bound)  # not where it is NaN

    def minimiser(self, a: Tensor) -> Tensor:
        """A point (B, S, d) at which <a, x> nearly attains the bound that `minimum` gives, where it is attained."""
        if self.norm is None:
            return torch.where(a > 0, self.lower[:, None], self.upper[:, None])
        return _Lagrangian(self, a).point

    def _over_box(self, a: Tensor) -> Tensor:
        middle, half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        return _dot(a, middle) - _dot(a.abs(), half)

    def _over_ball(self, a: Tensor) -> Tensor:
        dual = a.abs().amax(-1) if self.norm == 1 else a.norm(dim=-1)
        return _dot(a, self.center) - self.radius[:, None] * dual

    def misses(self) -> Tensor:
        """(B,): whether the box lies apart from its ball, so that the region is empty. Not outward-rounded, but for
        numbers in float64 nearly so."""
        if self.norm is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.lower.device)
        nearest = self.center.clamp(self.lower, self.upper)
        return self._distance(nearest) > self.radius * (1 + APART * torch.finfo(self.radius.dtype).eps)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the regions (Euclidean; to float accuracy): x (B, d) -> (B, d)."""
        inside = x.clamp(self.lower, self.upper)
        if self.norm is None:
            return inside
        out = self._distance(inside) > self.radius
        if not out.any():
            return inside
        low, high = x.new_zeros(len(self)), x.new_full((len(self),), 1.0)
        offset = x - self.center
        scale = offset.abs().amax(-1)
        for _ in range(40):  # bisection on the multiplier of the ball's constraint; the distance falls with it
            middle = (low + high) / 2
            too_far = self._distance(self._shrunk(offset, scale, middle)) > self.radius
            low, high = torch.where(too_far, middle, low), torch.where(too_far, high, middle)
        return torch.where(out[:, None], self._shrunk(offset, scale, high), inside)

    def _shrunk(self, offset: Tensor, scale: Tensor, amount: Tensor) -> Tensor:
        """The minimiser for a multiplier between none (0) and infinity (1): KKT of the projection."""
        if self.norm == 2:
            moved = offset * (1 - amount)[:, None]
        else:
            moved = offset.sign() * (offset.abs() - (amount * scale)[:, None]).clamp_min(0)
        return (self.center + moved).clamp(self.lower, self.upper)

    def _distance(self, x: Tensor) -> Tensor:
        return (x - self.center).norm(p=self.norm, dim=-1)

    def ascend(self, x: Tensor, gradient: Tensor, step: float | Tensor) -> Tensor:
        """x (B, d) moved uphill and projected back. `step` is a fraction of the region's half width or
        radius: along the sign of the gradient in a box, along the gradient for L2, along its largest
        tenth of coordinates for L1 (as in SLIDE, Tramer & Boneh 2019)."""
        if self.norm is None:
            move = gradient.sign() * (self.upper - self.lower) / 2
        elif self.norm == 2:
            move = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-30) * self.radius[:, None]
        else:
            blocked = ((x >= self.upper) & (gradient > 0)) | ((x <= self.lower) & (gradient < 0))
            free = gradient.masked_fill(blocked, 0)
            keep = max(1, x.shape[-1] // 10)
            top = free.abs().topk(keep, dim=-1)
            chosen = torch.zeros_like(free).scatter_(-1, top.indices, 1.0) * free.sign()
            move = chosen / chosen.abs().sum(-1, keepdim=True).clamp_min(1) * self.radius[:, None]
        return self.project(x + step * move)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One random point (B, d) of each region: uniform in the box, projected onto the ball."""
        noise = torch.rand(self.lower.shape, generator=generator, dtype=self.lower.dtype).to(self.lower.device)
        x = self.lower + noise * (self.upper - self.lower)
        return x.clamp(self.lower, self.upper) if self.norm is None else self.project(x)

    def start(self) -> Tensor:
        """The middle (B, d): the balls' centres, else the boxes'."""
        middle = (self.lower + self.upper) / 2 if self.norm is None else self.center
        return middle.clamp(self.lower, self.upper)


class _Lagrangian:
    """The least <a, x> over boxes met with L1 or L2 balls, a (B, S, d), by the multiplier t of the ball's constraint.

    `point` (B, S, d) is the minimiser; `part` is what the ball is to bound of a: -t times a subgradient, at that
    point, of the norm (of half its square). For L1 the inputs of the largest entries move first, to their box's side,
    until the radius is used up (a fractional knapsack). For L2 it is x = center - a / t, clipped to the box: t falls
    to its value as more and more inputs are found to be clipped (finite, as Condat 2016 for the simplex).
    """

    def __init__(self, inputs: InputSet, a: Tensor) -> None:
        center = inputs.center[:, None]
        self.stay = center.clamp(inputs.lower[:, None], inputs.upper[:, None])
        way = torch.where(a > 0, inputs.lower[:, None], inputs.upper[:, None]) - self.stay  # to the box's side
        self.a, self.way = torch.broadcast_tensors(a, way)
        self.center, self.radius = center, inputs.radius[:, None, None]
        if inputs.norm == 1:
            self._fill()
        else:
            self._clip(inputs)

    def _fill(self) -> None:
        """L1."""
        size, order = self.a.abs().sort(-1, descending=True)
        ways = self.way.gather(-1, order)
        length = ways.abs()
        used = length.cumsum(-1)
        room = self.radius - (self.stay - self.center).abs().sum(-1, keepdim=True)
        moved = ways.sign() * (room - (used - length)).clamp_min(0).minimum(length)
        self.point = self.stay + torch.zeros_like(self.a).scatter(-1, order, moved)
        t = torch.where(used > room, size, 0).amax(-1, keepdim=True)  # of the input that moves part of its way
        self.part = self.a.clamp(-t, t)

    def _clip(self, inputs: InputSet) -> None:
        """L2."""
        low, high = inputs.lower[:, None] - self.center, inputs.upper[:, None] - self.center
        squares = self.a * self.a
        t = (squares.sum(-1, keepdim=True).sqrt() / self.radius).clamp_min(torch.finfo(self.a.dtype).tiny)
        for _ in range(ROUNDS):
            move = -self.a / t
            ends = move.clamp(low, high)
            free = ends == move
            left = self.radius**2 - torch.where(free, 0, ends * ends).sum(-1, keepdim=True)
            wanted = torch.where(free, squares, 0).sum(-1, keepdim=True) / left
            before, t = t, torch.where((left > 0) & (wanted > 0), wanted.sqrt().minimum(t), t)
            if torch.equal(before, t):
                break
        ends = (-self.a / t).clamp(low, high)
        self.point, self.part = self.center + ends, -t * ends


def _dot(a: Tensor, x: Tensor) -> Tensor:
    return torch.matmul(a, x.unsqueeze(-1)).squeeze(-1)


def stack(
    regions: Sequence[Region], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> list[tuple[list[int], InputSet]]:
    """Regions grouped by norm (inf counts as a box): (their positions, their InputSet) per group."""
    groups: dict[float | None, list[int]] = {}
    for i, region in enumerate(regions):
        groups.setdefault(None if region.norm == np.inf else region.norm, []).append(i)

    def gather(rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(device, dtype)

    found = []
    for norm, members in groups.items():
        lower, upper = gather([regions[i].lower for i in members]), gather([regions[i].upper for i in members])
        if norm is None:
            found.append((members, InputSet(lower, upper)))
        else:
            radius = gather([np.array(regions[i].radius) for i in members])
            center = gather([regions[i].center for i in members])
            found.append((members, InputSet(lower, upper, norm, center, radius)))
    return found
