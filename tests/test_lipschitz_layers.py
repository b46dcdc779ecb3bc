"""Layers of constant 1: what is certified of the float32 weights that are stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.lipschitz_cnn import Plan, assess, fit
from certify.frontends.load import load_network
from certify.lipschitz.network import global_bound
from models import lipschitz as layers
from models.data import load

TOLERANCE = 1e-6

LAYERS = {
    "cayley": (lambda: layers.OrthogonalLinear(6, 9), (6,)),
    "wide": (lambda: layers.OrthogonalLinear(9, 6), (9,)),
    "exponential": (lambda: layers.OrthogonalLinear(7, 7, layers.exponential), (7,)),
    "qr": (lambda: layers.OrthogonalLinear(6, 9, layers.householder), (6,)),
    "aol": (lambda: layers.AolLinear(6, 8), (6,)),
    "aol-conv": (lambda: layers.AolConv(2, 4), (2, 6, 5)),
    "patch-conv": (lambda: layers.PatchConv(2, 8), (2, 6, 4)),
    "sll": (lambda: layers.SllLinear(6, 10), (6,)),
    "maxmin": (layers.MaxMin, (6, 3)),
    "groupsort": (lambda: layers.GroupSort(4), (8,)),
}


def disturbed(layer: nn.Module) -> nn.Module:
    """The layer with parameters as training may leave them: not small, not orthogonal."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn_like(parameter)
    return layer


def constant(network: nn.Module, x: Tensor) -> float:
    return global_bound(load_network(network, x[:1]).graph, 2).constant


@pytest.mark.parametrize("name", LAYERS)
def test_stored_weights_are_certified(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    free = nn.Sequential(disturbed(build())).eval()
    kept = layers.stored(free)
    x = torch.randn(5, *shape)
    assert torch.allclose(free(x), kept(x), atol=1e-5)
    assert constant(kept, x) <= 1 + TOLERANCE
    assert constant(kept, x) >= (0.5 if name != "sll" else 0.0)


@pytest.mark.parametrize("transform", [layers.cayley, layers.exponential, layers.householder])
def test_transforms_are_orthogonal_and_have_gradients(transform: object) -> None:
    raw = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    found = transform(raw)
    assert torch.allclose(found.T @ found, torch.eye(5, dtype=torch.float64), atol=1e-10)
    (found * torch.randn(5, 5, dtype=torch.float64)).sum().backward()
    assert raw.grad.abs().max() > 1e-3


@pytest.mark.parametrize("group", [2, 4, 8])
def test_groups_are_sorted(group: int) -> None:
    x = torch.randn(7, 16)
    wanted = x.reshape(7, -1, group).sort(-1, descending=True).values.reshape(7, 16)
    assert torch.allclose(layers.GroupSort(group)(x), wanted, atol=1e-6)


def test_groups_must_fit() -> None:
    with pytest.raises(ValueError, match="groups must have"):
        layers.GroupSort(3)
    with pytest.raises(ValueError, match="whole number of groups"):
        layers.GroupSort(4)(torch.zeros(1, 6))


def test_normalised_rows_have_constant_1_each() -> None:
    torch.manual_seed(1)
    kept = layers.stored(nn.Sequential(layers.NormalisedLinear(5, 3)))
    found = global_bound(load_network(kept, torch.zeros(1, 5)).graph, 2)
    assert (found.rows(torch.eye(3).numpy()) <= 1 + TOLERANCE).all()


def test_networks_are_certified_as_a_whole() -> None:
    torch.manual_seed(2)
    for network, shape in ((layers.lipschitz_mlp((1, 4, 4), 3, (12, 8)), (1, 4, 4)),
                           (layers.lipschitz_cnn((1, 8, 8), 3, (4, 8), 16), (1, 8, 8))):  # fmt: skip
        kept = layers.stored(disturbed(network))
        assert constant(kept, torch.zeros(1, *shape)) <= 1 + TOLERANCE


def test_a_trained_network_is_certified_and_its_radii_shrink_the_count() -> None:
    data = load("digits")
    kept = fit(data, Plan(epochs=3, batch=64, channels=(8, 8), hidden=16, samples=640))
    graph = load_network(kept, torch.zeros(1, *data.shape)).graph
    found = assess(graph, data.x_test[:100], data.y_test[:100], (0.1, 0.3))
    assert found.constant <= 1 + TOLERANCE
    right = (kept(torch.from_numpy(data.x_test[:100])).argmax(1).numpy() == data.y_test[:100]).sum()
    assert found.samples >= found.clean >= found.counts[0] >= found.counts[1]
    assert found.clean == right > 50
    assert found.counts[0] > 20
    assert "36/255" not in found.table()
