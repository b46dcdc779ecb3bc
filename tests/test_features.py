"""Moving images to what a model sees in them, on linear models, where the answer is known."""

from __future__ import annotations

import torch

from attacks.classifier import Classifier
from attacks.features import mislabelled, robustified, toward_class, toward_feature
from attacks.regions import ball

ROWS = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
X = 0.4 + 0.2 * torch.rand(5, 9, generator=torch.Generator().manual_seed(1))


def _model(x: torch.Tensor) -> torch.Tensor:
    return (x - 0.5) @ ROWS.T


def test_a_direction_is_followed_to_the_edge() -> None:
    found = toward_feature(_model, ball(X, 0.2, 2.0), torch.eye(4)[1])
    assert torch.allclose(found, X + 0.2 * ROWS[1] / ROWS[1].norm(), atol=1e-4)


def test_images_become_those_of_another_class() -> None:
    classifier, region = Classifier(_model, (9,)), ball(X, 3.0, 2.0)
    targets = (classifier.predict(X) + 1) % 4
    assert torch.equal(classifier.predict(toward_class(classifier, region, targets)), targets)
    found, given = mislabelled(classifier, region, classifier.predict(X))
    assert torch.equal(classifier.predict(found), given)
    assert (given != classifier.predict(X)).all()
    assert region.contains(found).all()


def test_features_of_other_images_are_taken_on() -> None:
    images = X.flip(0)
    found = robustified(_model, images, ball(X, 2.0, 2.0))
    assert (_model(found) - _model(images)).norm() < 0.3 * (_model(X) - _model(images)).norm()
