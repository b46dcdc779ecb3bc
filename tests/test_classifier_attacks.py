"""Attacks on classifiers: exact where exactness is known, inside the region, asked again, and the same every time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks.apgd import AutoPgd
from attacks.base import Attack
from attacks.classifier import (
    Classifier,
    Misclassified,
    aimed_at,
    cross_entropy,
    dlr,
    margin_loss,
    misclassified,
    targeted_dlr,
    untargeted_margin,
)
from attacks.ensemble import EachTarget, Ensemble, Narrowing, Plain, auto_attack, quick_ensemble
from attacks.gradient import pgd
from attacks.nearest import Fab, Fmn, deepfool
from attacks.regions import Ball, ball
from attacks.square import Square

CLASSES, SIZE = 5, 20
NORMS = (math.inf, 2.0, 1.0)


def _linear(seed: int, count: int = 12) -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """A linear classifier, samples far from the range's edge, their classes, and the differences of rows to each
    other class, (count, CLASSES - 1, SIZE)."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(SIZE, CLASSES).double().requires_grad_(False)
    layer.weight.copy_(torch.randn(CLASSES, SIZE, generator=generator))
    x = 0.5 + 0.04 * torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    layer.bias.copy_(-layer.weight @ x.mean(0))
    labels = layer(x).argmax(1)
    apart = layer.weight[labels, None] - layer.weight[None].expand(count, -1, -1)
    others = torch.arange(CLASSES).expand(count, -1) != labels[:, None]
    return Classifier(layer, (SIZE,)), x, labels, apart[others].view(count, CLASSES - 1, SIZE)


def _distances(classifier: Classifier, x: Tensor, labels: Tensor, apart: Tensor, p: float) -> Tensor:
    """The exact distance (count,) to the nearest other class."""
    z = classifier(x)
    margins = (z.gather(1, labels[:, None]) - z)[torch.arange(CLASSES).expand(len(x), -1) != labels[:, None]]
    dual = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}[p]
    return (margins.view(len(x), -1) / apart.norm(p=dual, dim=-1)).amin(1)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("attack", [Fab(steps=40, nearest_row=True), deepfool(40), Fmn(steps=100)])
def test_least_distances_of_linear_classifiers(attack: Attack, p: float) -> None:
    classifier, x, labels, apart = _linear(3)
    exact = _distances(classifier, x, labels, apart, p)
    attack = dataclasses.replace(attack, goal=-math.inf)
    found, distance = attack(misclassified(classifier, labels), ball(x, 0.0, p))
    assert (distance >= exact - 1e-9).all(), "below the exact distance"
    # Where the margin is descended, its largest row leads, whose boundary need not be the nearest one.
    assert (distance <= exact * (1.03 if getattr(attack, "nearest_row", False) else 1.7)).all()
    assert (distance / exact).median() <= 1.03
    assert (classifier.predict(found) != labels).all()
    assert torch.allclose((found - x).norm(p=p, dim=1), distance)


@pytest.mark.parametrize("p", NORMS)
def test_ensembles_find_exactly_what_there_is_in_linear_classifiers(p: float) -> None:
    classifier, x, labels, apart = _linear(4)
    exact = _distances(classifier, x, labels, apart, p)
    radius = exact * torch.where(torch.arange(len(x)) % 2 == 0, 1.02, 0.98)  # half of them can be fooled
    region = ball(x, radius, p)
    outcome = quick_ensemble((SIZE,))(classifier, region, labels)
    assert torch.equal(outcome.fooled, radius > exact)
    assert (outcome.queries < 3000).all(), "random search begins afresh where gradients tell the truth"
    assert region.contains(outcome.x).all()
    assert torch.equal(classifier.predict(outcome.x) != labels, outcome.fooled)
    assert [bool(name) for name in outcome.by] == outcome.fooled.tolist()


def _small(ensemble: Ensemble) -> Ensemble:
    """The same without long random searches."""
    return Ensemble({name: member for name, member in ensemble.members.items() if name != "square"})


