"""What the other methods compute: where they meet simpler ones, what they stay between, and what they leave behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certify.errors import BadOption
from tests.training.nets import batch, small
from training import (
    CCIBP,
    DDN,
    EXPIBP,
    IBP,
    MACER,
    MART,
    MSD,
    MTLIBP,
    SABR,
    STAPS,
    TAPS,
    TRADES,
    Ascent,
    Average,
    Ball,
    Climb,
    Consistency,
    Epoch,
    Fast,
    Free,
    IntervalStart,
    Mixture,
    Moment,
    Moved,
    Regulariser,
    SmoothAdv,
    SmoothMix,
    Stability,
    Standard,
    Within,
    Worst,
)  # fmt: skip
from training.augment import moved
from training.bounds import propagate
from training.catalogue import METHODS
from training.inner import Smoothed
from training.schedule import Constant
from training.smoothed import noisy
from training.tradeoff import overfitted

BALLS = (Within(0.1, attack=Climb(2)), Within(0.3, 2.0, Climb(2)), Within(0.5, 1.0, Climb(2)))
ALL = {
    **METHODS,
    "worst": Worst((*BALLS, Moved(tries=2))),
    "average": Average(BALLS),
    "mixture": Mixture(BALLS),
    "msd": MSD(BALLS, steps=2),
}


@pytest.mark.parametrize("name", ALL)
def test_a_loss_moves_all_weights_and_leaves_the_network_as_it_was(name):
    x, y = batch("cnn", 1, 6)
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        network = small("cnn", 1).train()
        steps = network[2].num_batches_tracked.clone()
        norm = 2.0 if "ddn" in name else math.inf
        loss = ALL[name](network, Ball(x, 0.05, norm), y, Moment(0.5, 0.5))
        loss.backward()
        losses.append(float(loss.detach()))
        assert math.isfinite(losses[-1])
        assert all(p.requires_grad and torch.isfinite(p.grad).all() for p in network.parameters())
        assert sum(float(p.grad.abs().sum()) for p in network.parameters()) > 0
        assert not any(h for m in network.modules() for h in (m._forward_hooks, m._forward_pre_hooks))
        assert all(m.training for m in network.modules())
        assert network[2].num_batches_tracked > steps  # statistics were learnt
    assert losses[0] == losses[1]


def losses(method: object, radius: float = 0.1, kind: str = "mlp", moment: Moment | None = None) -> float:
    torch.manual_seed(0)
    network, (x, y) = small(kind, 6).eval(), batch(kind, 6, 12)
    return float(method(network, Ball(x, radius), y, moment or Moment()).detach())


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_mixtures_go_from_the_attack_to_the_bound(kind):
    bound = losses(IBP(Constant(0.0)), kind=kind)
    for cls in (MTLIBP, CCIBP, EXPIBP):
        path = [losses(cls(share=a, attack=Climb(8, 0.25)), kind=kind) for a in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert path == sorted(path)
        assert path[-1] == pytest.approx(bound, rel=1e-9)
    attacked = losses(MTLIBP(share=0.0), kind=kind)
    assert attacked == pytest.approx(losses(CCIBP(share=0.0), kind=kind))
    assert losses(Standard(), kind=kind) <= attacked <= bound


def test_small_boxes_grow_to_the_whole_ball():
    bound = losses(IBP(Constant(0.0)))
    path = [losses(SABR(share=s)) for s in (0.05, 0.4, 0.8, 1.0)]
    assert all(p <= bound + 1e-9 for p in path)
    assert path[-1] == pytest.approx(bound, rel=1e-9)
    assert losses(SABR(share=1e-9)) == pytest.approx(losses(MTLIBP(share=0.0)), rel=0.05)


@pytest.mark.parametrize("tail", [1, 2, 9])
def test_what_is_found_in_the_latent_box_is_no_worse_than_its_bound(tail):
    bounded = losses(IBP(Constant(0.0)), radius=0.2)
    network, (x, y) = small("mlp", 6).eval(), batch("mlp", 6, 12)
    taps = TAPS(tail=tail)(network, Ball(x, 0.2), y, Moment())
    each = IBP(Constant(0.0))
    squares = [float(each(network, Ball(x[i : i + 1], 0.2), y[i : i + 1], Moment()).detach()) ** 2 for i in range(12)]
    assert float(taps.detach()) <= sum(squares) / 12 + 1e-9
    assert losses(TAPS(tail=tail), radius=0.0) <= bounded**2
    latent = TAPS(tail=tail)
    assert losses(STAPS(1.0, latent=latent), 0.2) == pytest.approx(losses(latent, 0.2), rel=0.05)
    lesser = losses(STAPS(0.3, Climb(8, 0.25), latent), 0.2)
    assert losses(Standard()) ** 2 < lesser < losses(STAPS(1.0, latent=latent), 0.2)


@pytest.mark.parametrize("tail", [1, 2])
def test_the_latent_attack_sees_that_neurons_of_the_tail_share_their_inputs(tail):
    """Behind the first ReLU, z in [0, 1] feeds 1 + z and 1 - z, whose sum is 2, while intervals let it be 1 to 3."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    network.load_state_dict(
        {
            "0.weight": torch.ones(1, 1), "0.bias": torch.zeros(1),
            "2.weight": torch.tensor([[1.0], [-1.0]]), "2.bias": torch.ones(2),
            "4.weight": torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "4.bias": torch.tensor([0.0, -2.0]),
        }
    )  # fmt: skip
    ball, y = Ball(torch.full((1, 1), 0.5, dtype=torch.float64), 0.5), torch.zeros(1, dtype=torch.long)
    bounded = float(cross_entropy(torch.tensor([[0.0, 1.0]]), y))
    found = float(cross_entropy(torch.zeros(1, 2), y))
    loss = float(TAPS(tail=tail)(network, ball, y, Moment()).detach())
    assert loss == pytest.approx(found * bounded, rel=1e-6)


