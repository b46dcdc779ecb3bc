"""Exp, square, reciprocal, sine and cosine in the checker, against mpmath on every kind of interval."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from certify.check.ops import Lines
from certify.check.smooth import EXP_ERROR, exponential
from certify.check.wave import _HALF_PI_HIGH, _HALF_PI_LOW, _HALF_PI_MIDDLE, FAR, WAVE_ERROR, wave_bounds
from certify.graph import ops
from tests.check.test_elementwise import CENTERS, WIDTHS, rule_of

SMOOTH = (ops.Exp(), ops.Square(), ops.Reciprocal(), ops.Sin(), ops.Cos())
FUNCTIONS = {ops.Sin: np.sin, ops.Cos: np.cos}
each = pytest.mark.parametrize("op", SMOOTH, ids=lambda op: type(op).__name__)
PLACES = (*CENTERS, math.pi / 2, math.pi, 2 * math.pi, 10 * math.pi, 699.0, 1e5, 1e6)


def value(op: ops.Op, x: mpmath.mpf) -> mpmath.mpf:
    if isinstance(op, ops.Exp):
        return mpmath.exp(x) if x < 1e6 else mpmath.inf
    if isinstance(op, ops.Square):
        return x * x
    if isinstance(op, ops.Reciprocal):
        return 1 / x
    return mpmath.sin(x) if isinstance(op, ops.Sin) else mpmath.cos(x)


def turns(op: ops.Op, slope: float, lower: float, upper: float) -> list[float]:
    """Where the derivative is the slope, next to the ends and the middle."""
    if isinstance(op, ops.Exp):
        return [math.log(slope)] if slope > 0 else []
    if isinstance(op, ops.Square):
        return [slope / 2]
    if isinstance(op, ops.Reciprocal):
        return [(-slope) ** -0.5, -((-slope) ** -0.5)] if slope < 0 else []
    if abs(slope) > 1 or max(abs(lower), abs(upper)) > 1e8:
        return []
    angle = math.acos(slope) if isinstance(op, ops.Sin) else -math.asin(slope)
    found = []
    for base in (angle, -angle, math.pi - angle):
        for x in (lower, upper, (lower + upper) / 2):
            k = round((x - base) / (2 * math.pi))
            found += [base + 2 * math.pi * (k + i) for i in (-1, 0, 1)]
    return found


def inside(op: ops.Op, lower: float, upper: float, slopes: tuple[float, ...]) -> list[float]:
    found = [lower, upper, *(lower + (upper - lower) * share for share in (0.01, 0.1, 0.37, 0.5, 0.73, 0.9, 0.99))]
    for slope in slopes:
        if math.isfinite(slope):
            found += turns(op, slope, lower, upper)
    near = [math.nextafter(x, way) for x in found for way in (-math.inf, math.inf)]
    return [x for x in (*found, *near) if lower <= x <= upper and not (isinstance(op, ops.Reciprocal) and x == 0)]


def intervals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Around, beside and across places that matter, down to one unit in the last place, and none at all."""
    center = rng.choice(PLACES, count) * rng.choice([-1, 1], count) * rng.choice([1.0, rng.uniform(0.5, 1.5)], count)
    width = rng.choice([*WIDTHS, 1.0, 5.0], count) * rng.choice([1.0, rng.random()], count)
    lower = center - width * rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], count)
    upper = np.maximum(lower + width, lower)
    upper = np.where(rng.random(count) < 0.2, np.nextafter(lower, np.inf), upper)
    return lower[:, None], upper[:, None]


@each
@pytest.mark.parametrize("free", [False, True], ids=["default", "given"])
def test_lines_and_ranges_hold(op: ops.Elementwise, free: bool) -> None:
    rng = np.random.default_rng(1)
    rule = rule_of(op)
    lower, upper = intervals(rng, 600)
    parameter = rng.random((600, 1)) if free and rule.free_slope else None
    checked = 0
    with mpmath.workdps(120), np.errstate(all="ignore"):
        lines, (low, high) = rule.lines(lower, upper, parameter), rule.range(lower, upper)
        for k in range(600):
            below, down, above, up = (float(a[k, 0]) for a in lines)
            for x in inside(op, float(lower[k, 0]), float(upper[k, 0]), (below, above)):
                y, at = value(op, mpmath.mpf(x)), mpmath.mpf(x)
                assert mpmath.mpf(float(low[k, 0])) <= y <= mpmath.mpf(float(high[k, 0]))
                if math.isfinite(below) and math.isfinite(down):
                    assert mpmath.mpf(below) * at + mpmath.mpf(down) <= y
                    checked += 1
                if math.isfinite(above) and math.isfinite(up):
                    assert y <= mpmath.mpf(above) * at + mpmath.mpf(up)
    assert checked > 2000