class Net(nn.Module):
    """A small network without structure."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = ((24, 16), (6, 24))
        self.first, self.last = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first.T) @ self.last.T


def _net(count: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Classifier, Tensor, Tensor]:
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    classifier = Classifier(Net(dtype), (1, 4, 4))
    return classifier, x, classifier.predict(x)


EVERY: list[tuple[Attack, Callable]] = [
    (pgd(6, 2, momentum=0.75), cross_entropy),
    (AutoPgd(steps=12), dlr),
    (AutoPgd(steps=8, restarts=2), untargeted_margin),
    (Fab(steps=8, nearest_row=True), untargeted_margin),
    (Fmn(steps=12), untargeted_margin),
    (Square(steps=25, shape=(1, 4, 4)), untargeted_margin),
]


@pytest.mark.parametrize("p", [*NORMS, 0.0])
@pytest.mark.parametrize(("attack", "loss"), EVERY)
def test_successes_are_inside_and_fool_the_model(attack: Attack, loss: Callable, p: float) -> None:
    classifier, x, labels = _net(dtype=torch.float32)
    region = ball(x, {math.inf: 0.08, 2.0: 0.3, 1.0: 0.8, 0.0: 3}[p], p)
    found, margin = attack(misclassified(classifier, labels, loss), region)
    fallen = margin <= 0
    assert torch.equal(classifier.predict(found)[fallen] != labels[fallen], fallen[fallen])
    assert region.contains(found)[fallen].all()
    assert fallen.any() or isinstance(attack, Square) or p == 0
    again = attack(misclassified(classifier, labels, loss), region)
    assert torch.equal(again.x, found)
    assert torch.equal(again.margin, margin)


NARROWING = Narrowing(AutoPgd(steps=4), AutoPgd(steps=8), targeted_dlr)


@pytest.mark.parametrize(
    ("attack", "loss"),
    [
        (AutoPgd(steps=15), dlr),
        (Fmn(steps=15), untargeted_margin),
        (Fab(steps=6, nearest_row=True), untargeted_margin),
        (NARROWING, untargeted_margin),
    ],
)
def test_a_result_does_not_depend_on_the_rest_of_the_batch(attack: Attack | Narrowing, loss: Callable) -> None:
    classifier, x, labels = _net()
    together = attack(misclassified(classifier, labels, loss), ball(x, 0.3, 2.0))
    for i in range(len(x)):
        alone = attack(misclassified(classifier, labels[i : i + 1], loss), ball(x[i : i + 1], 0.3, 2.0))
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-9)
        assert torch.allclose(alone.margin[0], together.margin[i], atol=1e-9)


def test_an_aimed_attack_reaches_its_class_and_not_any_other() -> None:
    classifier, x, labels = _net()
    targets = (labels + 1) % 6
    found, margin = AutoPgd(steps=40)(aimed_at(classifier, targets), ball(x, 0.6, math.inf))
    assert torch.equal(classifier.predict(found) == targets, margin <= 0)
    assert (margin <= 0).sum() >= 6


def test_targets_are_gone_through_until_one_falls() -> None:
    classifier, x, labels = _net()
    region, objective = ball(x, 0.12), misclassified(classifier, labels)
    one = EachTarget(AutoPgd(steps=10), targeted_dlr, 1)(objective, region).margin
    all_of_them = EachTarget(AutoPgd(steps=10), targeted_dlr)(objective, region).margin
    assert (all_of_them <= 0).sum() >= (one <= 0).sum()
    fewer = EachTarget(Fab(steps=10), margin_loss, 99)(objective, region)
    assert region.contains(fewer.x)[fewer.margin <= 0].all()


def test_queries_are_counted_for_each_sample() -> None:
    classifier, x, labels = _net()
    region = ball(x, torch.tensor([1.0] * 4 + [1e-6] * 4))
    asked: list[int] = []
    counting = Classifier(lambda v: (asked.append(len(v)), classifier.model(v))[1], (1, 4, 4))
    objective = misclassified(counting, labels)
    Square(steps=30, shape=(1, 4, 4))(objective, region)
    assert int(objective.spent.sum()) == sum(asked) == counting.asked
    assert (objective.spent[4:] == 31).all()
    assert (objective.spent[:4] < 31).all()


@pytest.mark.parametrize("since", [0.0, 0.3])
def test_squares_that_share_go_on_from_the_best(since: float) -> None:
    """Every question after the first ones differs from the best of all points before by one square of the image."""
    size, restarts, asked = 9, 6, []

    class Target:
        def __call__(self, v: Tensor) -> Tensor:
            asked.append(v)
            return 1 + (v - 0.3).square().sum(1)

    square = Square(steps=40, shape=(1, size, size), since=since, restarts=restarts, share=True)
    region = ball(torch.full((1, size * size), 0.5), 0.2)
    given = region.sample(torch.Generator().manual_seed(5))
    found = square(Target(), region, given)
    assert torch.equal(asked[0][0], given[0])
    assert [len(v) for v in asked] == [restarts] * 41
    least = 1 + (torch.cat(asked) - 0.3).square().sum(1)
    assert torch.equal(found.margin, least.min()[None])
    for i, v in enumerate(asked[1 if since else 2 :], 1 if since else 2):
        before = torch.cat(asked[:i])
        best = before[least[: len(before)].argmin()].view(size, size)
        tall, wide = square._side(i - 1, size, size)
        for one in v.view(-1, size, size) != best:
            rows, columns = one.any(1).nonzero()[:, 0], one.any(0).nonzero()[:, 0]
            assert not len(rows) or (rows[-1] - rows[0] < tall and columns[-1] - columns[0] < wide)
    if since:
        assert square._side(0, size, size) < Square(shape=(1, size, size))._side(0, size, size)


def test_random_search_goes_on_where_gradients_mislead() -> None:
    """Half of the samples meet a network that rounds its inputs, and so has no gradient; the others do not, and stand.
    A bright pixel in the corner, which no ball can hide, tells which."""
    smooth, x, _ = _net(12)
    x[:6, 0, 0, 0], x[6:, 0, 0, 0] = 0.9, 0.0

    def rounding(v: Tensor) -> Tensor:
        bright = (v[:, :1, :1, :1] > 0.5).to(v.dtype)
        return smooth.model(bright * (v * 16).round() / 16 + (1 - bright) * v)

    classifier = Classifier(rounding, (1, 4, 4))
    radius = torch.tensor([0.15] * 6 + [1e-5] * 6)
    outcome = quick_ensemble((1, 4, 4))(classifier, ball(x, radius), classifier.predict(x))
    assert outcome.by == ["square"] * 6 + [""] * 6
    assert (outcome.queries[6:] < 1000).all(), "gradients told the truth about these"


def test_wrong_samples_need_no_attack_and_logits_that_are_no_numbers_fool_nobody() -> None:
    classifier, x, labels = _net()
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 6
    broken = Classifier(lambda v: classifier.model(v).where((v.flatten(1)[:, :1] < 0.9), torch.nan), (1, 4, 4))
    outcome = _small(quick_ensemble((1, 4, 4)))(broken, ball(x, 0.05), labels)
    assert outcome.by[0] == "clean"
    assert torch.equal(outcome.x[0], x[0].flatten())
    assert broken.model(outcome.x[outcome.fooled].view(-1, 1, 4, 4)).isfinite().all()


def test_a_tie_is_decided_as_argmax_decides_it() -> None:
    tied = Classifier(lambda v: torch.zeros(len(v), 3, dtype=v.dtype) + 0 * v[:, :1], (2,))
    x, region = torch.full((2, 2), 0.5), ball(torch.full((2, 2), 0.5), 0.1)
    margin = pgd(3, 1)(misclassified(tied, torch.tensor([0, 1])), region).margin
    assert (margin <= 0).tolist() == [False, True]
    assert (tied.predict(x) != torch.tensor([0, 1])).tolist() == [False, True]


def test_losses_fall_where_the_margin_does_and_do_not_vanish() -> None:
    z = torch.tensor([[90.0, -80.0, 3.0, 1.0]], requires_grad=True)
    zero, two = torch.tensor([0]), torch.tensor([2])
    for loss in (cross_entropy, dlr, targeted_dlr, margin_loss, untargeted_margin):
        (slope,) = torch.autograd.grad(loss(z, zero, two).sum(), z)
        assert slope[0, 2] < 0, loss
    assert torch.allclose(dlr(z, zero, two), dlr(7 * z, zero, two))
    near = (z.detach().double() / 40).requires_grad_()
    (true,) = torch.autograd.grad(-nn.functional.cross_entropy(near, zero), near)
    (ours,) = torch.autograd.grad(cross_entropy(near, zero, two).sum(), near)
    assert torch.allclose(ours / ours.norm(), true / true.norm())


def test_the_standard_protocol_is_at_least_as_strong_as_each_of_its_members() -> None:
    classifier, x, labels = _net()
    region, standard = ball(x, 0.06), _small(auto_attack((1, 4, 4)))
    whole = standard(classifier, region, labels)
    for name, member in standard.members.items():
        alone = Ensemble({name: member})(classifier, region, labels)
        assert not bool((alone.fooled & ~whole.fooled).any())
    assert isinstance(standard.members["apgd-ce"], Plain)


def test_what_cannot_be_attacked_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        Classifier(nn.Linear(2, 2).half(), (2,))
    with pytest.raises(ValueError, match="logits"):
        Classifier(lambda v: v.sum(), (2,))(torch.zeros(3, 2))
    assert isinstance(misclassified(_net()[0], torch.tensor([0])), Misclassified)
    assert isinstance(ball(torch.rand(1, 2), 0.1), Ball)
