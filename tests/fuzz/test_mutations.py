"""Tampered evidence: whatever is malformed is rejected, and no tampering makes a false claim pass.

The evidence comes from the real verifier on fuzz instances. A claim is made false by raising its offsets to
just above what the network exactly attains, and the hashes are made to fit: then nothing but the arithmetic
stands between the proof and a wrong verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from certify.budget import Budget
from certify.check.checker import check_proof
from certify.evidence import DEFAULT, Tree, TreeProof
from certify.spec.property import Property
from certify.spec.query import Case, spec_hash
from certify.strategy import Method, Strategy
from certify.verdict import Verified
from certify.verifier import verify
from tests.fuzz.generate import Instance, hard, instance
from tests.fuzz.harness import query_of
from tests.fuzz.oracle import Truth, judge

Array = np.ndarray
Mutation = Callable[[Tree, np.random.Generator], Tree]


@dataclass(frozen=True, eq=False)
class Proved:
    """An instance that enumeration knows to be safe, and the verifier's proof of it."""

    instance: Instance
    proof: TreeProof

    def accepted(self, proof: TreeProof) -> bool:
        return check_proof(self.instance.graph, self.instance.cases, proof).ok


def _collect() -> Iterator[Proved]:
    """Proofs by splits of neurons and of inputs, and by none, without an attack in the way."""
    for drawn in [*map(hard, range(50)), *map(instance, range(60))]:
        if judge(drawn.graph, drawn.cases)[0] is not Truth.SAFE or any(c.region.norm == 2 for c in drawn.cases):
            continue
        for method in (Method.NEURON_SPLIT, Method.INPUT_SPLIT):
            verdict = verify(query_of(drawn), Strategy(method=method, steps=0), Budget(timeout=1.0))
            if isinstance(verdict, Verified) and all(len(t.node) < 150 for t in verdict.evidence.trees):
                yield Proved(drawn, verdict.evidence)
                if all(len(t.node) == 1 for t in verdict.evidence.trees):
                    break  # proved at the root: the other method would do the same


@pytest.fixture(scope="module")
def proved() -> list[Proved]:
    found = list(_collect())
    trees = [t for p in found for t in p.proof.trees]
    assert len(found) >= 50
    assert sum(len(t.multipliers) > 0 for t in trees) >= 5, "no proof has multipliers to tamper with"
    assert sum((t.node == 0).any() for t in trees) >= 5, "no proof splits inputs"
    assert sum((t.slopes != DEFAULT).any() for t in trees) >= 5, "no proof has slopes"
    return found


def _set(array: Array, at: int, value: float) -> Array:
    changed = np.array(array)
    changed.flat[at] = value
    return changed


def _without_proof(tree: Tree, p: int) -> Tree:
    kept = np.arange(len(tree.leaf)) != p
    lengths = np.diff(tree.offsets)
    return replace(
        tree,
        leaf=tree.leaf[kept],
        clause=tree.clause[kept],
        weights=tree.weights[kept],
        slopes=tree.slopes[kept],
        multipliers=tree.multipliers[np.repeat(kept, lengths)],
        offsets=np.concatenate([[0], np.cumsum(lengths[kept])]),
    )


def _a_proof(tree: Tree, rng: np.random.Generator) -> int:
    """A proof that nothing can replace: most leaves have one for each clause."""
    keys = list(zip(tree.leaf.tolist(), tree.clause.tolist(), strict=True))
    alone = [p for p, key in enumerate(keys) if keys.count(key) == 1]
    return int(rng.choice(alone)) if alone else -1


def _weights(value: float) -> Mutation:
    def tamper(tree: Tree, rng: np.random.Generator) -> Tree:
        p = _a_proof(tree, rng)
        return tree if p < 0 else replace(tree, weights=_set(tree.weights, p * tree.weights.shape[1], value))

    return tamper


def _multiplier(value: float) -> Mutation:
    def tamper(tree: Tree, rng: np.random.Generator) -> Tree:
        p = _a_proof(tree, rng)
        if p < 0 or tree.offsets[p] == tree.offsets[p + 1]:
            return tree
        return replace(tree, multipliers=_set(tree.multipliers, int(tree.offsets[p]), value))

    return tamper


def _sloped(name: str, change: Callable[[Array], Array]) -> Mutation:
    """The nodes or the neurons of the slopes, or the slopes themselves, changed."""

    def tamper(tree: Tree, rng: np.random.Generator) -> Tree:
        given = getattr(tree, name)
        return replace(tree, **{name: change(given)}) if len(tree.sloped_node) > 1 else tree

    return tamper


def _sloped_columns(change: Callable[[Array], Array]) -> Mutation:
    """Slopes, with the nodes and neurons that they are for, in other places."""

    def tamper(tree: Tree, rng: np.random.Generator) -> Tree:
        if len(tree.sloped_node) < 2:
            return tree
        columns = change(np.arange(len(tree.sloped_node)))
        node, neuron, slopes = tree.sloped_node[columns], tree.sloped_neuron[columns], tree.slopes[:, columns]
        return replace(tree, sloped_node=node, sloped_neuron=neuron, slopes=slopes)

    return tamper


