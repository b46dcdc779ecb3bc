"""A few hundred fuzz instances on every run, and proof that the harness would notice a wrong answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from certify.evidence import TreeProof, Witness, single_leaf
from certify.graph import ops
from certify.spec.query import Query, spec_hash
from certify.strategy import Method, Strategy
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified
from certify.verifier import verify
from tests.fuzz import store
from tests.fuzz.generate import Instance, instance
from tests.fuzz.harness import Report, examine, same_problem
from tests.fuzz.oracle import Truth, judge
from tests.fuzz.shrink import shrink

CHUNK = 40


@pytest.mark.parametrize("first", range(0, 320, CHUNK))
def test_no_verdict_is_wrong(first: int) -> None:
    reports = [examine(instance(seed), verify) for seed in range(first, first + CHUNK)]
    problems = [f"seed {r.seed}: {r.problem.kind}: {r.problem.detail}" for r in reports if r.problem]
    assert not problems, "\n".join(problems)
    assert len({r.verdict for r in reports}) > 1, "instances that all end alike test little"


@pytest.mark.parametrize("seed", [600019, 600146])
def test_splits_that_contradict_one_another_close_clauses_of_any_length(seed: int) -> None:
    """Instances with clauses of one row and of two, on which the search on linear programs meets such splits."""
    report = examine(instance(seed), lambda query, _, budget: verify(query, Strategy(method=Method.MIP), budget))
    assert report.problem is None, report.problem


def test_a_seed_gives_one_instance() -> None:
    for seed in range(20):
        first, second = instance(seed), instance(seed)
        assert first.graph.hash == second.graph.hash
        assert spec_hash(first.cases) == spec_hash(second.cases)


def test_all_operators_norms_and_oddities_occur() -> None:
    seen: Counter[object] = Counter()
    for seed in range(400):
        drawn = instance(seed)
        seen.update({type(n.op).__name__ for n in drawn.graph.nodes})
        for case in drawn.cases:
            widths = case.region.upper - case.region.lower
            seen.update([("norm", case.region.norm), ("zero widths", int((widths == 0).sum()) > 0)])
            seen["all widths zero"] += not widths.any()
            seen["reads input"] += any(c.matrix.shape[1] > drawn.graph.output_size for c in case.property.clauses)
            seen["strict"] += any(c.strict.any() for c in case.property.clauses)
            seen["rows"] += any(len(c.offset) > 1 for c in case.property.clauses)
            seen["clauses"] += len(case.property.clauses) > 1
        seen["cases"] += len(drawn.cases) > 1
        for node in drawn.graph.nodes:
            if isinstance(node.op, ops.Linear):
                size = float(np.abs(node.op.weight).max())
                seen["huge"] += size > 1e6
                seen["tiny"] += 0 < size < 1e-6
    wanted = {*ops.registered(), "reads input", "strict", "rows", "clauses", "cases", "huge", "tiny", "all widths zero"}
    wanted |= {("norm", norm) for norm in (None, 1, 2, np.inf)} | {("zero widths", True), ("zero widths", False)}
    assert not {key for key in wanted if not seen[key]}


def _first(truth: Truth, verdict: type[Verdict] | None = None) -> Instance:
    """The first instance of this truth, on which the real verifier says `verdict`."""
    for seed in range(1000):
        drawn = instance(seed)
        if judge(drawn.graph, drawn.cases)[0] is truth:
            report = examine(drawn, verify)
            if verdict is None or report.verdict == verdict.name:
                return drawn
    raise AssertionError(f"no {truth} instance")


def _everything(query: Query, *_: object) -> Verdict:
    """A verifier that calls everything verified, with evidence that looks like some."""
    trees = tuple(
        single_leaf(i, tuple(range(len(c.property.clauses))), np.ones((len(c.property.clauses), 1)))
        for i, c in enumerate(query.cases)
    )
    return Verified(TreeProof(trees, (), query.graph.hash, query.spec_hash), Grade.CHECKED)


def _nothing(query: Query, *_: object) -> Verdict:
    return Unknown(Reason.STUCK)


def _middle(query: Query, *_: object) -> Verdict:
    """A verifier that calls everything falsified, by the middle of the first region."""
    region = query.cases[0].region
    x = (region.lower + region.upper) / 2
    return Falsified(Witness(0, 0, x, query.source(x), query.source.name))


def _corner_outside(query: Query, *_: object) -> Verdict:
    x = query.cases[0].region.upper + 1
    return Falsified(Witness(0, 0, x, query.source(x), query.source.name))


def _fails(query: Query, *_: object) -> Verdict:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    ("truth", "verifier", "kind"),
    [
        (Truth.UNSAFE, _everything, "unsound"),
        (Truth.SAFE, _everything, "rejected"),
        (Truth.SAFE, _middle, "witness safe"),
        (Truth.UNSAFE, _corner_outside, "witness outside"),
        (Truth.SAFE, _fails, "crash ZeroDivisionError"),
    ],
)
def test_the_harness_notices(truth: Truth, verifier: object, kind: str) -> None:
    found = set()
    for seed in range(30):
        drawn = instance(seed)
        if judge(drawn.graph, drawn.cases)[0] is truth:
            report = examine(drawn, verifier)
            if report.problem is not None:
                found.add(report.problem.kind)
    assert kind in found
    assert "unsound" not in found or kind == "unsound"


def test_the_harness_notices_a_verifier_that_gives_up() -> None:
    kinds = {r.problem.kind for r in (examine(instance(s), _nothing) for s in range(40)) if r.problem is not None}
    assert kinds == {"incomplete STUCK"}


def test_a_failure_shrinks_and_is_replayed_from_its_file(tmp_path: Path) -> None:
    drawn = _first(Truth.UNSAFE)
    report: Report = examine(drawn, _everything)
    fails = same_problem(report, _everything)
    small = shrink(drawn, fails, seconds=5)
    assert fails(small)
    assert len(small.graph.nodes) <= len(drawn.graph.nodes)
    assert len(small.cases) == 1
    assert len(small.cases[0].property.clauses) == 1
    store.save(small, tmp_path / "failure.npz")
    again = store.load(tmp_path / "failure.npz")
    assert again.graph.hash == small.graph.hash
    assert spec_hash(again.cases) == spec_hash(small.cases)
    assert examine(again, _everything).problem == examine(small, _everything).problem


def test_shrinking_keeps_what_the_failure_needs() -> None:
    """An instance that fails whenever it has an Abs over two inputs or more ends as little else."""
    drawn = next(i for i in map(instance, range(200)) if _has_abs(i) and len(i.graph.nodes) > 5)
    small = shrink(drawn, _has_abs, seconds=5)
    assert _has_abs(small)
    assert len(small.graph.nodes) < len(drawn.graph.nodes)
    assert not any(c.matrix.any() for case in small.cases for c in case.property.clauses)


def _has_abs(drawn: Instance) -> bool:
    return any(isinstance(n.op, ops.Abs) for n in drawn.graph.nodes)


def test_regions_survive_the_store(tmp_path: Path) -> None:
    for seed in range(30):
        drawn = replace(instance(seed), seed=seed + 5)
        store.save(drawn, tmp_path / "i.npz")
        again = store.load(tmp_path / "i.npz")
        assert spec_hash(again.cases) == spec_hash(drawn.cases)
        assert again.graph.hash == drawn.graph.hash
        assert again.seed == seed + 5
