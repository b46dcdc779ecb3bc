"""Attacks that look for least distances: never below the exact one, near it where it is known, inside the range."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.apgd import AutoPgd
from attacks.base import Result
from attacks.carlini import CarliniWagner
from attacks.catalogue import closest
from attacks.classifier import Classifier, Misclassified, misclassified
from attacks.gradient import pgd
from attacks.least import Bisected, Closest, FromStart, Sparse
from attacks.nearest import Ddn, Fab, Fmn, pulled
from attacks.regions import Ball, ball

SIZE, CLASSES = 12, 4
SEEDS = st.integers(0, 2**31 - 1)


def _linear(seed: int, count: int = 6) -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """A linear classifier, samples far from the range's edge, labels, differences to the other rows (N, C - 1, d)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(CLASSES, SIZE, generator=generator, dtype=torch.float64)
    x = 0.5 + 0.04 * torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    classifier = Classifier(lambda v: (v - x.mean(0)) @ rows.T, (SIZE,))
    labels = classifier.predict(x)
    others = torch.stack([torch.tensor([c for c in range(CLASSES) if c != y]) for y in labels.tolist()])
    return classifier, x, labels, rows[labels, None] - rows[others]


def _exact(x: Tensor, classifier: Classifier, labels: Tensor, apart: Tensor, p: float) -> Tensor:
    z = classifier(x)
    margins = torch.stack([z[i, y] - torch.cat([z[i, :y], z[i, y + 1 :]]) for i, y in enumerate(labels.tolist())])
    dual = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}[p]
    return (margins / apart.norm(p=dual, dim=-1)).amin(1)


EXACT: list[tuple[FromStart, float, float]] = [
    (Ddn(steps=100, goal=-math.inf), 2.0, 1.03),
    (CarliniWagner(steps=240, rounds=6, goal=-math.inf), 2.0, 1.1),
    (CarliniWagner(steps=240, rounds=6, goal=-math.inf), math.inf, 1.4),
    (CarliniWagner(steps=240, rounds=6, goal=-math.inf), 1.0, 1.6),
    (Bisected(AutoPgd(steps=10), rounds=10), 2.0, 1.03),
    (Bisected(AutoPgd(steps=10), rounds=10), math.inf, 1.03),
    (closest(), 1.0, 1.001),
    (closest(), math.inf, 1.001),
]


@pytest.mark.parametrize(("attack", "p", "near"), EXACT)
def test_least_distances_of_linear_classifiers(attack: FromStart, p: float, near: float) -> None:
    classifier, x, labels, apart = _linear(5)
    exact, region = _exact(x, classifier, labels, apart, p), ball(x, 0.0, p)
    found, distance = attack(misclassified(classifier, labels), region)
    assert (distance >= exact - 1e-9).all(), "below the exact distance"
    assert (distance / exact).median() <= near
    assert torch.equal(region.distance(found), distance.double())
    assert (classifier.predict(found) != labels).all()
    again = attack(misclassified(classifier, labels), region)
    assert torch.equal(again.x, found)


