"""Looking for the nearest point that succeeds: FAB, DeepFool, FMN and DDN, and the way back from a success.

These ask a `Ball` for its norm and data range. What they lower is the distance of points whose margin is at most 0,
less the ball's radius: with radius 0 and goal -inf they look for the least distance, with a radius they stop within.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from attacks.base import Attack, Here, Objective, State, evaluate
from attacks.regions import Ball

BEYOND = 1.05
"""How much farther than the linearised boundary FMN and DDN look before their first success."""

HALVINGS = 12
"""Of a search between a centre and a success."""


@runtime_checkable
class Ranked(Protocol):
    """An objective of several margins, of which any one being at most 0 is success."""

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The margin (B,) of x (B, d), all of them (B, K), and their gradients (B, K, d)."""
        ...


@dataclass(frozen=True)
class Nearest(Attack):
    """An attack whose success is measured by distance."""

    def worth(self, here: Here, region: Ball) -> Tensor:
        """Distance less radius where the margin is at most 0, infinite elsewhere."""
        return torch.where(here.margin <= 0, region.distance(here.x) - region.radius, torch.inf)


@dataclass(frozen=True)
class Fab(Nearest):
    """Fast adaptive boundary (Croce & Hein 2020): steps to the linearised boundary, drawn toward the centre.

    nearest_row  whether the boundary is the nearest of all classes' (the objective must have `rows`), or the loss's
    draw         how much a step may be biased toward the centre
    overshoot    how far beyond the boundary a step goes
    back         part of the way from the centre that is kept after a success
    """

    nearest_row: bool = False
    draw: float = 0.1
    overshoot: float = 1.05
    back: float = 0.9

    def look(self, objective: Objective, x: Tensor, region: Ball, gradient: bool) -> Here:
        if not (self.nearest_row and gradient and isinstance(objective, Ranked)):
            return evaluate(objective, x, gradient)
        margin, apart, slopes = objective.rows(x)
        which = (apart.abs() / region.norm.dual(slopes).clamp_min(torch.finfo(x.dtype).tiny)).argmin(1)
        at = torch.arange(len(x), device=x.device)
        return Here(x, margin, apart[at, which], slopes[at, which].nan_to_num())

    def move(self, i: int, here: Here, region: Ball, state: State) -> tuple[Tensor, State]:
        way = region.crossing(here.x, here.gradient, here.loss)
        x, center, slope, loss = (t.to(way.dtype) for t in (here.x, region.center, here.gradient, here.loss))
        there = loss + (slope * (center - x)).sum(-1)  # the linearised margin at the centre
        home = region.crossing(region.center, here.gradient, there)
        a, b = region.norm.length(way)[:, None], region.norm.length(home)[:, None]
        share = (a / (a + b).clamp_min(1e-30)).clamp_max(self.draw)
        ahead = (1 - share) * (x + self.overshoot * way) + share * (center + self.overshoot * home)
        done = (here.margin <= 0)[:, None]
        following = torch.where(done, center + self.back * (x - center), ahead).to(here.x.dtype)
        return following.clamp(region.lower, region.upper), state


def deepfool(steps: int = 50, **options: Any) -> Fab:
    """Steps to the nearest linearised boundary, and no way back (Moosavi-Dezfooli et al. 2016)."""
    return Fab(steps=steps, nearest_row=True, draw=0.0, overshoot=1.02, back=1.0, **options)


