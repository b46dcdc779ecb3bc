"""What float64 arithmetic may lose: the bounds that every outward rounding in certify is made of.

Model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 2.2 and 3.1): rounding to
nearest gives fl(a op b) = (a op b)(1 + d) with |d| <= u = 2^-53, and products or quotients that underflow
are off by at most 2^-1075 more. A sum of n products, in any order of summation and with or without fused
multiply-add, is then off by at most gamma(n) * sum |a_i b_i| + n * 2^-1075, gamma(n) = n u / (1 - n u)
(Higham, eq. 3.5; Jeannerod & Rump 2013 show that n u alone does, which this code does not rely on).
"""

from __future__ import annotations

import numpy as np

from certify.errors import CertifyError

Array = np.ndarray

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 2.0**-960
"""More than any sum that certify forms can lose by underflow: it has fewer than 2^100 terms."""

LEAST, LARGEST = 2.0**-1074, float(np.finfo(np.float64).max)
"""The least float64 above 0, and the largest."""

MOST_TERMS = 2**30


def gamma(n: int) -> float:
    """An upper bound of n u / (1 - n u), for 0 <= n <= 2^30."""
    if not 0 <= n <= MOST_TERMS:
        raise CertifyError(f"a sum of {n} terms is too long for certify's error bounds")
    return n * UNIT * (1 + 2.0**-20)


def next_up(x: Array) -> Array:
    """A float64 above x, by few units in the last place: above any real number that rounds to x. NaN stays NaN.

    Sound: |x| 2^-52 + 2^-1074, computed, is at least the distance to the next float64, and rounding keeps order.
    (np.nextafter takes 15 times as long.)
    """
    x = np.maximum(x, -LARGEST)
    return x + (np.abs(x) * (2 * UNIT) + LEAST)


def next_down(x: Array) -> Array:
    """A float64 below x, by few units in the last place: below any real number that rounds to x. As `next_up`."""
    x = np.minimum(x, LARGEST)
    return x - (np.abs(x) * (2 * UNIT) + LEAST)


def inflate(x: Array, n: int) -> Array:
    """An upper bound of a sum of products of numbers >= 0, from its computed value x.

    n is how many terms were added. Each term may be a product of up to four such numbers, and the
    whole multiplied by up to four more. NaN stays NaN.
    Sound: the computed value is at least (1 - u)^(n + 8) times the exact one less n 2^-1075, and two
    roundings are spent here.
    """
    return x * (1 + gamma(2 * n + 24)) + TINY


def exact(array: Array) -> Array:
    """A stored constant as float64, equal to it in every entry and finite.

    Raises CertifyError where float64 cannot hold it.
    """
    array = np.asarray(array)
    wide = np.array(array, np.float64, order="C")
    if not np.isfinite(wide).all():
        raise CertifyError("a constant of the network is not finite")
    if not np.issubdtype(array.dtype, np.floating) and not (wide.astype(array.dtype) == array).all():
        raise CertifyError(f"a constant of type {array.dtype} does not fit float64")
    if np.issubdtype(array.dtype, np.floating) and array.dtype.itemsize > 8:
        raise CertifyError(f"a constant of type {array.dtype} does not fit float64")
    return wide


def require_ieee() -> None:
    """Raise CertifyError unless this thread rounds to nearest and keeps subnormal numbers.

    Libraries can switch a processor to flush them to zero; the bounds above would not hold then.
    """
    one, small = np.ones(3), np.full(3, 2.0**-1022)
    kept = (small * 0.5 == 2.0**-1023).all() and (small * 0.5 * 2 == small).all()
    nearest = (one + UNIT == one).all() and (one + 1.5 * UNIT > one).all() and (-one - UNIT == -one).all()
    if not (kept and nearest):
        raise CertifyError(
            "this process does not compute in IEEE float64 (subnormals are flushed, or rounding is not to nearest)",
            "check the evidence in a fresh process",
        )
