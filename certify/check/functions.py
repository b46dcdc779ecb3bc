"""Logarithm, error function and their like with proved errors: nothing here trusts a mathematical library.

Square roots and the four basic operations are correctly rounded by IEEE 754; all else is made of them.
"""

from __future__ import annotations

import numpy as np

from certify.check.ops import Array
from certify.check.smooth import _LN2_HIGH, _LN2_LOW, EXP_ERROR, exponential
from certify.numerics import UNIT, next_down, next_up

Enclosed = tuple[Array, Array]
"""At most and at least a number."""

LOG_ERROR = 128 * UNIT
"""At least the relative error of `_logarithm` and `_log1p`; see there."""

ERF_ERROR = 2048 * UNIT
"""At least the relative error of `_erf`; see there."""

FAR = 700.0
"""exp(-FAR) is no subnormal number, and below 10^-304."""

_FLAT = 6.0  # 1 - erf(6) < 2.2e-17 < UNIT / 4
_ODD = 39  # the highest power in `_atanh`


def _atanh(s: Array) -> Array:
    """2 atanh(s) for |s| <= 1/3 + 2^-50, off by at most 40u times itself, not counting what s is off by.

    2 s (1 + s^2 / 3 + s^4 / 5 + ...) to s^38 / 39; what is left out is below 9^-20 / 41 * 9 / 8 < 3e-21 of 1. All terms
    are positive; a Horner step of three roundings multiplies by less than 1/9 what was lost before, so that the sum is
    off by less than 8u, and the squares in it, each off by u, add less than u.
    """
    square = s * s
    total = np.full_like(s, 1 / _ODD)
    for i in range(_ODD - 2, 0, -2):
        total = 1 / i + square * total
    return 2 * s * total


def _logarithm(x: Array) -> Array:
    """log(x) for finite x > 0, off by at most LOG_ERROR times itself; NaN for NaN.

    x = 2^k m with m in [0.70, 1.42], exactly; log m = 2 atanh((m - 1) / (m + 1)), where m - 1 is exact, so that the
    quotient is off by 2u and log m by less than 48u of itself. If k = 0 that is all. Otherwise |k log 2| > 0.69 and
    |log m| < 0.36, so the sum is at least 0.33 in size, and k _LN2_HIGH is exact: the errors of log m, 48u 0.36, of
    k _LN2_LOW, and of the two additions are below 48u 0.36 + 2^-33 u |k| + 3u |sum| < 60u |sum|.
    """
    m, k = np.frexp(x)
    small = m < 0.7071067811865476
    m, k = np.where(small, 2 * m, m), np.where(small, k - 1, k)
    return k * _LN2_HIGH + (k * _LN2_LOW + _atanh((m - 1) / (m + 1)))


def log_bounds(x: Array) -> Enclosed:
    """Bounds of log(x) for x > 0; -inf at 0, inf at inf."""
    usual = (x > 0) & (x < np.inf)
    value = _logarithm(np.where(usual | np.isnan(x), x, 1.0))
    slack = 2 * LOG_ERROR * np.abs(value)
    far = np.where(x > 0, np.inf, -np.inf)
    usual |= np.isnan(x)
    return np.where(usual, value - slack, far), np.where(usual, value + slack, far)


def sqrt_bounds(x: Array) -> Enclosed:
    """Bounds of sqrt(x) for x >= 0."""
    root = np.sqrt(x)
    return np.maximum(next_down(root), 0), next_up(root)


def decay_bounds(x: Array) -> Enclosed:
    """Bounds of exp(-|x|), with 0 below where it is tiny."""
    size = np.abs(x)
    value = exponential(-np.minimum(size, FAR))
    return np.where(size > FAR, 0.0, value * (1 - 2 * EXP_ERROR)), value * (1 + 2 * EXP_ERROR)


def softplus_bounds(x: Array) -> Enclosed:
    """Bounds of log(1 + exp(x)) = max(x, 0) + log(1 + q), q = exp(-|x|): that is 2 atanh(q / (2 + q)), increasing in q,
    and the quotient, two roundings, is at most 1/3."""
    positive = np.maximum(x, 0)
    low, high = (_atanh(q / (2 + q)) for q in decay_bounds(x))
    return next_down(positive + low * (1 - LOG_ERROR)), next_up(positive + high * (1 + LOG_ERROR))


def logistic_bounds(x: Array) -> Enclosed:
    """Bounds of 1 / (1 + exp(-x)): with q = exp(-|x|) that is 1 / (1 + q), or q / (1 + q) left of 0."""
    low, high = decay_bounds(x)
    right = next_down(1 / (1 + high)) - 2 * UNIT, next_up(1 / (1 + low)) + 2 * UNIT
    left = low / (1 + low) * (1 - 8 * UNIT), high / (1 + high) * (1 + 8 * UNIT)
    return np.where(x < 0, left[0], right[0]), np.minimum(np.where(x < 0, left[1], right[1]), 1)


def _erf(x: Array) -> Array:
    """erf(x) for |x| <= 6, off by at most ERF_ERROR times itself.

    2 / sqrt(pi) exp(-x^2) x sum_n (2 x^2)^n / (1 3 ... (2 n + 1)), all terms positive. Behind n = 4 x^2 each term is
    less than half the one before, so 60 terms later less than 2^-60 of the sum is left. The Horner scheme has at most
    3 * 206 roundings in a row, x^2 is off by u, which moves the exponent by 36u, and exp by EXP_ERROR: together less
    than (618 + 8 + 36 + 128 + 206) u < 1024u.
    """
    square = x * x
    count = int(np.ceil(4 * np.max(np.nan_to_num(square), initial=0.0))) + 62
    total = np.ones_like(x)
    for n in range(count, 0, -1):
        total = 1 + 2 * square / (2 * n + 1) * total
    return (1.1283791670955126 * x) * (exponential(-square) * total)


def erf_bounds(x: Array) -> Enclosed:
    """Bounds of erf(x), within [-1, 1]."""
    value = _erf(np.clip(x, -_FLAT, _FLAT))
    slack = ERF_ERROR * np.abs(value)
    low, high = value - slack, value + slack
    high = np.where(x > _FLAT, 1.0, np.where(x < -_FLAT, UNIT - 1.0, high))
    low = np.where(x < -_FLAT, -1.0, np.where(x > _FLAT, 1.0 - UNIT, low))
    return np.maximum(low, -1), np.minimum(high, 1)
