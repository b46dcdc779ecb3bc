"""Networks of zero derivative: what attacks follow instead has their values, or their order, and leads somewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import certify
from certify.budget import Budget
from certify.check.witness import check_witness
from certify.falsify import Falsifier
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.graph.surrogate import surrogate
from certify.spec.query import Case, Query

SIZE, CLASSES = 64, 5


class Binarised(nn.Module):
    """Signs of whole numbers, and a softmax that is 0 or 1 in float32."""

    def __init__(self, seed: int, softmax: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = (SIZE, 256, 256, CLASSES)
        for i, (n, m) in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
            self.register_buffer(f"weight{i}", torch.randn(n, m, generator=generator).sign())
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        for weight in (self.weight0, self.weight1):
            x = ((x @ weight.T) + 0.5).sign()
        logits = 8 * (x @ self.weight2.T)
        return logits.softmax(-1) if self.softmax else logits


def _query(seed: int, radius: float) -> Query:
    """Around the one of 200 random points whose class is clearest."""
    points = torch.rand(200, SIZE, generator=torch.Generator().manual_seed(seed))
    first, second = Binarised(seed, softmax=False)(points).topk(2).values.T
    x = points[(first - second).argmax()][None]
    module = Binarised(seed)
    imported = load_network(module, x)
    case = Case(certify.ball(x[0], radius, within=(0, 1)), certify.robust(int(module(x).argmax()), CLASSES))
    return Query(imported.source, imported.graph, (case,))


def test_binarised_networks_are_falsified_where_random_points_do_not_do_it() -> None:
    by_chance = 0
    for seed in range(3):
        query = _query(seed, 0.02)
        falsifier, clauses = Falsifier(query, Network(query.graph)), {0: range(CLASSES - 1)}
        witness = falsifier.thorough(clauses, Budget())[0]
        assert check_witness(query.graph, query.cases, witness, query.source).ok
        falsifier.led = falsifier.network
        by_chance += len(falsifier.thorough(clauses, Budget()))
    assert by_chance <= 1


def test_the_values_are_those_of_the_network_but_for_exponentials() -> None:
    module = Binarised(0, softmax=False)
    x = torch.rand(20, SIZE, generator=torch.Generator().manual_seed(1))
    network = Network(load_network(module, x[:1]).graph)
    led = surrogate(network)
    assert torch.equal(led(x), network(x))
    point = x.clone().requires_grad_()
    assert torch.autograd.grad(led(point).sum(), point)[0].abs().sum() > 0
    assert torch.autograd.grad(network(point).sum(), point)[0].abs().sum() == 0


def test_a_softmax_keeps_its_order_and_does_not_saturate() -> None:
    x = torch.rand(20, SIZE, generator=torch.Generator().manual_seed(2))
    logits = Binarised(3, softmax=False)(x)
    flat = surrogate(Network(load_network(Binarised(3), x[:1]).graph))(x)
    assert torch.equal(*(v[:, :, None] > v[:, None] for v in (logits, flat)))
    assert (flat > 0).all()
    assert (flat.amax(1) < 1).all()


def test_a_network_without_steps_is_its_own() -> None:
    network = Network(load_network(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), torch.zeros(1, 2)).graph)
    assert surrogate(network) is network
