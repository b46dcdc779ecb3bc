"""Minimum adversarial distances: both bounds against the exact oracle, solvers that lie, and the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks.radius import RadiusResult, summarise
from certify import exact as module
from certify.budget import Budget
from certify.check.checker import check_proof
from certify.cli import main
from certify.commands.radius import _show
from certify.errors import BadOption
from certify.exact import Distance, Metric, _Hunt, distance
from certify.frontends.imported import Imported
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph, Port
from certify.mip.distance import Optimum
from certify.solvers.highs import Listener, MixedProgram, MixedSolution, Status
from certify.spec.property import Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import box
from certify.strategy import Strategy
from certify.verdict import Reason, Unknown, Verified
from tests.test_leaf import Evaluated, chosen
from tests.test_mip import exact_distance, mixed, through

CENTER, RANGE = np.array([0.1, 0.2]), (-0.5, 0.75)


def measured(graph: Graph, prop: Property, norm: float, seconds: float = 20.0) -> Distance:
    """The distance, its proof replayed."""
    metric = Metric(norm, RANGE, 2.0)
    budget = Budget(seconds)
    found = distance(Imported(graph, Evaluated(graph)), CENTER, prop, metric, strategy=Strategy(), budget=budget)
    assert found.lower <= found.upper
    if found.lower > 0:
        cases = [Case(metric.ball(CENTER, found.lower), prop)]
        assert check_proof(graph, cases, found.proof.evidence).ok
    if np.isfinite(found.upper):
        assert prop.violated(np.append(found.witness.y, found.witness.x)[: prop.clauses[0].matrix.shape[1]]) is not None
        assert metric.between(CENTER, found.witness.x) == found.upper
    return found


def problem(seed: int, norm: float) -> tuple[Graph, Property, float]:
    """A network, a property, and the exact distance within the range."""
    graph = mixed(seed)
    region = box([RANGE[0]] * 2, [RANGE[1]] * 2)
    unsafe = through(graph, chosen(seed, 1 + seed % 2), seed, region)
    return graph, Property((unsafe,)), exact_distance(graph, CENTER, norm, unsafe, region)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_both_bounds_enclose_the_exact_distance(seed: int, norm: float) -> None:
    graph, prop, truth = problem(seed, norm)
    found = measured(graph, prop, norm)
    assert found.lower <= truth * (1 + 1e-9)
    assert found.upper >= truth * (1 - 1e-9)
    if norm == np.inf:
        assert found.exact or truth == 0


def test_the_program_starts_from_the_nearest_witness_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[np.ndarray | None] = []
    seen = 0

    def spy(*args: object) -> Optimum:
        starts.append(args[-1])
        return truth(*args)

    truth = module.nearest
    monkeypatch.setattr(module, "nearest", spy)
    for seed in (1, 3):
        graph, prop, _ = problem(seed, np.inf)
        measured(graph, prop, np.inf)
        for x in starts:
            z = np.append(evaluate(graph, x[None])[0], x)
            assert prop.violated(z[: prop.clauses[0].matrix.shape[1]]) is not None
        seen += len(starts)
        starts.clear()
    assert seen


@pytest.mark.parametrize("claimed", [0.0, 1e-3, 1.5, np.inf, np.nan])
def test_a_solver_that_lies_never_makes_a_claim(claimed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(*args: object) -> Optimum:
        return Optimum(Status.OPTIMAL, claimed, claimed, np.array([0.7, -0.4]))

    monkeypatch.setattr(module, "nearest", lie)
    for seed in range(2):
        graph, prop, truth = problem(seed, np.inf)
        found = measured(graph, prop, np.inf, 3.0)
        assert found.lower <= truth * (1 + 1e-9)
        assert found.upper >= truth * (1 - 1e-9)


@pytest.mark.parametrize("status", [Status.OPTIMAL, Status.INFEASIBLE])
@pytest.mark.parametrize(("number", "more"), [(math.nan, 0), (1e300, 0), (0.0, 3)])
def test_points_of_a_solver_that_are_none_are_passed_over(
    status: Status, number: float, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are not numbers, or far off, or of another size than the program."""
    budget = Budget(60)

    def lie(program: MixedProgram, limits: object, start: object, better: Listener) -> MixedSolution:
        size = len(program.linear.cost)
        better(number, np.full(size, number))
        if status is Status.INFEASIBLE:
            budget.cancel()
        return MixedSolution(status, 0.0, 0.0, np.full(size + more, number))

    graph, prop, truth = problem(3, 2)
    monkeypatch.setattr(module, "mixed_solver", lambda solver: lie)
    monkeypatch.setattr(module, "verify", lambda *args: Unknown(Reason.STUCK))
    found = distance(Imported(graph, Evaluated(graph)), CENTER, prop, Metric(2, RANGE, 1.0), budget=budget)
    assert found.solver is not None
    assert found.lower == 0
    assert found.upper >= truth * (1 - 1e-9)


@pytest.mark.parametrize("place", ["bounded", "nearest"])
def test_without_memory_for_the_program_there_is_no_hint(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, place, full)
    graph, prop, truth = problem(1, np.inf)
    found = measured(graph, prop, np.inf, 2.0)
    assert found.solver is None
    assert found.lower <= truth * (1 + 1e-9)


def test_no_radius_is_proved_where_x_itself_is_unsafe() -> None:
    graph, prop, _ = problem(0, np.inf)
    unsafe = replace(prop.clauses[0], offset=prop.clauses[0].offset + 100.0)
    found = measured(graph, Property((unsafe,)), np.inf)
    assert (found.lower, found.upper, found.proof) == (0.0, 0.0, None)


