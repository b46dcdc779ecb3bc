"""The rounding bounds hold against rational arithmetic."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest

from certify.errors import CertifyError
from certify.numerics import MOST_TERMS, TINY, UNIT, exact, gamma, inflate, next_down, next_up, require_ieee


@pytest.mark.parametrize("n", [0, 1, 2, 50, 10**6, MOST_TERMS])
def test_gamma_is_an_upper_bound(n: int) -> None:
    u = Fraction(1, 2**53)
    assert Fraction(gamma(n)) >= n * u / (1 - n * u)
    assert gamma(n) <= n * UNIT * 1.000001


def test_gamma_refuses_what_it_cannot_bound() -> None:
    for n in (-1, MOST_TERMS + 1):
        with pytest.raises(CertifyError):
            gamma(n)


def test_dot_products_stay_within_gamma() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 3, 40, 700):
        a, b = (rng.standard_normal(n) * 10.0 ** rng.integers(-12, 12, n) for _ in range(2))
        true = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
        size = sum((abs(Fraction(x) * Fraction(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
        for computed in (a @ b, (a * b).sum(), float(np.einsum("i,i->", a, b)), sum((a * b).tolist())):
            assert abs(Fraction(float(computed)) - true) <= Fraction(gamma(n)) * size


@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e-170, 1e100])
def test_inflate_is_above_the_exact_sum(scale: float) -> None:
    rng = np.random.default_rng(1)
    for n in (1, 7, 300):
        a, b = (rng.random(n) * scale for _ in range(2))
        true = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
        raised = inflate(a @ b, n)
        assert Fraction(float(raised)) >= true
        assert raised <= (a @ b) * (1 + 1e-12) + 2 * TINY
    assert np.isnan(inflate(np.array(np.nan), 3))


def test_next_is_beyond_the_next_float_and_near() -> None:
    """For random bit patterns and at every end: powers of two, their neighbours, zeros, infinities."""
    powers = 2.0 ** np.arange(-1074, 1024)
    ends = [powers, np.nextafter(powers, 0), np.nextafter(powers, np.inf), np.array([0.0, np.inf])]
    bits = np.random.default_rng(2).integers(0, 2**64, 100_000, dtype=np.uint64).view(np.float64)
    x = np.concatenate([bits[~np.isnan(bits)], *ends, *(-e for e in ends)])
    with np.errstate(over="ignore"):
        above, below = np.nextafter(x, np.inf), np.nextafter(x, -np.inf)
        assert (next_up(x) >= above).all()
        assert (next_down(x) <= below).all()
        for _ in range(3):
            above, below = np.nextafter(above, np.inf), np.nextafter(below, -np.inf)
        finite = np.isfinite(x)
        assert (next_up(x) <= above)[finite].all()
        assert (next_down(x) >= below)[finite].all()
    assert np.isnan(next_up(np.array(np.nan)))
    assert np.isnan(next_down(np.array(np.nan)))
    assert next_up(np.array(1.0)) == 1 + 2 * UNIT


def test_exact_refuses_what_float64_cannot_hold() -> None:
    assert exact(np.array(2**53, np.int64)) == 2.0**53
    assert exact(np.float32(0.1)).dtype == np.float64
    assert exact(np.array(3.0)).shape == ()
    for bad in (np.array(2**53 + 1), np.array([np.nan]), np.array([np.inf], np.float32), np.ones(1, np.longdouble)):
        with pytest.raises(CertifyError):
            exact(bad)


def test_flushed_subnormals_are_noticed() -> None:
    torch = pytest.importorskip("torch")
    caught: list[CertifyError] = []

    def flushing() -> None:
        if torch.set_flush_denormal(True):
            try:
                require_ieee()
            except CertifyError as error:
                caught.append(error)
        else:
            caught.append(CertifyError("this processor does not flush"))

    require_ieee()
    thread = threading.Thread(target=flushing)  # the setting is the thread's own
    thread.start()
    thread.join()
    require_ieee()
    assert len(caught) == 1
