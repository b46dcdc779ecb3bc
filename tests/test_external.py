"""Other solvers: what they answer, how they end, and that an answer that contradicts itself is not kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.budget import Budget
from certify.check.store import RunInfo, check_directory, save
from certify.errors import BadOption, UnsupportedOp
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph, Port
from certify.solvers import external
from certify.solvers.external import External, consistent, mixed_solver
from certify.solvers.highs import Limits, LinearProgram, MixedProgram, MixedSolution, Status, solve, solve_mixed
from certify.solvers.outward import lower_bound
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import Region, ball
from certify.strategy import Method, Solver, Strategy
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified
from certify.verifier import verify
from tests import exact
from tests.conftest import Ran
from tests.test_highs import best, program, whole
from tests.test_leaf import Evaluated, chosen
from tests.test_mip import REGION, exact_distance, least_margin, mixed, through

Array = np.ndarray
INF = np.inf
ROOT = Path(__file__).resolve().parents[1]

needs_cbc = pytest.mark.skipif(
    external.find_spec("pulp") is None, reason="PuLP, which brings CBC along, is not installed"
)


@needs_cbc
def test_cbc_solves_whole_programs() -> None:
    p, heard = whole(3), []
    solver = mixed_solver(Solver.CBC)
    found = solver(p, better=lambda objective, x: heard.append(objective))
    assert found.status is Status.OPTIMAL
    assert found.objective == pytest.approx(best(p), abs=1e-6)
    assert best(p) - 1e-6 <= found.bound <= found.objective == heard[0]


@needs_cbc
def test_cbc_finds_that_nothing_is_below_a_cutoff() -> None:
    found = mixed_solver(Solver.CBC)(whole(3), Limits(cutoff=best(whole(3)) - 0.1))
    assert (found.status, found.x) == (Status.INFEASIBLE, None)


def test_without_pulp_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "find_spec", lambda name: None)
    with pytest.raises(BadOption, match="pip install pulp"):
        mixed_solver(Solver.SCIP)
    assert mixed_solver(Solver.HIGHS) is solve_mixed


@needs_cbc
def test_a_solver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(external.NAMES, Solver.GUROBI, ("NO_SUCH_SOLVER",))
    with pytest.raises(BadOption, match=r"gurobi.*NO_SUCH_SOLVER(.|\n)*pip install gurobipy"):
        mixed_solver(Solver.GUROBI)


ENDS = {
    "import sys; sys.exit(3)": Status.MEMORY,
    "import os; os.kill(os.getpid(), 9)": Status.MEMORY,
    "raise RuntimeError('no licence')": Status.STOPPED,
    "import os; os.abort()": Status.STOPPED,
}


@pytest.mark.parametrize("work", ENDS)
def test_a_process_that_dies_leaves_no_bound(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "WORK", work)
    found = External("NOBODY")(whole(0))
    assert (found.status, found.bound, found.x) == (ENDS[work], -INF, None)
    if "licence" in work:
        assert "no licence" in found.detail


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(seconds=0.1), Status.STOPPED), (Limits(stop=lambda: True), Status.CANCELLED)],
)
def test_a_process_that_hangs_is_ended(limits: Limits, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "WORK", "import time; time.sleep(600)")
    monkeypatch.setattr(external, "GRACE", 0.0)
    ended: list[object] = []
    truth = external._end
    monkeypatch.setattr(external, "_end", lambda child: (truth(child), ended.append(child.poll())))
    assert External("NOBODY")(whole(0), limits).status is status
    assert ended[0] is not None  # nothing is left running


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_nothing_is_left_running_where_we_are_killed(tmp_path: Path) -> None:
    """A process that works for one that was killed ends, with its folder, whatever its solver does."""
    folder = tmp_path / "work"
    folder.mkdir()
    solver = f"""if True:
        import sys, time
        from certify.solvers import external
        external._solved = lambda given, name: time.sleep(30)
        external.np.load = lambda *args, **options: open({str(folder / "began")!r}, "w")
        external.dict = lambda file: {{}}
        external.LOOK = 0.05
        external.work({str(folder)!r}, "NOBODY", sys.argv[1])
    """
    parent = f"""if True:
        import os, subprocess, sys, time
        command = [sys.executable, "-c", {solver!r}, str(os.getpid())]
        subprocess.Popen(command, start_new_session=True)
        time.sleep(30)
    """
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=ROOT) as killed:
        while not (folder / "began").exists():
            time.sleep(0.02)
        killed.kill()
        killed.stdout.read()  # which the child has open, too: until it has ended
    assert not folder.exists()


def test_answers_that_contradict_themselves_are_not_kept() -> None:
    p = whole(3)
    x = solve_mixed(p).x
    nan, far, half = np.full(6, np.nan), np.full(6, 2.0) * np.sign(p.linear.cost), np.where(np.arange(6) == 0, 0.5, x)
    for wrong in (nan, far * 2, half, x[:3], None):
        found = consistent(MixedSolution(Status.OPTIMAL, -5.0, -5.0, wrong), p, 0.0)
        assert (found.status, found.bound, found.x) == (Status.STOPPED, -INF, None)
    assert consistent(MixedSolution(Status.INFEASIBLE, x=x), p, 0.0).status is Status.STOPPED
    kept = consistent(MixedSolution(Status.OPTIMAL, 1e9, -1e9, x), p, 0.0)  # its numbers are those of its point
    assert kept.objective == kept.bound == pytest.approx(best(p))


# -- bounds from multipliers


def worth(p: LinearProgram, y: Array) -> Fraction:
    """What multipliers prove, exactly."""
    total, used = Fraction(0), []
    for v, low, up in zip(y.tolist(), p.row_lower.tolist(), p.row_upper.tolist(), strict=True):
        side = low if v > 0 else up
        used.append(Fraction(v) if np.isfinite(side) else Fraction(0))
        total += used[-1] * Fraction(side) if used[-1] else 0
    for j, (low, up) in enumerate(zip(p.lower.tolist(), p.upper.tolist(), strict=True)):
        column = [Fraction(a) for a in p.matrix[:, j].tolist()]
        reduced = Fraction(float(p.cost[j])) - sum(a * v for a, v in zip(column, used, strict=True))
        total += min(reduced * Fraction(low), reduced * Fraction(up))
    return total


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e-8, 1e8]))
@settings(max_examples=40)
def test_multipliers_prove_no_more_than_they_are_worth(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 5, 2)
    ones = np.ones(columns)
    sides = rng.standard_normal(rows), rng.standard_normal(rows)
    p = LinearProgram(
        rng.standard_normal(columns) * 10.0 ** rng.integers(-6, 6, columns),
        -ones,
        2 * ones,
        rng.standard_normal((rows, columns)),
        np.where(rng.random(rows) < 0.5, -INF, np.minimum(*sides)),
        np.where(rng.random(rows) < 0.5, INF, np.maximum(*sides)),
    )
    y = rng.standard_normal(rows) * noise
    bound, truth = lower_bound(p, y), worth(p, y)
    assert Fraction(bound) <= truth
    assert bound >= float(truth) - 1e-12 * (1 + np.abs(p.cost).sum() + 10 * np.abs(y).sum())


def test_dual_values_prove_the_optimum_and_nonsense_proves_nothing() -> None:
    p = program(0)
    found = solve(p)
    assert lower_bound(p, found.multipliers) == pytest.approx(float(p.cost @ found.x), abs=1e-9)
    rows = len(p.row_lower)
    for wrong in (None, np.full(rows, np.nan), np.full(rows, INF), np.zeros(rows + 1)):
        assert lower_bound(p, wrong) == -INF
    free = replace(p, lower=np.full(len(p.cost), -INF))
    assert lower_bound(free, np.zeros(rows)) == -INF


# -- verdicts


def ask(graph: Graph, region: Region, unsafe: Clause, solver: Solver = Solver.HIGHS, seconds: float = 60) -> Verdict:
    """The verdict by a whole program, without an attack; witnesses are decided exactly."""
    query = Query(Evaluated(graph), graph, (Case(region, Property((unsafe,))),))
    verdict = verify(query, Strategy(method=Method.MIP, steps=0, solver=solver), Budget(seconds))
    if isinstance(verdict, Falsified):
        assert region.contains(verdict.witness.x)
        z = exact.outputs(graph, verdict.witness.x.tolist())
        assert exact.margin(query.cases[0].property, z) <= 1e-13
    return verdict


@pytest.mark.parametrize("seed", range(4))
def test_a_solver_is_believed_and_graded_as_that(seed: int) -> None:
    rows = 1 + seed % 3
    graph, matrix, at = mixed(seed), chosen(seed, rows), least_margin(seed, 2, rows)
    verdict = ask(graph, REGION, clause(matrix, [at - 1e-3] * rows))
    assert isinstance(verdict, Verified)
    assert (verdict.grade, verdict.evidence, verdict.detail) == (Grade.TRUSTED, None, "highs")
    assert isinstance(ask(graph, REGION, clause(matrix, [at + 1e-3] * rows)), Falsified)
    within = ask(graph, REGION, clause(matrix, [at - 1e-8] * rows))  # too close for what solvers promise
    assert (within.name, within.reason) == ("unknown", Reason.STUCK)
    assert "highs says" in within.detail


@pytest.mark.parametrize("norm", [1, 2])
def test_balls_are_balls(norm: float) -> None:
    """Right on both sides of the exact distance, which the box around the ball would not be."""
    decided = 0
    for seed in range(8):
        graph, center = mixed(seed), np.array([0.1, 0.2])
        unsafe = through(graph, chosen(seed, 1), seed)
        truth = exact_distance(graph, center, norm, unsafe)
        if not 0 < truth < np.inf:  # the centre is unsafe
            continue
        decided += 1
        within = tuple(REGION.lower.tolist()), tuple(REGION.upper.tolist())
        assert isinstance(ask(graph, ball(center, truth * 0.99, norm, within), unsafe), Verified)
        assert isinstance(ask(graph, ball(center, truth * 1.01, norm, within), unsafe), Falsified)
    assert decided > 2


@needs_cbc
def test_cbc_decides(tmp_path: Path) -> None:
    graph, matrix, at = mixed(1), chosen(1, 1), least_margin(1, 2, 1)
    case = Case(REGION, Property((clause(matrix, [at - 1e-2]),)))
    verdict = ask(graph, REGION, case.property.clauses[0], Solver.CBC)
    assert (verdict.name, verdict.grade, verdict.detail) == ("verified", Grade.TRUSTED, "cbc")
    save(tmp_path, verdict, RunInfo("net", "property", 0, 0.0, 0.0), graph, (case,))
    report = check_directory(tmp_path, graph, (case,))
    assert not report.ok
    assert "no evidence" in report.failures[0]


LIES: dict[str, MixedSolution] = {
    "infeasible": MixedSolution(Status.INFEASIBLE, INF),
    "NaN": MixedSolution(Status.OPTIMAL, np.nan, np.nan, np.full(9, np.nan)),
    "nothing": MixedSolution(Status.OPTIMAL),
    "memory": MixedSolution(Status.MEMORY, -0.5),
    "stopped": MixedSolution(Status.STOPPED, detail="no licence"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_solver_cannot_mean_makes_no_claim(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, matrix, at = mixed(1), chosen(1, 1), least_margin(1, 2, 1)
    monkeypatch.setattr("certify.verifier.mixed_solver", lambda solver: lambda *args, **kwargs: LIES[lie])
    for offset in (at - 1e-2, at + 1e-2):
        verdict = ask(graph, REGION, clause(matrix, [offset]))
        assert isinstance(verdict, Unknown)
        expected = {"memory": Reason.MEMORY, "NaN": Reason.STUCK, "nothing": Reason.STUCK}.get(lie, Reason.SOLVER)
        assert verdict.reason is expected
        assert ("-0.5" in verdict.detail) == (lie == "memory")
        assert ("licence" in verdict.detail) == (lie == "stopped")


def test_a_solver_that_is_cancelled_leaves_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, matrix, at = mixed(1), chosen(1, 1), least_margin(1, 2, 1)
    query = Query(Evaluated(graph), graph, (Case(REGION, Property((clause(matrix, [at - 1e-2]),))),))
    budget = Budget(60)

    def slow(program: MixedProgram, limits: Limits, start: object = None, better: object = None) -> MixedSolution:
        assert not limits.stop()
        budget.cancel()
        assert limits.stop()
        return MixedSolution(Status.CANCELLED, -0.25)

    monkeypatch.setattr("certify.verifier.mixed_solver", lambda solver: slow)
    verdict = verify(query, Strategy(method=Method.MIP, steps=0, solver=Solver.HIGHS), budget)
    assert isinstance(verdict, Unknown)
    assert verdict.reason is Reason.INTERRUPTED
    assert "-0.25" in verdict.detail


def test_the_option(run: Callable[..., Ran], network: Path, holds: Path, fails: Path) -> None:
    ran = run("verify", network, holds, "--solver", "highs")
    assert ran.status == 0
    ran = run("verify", network, fails, "--solver", "highs", "--steps", "0")
    assert ran.status == 1
    ran = run("verify", network, holds, "--solver", "highs", "--method", "interval")
    assert ran.status == 2
    assert "--method mip" in ran.err


def test_smooth_operators_are_refined_until_they_are_decided() -> None:
    rng = np.random.default_rng(0)
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(ops.Linear(rng.standard_normal((3, 2)), rng.standard_normal(3)), build.inputs[0])
    h = build.emit(ops.Linear(rng.standard_normal((1, 3)), None), build.emit(ops.Tanh(), h))
    graph = build.build([h], [Port("y", (1,))])
    sides = [np.linspace(low, up, 200) for low, up in zip(REGION.lower, REGION.upper, strict=True)]
    least = float(evaluate(graph, np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)).min())
    assert isinstance(ask(graph, REGION, clause([[1.0]], [least - 0.02])), Verified)
    assert isinstance(ask(graph, REGION, clause([[1.0]], [least + 0.02])), Falsified)


def test_products_are_refused_before_any_work() -> None:
    build = GraphBuilder([Port("x", (2,), "float64")])
    graph = build.build([build.emit(ops.Product(np.array([0]), np.array([1])), build.inputs[0])], [Port("y", (1,))])
    with pytest.raises(UnsupportedOp, match="Product"):
        ask(graph, REGION, clause([[1.0]], [0.5]))
