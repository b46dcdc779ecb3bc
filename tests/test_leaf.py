"""The neuron-split search decides piecewise-linear networks completely: its verdicts against the exact oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from certify.bab.engine import Problem, Proofs
from certify.bab.input_split import InputSplit
from certify.bab.neuron_split import NeuronSplit
from certify.bab.search import Search
from certify.bab.tree import TreeBuilder
from certify.bounds.base import apart
from certify.bounds.intermediate import intermediate, worth_refining
from certify.budget import Budget
from certify.check.checker import check_proof
from certify.evidence import Tree
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Graph, Port
from certify.spec.inputset import stack
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import Region, ball, box
from certify.strategy import Method, Strategy
from certify.verdict import Falsified, Reason, Verdict, Verified
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


def ask(
    graph: Graph,
    region: Region,
    clauses: Sequence[Clause],
    method: Method = Method.NEURON_SPLIT,
    seconds: float = 60,
) -> Verdict:
    """The verdict, without an attack, after it has passed the checker or the exact oracle."""
    case = Case(region, Property(tuple(clauses)))
    query = Query(Evaluated(graph), graph, (case,))
    verdict = verify(query, Strategy(method=method, steps=0), Budget(seconds))
    if isinstance(verdict, Verified):
        assert check_proof(graph, query.cases, verdict.evidence).ok
    if isinstance(verdict, Falsified):
        z = exact.outputs(graph, verdict.witness.x.tolist())
        assert region.contains(verdict.witness.x)
        assert exact.margin(case.property, z) <= 1e-13  # the network that was asked rounds
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


def decides(graph: Graph, region: Region, matrix: Array, near: float, method: Method = Method.NEURON_SPLIT) -> None:
    """Just below the turning point the property is verified, just above it is falsified."""
    at, ones = turning_point(graph, region, matrix), np.ones(len(matrix))
    assert isinstance(ask(graph, region, [clause(matrix, (at - near) * ones)], method), Verified)
    assert isinstance(ask(graph, region, [clause(matrix, (at + near) * ones)], method), Falsified)


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: f"{type(op).__name__}{getattr(op, 'slope', '')}")
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_conjunctions_are_decided_right_up_to_the_turning_point(op: ops.Elementwise, rows: int) -> None:
    for seed in range(2):
        graph, region = network(10 * rows + seed, (op, op)), box([-1.0, -0.5], [0.75, 1.0])
        matrix = chosen(seed, rows, reads_input=rows == 3)
        decides(graph, region, matrix, NEAR)


@pytest.mark.parametrize("seed", range(8))
def test_deep_networks_of_mixed_operators(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = network(seed, [ACTIVATIONS[k] for k in rng.integers(0, len(ACTIVATIONS), 3)])
    region, matrix = box([-1.0, -0.5], [0.75, 1.0]), chosen(seed, 1 + seed % 3)
    decides(graph, region, matrix, NEAR)


@pytest.mark.parametrize("op", ACTIVATIONS[:4], ids=lambda op: type(op).__name__)
def test_operators_that_read_the_input_split_its_box(op: ops.Elementwise) -> None:
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.emit(op, build.inputs[0])
    mixed = build.emit(ops.Linear(np.array([[1.0, -0.5], [0.75, 1.0]]), np.array([-0.25, 0.125])), h)
    h = build.add(build.emit(ops.Relu(), mixed), build.inputs[0])
    graph = build.build([h], [Port("y", (2,))])
    decides(graph, box([-1.0, -0.75], [1.0, 1.25]), chosen(3, 2), NEAR)


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-6, 0.1])
def test_splits_that_contradict_one_another(apart: float) -> None:
    """Neurons that differ by constants: most combinations of their signs cannot be, some only just."""
    line = np.array([0.75, -1.0])
    first = ops.Linear(np.stack([line, line, -line, 2 * line]), np.array([0.0, apart, apart, -3 * apart]))
    rng = np.random.default_rng(1)
    build = GraphBuilder([Port("x", (2,), "float64")])
    h = build.relu(build.emit(first, build.inputs[0]))
    h = build.relu(build.emit(ops.Linear(rng.standard_normal((3, 4)), 0.1 * rng.standard_normal(3)), h))
    graph = build.build([build.emit(ops.Linear(rng.standard_normal((2, 3)), None), h)], [Port("y", (2,))])
    decides(graph, box([-1.0, -1.0], [1.0, 1.0]), chosen(2, 2), NEAR)


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_a_margin_of_exactly_zero_is_never_verified(offset: float) -> None:
    """|x_0| + |x_1| + offset <= offset at 0 only."""
    build = GraphBuilder([Port("x", (2,), "float64")])
    first = ops.Linear(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), None)
    h = build.relu(build.emit(first, build.inputs[0]))
    graph = build.build([build.emit(ops.Linear(np.ones((1, 4)), np.array([offset])), h)], [Port("y", (1,))])
    for lower in ([-1.0, -1.0], [0.0, 0.0], [-1.0, 0.0]):
        verdict = ask(graph, box(lower, [1.0, 0.75]), [clause([1.0], offset)])
        assert not isinstance(verdict, Verified)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_balls_are_decided(seed: int, norm: int) -> None:
    """Neurons are split until lines are exact; then half-spaces around the ball make up for it."""
    graph, region = network(seed, (RELU, ABS)), ball([0.1, -0.2], 0.75, norm, (-0.75, 0.5))
    matrix = chosen(seed, 2)
    of_box = turning_point(graph, Region(region.lower, region.upper), matrix)
    worst = _worst(graph, region, matrix)
    assert worst > of_box - NEAR
    for offset, verdict in ((worst - 1e-5, Verified), (worst + 1e-5, Falsified)):
        assert isinstance(ask(graph, region, [clause(matrix, [offset, offset])]), verdict)


def _worst(graph: Graph, region: Region, matrix: Array) -> float:
    """The least value over the ball of the largest row, by the best of the cells' convex programs."""
    import cvxpy as cp

    best = np.inf
    for part, _ in exact.cells(graph, Region(region.lower, region.upper), 2000):
        corners = np.array([[p / point[-1] for p in point[:-1]] for point in part.points])
        weights, level = cp.Variable(len(corners), nonneg=True), cp.Variable()
        distance = cp.norm(corners.T @ weights - region.center, region.norm)
        rows = matrix @ (evaluate(graph, corners).T @ weights) <= level
        program = cp.Problem(cp.Minimize(level), [cp.sum(weights) == 1, distance <= region.radius, rows])
        program.solve(solver=cp.CLARABEL)
        best = min(best, float(program.value)) if program.status == "optimal" else best
    return best


