"""What is accepted is true, and evidence that was tampered with is rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from certify.check.checker import Checker, check_proof
from certify.errors import EvidenceRejected, MalformedSpec, UnsupportedOp
from certify.evidence import Tree, TreeProof
from certify.graph import ops
from certify.graph.ir import Graph, Node, Port
from certify.spec.property import Property, clause, robust
from certify.spec.query import Case, spec_hash
from certify.spec.regions import ball, box
from tests import exact
from tests.check.nets import (
    case_with_margin,
    chain,
    mlp,
    one_leaf,
    prove,
    proved_case,
    random_tree,
    small_case,
    split_nodes,
)
from tests.strategies import boxes, graphs

SEEDS = st.integers(0, 2**32 - 1)


def least(graph: Graph, case: Case) -> Fraction:
    """The exact minimum of the case's only row, less its offset."""
    only = case.property.clauses[0]
    return exact.minimum(graph, case.region, only.matrix[0]) - Fraction(only.offset[0].item())


@pytest.mark.parametrize("inputs", [True, False], ids=["input splits", "neuron splits"])
def test_true_claims_get_proved(inputs: bool) -> None:
    graph, case, proof = proved_case(inputs, 4, small_case)
    assert least(graph, case) > 0
    assert check_proof(graph, (case,), proof).ok


@given(
    seed=SEEDS, activation=st.sampled_from([ops.Relu(), ops.Abs(), ops.Clip(-0.5, 0.5), ops.LeakyRelu(np.array(2.0))])
)
@settings(max_examples=25)
def test_no_false_claim_is_accepted(seed: int, activation: ops.Elementwise) -> None:
    """Random trees and multipliers never prove a clause that is violated somewhere; leaf by leaf, an accepted
    proof's claim is true at points of that leaf. The margin is about a thousandth of the spread, or rounding."""
    rng = np.random.default_rng(seed)
    graph = mlp(rng, [2, 3, 3, 2], activation)
    case = case_with_margin(graph, rng, rng.choice([-1e-3, -1e-15, 0.0, 0.3, 1e-12]))
    truth = least(graph, case)
    checker = Checker(graph, (case,), split_nodes(graph) if seed % 2 else ())
    for _ in range(3):
        tree = random_tree(rng, graph, case, splits=int(rng.integers(0, 9)), largest=10.0 ** rng.integers(-2, 2))
        accepted = checker.accept(tree)
        if truth <= 0:
            assert not accepted.all()
        assert_leaves_hold(rng, graph, case, tree, accepted)


def assert_leaves_hold(rng: np.random.Generator, graph: Graph, case: Case, tree: Tree, accepted: np.ndarray) -> None:
    """Points that walk down the tree into an accepted leaf satisfy the property, exactly."""
    proved = set(tree.leaf[accepted].tolist())
    region, only = case.region, case.property.clauses[0]
    parts = {v: Graph(graph.nodes[: v + 1], graph.inputs, graph.outputs) for v in split_nodes(graph)}
    for _ in range(25):
        t = rng.random(region.size)
        t = np.where(rng.random(region.size) < 0.3, np.round(t), t)
        x = np.clip(region.lower + t * (region.upper - region.lower), region.lower, region.upper)
        point = [Fraction(v) for v in x.tolist()]
        row = 0
        while tree.node[row] != -1:
            v, k = int(tree.node[row]), int(tree.index[row])
            at = point[k] if v == 0 else exact.outputs(parts[v], point)[k]
            row = int((tree.below if at <= Fraction(tree.point[row].item()) else tree.above)[row])
        if row in proved:
            assert exact.violated(case.property, exact.outputs(graph, point)) is None
    assert len(only.offset) == 1


