"""The least value of linear forms over balls cut by boxes: below every point's, and attained."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certify.check.least import least
from certify.spec.inputset import stack
from certify.spec.regions import Region, ball
from tests import strategies

Array = np.ndarray

quick = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)

SIZE = 4


def cut_ball(norm: float, seed: int) -> Region:
    """A ball of which a data range may cut off nothing, a part, or nearly all; its centre may lie on the range's side,
    or beyond it."""
    rng = np.random.default_rng(seed)
    center = rng.choice([0.0, 0.25, 1.0, -0.125], SIZE)
    radius = float(rng.choice([0.6, 1.0, 3.0]))  # a range that begins at 0 is at most 0.5 away
    return ball(center, radius, norm, (0.0 - 0.125 * (seed % 2), 1.0))


@quick
@given(st.sampled_from([1, 2]), st.integers(0, 2**16), strategies.arrays((3, SIZE)))
def test_the_bound_is_attained_by_a_point_of_the_region(norm: float, seed: int, forms: Array) -> None:
    """Weak duality: a bound and a point that agree are both the optimum."""
    region = cut_ball(norm, seed)
    ((_, inputs),) = stack([region], torch.float64)
    a = torch.from_numpy(forms)[None]
    bound, point = inputs.minimum(a)[0].numpy(), inputs.minimiser(a)[0].numpy()
    rigorous = least(forms[None], region.lower[None], region.upper[None], region)[0]
    outward = (1 + 1e-9) * region.radius
    inside = (region.lower <= region.center).all() and (region.center <= region.upper).all()
    for row, x, value, proved in zip(forms, point, bound, rigorous, strict=True):
        scale = region.radius * np.abs(row).sum() + 1e-300
        assert (region.lower <= x).all()
        assert (x <= region.upper).all()
        if inside:
            assert np.linalg.norm(x - region.center, norm) <= outward
            assert value >= row @ x - 2e-3 * scale
            assert value <= row @ x + 1e-9 * (scale + np.abs(row @ x))
            assert abs(proved - value) <= 1e-6 * scale + 1e-12 * np.abs(row).sum() + 1e-280
        else:
            assert proved > -np.inf


@quick
@given(st.sampled_from([1, 2]), st.integers(0, 2**16), strategies.arrays((2, SIZE)))
def test_no_point_of_the_region_is_below_the_proved_bound(norm: float, seed: int, forms: Array) -> None:
    """Without any tolerance."""
    region = cut_ball(norm, seed)
    ((_, inputs),) = stack([region], torch.float64)
    proved = least(forms[None], region.lower[None], region.upper[None], region)[0]
    tried = [*inputs.minimiser(torch.from_numpy(forms)[None])[0].numpy(), region.lower, region.upper, region.center]
    points = [x for x in (region.pull_inside(t, np.float64) for t in tried) if x is not None]
    assert points
    for row, value in zip(forms, proved, strict=True):
        for x in points:
            assert Fraction(float(value)) <= sum(Fraction(p) * Fraction(q) for p, q in zip(row, x, strict=True))


@pytest.mark.parametrize("norm", [1, 2])
def test_a_ball_at_the_side_of_the_data_range_reaches_half_as_far(norm: float) -> None:
    """At the corner of the cube, forms that grow away from it are least there: neither set alone knows that."""
    region = ball(np.zeros(SIZE), 1.0, norm, (0.0, 1.0))
    a = np.array([[1.0, 1.0, -0.75, 0.5]])
    proved = least(a[None], region.lower[None], region.upper[None], region)
    assert proved[0, 0] == pytest.approx(-0.75, abs=1e-6)


@pytest.mark.parametrize("entry", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("norm", [1, 2])
def test_what_overflows_bounds_nothing_false(norm: float, entry: float) -> None:
    region = ball(np.zeros(SIZE), 1.0, norm, (0.0, 1.0))
    a = np.array([[entry, 1.0, 0.0, -entry]])
    with np.errstate(all="ignore"):
        proved = float(least(a[None], region.lower[None], region.upper[None], region)[0, 0])
    assert not proved > -entry
