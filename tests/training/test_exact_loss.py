"""Certified losses and margins beside the exact worst case, by enumeration of all linear pieces and by MIP."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from certify.budget import Budget
from certify.extreme import maximum
from certify.frontends.load import load_network
from certify.spec.regions import ball
from certify.strategy import Method, Strategy
from tests import exact
from tests.training.nets import batch, small
from tests.training.test_certified import METHODS
from training import Ball, Climb, Dual, Moment, norms
from training.bounds import parallel, propagate
from training.certified import interval_margins, linear_margins
from training.projected import project

RADIUS = 0.2


def exact_worst_loss(network: nn.Module, x: torch.Tensor, y: int) -> float:
    """The largest cross-entropy over the box: it is convex where the network is affine, and so attained at a vertex of
    one of the pieces, all of which are enumerated in integers."""
    graph = load_network(network, x[None]).graph
    region = ball(x.numpy(), RADIUS, math.inf, (0.0, 1.0))
    _, inputs = exact.polytope(region)
    corners = [p for part, _ in exact.cells(graph, region) for p in part.points]
    free = [[Fraction(v, corner[-1]) for v in corner[:-1]] for corner in corners]
    points = torch.tensor([[float(v) for v in exact.at(inputs, point)] for point in free], dtype=torch.float64)
    return float(cross_entropy(network(points), torch.full((len(points),), y), reduction="none").max())


@pytest.mark.parametrize("seed", range(2))
def test_no_certified_loss_is_below_the_exact_worst_case_and_no_attack_above(seed):
    network, (x, y) = small("mlp", seed).eval(), batch("mlp", seed, 3)
    with torch.no_grad():
        worst = sum(exact_worst_loss(network, x[i], int(y[i])) for i in range(3)) / 3
        attacked = float(cross_entropy(network(Climb(20, 0.3)(network, Ball(x, RADIUS), y)), y))
        assert attacked <= worst + 1e-9
        for name, method in METHODS.items():
            assert float(method(network, Ball(x, RADIUS), y, Moment())) >= worst - 1e-9, name


def test_margins_of_training_are_above_those_of_mixed_integer_programs():
    network, (x, y) = small("mlp", 4).eval(), batch("mlp", 4, 2)
    imported = load_network(network, x[:1])
    with torch.no_grad():
        bounds = propagate(network, Ball(x, RADIUS), below=parallel, tighten=True)
        interval, linear = interval_margins(bounds, y), linear_margins(bounds, y)
    for i in range(2):
        for other in set(range(3)) - {int(y[i])}:
            row = np.eye(3)[other] - np.eye(3)[int(y[i])]
            region = ball(x[i].numpy(), RADIUS, math.inf, (0.0, 1.0))
            found = maximum(imported, region, row, strategy=Strategy(method=Method.MIP), budget=Budget(20.0))
            assert found.exact
            for margins in (interval, linear):
                assert float(margins[i, other]) >= found.attained - 1e-9
            assert float(linear[i, other]) <= found.proved + 3.0


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("norm", [math.inf, 2.0])
@torch.no_grad()
def test_many_projections_come_to_the_zonotope(kind, norm):
    torch.manual_seed(0)
    network, (x, y) = small(kind, 8).eval(), batch(kind, 8, 3)
    region = Ball(x, 0.05, norm, low=-9.0, high=9.0)
    estimated = project(network, region, {}, 4000)
    whole = propagate(network, region, below=parallel, tighten=True)
    for one, two in zip(estimated.stages, whole.stages, strict=True):
        if isinstance(one.layer, nn.ReLU):
            assert torch.allclose(one.before.center, two.before.center, atol=0.05 * float(two.before.spread.max()))
            assert float(one.before.spread.mean() / two.before.spread.mean()) == pytest.approx(1.0, abs=0.1)
    exact_dual = float(Dual()(network, region, y, Moment()))
    assert float(Dual(projections=4000)(network, region, y, Moment())) == pytest.approx(exact_dual, rel=0.05)


@torch.no_grad()
def test_many_projections_hold_what_a_residual_network_does():
    torch.manual_seed(0)
    network, (x, _) = small("resnet", 8).eval(), batch("resnet", 8, 3)
    region = Ball(x, 0.1)
    few = project(network, region, {}, 4000)
    last = max(i for i, stage in enumerate(few.stages) if isinstance(stage.layer, nn.ReLU))
    box = few.stages[last].before
    for _ in range(200):
        seen = network[:last](region.sample(torch.default_generator).view_as(x))
        assert ((seen - box.center).abs() <= 1.1 * box.spread + 1e-3).all()
    assert (box.spread <= propagate(network, region).stages[last].before.spread + 1e-9).all()


def test_projections_are_met_with_intervals():
    """However few they are: an estimate may be too small, but never makes an interval wider."""
    torch.manual_seed(0)
    network, (x, _) = small("cnn", 9).train(), batch("cnn", 9)
    _, held = norms.clean(network, x)
    plain = propagate(network, Ball(x, 0.2), held)
    few = project(network, Ball(x, 0.2), held, 1)
    for one, two in zip(plain.stages, few.stages, strict=True):
        assert (two.before.lower >= one.before.lower - 1e-9).all()
        assert (two.before.upper <= one.before.upper + 1e-9).all()
        assert (two.before.lower <= two.before.upper).all()
