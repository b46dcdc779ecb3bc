"""Tails of the normal and the binomial distribution, and the wealth of bets, enclosed in decimal arithmetic.

Every function returns a bound in the direction that its name or its documentation says; none needs a library's
quantile to be right. Python's `decimal` rounds +, -, *, / in the direction of the context, and `ln` and `exp` to
nearest ("correctly rounded", its documentation), so one step beyond their result bounds them.

Probabilities are Fractions, so that p and 1 - p are both exact. `UP` and `DOWN` are the two contexts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction
from statistics import NormalDist

DIGITS = 50
UP = Context(prec=DIGITS, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN)
DOWN = Context(prec=DIGITS, rounding=ROUND_FLOOR, Emax=MAX_EMAX, Emin=MIN_EMIN)

NEGLIGIBLE = Decimal("1e-40")
"""Share of a series that its remainder, which is bounded and added, may have when the summation ends."""

MOST, LEAST = Decimal("1e999"), Decimal("1e-999")
"""Wealth and tails are bounded by these, as exact fractions of numbers beyond them would have millions of digits."""

RESOLVED = 1e-38
"""Tails of the normal distribution that are smaller are hardly told from 0: quantiles are sought from here inward."""

FARTHEST = 40
"""Beyond so many standard deviations the normal distribution function is taken for 1 from above, and for its value
there from below."""

_PLACE = Decimal("1e-48")
_DENSITY = Decimal("0.398942280401432677939946059934381868475858631164")  # 1 / sqrt(2 pi), cut off
_HALF_LOG = Decimal("0.918938533204672741780329736405617639861397473637")  # ln(2 pi) / 2, cut off

_STIRLING = tuple(
    Fraction(*term)
    for term in ((1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156), (-3617, 122400),
                 (43867, 244188), (-174611, 125400), (77683, 5796))
)  # fmt: skip
"""B_2i / (2i (2i - 1)), the coefficients of Stirling's series (Abramowitz and Stegun, 6.1.40)."""

_EXACT_BELOW = 256  # factorials below are computed; above, Stirling's remainder is below 1e-47


def to_decimal(x: Fraction, context: Context) -> Decimal:
    """x rounded as the context says."""
    return context.divide(Decimal(x.numerator), Decimal(x.denominator))


def float_down(x: Fraction | Decimal) -> float:
    """The largest float64 that is not above x, or the one before."""
    near = float(x)
    return math.nextafter(near, -math.inf) if Fraction(near) > Fraction(x) else near


def float_up(x: Fraction | Decimal) -> float:
    """The least float64 that is not below x, or the one after."""
    return -float_down(-Fraction(x))  # to negate a Decimal rounds it to the context's digits


def log_down(x: Fraction) -> Decimal:
    """A lower bound of ln x, x > 0."""
    with localcontext(DOWN):
        return to_decimal(x, DOWN).ln().next_minus()


def log_up(x: Fraction) -> Decimal:
    """An upper bound of ln x, x > 0."""
    with localcontext(UP):
        return to_decimal(x, UP).ln().next_plus()


def log_factorial(m: int, context: Context) -> Decimal:
    """ln m!, rounded as the context says.

    From `_EXACT_BELOW` on by Stirling's series, whose remainder is smaller than the first term left out
    (Whittaker and Watson, 12.33).
    """
    bound = log_up if context is UP else log_down
    if m < _EXACT_BELOW:
        return bound(Fraction(math.factorial(m)))
    *terms, omitted = (c / Fraction(m) ** (2 * i + 1) for i, c in enumerate(_STIRLING))
    rest = sum(terms) + (abs(omitted) if context is UP else -abs(omitted))
    with localcontext(context):
        half_log = _HALF_LOG + _PLACE if context is UP else _HALF_LOG
        return (m + Decimal("0.5")) * bound(Fraction(m)) - m + half_log + to_decimal(rest, context)