def test_the_interval_start_keeps_widths():
    def growth(start: bool) -> float:
        torch.manual_seed(0)
        layers = [m for _ in range(6) for m in (nn.Linear(200, 200), nn.ReLU())]
        network = nn.Sequential(*layers, nn.Linear(200, 3))
        if start:
            IntervalStart()(network)
        bounds = propagate(network, Ball(torch.rand(4, 200), 0.01))
        return float((bounds.stages[11].before.spread.mean() / bounds.stages[1].before.spread.mean()).detach())

    assert 0.5 < growth(True) < 2
    assert growth(False) > 50


@pytest.mark.parametrize("make", [IBP, TAPS, lambda regulariser: STAPS(latent=TAPS(regulariser=regulariser))])
def test_the_regulariser_fades_as_the_radius_grows(make):
    eased, plain = make(regulariser=Regulariser()), make(regulariser=None)
    penalties = [losses(eased, moment=Moment(ramp=r)) - losses(plain, moment=Moment(ramp=r)) for r in (0.0, 0.5, 1.0)]
    assert penalties[0] > penalties[1] > penalties[2] == 0
    assert penalties[0] == pytest.approx(2 * penalties[1], rel=1e-5)


def test_tradeoffs_without_weight_are_cross_entropy_and_more_with_it():
    assert losses(TRADES(beta=0.0)) == pytest.approx(losses(Standard()))
    assert losses(TRADES(beta=6.0)) > losses(TRADES(beta=1.0)) > losses(Standard())
    assert losses(TRADES(beta=6.0), radius=0.0) == pytest.approx(losses(Standard()))
    assert losses(MART(beta=5.0)) > losses(MART(beta=0.0))
    assert losses(Fast(), radius=0.0) == pytest.approx(losses(Standard()))
    assert losses(Fast()) > losses(Standard())


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_the_free_perturbation_is_kept_and_stays_in_the_ball(norm):
    network, (x, y) = small("mlp", 6), batch("mlp", 6, 12)
    region, moment = Ball(x, 0.1, norm), Moment()
    path = []
    for _ in range(4):
        loss = Free(0.5)(network, region, y, moment)
        loss.backward()
        path.append(float(loss.detach()))
        assert (torch.linalg.vector_norm(moment.memory["shift"], norm, dim=1) <= 0.1 + 1e-9).all()
    assert path[0] < path[1] < path[3]  # the weights stand still, the perturbation climbs
    Free()(network, region.select(torch.arange(5)), y[:5], moment).backward()  # the last batch may be smaller


def epoch(number: int, attacked: float, radius: float = 0.1, clean: float = 0.9) -> Epoch:
    return Epoch(number, 0.1, radius, clean, attacked, 0.0, 1.0)


def test_catastrophic_overfitting_is_noticed():
    fine = [epoch(1, 0.8, 0.05), epoch(2, 0.5), epoch(3, 0.6), epoch(4, 0.55)]
    assert overfitted(fine) is None  # the fall from 0.8 came with a larger radius
    assert overfitted([*fine, epoch(5, 0.1)]) == epoch(5, 0.1)
    assert overfitted([*fine, epoch(5, 0.1, clean=0.3)]) is None  # training has diverged, which is something else


@dataclass(frozen=True)
class Shifted:
    """A threat that is no secret."""

    by: float

    def __call__(self, network: nn.Module, region: Ball, y: Tensor, ramp: float) -> Tensor:
        return region.x + self.by * ramp


def test_the_worst_of_several_and_their_mean():
    threats = (Shifted(0.3), Shifted(-0.3), Shifted(0.1))
    network, (x, y) = small("mlp", 6).eval(), batch("mlp", 6, 12)
    each = torch.stack([cross_entropy(network(x + t.by), y, reduction="none") for t in threats]).detach()
    assert losses(Worst(threats)) == pytest.approx(float(each.amax(0).mean()))
    assert losses(Average(threats)) == pytest.approx(float(each.mean()))
    assert losses(Mixture(threats, (0.0, 1.0, 0.0))) == pytest.approx(float(each[1].mean()))
    assert losses(MSD((Within(0.1), Within(0.2, 2.0)), 5)) >= losses(Fast(), 0.0)


