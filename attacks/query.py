"""Attacks that see the model's outputs, not its gradients: NES, SPSA and ZOO are descents on estimated gradients.

Queries are counted for each sample, and can be limited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.base import Attack, Here, Objective, Region, Result, State, choose
from attacks.classifier import Loss, Misclassified, untargeted_margin
from attacks.regions import Ball

Directions = Callable[[Tensor, int, torch.Generator], Tensor]
"""(x (B, d), n, generator) -> n directions for each, (n, B, d)."""


def gaussian(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Normal directions: NES (Ilyas et al. 2018, section 2.1)."""
    return torch.randn(count, *x.shape, generator=generator, dtype=x.dtype).to(x.device)


def signs(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Directions of entries 1 and -1: SPSA (Uesato et al. 2018, algorithm 1)."""
    return (2 * torch.randint(2, (count, *x.shape), generator=generator) - 1).to(x)


def coordinates(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random coordinates, scaled so that the estimate of a gradient is right on average: ZOO (Chen et al. 2017)."""
    chosen = torch.randint(x.shape[1], (count, len(x), 1), generator=generator).to(x.device)
    return torch.zeros(count, *x.shape, dtype=x.dtype, device=x.device).scatter_(2, chosen, x.shape[1] ** 0.5)


@dataclass(frozen=True, eq=False)
class Estimated:
    """An objective with a gradient estimated from differences of its loss along random directions, two queries each.

    generator  where the directions come from; it moves on with every estimate
    """

    objective: Objective
    directions: Directions
    count: int
    width: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        return self.objective(x)

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, loss), the loss with the estimated gradient; without it where none is wanted."""
        if not torch.is_grad_enabled():
            return self.objective.guide(x)
        with torch.no_grad():
            margin, loss = self.objective.guide(x)
            slope = torch.zeros_like(x)
            for way in self.directions(x, self.count, self.generator):
                above, below = (self.objective.guide(x + side * self.width * way)[1] for side in (1, -1))
                slope += ((above - below) / (2 * self.width * self.count)).unsqueeze(1) * way
        linear = (slope * x).sum(1)
        return margin, loss + linear - linear.detach()

    def select(self, index: Tensor) -> Estimated:
        """The objective whose entry i is this one's entry index[i]."""
        return Estimated(choose(self.objective, index), self.directions, self.count, self.width, self.generator)


@dataclass(frozen=True)
class Blind:
    """An attack that gets estimates for gradients.

    queries  directions per estimate; each costs two queries, a step costs one more
    width    how far the model is asked from a point, in units of the input
    """

    attack: Attack
    directions: Directions = gaussian
    queries: int = 25
    width: float = 0.01
    loss: Loss = untargeted_margin

    def __call__(self, objective: Misclassified, region: Region) -> Result:
        generator = torch.Generator().manual_seed(self.attack.seed)
        led = Estimated(objective.led_by(self.loss), self.directions, self.queries, self.width, generator)
        return self.attack(led, region)


@dataclass(frozen=True)
class RandomSearch(Attack):
    """As many random points of the region as there are steps."""

    descends = False

    def move(self, i: int, here: Here, region: Region, state: State) -> tuple[Tensor, State]:
        return region.sample(torch.Generator().manual_seed(self.seed * 1_000_003 + i)), state


@dataclass(frozen=True, eq=False)
class Limited:
    """An objective that does not ask the model about a sample more than so many times: its margin then is not a
    number, which no attack takes for a success, nor for better than anything.

    queries  how often, what was spent before included
    """

    objective: Misclassified
    queries: int

    def __call__(self, x: Tensor) -> Tensor:
        return self._asked(lambda objective, point: (objective(point),), x)[0]

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, loss), each (B,)."""
        margin, loss = self._asked(lambda objective, point: objective.guide(point), x, 2)
        return margin, loss

    def select(self, index: Tensor) -> Limited:
        """The objective whose entry i is this one's entry index[i]."""
        return Limited(self.objective.select(index), self.queries)

    def led_by(self, loss: Loss, targets: Tensor | None = None) -> Limited:
        """The same goal and limit, with another loss, and other targets (B,)."""
        return Limited(self.objective.led_by(loss, targets), self.queries)

    def _asked(
        self, ask: Callable[[Misclassified, Tensor], tuple[Tensor, ...]], x: Tensor, count: int = 1
    ) -> tuple[Tensor, ...]:
        """`count` answers (B,), of the entries whose sample may still be asked about."""
        entries = self.objective.entries
        order = entries.argsort(stable=True)
        ordered = entries[order]
        place = torch.empty_like(entries)  # how many entries before this one are of the same sample
        place[order] = torch.arange(len(entries), device=x.device) - torch.searchsorted(ordered, ordered)
        may = (self.objective.spent[entries] + place < self.queries).nonzero()[:, 0]
        nothing = tuple(torch.full_like(x[:, 0], torch.nan) for _ in range(count))
        if not len(may):
            return nothing
        answers = ask(self.objective.select(may), x[may])
        return tuple(none.to(a.dtype).index_copy(0, may, a) for none, a in zip(nothing, answers, strict=True))


class Asks(Protocol):
    """An attack on classifiers, which asks through an objective."""

    def __call__(self, objective: Misclassified | Limited, region: Ball) -> Result: ...


@dataclass(frozen=True)
class Budgeted:
    """An attack with a limit on the queries of each sample; for attacks that ask through the objective alone."""

    attack: Asks
    queries: int

    def __call__(self, objective: Misclassified, region: Ball) -> Result:
        return self.attack(Limited(objective, self.queries), region)