@given(graph=graphs(), data=st.data(), seed=SEEDS)
@settings(max_examples=80)
def test_accepted_leaves_hold_in_any_graph(graph: Graph, data: st.DataObject, seed: int) -> None:
    """Branches, smooth and discontinuous operators, numbers of all sizes, x in the clause, and random splits
    with random multipliers: where a proof is accepted, its leaf is safe."""
    rng = np.random.default_rng(seed)
    lower, upper = (side[0] for side in data.draw(boxes(graph.input_size, 1)))
    row = rng.standard_normal((1, graph.output_size + graph.input_size * (seed % 2)))
    values = []
    for t in rng.random((4, graph.input_size)):
        z = exact.outputs(graph, [Fraction(v) for v in np.clip(lower + t * (upper - lower), lower, upper).tolist()])
        values.append(float(sum((Fraction(a) * b for a, b in zip(row[0].tolist(), z, strict=False)), Fraction(0))))
    spread = max(values) - min(values) + 1e-9 * max(map(abs, values)) + 1e-12
    offset = min(values) - spread * rng.choice([0.0, 1e-3, 1.0, 10.0])
    case = Case(box(lower, upper), Property((clause(row, [offset]),)))
    checker = Checker(graph, (case,), split_nodes(graph))
    for largest in (0.0, 0.1, 10.0):
        tree = random_tree(rng, graph, case, splits=int(rng.integers(0, 6)), largest=largest)
        accepted = checker.accept(tree)
        event(f"accepted {accepted.any()}")
        assert_leaves_hold(rng, graph, case, tree, accepted)