@each
def test_shifts_hold_for_any_slope(op: ops.Elementwise) -> None:
    """Also for slopes that nobody would choose, as the affine forms use them."""
    rng = np.random.default_rng(2)
    rule = rule_of(op)
    lower, upper = intervals(rng, 500)
    slope = rng.choice([0.0, -1.0, 1.0, 0.25, -0.25, 1e-20, 3.0, -7.5], (500, 1)) * rng.choice(
        [1.0, rng.random()], (500, 1)
    )
    with mpmath.workdps(120), np.errstate(all="ignore"):
        low, high = rule.lower_shift(slope, lower, upper), rule.upper_shift(slope, lower, upper)
        for k in range(500):
            s = float(slope[k, 0])
            for x in inside(op, float(lower[k, 0]), float(upper[k, 0]), (s,)):
                rest = value(op, mpmath.mpf(x)) - mpmath.mpf(s) * mpmath.mpf(x)
                assert not mpmath.mpf(float(low[k, 0])) > rest
                assert not mpmath.mpf(float(high[k, 0])) < rest


@each
def test_lines_and_ranges_are_tight(op: ops.Elementwise) -> None:
    rule = rule_of(op)
    lower = np.concatenate([np.linspace(-7, -1, 25), np.linspace(0.3, 7, 25)])[:, None]
    upper = lower + 0.69
    lines, (low, high) = rule.lines(lower, upper), rule.range(lower, upper)
    x = np.linspace(lower, upper, 2000)
    y = np.vectorize(lambda v: float(value(op, v)))(x)
    size = 1 + np.abs(y).max(0)
    assert ((y - lines.lower_slope * x - lines.lower_shift).min(0) / size).max() < 1e-6
    assert ((lines.upper_slope * x + lines.upper_shift - y).min(0) / size).max() < 1e-6
    assert (np.abs(y.min(0) - low) / size).max() < 1e-6
    assert (np.abs(high - y.max(0)) / size).max() < 1e-6


@each
def test_unusable_bounds_prove_nothing_false(op: ops.Elementwise) -> None:
    """A line from NaN or infinite bounds is not finite, or right for all numbers that they might have meant."""
    rule = rule_of(op)
    nan, inf = math.nan, math.inf
    pairs = [
        (nan, 1.0),
        (-1.0, nan),
        (nan, nan),
        (-inf, inf),
        (-inf, 1.0),
        (-1.0, inf),
        (1.0, inf),
        (0.0, 3.0),
        (1.0, nan),
    ]
    far = [-1e9, -30.0, -3.0, -1.0, -0.5, 0.5, 1.0, 1.6, 3.0, 30.0, 600.0]
    for lower, upper in pairs:
        with np.errstate(all="ignore"):
            a, b = np.array([[lower]]), np.array([[upper]])
            below, down, above, up = (float(t[0, 0]) for t in rule.lines(a, b))
            low, high = (float(t[0, 0]) for t in rule.range(a, b))
        for x in far:
            if not (x < lower or x > upper):
                y = float(value(op, mpmath.mpf(x)))
                assert not below * x + down > y
                assert not above * x + up < y
                assert not low > y
                assert not high < y


def test_the_exponential_stays_within_its_error() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-700, 700, 3000), rng.uniform(-1, 1, 2000), 10.0 ** rng.uniform(-320, 2, 500)])
    worst = 0.0
    with mpmath.workdps(60):
        for v, y in zip(x.tolist(), exponential(x).tolist(), strict=True):
            worst = max(worst, float(abs(mpmath.mpf(y) / mpmath.exp(mpmath.mpf(v)) - 1)))
    assert worst <= EXP_ERROR
    assert np.isnan(exponential(np.array([np.nan]))).all()


@pytest.mark.parametrize("q", range(4))
def test_waves_stay_within_their_error(q: int) -> None:
    rng = np.random.default_rng(q)
    near = rng.integers(-600_000, 600_000, 2000) * (math.pi / 2)
    x = np.concatenate([rng.uniform(-10, 10, 2000), rng.uniform(-FAR, FAR, 2000), near, np.nextafter(near, 0)])
    low, high = wave_bounds(x, q)
    with mpmath.workdps(60):
        for v, a, b in zip(x.tolist(), low.tolist(), high.tolist(), strict=True):
            y = mpmath.sin(mpmath.mpf(v) + q * mpmath.pi / 2)
            assert mpmath.mpf(a) <= y <= mpmath.mpf(b)
            assert max(b - y, y - a) < 3 * WAVE_ERROR  # half of which is the margin


def test_the_parts_of_pi_add_up() -> None:
    with mpmath.workdps(60):
        total = mpmath.mpf(_HALF_PI_HIGH) + mpmath.mpf(_HALF_PI_MIDDLE) + mpmath.mpf(_HALF_PI_LOW)
        assert abs(total - mpmath.pi / 2) < mpmath.mpf(2) ** -120
    for part in (_HALF_PI_HIGH, _HALF_PI_MIDDLE):  # whole numbers of 33 bits, scaled
        assert int(part.hex().split("p")[0].replace("0x1.", "1"), 16) % 2**20 == 0


