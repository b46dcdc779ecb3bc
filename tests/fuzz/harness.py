"""One instance through the verifier, and everything that could be wrong with the answer."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from certify.budget import Budget
from certify.check.checker import check_proof
from certify.graph import ops
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph
from certify.spec.query import Query
from certify.strategy import Method, Strategy
from certify.verdict import Falsified, Reason, Unknown, Verdict, Verified
from tests import exact
from tests.fuzz.generate import Instance
from tests.fuzz.oracle import Truth, inside, is_clear, judge, largest, tolerances

QUICK, PATIENT = 0.25, 10.0
"""Seconds per instance, and seconds for one that must be decided because its margin is clear."""


class Verifier(Protocol):
    def __call__(self, query: Query, strategy: Strategy, budget: Budget) -> Verdict: ...


@dataclass(frozen=True)
class Problem:
    """What is wrong with a verdict. `kind` is kept by shrinking; `unsound` is the one that must not be."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Report:
    """The outcome for one seed: the verdict's name, what the oracle knew, and the problem if there is one."""

    seed: int
    verdict: str
    truth: str
    problem: Problem | None = None

    def count(self, totals: Counter) -> None:
        totals[f"{self.verdict} where the oracle says {self.truth}"] += 1
        if self.problem is not None:
            totals[f"PROBLEM {self.problem.kind}"] += 1


class GraphSource:
    """The original network of an instance: its graph, evaluated in the type of its input, or wider."""

    def __init__(self, graph: Graph, dtype: type) -> None:
        self.graph, self.dtype = graph, dtype
        self.name = f"evaluation in {np.dtype(dtype).name}"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, self.graph.inputs[0].dtype)
        return evaluate(self.graph, x[None], self.dtype)[0].astype(np.float64)


def query_of(instance: Instance) -> Query:
    """The instance's query: even seeds replay in float64, odd ones in the input's own type."""
    own = np.dtype(instance.graph.inputs[0].dtype).type
    return Query(GraphSource(instance.graph, own if instance.seed % 2 else np.float64), instance.graph, instance.cases)


def strategy_of(seed: int) -> Strategy:
    """Mostly the default way; sometimes another method, and often no attack, so that the search has work; with
    intermediate bounds optimised at once, or never."""
    rng = np.random.default_rng([seed, 1])
    methods = (
        [Method.AUTO] * 4
        + [Method.NEURON_SPLIT] * 3
        + [Method.INPUT_SPLIT] * 2
        + [Method.LINEAR, Method.INTERVAL, Method.MIP]
    )
    method, steps = methods[rng.integers(len(methods))], int(rng.choice([0, 5, 20]))
    patience = float(rng.choice([0.0, 0.0, 0.3, np.inf]))
    return Strategy(method=method, steps=steps, restarts=3, patience=patience)


def examine(instance: Instance, verifier: Verifier) -> Report:
    """Verify the instance and hold the verdict against the oracle, the checker and exact arithmetic."""
    query, strategy = query_of(instance), strategy_of(instance.seed)
    if strategy.method is Method.MIP and any(isinstance(n.op, ops.Product) for n in instance.graph.nodes):
        strategy = replace(strategy, method=Method.AUTO)  # linear programs hold no products
    truth, found = judge(instance.graph, instance.cases, instance.seed)
    try:
        verdict = verifier(query, strategy, Budget(timeout=QUICK))
        due = isinstance(verdict, Unknown) and must_decide(instance, strategy, truth)
        if due and verdict.reason is Reason.TIMEOUT:
            verdict = verifier(query, strategy, Budget(timeout=PATIENT))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{error!r} at {where.name}, line {where.lineno} of {where.filename.rsplit('/', 1)[-1]}"
        return Report(instance.seed, "crash", truth.value, Problem(f"crash {type(error).__name__}", detail))
    problem = None
    if isinstance(verdict, Verified):
        problem = _wrong_proof(query, verdict, found)
    elif isinstance(verdict, Falsified):
        problem = _wrong_witness(query, verdict)
    elif due:
        why = f"{verdict.reason.name}, lower {verdict.lower} {verdict.detail}"
        problem = Problem(f"incomplete {verdict.reason.name}", f"{strategy.method.value}: {why}")
    return Report(instance.seed, verdict.name, truth.value + (", clearly" if due else ""), problem)


def _wrong_proof(query: Query, verdict: Verified, found: exact.Violation | None) -> Problem | None:
    if found is not None:
        x = [float(v) for v in found.x]
        return Problem("unsound", f"verified, but clause {found.clause} of case {found.case} is violated at {x}")
    checked = check_proof(query.graph, query.cases, verdict.evidence)
    if not checked.ok:
        return Problem("rejected", f"verified, but from scratch the proof is rejected: {'; '.join(checked.failures)}")
    return None


def _wrong_witness(query: Query, verdict: Falsified) -> Problem | None:
    """The witness must lie in the region, and violate on the original network, both exactly; and the real
    network must come as near to a violation there as rounding explains."""
    witness = verdict.witness
    case = query.cases[witness.case]
    x = witness.x.tolist()
    if not inside(case.region, x):
        return Problem("witness outside", f"the witness {x} is not in the region")
    y = query.source(witness.x)
    if not np.array_equal(y, witness.y, equal_nan=True):
        return Problem("witness replay", f"the original network answers {y}, not {witness.y}")
    clause = case.property.clauses[witness.clause]
    if not clause.unsafe(np.concatenate([y, witness.x])[: clause.matrix.shape[1]]):
        return Problem("witness safe", f"clause {witness.clause} is not violated at {x}, where the output is {y}")
    z = exact.outputs(query.graph, x)
    slack = tolerances(query.graph, case, 1e-5)[witness.clause]
    for row, offset, most in zip(clause.matrix, clause.offset, slack, strict=True):
        value = float(sum((exact.Fraction(a) * v for a, v in zip(row, z, strict=False) if a), exact.Fraction(0)))
        if not value <= offset + most:
            return Problem("witness rounding", f"{value} > {offset} in exact arithmetic, by more than {most}")
    return None


def must_decide(instance: Instance, strategy: Strategy, truth: Truth) -> bool:
    """Whether the method is complete for this instance: a continuous piecewise-linear network, numbers that
    float32 holds well, a margin that is clear, and for neuron splits a region that is a box."""
    by_neuron = strategy.method in (Method.NEURON_SPLIT, Method.MIP)
    if not by_neuron and strategy.method not in (Method.AUTO, Method.INPUT_SPLIT):
        return False
    if by_neuron and any(case.region.norm in (1, 2) for case in instance.cases):
        return False
    for node in instance.graph.nodes:
        if isinstance(node.op, ops.Nonlinear) and (ops.breakpoints(node.op) is None or isinstance(node.op, ops.Sign)):
            return False
    if any(largest(instance.graph, case.region) > 1e30 for case in instance.cases):
        return False
    return is_clear(instance.graph, instance.cases, truth)


def same_problem(report: Report, verifier: Verifier) -> Callable[[Instance], bool]:
    """Whether an instance has the problem of `report`, for shrinking."""

    def fails(instance: Instance) -> bool:
        found = examine(instance, verifier).problem
        return found is not None and found.kind == report.problem.kind

    return fails
