"""Roots, logarithms and the activations with a few turns in the checker, against mpmath on every kind of interval."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from certify.check.convex import _Defined
from certify.check.functions import (
    ERF_ERROR,
    LOG_ERROR,
    Enclosed,
    decay_bounds,
    erf_bounds,
    log_bounds,
    logistic_bounds,
    softplus_bounds,
    sqrt_bounds,
)
from certify.check.ops import Elementwise
from certify.check.turning import Turning
from certify.graph import ops
from tests.check.test_elementwise import CENTERS, WIDTHS, rule_of
from tests.exact import curve

KINDS = (
    ops.Log(),
    ops.Sqrt(),
    ops.Rsqrt(),
    ops.Softplus(),
    ops.Erf(),
    ops.Gelu(),
    ops.GeluTanh(),
    ops.Silu(),
    ops.Mish(),
    ops.Elu(1.0),
    ops.Elu(1.67),
    ops.Elu(0.3),
    ops.HardSwish(),
)
RIGHT = (ops.Log, ops.Sqrt, ops.Rsqrt)
TURNS = (1.4142135623730951, 1.4185040087908285, 1.4905711794854286, 2.2563763963607935, 2.399357280515468, 3.0)
PLACES = (*CENTERS, *TURNS, 0.75, 6.0, 8.6, 9.0, 700.0, 1e5)
COUNT = 60
each = pytest.mark.parametrize("op", KINDS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'alpha', '')}")


def intervals(op: ops.Elementwise, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Around, beside and across places that matter, from one unit in the last place to 1e30 wide."""
    rng = np.random.default_rng(seed)
    center = rng.choice(PLACES, COUNT) * rng.choice([-1, 1], COUNT)
    center = np.where(rng.random(COUNT) < 0.5, center, center * rng.uniform(0.5, 1.5, COUNT))
    width = rng.choice([*WIDTHS, 1.0, 5.0], COUNT) * rng.choice([1.0, rng.random()], COUNT)
    lower = center - width * rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], COUNT)
    if isinstance(op, RIGHT):
        lower = np.where(rng.random(COUNT) < 0.9, np.abs(lower), lower)
    upper = np.maximum(lower + width, lower)
    upper = np.where(rng.random(COUNT) < 0.2, np.nextafter(lower, np.inf), upper)
    return lower[:, None], upper[:, None]


def critical(op: ops.Elementwise, rule: Elementwise, slope: float) -> list[float]:
    """Where, about, the derivative is the slope."""
    if isinstance(rule, Turning):
        return [float(rule.sketch.place(p, np.float64(slope))) for p in rule.pieces if p.bend]
    with np.errstate(all="ignore"):
        rule = rule.bowl if isinstance(rule, _Defined) else rule
        return [float(rule.place(np.float64(s))) for s in (slope, -slope)]


def inside(
    op: ops.Elementwise, rule: Elementwise, lower: float, upper: float, slopes: tuple[float, ...]
) -> list[float]:
    found = [lower, upper, 0.0, *TURNS, *(-t for t in TURNS)]
    found += [lower + (upper - lower) * share for share in (0.01, 0.2, 0.5, 0.73, 0.99)]
    for slope in slopes:
        found += critical(op, rule, slope)
    return [x for x in found if lower <= x <= upper and math.isfinite(x)]


def defined(op: ops.Elementwise, x: float) -> bool:
    return not isinstance(op, RIGHT) or x > 0 or (x == 0 and isinstance(op, ops.Sqrt))


@each
@pytest.mark.parametrize("kind", ["default", "given", "any"])
def test_lines_and_ranges_hold(op: ops.Elementwise, kind: str) -> None:
    """For the rule's own slopes, with parameters and without, and for slopes that nobody would choose."""
    rng = np.random.default_rng(2)
    rule, (lower, upper) = rule_of(op), intervals(op, 1)
    with np.errstate(all="ignore"):
        low, high = rule.range(lower, upper)
        below, down, above, up = rule.lines(lower, upper, None if kind == "default" else rng.random((COUNT, 1)))
        if kind == "any":
            below = above = rng.choice([0.0, -1.0, 1.0, 0.25, 1e-20, 3.0, -7.5], (COUNT, 1)) * rng.uniform(0.5, 1)
            down, up = rule.lower_shift(below, lower, upper), rule.upper_shift(above, lower, upper)
    checked = 0
    with mpmath.workdps(40):
        for k in range(COUNT):
            line = tuple(float(a[k, 0]) for a in (below, down, above, up, low, high))
            for x in inside(op, rule, float(lower[k, 0]), float(upper[k, 0]), (line[0], line[2])):
                if not defined(op, x):
                    assert (line[1], line[3], line[4], line[5]) == (-math.inf, math.inf, -math.inf, math.inf)
                    continue
                at = mpmath.mpf(x)
                y = curve(op, at)
                assert mpmath.mpf(line[4]) <= y <= mpmath.mpf(line[5])
                if math.isfinite(line[1]):
                    assert mpmath.mpf(line[0]) * at + mpmath.mpf(line[1]) <= y
                    checked += 1
                if math.isfinite(line[3]):
                    assert y <= mpmath.mpf(line[2]) * at + mpmath.mpf(line[3])
    assert checked > 100


