"""CERTIFY against a brute-force reference on all small counts, and its errors, drawn and concluded as in earnest."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from scipy.stats import binomtest

from certify.smoothing.noise import Gaussian, Laplace, Noise, Uniform
from certify.smoothing.plans import Adaptive, Fixed, Plan, TwoSided
from certify.smoothing.smoothed import Smoothed, conclude

DIGITS = 30


def least_probability(successes: int, n: int, alpha: mpmath.mpf) -> mpmath.mpf:
    """The p at which so many successes or more have probability alpha, by bisection of the exact sum."""
    if successes == 0:
        return mpmath.mpf(0)
    terms = [math.comb(n, j) for j in range(successes, n + 1)]
    low, high = mpmath.mpf(0), mpmath.mpf(1)
    for _ in range(60):
        p = (low + high) / 2
        tail = mpmath.fsum(c * p**j * (1 - p) ** (n - j) for j, c in enumerate(terms, successes))
        low, high = (p, high) if tail <= alpha else (low, p)
    return low


def radius(noise: Noise, p: mpmath.mpf) -> mpmath.mpf:
    """As the papers state it, of a class of probability p > 1/2 against all others."""
    if isinstance(noise, Gaussian):
        return noise.sigma * mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)
    return -noise.scale * mpmath.log(2 * (1 - p)) if isinstance(noise, Laplace) else noise.width * (2 * p - 1)


@pytest.mark.parametrize("noise", [Gaussian(0.5), Laplace(0.25), Uniform(0.75)], ids=lambda n: n.kind)
@pytest.mark.parametrize("alpha", [0.001, 0.3])
def test_certify_is_the_brute_force_reference_from_below(noise: Noise, alpha: float) -> None:
    for n in (1, 2, 5, 13):
        for successes in range(n + 1):
            proof = conclude(Fixed(noise, alpha, 3, n), (3, 0, 0), (successes, n - successes, 0))
            with mpmath.workdps(DIGITS):
                p = least_probability(successes, n, mpmath.mpf(alpha))
                truth = radius(noise, p) if p > 0.5 else mpmath.mpf(0)
                assert proof.lower <= p + mpmath.mpf(2) ** -59  # what the bisection leaves open
                assert 0 <= proof.radius <= truth + mpmath.mpf(2) ** -55
                assert proof.radius >= truth * (1 - mpmath.mpf("1e-9")) - mpmath.mpf("1e-12")


def test_two_sided_radii_are_the_reference_from_below() -> None:
    noise, alpha, n = Gaussian(0.5), 0.05, 40
    for counts in ((36, 3, 1, 0), (30, 4, 6, 0), (22, 9, 9, 0), (40, 0, 0, 0), (30, 0, 0, 10)):
        proof = conclude(TwoSided(noise, alpha, 3, n), (3, 0, 0, 0), counts)
        with mpmath.workdps(DIGITS):
            share = mpmath.mpf(alpha) / len(counts)
            low = least_probability(counts[0], n, share)
            high = min(1 - least_probability(n - max(counts[1:]), n, share), 1 - low)
            quantiles = [mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1) for p in (low, high)]
            truth = max(mpmath.mpf(0), mpmath.mpf(noise.sigma) / 2 * (quantiles[0] - quantiles[1]))
            assert truth * (1 - mpmath.mpf("1e-9")) <= proof.radius <= truth * (1 + mpmath.mpf("1e-15"))


def half_space(x: torch.Tensor) -> torch.Tensor:
    """Class 1 where the first value is positive: smoothed, its radius is that value, whatever sigma is."""
    return torch.stack([-x[:, 0], x[:, 0]], 1)


@pytest.mark.parametrize("plan", [Fixed(Gaussian(0.5), 0.2, 20, 80), TwoSided(Gaussian(0.5), 0.6, 20, 80),
                                  Adaptive(Gaussian(0.5), 0.2, 20, 600, (0.2, 0.3))], ids=lambda p: p.kind)  # fmt: skip
def test_claims_are_wrong_as_rarely_as_alpha_says(plan: Plan) -> None:
    """Every radius above the true one is an error: drawn by the generators, chosen, counted and concluded."""
    x, runs = torch.tensor([0.3]), 150
    wrong = sum(Smoothed(half_space, plan.noise, 2, seed).certify(x, 0, plan).radius > Fraction(3, 10)
                for seed in range(runs))  # fmt: skip
    assert binomtest(wrong, runs, plan.alpha, alternative="greater").pvalue > 1e-4
    assert wrong > 0  # or the test could not fail
