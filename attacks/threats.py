"""Several threat models at once: what stands under the worst of balls, rotations and colours, sample by sample.

The union of threats is their worst one for each sample ("max": Tramer & Boneh 2019, section 2), so it is attacked by
attacking all of them, and reported threat by threat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.base import never
from attacks.change import Change, Through
from attacks.classifier import Classifier, misclassified
from attacks.ensemble import CLEAN, Ensemble, Outcome
from attacks.regions import Ball, Box, Joint


class Threat(Protocol):
    """What may become of N samples, and how that is looked for."""

    def __call__(self, classifier: Classifier, labels: Tensor, stop: Callable[[], bool] = never) -> Outcome:
        """Attack the samples; the outcome's x are points of the threat's region."""
        ...

    def inputs(self, x: Tensor) -> Tensor:
        """The inputs (N, d) that points of the region stand for."""
        ...


@dataclass(frozen=True, eq=False)
class Around:
    """Balls around the samples, which are their centres."""

    region: Ball
    attack: Ensemble

    def __call__(self, classifier: Classifier, labels: Tensor, stop: Callable[[], bool] = never) -> Outcome:
        return self.attack(classifier, self.region, labels, stop)

    def inputs(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, eq=False)
class Changed:
    """Samples as a function of parameters in a region whose middle changes nothing."""

    change: Change
    region: Box | Joint
    attack: Ensemble

    def __call__(self, classifier: Classifier, labels: Tensor, stop: Callable[[], bool] = never) -> Outcome:
        return self.attack.against(Through(misclassified(classifier, labels), self.change), self.region, stop)

    def inputs(self, x: Tensor) -> Tensor:
        return self.change(x)


@dataclass(frozen=True, eq=False)
class Union:
    """What became of N samples under several threats.

    outcomes  by threat
    fooled    (N,): whether a sample fell under any
    by        (N,): the first threat under which it did; "clean" for a sample that needs none, "" for one that stands
    x         (N, d): the input that did it; else the least safe one met under the last threat
    """

    outcomes: dict[str, Outcome]
    fooled: Tensor
    by: list[str]
    x: Tensor

    def accuracy(self) -> dict[str, float]:
        """The part of the samples that stand: under each threat, and, as "union", under all of them."""
        under = {name: outcome.fooled for name, outcome in self.outcomes.items()}
        return {name: 1 - float(fooled.double().mean()) for name, fooled in {**under, "union": self.fooled}.items()}


def under_all(
    threats: Mapping[str, Threat], classifier: Classifier, labels: Tensor, stop: Callable[[], bool] = never
) -> Union:
    """Attack samples of these classes (N,) under every one of the threats, which are about the same samples."""
    if not threats:
        raise ValueError("name at least one threat")
    outcomes = {name: threat(classifier, labels, stop) for name, threat in threats.items()}
    by, x = [""] * len(labels), None
    fooled = torch.zeros_like(labels, dtype=torch.bool)
    for name, outcome in outcomes.items():
        inputs = threats[name].inputs(outcome.x)
        x = inputs if x is None else torch.where(fooled[:, None], x, inputs)
        for i in (outcome.fooled & ~fooled).nonzero()[:, 0].tolist():
            by[i] = CLEAN if outcome.by[i] == CLEAN else name
        fooled = fooled | outcome.fooled
    return Union(outcomes, fooled, by, x)