@pytest.mark.parametrize("inputs", [True, False], ids=["input splits", "neuron splits"])
@pytest.mark.parametrize("share", [0.0, -1e-13, -1e-3])
def test_no_search_proves_what_is_false(inputs: bool, share: float) -> None:
    """Splitting on and on, with the best of many random slopes and multipliers, does not help a false claim."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        graph = mlp(rng, [2, 3, 3, 2])
        case = case_with_margin(graph, rng, share)
        if least(graph, case) <= 0:  # the offset was rounded
            assert prove(graph, case, inputs=inputs, rounds=6) is None


@given(seed=SEEDS)
@settings(max_examples=20)
def test_the_best_leaf_bound_is_not_above_the_truth(seed: int) -> None:
    """The least offset for which a one-leaf proof is accepted brackets what the checker proves; it is sound
    however the slopes are chosen, and exact where no neuron is bent."""
    rng = np.random.default_rng(seed)
    graph = mlp(rng, [3, 4, 4, 1])
    x = rng.standard_normal(3)
    region = box(x, x)
    y = exact.outputs(graph, [Fraction(v) for v in x.tolist()])[0]
    size = float(abs(y)) + 1
    for slack, expected in ((1e-12, True), (0.0, False), (-1e-12, False)):
        case = Case(region, Property((clause([[1.0]], [float(y) - slack * size]),)))
        true = y - Fraction(float(y) - slack * size) > 0
        ok = check_proof(graph, (case,), one_leaf(graph, case)).ok
        assert not ok or true
        if expected:
            assert ok


Mutation = Callable[[Tree, np.random.Generator], Tree]


def changed(tree: Tree, name: str, at: int, value: float) -> Tree:
    array = np.array(getattr(tree, name))
    array.reshape(-1)[at] = value
    return replace(tree, **{name: array})


def without_proof(tree: Tree) -> Tree:
    counts = np.diff(tree.offsets)
    return replace(
        tree,
        leaf=tree.leaf[1:],
        clause=tree.clause[1:],
        weights=tree.weights[1:],
        slopes=tree.slopes[1:],
        multipliers=tree.multipliers[counts[0] :],
        offsets=tree.offsets[1:] - counts[0],
    )


def a_split(tree: Tree) -> int:
    return int(np.flatnonzero(tree.node >= 0)[-1])


def a_leaf(tree: Tree) -> int:
    return int(tree.leaf[0])


REJECTED: dict[str, Mutation] = {
    "slopes of too few neurons": lambda t, r: replace(t, slopes=t.slopes[:, 1:]),
    "slopes of too few proofs": lambda t, r: replace(t, slopes=t.slopes[1:]),
    "slopes of no neuron": lambda t, r: replace(t, sloped_neuron=t.sloped_neuron[:-1]),
    "slopes of no node": lambda t, r: replace(t, sloped_node=t.sloped_node[:-1]),
    "slopes for an affine node": lambda t, r: changed(t, "sloped_node", 0, 1),
    "slopes for the input": lambda t, r: changed(t, "sloped_node", 0, 0),
    "slopes for a negative node": lambda t, r: changed(t, "sloped_node", 0, -1),
    "slopes for a node that is not there": lambda t, r: changed(t, "sloped_node", -1, 999),
    "slopes for a neuron that is not there": lambda t, r: changed(t, "sloped_neuron", -1, 999),
    "slopes for a negative neuron": lambda t, r: changed(t, "sloped_neuron", 0, -1),
    "slopes for one neuron twice": lambda t, r: changed(t, "sloped_neuron", 1, t.sloped_neuron[0]),
    "slopes out of order": lambda t, r: replace(t, sloped_neuron=t.sloped_neuron[::-1]),
    "slopes for nodes out of order": lambda t, r: replace(t, sloped_node=t.sloped_node[::-1]),
    "slopes of signed bytes": lambda t, r: replace(t, slopes=t.slopes.astype(np.int8)),
    "slopes of floats": lambda t, r: replace(t, slopes=t.slopes.astype(np.float32)),
    "slopes of wide integers": lambda t, r: replace(t, slopes=t.slopes.astype(np.uint16)),
    "slopes in a list": lambda t, r: replace(t, slopes=t.slopes.tolist()),
    "slopes for neurons of floats": lambda t, r: replace(t, sloped_neuron=t.sloped_neuron.astype(float)),
    "NaN weight": lambda t, r: changed(t, "weights", 0, np.nan),
    "infinite weight": lambda t, r: changed(t, "weights", 0, np.inf),
    "negative weight": lambda t, r: changed(t, "weights", 0, -1.0),
    "zero weight": lambda t, r: changed(t, "weights", 0, 0.0),
    "dropped proof": lambda t, r: without_proof(t),
    "no proofs": lambda t, r: replace(
        t, leaf=t.leaf[:0], clause=t.clause[:0], weights=t.weights[:0], slopes=t.slopes[:0], multipliers=np.zeros(0),
        offsets=np.zeros(1, np.int64),
    ),
    "NaN point": lambda t, r: changed(t, "point", a_split(t), np.nan),
    "infinite point": lambda t, r: changed(t, "point", a_split(t), np.inf),
    "child is the root": lambda t, r: changed(t, "below", a_split(t), 0),
    "child is itself": lambda t, r: changed(t, "below", a_split(t), a_split(t)),
    "child beyond the tree": lambda t, r: changed(t, "above", a_split(t), len(t.node)),
    "negative child": lambda t, r: changed(t, "above", a_split(t), -1),
    "both children the same": lambda t, r: changed(t, "above", a_split(t), int(t.below[a_split(t)])),
    "root is its own leaf": lambda t, r: changed(t, "node", 0, -1),
    "split turned into a leaf": lambda t, r: changed(t, "node", a_split(t), -1),
    "leaf turned into a split": lambda t, r: changed(t, "node", a_leaf(t), 0),
    "split of a node that is not there": lambda t, r: changed(t, "node", a_split(t), 99),
    "split of a negative node": lambda t, r: changed(t, "node", a_split(t), -2),
    "split of an elementwise node's own value": lambda t, r: changed(t, "node", a_split(t), 2),
    "split of a neuron that is not there": lambda t, r: changed(t, "index", a_split(t), 99),
    "split of a negative neuron": lambda t, r: changed(t, "index", a_split(t), -1),
    "anchor beyond the tree": lambda t, r: changed(t, "anchor", a_leaf(t), len(t.node)),
    "anchor off the path": lambda t, r: changed(t, "anchor", a_leaf(t), int(t.leaf[-1])),
    "proof of a row that is not there": lambda t, r: changed(t, "leaf", 0, len(t.node)),
    "proof of a split row": lambda t, r: changed(t, "leaf", 0, 0),
    "wrong clause in a proof": lambda t, r: changed(t, "clause", 0, 1),
    "clause that is not there": lambda t, r: replace(t, clauses=(7,)),
    "no clause": lambda t, r: replace(t, clauses=()),
    "wrong case": lambda t, r: replace(t, case=1),
    "negative case": lambda t, r: replace(t, case=-1),
    "offsets out of step": lambda t, r: changed(t, "offsets", 0, 1),
    "offsets too long": lambda t, r: replace(t, offsets=np.append(t.offsets, t.offsets[-1])),
    "multiplier too many": lambda t, r: replace(t, multipliers=np.append(t.multipliers, 0.0)),
    "columns of different length": lambda t, r: replace(t, point=t.point[:-1]),
    "points of integers": lambda t, r: replace(t, point=np.zeros(len(t.node), int)),
    "nodes of floats": lambda t, r: replace(t, node=t.node.astype(float)),
    "extended precision points": lambda t, r: replace(t, point=t.point.astype(np.longdouble)),
    "weights without rows": lambda t, r: replace(t, weights=t.weights[:, 0]),
    "weights without columns": lambda t, r: replace(t, weights=t.weights[:, :0]),
    "empty tree": lambda t, r: replace(
        t, node=t.node[:0], index=t.index[:0], point=t.point[:0], below=t.below[:0], above=t.above[:0],
        anchor=t.anchor[:0],
    ),
}  # fmt: skip

NEURON_ONLY: dict[str, Mutation] = {
    "negative multiplier": lambda t, r: changed(t, "multipliers", 0, -1e-9),
    "NaN multiplier": lambda t, r: changed(t, "multipliers", 0, np.nan),
    "infinite multiplier": lambda t, r: changed(t, "multipliers", 0, np.inf),
    "multiplier too few": lambda t, r: replace(t, multipliers=t.multipliers[:-1]),
}


@pytest.fixture(scope="module", params=[True, False], ids=["input splits", "neuron splits"])
def proved(request: pytest.FixtureRequest) -> tuple[Graph, Case, TreeProof]:
    return proved_case(request.param, 3, small_case)


@pytest.mark.parametrize("name", [*REJECTED, *NEURON_ONLY])
def test_tampered_evidence_is_rejected(proved: tuple[Graph, Case, TreeProof], name: str) -> None:
    graph, case, proof = proved
    tree = proof.trees[0]
    if name in NEURON_ONLY and not len(tree.multipliers):
        tampered = replace(tree, multipliers=np.ones(1))  # there is none to change: one too many, then
    else:
        tampered = {**REJECTED, **NEURON_ONLY}[name](tree, np.random.default_rng(0))
    report = check_proof(graph, (case,), replace(proof, trees=(tampered,)))
    assert not report.ok
    assert report.failures
    assert all(report.failures)


@pytest.mark.parametrize("name", [*REJECTED, *NEURON_ONLY])
def test_tampered_evidence_among_honest_trees_is_rejected(proved: tuple[Graph, Case, TreeProof], name: str) -> None:
    """Trees that are checked together have their own rows, cases and multipliers: none stands in for another's."""
    graph, case, proof = proved
    tree, cases = proof.trees[0], (case,) * 3
    if name in NEURON_ONLY and not len(tree.multipliers):
        pytest.skip("there is no multiplier to change")
    tampered = {**REJECTED, **NEURON_ONLY}[name](tree, np.random.default_rng(0))
    honest = replace(proof, trees=tuple(replace(tree, case=k) for k in range(3)), spec_hash=spec_hash(cases))
    assert check_proof(graph, cases, honest).ok
    among = (honest.trees[0], replace(tampered, case=tampered.case + 1), honest.trees[2])
    report = check_proof(graph, cases, replace(honest, trees=among))
    assert not report.ok
    assert all(report.failures)


