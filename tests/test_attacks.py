"""Attacks: what they return lies in the region, is what it says, and is the optimum where that is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.base import Attack, Result
from attacks.gradient import Constant, Descent, Geometric, bim, fgsm, pgd
from attacks.zoom import Zoom
from certify.spec.inputset import InputSet

SEEDS = st.integers(0, 2**31 - 1)
NORMS = st.sampled_from([None, 2, 1])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _region(seed: int, count: int, size: int, norm: float | None, dtype: torch.dtype = torch.float64) -> InputSet:
    """Random regions; some coordinates have zero width, the balls' centres lie in their boxes."""
    generator = _generator(seed)
    center = torch.randn(count, size, generator=generator, dtype=dtype)
    below, above = torch.rand(2, count, size, generator=generator, dtype=dtype)
    flat = torch.rand(count, size, generator=generator) < 0.2
    lower, upper = center - below.masked_fill(flat, 0), center + above.masked_fill(flat, 0)
    if norm is None:
        return InputSet(lower, upper)
    radius = torch.rand(count, generator=generator, dtype=dtype) + 0.05
    return InputSet(lower, upper, norm, center, radius)


class Bumpy:
    """A network without structure, and a target of its own for every entry."""

    def __init__(self, seed: int, size: int, count: int) -> None:
        generator = _generator(seed)
        self.first = torch.randn(size, 16, generator=generator, dtype=torch.float64)
        self.last = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        self.target = torch.randint(3, (count,), generator=generator)

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.sin(3 * x.double() @ self.first).relu() @ self.last
        return y.gather(1, self.target[:, None])[:, 0] + 0.5

    def select(self, index: Tensor) -> Bumpy:
        chosen = object.__new__(Bumpy)
        chosen.first, chosen.last, chosen.target = self.first, self.last, self.target[index]
        return chosen


def _assert_inside(region: InputSet, x: Tensor) -> None:
    assert (x >= region.lower).all()
    assert (x <= region.upper).all()
    if region.norm is not None:
        distance = (x - region.center).norm(p=region.norm, dim=-1)
        assert (distance <= region.radius * (1 + 1e-6)).all()


ATTACKS = st.sampled_from(
    [
        fgsm(),
        bim(5),
        pgd(6, 3),
        Descent(steps=9, restarts=2, momentum=0.9, goal=-math.inf),
        Descent(steps=0),
        Zoom(points=16, keep=2, turns=2),
        Zoom(points=24, keep=3, turns=1, goal=-math.inf),
    ]
)


@settings(max_examples=150, deadline=None)
@given(ATTACKS, SEEDS, st.integers(1, 6), st.integers(1, 9), NORMS)
def test_result_lies_in_the_region_and_its_margin_is_the_objectives(
    attack: Attack | Zoom, seed: int, count: int, size: int, norm: float | None
) -> None:
    region, objective = _region(seed, count, size, norm), Bumpy(seed, size, count)
    attack = dataclasses.replace(attack, seed=seed)
    x, margin = attack(objective, region)
    assert x.shape == (count, size)
    _assert_inside(region, x)
    assert torch.allclose(objective(x), margin, rtol=1e-12, atol=1e-12)
    assert (margin <= objective(region.start()) + 1e-12).all(), "worse than the starting point"


@settings(max_examples=60, deadline=None)
@given(SEEDS, NORMS)
def test_the_start_is_used_and_projected(seed: int, norm: float | None) -> None:
    region, objective = _region(seed, 3, 4, norm), Bumpy(seed, 4, 3)
    start = 10 * torch.randn(3, 4, generator=_generator(seed), dtype=torch.float64)
    x, margin = Descent(steps=0, restarts=4, goal=-math.inf)(objective, region, start)
    _assert_inside(region, x)
    assert (margin <= objective(region.project(start)) + 1e-12).all()


def _least(c: np.ndarray, region: InputSet, i: int) -> float:
    """min c @ x over region i, whose ball is centred in its box: closed forms, by bisection for L2."""
    lower, upper = region.lower[i].numpy(), region.upper[i].numpy()
    corner = np.where(c > 0, lower, upper)
    if region.norm is None:
        return float(c @ corner)
    center, radius = region.center[i].numpy(), float(region.radius[i])
    if region.norm == 1:  # the radius is spent where it buys most, each coordinate up to the box
        x, left = center.copy(), radius
        for j in np.argsort(-np.abs(c)):
            step = min(left, abs(corner[j] - center[j]))
            x[j] += math.copysign(step, corner[j] - center[j])
            left -= step
        return float(c @ x)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        far = np.linalg.norm(np.clip(center - middle * c, lower, upper) - center) > radius
        low, high = (low, middle) if far else (middle, high)
    return float(c @ np.clip(center - low * c, lower, upper))


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 8), NORMS)
def test_pgd_reaches_the_optimum_of_a_linear_objective(seed: int, count: int, size: int, norm: float | None) -> None:
    region = _region(seed, count, size, norm)
    c = torch.randn(size, generator=_generator(seed + 1), dtype=torch.float64)
    _, margin = pgd(60, 2, goal=-math.inf, seed=seed)(lambda x: x @ c, region)
    least = torch.tensor([_least(c.numpy(), region, i) for i in range(count)], dtype=torch.float64)
    assert (margin >= least - 1e-9).all(), "below the closed form"
    if norm is None:
        assert torch.allclose(margin, least, rtol=1e-9, atol=1e-9)
    else:  # where ball and box meet in a corner, the last part comes slowly
        assert (margin <= least + 0.1 * c.norm() * region.radius).all()


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 30))
def test_fgsm_is_exact_on_a_linear_objective_over_a_box(seed: int, size: int) -> None:
    region = _region(seed, 2, size, None)
    c = torch.randn(size, generator=_generator(seed + 1), dtype=torch.float64)
    margin = fgsm(goal=-math.inf)(lambda x: x @ c, region).margin
    least = [_least(c.numpy(), region, i) for i in range(2)]
    assert np.allclose(margin, least, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [None, 2, 1])
