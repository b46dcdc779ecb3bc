"""Lines and ranges of every elementwise operator hold exactly, on intervals of every width and place."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from certify.check.linear import Network
from certify.check.ops import Elementwise
from certify.check.smooth import TANH_ERROR, tanh_bounds
from certify.graph import ops
from tests.check.nets import chain
from tests.strategies import ACTIVATIONS

WIDTHS = (0.0, 1e-16, 1e-9, 1e-3, 0.3, 2.0, 30.0, 1e3, 1e6, 1e30)
CENTERS = (0.0, 5e-324, 1e-300, 1e-9, 0.2, 1.0, 5.0, 19.9, 40.0, 800.0, 1e7, 1e30)


def rule_of(op: ops.Elementwise) -> Elementwise:
    return Network(chain(1, (op, (1,)))).rules[1]


def intervals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Around, beside and across the centres, down to one unit in the last place, and none at all."""
    center = rng.choice(CENTERS, count) * rng.choice([-1, 1], count) * rng.uniform(0.5, 1.5, count)
    width = rng.choice(WIDTHS, count) * rng.random(count)
    lower = center - width * rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], count)
    upper = np.maximum(lower + width, lower)
    ulp = rng.random(count) < 0.2
    upper = np.where(ulp, np.nextafter(lower, np.inf), upper)
    touching = rng.random(count) < 0.1
    return np.where(touching & (upper >= 0), 0.0, lower), upper


def value(op: ops.Elementwise, x: float) -> Fraction | mpmath.mpf:
    """f(x): exact, or to 80 digits for the smooth ones."""
    exact = Fraction(x)
    if isinstance(op, ops.Relu):
        return max(exact, Fraction(0))
    if isinstance(op, ops.LeakyRelu):
        return exact if x >= 0 else exact * Fraction(float(op.slope))
    if isinstance(op, ops.Abs):
        return abs(exact)
    if isinstance(op, ops.Sign):
        return Fraction(int(x > 0) - int(x < 0))
    if isinstance(op, ops.Clip):
        return Fraction(min(max(x, op.lower), op.upper))
    half = mpmath.tanh(mpmath.mpf(x) / (1 if isinstance(op, ops.Tanh) else 2))
    return half if isinstance(op, ops.Tanh) else (1 + half) / 2


def places(op: ops.Elementwise, lower: float, upper: float, slopes: tuple[float, float]) -> list[float]:
    """Where a line could miss: ends, kinks and their neighbours, points where the derivative is the slope."""
    found = [lower, upper, (lower + upper) / 2, lower + (upper - lower) * 0.1, lower + (upper - lower) * 0.9]
    for kink in ops.breakpoints(op) or (0.0,):
        found += [kink, math.nextafter(kink, math.inf), math.nextafter(kink, -math.inf)]
    if isinstance(op, ops.Tanh | ops.Sigmoid):
        scale = 1.0 if isinstance(op, ops.Tanh) else 2.0
        for slope in slopes:
            steep = min(max(slope * scale**2, 0.0), 1.0)
            if 0 < steep <= 1:
                at = float(scale * mpmath.atanh(mpmath.sqrt(1 - mpmath.mpf(steep)))) if steep < 1 else 0.0
                found += [at, -at]
    return [x for x in found if lower <= x <= upper]


def number(x: float, smooth: bool) -> Fraction | mpmath.mpf:
    return mpmath.mpf(x) if smooth else Fraction(x)


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
@pytest.mark.parametrize("free", [False, True], ids=["default", "given"])
def test_lines_and_ranges(op: ops.Elementwise, free: bool) -> None:
    rng = np.random.default_rng(1)
    rule, smooth = rule_of(op), isinstance(op, ops.Tanh | ops.Sigmoid)
    lower, upper = intervals(rng, 400)
    parameter = rng.random((400, 1)) if free and rule.free_slope else None
    checked = 0
    with mpmath.workdps(80), np.errstate(all="ignore"):
        lines = rule.lines(lower[:, None], upper[:, None], parameter)
        low, high = rule.range(lower[:, None], upper[:, None])
        for k in range(400):
            below, low_shift, above, high_shift = (0.0 if a is None else float(a[k, 0]) for a in lines)
            for x in places(op, float(lower[k]), float(upper[k]), (below, above)):
                y, at = value(op, x), number(x, smooth)
                assert number(float(low[k, 0]), smooth) <= y <= number(float(high[k, 0]), smooth)
                if all(map(math.isfinite, (low_shift, high_shift))):
                    checked += 1
                    assert number(below, smooth) * at + number(low_shift, smooth) <= y
                    assert y <= number(above, smooth) * at + number(high_shift, smooth)
    assert checked > 1000  # nearly all lines are finite


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
def test_shifts_for_any_slope(op: ops.Elementwise) -> None:
    """The shifts are right for slopes that nobody would choose, as the affine forms use them."""
    rng = np.random.default_rng(2)
    rule, smooth = rule_of(op), isinstance(op, ops.Tanh | ops.Sigmoid)
    lower, upper = intervals(rng, 300)
    slope = rng.choice([0.0, -1.0, 1.0, 0.25, 1e-20, 3.0, -7.5], 300) * rng.choice([1.0, rng.random()], 300)
    with mpmath.workdps(80), np.errstate(all="ignore"):
        low = rule.lower_shift(slope[:, None], lower[:, None], upper[:, None])[:, 0]
        high = rule.upper_shift(slope[:, None], lower[:, None], upper[:, None])[:, 0]
        for k in range(300):
            for x in places(op, float(lower[k]), float(upper[k]), (float(slope[k]), 0.0)):
                rest = value(op, x) - number(float(slope[k]), smooth) * number(x, smooth)
                assert number(float(low[k]), smooth) <= rest <= number(float(high[k]), smooth)


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
def test_lines_are_tight(op: ops.Elementwise) -> None:
    """On unit intervals both lines touch the function, and on affine pieces they are the function."""
    rule = rule_of(op)
    lower = np.linspace(-3, 3, 25)[:, None]
    upper = lower + 0.7
    lines = rule.lines(lower, upper)
    x = np.linspace(lower, upper, 400)
    y = np.vectorize(lambda v: float(value(op, v)))(x)
    zero = np.zeros_like(lower)
    gap_below = (y - lines.lower_slope * x - (zero if lines.lower_shift is None else lines.lower_shift)).min(0)
    gap_above = (lines.upper_slope * x + (zero if lines.upper_shift is None else lines.upper_shift) - y).min(0)
    inside_of_sign = isinstance(op, ops.Sign)  # its infimum at 0 is approached, not attained
    assert gap_below.max() < (2.1 if inside_of_sign else 1e-2)
    assert gap_above.max() < (2.1 if inside_of_sign else 1e-2)
    straight = ~rule.bent(lower, upper)[:, 0]
    if not isinstance(op, ops.Tanh | ops.Sigmoid):
        assert straight.any()
        np.testing.assert_allclose((lines.lower_slope * x)[:, straight], (lines.upper_slope * x)[:, straight])