@given(seed=SEEDS)
@settings(max_examples=25)
def test_trees_checked_together_and_one_by_one_agree(seed: int) -> None:
    """Over boxes and balls, of one case or several, with different slopes and clauses; also in what is not proved."""
    rng = np.random.default_rng(seed)
    graph = mlp(rng, [2, 4, 4, 2])
    cases = []
    for norm in (np.inf, 2, np.inf, 1):
        center = rng.uniform(-0.5, 0.5, 2)
        rows = [rng.standard_normal((count, width)) for count, width in ((1, 2), (2, 4), (1, 4))]
        clauses = tuple(clause(row, rng.uniform(-3, 0, len(row))) for row in rows)
        region = box(center - 0.3, center + 0.3) if norm == np.inf else ball(center, 0.3, norm)
        cases.append(Case(region, Property(clauses)))
    trees = []
    for k in rng.permutation([*range(4), *range(4), 0]).tolist():
        tree = random_tree(rng, graph, cases[k], int(rng.integers(0, 6)), int(rng.integers(3)), 0.1)
        cut = rng.integers(0, 2) * len(tree.sloped_node) // 2
        tree = replace(tree, sloped_node=tree.sloped_node[cut:], sloped_neuron=tree.sloped_neuron[cut:])
        weights = np.pad(tree.weights, [(0, 0), (0, int(rng.integers(2)))])
        trees.append(replace(tree, case=k, slopes=tree.slopes[:, cut:], weights=weights))
    refined = split_nodes(graph)
    together = Checker(graph, cases, refined).accept_all(trees)
    for tree, accepted in zip(trees, together, strict=True):
        np.testing.assert_array_equal(accepted, Checker(graph, cases, refined).accept(tree))
    event("all hold" if np.concatenate(together).all() else "some hold" if np.concatenate(together).any() else "none")


