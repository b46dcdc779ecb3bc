"""Exact extreme values of outputs, against the exact oracle, and with a solver that lies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from certify import extreme as module
from certify.budget import Budget
from certify.check.checker import check_proof
from certify.commands.extremes import _row
from certify.errors import BadOption
from certify.extreme import Extreme, maximum, minimum
from certify.frontends.imported import Imported
from certify.graph.evaluate import evaluate
from certify.mip.distance import Optimum
from certify.solvers.highs import Status
from certify.spec.property import Property, clause
from certify.spec.query import Case
from certify.spec.regions import ball
from certify.verdict import Reason, Unknown
from tests import exact
from tests.conftest import Ran
from tests.test_leaf import Evaluated
from tests.test_mip import REGION, mixed

ROW = np.array([1.0, -0.5])


def measured(seed: int, sign: int, seconds: float = 20.0) -> Extreme:
    """The least (sign 1) or greatest (-1) value of ROW, its proof replayed and its input asked again."""
    graph = mixed(seed)
    found = (minimum if sign > 0 else maximum)(Imported(graph, Evaluated(graph)), REGION, ROW, budget=Budget(seconds))
    if found.proof is not None:
        cases = [Case(REGION, Property((clause(sign * ROW[None], [sign * found.proved]),)))]
        assert check_proof(graph, cases, found.proof.evidence).ok
    assert REGION.contains(found.x)
    assert evaluate(graph, found.x[None])[0] @ ROW == pytest.approx(found.attained, rel=1e-12)
    assert sign * found.proved <= sign * found.attained
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_extremes_are_exact(seed: int, sign: int) -> None:
    truth = sign * float(exact.minimum(mixed(seed), REGION, sign * ROW))
    found = measured(seed, sign)
    assert found.exact
    assert found.proved == pytest.approx(truth, abs=1e-5)
    assert found.attained == pytest.approx(truth, abs=1e-5)
    assert sign * found.proved <= sign * truth + 1e-12


@pytest.mark.parametrize("claimed", [-100.0, 100.0, np.inf, np.nan])
def test_a_solver_that_lies_moves_no_bound(claimed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    lie = Optimum(Status.OPTIMAL, claimed, claimed, np.array([0.7, -0.4]))
    monkeypatch.setattr(module, "least", lambda *args: lie)
    truth = float(exact.minimum(mixed(0), REGION, ROW))
    found = measured(0, 1, 2.0)
    assert found.proved <= truth + 1e-12
    assert found.attained >= truth - 1e-12


def test_values_end_where_no_number_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be proved of any value, however small, and there is no limit of time."""
    monkeypatch.setattr(module, "verify", lambda *args: Unknown(Reason.STUCK))
    monkeypatch.setattr(module, "covers", lambda graph: False)
    graph = mixed(0)
    found = minimum(Imported(graph, Evaluated(graph)), REGION, ROW)
    assert (found.proved, found.proof, found.exact) == (-np.inf, None, False)
    assert np.isfinite(found.attained)


def test_over_a_ball_and_of_the_inputs_too() -> None:
    graph, row = mixed(1), np.array([0.0, 0.0, 1.0, 1.0])
    found = minimum(Imported(graph, Evaluated(graph)), ball([0.1, 0.2], 0.25, 1, (-1, 1)), row, budget=Budget(20))
    assert found.proved <= 0.05 <= found.attained + 1e-9
    assert found.exact


def test_the_command(run: Callable[..., Ran], network: Path, holds: Path) -> None:
    ran = run("extremes", network, holds, "--outputs", "0:1", "--json", "--timeout", "30")
    assert ran.status == 0
    (found,) = [json.loads(line) for line in ran.out.splitlines()]
    least, greatest = found["least"], found["greatest"]
    assert least["proved"] <= least["attained"] < greatest["attained"] <= greatest["proved"]
    assert (least["exact"], greatest["exact"]) == (True, True)
    assert (least["attained"], greatest["attained"]) == pytest.approx((0.0, 2.0), abs=1e-4)
    refused = run("extremes", network, holds, "--outputs", "7")
    assert refused.status == 2
    assert "--outputs 7" in refused.err


def test_the_table_says_no_more_than_is_known() -> None:
    low = Extreme(-1.00000004, 0.100000001, None, None, None, False)
    high = Extreme(1.00000004, 0.999999999, None, None, None, False)
    assert _row(0, 3, low, high) == ("Y_3", 0, "-1.0000001", "0.10000001", "0.99999999", "1.0000001", "no")
    nothing = Extreme(-np.inf, np.inf, None, None, None, False)
    assert _row(0, 3, nothing, nothing)[2:4] == ("-inf", "inf")


def test_what_was_known_when_it_was_stopped_is_shown(
    run: Callable[..., Ran], network: Path, holds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, budget: Budget, **options: object) -> Extreme:
        budget.cancel()
        return Extreme(-1.5, 2.5, None, None, None, False)

    monkeypatch.setattr(module, "minimum", stopped)
    monkeypatch.setattr(module, "maximum", stopped)
    ran = run("extremes", network, holds)
    assert ran.status == 130
    assert "-1.5" in ran.out
    assert "stopped: 0 of" in ran.err


STUCK = """
import sys, time
from certify import extreme
from certify.cli import main
from certify.commands import terminal

def stuck(*args, progress, **options):
    progress(-1.5, 2.5)
    time.sleep(100)

extreme.minimum, terminal.STUCK = stuck, (1.0, 0.1)
main(sys.argv[1:])
"""


def test_a_value_that_does_not_end_ends_the_run(network: Path, holds: Path) -> None:
    command = [sys.executable, "-c", STUCK, "extremes", str(network), str(holds), "--timeout", "0.1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 130, ran.stderr
    assert "far longer" in ran.stderr
    assert "stopped: 0 of 2" in ran.stderr
    assert "-1.5" in ran.stdout
    assert "2.5" in ran.stdout


def test_where_memory_runs_out_what_is_known_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "verify", full)
    found = measured(0, 1, 5.0)
    assert np.isfinite(found.attained)
    assert (found.proved, found.proof, found.exact) == (-np.inf, None, False)
    assert found.solver is not None


def test_rows_that_are_refused() -> None:
    graph = mixed(0)
    for row in (np.ones(3), np.array([np.nan, 0.0])):
        with pytest.raises(BadOption, match="row"):
            minimum(Imported(graph, Evaluated(graph)), REGION, row)
