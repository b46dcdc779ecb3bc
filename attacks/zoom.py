"""An attack for few inputs: descend from many points, then look ever closer around the best ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Objective, Region, Result, choose, never, standing
from attacks.gradient import Descent, Geometric

FIRST, LATER = 10, 20
"""Steps of the first descents, which find the basins, and of the later ones, which follow the kinks."""

WIDE, FINE, MOMENTUM = 0.5, 0.02, 0.75
"""A descent's first step, as a part of the region, in the first turn; its last one, as a part of its first."""

NEAR = 8
"""Random points of a turn for each one that it descends from; and the other way round in the first."""


@dataclass(frozen=True)
class Zoom:
    """Random search and descent by turns, each turn within a smaller distance of the best points so far.

    A margin has many basins and kinks, in which gradients alone get stuck; where few inputs vary, random points
    next to a good one are often better. (Random search within a shrinking radius: Spall 2003, section 2.2.)

    points  starting points per region: the middle and random ones; a later turn tries NEAR times as many, and
            descends from the best NEAR-th part of that number
    keep    how many of the best points of a region are looked around
    turns   how often that is done
    shrink  by how much the distance falls each time
    seed    the same seed gives the same result
    goal    a region whose margin is at most this has fallen and is left alone
    stop    asked before every move; true ends the attack, which returns what it has
    """

    points: int = 512
    keep: int = 8
    turns: int = 3
    shrink: float = 3.0
    seed: int = 0
    goal: float = 0.0
    stop: Callable[[], bool] = never

    def __post_init__(self) -> None:
        if not (self.points >= NEAR * self.keep >= NEAR and self.turns >= 0 and self.shrink > 1):
            raise ValueError(f"a zoom needs keep >= 1, points >= {NEAR} keep, turns >= 0 and shrink > 1, not {self}")

    @property
    def evaluations(self) -> int:
        """What one region costs, in values of the objective; a gradient costs as much as two."""
        return self.points * (3 * FIRST + self.turns * (NEAR + 3 * LATER // NEAR))

    def __call__(self, objective: Objective, region: Region, groups: Tensor | None = None) -> Result:
        """The best point met in each of the regions; `groups` as for an `Attack`."""
        generator = torch.Generator().manual_seed(self.seed)
        middle = region.start()
        found = Result(middle.clone(), torch.full_like(middle[:, 0], torch.inf))
        live = torch.arange(len(region), device=middle.device)
        groups = live if groups is None else groups
        x = _around(region, middle.unsqueeze(1), 1.0, self.points, generator)
        x[:, 0] = middle
        radius = WIDE
        for turn in range(self.turns + 1):
            goals, here = choose(objective, live), region.select(live)
            if turn:
                radius /= self.shrink
                near = _around(here, x[:, : self.keep], radius, NEAR * self.points, generator)
                x = torch.cat([x, _best(near, _values(goals, near), self.points // NEAR)[0]], 1)
            x, margin = self._descend(goals, here, x, radius, LATER if turn else FIRST, groups[live])
            x, margin = _best(x, margin, self.keep)
            found.x[live], found.margin[live] = x[:, 0], margin[:, 0]
            up = standing(margin[:, 0], self.goal, groups[live])
            if self.stop() or not bool(up.any()):
                break
            live, x = live[up], x[up]
        return found

    def _descend(
        self, objective: Objective, region: Region, x: Tensor, radius: float, steps: int, groups: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best point (B, P, d) met from each of x (B, P, d), and its margin (B, P)."""
        copies = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        descent = Descent(
            steps=steps, step=Geometric(radius, FINE * radius), momentum=MOMENTUM, goal=self.goal, stop=self.stop
        )
        found = descent(choose(objective, copies), region.select(copies), x.flatten(0, 1), groups[copies])
        return found.x.view_as(x), found.margin.view(x.shape[:2])


def _around(region: Region, x: Tensor, radius: float, count: int, generator: torch.Generator) -> Tensor:
    """Random points (B, P, d) of the regions, shared out evenly to x (B, K, d): from each as far at most, in
    each direction, as this part of the way from the region's middle to its edge."""
    each = count // x.shape[1]
    wide = region.select(torch.arange(len(x), device=x.device).repeat_interleave(each * x.shape[1]))
    centers = x.repeat_interleave(each, 1)
    moved = centers.flatten(0, 1) + radius * (wide.sample(generator) - wide.start())
    return wide.project(moved).view_as(centers)


def _values(objective: Objective, x: Tensor) -> Tensor:
    """The margin (B, P) at x (B, P, d), infinite where it is not a number."""
    copies = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
    with torch.no_grad():
        margin = choose(objective, copies)(x.flatten(0, 1))
    return margin.nan_to_num(nan=torch.inf).view(x.shape[:2])


def _best(x: Tensor, margin: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` points of x (B, P, d) with the least margins (B, P), the least one first, with these."""
    margin, which = margin.topk(min(count, x.shape[1]), largest=False)
    return x.gather(1, which.unsqueeze(-1).expand(-1, -1, x.shape[2])), margin
