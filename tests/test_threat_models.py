"""Regions of attacks: every projection and step against a convex program or all possibilities; never outside."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.geometry import NORMS
from attacks.regions import Ball, Box, Joint, ball

SEEDS = st.integers(0, 2**31 - 1)
CONVEX = (torch.inf, 2.0, 1.0)


def _case(seed: int, size: int = 6) -> tuple[np.ndarray, np.ndarray, float]:
    """Magnitudes, room (some none, some endless) and a radius."""
    rng = np.random.default_rng(seed)
    room = rng.random(size) * rng.choice([0, 0.3, 1, 1e6], size)
    return rng.random(size) * rng.choice([0, 1, 2], size), room, float(rng.random() * 2 + 0.05)


def _one(array: np.ndarray | float) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float64).reshape(1, -1)


def _solved(objective: cp.Problem) -> float:
    return objective.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)


@pytest.mark.parametrize("p", CONVEX)
@pytest.mark.parametrize("seed", range(4))
def test_nearest_steepest_and_shortest_solve_their_programs(p: float, seed: int) -> None:
    m, room, radius = _case(100 * seed + int(min(p, 9)))
    norm, z = NORMS[p], cp.Variable(len(m))
    order = "inf" if p == torch.inf else int(p)
    inside = [z >= 0, z <= room, cp.norm(z, order) <= radius]
    found = norm.nearest(_one(m), _one(room), _one(radius))[0].numpy()
    least = _solved(cp.Problem(cp.Minimize(cp.sum_squares(z - m)), inside))
    assert ((found - m) ** 2).sum() == pytest.approx(least, abs=1e-6)
    assert (found <= room + 1e-12).all()
    assert np.linalg.norm(found, p) <= radius + 1e-9
    found = norm.steepest(_one(m), _one(room), _one(radius))[0].numpy()
    assert m @ found == pytest.approx(_solved(cp.Problem(cp.Maximize(m @ z), inside)), abs=1e-6)
    assert np.linalg.norm(found, p) <= radius + 1e-9
    assert (found <= room + 1e-12).all()
    total = 0.7 * float(m @ np.minimum(room, 3))
    found = norm.shortest(_one(m), _one(room), _one(total))[0].numpy()
    shortest = _solved(cp.Problem(cp.Minimize(cp.norm(z, order)), [z >= 0, z <= room, m @ z == total]))
    assert np.linalg.norm(found, p) == pytest.approx(shortest, abs=1e-6)
    assert m @ found == pytest.approx(total, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(CONVEX), st.sampled_from((torch.float32, torch.float64)))
def test_an_entry_alone_is_as_in_its_batch(seed: int, p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    norm, size = NORMS[p], int(torch.randint(1, 40, ()))
    scale = torch.tensor([1, 1, 0, 1e-30, 1e30], dtype=dtype)[torch.randint(5, (6, 1))]
    m, room = torch.rand(6, size, dtype=dtype) * scale, torch.rand(6, size, dtype=dtype)
    radius, rows = torch.rand(6, 1, dtype=dtype), torch.randperm(6)[: int(torch.randint(1, 6, ()))]
    assert torch.equal(norm.length(m)[rows], norm.length(m[rows]))
    assert torch.equal(norm.length(m), norm.length(m.T.contiguous().T)), "another layout"
    m = torch.where(scale < 1e30, m, 1)
    for f in (norm.nearest, norm.steepest):
        assert torch.equal(f(m, room, radius)[rows], f(m[rows], room[rows], radius[rows])), f.__name__


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_few_entries_are_the_best_ones(seed: int) -> None:
    m, room, radius = _case(seed, 5)
    count, norm = int(radius * 2), NORMS[0.0]
    subsets = [np.isin(range(5), chosen) for chosen in itertools.combinations(range(5), count)]
    kept = np.minimum(m, room)
    found = norm.nearest(_one(m), _one(room), _one(count))[0].numpy()
    assert ((found - m) ** 2).sum() == pytest.approx(min(((np.where(s, kept, 0) - m) ** 2).sum() for s in subsets))
    found = norm.steepest(_one(m), _one(room), _one(count))[0].numpy()
    assert m @ found == pytest.approx(max((m * room)[s].sum() for s in subsets))
    assert (found > 0).sum() <= count


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from((*CONVEX, 0.0)))
def test_what_cannot_be_reached_fills_the_room(seed: int, p: float) -> None:
    m, room, _ = _case(seed)
    found = NORMS[p].shortest(_one(m), _one(room), _one(1e30))[0].numpy()
    assert np.array_equal(found, np.where(m > 0, room, 0))


def _ball(seed: int, p: float, dtype: torch.dtype, size: int = 40, count: int = 5) -> Ball:
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(count, size, generator=generator, dtype=dtype)
    center[:, : size // 4] = (center[:, : size // 4] > 0.5).to(dtype)  # as images, often at the edge of the range
    radius = torch.rand(count, generator=generator) * {torch.inf: 0.5, 2.0: 1.0, 1.0: 3.0, 0.0: 9.0}[p]
    return ball(center, radius, p)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.sampled_from((*CONVEX, 0.0)), st.sampled_from((torch.float32, torch.float64)))
def test_no_point_lies_outside_its_ball(seed: int, p: float, dtype: torch.dtype) -> None:
    region = _ball(seed, p, dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    far = region.center + torch.randn(region.center.shape, generator=generator, dtype=dtype)
    slope = torch.randn(region.center.shape, generator=generator, dtype=dtype)
    assert region.contains(region.start()).all()
    for x in (region.sample(generator), region.project(far), region.ascend(region.center, slope, 2.0)):
        assert x.dtype == dtype
        assert region.contains(x).all()
        again = region.ascend(x, slope, torch.full((len(x), 1), 0.3))
        assert region.contains(again).all()
        assert ((again - x) * slope).sum(-1).min() > -1e-5 or p == 0, "a step uphill leads down"
    inside = region.sample(generator)
    assert torch.allclose(region.project(inside), inside, atol=1e-6), "a point of the region is its own nearest one"


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from((1e-6, 1.0, 255.0, 1e12)), st.sampled_from((torch.float32, torch.float64)))
def test_without_a_data_range_a_projection_shrinks_whatever_the_scale(
    seed: int, scale: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    center, far, slope = (scale * torch.randn(4, 9, generator=generator, dtype=torch.float64).to(dtype) for _ in "123")
    radius = scale * torch.tensor([0.0, 0.01, 1.0, 100.0], dtype=torch.float64)
    region = ball(center, radius, 2.0, (-torch.inf, torch.inf))
    offset = (far - center).double()
    share = (radius / offset.norm(dim=1)).clamp_max(1)[:, None]
    found, roundings = region.project(far), 100 * torch.finfo(dtype).eps * scale
    assert region.contains(found).all()
    assert torch.allclose(found.double(), center.double() + share * offset, rtol=0, atol=roundings * 10)
    stepped = (region.ascend(center, slope, 0.5) - center).double()
    unit = slope.double() / slope.double().norm(dim=1, keepdim=True)
    assert torch.allclose(stepped, 0.5 * radius[:, None] * unit, rtol=0, atol=roundings * 10)


@pytest.mark.parametrize("p", CONVEX)
def test_a_ball_cut_by_the_data_range_is_not_clipped_afterwards(p: float) -> None:
    region = _ball(3, p, torch.float64, 6, 3)
    x = region.center + torch.randn(region.center.shape, generator=torch.Generator().manual_seed(4)).double()
    for i in range(3):
        z, order = cp.Variable(6), "inf" if p == torch.inf else int(p)
        ball_ = cp.norm(z - region.center[i].numpy(), order) <= float(region.radius[i])
        least = _solved(cp.Problem(cp.Minimize(cp.sum_squares(z - x[i].numpy())), [z >= 0, z <= 1, ball_]))
        assert float((region.project(x)[i] - x[i]).square().sum()) == pytest.approx(least, abs=1e-6)


def test_a_crossing_is_the_shortest_way_to_a_hyperplane() -> None:
    region = _ball(5, 2.0, torch.float64, 30)
    slope = torch.randn(region.center.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for margin in (torch.full((5,), 0.4, dtype=torch.float64), torch.full((5,), -0.4, dtype=torch.float64)):
        way = region.crossing(region.center, slope, margin)
        assert torch.allclose((way * slope).sum(-1), -margin)
        assert ((region.center + way >= -1e-12) & (region.center + way <= 1 + 1e-12)).all()


def test_parts_of_a_joint_region_keep_to_themselves() -> None:
    joint = Joint((_ball(1, 2.0, torch.float32, 8), Box(-torch.ones(5, 3), torch.ones(5, 3))))
    x = joint.project(10 * torch.randn(5, 11, generator=torch.Generator().manual_seed(2)))
    assert joint.contains(x).all()
    assert joint.select(torch.tensor([3, 1])).contains(x[[3, 1]]).all()
    moved = joint.ascend(joint.start(), torch.ones(5, 11), 0.5)
    assert torch.equal(joint.split(moved)[1], torch.full((5, 3), 0.5))


def test_bad_regions_are_refused() -> None:
    x = torch.rand(2, 3)
    for bad, match in (
        (lambda: ball(x.half(), 0.1), "float32"),
        (lambda: ball(x, 0.1, 3.0), "norm"),
        (lambda: ball(x, -1.0), "negative"),
        (lambda: ball(x, float("nan")), "numbers"),
        (lambda: ball(x + 2, 0.1), "range"),
        (lambda: ball(x * float("nan"), 0.1), "range"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
