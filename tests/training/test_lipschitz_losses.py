"""Losses over layers of constant 1: bounds of the worst case, gradients, and networks that certify reads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import certify
from certify.errors import BadOption
from models import data, nets, zoo
from models.lipschitz import MaxMin, NormalisedLinear, OrthogonalLinear, SllLinear, pair_constants
from tests.training.nets import small
from tests.training.test_certified import worst_loss
from training import Adam, Ball, LipschitzBound, LipschitzMargin, Moment, Plan, train
from training.evaluate import scores


def tight(seed: int, last: type[nn.Module] = OrthogonalLinear) -> nn.Module:
    """A network of constant 1 in float64, from inputs (4,) to three logits."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        OrthogonalLinear(4, 8), MaxMin(), SllLinear(8, 6), OrthogonalLinear(8, 6), nn.ReLU(), last(6, 3)
    )
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return network.double()


def samples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (5,), generator=generator)


@pytest.mark.parametrize("last", [OrthogonalLinear, NormalisedLinear])
@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_the_bound_is_no_less_than_the_worst_case(last, norm):
    for seed in range(4):
        network, (x, y) = tight(seed, last).requires_grad_(False), samples(seed)
        region = Ball(x, 0.3, norm)
        assert worst_loss(network, region, y) <= float(LipschitzBound(1.0)(network, region, y, Moment())) + 1e-9
        at_zero = LipschitzBound(1.0)(network, Ball(x, 0.0, norm), y, Moment())
        assert float(at_zero) == pytest.approx(float(cross_entropy(network(x), y)))


def test_the_bound_is_attained_by_a_linear_network():
    network, (x, y) = tight(0)[-1:], samples(0)
    x = torch.rand(5, 6, dtype=torch.float64)
    region = Ball(x, 0.1, 2.0, low=-9.0, high=9.0)
    margins = network(x) - network(x).gather(1, y[:, None])
    found = -LipschitzBound(1e-3)(network, region, y, Moment())  # almost a maximum
    worst = []
    for i in range(5):
        rows = network[0].weight - network[0].weight[y[i]]
        steps = 0.1 * rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)
        logits = network(x[i] + steps)
        worst.append(max(0.0, float((logits.diagonal() - logits[:, y[i]]).max())))
    assert -float(found) == pytest.approx(sum(worst) / 5, abs=2e-3)
    assert margins.shape == (5, 3)


@pytest.mark.parametrize("method", [LipschitzBound(), LipschitzMargin()])
def test_gradients_agree_with_finite_differences(method):
    network, (x, y) = tight(3), samples(3)
    weights = list(network.parameters())
    direction = [torch.randn_like(p) for p in weights]
    gradient = torch.autograd.grad(method(network, Ball(x, 0.2, 2.0), y, Moment()), weights, allow_unused=True)
    expected = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True) if g is not None)
    values = []
    for h in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p += h * d
            values.append(float(method(network, Ball(x, 0.2, 2.0), y, Moment())))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)


def test_other_networks_are_refused():
    x, y = samples(0)
    network = nn.Sequential(nn.Linear(4, 3)).double()
    assert pair_constants(network) is None
    assert pair_constants(small("mlp", 0)) is None
    for method in (LipschitzBound(), LipschitzMargin()):
        with pytest.raises(BadOption, match="Lipschitz constant 1"):
            method(network, Ball(x, 0.1, 2.0), y, Moment())


def test_what_is_trained_is_certified_by_its_constant(tmp_path):
    digits = data.load("digits")
    description = zoo.Description("lipschitz-mlp", {"shape": [1, 8, 8], "classes": 10, "hidden": [32]})
    plan = Plan(LipschitzBound(), 0.25, 2.0, epochs=4, batch=64, optimiser=Adam(1e-2), validation=0.1)
    trained = train(description, digits, plan)
    assert trained.history[-1].bounded >= 0.6
    assert trained.history[-1].bounded <= trained.history[-1].attacked
    trained.save(tmp_path / "m.safetensors", data=digits, data_name="digits")
    network = zoo.load_file(tmp_path / "m.safetensors")
    assert not any(isinstance(layer, OrthogonalLinear) for layer in network)
    regions = [certify.ball(x, 0.2, 2.0, within=(0, 1)) for x in digits.x_test[:12]]
    labels = [certify.robust(int(y), classes=10) for y in digits.y_test[:12]]
    strategy = certify.Strategy(method=certify.Method.LIPSCHITZ)
    verdicts = [v.name for v in certify.verify(network, regions, labels, strategy=strategy, timeout=20)]
    x, y = torch.from_numpy(digits.x_test[:12]), torch.from_numpy(digits.y_test[:12])
    assert verdicts.count("verified") >= 6
    assert scores(network, x, y, 0.2, 2.0).attacked * 12 >= verdicts.count("verified") - 1e-3


@pytest.mark.parametrize("name", ["lipschitz-mlp", "lipschitz-cnn"])
def test_data_statistics_do_not_enter_networks_of_constant_1(name):
    assert not {"mean", "std"} & set(nets.describe(name, data.load("digits")).arguments)
