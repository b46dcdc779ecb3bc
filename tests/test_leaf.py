"""The neuron-split search decides piecewise-linear networks completely: its verdicts against the exact oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from certify.budget import Budget
from certify.check.checker import check_proof
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph, Port
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import Region, box
from certify.strategy import Method, Strategy
from certify.verdict import Falsified, Verdict, Verified
from certify.verifier import verify
from tests import exact

Array = np.ndarray

NEAR = 2e-7
"""How far from the exact turning point properties are asked; the networks' values are about 1."""

RELU, LEAKY, ABS, CLIP = ops.Relu(), ops.LeakyRelu(np.array(0.25)), ops.Abs(), ops.Clip(-0.5, 0.75)
ACTIVATIONS = (RELU, LEAKY, ABS, CLIP, ops.LeakyRelu(np.array(-0.5)), ops.LeakyRelu(np.array(2.0)))


@dataclass(frozen=True)
class Evaluated:
    """The original network: the graph itself, evaluated in float64."""

    graph: Graph
    name: str = "evaluation in float64"

    def __call__(self, x: Array) -> Array:
        return evaluate(self.graph, x[None])[0]


def ask(graph: Graph, region: Region, clauses: Sequence[Clause], method: Method = Method.NEURON_SPLIT) -> Verdict:
    """The verdict, without an attack, after it has passed the checker or the exact oracle."""
    case = Case(region, Property(tuple(clauses)))
    query = Query(Evaluated(graph), graph, (case,))
    verdict = verify(query, Strategy(method=method, steps=0), Budget(60))
    if isinstance(verdict, Verified):
        assert check_proof(graph, query.cases, verdict.evidence).ok
    if isinstance(verdict, Falsified):
        x = verdict.witness.x.tolist()
        assert region.contains(verdict.witness.x)
        assert exact.violated(case.property, exact.outputs(graph, x)) is not None
    return verdict


def violated(graph: Graph, region: Region, unsafe: Clause) -> bool:
    return exact.violation(graph, [Case(region, Property((unsafe,)))]) is not None


def network(seed: int, layers: Sequence[ops.Elementwise], size: int = 2, width: int = 3) -> Graph:
    """Hidden layers with these activations, two outputs; every other one also adds what entered the last layer."""
    rng = np.random.default_rng(seed)

    def linear(x: object, out: int) -> object:
        weight = rng.standard_normal((out, x.shape[0])) * np.sqrt(1 / x.shape[0])
        return build.emit(ops.Linear(weight.astype(np.float32), 0.4 * rng.standard_normal(out).astype(np.float32)), x)

    build = GraphBuilder([Port("x", (size,), "float64")])
    h = build.inputs[0]
    for op in layers:
        before, h = h, build.emit(op, linear(h, width))
    if seed % 2 and before.shape == h.shape:
        h = build.add(h, before)
    return build.build([linear(h, 2)], [Port("y", (2,))])


def turning_point(graph: Graph, region: Region, rows: Array) -> float:
    """The offset t, to 1e-9, from which on {rows @ z <= t} meets the values of the network."""
    low, high = -20.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if violated(graph, region, clause(rows, np.full(len(rows), middle))):
            high = middle
        else:
            low = middle
    return high


def chosen(seed: int, rows: int, reads_input: bool = False) -> Array:
    return np.random.default_rng([seed, 7]).standard_normal((rows, 4 if reads_input else 2))


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_conjunctions_are_decided_right_up_to_the_turning_point(op: ops.Elementwise, rows: int) -> None:
    for seed in range(2):
        graph, region = network(10 * rows + seed, (op, op)), box([-1.0, -0.5], [0.75, 1.0])
        matrix = chosen(seed, rows, reads_input=rows == 3)
        at = turning_point(graph, region, matrix)
        assert isinstance(ask(graph, region, [clause(matrix, np.full(rows, at - NEAR))]), Verified)
        assert isinstance(ask(graph, region, [clause(matrix, np.full(rows, at + NEAR))]), Falsified)