@given(seed=SEEDS)
@settings(max_examples=40)
def test_a_changed_point_proves_only_what_is_true(seed: int) -> None:
    """Moving a split is another proof: it may hold, but never of a clause that fails."""
    rng = np.random.default_rng(seed)
    graph = mlp(np.random.default_rng(seed % 5), [2, 3, 2])
    case = case_with_margin(graph, rng, float(rng.choice([0.05, 1e-9, -1e-9, -0.05])))
    holds = least(graph, case) > 0
    tree = random_tree(rng, graph, case, 6)
    report = check_proof(graph, (case,), TreeProof((tree,), split_nodes(graph), graph.hash, spec_hash((case,))))
    moved = replace(tree, point=tree.point + rng.standard_normal(len(tree.point)) * 10.0 ** rng.integers(-3, 2))
    again = check_proof(graph, (case,), TreeProof((moved,), split_nodes(graph), graph.hash, spec_hash((case,))))
    assert holds or not (report.ok or again.ok)


def test_hashes_and_coverage(proved: tuple[Graph, Case, TreeProof]) -> None:
    graph, case, proof = proved
    rng = np.random.default_rng(12)
    other_graph, wider = mlp(rng, [2, 4, 4, 2]), replace(case, region=box(case.region.lower - 1, case.region.upper))
    only = case.property.clauses[0]
    harder = replace(case, property=Property((clause(only.matrix, only.offset + 1e-9),)))
    two = replace(case, property=Property((only, only)))
    assert check_proof(graph, (case,), proof).ok
    for g, cases, claim in [
        (other_graph, (case,), proof),
        (graph, (wider,), proof),
        (graph, (harder,), proof),
        (graph, (case,), replace(proof, graph_hash="")),
        (graph, (case,), replace(proof, trees=())),
        (graph, (two,), replace(proof, spec_hash=spec_hash((two,)))),
        (graph, (case, case), replace(proof, spec_hash=spec_hash((case, case)))),
        (graph, (), replace(proof, spec_hash=spec_hash(()))),
        (graph, (case,), replace(proof, refined=(999,))),
        (graph, (case,), replace(proof, refined=("1",))),
    ]:
        report = check_proof(g, cases, claim)
        assert not report.ok
        assert report.failures
    twice = replace(proof, trees=(proof.trees[0], replace(proof.trees[0], case=1)), spec_hash=spec_hash((case, case)))
    assert check_proof(graph, (case, case), twice).ok


