"""Attacks without gradients, and those whose points are parameters: rotations, colours, mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.boundary import HopSkipJump
from attacks.change import Grid, Mixed, Recolour, RotateShift, Through, Warped, mixture
from attacks.classifier import Classifier, Misclassified, misclassified
from attacks.gradient import Descent, pgd
from attacks.query import Blind, Directions, Estimated, coordinates, gaussian, signs
from attacks.regions import Box, Joint, ball

SIZE, COUNT = 10, 6
UNIT = st.floats(0, 1, width=32)
ROWS = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _linear() -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """A linear classifier of two classes, samples, labels, and the exact L2 and L-infinity distances, (2, COUNT)."""
    x = 0.5 + 0.1 * torch.randn(COUNT, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    classifier = Classifier(lambda v: (v - 0.5) @ ROWS[:2].T, (SIZE,))
    apart = ROWS[0] - ROWS[1]
    margin = ((x - 0.5) @ apart).abs()
    return classifier, x, classifier.predict(x), torch.stack([margin / apart.norm(), margin / apart.abs().sum()])


@pytest.mark.parametrize("directions", [gaussian, signs, coordinates])
def test_estimates_are_gradients_on_average_and_lead_as_they_do(directions: Directions) -> None:
    classifier, x, labels, exact = _linear()
    generator = torch.Generator().manual_seed(2)
    estimated = Estimated(misclassified(classifier, labels), directions, 3000, 0.01, generator)
    point = x.clone().requires_grad_()
    margin, loss = estimated.guide(point)
    (slope,) = torch.autograd.grad(loss.sum(), point)
    true = (ROWS[0] - ROWS[1]) * torch.where(labels == 0, 1, -1)[:, None]
    assert torch.nn.functional.cosine_similarity(slope, true, dim=1).min() > 0.97
    assert torch.equal(margin, misclassified(classifier, labels)(x))
    region = ball(x, exact[1] * torch.tensor([1.3, 0.8] * 3), math.inf)
    objective = misclassified(classifier, labels)
    fallen = Blind(pgd(20, 1), directions, 20)(objective, region).margin <= 0
    assert fallen.tolist() == [True, False] * 3
    assert (objective.spent[1::2] == 20 * 41 + 1).all()  # no estimate at the last point


@pytest.mark.parametrize(("norm", "row"), [(2.0, 0), (math.inf, 1)])
def test_hopskipjump_comes_near_the_boundary_and_never_below(norm: float, row: int) -> None:
    classifier, x, labels, exact = _linear()
    found, distance = HopSkipJump(steps=12, goal=-math.inf)(misclassified(classifier, labels), ball(x, 0.0, norm))
    assert (distance >= exact[row] - 1e-12).all()
    assert (distance <= 2 * exact[row] + 0.02).all()
    assert (classifier.predict(found) != labels).all()
    with pytest.raises(ValueError, match="norms"):
        HopSkipJump()(misclassified(classifier, labels), ball(x, 0.1, 1.0))
    with pytest.raises(ValueError, match="range"):
        HopSkipJump()(misclassified(classifier, labels), ball(x, 0.1, 2.0, (-math.inf, math.inf)))


class Corner:
    """A margin that is large but where the image's upper right pixel is bright."""

    def __call__(self, x: Tensor) -> Tensor:
        return 0.5 - x.view(len(x), 4, 4)[:, 0, 3]

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (self(x),) * 2

    def select(self, index: Tensor) -> Corner:
        return self


def test_rotations_and_shifts_do_what_they_say() -> None:
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    change = RotateShift(images)
    still, quarter, down = (
        change(torch.tensor([z] * 2)).view_as(images) for z in ([0.0, 0, 0], [90.0, 0, 0], [0.0, 1, 0])
    )
    assert torch.allclose(still, images, atol=1e-6)
    assert torch.allclose(quarter, images.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
        quarter, images.rot90(-1, (2, 3)), atol=1e-5
    )
    assert torch.allclose(down[:, :, 1:], images[:, :, :3], atol=1e-5)
    assert torch.allclose(down[:, :, 0], torch.zeros(2, 1, 4), atol=1e-6)