@each
@pytest.mark.parametrize("width", [4.0, 0.69, 1e-4])
def test_lines_touch(op: ops.Elementwise, width: float) -> None:
    """Each line comes near the function, for its size and the width, somewhere."""
    rule = rule_of(op)
    lower = np.concatenate([np.linspace(-7, -1, 9), np.linspace(0.3, 7, 9)])[:, None]
    lower = np.abs(lower) if isinstance(op, RIGHT) else lower
    lines = rule.lines(lower, lower + width)
    x = np.linspace(lower, lower + width, 120)
    y = np.vectorize(lambda v: float(curve(op, mpmath.mpf(v))))(x)
    assert (y - lines.lower_slope * x - lines.lower_shift).min(0).max() < 1e-4 * width
    assert (lines.upper_slope * x + lines.upper_shift - y).min(0).max() < 1e-4 * width


@each
def test_unusable_bounds_prove_nothing_false(op: ops.Elementwise) -> None:
    rule, (nan, inf) = rule_of(op), (math.nan, math.inf)
    places = [x for x in (-1e9, -3.0, -0.5, 0.5, 3.0, 600.0) if defined(op, x)]
    for lower, upper in [(nan, 1.0), (-1.0, nan), (-inf, inf), (-inf, 1.0), (-1.0, inf), (1.0, inf), (1.0, nan)]:
        with np.errstate(all="ignore"):
            a, b = np.array([[lower]]), np.array([[upper]])
            below, down, above, up = (float(t[0, 0]) for t in rule.lines(a, b))
            low, high = (float(t[0, 0]) for t in rule.range(a, b))
        for x in places:
            if not (x < lower or x > upper):
                y = float(curve(op, mpmath.mpf(x)))
                assert not below * x + down > y
                assert not above * x + up < y
                assert not low > y
                assert not high < y


@pytest.mark.parametrize(
    ("bounds", "function", "error", "least", "most"),
    [
        (log_bounds, mpmath.log, LOG_ERROR, 1e-308, 1e308),
        (sqrt_bounds, mpmath.sqrt, 2.0**-50, 1e-300, 1e300),
        (softplus_bounds, lambda x: mpmath.log1p(mpmath.exp(x)), 4 * LOG_ERROR, -690.0, 700.0),
        (logistic_bounds, lambda x: 1 / (1 + mpmath.exp(-x)), LOG_ERROR * 4, -690.0, 700.0),
        (decay_bounds, lambda x: mpmath.exp(-abs(x)), LOG_ERROR * 4, -690.0, 690.0),
        (erf_bounds, mpmath.erf, ERF_ERROR * 2, -7.0, 7.0),
    ],
)
def test_enclosures(bounds: Enclosed, function: mpmath.mpf, error: float, least: float, most: float) -> None:
    """They hold, and are no wider than they say."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(max(least, -9), min(most, 9), 200), 1 + 10.0 ** rng.uniform(-16, -1, 60)])
    x = np.concatenate([x, 10.0 ** rng.uniform(-300, math.log10(most), 100), [5.999999, 6.0, 1.0, most]])
    x = np.concatenate([x, np.maximum(-x, least)]) if least < 0 else x[x > 0]
    low, high = bounds(x)
    with mpmath.workdps(60):
        for v, a, b in zip(x.tolist(), low.tolist(), high.tolist(), strict=True):
            y = function(mpmath.mpf(v))
            assert mpmath.mpf(a) <= y <= mpmath.mpf(b)
            assert b - a <= 5 * error * abs(y) + 1e-299


@pytest.mark.parametrize("op", [op for op in KINDS if isinstance(rule_of(op), Turning)], ids=repr)
def test_pieces_bend_as_they_say(op: ops.Elementwise) -> None:
    """By second differences; next to its ends too, and no unbounded piece reaches over an inflection point."""
    with mpmath.workdps(60):
        for piece in rule_of(op).pieces:
            begin, end = max(piece.begin, -25.0), min(piece.end, 25.0)
            step = mpmath.mpf(10) ** -20
            for share in (0, 1e-12, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1):
                x = mpmath.mpf(begin) + (mpmath.mpf(end) - begin) * share
                unbounded = math.isinf(piece.begin) or math.isinf(piece.end)
                x = x + step if share == 0 else x - step if share == 1 else x
                second = curve(op, x + step) - 2 * curve(op, x) + curve(op, x - step)
                slack = 0 if unbounded else mpmath.mpf(2) ** -47 * step**2
                assert piece.bend * second >= -slack - mpmath.mpf(10) ** -57
                assert piece.bend or abs(second) < mpmath.mpf(10) ** -50
