"""What is called falsified passes the checker's own examination of the witness."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import certify
from certify import Falsified, Property, Unknown, Verified
from certify.budget import Budget
from certify.check.witness import check_witness
from certify.falsify import HEAD, SHARE, Falsifier, Pursuit, _Account
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.spec.property import clause
from certify.spec.query import Case, Query


@pytest.mark.parametrize(
    ("x", "limit", "expected"),
    [
        (0.1, 0.1 + 1e-9, Verified),
        (0.1, 0.1 - 1e-9, Falsified),
        (0.1, 0.0, Falsified),
        (2.2e-45, 2.5e-45, Unknown | Verified),  # the float32 next to it is a quarter larger
        (2.2e-45, 2.1e-45, Falsified),
    ],
)
def test_rounding_of_the_input_alone_is_no_counterexample(x: float, limit: float, expected: type) -> None:
    """0.1 is no float32, and the one next to it is larger: y = x reaches 0.1 + 1e-9 in the runtime alone."""
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.zero_()
    imported = load_network(module, torch.zeros(1, 1))
    region, prop = certify.box([x], [x]), Property((clause([[-1.0]], [-limit]),))  # unsafe: y >= limit
    assert imported.source(region.lower)[0] >= limit
    verdict = certify.verify(imported, region, prop, timeout=20)
    assert isinstance(verdict, expected)
    if isinstance(verdict, Falsified):
        assert check_witness(imported.graph, (Case(region, prop),), verdict.witness).ok


def _random_query(seed: int, share: float) -> Query:
    """Unsafe where a random network of two inputs is below a level between its least value on a fine grid (share 0)
    and its mean there (1)."""
    module = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 200, dtype=torch.float64)] * 2)
        values = module(grid)
    level = float((1 - share) * values.min() + share * values.mean())
    imported = load_network(module, torch.zeros(1, 2, dtype=torch.float64))
    case = Case(certify.box([-1.0, -1.0], [1.0, 1.0]), Property((clause([[1.0]], [level]),)))
    return Query(imported.source, imported.graph, (case,))


def _falsifier(query: Query, **settings: int) -> Falsifier:
    return Falsifier(query, Network(query.graph), **settings)


@pytest.mark.parametrize("seed", range(12))
def test_the_thorough_attack_finds_the_least_value_of_a_network_of_two_inputs(seed: int) -> None:
    query = _random_query(seed, 0.001)
    witness = _falsifier(query).thorough({0: [0]}, Budget())[0]
    assert check_witness(query.graph, query.cases, witness, query.source).ok


@pytest.mark.parametrize("turn", [0, 1])
def test_a_turn_is_deterministic_and_another_turn_starts_elsewhere(turn: int) -> None:
    query = _random_query(3, 0.3)
    first, again = (_falsifier(query, seed=5).thorough({0: [0]}, Budget(), turn)[0] for _ in range(2))
    other = _falsifier(query, seed=5).thorough({0: [0]}, Budget(), turn + 1)[0]
    assert (first.x == again.x).all()
    assert (first.x != other.x).any()


def test_points_of_a_search_are_replayed_as_they_are() -> None:
    """In float64, even where the attack itself computes in float32, which cannot tell them from safe ones."""
    module = nn.Linear(1, 1).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.zero_()
    imported = load_network(module, torch.zeros(1, 1, dtype=torch.float64))
    case = Case(certify.box([0.0], [1.0]), Property((clause([[1.0]], [1e-12]),)))
    query = Query(imported.source, imported.graph, (case,))
    points = torch.tensor([[0.5], [1e-12], [0.7]], dtype=torch.float64)
    witness = Pursuit(_falsifier(query, steps=0), 0, [0], Budget())(points)
    assert witness is not None
    assert witness.x == 1e-12


def test_a_pursuit_without_steps_only_looks_at_the_points() -> None:
    query = _random_query(1, 0.5)
    pursuit = Pursuit(_falsifier(query, steps=0), 0, [0], Budget())
    level = query.cases[0].property.clauses[0].offset
    safe = next(x for x in torch.rand(100, 2, dtype=torch.float64) if query.source(x.numpy()) > level)
    assert pursuit(safe[None]) is None
    assert pursuit(torch.zeros(0, 2)) is None
    assert pursuit.polishing.count == pursuit.turning.count == 0


def test_a_pursuit_leads_from_safe_points_to_a_witness_elsewhere() -> None:
    query = _random_query(1, 0.01)
    corner = torch.ones(1, 2, dtype=torch.float64)
    pursuit = Pursuit(_falsifier(query), 0, [0], Budget(60))
    witness = None
    while witness is None and not pursuit.budget.expired:
        witness = pursuit(corner)
    assert check_witness(query.graph, query.cases, witness, query.source).ok


def test_attacks_beside_a_search_keep_to_their_share() -> None:
    account = _Account(cost=0.03)
    assert not account.affords(0.02)
    assert account.affords(0.03)  # of the first seconds they may take as much as the search
    account = _Account(cost=0.1, spent=0.5, count=4)
    limit = (0.6 - HEAD) / SHARE
    assert not account.affords(limit * 0.99)
    assert account.affords(limit * 1.01)
    account.charge(lambda: None)
    assert account.count == 5
    assert account.cost < 0.1 < account.spent