def test_where_nothing_is_unsafe_the_largest_radius_is_proved() -> None:
    graph, prop, _ = problem(0, np.inf)
    safe = replace(prop.clauses[0], offset=prop.clauses[0].offset - 100.0)
    found = measured(graph, Property((safe,)), np.inf)
    assert (found.lower, found.upper, found.witness) == (2.0, np.inf, None)
    assert not found.exact


@pytest.mark.parametrize(("center", "largest"), [([0.9, 0.0], 1.0), ([0.0, 0.0], 0.0), ([0.0, 0.0], np.inf)])
def test_distances_that_are_refused(center: list[float], largest: float) -> None:
    graph, prop, _ = problem(0, np.inf)
    with pytest.raises(BadOption):
        distance(Imported(graph, Evaluated(graph)), np.array(center), prop, Metric(np.inf, RANGE, largest))


def test_the_distance_is_rounded_up() -> None:
    metric, rng = Metric(2, None, 1.0), np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.standard_normal((2, 5))
        size = Fraction(metric.between(x, y))
        exact = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))
        assert exact <= size**2 <= exact * (1 + Fraction(1, 10**14))


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("size", [5e-324, 1e-170, 1e200])
def test_distances_whose_squares_are_not_to_be_held(norm: float, size: float) -> None:
    found = Metric(norm, None, 1.0).between(np.zeros(2), np.array([size, 0.0]))
    assert found == size


def test_radii_end_where_no_number_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be proved of any radius, however small, and there is no limit of time."""
    asked = []

    def open_(query: Query, *args: object) -> Unknown:
        asked.append(query.cases[0].region.radius)
        return Unknown(Reason.STUCK)

    monkeypatch.setattr(module, "verify", open_)
    monkeypatch.setattr(module, "covers", lambda graph: False)
    graph, prop, _ = problem(0, np.inf)
    safe = replace(prop.clauses[0], offset=prop.clauses[0].offset - 100.0)
    found = distance(Imported(graph, Evaluated(graph)), CENTER, Property((safe,)), Metric(np.inf, RANGE, 2.0))
    assert (found.lower, found.proof, found.exact) == (0.0, None, False)
    assert min(asked) == 5e-324


@pytest.mark.parametrize("place", ["covers", "verify"])
def test_where_memory_runs_out_what_is_known_stands(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true, known = getattr(module, place), []

    def full(*args: object) -> object:
        if place == "covers" or Verified in map(type, known):
            raise MemoryError
        known.append(true(*args))
        return known[-1]

    monkeypatch.setattr(module, place, full)
    graph, prop, truth = problem(3, np.inf)
    found = measured(graph, prop, np.inf, 5.0)
    assert 0 < found.lower <= truth * (1 + 1e-9)
    assert not found.exact


STUCK = """
import sys, time, types

def stuck(assessment, index, largest, budget, heard):
    heard(0.25, 0.75)
    time.sleep(100)

sys.modules["benchmarks.radius"] = types.SimpleNamespace(RadiusResult=lambda *fields: fields, measure_one=stuck)
from certify.budget import Budget
from certify.commands import terminal
from certify.commands.radius import _watched

terminal.STUCK = 1.0, 0.1
_watched(types.SimpleNamespace(labels=[5, 6, 7]), 2, 1.0, Budget(0.1), lambda fields: print(*fields[:6]))
"""


def test_a_sample_that_does_not_end_ends_the_run() -> None:
    ran = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert ran.returncode == 130, ran.stderr
    assert "sample 2 takes far longer" in ran.stderr
    assert ran.stdout == "2 7 0.25 0.75 None False\n"


def test_the_summary() -> None:
    rows = [(0.0, 0.0), (0.1, 0.3), (0.2, None), (0.3, 0.3)]
    results = [RadiusResult(i, 1, low, up, None, low == up, 1.0) for i, (low, up) in enumerate(rows)]
    found = summarise(results)
    assert (found.samples, found.wrong, found.exact, found.time_s) == (4, 1, 1, 4.0)
    assert found.mean == pytest.approx((0.2, 0.3))
    assert found.median == pytest.approx((0.2, 0.3))
    assert np.isnan(summarise(results[:1]).mean).all()


def test_the_table_says_no_more_than_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    _show(summarise([RadiusResult(0, 1, 0.12767374, 0.12774663, None, True, 1.0)]), stderr=False)
    assert [w for w in capsys.readouterr().out.split() if w.startswith("0.1")] == ["0.1276", "0.1278"] * 2


def test_the_command_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "radius",
        "digits-mlp-ibp",
        "--data",
        "digits",
        "--timeout",
        "2",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    for span, indices in (("0:1", [0]), ("0:2", [1])):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--index", span])
        assert not ended.value.code
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [f["index"] for f in found] == indices
        assert all(0 < f["lower"] <= f["upper"] for f in found)
    assert (tmp_path / "run" / "radius.png").stat().st_size > 1000
    with pytest.raises(SystemExit) as ended:
        main([*command, "--index", "0:1", "--norm", "2"])
    assert ended.value.code == 2


def test_slopes_that_overflow_give_no_direction() -> None:
    """And do not end the search: what comes of them is no number that a witness could be moved by."""
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(ops.Relu(), build.emit(ops.Linear(np.full((1, 2), 1e200), np.zeros(1)), build.inputs[0]))
    graph = build.build([build.emit(ops.Linear(np.full((1, 1), 1e200), np.zeros(1)), h)], [Port("y", (1,))])
    prop = Property((clause([[1.0]], [0.0]),))
    hunt = _Hunt(
        Imported(graph, Evaluated(graph)), np.ones(2), prop, Metric(2.0, None, 1.0), Strategy(), Budget(), None
    )
    assert not hunt._down(np.ones(2)).any()
