"""Certified losses bound the worst-case loss from above, and their gradients are those of what they compute."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.training.nets import KINDS, batch, small
from training import IBP, Ball, Climb, CrownIBP, Dual, Moment, norms
from training.bounds import Form, margins, parallel, propagate
from training.certified import fused_loss, interval_margins, linear_margins
from training.schedule import Constant

METHODS = {
    "ibp": IBP(Constant(0.0)),
    "crown-ibp": CrownIBP(beta=Constant(1.0)),
    "crown-ibp by rows": CrownIBP(beta=Constant(1.0), fused=False),
    "crown-ibp mixed": CrownIBP(beta=Constant(0.4)),
    "dual": Dual(),
}
SEEDED = {**METHODS, "projected": Dual(projections=20)}  # the last one's draws must be the same for all steps


def points(region: Ball) -> list[Tensor]:
    """Many points of every ball, corners of small boxes among them."""
    found = [region.sample(torch.default_generator).view_as(region.x) for _ in range(30)]
    lower, upper = region.box()
    if region.norm == math.inf:
        flat = region.x.flatten(1).shape[1]
        masks = list(product((0, 1), repeat=flat)) if flat <= 4 else torch.randint(2, (60, flat)).tolist()
        found += [torch.where(torch.tensor(m).bool().view(region.x.shape[1:]), upper, lower) for m in masks]
    return found


def worst_loss(network: nn.Module, region: Ball, y: Tensor) -> float:
    """The mean over the batch of the largest cross-entropy met, attacked points included."""
    met = [*points(region), Climb(10, 0.3)(network, region, y)]
    return float(torch.stack([cross_entropy(network(x), y, reduction="none") for x in met]).amax(0).mean())


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
    radius=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    norm=st.sampled_from([math.inf, math.inf, 2.0, 1.0]),
)
def test_a_certified_loss_is_no_less_than_the_worst_case(method, kind, seed, radius, norm):
    torch.manual_seed(seed)
    network, (x, y) = small(kind, seed).eval(), batch(kind, seed)
    region = Ball(x, radius, norm)
    loss = float(METHODS[method](network, region, y, Moment()).detach())
    with torch.no_grad():
        assert worst_loss(network, region, y) <= loss + 1e-9
        if radius == 0:
            assert loss == pytest.approx(float(cross_entropy(network(x), y)), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [math.inf, 2.0])
def test_every_logit_difference_is_bounded_and_linear_forms_are_tight_without_kinks(kind, norm):
    network, (x, y) = small(kind, 5).eval(), batch(kind, 5)
    region = Ball(x, 0.05, norm)
    bounds = propagate(network, region)
    interval, linear = interval_margins(bounds, y), linear_margins(bounds, y)
    for met in points(region):
        logits = network(met)
        difference = logits - logits.gather(1, y[:, None])
        assert (difference <= torch.minimum(interval, linear) + 1e-9).all()
    tiny = propagate(network, Ball(x, 1e-7, norm))  # no neuron is unstable: linear forms are exact
    exact = network(x) - network(x).gather(1, y[:, None])
    assert torch.allclose(linear_margins(tiny, y), exact, atol=1e-4)


def test_rows_differ_from_class_to_class_and_the_own_row_is_zero():
    form = margins(torch.tensor([2, 0]), 3, torch.float64)
    assert form.rows[0].tolist() == [[1, 0, -1], [0, 1, -1], [0, 0, 0]]
    assert form.rows[1].tolist() == [[0, 0, 0], [-1, 1, 0], [-1, 0, 1]]


def test_loss_fusion_pays_for_one_row_with_a_chord():
    network, (x, y) = small("mlp", 3).eval(), batch("mlp", 3, 20)
    bounds = propagate(network, Ball(x, 0.03))
    by_rows = cross_entropy(linear_margins(bounds, y), y, reduction="none")
    fused = fused_loss(bounds, y)
    # one form for the sum of all rows can be better than a form for each; the chord makes it worse, but little
    assert (fused < by_rows + 0.2).all()
    assert torch.isfinite(fused_loss(propagate(network, Ball(x, 1e3, low=-1e9, high=1e9)), y)).all()


@pytest.mark.parametrize("method", SEEDED)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(method, kind):
    network, (x, y) = small(kind, 11), batch(kind, 11, 4)
    network.train()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0
    region = Ball(x, 0.07)
    weights = list(network.parameters())
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
    torch.manual_seed(3)
    loss = SEEDED[method](network, region, y, Moment())
    gradient = torch.autograd.grad(loss, weights)
    expected = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))

    def at(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p += step * d
            torch.manual_seed(3)
            value = float(SEEDED[method](network, region, y, Moment()))
            for p, d in zip(weights, direction, strict=True):
                p -= step * d
        return value

    h = 1e-7
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_batch_normalisation_acts_on_bounds_as_on_the_clean_batch():
    network, (x, _) = small("cnn", 2).train(), batch("cnn", 2, 6)
    logits, held = norms.clean(network, x)
    bounds = propagate(network, Ball(x, 0.0), held)
    assert torch.allclose(bounds.output.lower, logits)
    assert torch.allclose(bounds.output.upper, logits)
    before = [b.clone() for b in network.buffers()]
    with norms.fixed(network, held):
        assert torch.allclose(network(x), logits)
    assert network[2].training
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_clean_batch_is_learnt_as_the_layers_themselves_would(momentum):
    (one, two), (x, _) = (small("cnn", 2).train() for _ in range(2)), batch("cnn", 2, 6)
    one[2].momentum = two[2].momentum = momentum
    for _ in range(3):
        assert torch.allclose(norms.clean(one, x)[0], two(x))
    assert all(torch.allclose(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    norms.clean(one.eval(), x + 1)
    assert all(torch.allclose(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    assert "forward" not in vars(one[2])


def test_margins_behind_a_layer_that_is_not_affine_are_bounded_on_both_sides():
    network, (x, _) = small("resnet", 4).eval(), batch("resnet", 4)
    network = network[:3]  # the last layer is a residual block with ReLUs
    rows = torch.randn(len(x), 2, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    lower, upper = propagate(network, Ball(x, 0.1)).span(Form(rows, torch.zeros(len(x), 2, dtype=x.dtype)))
    for met in points(Ball(x, 0.1)):
        value = (rows * network(met)[:, None]).flatten(2).sum(2)
        assert (lower - 1e-9 <= value).all()
        assert (value <= upper + 1e-9).all()


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_the_attack_stays_in_the_ball_and_raises_the_loss(norm):
    torch.manual_seed(0)
    network, (x, y) = small("cnn", 4).eval(), batch("cnn", 4, 8)
    region = Ball(x, 0.3, norm)
    for found in (Climb(20, 0.2)(network, region, y), region.sample(torch.default_generator).view_as(x)):
        distance = torch.linalg.vector_norm((found - x).flatten(1), norm, dim=1)
        assert (distance <= 0.3 + 1e-9).all()
        assert ((found >= 0) & (found <= 1)).all()
    raised = cross_entropy(network(Climb(20, 0.2)(network, region, y)), y)
    assert raised > cross_entropy(network(x), y) + 0.01
    assert all(p.requires_grad for p in network.parameters())


@given(seed=st.integers(0, 1000), radius=st.floats(0.01, 2.0))
@settings(max_examples=20)
def test_the_projection_on_the_l1_ball_is_the_nearest_point(seed, radius):
    generator = torch.Generator().manual_seed(seed)
    center = torch.zeros(1, 4, dtype=torch.float64)
    ball = Ball(center, radius, 1.0, low=-1e9, high=1e9)
    x = 2 * torch.randn(1, 4, generator=generator, dtype=torch.float64)
    nearest = ball.project(x)
    assert nearest.abs().sum() <= radius + 1e-9
    others = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    others *= radius / others.abs().sum(1, keepdim=True)
    # x - nearest is normal to the ball there: no point of the ball lies further that way
    assert (others @ (x - nearest)[0] <= (nearest * (x - nearest)).sum() + 1e-9).all()


def test_pulling_back_through_parallel_lines_is_pushing_a_zonotope_forward():
    network, (x, y) = small("mlp", 8).eval(), batch("mlp", 8, 4)
    region = Ball(x, 0.2)
    bounds = propagate(network, region, below=parallel, tighten=True)
    lower, upper = region.box()
    center, generators = (lower + upper) / 2, torch.diag_embed((upper - lower) / 2)  # (B, d), (B, generators, d)
    for stage in bounds.stages:
        if isinstance(stage.layer, nn.Linear):
            center, generators = stage.layer(center), generators @ stage.layer.weight.T
        else:
            low, high = stage.before.lower.clamp_max(0), stage.before.upper.clamp_min(0)
            reach = generators.abs().sum(1)
            assert (center - reach <= stage.before.lower + 1e-9).all()  # never better than what the dual knows
            slope = high / (high - low).clamp_min(1e-12)
            offset = -slope * low / 2
            center, generators = slope * center + offset, slope[:, None] * generators
            generators = torch.cat([generators, torch.diag_embed(offset)], 1)
    rows = margins(y, 3, x.dtype).rows
    zonotope = (rows @ center[:, :, None])[..., 0] + (generators @ rows.transpose(1, 2)).abs().sum(1)
    assert torch.allclose(zonotope, linear_margins(bounds, y), atol=1e-9)


def test_tightening_helps_and_never_harms():
    network, (x, _) = small("cnn", 9).eval(), batch("cnn", 9)
    plain, tight = (propagate(network, Ball(x, 0.2), tighten=t) for t in (False, True))
    for one, two in zip(plain.stages, tight.stages, strict=True):
        assert (two.before.lower >= one.before.lower - 1e-9).all()
        assert (two.before.upper <= one.before.upper + 1e-9).all()
    assert (tight.stages[-1].before.upper < plain.stages[-1].before.upper - 1e-6).any()


@pytest.mark.parametrize("norm", [2.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_over_a_ball_is_bounded_by_its_rows_dual_norms(norm, kind):
    network, (x, _) = small(kind, 3).eval(), batch(kind, 3)
    region = Ball(x, 0.2, norm, low=-9.0, high=9.0)  # the range cuts nothing
    first = next(i for i, layer in enumerate(network) if isinstance(layer, nn.Linear | nn.Conv2d)) + 1
    found = propagate(network[:first], region).output
    exact = propagate(nn.Sequential(*network[:first], nn.ReLU()), region, tighten=True).stages[-1].before
    assert (found.lower <= exact.lower + 1e-9).all()
    assert (found.upper >= exact.upper - 1e-9).all()
    if norm == 2.0:
        assert torch.allclose(found.upper, exact.upper)
    box = propagate(network[:first], Ball(x, 0.2, low=-9.0, high=9.0)).output
    assert found.spread.mean() < 0.9 * box.spread.mean()
