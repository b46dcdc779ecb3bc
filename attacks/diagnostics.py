"""Signs that a model looks more robust than it is: gradients that mislead, and attacks that should not win.

After Athalye et al. 2018 (section 3.1) and Carlini et al. 2019 (section 5). A warning proves nothing, nor does its
absence; each names what was seen, its cause, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.apgd import AutoPgd
from attacks.base import Attack, evaluate
from attacks.classifier import Classifier, Misclassified, cross_entropy, misclassified
from attacks.gradient import fgsm, pgd
from attacks.regions import Ball
from attacks.square import Square
from attacks.transfer import Transfer

SHARE = 0.1
"""Part of the samples on which something must be seen."""

ASKED = 200
"""Queries of the random search that is compared with gradients."""


@dataclass(frozen=True)
class Caution:
    """One warning: its name, what was seen, what causes that, and the remedy."""

    name: str
    seen: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}. Cause: {self.cause}. Remedy: {self.remedy}."


REMEDIES: dict[str, tuple[str, str]] = {
    "random-answers": (
        "the model draws random numbers, or is in training mode",
        "call model.eval(); if randomness is the defence, attack attacks.averaged.Expected",
    ),
    "no-gradient": (
        "a part that is not differentiable (rounding, argmax, detach) cuts the gradient",
        "replace that part by a differentiable one when attacking (BPDA), or trust black-box attacks alone",
    ),
    "zero-gradients": (
        "saturated or piecewise constant parts",
        "attack a surrogate without them, use losses of logits (dlr), or black-box attacks",
    ),
    "broken-gradients": ("overflow, or a root or logarithm at 0", "clamp the arguments of such functions"),
    "saturated-logits": (
        "logits are so large that probabilities are 0 or 1 in float32",
        "use losses of logits, such as attacks.classifier.cross_entropy or dlr, or float64",
    ),
    "shattered-gradients": (
        "the gradient says nothing of the model's values nearby",
        "estimate it (attacks.query), smooth it (attacks.averaged), or use random search",
    ),
    "single-step-wins": ("the loss is no guide beyond its linear part", "more restarts, smaller steps, other losses"),
    "steps-do-not-pay": ("descent gets stuck at once", "look at the gradients, try other losses and step sizes"),
    "radius-does-not-pay": (
        "a larger region is attacked less well, so that attacks fail, not the model holds",
        "more steps and restarts, other losses, random search",
    ),
    "black-box-wins": ("gradients hide what random search finds", "trust the black-box attack; repair the gradients"),
    "transfer-wins": (
        "gradients of the model hide what gradients of other models find",
        "trust the transferred points; repair the gradients",
    ),
    "flat-parts": (
        "rounding, signs and comparisons pass no gradient on",
        "attack with a straight-through stand-in for them (`certify attack` does), and with random search",
    ),
    "far-is-not-enough": (
        "even without a limit on the perturbation the attack fails, so that it is the attack that fails",
        "repair the gradients; nothing measured with this attack says anything",
    ),
}
"""Name of a warning -> (cause, remedy)."""


def diagnose(
    classifier: Classifier,
    region: Ball,
    labels: Tensor,
    seed: int = 0,
    surrogates: tuple[Callable[[Tensor], Tensor], ...] = (),
) -> list[Caution]:
    """Warnings about a classifier, from samples (the centres of `region`) of these classes (N,).

    Costs about 500 queries a sample. Misclassified samples are left out. With other models, inputs (B, d) to logits
    (B, C), as `surrogates`, points that mislead those are tried, too.
    """
    right = (classifier.predict(region.center) == labels).nonzero()[:, 0]
    if not len(right):
        return []
    region, labels = region.select(right), labels[right]
    objective = misclassified(classifier, labels, cross_entropy)
    found = [*_of_answers(classifier, region), *_of_gradients(classifier, objective, region, seed)]
    return found + _of_attacks(objective, region, seed, surrogates)


def flat_parts(names: Sequence[str]) -> list[Caution]:
    """The warning that these parts of a model, if any, have a derivative of zero almost everywhere."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [_caution("flat-parts", f"the derivative of {shown} is zero almost everywhere")] if names else []


def _caution(name: str, seen: str) -> Caution:
    return Caution(name, seen, *REMEDIES[name])


