"""Several attacks one after the other, each on the samples that still stand; successes are asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

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
        tried = self._toward(self.scout, objective, region, ranked)
        found = _best(tried)
        up = (found.margin > self.attack.goal).nonzero()[:, 0]
        if len(up) and not self.attack.stop():
            nearest = tried.margin[up].argsort(1)[:, : self.keep]
            goal, classes, start = objective.select(up), ranked[up].gather(1, nearest), _rows(tried.x[up], nearest)
            _take(found, up, _best(self._toward(self.attack, goal, region.select(up), classes, start)))
        return found

    def _toward(
        self, attack: Attack, objective: Misclassified, region: Ball, classes: Tensor, start: Tensor | None = None
    ) -> Result:
        """The best points (B, K, d), and their margins (B, K), that an attack on every sample toward each of its
        classes (B, K) meets, from `start` (B, K, d) or the middle; a sample that falls toward one has fallen."""
        samples = torch.arange(len(classes), device=classes.device).repeat_interleave(classes.shape[1])
        goal = objective.select(samples).led_by(self.loss, classes.flatten())
        x, margin = attack(goal, region.select(samples), None if start is None else start.flatten(0, 1), samples)
        return Result(x.view(*classes.shape, -1), margin.view(classes.shape))


def _best(tried: Result) -> Result:
    """The best of the K points (B, K, d) of every sample, and its margin (B,)."""
    margin, which = tried.margin.min(1)
    return Result(_rows(tried.x, which.unsqueeze(1))[:, 0], margin)


@dataclass(frozen=True)
class Probe:
    """An attack that goes on only if a short one fools at least one sample of the batch."""

    scout: Runs
    attack: Runs

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        found = self.scout(objective, region)
        if bool((found.margin <= 0).any()):
            up = (found.margin > 0).nonzero()[:, 0]
            _take(found, up, self.attack(objective.select(up), region.select(up)))
        return found


@runtime_checkable
class Follows(Protocol):
    """A member of an ensemble that goes on from the points that those before it met."""

    def follow(self, objective: Misclassified, region: Ball, met: Tensor) -> Result:
        """As a call, given the best points met (B, d), the middles where there are none."""
        ...


@dataclass(frozen=True)
class Doubt:
    """Random search where descents may have been misled: where it gets on from where they ended, as it does not where
    gradients told the truth. A short search on all samples is followed by a long one on those where it got on or that
    are near to falling, and by one from the middle on those where either got on; from where a long one ends one
    descends again.

    scout    the short one, from given points
    onward   a long one, from the points that it came to
    afresh   a long one, from the middle
    descent  in small steps
    gain     part of a margin that has to be gained for getting on
    near     what is left, at most, of the sample's own margin where it is near to falling
    """

    scout: Attack
    onward: Attack
    afresh: Attack
    descent: Attack
    gain: float = 0.1
    near: float = 1 / 32

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        return self.follow(objective, region, region.start())

    def follow(self, objective: Misclassified, region: Ball, met: Tensor) -> Result:
        """As a call, given the best points met (B, d)."""
        objective = objective.led_by(untargeted_margin)
        with torch.no_grad():
            own, before = objective(region.start()), objective(met)
        enough = (1 - self.gain) * before
        found = self.scout(objective, region, met)
        worth = (found.margin < enough) | (found.margin <= self.near * own)
        self._longer(self.onward, objective, region, found, worth, found.x.clone())
        self._longer(self.afresh, objective, region, found, found.margin < enough, region.start())
        return found

    def _longer(
        self, search: Attack, objective: Misclassified, region: Ball, found: Result, worth: Tensor, start: Tensor
    ) -> None:
        """Writes what a search of the samples (B,) that are worth it, and a descent from there, find to `found`."""
        up = (worth & (found.margin > 0)).nonzero()[:, 0]
        if len(up) and not search.stop():
            goal, here = objective.select(up), region.select(up)
            searched = search(goal, here, start[up])
            for result in (searched, self.descent(goal, here, searched.x)):
                _take(found, up, result)


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
            result = member.follow(goal, own, found.x[up]) if isinstance(member, Follows) else member(goal, own)
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


def descents(seed: int = 0, stop: Callable[[], bool] = never) -> dict[str, Runs]:
    """Few steps, which fell most samples; all classes briefly, and the three that came nearest at length; one long
    descent. For regions of any kind."""
    common = {"seed": seed, "stop": stop}
    return {
        "apgd-10": Plain(AutoPgd(steps=10, **common), cross_entropy),
        "apgd-t": Narrowing(AutoPgd(steps=10, **common), AutoPgd(steps=80, **common), targeted_dlr),
        "apgd-ce": Plain(AutoPgd(steps=60, **common), cross_entropy),
    }


def quick_ensemble(shape: tuple[int, ...], seed: int = 0, stop: Callable[[], bool] = never) -> Ensemble:
    """A faster one: what fells most samples per second comes first, later attacks build on what earlier ones met.

    Random search and the boundary are followed only where they find what descents did not. Long random searches, of
    2000 and 4000 queries, ask about 20 squares at once.
    """
    common = {"seed": seed, "stop": stop}
    scout = Square(steps=199, shape=shape, since=0.05, **common)
    onward = replace(scout, steps=99, restarts=20, share=True)
    afresh = replace(onward, steps=199, since=0.0)
    boundary = Fab(steps=40, nearest_row=True, **common)
    return Ensemble(
        {
            **descents(**common),
            "square": Doubt(scout, onward, afresh, AutoPgd(steps=40, step=0.1, **common)),
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
