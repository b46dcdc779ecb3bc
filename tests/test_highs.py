"""Linear programs: optima and their multipliers, rays of infeasible ones, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import CertifyError
from certify.solvers.csr import compressed, csr
from certify.solvers.highs import (
    WATCHED,
    Kept,
    Limits,
    LinearProgram,
    MixedProgram,
    Status,
    manageable,
    solve,
    solve_mixed,
    solve_quadratic,
)

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
    """The least of cost . x over the box and rows that the multipliers y prove, by weak duality; one for a side that
    is infinite is rounding, and none."""
    rows = np.where(y > 0, p.row_lower, p.row_upper)
    y = np.where(np.isfinite(rows), y, 0.0)
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


def test_a_linear_program_can_be_cancelled_and_says_what_went_wrong() -> None:
    rng = np.random.default_rng(0)
    n, m = np.ones(WATCHED), np.ones(60)
    dense = LinearProgram(rng.standard_normal(WATCHED), -n, n, rng.standard_normal((60, WATCHED)), -m, m)
    assert solve(dense, stop=lambda: True).status is Status.CANCELLED
    assert solve(dense, stop=lambda: False).status is Status.OPTIMAL
    over = False
    kept = Kept(dense, lambda: over)
    assert kept.minimise(dense.cost).status is Status.OPTIMAL
    over = True
    assert kept.minimise(-dense.cost).status is Status.CANCELLED

    def stop() -> bool:
        raise ValueError("from the callback")

    with pytest.raises(ValueError, match="from the callback"):
        solve(dense, stop=stop)


@pytest.mark.parametrize("wrong", ["shape", "nan"])
def test_programs_that_are_refused(wrong: str) -> None:
    matrix = np.ones((1, 2)) if wrong == "shape" else np.full((1, 1), np.nan)
    one = np.ones(1)
    with pytest.raises(CertifyError, match="linear program"):
        solve(LinearProgram(one, -one, one, matrix, -one, one))


def whole(seed: int, variables: int = 6) -> MixedProgram:
    """Random, of whole numbers between -2 and 2; feasible at 0."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((4, variables))
    ones = np.ones(variables)
    linear = LinearProgram(rng.standard_normal(variables), -2 * ones, 2 * ones, matrix, np.full(4, -INF), rng.random(4))
    return MixedProgram(linear, np.ones(variables, bool))


def best(program: MixedProgram) -> float:
    """By trying all points."""
    linear = program.linear
    points = np.stack(np.meshgrid(*[np.arange(-2, 3)] * len(linear.cost)), -1).reshape(-1, len(linear.cost))
    good = (points @ linear.matrix.T <= linear.row_upper).all(1)
    return float((points[good] @ linear.cost).min())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_whole_programs_are_solved(seed: int) -> None:
    p, heard = whole(seed), []
    found = solve_mixed(p, better=lambda objective, x: heard.append((objective, x)))
    assert found.status is Status.OPTIMAL
    assert found.objective == pytest.approx(best(p), abs=1e-7)
    assert found.bound == pytest.approx(best(p), abs=1e-6)
    assert (np.abs(found.x - np.rint(found.x)) < 1e-6).all()
    for objective, x in heard:
        assert objective == pytest.approx(p.linear.cost @ x, abs=1e-7)
        assert objective >= found.objective - 1e-7


def test_limits_of_whole_programs() -> None:
    p = whole(3)
    at = best(p)
    assert solve_mixed(p, Limits(cutoff=at - 0.1)).status is Status.INFEASIBLE
    assert solve_mixed(p, Limits(cutoff=at + 0.1)).objective == pytest.approx(at)
    started = solve_mixed(p, start=solve_mixed(p).x)
    assert started.objective == pytest.approx(at)
    reached = solve_mixed(p, Limits(target=at + 1.0))
    assert reached.objective <= at + 1.0 + 1e-9
    assert reached.bound <= at + 1e-9
    for limits, status in ((Limits(seconds=0), Status.STOPPED), (Limits(stop=lambda: True), Status.CANCELLED)):
        stopped = solve_mixed(whole(4, 14), limits)
        assert stopped.status is status
        assert stopped.bound <= stopped.objective


