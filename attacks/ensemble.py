"""Several attacks one after the other, each on the samples that still stand; successes are asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.apgd import AutoPgd
from attacks.base import Attack, Region, Result, never
from attacks.classifier import (
    Classifier,
    Loss,
    Misclassified,
    cross_entropy,
    margin_loss,
    misclassified,
    targeted_dlr,
    untargeted_margin,
)
from attacks.nearest import Fab
from attacks.regions import Ball
from attacks.square import Square

CLEAN = "clean"
"""By what a sample is fooled that is misclassified as it is."""


class Runs(Protocol):
    """An attack of whatever kind on classifiers."""

    def __call__(self, objective: Misclassified, region: Ball) -> Result: ...


@dataclass(frozen=True)
class Plain:
    """One attack, led by one loss."""

    attack: Attack
    loss: Loss = untargeted_margin

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        return self.attack(objective.led_by(self.loss), region)


@dataclass(frozen=True)
class EachTarget:
    """One attack toward each of the likeliest other classes in turn, on the samples that still stand.

    targets  how many classes
    """

    attack: Attack
    loss: Loss
    targets: int = 9

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        ranked = likeliest(objective, region.start(), self.targets)
        x = region.start().clone()
        found = Result(x, torch.full_like(x[:, 0], torch.inf))
        for k in range(ranked.shape[1]):
            up = (found.margin > self.attack.goal).nonzero()[:, 0]
            if not len(up) or self.attack.stop():
                break
            goal = objective.select(up).led_by(self.loss, ranked[up, k])
            _take(found, up, self.attack(goal, region.select(up)))
        return found


@dataclass(frozen=True)
class Narrowing:
    """A short attack toward all of the likeliest classes at once, then a long one toward those that came nearest.

    scout, attack  the short and the long one
    keep           how many classes of a sample the long one tries, all at once
    """

    scout: Attack
    attack: Attack
    loss: Loss
    targets: int = 9
    keep: int = 3

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        ranked = likeliest(objective, region.start(), self.targets)
        every = torch.arange(len(ranked), device=ranked.device)
        found, x, order = self._toward(self.scout, objective, region, every, ranked, None)
        up = (found.margin > self.attack.goal).nonzero()[:, 0]
        if len(up) and not self.attack.stop():
            nearest = order[up, : self.keep]
            _take(found, up, self._toward(self.attack, objective, region, up, ranked[up], (x[up], nearest))[0])
        return found

    def _toward(
        self,
        attack: Attack,
        objective: Misclassified,
        region: Ball,
        samples: Tensor,
        ranked: Tensor,
        begun: tuple[Tensor, Tensor] | None,
    ) -> tuple[Result, Tensor, Tensor]:
        """What an attack on `samples` toward each of their classes `ranked` (B, K) comes to: the best result, the
        points (B, K, d), and the order of the K. With `begun` from these points, toward those of the K it names."""
        start, chosen = (None, ranked) if begun is None else (_rows(begun[0], begun[1]), ranked.gather(1, begun[1]))
        entries = samples.repeat_interleave(chosen.shape[1])
        toward = objective.select(entries).led_by(self.loss, chosen.flatten())
        x, margin = attack(toward, region.select(entries), None if start is None else start.flatten(0, 1), entries)
        x, (margin, order) = x.view(*chosen.shape, -1), margin.view(chosen.shape).sort(1)
        return Result(_rows(x, order[:, :1])[:, 0], margin[:, 0].clone()), x, order


@dataclass(frozen=True)
class Probe:
    """A short attack, then a long one: on all samples that stand if the short one fools any of the batch, else on those
    alone that something came near to fooling.

    near  what is left there, at most, of the margin that the sample itself has
    """

    scout: Runs
    attack: Runs
    near: float = 1 / 32

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        with torch.no_grad():  # before the short one, which may ask about points outside
            near = objective.nearest[objective.entries] <= self.near * objective(region.start())
        found = self.scout(objective, region)
        up = found.margin > 0
        up = (up & near if bool(up.all()) else up).nonzero()[:, 0]
        if len(up):
            _take(found, up, self.attack(objective.select(up), region.select(up)))
        return found


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of N samples.

    x        (N, d): where one was fooled, the point that did it; else the least safe one met
    fooled   (N,): whether the model, asked again, misclassifies x, which lies in the region
    by       (N,): the member that did it, "clean" for a sample that needs no attack, "" for one that stands
    queries  (N,): how often the model was asked about the sample
    seconds  by member
    """

    x: Tensor
    fooled: Tensor
    by: list[str]
    queries: Tensor
    seconds: dict[str, float]