@pytest.mark.parametrize("attack", [Grid(each=(9, 3, 3)), Descent(steps=0, restarts=200), pgd(20, 5)])
def test_spatial_attacks_are_attacks_on_parameters(attack: Callable) -> None:
    """The bright pixel is at the upper left, and a quarter turn away from where it must be."""
    images = torch.zeros(3, 1, 4, 4)
    images[:, :, 0, 0] = 1
    change = RotateShift(images)
    z, margin = attack(Through(Corner(), change), change.region(95, 0.2))
    assert change.region(95, 0.2).contains(z).all()
    if not attack.descends or attack.steps == 0:  # at first the slopes are zero
        assert (margin <= 0).all()
    assert torch.allclose(Corner()(change(z)), margin)


def test_grids_have_all_their_points() -> None:
    seen: list[Tensor] = []
    unit = Box(torch.zeros(1, 2), torch.ones(1, 2))
    Grid(each=(3, 2), goal=-math.inf)(
        lambda z: (seen.append(z.clone()), z.sum(1) + 9)[1], Box(torch.zeros(1, 2), torch.ones(1, 2))
    )
    points = {tuple(p) for p in torch.cat(seen).tolist()}
    assert points == {(a, b) for a in (0.0, 0.5, 1.0) for b in (0.0, 1.0)} | {(0.5, 0.5)}
    with pytest.raises(ValueError, match="axes"):
        Grid(each=(3,))(lambda z: z.sum(1), unit)


def test_colours_turn_around_grey() -> None:
    images = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    change = Recolour(images)
    assert torch.allclose(change(change.region(0.2, 0.1, 30).start()), images.flatten(1), atol=1e-6)
    third = change(torch.tensor([[1.0, 0.0, 120.0]] * 2)).view_as(images)
    assert torch.allclose(third, images.roll(1, 1), atol=1e-5) or torch.allclose(third, images.roll(-1, 1), atol=1e-5)
    assert torch.allclose(change(torch.tensor([[0.0, 0.25, 0.0]] * 2)), torch.full((2, 12), 0.75))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_mixtures_share_out_two_budgets(weight: float) -> None:
    """On a linear function the best mixture is the mixture of the best."""
    _, x, _, _ = _linear()
    a, b = ball(x, 0.1, math.inf), ball(x, 0.3, 2.0)

    class Linear:
        def __call__(self, v: Tensor) -> Tensor:
            return (v - x) @ ROWS[0] + 9

        def guide(self, v: Tensor) -> tuple[Tensor, Tensor]:
            return (self(v),) * 2

    region = mixture(a, b, (weight, weight))
    z, margin = pgd(30, 1, goal=-math.inf)(Through(Linear(), Mixed()), region)
    best = 9 - weight * 0.1 * ROWS[0].abs().sum() - (1 - weight) * 0.3 * ROWS[0].norm()
    assert region.contains(z).all()
    assert torch.allclose(margin, best.expand(COUNT), atol=2e-3)
    assert torch.equal(z[:, -1], torch.full_like(z[:, -1], weight))
    # Whose weight is free is at least as strong as the stronger of the two.
    chosen = pgd(30, 1, goal=-math.inf)(Through(Linear(), Mixed()), mixture(a, b)).margin
    stronger = torch.maximum(0.1 * ROWS[0].abs().sum(), 0.3 * ROWS[0].norm())
    assert torch.allclose(chosen, (9 - stronger).expand(COUNT), atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(UNIT, UNIT, UNIT), min_size=1, max_size=9))
def test_mixtures_lie_between_what_they_mix(entries: list[tuple[float, float, float]]) -> None:
    a, b, weight = torch.tensor(entries).T.unsqueeze(-1)
    made = Mixed()(torch.cat([a, b, weight], 1))
    assert (made >= torch.minimum(a, b)).all()
    assert (made <= torch.maximum(a, b)).all()


def test_a_perturbed_image_can_be_turned_besides() -> None:
    images = torch.zeros(2, 1, 4, 4)
    images[:, :, 0, 0] = 0.45  # too dark; with noise bright enough, after a quarter turn
    turn = RotateShift(images).region(95, 0.2)
    region = Joint((ball(images, 0.3), turn))
    z, margin = Descent(steps=10, restarts=100)(Through(Corner(), Warped((1, 4, 4))), region)
    assert region.contains(z).all()
    assert (margin <= 0).all()
    assert isinstance(misclassified(_linear()[0], torch.tensor([0])), Misclassified)
