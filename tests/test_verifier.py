"""No path to *verified* but through accepted proofs of every clause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

import certify
from certify import Strategy, Unknown, verifier
from certify.bab.race import race
from certify.bab.search import Outcome, Search
from certify.bab.stages import Stages
from certify.check.checker import Checker
from certify.mip.search import LpSplit
from certify.verdict import Grade


def open_problem() -> tuple[nn.Module, certify.Region, certify.Property]:
    """|x| <= 1.05 on [-1, 1] as relu(x) + relu(-x), which one linear pass does not show."""
    module = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        module[2].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        module[2].bias.copy_(torch.tensor([1.05, 0.0]))
    return module, certify.box(np.array([-1.0]), np.array([1.0])), certify.robust(0, 2)


def test_the_problem_needs_a_search() -> None:
    module, region, prop = open_problem()
    linear = certify.verify(module, region, prop, strategy=Strategy(method=certify.Method.INTERVAL))
    assert isinstance(linear, Unknown)
    assert certify.verify(module, region, prop, timeout=20).name == "verified"


def test_a_search_that_ends_without_trees_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, region, prop = open_problem()
    monkeypatch.setattr(verifier.Run, "_bound", lambda run: None)
    monkeypatch.setattr(verifier, "race", lambda *given: Outcome())
    assert isinstance(certify.verify(module, region, prop, timeout=20), Unknown)


@pytest.mark.parametrize(("rows", "programs"), [([[-1.0, 0, 0]], False), ([[-1.0, 0, 0], [0, 1, -1]], True)])
def test_inequalities_between_inputs_are_searched_on_linear_programs(
    rows: list[list[float]], programs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """|x_0| + |x_1| < 1.9 on the unit box, wherever x_0 <= x_1 - 0.2 if the second row is there."""
    module = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        module[2].weight.fill_(1.0)
    kinds: list[type] = []

    def heard(searches: Sequence[Search | Stages], *rest: object) -> Outcome:
        kinds.extend(type((s.search if isinstance(s, Stages) else s).engine) for s in searches)
        return race(searches, *rest)

    monkeypatch.setattr(verifier, "race", heard)
    monkeypatch.setattr(verifier.Run, "_bound", lambda run: None)
    prop = certify.Property([certify.clause(rows, [-1.9, -0.2][: len(rows)])])
    region = certify.box(np.array([-1.0, -1.0]), np.array([0.5, 0.5]))
    verdict = certify.verify(module, region, prop, timeout=30, strategy=Strategy(steps=0))
    assert verdict.name == ("verified" if programs else "falsified")
    assert (LpSplit in kinds) == programs


def test_what_the_checker_rejects_is_never_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    module, region, prop = open_problem()
    monkeypatch.setattr(Checker, "_decide", lambda self, structure, *rest: np.zeros(len(structure.row), bool))
    for method in certify.Method:
        verdict = certify.verify(module, region, prop, strategy=Strategy(method=method, steps=0), timeout=1)
        recomputed = method.value in verifier.BOUNDS and verifier.BOUNDS[method.value].outward
        assert isinstance(verdict, Unknown) or (recomputed and verdict.grade is Grade.RECOMPUTED)


def test_an_error_in_the_checkers_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> np.ndarray:
        raise RuntimeError("in the checker")

    module, region, prop = open_problem()
    monkeypatch.setattr(verifier.Run, "_bound", lambda run: None)
    monkeypatch.setattr(Checker, "accept", fail)
    with pytest.raises(RuntimeError, match="in the checker"):
        certify.verify(module, region, prop, timeout=20)
