"""What a GPU computes is what the processor computes: bounds, verdicts, attacks, samples, training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import certify
from certify import Falsified, LinearBounds, Method, Strategy, Verified
from certify.bounds.methods import METHODS
from certify.graph.evaluate import Network
from certify.graph.products import full_products
from models import data, zoo
from tests import strategies
from training.catalogue import BOUNDED
from training.catalogue import METHODS as TRAINING
from training.loop import train
from training.plan import Plan
from training.run import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def network(seed: int = 0, width: int = 16) -> nn.Sequential:
    """(B, 1, 4, 4) -> (B, 3), larger in weight than fresh layers are, so that neurons are unstable."""
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3)
    )
    for layer in made:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.weight.data *= 1.5
    return made.eval()


def asked(net: nn.Module, seed: int, radius: float) -> tuple[certify.Region, certify.Property]:
    """A ball around an image and its class."""
    image = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        chosen = int(net(image[None]).argmax())
    return certify.ball(image, radius, within=(0, 1)), certify.robust(chosen, 3)


@quick
@given(st.data())
def test_every_operator_has_the_same_values(drawn: st.DataObject) -> None:
    graph = drawn.draw(strategies.graphs())
    x = torch.from_numpy(drawn.draw(strategies.boxes(graph.input_size))[0])
    here, there = (Network(graph, torch.float64, d)(x.to(d)) for d in ("cpu", "cuda"))
    assert there.is_cuda
    np.testing.assert_allclose(there.cpu(), here, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [*METHODS, LinearBounds(steps=5)], ids=repr)
def test_bounds_are_the_same(method: certify.LinearBounds) -> None:
    net = network()
    regions = [asked(net, seed, 0.1)[0] for seed in range(3)]
    here, there = (certify.bound(net, regions, method=method, device=d) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(there.lower, here.lower, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(there.upper, here.upper, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [Method.AUTO, Method.NEURON_SPLIT, Method.INPUT_SPLIT, Method.MIP])
def test_verdicts_are_the_same(method: Method) -> None:
    seen = set()
    for seed in range(4):
        net = network(seed, width=8)
        for radius in (0.005, 0.04, 0.3):
            region, prop = asked(net, seed, radius)
            plan = Strategy(method=method)
            here, there = (
                certify.verify(net, region, prop, strategy=replace(plan, device=d), timeout=20) for d in ("cpu", "cuda")
            )
            kinds = {type(here), type(there)}
            assert kinds != {Verified, Falsified}
            seen |= kinds
    assert {Verified, Falsified} <= seen


def test_a_convolution_is_not_rounded_to_ten_bits() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 4)).eval()
    x = torch.rand(64, 8, 8)
    graph = certify.load_network(net, x[None]).graph
    with full_products():
        found = Network(graph, torch.float32, "cuda")(x.flatten()[None].cuda())
    with torch.no_grad():
        wanted = net.double()(x.double()[None])
    np.testing.assert_allclose(found.cpu(), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", [n for n in TRAINING if n not in ("gaussian", "macer")])
def test_training_runs_there_and_ends_here(name: str) -> None:
    norm = math.inf if name in BOUNDED or not name.startswith("s") else 2.0
    plan = Plan(TRAINING[name], 0.05, norm, epochs=1, batch=256, device="cuda")
    made = train(
        zoo.Description("cnn", {"shape": [1, 8, 8], "classes": 10, "channels": [4, 8]}), data.load("digits"), plan
    )
    assert all(not p.is_cuda and p.isfinite().all() for p in made.network.parameters())
    assert math.isfinite(made.history[0].loss)


def test_a_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    digits = data.load("digits")
    description = zoo.Description("mlp", {"shape": [1, 8, 8], "classes": 10, "hidden": [20]})
    plan = Plan(TRAINING["sabr"], 0.05, epochs=2, device="cuda")
    whole = train(description, digits, plan)
    stops = iter([False] * 9 + [True])
    assert Run(description, digits, plan, tmp_path).one_epoch(lambda: next(stops), lambda _: None) is None
    again = train(description, digits, plan, tmp_path)
    for one, other in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