def test_an_impossible_leaf_is_closed() -> None:
    """A split beyond what the network can reach leaves nothing to prove on one side; the other must hold."""
    rng = np.random.default_rng(4)
    graph = mlp(rng, [2, 3, 1])
    case = Case(box([0, 0], [1, 1]), Property((clause([[1.0]], [1e6]),)))  # false everywhere
    for node in (0, 1):
        grower = random_tree(rng, graph, case, 0)
        tree = replace(
            grower,
            node=np.array([node, -1, -1], np.int32), index=np.zeros(3, np.int64), point=np.array([1e9, 0, 0]),
            below=np.array([1, 0, 0], np.int32), above=np.array([2, 0, 0], np.int32), anchor=np.zeros(3, np.int32),
            leaf=np.array([1, 2], np.int32), clause=np.zeros(2, np.int32), weights=np.ones((2, 1)),
            slopes=np.tile(grower.slopes, (2, 1)),
            multipliers=np.zeros(2 * (node > 0)), offsets=np.arange(3) * (node > 0),
        )  # fmt: skip
        assert Checker(graph, (case,), split_nodes(graph)).accept(tree).tolist() == [False, True]


def test_clauses_over_inputs_and_many_rows() -> None:
    """z = (y, x): y = |x| is at least x; two rows together, of which one alone does not do."""
    graph = chain(1, (ops.Abs(), (1,)))
    region = box([-1.0], [2.0])
    over_input = Case(region, Property((clause([[1.0, -1.0]], [-1e-9]),)))
    assert check_proof(graph, (over_input,), one_leaf(graph, over_input)).ok
    false = Case(region, Property((clause([[1.0, -1.0]], [0.0]),)))
    assert not check_proof(graph, (false,), one_leaf(graph, false)).ok
    both = Case(region, Property((clause([[1.0, -1.0], [1.0, 1.0]], [0.5, 0.5]),)))  # |x| <= x + .5 and |x| <= .5 - x
    assert not check_proof(graph, (both,), one_leaf(graph, both)).ok
    apart = Case(region, Property((clause([[0.0, 1.0], [0.0, -1.0]], [0.5, -0.6]),)))  # x <= .5 and x >= .6
    assert check_proof(graph, (apart,), one_leaf(graph, apart)).ok
    assert not check_proof(graph, (apart,), one_leaf(graph, apart, np.array([[1.0, 0.0]]))).ok


@pytest.mark.parametrize(("exponent", "x"), [(1000, 2.0**-1030), (1000, 2.0**-900), (10, 1.0)])
def test_tiny_values_times_huge_coefficients_are_charged(exponent: int, x: float) -> None:
    """y = sum_i c_i x, where each c_i after the first is rounded up when the coefficients are added. With u |x|
    below the smallest float64, that rounding must be charged all the same."""
    coefficients = [2.0 ** (exponent - 53) * (1 + 2.0**-10)] * 100 + [2.0**exponent]  # the last is added first
    nodes = [Node(ops.Input(), (), (1,), "x"), Node(ops.Reshape(), (0,), (1, 1), "r")]
    nodes += [Node(ops.Scale(np.array([c]), np.zeros(1)), (1,), (1, 1), "s") for c in coefficients]
    ones = (1.0,) * len(coefficients)
    nodes.append(Node(ops.Sum(ones), tuple(range(2, len(nodes))), (1, 1), "y"))
    graph = Graph(tuple(nodes), (Port("x", (1,)),), (Port("y", (1, 1)),))
    truth = sum(map(Fraction, coefficients)) * Fraction(x)
    limit = np.nextafter(float(truth), np.inf)
    case = Case(box([x], [x]), Property((clause([[1.0]], [limit]),)))  # it would prove y > limit
    assert Fraction(limit) >= truth
    assert not check_proof(graph, (case,), one_leaf(graph, case)).ok
    below = Case(box([x], [x]), Property((clause([[1.0]], [float(truth) / 2]),)))
    assert check_proof(graph, (below,), one_leaf(graph, below)).ok == (x > 2.0**-1000)


