"""The benchmark that counts what domains cost: its searches last, and memory is as on paper."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import HARD, Hard, Mark, lowest, measure, problem_of
from certify.budget import Budget
from certify.graph.evaluate import evaluate


@pytest.mark.parametrize("hard", HARD, ids=lambda h: h.name)
def test_the_search_goes_on_for_long_and_its_memory_is_as_on_paper(hard: Hard) -> None:
    marks: list[Mark] = []
    with torch.no_grad():
        measure(hard, 3000, 64 << 20, marks.append)
    assert [m.bounded >= n for m, n in zip(marks, (1000, 3000), strict=True)] == [True, True]
    for m in marks:
        assert m.open > 500
        assert m.searching <= m.all
        assert m.paper / 2 < m.each <= 2.1 * m.paper
        assert m.closed < m.bounded


def test_the_property_is_true_as_far_as_samples_tell() -> None:
    for hard in HARD:
        problem, case = problem_of(hard, Budget())
        lower, upper = case.region.lower, case.region.upper
        rng = np.random.default_rng(7)
        bound = case.property.clauses[0].offset[0]
        assert lowest(problem.network.graph, lower, upper, rng) > bound
        assert evaluate(problem.network.graph, rng.uniform(lower, upper, (1000, len(lower)))).min() > bound


def test_marks_are_printed_as_they_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--domains", "1000", "--only", "neurons", "--json"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["search"] for row in found] == ["neurons"]
    assert found[0]["bounded"] >= 1000