def test_planted_counterexamples_are_found(norm: float | None) -> None:
    """A hidden dip around a random point of each region, too narrow for a handful of samples."""
    region = _region(7, 20, 5, norm)
    hidden = region.sample(_generator(8))

    class Dip:
        def __init__(self, hidden: Tensor) -> None:
            self.hidden = hidden

        def __call__(self, x: Tensor) -> Tensor:
            return (x - self.hidden).norm(dim=-1) - 0.05

        def select(self, index: Tensor) -> Dip:
            return Dip(self.hidden[index])

    assert (Dip(hidden)(region.start()) > 0).sum() >= 15
    assert (pgd(80, 3)(Dip(hidden), region).margin <= 0).all()


def test_the_guide_leads_where_the_margin_is_flat() -> None:
    class Plateau:
        def __call__(self, x: Tensor) -> Tensor:
            return self.guide(x)[0]

        def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.where(x[:, 0] > 0.9, -1.0, 1.0), -x[:, 0]

    region = InputSet(-torch.ones(1, 3), torch.ones(1, 3))
    margin = Plateau.__call__
    assert bim()(lambda x: margin(Plateau(), x), region).margin > 0
    assert bim()(Plateau(), region).margin == -1


@settings(max_examples=40, deadline=None)
@given(SEEDS, NORMS, st.sampled_from([pgd(5, 4, goal=-math.inf), Zoom(16, 2, 2, goal=-math.inf)]))
def test_the_same_seed_gives_the_same_result(seed: int, norm: float | None, attack: Attack | Zoom) -> None:
    region, objective = _region(seed, 3, 4, norm), Bumpy(seed, 4, 3)
    attack = dataclasses.replace(attack, seed=seed)
    first, second = attack(objective, region), attack(objective, region)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.margin, second.margin)


def test_restarts_differ_and_so_do_seeds() -> None:
    region = InputSet(-torch.ones(1, 6), torch.ones(1, 6))
    seen: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.sum(-1) + 10

    pgd(0, 5, seed=1)(watch, region)
    pgd(0, 5, seed=2)(watch, region)
    assert len(torch.unique(torch.cat(seen), dim=0)) == 9  # the middle is met by both


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    NORMS,
    st.sampled_from([math.nan, math.inf, -math.inf, 1e38, 1e-38]),
    st.sampled_from([pgd(6, 3, goal=-math.inf), Zoom(16, 2, 2, goal=-math.inf)]),
)
def test_odd_gradients_and_margins_are_harmless(
    seed: int, norm: float | None, factor: float, attack: Attack | Zoom
) -> None:
    region = _region(seed, 4, 5, norm, torch.float32)
    c = torch.randn(5, generator=_generator(seed))

    def objective(x: Tensor) -> Tensor:
        margin = x @ c
        return torch.where(margin > margin.detach().median(), margin, margin * factor)

    x, margin = dataclasses.replace(attack, seed=seed)(objective, region)
    assert torch.isfinite(x).all()
    _assert_inside(region, x)
    assert not margin.isnan().any()


def test_an_objective_that_is_never_a_number_leaves_the_margin_infinite() -> None:
    region = InputSet(-torch.ones(2, 3), torch.ones(2, 3))
    for attack in (pgd(4, 2), Zoom(16, 2)):
        x, margin = attack(lambda x: x.sum(-1) * math.nan, region)
        assert (margin == math.inf).all()
        _assert_inside(region, x)


def test_a_constant_objective_has_no_gradient_and_needs_none() -> None:
    region = InputSet(-torch.ones(2, 3), torch.ones(2, 3))
    assert (pgd(4, 2)(lambda x: torch.ones(len(x)), region).margin == 1).all()