def floor_intervals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole ends, ends one unit beside whole numbers, and others; of all sizes up to where float64 has no fractions."""
    ends = rng.choice([0.0, 1.0, 7.0, 1e3, 1e8, 2.0**52, 1e17], (2, count)) * rng.choice([-1, 1], (2, count))
    ends[1] = np.where(rng.random(count) < 0.7, ends[0], ends[1])
    ends = ends + rng.choice([0.0, 0.5, 1.0, 3.7, 40.0], (2, count)) * rng.random((2, count)).round(rng.integers(0, 3))
    beside = np.nextafter(ends, rng.choice([-np.inf, np.inf], ends.shape))
    ends = np.sort(np.where(rng.random(ends.shape) < 0.3, beside, ends), 0)
    return ends[0][:, None], ends[1][:, None]


def test_lines_of_floor_hold() -> None:
    """At both ends, at whole numbers and just before them: for its own slopes and for any."""
    rng = np.random.default_rng(5)
    rule = rule_of(ops.Floor())
    lower, upper = floor_intervals(rng, 600)
    any_slope = rng.choice([0.0, 1.0, -1.0, 0.3, 2.5, -4.0, 1e-9], (600, 1))
    checked = 0
    with np.errstate(all="ignore"):
        own, (low, high) = rule.lines(lower, upper), rule.range(lower, upper)
        given = Lines(
            any_slope, rule.lower_shift(any_slope, lower, upper), any_slope, rule.upper_shift(any_slope, lower, upper)
        )
    for lines in (own, given):
        for k in range(600):
            a, b = float(lower[k, 0]), float(upper[k, 0])
            below, down, above, up = (float(t[k, 0]) for t in lines)
            whole = [Fraction(v) for v in (math.floor(a) + 1, math.floor(a) + 2, math.floor(b) - 1, math.floor(b))]
            tiny = Fraction(1, 10**30)
            for x in (Fraction(a), Fraction(b), *whole, *(v - tiny for v in whole)):
                if Fraction(a) <= x <= Fraction(b):
                    y = math.floor(x)
                    assert low[k, 0] <= y <= high[k, 0]
                    if math.isfinite(below) and math.isfinite(down):
                        assert Fraction(below) * x + Fraction(down) <= y
                        checked += 1
                    if math.isfinite(above) and math.isfinite(up):
                        assert y <= Fraction(above) * x + Fraction(up)
    assert checked > 1500


def test_lines_of_floor_are_the_hull() -> None:
    rule = rule_of(ops.Floor())
    lines = rule.lines(np.array([[0.25], [0.0], [0.25], [-1.5]]), np.array([[0.75], [2.0], [1.5], [3.0]]))
    np.testing.assert_allclose(lines.upper_slope[:, 0], [0, 1, 4 / 3, 1], rtol=1e-12)
    np.testing.assert_allclose(lines.upper_shift[:, 0], [0, 0, -1 / 3, 0], atol=1e-12)
    np.testing.assert_allclose(lines.lower_slope[:, 0], [0, 1, 0, 1], rtol=1e-12)
    np.testing.assert_allclose(lines.lower_shift[:, 0], [0, -1, 0, -1], atol=1e-12)


@pytest.mark.parametrize("op", [ops.Sin(), ops.Cos()], ids=lambda op: type(op).__name__)
def test_shifts_of_waves_hold_on_intervals_of_about_one_wave(op: ops.Elementwise) -> None:
    """Begun at a zero or a crest, or one unit beside it, so that as many pieces as possible are touched."""
    rng = np.random.default_rng(6)
    rule = rule_of(op)
    lower = rng.integers(-9, 9, 500) * (math.pi / 2)
    lower = np.where(rng.random(500) < 0.5, np.nextafter(lower, rng.choice([-np.inf, np.inf], 500)), lower)[:, None]
    upper = lower + rng.choice([3.1, 3.2, 6.2, 2 * math.pi, 6.3, 6.45, 6.499, 6.6, 8.0, 9.5, 11.0, 12.5], (500, 1))
    slope = rng.choice([0.0, 0.2, -0.2, 0.9, -0.9, 1.3], (500, 1))
    low, high = rule.lower_shift(slope, lower, upper), rule.upper_shift(slope, lower, upper)
    x = np.concatenate(
        [np.linspace(lower, upper, 700), np.clip(np.arange(-30, 45)[:, None, None] * np.pi / 2, lower, upper)]
    )
    rest = FUNCTIONS[type(op)](x) - slope * x
    assert (rest.max(0) <= high + 1e-12).all()
    assert (rest.min(0) >= low - 1e-12).all()
