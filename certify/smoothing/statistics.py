"""Bounds of probabilities from counts: proposed by statsmodels, made sound by `certify.check.tails`.

A quantile that a library computes may be off either way. It is moved outward until the tail, rounded up, says that the
bound holds; by 1e-15 of it, usually. Statements about many samples at once are here, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from certify.check.tails import binomial_tail, float_up, wealth

Array = np.ndarray

BETS = tuple(float(b) for b in np.geomspace(0.005, 0.999, 24))
"""Shares of their wealth that gamblers bet. The best share for a probability p against odds for q is (p - q) / (1 - q)
(Kelly 1956): some gambler is within a factor 1.13 of it, for gaps that 10^6 draws can show."""


def binomial_lower(successes: int, n: int, alpha: Fraction | float) -> float:
    """The one-sided Clopper-Pearson bound, rounded down: the probability is smaller with probability <= alpha only."""
    from statsmodels.stats.proportion import proportion_confint

    if successes == 0:
        return 0.0
    alpha = Fraction(alpha)
    start = float(proportion_confint(successes, n, 2 * float(alpha), method="beta")[0])
    return _lowered(start, lambda p: Fraction(binomial_tail(successes, n, p)) <= alpha)


def binomial_upper(count: int, n: int, alpha: Fraction | float) -> float:
    """The one-sided Clopper-Pearson bound from above, rounded up."""
    return float_up(1 - Fraction(binomial_lower(n - count, n, alpha)))


def betting_lower(successes: int, n: int, alpha: float, bets: Sequence[float] = BETS) -> float:
    """The lower end of the confidence sequence, rounded down; valid for all n at once (Ville 1939; Waudby-Smith and
    Ramdas 2024): with probability 1 - alpha it is never above the probability, at whatever time one looks."""
    goal, shares, low, high = -math.log(alpha), np.array(bets), 0.0, successes / max(n, 1)
    for _ in range(60):
        middle = (low + high) / 2
        enough = middle > 0 and log_wealth(np.array(successes), np.array(n), middle, shares) >= goal
        low, high = (middle, high) if enough else (low, middle)
    level = 1 / Fraction(alpha)
    return _lowered(low, lambda p: Fraction(wealth(successes, n, p, bets)) >= level)


def log_wealth(successes: Array, n: Array, p: float, bets: Array) -> Array:
    """ln of what `certify.check.tails.wealth` bounds, in float64 and not rounded outward: it decides when to stop.

    successes and n have the same shape (*N), the result, too.
    """
    each = (n - successes)[..., None] * np.log1p(-bets) + successes[..., None] * np.log1p(bets / p - bets)
    most = each.max(-1)
    return most + np.log(np.exp(each - most[..., None]).mean(-1))


def _lowered(start: float, holds: Callable[[Fraction], bool]) -> float:
    """`start`, lowered by growing steps until it holds; 0.0 if it never does."""
    p, step = start, 4 * math.ulp(start)
    while p > 0 and not holds(Fraction(p)):
        p, step = p - step, 4 * step
    return max(p, 0.0)


def simultaneous(p_values: Sequence[float], delta: float) -> Array:
    """Which of many claims hold all at once with probability 1 - delta, given an upper bound of each one's p-value:
    Holm's correction (statsmodels), which asks for nothing of their dependence. (N,) of bool."""
    from statsmodels.stats.multitest import multipletests

    inflated = np.minimum(1.0, np.asarray(p_values, np.float64) * (1 + 1e-12))  # more than its arithmetic rounds
    return multipletests(inflated, delta, method="holm")[0] if len(inflated) else np.zeros(0, bool)


def p_value(successes: int, n: int, p: float, bets: Sequence[float] | None = None) -> float:
    """An upper bound of the p-value of the hypothesis that the probability is at most p.

    Of the binomial test if n was fixed; with the `bets` of a run that stopped when it liked, 1 / wealth, which is
    valid at any time.
    """
    at = Fraction(p)
    if bets is None:
        return float_up(Fraction(binomial_tail(successes, n, at)))
    owned = Fraction(wealth(successes, n, at, bets))
    return 1.0 if owned <= 1 else float_up(1 / owned)