class Net(torch.nn.Module):
    """A small network without structure."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = (torch.randn(s, generator=generator, dtype=dtype) for s in ((16, SIZE), (5, 16)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x - 0.5) @ self.first.T) @ self.last.T


def _case(seed: int, dtype: torch.dtype, p: float, radius: float = 0.0) -> tuple[Misclassified, Ball]:
    x = torch.rand(4, SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x[:, :3] = (x[:, :3] > 0.5).to(dtype)  # as images, often at the edge of the range
    classifier = Classifier(Net(dtype), (SIZE,))
    return misclassified(classifier, classifier.predict(x)), ball(x, radius, p)


ATTACKS = st.sampled_from(
    [
        (Ddn(steps=15), 2.0),
        (CarliniWagner(steps=30, rounds=3), 2.0),
        (CarliniWagner(steps=30, rounds=3), 1.0),
        (CarliniWagner(steps=30, rounds=3), math.inf),
        (Bisected(pgd(5, 2), rounds=4), math.inf),
        (Bisected(pgd(5, 2), rounds=4), 1.0),
        (Sparse(Ddn(steps=15), rounds=3), 0.0),
        (Sparse(CarliniWagner(steps=30, rounds=3), rounds=2), 0.0),
        (Closest((Fab(steps=10, nearest_row=True, goal=-math.inf), Ddn(steps=10, goal=-math.inf))), 2.0),
    ]
)


@settings(max_examples=15, deadline=None)
@given(ATTACKS, SEEDS, st.sampled_from((torch.float32, torch.float64)))
def test_successes_are_in_the_range_at_the_distance_that_is_said_and_fool_the_model(
    case: tuple[FromStart, float], seed: int, dtype: torch.dtype
) -> None:
    attack, p = case
    objective, region = _case(seed, dtype, p)
    if hasattr(attack, "seed"):
        attack = dataclasses.replace(attack, goal=-math.inf)
    found, distance = attack(objective, region)
    assert found.dtype == dtype
    assert ((found >= 0) & (found <= 1)).all()
    done = distance.isfinite()
    assert torch.equal(region.distance(found)[done].to(dtype), distance[done])
    assert (objective(found)[done] <= 0).all()
    larger = region.resized(region.distance(found))
    assert larger.contains(found).all()


@settings(max_examples=10, deadline=None)
@given(ATTACKS, SEEDS)
def test_with_a_radius_a_success_lies_inside(case: tuple[FromStart, float], seed: int) -> None:
    attack, p = case
    objective, region = _case(seed, torch.float32, p, {0.0: 4.0, 1.0: 1.0, 2.0: 0.4, math.inf: 0.15}[p])
    found, margin = attack(objective, region)
    fallen = margin <= 0
    assert torch.equal(region.contains(found)[fallen], fallen[fallen])
    assert (objective(found)[fallen] <= 0).all()


@pytest.mark.parametrize(
    ("attack", "p"),
    [(Ddn(steps=20), 2.0), (CarliniWagner(steps=40, rounds=2), 2.0), (Sparse(Ddn(steps=10), rounds=2), 0.0),
     (Bisected(AutoPgd(steps=8), rounds=5), math.inf)],
)  # fmt: skip
def test_a_result_does_not_depend_on_the_rest_of_the_batch(attack: FromStart, p: float) -> None:
    objective, region = _case(3, torch.float64, p)
    if isinstance(attack, Ddn | CarliniWagner):
        attack = dataclasses.replace(attack, goal=-math.inf)
    together = attack(objective, region)
    for i in range(len(region)):
        index = torch.tensor([i])
        alone = attack(objective.select(index), region.select(index))
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-9)
        assert torch.allclose(alone.margin[0], together.margin[i], atol=1e-9)


def test_the_closest_of_several_is_no_farther_than_any_and_begins_where_they_ended() -> None:
    objective, region = _case(8, torch.float64, 2.0)
    members = (Fab(steps=20, nearest_row=True, goal=-math.inf), Fmn(steps=30, goal=-math.inf))
    whole = Closest(members)(objective, region)
    assert (whole.margin <= members[0](objective, region).margin).all()
    seen: list[tuple[Tensor, Tensor]] = []

    def watching(objective: Misclassified, near: Ball, start: Tensor | None = None) -> Result:
        seen.append((near.distance(start), near.radius))
        return Result(near.center.clone(), torch.zeros(len(near)))  # a lie: the centres are right

    again = Closest((members[0], watching))(objective, region)
    assert torch.equal(*seen[0])
    assert torch.equal(again.margin, members[0](objective, region).margin)


@pytest.mark.parametrize("p", [math.inf, 2.0, 1.0, 0.0])
def test_a_success_pulled_to_the_centre_stays_one_and_comes_nearer(p: float) -> None:
    objective, region = _case(2, torch.float64, p)
    noise = torch.rand(200, 4, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = next(point for point in noise if bool((objective(point) <= 0).all()))
    near = pulled(objective, region, x)
    assert (objective(near) <= 0).all()
    assert (region.distance(near) <= region.distance(x)).all()
    assert (region.distance(near) < region.distance(x)).any()


def test_few_entries_are_found_where_few_suffice() -> None:
    """One of two entries turns the class alone; the gradient is spread over all."""
    weight = torch.full((SIZE,), 0.3, dtype=torch.float64)
    weight[4] = 2.0
    classifier = Classifier(lambda v: torch.stack([1.7 - v @ weight, v @ weight], 1), (SIZE,))
    x = torch.zeros(1, SIZE, dtype=torch.float64)
    found, count = Sparse(Ddn(steps=40))(misclassified(classifier, torch.tensor([0])), ball(x, 0.0, 0.0))
    assert count.tolist() == [1.0]
    assert found.nonzero()[:, 1].tolist() == [4]


def test_what_does_not_fit_is_refused() -> None:
    objective, region = _case(0, torch.float32, 1.0)
    with pytest.raises(ValueError, match="norm 2"):
        Ddn()(objective, region)
    with pytest.raises(ValueError, match="Sparse"):
        CarliniWagner()(*_case(0, torch.float32, 0.0))
    endless = ball(region.center, 0.0, 2.0, (-math.inf, math.inf))
    with pytest.raises(ValueError, match="begin with"):
        Bisected(pgd())(objective, endless)
    found, margin = CarliniWagner(steps=60, rounds=3, goal=-math.inf)(objective, endless)
    assert (objective(found)[margin.isfinite()] <= 0).all()
    assert margin.isfinite().any()
