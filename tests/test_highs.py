"""Linear programs: optima and their multipliers, rays of infeasible ones, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import CertifyError
from certify.solvers.highs import LinearProgram, Status, solve

INF = np.inf


def program(seed: int, shift: float = 0.0) -> LinearProgram:
    """Random, over a box, with rows of all kinds; `shift` > 0 moves rows apart until they cannot be met."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 6), rng.integers(1, 8)
    center = rng.standard_normal(m)
    below = np.where(rng.random(m) < 0.4, -INF, center - rng.random(m) + shift)
    above = np.where(rng.random(m) < 0.4, INF, center + rng.random(m) + shift)
    matrix = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.7)
    return LinearProgram(rng.standard_normal(n), -rng.random(n), rng.random(n), matrix, below, above)


def dual_bound(p: LinearProgram, cost: np.ndarray, y: np.ndarray) -> float:
    """The least of cost . x over the box and rows that the multipliers y prove, by weak duality."""
    rows = np.where(y > 0, p.row_lower, p.row_upper)
    reduced = cost - p.matrix.T @ y
    return float((y[y != 0] * rows[y != 0]).sum() + np.minimum(reduced * p.lower, reduced * p.upper).sum())


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.0, 1.0, 3.0]))
@settings(max_examples=60)
def test_multipliers_prove_what_the_status_says(seed: int, shift: float) -> None:
    p = program(seed, shift)
    found = solve(p)
    if found.status is Status.OPTIMAL:
        values = p.matrix @ found.x
        assert ((p.lower - 1e-8 <= found.x) & (found.x <= p.upper + 1e-8)).all()
        assert ((p.row_lower - 1e-8 <= values) & (values <= p.row_upper + 1e-8)).all()
        assert dual_bound(p, p.cost, found.multipliers) == pytest.approx(p.cost @ found.x, abs=1e-7)
    else:
        assert found.status is Status.INFEASIBLE
        assert found.x is None
        if found.multipliers is not None:
            assert dual_bound(p, np.zeros_like(p.cost), found.multipliers) > 0


def test_a_ray_of_rows_that_contradict_one_another() -> None:
    """x <= -1/2 and -x <= -1/2."""
    rows = np.array([[1.0], [-1.0]])
    found = solve(LinearProgram(np.zeros(1), -np.ones(1), np.ones(1), rows, np.full(2, -INF), np.full(2, -0.5)))
    assert found.status is Status.INFEASIBLE
    assert found.multipliers[0] == pytest.approx(found.multipliers[1])
    assert (found.multipliers < 0).all()


def test_an_unbounded_program_is_told() -> None:
    one = np.ones(1)
    found = solve(LinearProgram(one, -INF * one, INF * one, np.ones((1, 1)), -INF * one, one))
    assert found.status is Status.UNBOUNDED


def test_no_time_gives_no_result() -> None:
    rng = np.random.default_rng(0)
    n, m = np.ones(40), np.ones(60)
    found = solve(LinearProgram(rng.standard_normal(40), -n, n, rng.standard_normal((60, 40)), -m, m), seconds=0)
    assert found.status is Status.STOPPED
    assert found.x is None


@pytest.mark.parametrize("wrong", ["shape", "nan"])
def test_programs_that_are_refused(wrong: str) -> None:
    matrix = np.ones((1, 2)) if wrong == "shape" else np.full((1, 1), np.nan)
    one = np.ones(1)
    with pytest.raises(CertifyError, match="linear program"):
        solve(LinearProgram(one, -one, one, matrix, -one, one))
