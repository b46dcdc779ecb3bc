"""Between attacks and bounds: losses that range from adversarial training to IBP (De Palma et al. 2024), and
small boxes around attacked points (Müller et al. 2023). Only at the IBP end are they upper bounds of the worst case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certify.errors import BadOption
from training import norms
from training.adversarial import Climb
from training.bounds import Bounds, propagate
from training.certified import interval_margins
from training.method import Moment
from training.norms import Held
from training.region import Ball
from training.regularise import Regulariser, regularised

ATTACK = Climb(steps=8, size=0.25)


@dataclass(frozen=True)
class SABR:
    """Worst-case cross-entropy by intervals over boxes of `share` times the radius around attacked points, which
    lie so far inside that the boxes do not leave the ball (Müller et al. 2023, sec. 3)."""

    share: float = 0.4
    attack: Climb = ATTACK
    regulariser: Regulariser | None = None

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        held = norms.learn(network, region.x)
        bounds = propagate(network, small(network, region, y, held, self), held)
        return regularised(cross_entropy(interval_margins(bounds, y), y), self.regulariser, bounds, moment)


class Shrunk(Protocol):
    """What has boxes of `share` times the radius around points found by `attack`."""

    share: float
    attack: Climb


def small(network: nn.Module, region: Ball, y: Tensor, held: Held, method: Shrunk) -> Ball:
    """Balls of `share` times the radius around attacked points, within the balls of the region."""
    inner = region.around(region.x, (1 - method.share) * region.radius)
    return region.around(method.attack(network, inner, y, held), method.share * region.radius)


@dataclass(frozen=True)
class _Both:
    """What the three mixtures share: `share` is that of the bounds, the rest belongs to attacked points.

    Raises BadOption for a share outside [0, 1].
    """

    share: float = 0.1
    attack: Climb = ATTACK
    regulariser: Regulariser | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BadOption(f"bounds have no share {self.share} of a loss", "use a number from 0 to 1")

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        attacked, bounds = self.margins(network, region, y)
        loss = self.mix(attacked, interval_margins(bounds, y), y)
        return regularised(loss, self.regulariser, bounds, moment)

    def margins(self, network: nn.Module, region: Ball, y: Tensor) -> tuple[Tensor, Bounds]:
        """Each logit minus that of y at attacked points (B, classes), and bounds over the balls."""
        held = norms.learn(network, region.x)
        logits = _at(network, self.attack(network, region, y, held), held)
        return logits - logits.gather(1, y[:, None]), propagate(network, region, held)

    def mix(self, attacked: Tensor, bounded: Tensor, y: Tensor) -> Tensor:
        """The loss from both kinds of margins (B, classes)."""
        raise NotImplementedError


@dataclass(frozen=True)
class MTLIBP(_Both):
    """(1 - share) attacked + share bounded cross-entropy (De Palma et al. 2024, eq. 7)."""

    def mix(self, attacked: Tensor, bounded: Tensor, y: Tensor) -> Tensor:
        return (1 - self.share) * cross_entropy(attacked, y) + self.share * cross_entropy(bounded, y)


@dataclass(frozen=True)
class CCIBP(_Both):
    """Cross-entropy of (1 - share) attacked + share bounded margins (De Palma et al. 2024, eq. 6)."""

    def mix(self, attacked: Tensor, bounded: Tensor, y: Tensor) -> Tensor:
        return cross_entropy((1 - self.share) * attacked + self.share * bounded, y)


@dataclass(frozen=True)
class EXPIBP(_Both):
    """attacked^(1 - share) times bounded^share, of the cross-entropies of each sample (De Palma et al. 2024, eq. 8)."""

    def mix(self, attacked: Tensor, bounded: Tensor, y: Tensor) -> Tensor:
        # A loss that underflows to zero has no logarithm; what is below 1e-9 is trained enough.
        one, two = (cross_entropy(m, y, reduction="none").clamp_min(1e-9).log() for m in (attacked, bounded))
        return ((1 - self.share) * one + self.share * two).exp().mean()


def _at(network: nn.Module, x: Tensor, held: Held) -> Tensor:
    """The logits at x, with batch normalisations as held."""
    with norms.fixed(network, held):
        return network(x)


@dataclass(frozen=True)
class TAPS:
    """Intervals up to the last layers, an attack from there on (Mao et al. 2023): for each class, gradient ascent finds
    a point of the latent box where its margin is large. The box is that behind the ReLU before the last `tail` ones, so
    that what intervals lose in the layer before each of these is not lost. The loss is `weight` interval cross-entropy
    times that of the margins found, as their gradients are then in balance (eq. 8).

    Raises BadOption for a tail without a ReLU.
    """

    tail: int = 1
    steps: int = 6
    weight: float = 1.0
    regulariser: Regulariser | None = None

    def __post_init__(self) -> None:
        if self.tail < 1:
            raise BadOption(f"an attack does not begin {self.tail} ReLUs before the end", "use a tail from 1")

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        held = norms.learn(network, region.x)
        bounds = propagate(network, region, held)
        return regularised(self.over(network, bounds, y, held), self.regulariser, bounds, moment)

    def over(self, network: nn.Module, bounds: Bounds, y: Tensor, held: Held) -> Tensor:
        """The loss, of these bounds on the network, without its regulariser."""
        relus = [i for i, stage in enumerate(bounds.stages) if isinstance(stage.layer, nn.ReLU)]
        cut = relus[-self.tail - 1] + 1 if len(relus) > self.tail else 0
        box = bounds.stages[cut].before
        last = nn.Sequential(*(stage.layer for stage in bounds.stages[cut:]))
        classes = bounds.output.lower.shape[1]
        with norms.fixed(network, held):
            share = self._climb(last, (box.lower.detach(), box.upper.detach()), y, classes)
            # The point keeps its place between the ends of the box, and so hands its gradient to both of them.
            points = torch.addcmul(box.lower[:, None], share, (box.upper - box.lower)[:, None])
            values = last(points.flatten(0, 1))
        values = values.unflatten(0, (len(y), classes))
        found = values.diagonal(dim1=1, dim2=2) - values.gather(2, y[:, None, None].expand(-1, classes, 1))[..., 0]
        bounded = cross_entropy(interval_margins(bounds, y), y, reduction="none")
        return (cross_entropy(found, y, reduction="none") * self.weight * bounded).mean()

    def _climb(self, last: nn.Module, ends: tuple[Tensor, Tensor], y: Tensor, classes: int) -> Tensor:
        """Places (B, classes, *N) in [0, 1] between the ends of the box where the margins of the classes are large."""
        lower, width = ends[0][:, None], (ends[1] - ends[0])[:, None]
        share = torch.rand(len(y), classes, *lower.shape[2:], dtype=lower.dtype, device=lower.device)
        rows = torch.arange(classes, device=y.device).expand(len(y), -1).flatten()
        labels = y.repeat_interleave(classes)
        for step in range(self.steps):
            with torch.enable_grad():
                point = torch.addcmul(lower, share, width).requires_grad_()
                values = last(point.flatten(0, 1))
                margin = values.gather(1, rows[:, None]) - values.gather(1, labels[:, None])
                (slope,) = torch.autograd.grad(margin.sum(), point)
            share.add_(slope.sign_(), alpha=0.5 * (1 - step / self.steps)).clamp_(0, 1)
        return share


@dataclass(frozen=True)
class STAPS:
    """TAPS (`latent`) whose intervals, and so the regulariser's, are those of SABR's small boxes (Mao et al. 2023)."""

    share: float = 0.4
    attack: Climb = ATTACK
    latent: TAPS = TAPS()

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        held = norms.learn(network, region.x)
        bounds = propagate(network, small(network, region, y, held, self), held)
        loss = self.latent.over(network, bounds, y, held)
        return regularised(loss, self.latent.regulariser, bounds, moment)
