"""Transfer, limits on queries, attacks by name, and several threats at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.averaged import Expected
from attacks.base import Attack, Result
from attacks.boundary import HopSkipJump
from attacks.catalogue import BLIND, GRADIENTS, NAMES, NEAREST, PARAMETERS, by_name, by_name_of_parameters
from attacks.change import Recolour, RotateShift
from attacks.classifier import Classifier, misclassified, untargeted_margin
from attacks.diagnostics import diagnose
from attacks.ensemble import Ensemble, Plain
from attacks.gradient import pgd
from attacks.query import Blind, Budgeted, Limited, RandomSearch
from attacks.regions import ball
from attacks.square import Square
from attacks.threats import Around, Changed, under_all
from attacks.transfer import Committee, Transfer

SHAPE, SIZE = (3, 3, 3), 27
ROWS = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0))


def _case(count: int = 8) -> tuple[Classifier, Tensor, Tensor]:
    """A classifier of images with a bend, images, and their labels."""
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    classifier = Classifier(lambda v: torch.tanh((v.flatten(1) - 0.5) @ ROWS.T), SHAPE)
    return classifier, images, classifier.predict(images)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("transfer", "autoattack", "quick", *NEAREST)])
def test_attacks_by_name_find_points_inside_that_are_asked_again(name: str) -> None:
    classifier, images, labels = _case()
    region = ball(images, 0.25)
    queries = 60 if name in BLIND else None
    outcome = by_name(name, SHAPE, queries, seed=3)(classifier, region, labels)
    assert region.contains(outcome.x).all()
    assert torch.equal(classifier.predict(outcome.x) != labels, outcome.fooled)
    again = by_name(name, SHAPE, queries, seed=3)(classifier, region, labels)
    assert torch.equal(again.x, outcome.x)
    assert outcome.fooled.any() or name in BLIND
    if queries is not None:
        assert (outcome.queries <= queries + 2).all()  # and the two that the ensemble asks itself


@pytest.mark.parametrize(("name", "p"), [(n, 0.0 if n == "cw-l0" else 2.0) for n in NEAREST])
def test_attacks_for_near_points_by_name(name: str, p: float) -> None:
    classifier, images, labels = _case(3)
    region = ball(images, 9.0 if p == 0 else 1.0, p)
    outcome = by_name(name, SHAPE, **({"steps": 20} if name == "cw-l0" else {}))(classifier, region, labels)
    assert outcome.fooled.any()
    assert region.contains(outcome.x).all()
    assert torch.equal(classifier.predict(outcome.x) != labels, outcome.fooled)


def test_names_and_options_that_do_not_fit_are_refused() -> None:
    for name, queries, match in (("apdg", None, "apgd-ce"), ("pgd", 5, "square"), ("transfer", None, "surrogate")):
        with pytest.raises(ValueError, match=match):
            by_name(name, SHAPE, queries)
    with pytest.raises(ValueError, match="surrogate"):
        by_name("pgd", SHAPE, surrogates=(_case()[0],))
    for name in ("square", "fab", "autoattack"):
        with pytest.raises(ValueError, match="grid"):
            by_name_of_parameters(name, (3, 3, 3))
    assert set(GRADIENTS) | set(NEAREST) | set(BLIND) < set(NAMES)


LIMITED = st.sampled_from(
    [
        Plain(RandomSearch(steps=40)),
        Plain(RandomSearch(steps=6, restarts=5)),
        Plain(Square(steps=40, shape=SHAPE)),
        Blind(pgd(9, 1), queries=3),
        HopSkipJump(steps=6, first=8),
    ]
)


@settings(max_examples=30, deadline=None)
@given(LIMITED, st.integers(1, 45), st.integers(0, 5))
def test_no_sample_is_asked_about_more_often_than_allowed(attack: Attack, queries: int, before: int) -> None:
    classifier, images, labels = _case(5)
    objective = misclassified(classifier, labels)
    objective.spent[2] = before
    region = ball(images, 0.05, math.inf)
    found, margin = Budgeted(attack, queries)(objective, region)
    assert int(objective.spent.max()) <= max(queries, before)
    assert int(objective.spent.sum()) - before == classifier.asked - len(images)
    fallen = margin <= 0
    assert (classifier.predict(found) != labels)[fallen].all()
    assert region.contains(found)[fallen].all()
    assert not margin.isnan().any()


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    classifier, images, labels = _case()
    region, attack = ball(images, 0.1), Square(steps=30, shape=SHAPE, seed=4)
    free = attack(misclassified(classifier, labels), region)
    limited = attack(Limited(misclassified(classifier, labels), 1000), region)
    assert torch.equal(free.x, limited.x)
    assert torch.equal(free.margin, limited.margin)


def test_what_misleads_a_relative_is_tried_once_each() -> None:
    classifier, images, labels = _case(12)
    near = Classifier(lambda v: (v.flatten(1) - 0.5) @ (ROWS + 0.1 * ROWS.roll(1, 0)).T, SHAPE)
    useless = Classifier(lambda v: 0 * v.flatten(1)[:, :3], SHAPE)
    region = ball(images, 0.12)
    objective = misclassified(classifier, labels)
    found, margin = Transfer((useless, near))(objective, region)
    assert (margin <= 0).sum() >= 4
    assert region.contains(found).all()
    assert torch.equal(classifier.predict(found) != labels, margin <= 0)
    assert int(objective.spent.max()) <= 3, "the committee's, and one for each surrogate"
    assert int(objective.spent.min()) >= 1
    outcome = by_name("transfer", SHAPE, surrogates=(near,))(classifier, region, labels)
    assert torch.equal(outcome.fooled, margin <= 0)
    with pytest.raises(ValueError, match="surrogate"):
        Transfer(())


def test_a_committee_answers_with_the_mean() -> None:
    x = torch.rand(4, 5)
    one, two = (lambda v: 2 * v), (lambda v: -v)
    mean = (one(x).log_softmax(1) + two(x).log_softmax(1)) / 2
    assert torch.allclose(Committee((one, two))(x), mean)


def test_a_model_that_only_falls_to_others_points_is_warned_of() -> None:
    classifier, images, labels = _case(12)
    masked = Classifier(lambda v: classifier.model((v * 64).round() / 64), SHAPE)
    names = {c.name for c in diagnose(masked, ball(images, 0.08), labels, surrogates=(classifier,))}
    assert "transfer-wins" in names
    assert "transfer-wins" not in {c.name for c in diagnose(classifier, ball(images, 0.08), labels, 0, (masked,))}


@pytest.mark.parametrize("name", ["quick", *PARAMETERS, "pgd", "nes"])
@pytest.mark.parametrize("kind", ["spatial", "colour"])
def test_parameters_are_attacked_by_name(name: str, kind: str) -> None:
    classifier, images, labels = _case(5)
    change = RotateShift(images) if kind == "spatial" else Recolour(images)
    region = change.region(40.0, 1.0) if kind == "spatial" else change.region(0.5, 0.3, 90.0)
    attack = by_name_of_parameters(name, (5, 3, 3), 110 if name == "nes" else None)
    threat = Changed(change, region, attack)
    outcome = threat(classifier, labels)
    assert region.contains(outcome.x).all()
    assert torch.equal(classifier.predict(threat.inputs(outcome.x)) != labels, outcome.fooled)
    assert outcome.fooled.any() or name == "nes"
    assert (outcome.queries >= 1).all()


def test_a_union_is_as_bad_as_its_worst_part_for_each_sample() -> None:
    classifier, images, labels = _case()
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 3
    change = RotateShift(images)
    attack = Ensemble({"pgd": Plain(pgd(10, 1), untargeted_margin)})
    threats = {
        "near": Around(ball(images, torch.where(torch.arange(8) < 4, 0.3, 1e-4)), attack),
        "turned": Changed(change, change.region(30, 1), by_name_of_parameters("grid", (5, 3, 3))),
    }
    union = under_all(threats, classifier, labels)
    assert torch.equal(union.fooled, union.outcomes["near"].fooled | union.outcomes["turned"].fooled)
    assert union.by[0] == "clean"
    for i, name in enumerate(union.by):
        first = next((key for key, outcome in union.outcomes.items() if outcome.fooled[i]), "")
        assert name in (first, "clean")
    assert (classifier.predict(union.x) != labels).equal(union.fooled)
    stands = union.accuracy()
    assert stands["union"] <= min(stands["near"], stands["turned"])
    assert not union.outcomes["near"].fooled[5:].any()
    assert {"near", "turned"} <= set(union.by)
    with pytest.raises(ValueError, match="threat"):
        under_all({}, classifier, labels)


def test_random_models_are_attacked_through_their_mean() -> None:
    """The answers flip with probability 0.2; the mean of many tells which way is down."""
    classifier, images, labels = _case()
    generator = torch.Generator().manual_seed(5)

    def random(v: Tensor) -> Tensor:
        return classifier.model(v) * (2 * (torch.rand(len(v), 1, generator=generator) > 0.2) - 1)

    mean = Classifier(Expected(random, 60), SHAPE)
    region = ball(images, 0.25)
    sure = pgd(10, 1)(misclassified(classifier, labels), region).margin <= 0
    found: Result = pgd(10, 1)(misclassified(mean, labels), region)
    assert (classifier.predict(found.x) != labels)[sure].float().mean() > 0.7


def test_half_precision_is_refused_where_images_are_changed() -> None:
    images = _case(2)[1].half()
    for change in (RotateShift, Recolour):
        with pytest.raises(ValueError, match="float32"):
            change(images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("transfer", "autoattack", "cw-l0")])
def test_attacks_run_on_a_gpu(name: str) -> None:
    _, images, labels = _case()
    rows, images, labels = ROWS.cuda(), images.cuda(), labels.cuda()
    classifier = Classifier(lambda v: torch.tanh((v.flatten(1) - 0.5) @ rows.T), SHAPE)
    region = ball(images, 1.0, 2.0)
    outcome = by_name(name, SHAPE, 60 if name in BLIND else None)(classifier, region, classifier.predict(images))
    assert region.contains(outcome.x).all()
    assert outcome.x.is_cuda