def test_moved_images_are_those_of_no_motion_at_none_and_of_whole_pixels_at_some():
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    network, y = small("cnn", 0).eval(), torch.tensor([0, 1])
    assert torch.allclose(Moved()(network, Ball(x, 0.1), y, 0.0), x)
    shifted = moved(x, 1.0, 0.0)
    assert shifted.shape == x.shape
    assert not torch.allclose(shifted, x, atol=1e-3)
    assert ((shifted >= 0) & (shifted <= 1)).all()


def test_smoothed_losses_without_noise_are_plain_ones():
    plain = losses(Standard())
    assert losses(SmoothAdv(sigma=0.0), radius=0.0) == pytest.approx(plain)
    assert losses(SmoothAdv(sigma=0.0), radius=0.3) > plain
    assert losses(Stability(sigma=0.0)) == pytest.approx(plain)
    assert losses(Stability(sigma=0.5)) > plain
    assert losses(Consistency(sigma=0.0, entropy=0.0)) == pytest.approx(plain)
    assert losses(MACER(sigma=0.0)) == pytest.approx(plain)
    assert losses(MACER(0.25, weight=6.0)) > losses(MACER(0.25, weight=0.0))


@settings(max_examples=10)
@given(samples=st.integers(1, 4), sigma=st.floats(0.1, 2.0))
def test_noise_has_its_deviation_and_copies_lie_side_by_side(samples, sigma):
    torch.manual_seed(0)
    x = 1000.0 * torch.arange(3.0)[:, None].expand(-1, 400)
    copies = noisy(x, sigma, samples)
    assert copies.shape == (3 * samples, 400)
    assert (copies.mean(1) / 1000).round().tolist() == [i for i in range(3) for _ in range(samples)]
    assert 0.8 * sigma < (copies - x.repeat_interleave(samples, 0)).std() < 1.2 * sigma


@pytest.mark.parametrize("attack", [Ascent(6), DDN(6)])
def test_an_attack_on_the_smoothed_classifier_lowers_the_mean_probability(attack):
    network, (x, y) = small("mlp", 6).eval(), batch("mlp", 6, 40)
    region = Ball(x, 0.3, 2.0)
    points = attack(Smoothed(network, torch.zeros_like(x), y, 1), region)
    assert (torch.linalg.vector_norm((points - x).flatten(1), dim=1) <= 0.3 + 1e-9).all()
    assert ((points >= 0) & (points <= 1)).all()
    method = SmoothAdv(0.2, 4, attack)
    torch.manual_seed(0)
    attacked = float(method(network, region, y, Moment()))
    torch.manual_seed(0)
    assert attacked > float(method(network, Ball(x, 0.0, 2.0), y, Moment())) + 0.001


def test_ddn_finds_near_points_on_a_line():
    """Two classes, apart at x = 0.5 on the first of two axes: nothing nearer than |x - 0.5| fools them."""
    network = nn.Linear(2, 2).double()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]))
        network.bias.copy_(torch.tensor([-2.0, 2.0]))
    x = torch.tensor([[0.3, 0.2], [0.55, 0.9], [0.9, 0.5], [0.1, 0.5]], dtype=torch.float64)
    y = network(x).argmax(1)
    region = Ball(x, 0.35, 2.0)
    found = DDN(60, 0.5)(Smoothed(network, torch.zeros_like(x), y, 1), region)
    fooled = network(found).argmax(1) != y
    assert fooled.tolist() == [True, True, False, False]  # the last two are 0.4 away
    distance = torch.linalg.vector_norm(found - x, dim=1)
    assert (distance[:2] >= torch.tensor([0.2, 0.05])).all()
    assert (distance[:2] <= torch.tensor([0.2, 0.05]) * 1.1).all()
    assert torch.allclose(distance[2:], torch.full((2,), 0.35, dtype=torch.float64))
    with pytest.raises(BadOption, match="norm 2"):
        DDN()(Smoothed(network, torch.zeros_like(x), y, 1), Ball(x, 0.1))


def test_mixing_softens_what_the_smoothed_classifier_is_sure_of():
    assert losses(SmoothMix(sigma=0.0, weight=0.0)) == pytest.approx(losses(Standard()))
    path = [losses(SmoothMix(sigma=0.1, weight=w)) for w in (0.0, 1.0, 2.0)]
    assert path[2] - path[1] == pytest.approx(path[1] - path[0])
    assert path[1] > path[0]
    assert losses(SmoothMix(), moment=Moment(0.0, 0.0)) == pytest.approx(losses(SmoothMix(weight=0.0)))
    assert losses(SmoothMix(), radius=0.0) == losses(SmoothMix(), radius=0.5)
    constant = nn.Linear(2, 3).double()
    torch.nn.init.zeros_(constant.weight)
    torch.nn.init.zeros_(constant.bias)
    x, y = batch("mlp", 1, 9)
    assert float(SmoothMix()(constant, Ball(x, 0.1), y, Moment())) == pytest.approx(math.log(3))  # already uniform
