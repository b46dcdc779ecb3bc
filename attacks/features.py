"""What a model has learnt, seen through the same optimiser: images that maximise a class or a feature, images of one
class turned into another, and data sets with nothing but robust, or nothing but fragile, features.

A `Ball` around the starting images says how far they may go; L2 balls of a few units show most of a robust model,
and noise of another (Santurkar et al. 2019; Engstrom et al. 2019, "Adversarial robustness as a prior").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Attack
from attacks.classifier import Classifier, aimed_at, targeted_cross_entropy
from attacks.gradient import Descent, Geometric
from attacks.regions import Ball

Features = Callable[[Tensor], Tensor]
"""Inputs (B, d) -> features (B, k)."""

SLOW = Descent(steps=60, step=Geometric(0.5, 0.005), goal=-torch.inf)
"""Shrinking steps that go on to the end."""


@dataclass(frozen=True, eq=False)
class Matched:
    """The objective that features come near `wanted` (B, k): half the squared distance."""

    features: Features
    wanted: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (self.features(x) - self.wanted).square().sum(1) / 2

    def select(self, index: Tensor) -> Matched:
        """The objective of the entries at `index`."""
        return Matched(self.features, self.wanted[index])


@dataclass(frozen=True, eq=False)
class Along:
    """The objective that features go far along `direction` (k,), or one for each entry (B, k)."""

    features: Features
    direction: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return -(self.features(x) * self.direction).sum(1)

    def select(self, index: Tensor) -> Along:
        """The objective of the entries at `index`."""
        return Along(self.features, self.direction[index] if self.direction.dim() == 2 else self.direction)


def toward_class(classifier: Classifier, region: Ball, targets: Tensor, attack: Attack = SLOW) -> Tensor:
    """The centres (B, d) moved to where the model is surest of classes (B,): from noise, what a class looks like;
    from images of another class, how the model turns one into the other."""
    objective = aimed_at(classifier, targets, targeted_cross_entropy)
    return attack(_Loss(objective), region).x


def toward_feature(features: Features, region: Ball, direction: Tensor, attack: Attack = SLOW) -> Tensor:
    """The centres (B, d) moved to where features are largest along a direction: a unit, if it is one of the axes."""
    return attack(Along(features, direction), region).x


def robustified(features: Features, images: Tensor, region: Ball, attack: Attack = SLOW) -> Tensor:
    """The centres (B, d), which have nothing to do with `images` (B, d), moved to where they have these images'
    features. Of a robust model, training data of only robust features (Ilyas et al. 2019, section 3.1)."""
    with torch.no_grad():
        wanted = features(images.flatten(1))
    return attack(Matched(features, wanted), region).x


def mislabelled(
    classifier: Classifier, region: Ball, labels: Tensor, seed: int = 0, attack: Attack = SLOW
) -> tuple[Tensor, Tensor]:
    """The centres (B, d) moved toward random other classes, and these (B,) as their labels: training data in which
    only fragile features tell the label (Ilyas et al. 2019, section 3.2)."""
    with torch.no_grad():
        classes = classifier(region.center[:1]).shape[1]
    shift = torch.randint(1, classes, labels.shape, generator=torch.Generator().manual_seed(seed)).to(labels)
    targets = (labels + shift) % classes
    return toward_class(classifier, region, targets, attack), targets


@dataclass(frozen=True, eq=False)
class _Loss:
    """An objective's loss in place of its margin, so that the best point is the one of least loss."""

    objective: object

    def __call__(self, x: Tensor) -> Tensor:
        return self.objective.guide(x)[1]

    def select(self, index: Tensor) -> _Loss:
        return _Loss(self.objective.select(index))
