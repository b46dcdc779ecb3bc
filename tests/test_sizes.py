"""Networks of the size that others pretrain, made small; and values beyond what floats hold, which they meet first."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import certify
from benchmarks import sizes
from certify.bounds.interval import interval
from certify.bounds.methods import IntervalBounds, LinearBounds
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet
from certify.spec.regions import ball


class Steep(nn.Module):
    """Gates made of exponentials that overflow, and what a layer behind them makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.norm = nn.Linear(3, 4), nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.out(1 / (1 + (300 * self.into(x)).exp())))


@pytest.fixture(scope="module")
def steep() -> Network:
    torch.manual_seed(3)
    return Network(load_network(Steep().eval(), torch.zeros(1, 3)).graph)


def test_overflow_within_a_network_loses_what_overflows_and_nothing_else(steep: Network) -> None:
    inputs = InputSet(-torch.ones(1, 3), torch.ones(1, 3))
    bounds = interval(steep, inputs)
    assert any(bool(b.isinf().any()) for pair in bounds for b in pair)
    assert not any(bool(b.isnan().any()) for pair in bounds for b in pair)
    precise = Network(steep.graph, torch.float64)
    x = torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for (lower, upper), value in zip(bounds, precise.values(x), strict=True):
        room = 1e-5 * (1 + value.abs())
        assert (value >= lower - room).all()
        assert (value <= upper + room).all()
    lower, upper = bounds[-1]
    assert (upper - lower < 2 * 3**0.5 * 1.2 + 2).all()  # layer normalisation is bounded whatever it reads


@pytest.mark.parametrize("method", [IntervalBounds(), LinearBounds()])
def test_bounds_of_such_a_network_are_finite_and_hold(steep: Network, method: object) -> None:
    x = np.array([0.2, -0.1, 0.4])
    graph = steep.graph
    source = load_network(Steep().eval(), torch.zeros(1, 3)).source
    found = certify.bound(certify.frontends.imported.Imported(graph, source), ball(x, 3.0), method=method)
    assert np.isfinite(found.lower).all()
    assert np.isfinite(found.upper).all()
    inside = x + np.random.default_rng(0).uniform(-3, 3, (500, 3))
    y = Network(graph, torch.float64)(torch.from_numpy(inside)).numpy()
    assert (y >= found.lower - 1e-6).all()
    assert (y <= found.upper + 1e-6).all()


def test_no_value_is_tightened_once_the_time_is_up() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 2)).eval()
    region = certify.ball(np.zeros(4), 1.0)
    whole, none = (certify.bound(module, region, timeout=t) for t in (None, 1e-9))
    plain = certify.bound(module, region, method=IntervalBounds())
    inner = max(whole.nodes)
    widths = {b: (b.nodes[inner][1] - b.nodes[inner][0]).mean() for b in (whole, none)}
    assert widths[whole] < widths[none]
    assert (none.lower >= plain.lower).all()
    assert (whole.upper <= none.upper + 1e-12).all()


def test_the_benchmark_measures_each_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def small() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 2, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(32, sizes.CLASSES))

    monkeypatch.setattr(sizes, "NETWORKS", {"small": small})
    sizes.main(["--one", "small", "--timeout", "10"])
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["linear_width"] <= found["interval_width"]
    assert min(found["load_s"], found["interval_s"], found["linear_s"]) > 0
    assert "small" in sizes.shown(sizes.Sized(**found))


def test_its_networks_are_what_their_names_say() -> None:
    def weights(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert weights(sizes.resnet18()) == 11_176_512 + 513 * sizes.CLASSES  # He et al. 2016, without the 1000 classes
    tokens, width = (sizes.SIDE // 8) ** 2 + 1, 192
    block = 4 * width * (width + 1) + 2 * 4 * width * width + 5 * width + 4 * width
    rest = 3 * 64 * width + width + (tokens + 1) * width + 2 * width + (width + 1) * sizes.CLASSES
    assert weights(sizes.Transformer()) == 6 * block + rest
