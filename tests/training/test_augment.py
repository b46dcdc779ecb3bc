"""Changed training images are those that the words describe; the penalty is the gradient of what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.change import RotateShift
from certify.errors import BadOption
from models import zoo
from models.data import Data
from tests.training.test_loop import NET, PLAN, halves
from training import SGD, Augment, train
from training.augment import moved, parse, written


def images(count: int = 6, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.rand(count, 2, height, width, generator=torch.Generator().manual_seed(1))


@given(st.integers(1, 4), st.integers(0, 99))
def test_a_crop_is_a_window_of_the_padded_image(pixels, seed):
    torch.manual_seed(seed)
    x = images()
    out = Augment(pixels=pixels)(x)
    padded = nn.functional.pad(x, (pixels,) * 4)
    for image, around in zip(out, padded, strict=True):
        windows = around.unfold(1, 5, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4)
        assert (windows == image).flatten(2).all(-1).any()


def test_every_window_comes_up_as_often_as_another():
    torch.manual_seed(0)
    x = torch.arange(9.0).view(1, 1, 3, 3).expand(9000, -1, -1, -1) + 1
    centres = Augment(pixels=1)(x)[:, 0, 1, 1].long()
    counts = torch.bincount(centres, minlength=10)[1:].double()
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000)).all(), counts


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_mirrored_images(share):
    torch.manual_seed(0)
    x = images(1).expand(2000, -1, -1, -1)
    out = Augment(mirror=share)(x)
    flipped = (out == x.flip(3)).flatten(1).all(1)
    assert ((out == x).flatten(1).all(1) | flipped).all()
    assert flipped.double().mean() == pytest.approx(share, abs=0.06)


@given(st.floats(0, 3), st.floats(0, 60), st.integers(0, 99))
def test_movements_are_those_of_the_attack(pixels, degrees, seed):
    x = images()
    torch.manual_seed(seed)
    out = moved(x, pixels, degrees)
    torch.manual_seed(seed)
    angle, across, down = torch.empty(3, len(x)).uniform_(-1, 1)
    parameters = torch.stack([angle * degrees, -down * pixels, -across * pixels], 1)
    reference = RotateShift(x)(parameters).view_as(x)
    assert torch.allclose(out, reference, atol=1e-4)


def test_a_stretch_is_by_the_factor_it_says():
    x = torch.zeros(200, 1, 41, 41)
    x[:, :, 10:31, 10:31] = 1  # 21 pixels wide
    torch.manual_seed(0)
    sides = moved(x, 0, 0, 0.25).sum((1, 2, 3)).sqrt() / 21
    assert sides.min() >= 0.75 - 0.01
    assert sides.max() <= 1.25 + 0.01
    assert sides.min() < 0.8
    assert sides.max() > 1.2


def test_nothing_is_changed_by_nothing():
    x = images()
    assert torch.equal(Augment()(x), x)
    assert torch.allclose(moved(x, 0, 0), x, atol=1e-5)


AMOUNTS = st.floats(0, 0.99)


@given(st.integers(0, 9).map(float), AMOUNTS, AMOUNTS, AMOUNTS)
def test_what_is_written_is_read_again(pixels, degrees, stretch, mirror):
    augment = Augment(pixels, degrees, stretch, mirror)
    assert parse(written(augment)) == augment


@pytest.mark.parametrize(
    "make",
    [
        lambda: Augment(pixels=-1),
        lambda: Augment(pixels=0.5),
        lambda: Augment(pixels=math.nan),
        lambda: Augment(degrees=math.inf),
        lambda: Augment(degrees=1e39),
        lambda: Augment(stretch=math.nan),
        lambda: Augment(mirror=math.nan),
        lambda: Augment(pixels=5)(images()),  # whose height is 5
        lambda: Augment(pixels=1e300)(images()),
        lambda: Augment(stretch=1.0),
        lambda: Augment(mirror=1.5),
        lambda: Augment(pixels=1)(torch.rand(3, 4)),
        lambda: moved(torch.rand(3, 4), 1.0, 1.0),
        lambda: parse("pixel=1"),
        lambda: parse("pixels=much"),
        lambda: replace(PLAN, l1=-1.0),
        lambda: replace(PLAN, l1=math.nan),
        lambda: replace(PLAN, l1=1e39),
    ],
)
def test_changes_that_are_none_are_refused(make):
    with pytest.raises(BadOption):
        make()


def test_samples_that_are_no_images_are_refused_before_the_first_step():
    rows = Data(*(np.zeros((20, 4), np.float32), np.zeros(20, np.int64)) * 2)
    net = zoo.Description("mlp", {"shape": [4], "classes": 2, "hidden": [3]})
    with pytest.raises(BadOption, match="only images"):
        train(net, rows, replace(PLAN, augment=Augment(pixels=1)))


def test_changed_images_differ_from_epoch_to_epoch_and_the_seed_decides():
    plan = replace(PLAN, augment=Augment(mirror=0.5))
    one, two, plain = (train(NET, halves(), p).network for p in (plan, plan, PLAN))
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), plain.parameters(), strict=True))


def test_the_penalty_is_the_gradient_of_the_absolute_weights():
    samples = halves(32)
    plan = replace(PLAN, optimiser=SGD(0.1, 0.0, 0.0), epochs=1, batch=32, validation=0.0, clip=1e9, l1=0.3)
    begun = train(NET, samples, replace(plan, optimiser=SGD(0.0, 0.0, 0.0))).network.requires_grad_(True)
    ended = train(NET, samples, replace(plan, optimiser=SGD(0.1, 0.0, 0.0), pace=_one)).network
    x, y = torch.from_numpy(samples.x_train), torch.from_numpy(samples.y_train)
    weights = [w for w in begun.parameters() if w.dim() > 1]
    (cross_entropy(begun(x), y) + 0.3 * sum(w.abs().sum() for w in weights)).backward()
    for before, after in zip(begun.parameters(), ended.parameters(), strict=True):
        assert torch.allclose(before - 0.1 * before.grad, after, atol=1e-5)


def _one(progress: float) -> float:
    return 1.0