def test_boxes_just_outside_of_a_ball_are_empty() -> None:
    """The unsafe wedge  far > 1e-6 + |along| / 10  ends just outside of an L1 ball, whose side is  far = 0."""
    build, center = GraphBuilder([Port("x", (2,), "float64")]), np.array([0.137, -0.211])
    rows = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])  # along, -along, far
    bias = np.array([0.0, 0.0, 8.0]) - rows @ np.add(center, [0.4, 0.6])
    h = build.relu(build.emit(ops.Linear(rows, bias), build.inputs[0]))
    graph = build.build([build.emit(ops.Linear(np.array([[-0.1, -0.1, 1.0]]), np.array([-8.0])), h)], [Port("y", (1,))])
    case = Case(ball(center, 1.0, 1), Property((clause([[-1.0]], [-1e-6]),)))
    verdict = verify(Query(Evaluated(graph), graph, (case,)), Strategy(Method.INPUT_SPLIT, steps=0), Budget(10))
    assert isinstance(verdict, Verified)


def test_several_clauses_each_need_their_proof() -> None:
    graph, region = network(4, (RELU, CLIP)), box([-1.0, -0.5], [0.75, 1.0])
    pairs = [chosen(seed, 2) for seed in range(3)]
    safe = [clause(m, np.full(2, turning_point(graph, region, m) - NEAR)) for m in pairs]
    unsafe = clause(pairs[1], np.full(2, turning_point(graph, region, pairs[1]) + NEAR))
    assert isinstance(ask(graph, region, safe), Verified)
    verdict = ask(graph, region, [safe[0], unsafe, safe[2]])
    assert isinstance(verdict, Falsified)
    assert verdict.witness.clause == 1


