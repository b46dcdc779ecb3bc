"""The loop: what a plan makes of data, the same every time, and in a file that certify reads."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import certify
from certify.errors import BadOption, UnsupportedOp
from models import data, zoo
from models.data import Data
from training import IBP, SGD, Adam, Adversarial, CrownIBP, Gaussian, Plan, Standard, train
from training.run import Diverged, batched
from training.schedule import Constant, Linear, Smooth, Steps

NET = zoo.Description("mlp", {"shape": [1, 2, 2], "classes": 2, "hidden": [8]})
PLAN = Plan(Standard(), 0.05, epochs=3, batch=32, optimiser=Adam(0.02), validation=0.2)


def halves(count: int = 200) -> Data:
    """Images of four pixels: is the upper half brighter than the lower?"""
    x = np.random.default_rng(0).random((count, 1, 2, 2), dtype=np.float32)
    y = (x[:, 0, 0].sum(1) > x[:, 0, 1].sum(1)).astype(np.int64)
    return Data(x, y, x[:50], y[:50])


@pytest.mark.parametrize("method", [Standard(), Gaussian(0.05), Adversarial(), IBP(), CrownIBP()])
def test_a_method_learns(method):
    state = torch.random.get_rng_state()
    heard = []
    trained = train(NET, halves(), replace(PLAN, method=method, epochs=6), each_epoch=heard.append)
    assert torch.equal(state, torch.random.get_rng_state())
    assert heard == list(trained.history)
    assert [e.epoch for e in heard] == [1, 2, 3, 4, 5, 6]
    last = heard[-1]
    assert last.clean >= 0.85
    assert last.bounded <= last.attacked <= last.clean
    assert last.radius == 0.05
    assert not trained.network.training
    if isinstance(method, IBP | CrownIBP):
        assert last.bounded >= 0.6


def test_the_same_plan_gives_the_same_weights_and_another_seed_others():
    plan = replace(PLAN, method=Adversarial())
    one, two, other = (train(NET, halves(), p).network for p in (plan, plan, replace(plan, seed=1)))
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_is_saved_is_what_certify_verifies(tmp_path):
    samples = halves()
    trained = train(NET, samples, replace(PLAN, method=IBP(), epochs=6, epsilon=0.03))
    card = trained.save(tmp_path / "m.safetensors", data=samples, data_name="halves")
    assert card.epsilon == 0.03
    assert card.method == "IBP"
    assert "epochs=6" in card.notes["plan"]
    network = zoo.load_file(tmp_path / "m.safetensors")
    clear = int(np.abs(samples.x_test[:, 0, 0].sum(1) - samples.x_test[:, 0, 1].sum(1)).argmax())
    region = certify.ball(samples.x_test[clear], 0.03, within=(0, 1))
    verdict = certify.verify(network, region, certify.robust(int(samples.y_test[clear]), classes=2), timeout=20)
    assert verdict.name == "verified"


def test_plans_and_data_that_cannot_be_followed_are_refused():
    with pytest.raises(BadOption, match="epochs"):
        replace(PLAN, epochs=0)
    with pytest.raises(BadOption, match="batch below it"):
        replace(PLAN, batch=10**25)
    with pytest.raises(BadOption, match="seed"):
        replace(PLAN, seed=2**60)
    with pytest.raises(BadOption, match="not huge"):
        replace(PLAN, epsilon=1e300)
    samples = halves()
    with pytest.raises(BadOption, match="device 'gpu' cannot be used"):
        train(NET, samples, replace(PLAN, device="gpu"))
    for share in (0.0, 1e-9):
        with pytest.raises(BadOption, match="nothing is kept aside"):
            train(NET, samples, replace(PLAN, validation=share, patience=1))
    with pytest.raises(BadOption, match="none is left"):
        train(NET, samples, replace(PLAN, validation=0.999))
    with pytest.raises(BadOption, match="no training data"):
        train(NET, Data(samples.x_train[:0], samples.y_train[:0], samples.x_test, samples.y_test), PLAN)


def test_a_diverged_run_says_so():
    with pytest.raises(BadOption, match="diverged in epoch"):
        train(NET, halves(), replace(PLAN, optimiser=SGD(1e30), clip=1e30, epochs=8))


def test_weights_that_the_last_step_ruined_are_no_result():
    with pytest.raises(Diverged, match="epoch 1: there are weights that are no numbers"):
        train(NET, halves(), replace(PLAN, optimiser=SGD(1e300, 0.0, 0.0), epochs=1, batch=200))


@pytest.mark.parametrize("numbers", [(-0.1,), (math.nan,), (math.inf,), (0.1, -1.0), (0.1, math.nan), (0.1, math.inf)])
def test_optimisers_of_impossible_numbers_are_refused(numbers):
    for kind in (Adam, SGD):
        with pytest.raises(BadOption, match="nothing is optimised"):
            kind(*numbers)
    with pytest.raises(BadOption, match="nothing is optimised"):
        SGD(0.1, 0.9, -1.0)


def test_sgd_trains_too():
    assert train(NET, halves(), replace(PLAN, optimiser=SGD(0.2), epochs=8)).history[-1].clean >= 0.85


def test_schedules():
    assert [Linear(1.0, 0.5, 0.2, 0.6)(p) for p in (0, 0.2, 0.4, 0.6, 1)] == [1, 1, 0.75, 0.5, 0.5]
    smooth = Smooth(0.1, 0.9)
    values = [smooth(i / 100) for i in range(101)]
    assert values == sorted(values)
    assert (values[0], values[10], values[90], values[100]) == (0, 0, 1, 1)
    joint = 0.1 + 0.8 * 0.25
    left, right = smooth(joint) - smooth(joint - 1e-6), smooth(joint + 1e-6) - smooth(joint)
    assert left == pytest.approx(right, rel=1e-3)  # no kink where power and line meet
    assert [Steps((0.5, 0.9), 0.1)(p) for p in (0, 0.5, 0.95)] == pytest.approx([1, 0.1, 0.01])
    assert Steps((), warm=0.1)(0.05) == pytest.approx(0.5, abs=0.02)
    assert Constant(3.0)(0.3) == 3


def test_the_missing_file_is_named_with_its_sha256(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "other").touch()
    with pytest.raises(data.MissingData, match="sha256 is ba891046e650"):
        data.load("mnist", tmp_path)


def test_a_network_without_bounds_is_trained_and_nothing_of_it_is_bounded():
    vit = zoo.Description("vit", {"shape": [1, 2, 2], "classes": 2, "patch": 1, "width": 4, "heads": 2})
    trained = train(vit, halves(), replace(PLAN, method=Adversarial(), epochs=10))
    assert trained.history[-1].clean >= 0.75
    assert trained.history[-1].bounded == 0
    with pytest.raises(UnsupportedOp, match="Embedding"):
        train(vit, halves(), replace(PLAN, method=IBP()))


@given(st.integers(1, 40), st.integers(1, 12))
def test_batches_hold_every_sample_once_and_none_but_an_only_one_is_single(count, size):
    batches = batched(torch.arange(count), size)
    assert torch.cat(batches).tolist() == list(range(count))
    assert all(len(b) == size for b in batches[:-1])
    assert len(batches[-1]) <= size + (size > 1)
    assert size == 1 or count == 1 or min(len(b) for b in batches) > 1


def test_batch_normalisation_trains_where_one_sample_is_left_over():
    net = zoo.Description("convnet", {"shape": [1, 2, 2], "classes": 2, "convolutions": [[2, 2, 1, 0]], "hidden": [4],
                                      "batch_norm": True})  # fmt: skip
    assert train(net, halves(33), replace(PLAN, epochs=1, validation=0.0)).finished