def _dropped_proof(tree: Tree, rng: np.random.Generator) -> Tree:
    p = _a_proof(tree, rng)
    return tree if p < 0 else _without_proof(tree, p)


def _column(name: str, change: Callable[[Array, Tree], float], splits: bool = True) -> Mutation:
    """One entry of a column changed, of a split row or of any."""

    def tamper(tree: Tree, rng: np.random.Generator) -> Tree:
        rows = np.flatnonzero(tree.node >= 0) if splits else np.arange(len(tree.node))
        if not rows.size:
            return tree
        k = int(rng.choice(rows))
        return replace(tree, **{name: _set(getattr(tree, name), k, change(k, tree))})

    return tamper


def _proof_column(name: str, value: int) -> Mutation:
    def tamper(tree: Tree, rng: np.random.Generator) -> Tree:
        p = _a_proof(tree, rng)
        return tree if p < 0 else replace(tree, **{name: _set(getattr(tree, name), p, value)})

    return tamper


MALFORMED: dict[str, Mutation] = {
    "a weight is not a number": _weights(np.nan),
    "a weight is infinite": _weights(np.inf),
    "a weight is negative": _weights(-1e-9),
    "a multiplier is not a number": _multiplier(np.nan),
    "a multiplier is infinite": _multiplier(np.inf),
    "a multiplier is negative": _multiplier(-1e-9),
    "slopes are floats": _sloped("slopes", lambda s: s.astype(np.float32)),
    "slopes are signed": _sloped("slopes", lambda s: s.astype(np.int8)),
    "a proof has a slope too few": _sloped("slopes", lambda s: s[:, :-1]),
    "a slope names no neuron": _sloped("sloped_neuron", lambda a: _set(a, -1, 10_000)),
    "a slope names a negative neuron": _sloped("sloped_neuron", lambda a: _set(a, 0, -1)),
    "a slope names no node": _sloped("sloped_node", lambda a: _set(a, -1, 10_000)),
    "a slope names a negative node": _sloped("sloped_node", lambda a: _set(a, 0, -1)),
    "a slope names the input": _sloped("sloped_node", lambda a: _set(a, 0, 0)),
    "a neuron has two slopes": _sloped_columns(lambda columns: np.append(columns, columns[-1])),
    "neurons with slopes are not in order": _sloped_columns(lambda columns: columns[::-1]),
    "a slope has no neuron": _sloped("sloped_neuron", lambda a: a[:-1]),
    "a proof is left out": _dropped_proof,
    "a split point is not a number": _column("point", lambda k, t: np.nan),
    "a split point is infinite": _column("point", lambda k, t: np.inf),
    "a split becomes a leaf": _column("node", lambda k, t: -1),
    "a split names no node": _column("node", lambda k, t: 10_000),
    "a split names a negative node": _column("node", lambda k, t: -2),
    "a split names no neuron": _column("index", lambda k, t: 10_000),
    "a split names a negative neuron": _column("index", lambda k, t: -1),
    "both children are one": _column("below", lambda k, t: t.above[k]),
    "a child is its parent": _column("above", lambda k, t: k),
    "a child is the root": _column("below", lambda k, t: 0),
    "a child is no row": _column("above", lambda k, t: len(t.node)),
    "a proof names no leaf": _proof_column("leaf", 10_000),
    "a proof names a negative leaf": _proof_column("leaf", -1),
    "a proof names no clause": _proof_column("clause", 10_000),
    "a proof names a negative clause": _proof_column("clause", -1),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_evidence_is_rejected(proved: list[Proved], name: str) -> None:
    tampered = 0
    rng = np.random.default_rng(0)
    for item in proved:
        for k, tree in enumerate(item.proof.trees):
            bad = MALFORMED[name](tree, rng)
            if bad is tree:
                continue
            tampered += 1
            trees = (*item.proof.trees[:k], bad, *item.proof.trees[k + 1 :])
            assert not item.accepted(replace(item.proof, trees=trees)), f"seed {item.instance.seed}, tree {k}"
    assert tampered >= 5


def test_untouched_evidence_is_accepted(proved: list[Proved]) -> None:
    for item in proved:
        assert item.accepted(item.proof), item.instance.seed


def test_dropped_trees_and_wrong_hashes_are_rejected(proved: list[Proved]) -> None:
    for item in proved:
        proof = item.proof
        for k in range(len(proof.trees)):
            assert not item.accepted(replace(proof, trees=proof.trees[:k] + proof.trees[k + 1 :]))
        assert not item.accepted(replace(proof, graph_hash=proof.spec_hash))
        assert not item.accepted(replace(proof, spec_hash=proof.graph_hash))
        assert not item.accepted(replace(proof, graph_hash=""))
        assert not item.accepted(replace(proof, refined=(-1,)))


def test_evidence_of_another_instance_is_rejected(proved: list[Proved]) -> None:
    for item, other in pairwise(proved):
        if item.instance.seed != other.instance.seed:
            assert not item.accepted(other.proof)


# --- claims that are false ------------------------------------------------------------------------


def _raised(drawn: Instance, k: int, s: int, amount: float) -> Instance:
    case = drawn.cases[k]
    old = case.property.clauses
    grown = replace(old[s], offset=old[s].offset + amount, strict=np.zeros_like(old[s].strict))
    changed = Case(case.region, Property((*old[:s], grown, *old[s + 1 :])))
    return replace(drawn, cases=(*drawn.cases[:k], changed, *drawn.cases[k + 1 :]))


def _barely_false(drawn: Instance, rng: np.random.Generator) -> Instance | None:
    """The instance with one clause's offsets raised as little as makes it violated, within 1e-9."""
    k = int(rng.integers(len(drawn.cases)))
    s = int(rng.integers(len(drawn.cases[k].property.clauses)))
    high = 1e-12
    while judge((grown := _raised(drawn, k, s, high)).graph, grown.cases)[0] is not Truth.UNSAFE:
        high *= 10
        if high > 1e30:
            return None
    low = high / 10 if high > 1e-12 else 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        moved = _raised(drawn, k, s, middle)
        low, high = (low, middle) if judge(moved.graph, moved.cases)[0] is Truth.UNSAFE else (middle, high)
    return _raised(drawn, k, s, high)


def _shaken(tree: Tree, rng: np.random.Generator) -> Tree:
    """Well-formed evidence with other numbers in it."""

    def some(array: Array) -> Array:
        return rng.random(array.shape) < 0.5

    slopes = np.where(some(tree.slopes), rng.integers(0, 256, tree.slopes.shape, np.uint8), tree.slopes)
    ends = np.array([0, DEFAULT - 1, DEFAULT], np.uint8)
    slopes = np.where(rng.random(slopes.shape) < 0.2, rng.choice(ends, slopes.shape), slopes)
    weights = np.where(some(tree.weights), tree.weights * rng.random(tree.weights.shape), tree.weights)
    multipliers = tree.multipliers * np.where(
        some(tree.multipliers), 10.0 ** rng.normal(size=tree.multipliers.shape), 1
    )
    moved = (tree.node >= 0) & (rng.random(len(tree.node)) < 0.3)
    point = tree.point + np.where(moved, rng.normal(size=len(tree.point)) * 10.0 ** rng.integers(-9, 1), 0)
    below, above = tree.below.copy(), tree.above.copy()
    if rng.random() < 0.2:
        turned = some(tree.node) & (tree.node >= 0)
        below, above = np.where(turned, above, below), np.where(turned, below, above)
    leaf = rng.permutation(tree.leaf) if rng.random() < 0.1 else tree.leaf
    return replace(
        tree, slopes=slopes, weights=weights, multipliers=multipliers, point=point, below=below, above=above, leaf=leaf
    )


def _swapped(trees: tuple[Tree, ...], rng: np.random.Generator) -> tuple[Tree, ...]:
    """The trees with the clauses that they prove exchanged."""
    if rng.random() > 0.2:
        return trees
    order = rng.permutation(len(trees))
    taken = [trees[i] for i in order]
    return tuple(
        replace(t, clauses=o.clauses, clause=np.full_like(t.clause, o.clauses[0]))
        for t, o in zip(trees, taken, strict=True)
    )


def test_no_tampering_proves_a_false_claim(proved: list[Proved]) -> None:
    rng = np.random.default_rng(1)
    false = 0
    for item in proved[::2]:
        claim = _barely_false(item.instance, rng)
        if claim is None:
            continue
        false += 1
        forged = replace(item.proof, spec_hash=spec_hash(claim.cases))
        every = tuple(int(n.inputs[0]) for n in claim.graph.nodes if n.inputs)
        for number in range(12):
            trees = _swapped(tuple(_shaken(t, rng) if number else t for t in forged.trees), rng)
            refined = forged.refined if number % 2 else every
            report = check_proof(claim.graph, claim.cases, replace(forged, trees=trees, refined=refined))
            assert not report.ok, f"seed {item.instance.seed}, mutant {number}: a false claim was proved"
    assert false >= 20


def test_tampering_with_a_true_claim_often_fails_and_never_raises(proved: list[Proved]) -> None:
    """Well-formed mutants may still prove the (true) claim; that most do not shows that the numbers matter."""
    rng = np.random.default_rng(2)
    outcomes = []
    for item in proved:
        if any(len(t.multipliers) for t in item.proof.trees):
            for _ in range(6):
                trees = tuple(_shaken(t, rng) for t in item.proof.trees)
                outcomes.append(item.accepted(replace(item.proof, trees=trees)))
    assert outcomes
    assert not all(outcomes)