def test_input_rows_that_cancel_only_in_float64_are_charged() -> None:
    """3 a - fl(3 a) computes to 0 and is not: at inputs of 1e17 what is left counts for more than the claim."""
    a, b = float.fromhex("0x1.e9aa5979a6402p+0"), float.fromhex("0x1.abae0aa9021eep+0")
    rows = np.array([[0.0, a, -b], [0.0, -3 * a, 3 * b]])
    weights = np.array([[3.0, 1.0]])
    assert not (weights @ rows).any()
    graph = chain(2, (ops.Linear(np.zeros((1, 2)), np.zeros(1)), (1,)))
    case = Case(box([-(2.0**60)] * 2, [2.0**60] * 2), Property((clause(rows, [-0.25, -0.25]),)))
    x = Fraction(2) ** 59
    z = [Fraction(0), x, (Fraction(a) * x + 1) / Fraction(b)]
    assert all(abs(v) <= 2**60 for v in z)
    assert exact.violated(case.property, z) == 0
    assert not check_proof(graph, (case,), one_leaf(graph, case, weights)).ok


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_offsets_that_wrap_around_are_rejected(kind: type[np.signedinteger]) -> None:
    """In a type that is too narrow, offsets may turn negative between proofs of one multiplier each; those of a proof
    that is false on purpose would then be looked up elsewhere than they are checked."""
    one = np.ones((1, 1))
    graph = chain(1, (ops.Linear(one, None), (1,)), (ops.Relu(), (1,)), (ops.Linear(one, None), (1,)))
    case = Case(box([-1.0], [1.0]), Property((clause([[1.0]], [0.5]),)))  # false: y is 0 for x <= 0
    count = 383
    offsets = (np.arange(count + 1) + 128) % 256 - 128  # as bytes: 0, ..., 127, -128, ..., -1, 0, ..., 127
    weights, leaf = np.zeros((count, 1)), np.full(count, 2, np.int32)
    weights[[129, 300]], leaf[300] = 1.0, 1
    multipliers = np.zeros(127)
    multipliers[offsets[129]] = -1000.0
    rows = np.zeros(3, np.int64)
    tree = Tree(
        case=0,
        clauses=(0,),
        node=np.array([1, -1, -1], np.int32),
        index=rows,
        point=np.array([-2.0, 0.0, 0.0]),
        below=np.array([1, 0, 0], np.int32),
        above=np.array([2, 0, 0], np.int32),
        anchor=rows.astype(np.int32),
        leaf=leaf,
        clause=np.zeros(count, np.int32),
        weights=weights,
        sloped_node=np.zeros(0, np.int32),
        sloped_neuron=np.zeros(0, np.int64),
        slopes=np.zeros((count, 0), np.uint8),
        multipliers=multipliers,
        offsets=offsets.astype(kind),
    )
    assert not check_proof(graph, (case,), TreeProof((tree,), (), graph.hash, spec_hash((case,)))).ok


def test_clauses_of_other_numbers_are_refused() -> None:
    """The size of the least int64 is negative in int64: its rounding would count the wrong way."""
    graph = mlp(np.random.default_rng(0), [2, 3, 2])
    case = case_with_margin(graph, np.random.default_rng(0), 0.1)
    only = case.property.clauses[0]
    for kind in (np.int64, np.float32, np.longdouble, np.complex128):
        with pytest.raises(MalformedSpec, match="float64"):
            replace(only, matrix=np.ones_like(only.matrix, kind))
        odd = replace(only)
        object.__setattr__(odd, "matrix", np.ones_like(only.matrix, kind))  # the checker takes nobody's word for it
        with pytest.raises(EvidenceRejected, match="float64"):
            Checker(graph, (replace(case, property=Property((odd,))),))


def test_weights_beyond_the_clause_are_rejected() -> None:
    graph = chain(1, (ops.Abs(), (1,)))
    case = Case(box([1.0], [2.0]), Property((clause([[1.0]], [0.5]), clause([[1.0], [1.0]], [0.5, 0.5]))))
    good = one_leaf(graph, case)
    assert check_proof(graph, (case,), good).ok
    assert not check_proof(graph, (case,), one_leaf(graph, case, np.ones((2, 2)))).ok


