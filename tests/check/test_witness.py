"""A witness is judged exactly, and the real-valued network is asked by outward rounding."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.check.witness import Agreement, check_witness
from certify.evidence import Witness
from certify.graph import ops
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case
from certify.spec.regions import box
from tests import exact
from tests.check.nets import chain, mlp

SUM = chain(2, (ops.Linear(np.array([[1.0, 1.0]]), None), (1,)))


def judged(offset: float, y: float, strict: bool = False, x: tuple[float, float] = (0.1, 0.2)) -> tuple:
    """For y = x_0 + x_1 on [0, 1]^2, with y <= offset unsafe."""
    case = Case(box([0, 0], [1, 1]), Property((Clause(np.ones((1, 1)), np.array([offset]), np.array([strict])),)))
    return check_witness(SUM, (case,), Witness(0, 0, np.array(x), np.array([y]), "test"))


def test_agreement() -> None:
    assert judged(0.5, 0.3).agreement is Agreement.CONFIRMED
    assert judged(0.5, 0.3).ok
    wrong = judged(0.2, 0.1)  # the runtime said 0.1; it is 0.3
    assert wrong.agreement is Agreement.CONTRADICTED
    assert not wrong.ok
    near = judged(0.1 + 0.2, 0.1 + 0.2)
    assert near.agreement is Agreement.WITHIN_ROUNDING
    assert near.ok


def test_strictness_at_a_tie() -> None:
    assert judged(1.0, 1.0, x=(0.5, 0.5)).ok
    tie = judged(1.0, 1.0, strict=True, x=(0.5, 0.5))
    assert not tie.ok
    assert tie.agreement is not Agreement.CONFIRMED


class Runtime:
    """An original network that always answers the same."""

    name = "a runtime"

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.array([self.answer])


def test_what_only_the_runtime_does_is_accepted_where_it_does_so_again() -> None:
    case = Case(box([0, 0], [1, 1]), Property((clause([[1.0]], [0.2]),)))
    witness = Witness(0, 0, np.array([0.1, 0.2]), np.array([0.1]), "test")  # in truth it is 0.3
    again = check_witness(SUM, (case,), witness, Runtime(0.15))
    assert again.ok
    assert again.agreement is Agreement.CONTRADICTED
    for answer in (0.3, np.nan):
        report = check_witness(SUM, (case,), witness, Runtime(answer))
        assert not report.ok
        assert "a runtime, asked again" in report.failures[0]


def test_what_is_not_a_witness() -> None:
    case = Case(box([0, 0], [1, 1]), Property((clause([[1.0]], [0.5]),)))
    good = Witness(0, 0, np.array([0.1, 0.2]), np.array([0.3]), "test")
    assert check_witness(SUM, (case,), good).ok
    for bad in (
        replace(good, case=1),
        replace(good, case=-1),
        replace(good, clause=2),
        replace(good, x=np.array([0.1, np.nextafter(1.0, 2)])),
        replace(good, x=np.array([np.nan, 0.2])),
        replace(good, x=np.array([-np.inf, 0.2])),
        replace(good, x=np.array([0.1])),
        replace(good, y=np.array([np.nan])),
        replace(good, y=np.array([0.5000001])),
        replace(good, x=np.array([0.1, 0.2], np.float32)),
    ):
        report = check_witness(SUM, (case,), bad)
        assert not report.ok
        assert report.failures


@given(seed=st.integers(0, 2**32 - 1), nudge=st.sampled_from([0.0, 1e-15, -1e-15, 1e-6, -1e-6]))
@settings(max_examples=40)
def test_agreement_is_the_exact_truth(seed: int, nudge: float) -> None:
    rng = np.random.default_rng(seed)
    graph = mlp(rng, [3, 4, 2], rng.choice([ops.Relu(), ops.Tanh(), ops.Sign()]))
    x = rng.uniform(-1, 1, 3)
    z = exact.outputs(graph, [Fraction(v) for v in x.tolist()])
    row = rng.standard_normal((1, 5))
    value = float(sum((Fraction(a) * v for a, v in zip(row[0].tolist(), z, strict=True)), Fraction(0)))
    prop = Property((clause(row, [value + nudge]),))
    case = Case(box(-np.ones(3), np.ones(3)), prop)
    report = check_witness(graph, (case,), Witness(0, 0, x, np.array([float(v) for v in z[:2]]), "test"))
    truth = exact.violated(prop, z) is not None
    if report.agreement is Agreement.CONFIRMED:
        assert truth
    if report.agreement is Agreement.CONTRADICTED:
        assert not truth
    if abs(nudge) > 1e-9:
        assert report.agreement is not Agreement.WITHIN_ROUNDING
    assert report.agreement is not None


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_output_that_is_not_a_number_is_no_violation(value: float) -> None:
    assert not judged(0.5, value).ok