def test_a_bound_that_is_high_enough_ends_a_solve() -> None:
    p = whole(4, 14)
    at = solve_mixed(p).objective
    found = solve_mixed(p, Limits(above=at - 2.0))
    assert found.bound > at - 2.0
    assert found.status in (Status.REACHED, Status.OPTIMAL)


def test_what_a_callback_raises_arrives() -> None:
    def stop() -> bool:
        raise ValueError("from the callback")

    with pytest.raises(ValueError, match="from the callback"):
        solve_mixed(whole(4, 14), Limits(stop=stop))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_quadratic_programs_are_solved(seed: int) -> None:
    """Where one is found, no feasible point is better, and the optimum is feasible."""
    p, rng = program(seed), np.random.default_rng(seed)
    curvature = rng.random(len(p.cost))
    found = solve_quadratic(p, curvature)
    if found.status is not Status.OPTIMAL:  # HiGHS gives up on some that have an optimum, but says so
        assert found.x is None
        return
    assert solve(p).status is Status.OPTIMAL
    values = p.matrix @ found.x
    assert ((p.row_lower - 1e-6 <= values) & (values <= p.row_upper + 1e-6)).all()
    gradient = p.cost + curvature * found.x
    linear = LinearProgram(gradient, p.lower, p.upper, p.matrix, p.row_lower, p.row_upper)
    assert gradient @ solve(linear).x >= gradient @ found.x - 1e-5


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_compressed_matrices_are_the_dense_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 5, 2)
    row, column = (rng.integers(0, n, 12) for n in shape)
    value = rng.integers(-2, 3, 12).astype(float)
    dense = np.zeros(shape)
    np.add.at(dense, (row, column), value)
    found = csr(row, column, value, tuple(shape))
    x, y = rng.standard_normal(shape[1]), rng.standard_normal(shape[0])
    assert found.times(x) == pytest.approx(dense @ x)
    assert found.transposed_times(y) == pytest.approx(dense.T @ y)
    again = compressed(dense)
    assert all((getattr(found, k) == getattr(again, k)).all() for k in ("start", "index", "value"))


def test_a_basis_starts_a_program_next_to_its_own() -> None:
    rng = np.random.default_rng(0)
    n = np.ones(60)
    p = LinearProgram(rng.standard_normal(60), -n, n, rng.standard_normal((40, 60)), np.full(40, -INF), rng.random(40))
    basis = solve(p).basis
    moved = replace(p, upper=np.where(np.arange(60) == 3, 0.0, p.upper))
    assert p.cost @ solve(moved, basis=basis).x == pytest.approx(p.cost @ solve(moved).x, abs=1e-7)
    other = program(1)
    assert solve(other, basis=basis).status is solve(other).status


@pytest.mark.parametrize("part", ["cost", "lower", "upper", "matrix", "row_lower", "row_upper"])
@pytest.mark.parametrize("number", [np.nan, 1e300, INF, -INF])
def test_programs_that_are_not_manageable_are_told(part: str, number: float) -> None:
    """What is said to be manageable HiGHS takes; bounds may be infinite, but not on the wrong side."""
    p = program(0)
    assert manageable(p)
    array = getattr(p, part).copy()
    array.flat[0] = number
    changed = replace(p, **{part: array})
    wrong = {"lower": (1e300, INF), "row_lower": (1e300, INF), "upper": (-INF,), "row_upper": (-INF,)}
    assert manageable(changed) == (part in wrong and not np.isnan(number) and number not in wrong[part])
    if manageable(changed):
        assert solve(changed).status in (Status.OPTIMAL, Status.INFEASIBLE, Status.UNBOUNDED)
    else:
        assert solve_mixed(MixedProgram(changed, np.ones(len(p.cost), bool))).status is Status.STOPPED
