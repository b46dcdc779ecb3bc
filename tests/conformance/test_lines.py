"""Lines and bands around elementwise functions, against dense samples of the functions themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from certify.bounds.slopes import Slopes
from certify.graph import ops
from certify.graph.evaluate import FUNCTIONS
from certify.relax.elementwise import LINES, Lines, adaptive, has_slope
from certify.relax.parallel import BANDS
from tests.strategies import ACTIVATIONS

each = pytest.mark.parametrize("op", ACTIVATIONS, ids=repr)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def _function(op: ops.Elementwise, x: Tensor) -> Tensor:
    return FUNCTIONS[op](op, lambda a: torch.tensor(a, dtype=x.dtype))(x)


def _intervals(dtype: torch.dtype, count: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bounds (1, count) of widths from 1e-12 to 1e6 about centres from 1e-12 to 1e6, about 0 and the
    kinks of `ACTIVATIONS`, some of them without width, or ending at 0."""
    rng = np.random.default_rng(seed)
    center = rng.choice([-1, 1], count) * 10 ** rng.uniform(-12, 6, count)
    near = rng.random(count) < 0.4
    center[near] = rng.choice([-1.0, 0.0, 0.25, 0.5, 1.0, 6.0], near.sum()) + rng.normal(0, 2, near.sum())
    width = 10 ** rng.uniform(-12, 6, count) * (rng.random(count) > 0.05)
    share = rng.random(count)
    lower, upper = (torch.from_numpy(b).to(dtype)[None] for b in (center - share * width, center + (1 - share) * width))
    at_zero = torch.from_numpy(rng.integers(0, 10, count))[None]
    lower, upper = torch.where(at_zero == 0, 0, lower), torch.where(at_zero == 1, 0, upper)
    return torch.minimum(lower, upper), torch.maximum(lower, upper)


def _samples(lower: Tensor, upper: Tensor, count: int = 200) -> Tensor:
    """Points (P, B, N) of the intervals in float64: spread evenly, and gathered about the ends and 0."""
    lower, upper = lower.double(), upper.double()
    even = torch.linspace(0, 1, count, dtype=torch.float64)[:, None, None]
    close = 10 ** torch.linspace(-15, 0, 30, dtype=torch.float64)[:, None, None]
    width = upper - lower
    kinks = [torch.full_like(lower, p)[None] for p in (-1.0, 0.0, 0.25, 0.5, 1.0, 6.0)]
    found = [lower + even * width, lower + close * width, upper - close * width, close, -close, *kinks]
    return torch.cat([torch.minimum(torch.maximum(x.expand(-1, *lower.shape), lower), upper) for x in found])


