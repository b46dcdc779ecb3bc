"""Searches in little memory prove what others prove; and the benchmark that counts what domains cost: its searches
last, and memory is as on paper."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import HARD, Hard, Mark, engine_of, lowest, measure, problem_of
from certify.bab.engine import Engine, Problem
from certify.bab.neuron_split import NeuronSplit
from certify.bab.search import HELD, Progress, Search
from certify.bounds.base import apart
from certify.bounds.intermediate import intermediate
from certify.budget import Budget
from certify.check.checker import Checker
from certify.graph.evaluate import evaluate


def engine(hard: Hard, problem: Problem) -> Engine:
    """As the benchmark's, but neurons are split after as many steps as they would be elsewhere."""
    if hard.name == "boxes":
        return engine_of(hard, problem)
    return NeuronSplit(problem, apart(intermediate(problem.network, problem.inputs)))


def held(hard: Hard, memory: int) -> int:
    """Prove it; the most bytes that its open domains, tree and proofs took up meanwhile."""
    budget = Budget(120, memory)
    problem, case = problem_of(hard, budget)
    checker = Checker(problem.network.graph, (case,))
    found: list[int] = []

    def report(progress: Progress) -> None:
        found.append(search.pool.bytes + sum(b.bytes for b in search.builders))

    nodes = range(len(problem.network.graph.nodes))
    search = Search(engine(hard, problem), 0, checker.accept, lambda points: None, budget, nodes, report)
    with torch.no_grad():
        outcome = search.run()
    search.close()
    assert outcome.trees, outcome.reason
    assert all(checker.accept(tree).all() for tree in outcome.trees)
    return max(found)


@pytest.mark.parametrize(
    ("hard", "little"),
    [
        pytest.param(Hard("boxes", (5, 24, 24, 1), 3.0, 0.02), 300_000, marks=pytest.mark.slow),
        (Hard("neurons", (8, 16, 16, 1), 1.0, 0.05), 200_000),
    ],
    ids=["boxes", "neurons"],
)
def test_little_memory_is_enough(hard: Hard, little: int) -> None:
    """A search that holds more, where it may, proves the same within the limit."""
    assert held(hard, 1 << 30) > HELD * little >= held(hard, little)


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
