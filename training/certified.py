"""Training on upper bounds of the worst-case loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training import norms
from training.bounds import Bounds, Form, margins, parallel, propagate
from training.method import Moment
from training.norms import Held
from training.projected import project
from training.region import Ball
from training.regularise import Regulariser, regularised
from training.schedule import Constant, Linear, Schedule

HALVED, FADING, NEVER = Linear(1.0, 0.5, 0.0, 1.0), Linear(1.0, 0.0, 0.0, 1.0), Constant(0.0)


def interval_margins(bounds: Bounds, y: Tensor) -> Tensor:
    """Upper bounds (B, classes) on each logit minus that of y, by intervals; the last layer is fused with the
    differences (Gowal et al. 2018, sec. 3). Zero for y itself."""
    return bounds.upper(_margins(bounds, y), layers=1)


def linear_margins(bounds: Bounds, y: Tensor) -> Tensor:
    """The same by linear forms pulled through all layers, with the intervals as intermediate bounds."""
    return bounds.upper(_margins(bounds, y))


def _margins(bounds: Bounds, y: Tensor) -> Form:
    like = bounds.output.like
    return margins(y, like.shape[1], like.dtype)


def fused_loss(bounds: Bounds, y: Tensor) -> Tensor:
    """Upper bounds (B,) on the cross-entropy by one linear form per sample (loss fusion; Xu et al. 2020, sec. 3.3).

    exp of each margin lies below its chord over the margin's interval; the sum of the chords is one row, so the
    cost does not grow with the number of classes. Sound if the intervals hold, up to rounding.
    """
    form = _margins(bounds, y)
    return _fused(bounds, form, *bounds.span(form))


def _fused(bounds: Bounds, form: Form, lower: Tensor, upper: Tensor) -> Tensor:
    """The fused loss, of margins between these bounds (B, classes)."""
    top = upper.amax(1, keepdim=True).detach()  # exp of what is left cannot overflow
    at_lower, at_upper = (lower - top).exp(), (upper - top).exp()
    width = upper - lower
    narrow = width < 1e-4  # there the chord is a quotient of roundings: the tangent's slope at the end is steeper
    chord = torch.where(narrow, at_upper, (at_upper - at_lower) / width.masked_fill(narrow, 1.0))
    row = chord[:, None] @ form.rows
    shift = (at_lower - chord * lower).sum(1, keepdim=True)
    total = bounds.upper(Form(row, shift))[:, 0]
    # No sum of exponentials is less than the one of the class itself, exp(0).
    return top[:, 0] + torch.maximum(total, (-top[:, 0]).exp()).log()


def _beside(clean: Tensor | None, worst: Tensor, y: Tensor, kappa: float) -> Tensor:
    """kappa times the cross-entropy of clean logits (B, classes) plus 1 - kappa times the worst case."""
    return worst if clean is None else kappa * cross_entropy(clean, y) + (1 - kappa) * worst


def _clean(network: nn.Module, x: Tensor, kappa: float) -> tuple[Tensor | None, Held]:
    """Logits of x, if they count at all, and the batch normalisations as they acted there."""
    return norms.clean(network, x) if kappa else (None, norms.learn(network, x))


@dataclass(frozen=True)
class IBP:
    """kappa clean + (1 - kappa) worst-case cross-entropy by intervals (Gowal et al. 2018, eq. 12).

    kappa is a function of the ramp, the share of the final radius: 1 to 1/2 in the paper.
    """

    kappa: Schedule = HALVED
    regulariser: Regulariser | None = None

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        kappa = self.kappa(moment.ramp)
        logits, held = _clean(network, region.x, kappa)
        bounds = propagate(network, region, held)
        loss = _beside(logits, cross_entropy(interval_margins(bounds, y), y), y, kappa)
        return regularised(loss, self.regulariser, bounds, moment)


@dataclass(frozen=True)
class CrownIBP:
    """kappa clean + (1 - kappa) worst-case cross-entropy, whose bound is beta linear and 1 - beta interval
    (Zhang et al. 2020, eq. 13). Both weights are functions of the ramp; beta goes from 1 to 0 in the paper.

    `fused` bounds the loss itself by one row per sample, instead of one per class.
    """

    kappa: Schedule = NEVER
    beta: Schedule = FADING
    fused: bool = True
    regulariser: Regulariser | None = None

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        kappa, beta = self.kappa(moment.ramp), self.beta(moment.ramp)
        logits, held = _clean(network, region.x, kappa)
        bounds = propagate(network, region, held)
        form = _margins(bounds, y)
        lower, interval = bounds.span(form)
        if not beta:
            worst = cross_entropy(interval, y)
        elif self.fused:
            worst = beta * _fused(bounds, form, lower, interval).mean() + (1 - beta) * cross_entropy(interval, y)
        else:
            worst = cross_entropy(beta * bounds.upper(form) + (1 - beta) * interval, y)
        return regularised(_beside(logits, worst, y, kappa), self.regulariser, bounds, moment)


@dataclass(frozen=True)
class Dual:
    """Worst-case cross-entropy by the dual network of Wong & Kolter 2018: lines of the chord's slope on both sides
    of every ReLU, all intermediate bounds from linear forms: a row per neuron, which is for small networks. With
    `projections`, intermediate bounds are estimates of that many combinations (`training.projected`): for larger ones,
    and no upper bound any more.

    It is also what the zonotope of DiffAI (Mirman et al. 2018) gives with its relaxation of least area: pulling
    rows back through parallel lines is the transpose of pushing generators forward.
    """

    projections: int = 0

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, moment: Moment) -> Tensor:
        held = norms.learn(network, region.x)
        if self.projections:
            bounds = project(network, region, held, self.projections)
        else:
            bounds = propagate(network, region, held, below=parallel, tighten=True)
        return cross_entropy(torch.minimum(linear_margins(bounds, y), interval_margins(bounds, y)), y)