def binomial_tail(k: int, n: int, p: Fraction) -> Decimal:
    """An upper bound of P[X >= k], X the number of successes in n trials of probability p. 1 where k <= n p, and
    not below LEAST where the truth is not 0.

    The terms of the sum fall, each by a smaller factor than the one before; so a geometric series bounds the rest.
    """
    if k > n or (p <= 0 and k > 0):
        return Decimal(0)
    if k <= n * p:
        return Decimal(1)
    with localcontext(UP):
        choose = log_factorial(n, UP) - log_factorial(k, DOWN) - log_factorial(n - k, DOWN)
        term = (choose + k * log_up(p) + (n - k) * log_up(1 - p)).exp().next_plus()
        odds, total = to_decimal(p / (1 - p), UP), term
        for j in range(k, n):
            factor = (n - j) * odds / (j + 1)
            gap = -(factor - 1)  # 1 - factor, rounded down
            rest = term * factor / gap if gap > 0 else None
            if rest is not None and rest <= total * NEGLIGIBLE:
                total += rest
                break
            term *= factor
            total += term
        return min(max(total, LEAST), Decimal(1))


def normal_cdf(x: Fraction, context: Context) -> Decimal:
    """The standard normal distribution function at x, bounded from above (UP) or below (DOWN).

    For x >= 0 by 1/2 + density(x) * sum of x^(2j+1) / (1 * 3 * ... * (2j+1)) (Abramowitz and Stegun, 26.2.11),
    whose terms are positive.
    """
    if x < 0:
        opposite = normal_cdf(-x, DOWN if context is UP else UP)
        return context.subtract(Decimal(1), opposite)
    if x > FARTHEST:
        return Decimal(1) if context is UP else normal_cdf(Fraction(FARTHEST), DOWN)
    up = context is UP
    with localcontext(context):
        power = (to_decimal(-x * x / 2, context)).exp()
        density = (_DENSITY + _PLACE if up else _DENSITY) * (power.next_plus() if up else power.next_minus())
        term = total = to_decimal(x, context)
        square = to_decimal(x * x, context)
        for j in range(1, 10 * FARTHEST**2):
            term = term * square / (2 * j + 1)
            total += term
            ratio = square / (2 * j + 3)
            if 2 * ratio < 1 and term <= total * NEGLIGIBLE:
                break
        if up:
            total += term  # ratio / (1 - ratio) < 1
        return Decimal("0.5") + density * total


def quantile_down(p: Fraction) -> float:
    """A float64 q with Phi(q) <= p, close to the quantile; -inf for p <= 0, and where p is beyond what is enclosed.

    Found by the library's quantile, proved by `normal_cdf`, and lowered until that succeeds.
    """
    if p <= 0:
        return -math.inf
    tail = max(float(min(p, 1 - p)), RESOLVED)  # of the side on which floats are fine
    q = NormalDist().inv_cdf(tail) * (1 if 2 * p <= 1 else -1)
    step = math.ulp(q)
    while Fraction(normal_cdf(Fraction(q), UP)) > p:
        q, step = q - step, 2 * step
        if q < -FARTHEST:  # where the distribution function is not enclosed any closer
            return -math.inf
    return q


def quantile_up(p: Fraction) -> float:
    """A float64 q with Phi(q) >= p, close to the quantile; inf for p >= 1."""
    return -quantile_down(1 - p)


def wealth(successes: int, n: int, p: Fraction, bets: Sequence[float]) -> Decimal:
    """A lower bound of what gamblers who begin with 1 in all own, on average, after n trials with so many successes.

    Gambler i puts the share bets[i], in [0, 1], of their wealth on success at odds that are fair if its probability is
    p: their wealth is multiplied by 1 - b + b / p by a success, and by 1 - b by a failure. It falls as p rises.
    The bound is MOST at most, and 0 where it would be below LEAST.
    """
    failures, share = n - successes, Decimal(len(bets))
    with localcontext(DOWN):
        total = Decimal(0)
        for b in map(Fraction, bets):
            if b == 1 and failures:
                continue
            lost = failures * log_down(1 - b) if failures else Decimal(0)
            total += (lost + successes * log_down(1 - b + b / p)).exp().next_minus()
        average = total / share
        return min(average, MOST) if average >= LEAST else Decimal(0)
