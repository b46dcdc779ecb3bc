"""Least distances by attacks of any kind: bisection over radii, fewer and fewer entries, the nearest of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.base import Attack, Objective, Result, choose, evaluate, never
from attacks.geometry import NORMS
from attacks.nearest import Nearest, pulled
from attacks.regions import Ball


class FromStart(Protocol):
    """An attack that takes a starting point."""

    def __call__(self, objective: Objective, region: Ball, start: Tensor | None = None) -> Result: ...


@dataclass(frozen=True)
class Bisected:
    """The nearest success of an attack on balls, by bisection over the radius between the largest at which it failed
    and the distance of the nearest success; each success is pulled toward the centre first.

    A region's radius, or the part `first` of the data range if that is 0, is tried first, and doubled until there is
    a success. A failure proves nothing; it only says where not to look next.

    rounds  radii that are tried
    goal    a sample is left alone once distance less radius is at most this
    stop    asked before every round
    """

    attack: Attack
    rounds: int = 10
    first: float = 0.1
    goal: float = -torch.inf
    stop: Callable[[], bool] = never

    def __call__(self, objective: Objective, region: Ball, start: Tensor | None = None) -> Result:
        """The nearest success met (B, d), and its distance less the radius, infinite if there is none. Raises
        ValueError where neither a radius nor a data range says where to begin."""
        span = region.norm.length((region.upper - region.lower).double())
        radius = torch.where(region.radius > 0, region.radius, self.first * span)
        if not bool(radius.isfinite().all()):
            raise ValueError("bisection needs a radius or a finite data range to begin with")
        found = Result(region.center.clone(), torch.full_like(radius, torch.inf))
        failed = torch.zeros_like(radius)
        for _ in range(self.rounds):
            live = (found.margin - region.radius > self.goal).nonzero()[:, 0]
            if not len(live) or self.stop():
                break
            near, goal = region.select(live), choose(objective, live)
            begin = start[live] if start is not None else None
            x, margin = self.attack(goal, near.resized(radius[live]), begin)
            hit = (margin <= 0).nonzero()[:, 0]
            if len(hit):
                keep_nearest(found, live[hit], near.select(hit), pulled(choose(goal, hit), near.select(hit), x[hit]))
            failed[live] = torch.where(margin <= 0, failed[live], radius[live])
            radius = torch.where(found.margin.isinf(), 2 * radius, (failed + found.margin) / 2)
        return Result(found.x, (found.margin - region.radius).to(found.x.dtype))


@dataclass(frozen=True)
class Sparse:
    """Few changed entries: an attack that looks for near points in another norm is repeated on ever fewer entries,
    those whose changes matter most to the loss (Carlini & Wagner 2017, section VI.B).

    attack  such as CarliniWagner or Ddn
    norm    the one it looks for near points in
    rounds  how often entries are taken away
    keep    part of the changed entries that is kept; after a failure, half as many are taken away
    """

    attack: Nearest
    norm: float = 2.0
    rounds: int = 8
    keep: float = 0.6
    stop: Callable[[], bool] = never

    def __call__(self, objective: Objective, region: Ball, start: Tensor | None = None) -> Result:
        """The success met (B, d) with fewest changed entries, their number less the radius, infinite if none."""
        attack = replace(self.attack, goal=-torch.inf)
        inner = replace(region, norm=NORMS[self.norm], radius=torch.zeros_like(region.radius))
        found = Result(region.center.clone(), torch.full_like(region.radius, torch.inf))
        free = torch.ones_like(region.center, dtype=torch.bool)
        share = torch.full_like(region.radius, self.keep)
        for i in range(self.rounds + 1):
            if self.stop():
                break
            held = (torch.where(free, bound, region.center) for bound in (region.lower, region.upper))
            x, margin = attack(objective, replace(inner, **dict(zip(("lower", "upper"), held, strict=True))))
            done = margin.isfinite()
            keep_nearest(found, done.nonzero()[:, 0], region.select(done), x[done])
            share = torch.where(done | (i == 0), share, (1 + share) / 2)
            free = self._left(objective, found.x, region, share)
        return Result(found.x, (found.margin - region.radius).to(found.x.dtype))

    def _left(self, objective: Objective, x: Tensor, region: Ball, share: Tensor) -> Tensor:
        """The entries (B, d) that may still change: this share of those that x changes; all where it changes none."""
        offset = (x - region.center).double()
        matters = (offset * evaluate(objective, x, True).gradient).abs() + 1e-12 * offset.abs()
        count = (share * (offset != 0).sum(1)).floor().clamp_min(1).unsqueeze(1)
        rank = matters.argsort(dim=1, descending=True, stable=True).argsort(1)
        return ((rank < count) & (offset != 0)) | (offset == 0).all(1, keepdim=True)


@dataclass(frozen=True)
class Closest:
    """The nearest success of several attacks, each of which begins with what the ones before it found: its ball is
    as large as the distance so far, its first start the point there, its other starts random in the ball.

    members  attacks that look for near points and go on to the end (goal -inf), by turns
    goal     a sample is left alone once distance less radius is at most this
    """

    members: tuple[FromStart, ...]
    goal: float = -torch.inf
    stop: Callable[[], bool] = never

    def __call__(self, objective: Objective, region: Ball, start: Tensor | None = None) -> Result:
        """The nearest success met (B, d), and its distance less the radius, infinite if there is none."""
        found = Result(region.center.clone(), torch.full_like(region.radius, torch.inf))
        if start is not None:
            self._keep(found, objective, region, torch.arange(len(region), device=start.device), start)
        for member in self.members:
            live = (found.margin - region.radius > self.goal).nonzero()[:, 0]
            if not len(live) or self.stop():
                break
            far = found.margin[live]
            near = region.select(live).resized(torch.where(far.isinf(), region.radius[live], far))
            self._keep(found, objective, region, live, member(choose(objective, live), near, found.x[live]).x)
        return Result(found.x, (found.margin - region.radius).to(found.x.dtype))

    def _keep(self, found: Result, objective: Objective, region: Ball, index: Tensor, x: Tensor) -> None:
        """Writes the points x of the entries at `index` that succeed, asked again, and are nearer."""
        hit = evaluate(choose(objective, index), x, False).margin <= 0
        keep_nearest(found, index[hit], region.select(index[hit]), x[hit])


@dataclass(frozen=True)
class Afresh:
    """An attack that begins at the centres wherever it is told to start: a member of `Closest` that finds basins which
    those before it passed by, such as one toward each class."""

    attack: Callable[[Objective, Ball], Result]

    def __call__(self, objective: Objective, region: Ball, start: Tensor | None = None) -> Result:
        return self.attack(objective, region)


def keep_nearest(found: Result, index: Tensor, region: Ball, x: Tensor) -> None:
    """Writes the points x (K, d), successes around the centres of `region`, to the entries at `index` (K,) whose
    distance, which found.margin holds in float64, is larger."""
    distance = region.distance(x)
    better = distance < found.margin[index]
    found.margin[index] = torch.where(better, distance, found.margin[index])
    found.x[index] = torch.where(better.unsqueeze(1), x, found.x[index])
