"""HopSkipJump: an attack that sees nothing but decisions, and walks along the boundary toward the sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Objective, Result, choose, never
from attacks.geometry import LInf
from attacks.nearest import HALVINGS, pulled
from attacks.regions import Ball

STARTS = 50
"""Random points of the data range that are tried for a first success."""


@dataclass(frozen=True)
class HopSkipJump:
    """Estimates the boundary's normal from decisions nearby, hops along it, returns to the boundary on the straight
    way to the sample (Chen et al. 2020, algorithm 2); for L2 and L-infinity.

    steps  hops
    first  decisions of the first estimate; they grow with the root of the hop's number
    """

    steps: int = 20
    first: int = 40
    seed: int = 0
    goal: float = 0.0
    stop: Callable[[], bool] = never

    def __call__(self, objective: Objective, region: Ball) -> Result:
        """The nearest point met that succeeds; its margin is distance less radius, infinite if there is none.

        Raises ValueError for other norms, and where there is no data range to start from.
        """
        if region.norm.p not in (2, torch.inf):
            raise ValueError(f"HopSkipJump knows the norms 2 and inf, not {region.norm.p}")
        if not bool((region.lower.isfinite() & region.upper.isfinite()).all()):
            raise ValueError("HopSkipJump starts from random inputs, and needs a data range")
        generator = torch.Generator().manual_seed(self.seed)
        x, done = self._begin(objective, region, generator)
        found = Result(x.clone(), torch.where(done, self._excess(region, x), torch.inf))
        live = done.nonzero()[:, 0]
        for hop in range(1, self.steps + 1):
            live = live[found.margin[live] > self.goal]
            if not len(live) or self.stop():
                break
            near, goal = region.select(live), choose(objective, live)
            x = self._hop(goal, near, found.x[live], hop, generator)
            excess = self._excess(near, x)
            better = excess < found.margin[live]
            found.x[live] = torch.where(better[:, None], x, found.x[live])
            found.margin[live] = torch.where(better, excess, found.margin[live])
        return found

    def asked(self, hop: int) -> int:
        """Decisions about a sample that estimate its normal before this hop; the hop itself takes some more."""
        return round(self.first * hop**0.5)

    def _begin(self, objective: Objective, region: Ball, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points on the boundary (B, d), and whether one was found (B,)."""
        x = region.center.clone()
        done = _succeeds(objective, x)
        for _ in range(STARTS):
            left = (~done).nonzero()[:, 0]
            if not len(left):
                break
            low, high = region.lower[left], region.upper[left]
            noise = torch.rand(low.shape, generator=generator, dtype=low.dtype).to(low.device)
            tried = low + noise * (high - low)
            hit = _succeeds(choose(objective, left), tried)
            x[left[hit]], done[left[hit]] = tried[hit], True
        return pulled(objective, region, x), done

    def _hop(self, objective: Objective, region: Ball, x: Tensor, hop: int, generator: torch.Generator) -> Tensor:
        far, size = region.distance(x).to(x.dtype), x.shape[1]
        width = far.unsqueeze(1) / (size if isinstance(region.norm, LInf) else size**0.5)
        normal, ways, answers = torch.zeros_like(x), [], []
        for _ in range(self.asked(hop)):
            way = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            way = way / way.norm(dim=1, keepdim=True)
            asked = (x + width * way).clamp(region.lower, region.upper)
            ways.append((asked - x) / width.clamp_min(torch.finfo(x.dtype).tiny))
            answers.append(2.0 * _succeeds(objective, asked).to(x.dtype) - 1)
        mean = torch.stack(answers).mean(0)
        for way, answer in zip(ways, answers, strict=True):
            # All answers alike say nothing but their sign; otherwise their mean is taken out (eq. 16).
            weight = torch.where(mean.abs() < 1, answer - mean, answer)
            normal += weight.unsqueeze(1) * way
        normal = normal.sign() if isinstance(region.norm, LInf) else normal / normal.norm(dim=1, keepdim=True)
        step = far / hop**0.5
        ahead = x
        waiting = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range(HALVINGS):
            tried = (x + step.unsqueeze(1) * normal.nan_to_num()).clamp(region.lower, region.upper)
            hit = waiting & _succeeds(objective, tried)
            ahead = torch.where(hit[:, None], tried, ahead)
            waiting = waiting & ~hit
            if not bool(waiting.any()):
                break
            step = torch.where(waiting, step / 2, step)
        return pulled(objective, region, ahead)

    def _excess(self, region: Ball, x: Tensor) -> Tensor:
        return (region.distance(x) - region.radius).to(x.dtype)


def _succeeds(objective: Objective, x: Tensor) -> Tensor:
    with torch.no_grad():
        return objective(x) <= 0