def _of_answers(classifier: Classifier, region: Ball) -> list[Caution]:
    """What the logits alone show."""
    found = []
    with torch.no_grad():
        first, again = classifier(region.center), classifier(region.center)
    if not torch.equal(first, again):
        most = float((first - again).abs().amax())
        found.append(_caution("random-answers", f"logits of one input differ by up to {most:.3g} between two calls"))
    sure = float((first.softmax(1).amax(1) == 1).float().mean())
    if sure > SHARE:
        found.append(_caution("saturated-logits", f"the softmax is exactly 1 for {sure:.0%} of the samples"))
    return found


def _of_gradients(classifier: Classifier, objective: Misclassified, region: Ball, seed: int) -> list[Caution]:
    """What the gradient at the samples shows."""
    x = region.center.clone().requires_grad_()
    z = classifier(x)
    if not z.requires_grad:
        return [_caution("no-gradient", "the logits do not depend on the input, as far as autograd knows")]
    loss = objective.loss(z, objective.labels, objective.targets)
    (raw,) = torch.autograd.grad(loss.sum(), x, materialize_grads=True)
    broken, zero = (float(t.float().mean()) for t in (~raw.isfinite().all(1), (raw == 0).all(1)))
    found = []
    if broken > 0:
        found.append(_caution("broken-gradients", f"the gradient is no number for {broken:.0%} of the samples"))
    if zero > SHARE:
        found.append(_caution("zero-gradients", f"the gradient is zero for {zero:.0%} of the samples"))
    elif _shattered(objective, region, raw.nan_to_num(), seed):
        found.append(_caution("shattered-gradients", "small steps change the loss otherwise than the gradient says"))
    return found


def _shattered(objective: Misclassified, region: Ball, slope: Tensor, seed: int) -> bool:
    """Whether for most samples differences along random small steps are not what the gradient predicts."""
    generator = torch.Generator().manual_seed(seed)
    step = 1e-3 * (region.sample(generator) - region.center) + 1e-4 * slope.sign()
    with torch.no_grad():
        above, below = (objective.guide(region.center + side * step)[1] for side in (1, -1))
    real, predicted = (above - below) / 2, (slope * step).sum(1)
    return float(((real - predicted).abs() > 0.5 * predicted.abs() + 1e-5).float().mean()) > 0.5


def _of_attacks(
    objective: Misclassified, region: Ball, seed: int, surrogates: tuple[Callable[[Tensor], Tensor], ...]
) -> list[Caution]:
    """What attacks show that should do better than others, and do not."""
    count = len(region)

    def fooled(attack: Attack | Transfer, where: Ball = region) -> int:
        return int((attack(objective, where).margin <= 0).sum())

    def level(steps: int) -> float:
        found = replace(pgd(steps, 1), goal=-torch.inf)(objective, region)
        return float(evaluate(objective, found.x, False).loss.median())

    once, often = fooled(fgsm()), fooled(pgd(20, 1))
    strong = fooled(AutoPgd(steps=50, seed=seed))
    wider = fooled(AutoPgd(steps=50, seed=seed), region.resized(2 * region.radius))
    random = fooled(Square(steps=ASKED, seed=seed))
    least = SHARE * count
    found = []
    if once > often + least:
        found.append(_caution("single-step-wins", f"one step fools {once} of {count}, twenty fool {often}"))
    if often < count and level(20) >= level(0):
        found.append(_caution("steps-do-not-pay", "twenty steps reach no lower loss than the sample has"))
    if wider < strong:
        found.append(_caution("radius-does-not-pay", f"{strong} of {count} fall, and {wider} at twice the radius"))
    if random > strong + least:
        found.append(_caution("black-box-wins", f"random search fools {random} of {count}, gradients {strong}"))
    if surrogates and (carried := fooled(Transfer(surrogates))) > strong + least:
        found.append(_caution("transfer-wins", f"transferred points fool {carried} of {count}, gradients {strong}"))
    span = (region.upper - region.lower).double()
    if bool(span.isfinite().all()):
        whole = region.resized(region.norm.length(span))
        far = fooled(AutoPgd(steps=50, seed=seed), whole)
        if far < count - least:
            found.append(_caution("far-is-not-enough", f"{count - far} of {count} stand in the whole data range"))
    return found
