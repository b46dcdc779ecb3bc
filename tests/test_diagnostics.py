"""Models with a known flaw are warned of by its name; one without is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attacks.averaged import Expected, Smoothed
from attacks.classifier import Classifier
from attacks.diagnostics import REMEDIES, diagnose
from attacks.regions import ball

SIZE, CLASSES, COUNT = 12, 4, 10
WEIGHT = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(0))


def _plain(x: Tensor) -> Tensor:
    return (x - 0.5) @ WEIGHT.T


def _names(model: Callable[[Tensor], Tensor], radius: float = 0.05) -> set[str]:
    x = torch.rand(COUNT, SIZE, generator=torch.Generator().manual_seed(1))
    classifier = Classifier(model, (SIZE,))
    found = diagnose(classifier, ball(x, radius), _plain(x).argmax(1))
    assert all(str(caution).startswith(caution.name) and caution.name in REMEDIES for caution in found)
    return {caution.name for caution in found}


def test_a_sound_model_is_not_warned_of() -> None:
    assert not _names(_plain)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda x: _plain(x) + 1e-4 * torch.rand(len(x), CLASSES), "random-answers"),
        (lambda x: _plain(x.detach()), "no-gradient"),
        (lambda x: _plain((x * 16).round() / 16), "zero-gradients"),
        (lambda x: _plain(x) + 0 * (x[:, :1] - x[:, :1]).sqrt(), "broken-gradients"),
        (lambda x: 1000 * _plain(x), "saturated-logits"),
        (lambda x: _plain(x) + 1e-3 * torch.sin(1e5 * x[:, :CLASSES]), "shattered-gradients"),
        (lambda x: _plain((x * 16).round() / 16), "far-is-not-enough"),
        (lambda x: _plain((x * 16).round() / 16), "black-box-wins"),
        (lambda x: _plain((x * 16).round() / 16), "steps-do-not-pay"),
    ],
)
def test_flaws_are_named(model: Callable[[Tensor], Tensor], name: str) -> None:
    assert name in _names(model, 0.15)


def test_averages_are_those_of_what_they_average() -> None:
    x = torch.rand(3, SIZE, generator=torch.Generator().manual_seed(2))
    answers = iter(torch.arange(4.0))
    mean = Expected(lambda v: _plain(v) + next(answers), 4)(x)
    assert torch.allclose(mean, _plain(x) + 1.5)
    smoothed = Smoothed(_plain, 0.5, draws=50, seed=3)(x)
    noise = torch.randn(50, SIZE, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(smoothed.softmax(1), _plain(x[:, None] + 0.5 * noise).softmax(2).mean(1), atol=1e-6)