@pytest.mark.parametrize("norm", [1.0, 2.0, np.inf])
def test_robustness_in_a_ball(norm: float) -> None:
    """Linear classifiers: the certified radius is the distance over the dual norm, to rounding."""
    weight = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -0.25]])
    graph = chain(3, (ops.Linear(weight, np.array([0.3, 0.0])), (2,)))
    x = np.array([0.4, 0.1, -0.2])
    gap = weight[0] - weight[1]
    distance = (gap @ x + 0.3) / np.linalg.norm(gap, {1.0: np.inf, 2.0: 2, np.inf: 1}[norm])
    for factor, expected in ((0.999999, True), (1.000001, False)):
        case = Case(ball(x, distance * factor, norm), robust(0, 2))
        assert check_proof(graph, (case,), one_leaf(graph, case)).ok is expected


def test_deadline_and_rows() -> None:
    graph, case, proof = proved_case(True, 3, small_case)
    tree, checker = proof.trees[0], Checker(graph, (case,), proof.refined)
    assert not checker.accept(tree, deadline=lambda: True).any()
    some = np.array([len(tree.leaf) - 1, 0])
    assert np.flatnonzero(checker.accept(tree, some)).tolist() == sorted(some.tolist())
    assert checker.accept(tree).all()
    assert not check_proof(graph, (case,), proof, deadline=lambda: True).ok


def test_little_memory_changes_nothing() -> None:
    for inputs in (True, False):
        graph, case, proof = proved_case(inputs, 3, small_case)
        assert check_proof(graph, (case,), proof, memory=1 << 10).ok


def test_the_order_of_rounds_changes_nothing() -> None:
    """Which round is tried first depends on what was checked before; the answer does not."""
    outcomes, rng = [], np.random.default_rng(3)
    for seed in range(5):
        graph, case = small_case(seed)
        for tree in [random_tree(rng, graph, case, 12, largest=0.0) for _ in range(3)]:
            for order in permutations(range(3)):
                checker = Checker(graph, (case,), split_nodes(graph))
                checker.rounds = [checker.rounds[i] for i in order]
                outcomes.append(checker.accept(tree))
            for accepted in outcomes[-6:]:
                np.testing.assert_array_equal(accepted, outcomes[-1])
    assert 0 < np.concatenate(outcomes).mean() < 1


def test_shared_anchors_and_own_anchors_agree() -> None:
    """Leaves may take the root's bounds instead of their own: looser, and still accepted where they suffice."""
    rng = np.random.default_rng(8)
    graph = mlp(rng, [2, 5, 5, 2])
    case = case_with_margin(graph, rng, 3.0)
    tree = random_tree(rng, graph, case, 0)
    for splits in (3, 300):
        tree = random_tree(rng, graph, case, splits, largest=1e-4)
        shared = replace(tree, anchor=np.zeros_like(tree.anchor))
        checker = Checker(graph, (case,), split_nodes(graph))
        own_bounds, root_bounds = checker.accept(tree), checker.accept(shared)
        assert own_bounds.any()
        assert own_bounds.sum() >= root_bounds.sum()


def test_what_has_no_rule_is_named() -> None:
    class Mystery(ops.Elementwise):
        """An operator that nobody knows."""

    graph = chain(1, (Mystery(), (1,)))
    case = Case(box([0.0], [1.0]), Property((clause([[1.0]], [-1.0]),)))
    with pytest.raises(UnsupportedOp, match="Mystery"):
        Checker(graph, (case,))


def test_cases_that_do_not_fit_are_refused() -> None:
    graph = chain(2, (ops.Relu(), (2,)))
    fitting = Property((clause([[1.0, 0.0]], [-1.0]),))
    for case in (
        Case(box([0.0], [1.0]), fitting),
        Case(box([0.0, 0.0], [1.0, 1.0]), Property((clause([[1.0, 0.0, 1.0]], [-1.0]),))),
    ):
        with pytest.raises(EvidenceRejected):
            Checker(graph, (case,))