@pytest.mark.parametrize("op", [ops.Tanh(), ops.Sigmoid()], ids=lambda op: type(op).__name__)
def test_lines_are_tight_where_wide_intervals_are_far_from_zero(op: ops.Elementwise) -> None:
    """As of what a mask of the least float32 leaves of scores: nothing is lost to the width."""
    center, width = np.array([[1e9], [3.4e38], [-1e9], [-3.4e38]]), np.array([[1e3], [1e23], [1e3], [1e23]])
    lines = rule_of(op).lines(center - width, center + width)
    for x in (center - width, center, center + width):
        y = np.vectorize(lambda v: float(value(op, v)))(x)
        assert (y - (lines.lower_slope * x + lines.lower_shift) < 1e-9).all()
        assert (lines.upper_slope * x + lines.upper_shift - y < 1e-9).all()


def test_tanh_stays_within_its_bound() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-25, 25, 3000), 10.0 ** rng.uniform(-320, 5, 500), [0.0, -0.0, np.inf, -np.inf]])
    low, high = tanh_bounds(x)
    worst = 0.0
    with mpmath.workdps(60):
        for v, a, b in zip(x.tolist(), low.tolist(), high.tolist(), strict=True):
            y = mpmath.tanh(mpmath.mpf(v))
            assert mpmath.mpf(a) <= y <= mpmath.mpf(b)
            worst = max(worst, float(b - y), float(y - a))
    assert worst < 2 * TANH_ERROR
    assert np.isnan(tanh_bounds(np.array([np.nan]))).all()


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
def test_widths_that_overflow(op: ops.Elementwise) -> None:
    """Finite bounds whose difference is not: a chord must not vanish with 1 / infinity."""
    rule = rule_of(op)
    lower, upper = np.array([[-1.2e308], [-1e308], [-1.7e308]]), np.array([[1.2e308], [1.5e308], [1e308]])
    with np.errstate(all="ignore"):
        lines = rule.lines(lower, upper)
        for k in range(len(lower)):
            below, low_shift, above, high_shift = (0.0 if p is None else float(p[k, 0]) for p in lines)
            for x in (float(lower[k, 0]), -1.0, 0.0, 1.0, float(upper[k, 0])):
                exact = value(op, x)
                y = exact if isinstance(exact, Fraction) else Fraction(float(exact))
                if math.isfinite(low_shift) and math.isfinite(below):
                    assert Fraction(below) * Fraction(x) + Fraction(low_shift) <= y
                if math.isfinite(high_shift) and math.isfinite(above):
                    assert y <= Fraction(above) * Fraction(x) + Fraction(high_shift)


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
def test_nan_and_infinite_bounds_prove_nothing(op: ops.Elementwise) -> None:
    """A line from unusable bounds is not finite, or right for all numbers that the bounds might have meant."""
    rule = rule_of(op)
    lower = np.array([[np.nan], [-np.inf], [-np.inf], [-1.0]])
    upper = np.array([[1.0], [np.inf], [1.0], [np.inf]])
    with np.errstate(all="ignore"):
        lines = rule.lines(lower, upper)
        assert rule.bent(lower, upper)[:3].any()
        for k, (a, b) in enumerate([(-1e9, 1.0), (-1e9, 1e9), (-1e9, 1.0), (-1.0, 1e9)]):
            below, low_shift, above, high_shift = (0.0 if p is None else float(p[k, 0]) for p in lines)
            for x in (a, -0.5, 0.0, 0.5, b):
                y = float(value(op, x))
                assert not below * x + low_shift > y
                assert not above * x + high_shift < y