def test_stop_ends_the_attack_with_what_it_has() -> None:
    region, calls = InputSet(-torch.ones(1, 2), torch.ones(1, 2)), []

    def objective(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.sum(-1) + 5

    result = pgd(50, 3, stop=lambda: len(calls) >= 4)(objective, region)
    assert calls == [3] * 4
    assert isinstance(result, Result)
    assert result.margin < 5


def test_the_fallen_leave_the_batch() -> None:
    region = InputSet(-torch.ones(10, 2), torch.ones(10, 2))
    sizes: list[int] = []

    class Shifted:
        def __init__(self, shift: Tensor) -> None:
            self.shift = shift

        def __call__(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return x.sum(-1) + self.shift

        def select(self, index: Tensor) -> Shifted:
            return Shifted(self.shift[index])

    shift = torch.tensor([-1.0] * 8 + [9.0, 1.0])
    x, margin = pgd(12, 2)(Shifted(shift), region)
    assert sizes[0] == 20
    assert sizes[1] == 4
    assert torch.equal(margin, x.sum(-1) + shift)
    assert (margin <= 0).tolist() == [True] * 8 + [False, True]


class Wells:
    """Margin `depth[i]` within 0.1 of the middle of entry i's region, 1 elsewhere, with slopes that lead away."""

    def __init__(self, depth: Tensor) -> None:
        self.depth, self.calls = depth, [0]

    def __call__(self, x: Tensor) -> Tensor:
        self.calls[0] += len(x)
        return torch.where(x.norm(dim=-1) < 0.1, self.depth, 1.5 - x.norm(dim=-1) / 8)

    def select(self, index: Tensor) -> Wells:
        chosen = Wells(self.depth[index])
        chosen.calls = self.calls
        return chosen


@pytest.mark.parametrize("attack", [Descent(steps=20, restarts=2), Zoom(points=64, keep=8)])
def test_one_point_is_enough_for_a_group(attack: Attack | Zoom) -> None:
    """Of three regions the first falls at once; the second, of its group, is left alone then, the third is not."""
    region, depth = InputSet(-torch.ones(3, 2), torch.ones(3, 2)), torch.tensor([-1.0, 1.0, 1.0])
    together, apart, all_one = Wells(depth), Wells(depth), Wells(depth)
    found = attack(together, region, groups=torch.tensor([7, 7, 3]))
    assert (found.margin <= 0).tolist() == [True, False, False]
    attack(apart, region)
    attack(all_one, region, groups=torch.tensor([7, 7, 7]))
    assert all_one.calls[0] < together.calls[0] < apart.calls[0]


@pytest.mark.parametrize("norm", [None, 2])
def test_a_zoom_finds_what_descents_do_not(norm: float | None) -> None:
    """The slopes lead away from narrow wells; the ground is lower near them."""
    region = _region(3, 12, 2, norm)
    hidden = region.sample(_generator(4))

    class Moat:
        def __init__(self, hidden: Tensor) -> None:
            self.hidden = hidden

        def __call__(self, x: Tensor) -> Tensor:
            far = (x - self.hidden).norm(dim=-1)
            steps = (far * 40).floor()  # a staircase toward the well, each of whose steps rises toward it
            return torch.where(far < 0.02, -1.0, 0.1 * steps + 0.09 * (1 - (far * 40 - steps)))

        def select(self, index: Tensor) -> Moat:
            return Moat(self.hidden[index])

    descents = pgd(90, 128)(Moat(hidden), region).margin <= 0
    zoomed = Zoom(points=128, turns=4)(Moat(hidden), region)
    assert (zoomed.margin <= 0).all()
    assert descents.sum() < 12
    assert torch.equal(Moat(hidden)(zoomed.x), zoomed.margin)


def test_a_zoom_costs_what_it_says() -> None:
    """Values count one, gradients two more; the points that are kept are not in the estimate."""
    region, spent = InputSet(-torch.ones(1, 3), torch.ones(1, 3)), [0]

    def objective(x: Tensor) -> Tensor:
        spent[0] += len(x) * (3 if x.requires_grad else 1)
        return x.sum(-1) + 10

    zoom = Zoom(points=256)
    zoom(objective, region)
    assert spent[0] == pytest.approx(zoom.evaluations, rel=0.3)


def test_a_zoom_stops_when_told_to() -> None:
    region, calls = InputSet(-torch.ones(1, 2), torch.ones(1, 2)), []

    def objective(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.sum(-1) + 5

    result = Zoom(points=64, stop=lambda: len(calls) >= 3)(objective, region)
    assert calls == [64] * 3
    assert result.margin < 5


def test_no_region_is_no_work() -> None:
    empty = InputSet(torch.zeros(0, 3), torch.ones(0, 3))
    assert pgd()(lambda x: x.sum(-1), empty).margin.shape == (0,)
    assert Zoom()(lambda x: x.sum(-1), empty).margin.shape == (0,)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="restarts"):
        pgd(5, 0)
    with pytest.raises(ValueError, match="steps"):
        pgd(-1)
    for bad in ({"points": 4}, {"points": 64, "keep": 9}, {"keep": 0}, {"turns": -1}, {"shrink": 1.0}):
        with pytest.raises(ValueError, match="zoom"):
            Zoom(**bad)


def test_schedules_end_where_they_say() -> None:
    assert [Geometric(0.5, 0.01)(p) for p in (0.0, 1.0)] == pytest.approx([0.5, 0.01])
    assert [Constant(0.2)(p) for p in (0.0, 1.0)] == [0.2, 0.2]
