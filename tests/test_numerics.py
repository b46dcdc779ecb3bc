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


def test_next() -> None:
    x = np.array([1.0, 0.0, -1.0])
    assert (next_down(x) < x).all()
    assert (next_up(x) > x).all()
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