@dataclass(frozen=True)
class Ensemble:
    """Attacks by name, in the order in which they are tried."""

    members: dict[str, Runs]

    def __call__(
        self, classifier: Classifier, region: Ball, labels: Tensor, stop: Callable[[], bool] = never
    ) -> Outcome:
        """Attack samples (the centres of `region`) of these classes (N,). Asked before each member, `stop` ends it."""
        return self.against(misclassified(classifier, labels), region, stop)

    def against(self, objective: Misclassified, region: Region, stop: Callable[[], bool] = never) -> Outcome:
        """The same by an objective, also one of parameters (`attacks.change.Through`) and a region of those."""
        x = region.start().clone()
        wrong = _succeeds(objective, x)
        by, seconds = [CLEAN if w else "" for w in wrong.tolist()], {}
        found = Result(x, torch.where(wrong, -torch.inf, torch.inf).to(x.dtype))
        for name, member in self.members.items():
            up = (found.margin > 0).nonzero()[:, 0]
            if not len(up) or stop():
                break
            began = time.monotonic()
            own, goal = region.select(up), objective.select(up)
            result = member(goal, own)
            inside = own.contains(result.x)
            tried = Result(torch.where(inside[:, None], result.x, own.start()), result.margin)
            real = (result.margin <= 0) & inside & _succeeds(goal, tried.x)
            standing = torch.where(real, result.margin, result.margin.clamp_min(torch.finfo(x.dtype).tiny))
            _take(found, up, tried._replace(margin=standing))
            for i in up[real].tolist():
                by[i] = name
            seconds[name] = time.monotonic() - began
        return Outcome(found.x, found.margin <= 0, by, objective.spent, seconds)


def likeliest(objective: Misclassified, x: Tensor, count: int) -> Tensor:
    """The classes (B, K) with the largest logits at x (B, d), but for the labels; K = min(count, C - 1)."""
    with torch.no_grad():
        z = objective.logits(x)
    z = z.scatter(1, objective.labels.unsqueeze(1), -torch.inf)
    return z.topk(min(count, z.shape[1] - 1), 1).indices


def auto_attack(shape: tuple[int, ...], seed: int = 0, stop: Callable[[], bool] = never) -> Ensemble:
    """The standard protocol of AutoAttack (Croce & Hein 2020): APGD on cross-entropy, targeted APGD and FAB for nine
    classes, and Square with 5000 queries. `shape` is that of one input."""
    common = {"seed": seed, "stop": stop}
    return Ensemble(
        {
            "apgd-ce": Plain(AutoPgd(**common), cross_entropy),
            "apgd-t": EachTarget(AutoPgd(**common), targeted_dlr),
            "fab-t": EachTarget(Fab(steps=100, **common), margin_loss),
            "square": Plain(Square(shape=shape, **common)),
        }
    )


def quick_ensemble(shape: tuple[int, ...], seed: int = 0, stop: Callable[[], bool] = never) -> Ensemble:
    """A faster one: what fells most samples per second comes first, later attacks build on what earlier ones met.

    Few steps fell most samples. On the others all classes are tried briefly, and the three that came nearest at
    length; the boundary and random search are followed only where they find what descents did not.
    """
    common = {"seed": seed, "stop": stop}
    boundary, random = Fab(steps=40, nearest_row=True, **common), Square(shape=shape, **common)
    return Ensemble(
        {
            "apgd-10": Plain(AutoPgd(steps=10, **common), cross_entropy),
            "apgd-t": Narrowing(AutoPgd(steps=10, **common), AutoPgd(steps=80, **common), targeted_dlr),
            "apgd-ce": Plain(AutoPgd(steps=60, **common), cross_entropy),
            "square": Probe(Plain(replace(random, steps=200)), Plain(random)),
            "fab": Probe(Plain(replace(boundary, steps=10)), Plain(boundary)),
        }
    )


def _succeeds(objective: Misclassified, x: Tensor, batch: int = 512) -> Tensor:
    """(N,): whether the model, asked again in batches, misclassifies x (N, d); false for what is not a number."""
    parts = torch.arange(len(x), device=x.device).split(batch)
    with torch.no_grad():
        return torch.cat([objective.select(part)(x[part]) <= 0 for part in parts])


def _rows(x: Tensor, which: Tensor) -> Tensor:
    """Those (B, k, d) of the points x (B, K, d) that `which` (B, k) names."""
    return x[torch.arange(len(x), device=x.device).unsqueeze(1), which]


def _take(found: Result, index: Tensor, result: Result) -> None:
    """Write what is better to the entries at `index`."""
    better = result.margin < found.margin[index]
    found.margin[index] = torch.where(better, result.margin, found.margin[index])
    found.x[index] = torch.where(better[:, None], result.x, found.x[index])