def _tolerance(slope: Tensor, shift: Tensor, y: Tensor, lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Tensor:
    """A few units in the last place of the largest number that the line is made of on its interval."""
    size = torch.maximum(lower.abs(), upper.abs()).double()
    return 4 * torch.finfo(dtype).eps * (slope.abs() * size + shift.abs() + y.abs()) + torch.finfo(dtype).tiny * 10


def _excess(lines: Lines, op: ops.Elementwise, lower: Tensor, upper: Tensor, x: Tensor | None = None) -> float:
    """By how much the function leaves its lines by more than rounding, at most."""
    x = _samples(lower, upper) if x is None else x
    y = _function(op, x)
    low, down, up, above = (t.double() for t in lines)
    size = down.abs() + above.abs()  # both count where the lines are the two sides of a band
    below = low * x + down - y - _tolerance(low, size, y, lower, upper, lower.dtype)
    over = y - up * x - above - _tolerance(up, size, y, lower, upper, lower.dtype)
    worst = torch.maximum(below, over)
    return float(torch.where(worst.isnan(), torch.inf, worst).max())


@each
@precisions
def test_lines_hold(op: ops.Elementwise, dtype: torch.dtype) -> None:
    lower, upper = _intervals(dtype)
    assert _excess(LINES[op](op, lower, upper, None), op, lower, upper) <= 0
    slope = torch.rand(lower.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert _excess(LINES[op](op, lower, upper, slope), op, lower, upper) <= 0


@each
@precisions
def test_bands_hold(op: ops.Elementwise, dtype: torch.dtype) -> None:
    lower, upper = _intervals(dtype, seed=1)
    slope, shift, radius = BANDS[op](op, lower, upper)
    assert (radius >= 0).all()
    assert _excess(Lines(slope, shift - radius, slope, shift + radius), op, lower, upper) <= 0


@each
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.floats(-1e4, 1e4), st.floats(0, 1e4))
def test_lines_hold_where_hypothesis_looks(op: ops.Elementwise, start: float, width: float) -> None:
    lower, upper = torch.tensor([[start]], dtype=torch.float64), torch.tensor([[start + width]], dtype=torch.float64)
    assert _excess(LINES[op](op, lower, upper, None), op, lower, upper) <= 0
    slope, shift, radius = BANDS[op](op, lower, upper)
    assert _excess(Lines(slope, shift - radius, slope, shift + radius), op, lower, upper) <= 0


@each
def test_lines_are_the_function_where_it_is_affine(op: ops.Elementwise) -> None:
    """On an interval of one point, and on one without a breakpoint inside, nothing is lost."""
    lower, upper = _intervals(torch.float64, seed=2)
    points = ops.breakpoints(op)
    jump = isinstance(op, ops.Sign)  # at a jump an end of the interval belongs to neither side
    stable = lower == upper
    if points is not None:
        free = ~stable & (jump & (lower == 0) | jump & (upper == 0))
        for p in points:
            free = free | (lower < p) & (p < upper)
        stable = ~free
    low, down, up, above = (t.expand_as(lower) for t in LINES[op](op, lower, upper, None))
    band = BANDS[op](op, lower, upper)
    for x in (lower, upper):
        y = _function(op, x)
        allowed = _tolerance(up, above, y, lower, upper, torch.float64)[stable]
        assert stable.sum() > 100
        assert ((low * x + down - y).abs()[stable] <= allowed).all()
        assert ((up * x + above - y).abs()[stable] <= allowed).all()
        assert ((band.slope * x + band.shift - y).abs()[stable] <= allowed).all()
        assert (band.radius[stable] <= allowed).all()


def test_stable_relus_are_exact_to_the_bit() -> None:
    lower, upper = (torch.tensor([b], dtype=torch.float32) for b in ([0.0, 1e-30, 3.0, -5.0, -1e-30], [1, 7, 3, -1, 0]))
    for slope in (None, torch.full_like(lower, 0.5)):
        low, down, up, above = LINES[ops.Relu()](ops.Relu(), lower, upper, slope)
        assert low.tolist() == up.tolist() == [[1, 1, 1, 0, 0]]
        assert not down.any()
        assert not above.any()


@each
def test_lines_have_the_least_area(op: ops.Elementwise) -> None:
    """The area between a line and the function is least for the line that is nearest at the middle. No line
    that holds on the samples is nearer there than the lines of `LINES`."""
    rng = np.random.default_rng(3)
    ends = np.sort(rng.normal(0, 3, (2, 60)), 0)
    lower, upper = (torch.from_numpy(e)[None] for e in ends)
    low, down, up, above = (t.expand_as(lower) for t in LINES[op](op, lower, upper, None))
    x = _samples(lower, upper, 1000)
    y, middle = _function(op, x), (lower + upper) / 2
    slopes = torch.linspace(-3, 3, 400, dtype=torch.float64)[:, None, None, None]
    offsets = y - slopes * x
    grid = 1e-2 * (1 + upper - lower)
    most = (offsets.amax(1, keepdim=True) + slopes * middle).amin(0)[0]
    least = (offsets.amin(1, keepdim=True) + slopes * middle).amax(0)[0]
    assert (up * middle + above <= most + grid).all()
    if not has_slope(op) or float(getattr(op, "slope", 0.0)) > 1:  # the free line is one of the two pieces instead
        assert (low * middle + down >= least - grid).all()


@each
def test_bands_are_the_narrowest(op: ops.Elementwise) -> None:
    rng = np.random.default_rng(4)
    ends = np.sort(rng.normal(0, 3, (2, 40)), 0)
    lower, upper = (torch.from_numpy(e)[None] for e in ends)
    x = _samples(lower, upper, 400)
    offsets = _function(op, x) - torch.linspace(-3, 3, 600, dtype=torch.float64)[:, None, None, None] * x
    best = ((offsets.amax(1) - offsets.amin(1)) / 2).amin(0)
    assert (BANDS[op](op, lower, upper).radius <= best + 1e-4).all()


@pytest.mark.parametrize("op", [op for op in ACTIVATIONS if has_slope(op)], ids=repr)
def test_the_slope_drives_the_line_through_zero(op: ops.Elementwise) -> None:
    lower, upper = torch.tensor([[-2.0, -1.0, 1.0, -3.0]]), torch.tensor([[1.0, 4.0, 2.0, -1.0]])
    slope = torch.tensor([[0.25, math.nan, 0.25, 0.25], [0.75, 0.0, 0.5, math.nan]])
    lines = LINES[op](op, lower, upper, slope.unsqueeze(0))
    assert torch.broadcast_shapes(*(t.shape for t in lines)) == (1, 2, 4)
    a = 0.0 if isinstance(op, ops.Relu) else -1.0 if isinstance(op, ops.Abs) else float(op.slope)
    expected = a + (1 - a) * torch.tensor([[0.25, 1.0, 1.0, 0.0], [0.75, 0.0, 1.0, 0.0]])
    driven, shift = (lines.lower_slope, lines.lower_shift) if a <= 1 else (lines.upper_slope, lines.upper_shift)
    assert torch.allclose(driven[0], expected)
    assert not shift.any()
    assert adaptive(lower, upper).tolist() == [[0, 1, 1, 0]]  # what a NaN stands for


@pytest.mark.parametrize("op", [op for op in ACTIVATIONS if has_slope(op)], ids=repr)
def test_the_rules_for_slopes(op: ops.Elementwise) -> None:
    lower, upper = torch.tensor([[-3.0, -1.0]], dtype=torch.float64), torch.tensor([[1.0, 4.0]], dtype=torch.float64)
    expected = {
        Slopes.ADAPTIVE: [[0, 1]],
        Slopes.PARALLEL: [[0.25, 0.8]],
        Slopes.ZERO: [[0, 0]],
        Slopes.ONE: [[1, 1]],
    }
    assert set(expected) == set(Slopes)
    for rule, parameter in expected.items():
        assert rule.parameter(lower, upper).tolist() == parameter
    lines = LINES[op](op, lower, upper, Slopes.PARALLEL.parameter(lower, upper))
    assert torch.allclose(lines.lower_slope, lines.upper_slope)


@each
@precisions
def test_unusual_bounds(op: ops.Elementwise, dtype: torch.dtype) -> None:
    """Infinite, huge and crossed bounds give finite lines, that hold wherever the bounds hold anything."""
    huge = torch.finfo(dtype).max
    pairs = [
        (-math.inf, math.inf),
        (-5, math.inf),
        (-math.inf, 5),
        (3, math.inf),
        (-math.inf, -2),
        (-huge, huge),
        (-1, huge),
        (-huge, 1),
        (-1e-42, 1e-42),
        (-1e-300, 1e-300),
        (math.inf, math.inf),
        (0.1, -0.1),
        (huge, -huge),
        (5, -5),
    ]
    lower, upper = (torch.tensor([side], dtype=dtype) for side in zip(*pairs, strict=True))
    lines, band = LINES[op](op, lower, upper, None), BANDS[op](op, lower, upper)
    assert all(t.isfinite().all() for t in (*lines, *band))
    some = torch.tensor([-1e30, -1e3, -5, -0.5, 0, 0.5, 5, 1e3, 1e30], dtype=torch.float64)[:, None, None]
    most = huge / 4
    x = torch.minimum(torch.maximum(some, lower.double().clamp(-most, most)), upper.double().clamp(-most, most))
    real = (lower <= upper)[0]
    assert real.sum() == 11
    for held in (lines, Lines(band.slope, band.shift - band.radius, band.slope, band.shift + band.radius)):
        chosen = Lines(*(t.expand_as(lower)[:, real] for t in held))
        bounds = (b[:, real].clamp(-most, most) for b in (lower, upper))
        assert _excess(chosen, op, *bounds, x[..., real]) <= 0


@each
def test_nan_bounds_claim_nothing_false(op: ops.Elementwise) -> None:
    """A line from a NaN bound is NaN, or holds however far the interval might reach on that side."""
    ends = [-3.0, -0.5, 0.0, 0.25, 2.0]
    far = torch.tensor([-1e5, -30.0, -4.0, -1.0, -0.1, 0.0, 0.1, 1.0, 4.0, 30.0, 1e5], dtype=torch.float64)
    for end in ends:
        for lower, upper in ((math.nan, end), (end, math.nan), (math.nan, math.nan)):
            low, up = (torch.tensor([[b]], dtype=torch.float64) for b in (lower, upper))
            x = far[~(far < lower) & ~(far > upper)]
            y = _function(op, x)
            below, down, over, above = (float(t) for t in LINES[op](op, low, up, None))
            assert not (below * x + down > y + 1e-9).any()
            assert not (over * x + above < y - 1e-9).any()
            slope, shift, radius = (float(t) for t in BANDS[op](op, low, up))
            assert not ((y - slope * x - shift).abs() > radius + 1e-9).any()