@dataclass(frozen=True)
class Fmn(Nearest):
    """Fast minimum-norm: descent on the margin in a ball that shrinks after a success and grows otherwise
    (Pintor et al. 2021, algorithm 1; for L2, it follows DDN, Rony et al. 2019).

    first, last  step sizes (L2 norms, as a part of the data range's diagonal), falling along a cosine
    change       by which part the radius shrinks and grows at first; falls along a cosine to a hundredth
    """

    steps: int = 100
    first: float = 0.05
    last: float = 5e-4
    change: float = 0.05

    def begin(self, x: Tensor, region: Ball) -> State:
        infinite = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        return infinite, infinite  # the radius, and the least distance of a success

    def move(self, i: int, here: Here, region: Ball, state: State) -> tuple[Tensor, State]:
        radius, least = state
        falling = (1 + math.cos(math.pi * i / max(1, self.steps))) / 2
        size = self.last + (self.first - self.last) * falling
        change = self.change * (0.01 + 0.99 * falling)
        done, distance = here.margin <= 0, region.distance(here.x)
        least = torch.where(done, torch.minimum(least, distance), least)
        slope = here.gradient.double()
        if region.norm.p == 0:  # one entry more or less
            radius = torch.where(done, least - 1, torch.minimum(radius.nan_to_num(posinf=0) + 1, least)).clamp_min(1)
        else:
            grown = torch.where(least.isinf(), distance + _ahead(here, region), radius * (1 + change))
            shrunk = torch.minimum(torch.where(radius.isinf(), distance, radius), least) * (1 - change)
            radius = torch.where(done, shrunk, grown)
        x = (here.x.double() - _stride(slope, size, region)).to(here.x.dtype)
        return region.resized(radius.nan_to_num(posinf=1e30)).project(x), (radius, least)


@dataclass(frozen=True)
class Ddn(Nearest):
    """Decoupled direction and norm: a step along the gradient, then onto a sphere around the centre, whose radius
    shrinks after a success and grows otherwise (Rony et al. 2019, algorithm 1). For L2.

    first, last  step sizes (L2 norms, as a part of the data range's diagonal), falling along a cosine
    change       by which part the radius shrinks and grows
    """

    steps: int = 100
    first: float = 0.05
    last: float = 5e-4
    change: float = 0.05

    def begin(self, x: Tensor, region: Ball) -> State:
        if region.norm.p != 2:
            raise ValueError(f"DDN knows the norm 2, not {region.norm.p}: use Fmn")
        return (torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device),)  # the radius

    def move(self, i: int, here: Here, region: Ball, state: State) -> tuple[Tensor, State]:
        (radius,) = state
        falling = (1 + math.cos(math.pi * i / max(1, self.steps))) / 2
        size = self.last + (self.first - self.last) * falling
        done, distance = here.margin <= 0, region.distance(here.x)
        radius = torch.where(radius.isinf(), distance + torch.where(done, 0, _ahead(here, region)), radius)
        radius = radius * torch.where(done, 1 - self.change, 1 + self.change)
        center = region.center.double()
        offset = here.x.double() - _stride(here.gradient.double(), size, region) - center
        onto = offset * (radius / region.norm.length(offset).clamp_min(1e-30)).unsqueeze(-1)
        return region.resized(radius).project((center + onto).to(here.x.dtype)), (radius,)


def pulled(objective: Objective, region: Ball, x: Tensor, halvings: int = HALVINGS) -> Tensor:
    """Successes x (B, d) moved toward the centres: the nearest success by bisection over the radii of smaller balls
    onto which x is projected. For L2 that is the straight way, for L-infinity the offset is cut."""
    high = region.distance(x)
    low, best = torch.zeros_like(high), x
    for _ in range(halvings):
        radius = (low + high) / 2
        tried = region.resized(radius).project(x)
        with torch.no_grad():
            hit = objective(tried) <= 0
        best = torch.where(hit.unsqueeze(1), tried, best)
        low, high = torch.where(hit, low, radius), torch.where(hit, radius, high)
    return best


def _ahead(here: Here, region: Ball) -> Tensor:
    """How far (B,), float64, the boundary would be if the loss were linear, and a little more."""
    return BEYOND * here.loss.double().abs() / region.norm.dual(here.gradient.double()).clamp_min(1e-30)


def _stride(slope: Tensor, size: float, region: Ball) -> Tensor:
    """The slope (B, d), float64, with an L2 norm of this part of the data range's diagonal."""
    span = (region.upper - region.lower).double().nan_to_num(posinf=1.0)
    reach = size * span.norm(dim=-1, keepdim=True)
    return reach * (slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-30))