@pytest.mark.parametrize("width", [0.0, 1e-9])
def test_boxes_too_narrow_for_float32_are_decided_in_float64(width: float) -> None:
    graph = network(2, (RELU, LEAKY))
    region = box([0.1, -0.3], [0.1 + width, -0.3 + width])
    decides(graph, region, chosen(1, 2), 5e-9, Method.INPUT_SPLIT)


@pytest.mark.parametrize("rows", [1, 3])
def test_affine_networks_are_one_linear_program(rows: int) -> None:
    build = GraphBuilder([Port("x", (3,), "float64")])
    weight = np.random.default_rng(rows).standard_normal((2, 3))
    graph = build.build([build.emit(ops.Linear(weight, None), build.inputs[0])], [Port("y", (2,))])
    decides(graph, box([-1.0, -1.0, 0.5], [1.0, 0.5, 0.5]), chosen(rows, rows), 1e-8, Method.AUTO)


@pytest.mark.parametrize(("engine", "good"), [(NeuronSplit, 0), (NeuronSplit, 1), (NeuronSplit, 3), (InputSplit, 0)])
def test_what_the_checker_rejects_never_reads_as_proved(engine: type, good: int) -> None:
    """A checker that accepts only the first `good` proofs; five or more are needed, or one for the narrow box."""
    graph, narrow = network(6, (RELU, RELU)), engine is InputSplit
    region = box([0.5, -0.25], [0.5, -0.25 + 1e-6]) if narrow else box([-1.0, -0.5], [0.75, 1.0])
    matrix = chosen(6, 2)
    unsafe = clause(matrix, np.full(2, turning_point(graph, region, matrix) - NEAR))
    ((_, inputs),) = stack([region], torch.float32)
    problem = Problem(Network(graph), 0, region, inputs, (unsafe,), (0,), Budget(60))
    asked: list[int] = []

    def accept(tree: Tree) -> Array:
        asked.extend(range(len(tree.leaf)))
        return np.arange(len(asked) - len(tree.leaf), len(asked)) < good

    root = apart(intermediate(problem.network, problem.inputs))
    search = InputSplit(problem, worth_refining(graph)) if narrow else NeuronSplit(problem, root)
    outcome = Search(
        search, 0, accept, lambda points: None, problem.budget, range(len(problem.network.graph.nodes))
    ).run()
    assert outcome.reason is Reason.STUCK
    assert not outcome.trees
    assert len(asked) > good


def test_a_tree_is_closed_only_if_every_leaf_has_every_clause() -> None:
    zero = np.zeros(1, np.int64)
    builder = TreeBuilder(0, (0, 2), 1, (np.zeros(0, np.int32), zero[:0]))
    below, above = builder.split(zero, zero + 1, zero, np.zeros(1))
    assert not builder.closed_by(zero[:0])
    rows, clauses = np.array([below[0], above[0], below[0], above[0]]), np.array([0, 0, 2, 2])
    given = Proofs(np.arange(4), clauses, np.ones((4, 1)), np.zeros((4, 0), np.uint8), np.zeros(4), np.arange(5))
    proofs = builder.prove(rows, given)
    assert builder.closed_by(proofs)
    for left_out in range(4):
        assert not builder.closed_by(np.delete(proofs, left_out))
    builder.split(above, zero + 1, zero + 1, np.zeros(1))
    assert not builder.closed_by(proofs)
