"""Sharpened intermediate bounds: they hold, they are tighter, the checker finds them too, and forging is of no use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from certify.bounds.base import apart, flat
from certify.bounds.intermediate import intermediate, unstable, worth_refining
from certify.bounds.tighten import Sharpener
from certify.budget import Budget
from certify.check.bounds import propagate
from certify.check.checker import Checker, check_proof
from certify.check.linear import Network as Checked
from certify.evidence import Sharpened, TreeProof
from certify.graph.evaluate import Network
from certify.spec.inputset import stack
from certify.spec.query import spec_hash
from certify.strategy import Method, Strategy
from certify.verdict import Verified
from certify.verifier import verify
from tests.fuzz.generate import Instance, hard, instance
from tests.fuzz.harness import query_of
from tests.fuzz.oracle import Truth, judge
from tests.fuzz.test_mutations import _barely_false

Array = np.ndarray


def _drawn() -> list[Instance]:
    """Instances with a single box and something to sharpen."""
    every = [*map(hard, range(60)), *map(instance, range(200))]
    return [d for d in every if worth_refining(d.graph) and d.cases[0].region.norm is None]


def _sharpened(drawn: Instance) -> tuple[dict, dict, list[Sharpened]]:
    """Plain bounds, sharpened bounds and how these were found, over the first case's region."""
    network = Network(drawn.graph, torch.float32)
    ((_, inputs),) = stack([drawn.cases[0].region], torch.float32, network.device)
    plain = intermediate(network, inputs)
    chosen = {v: flat(unstable(drawn.graph, v, b), 1)[0] for v, b in plain.items()}
    sharpener = Sharpener(network, inputs, chosen, Budget(5))
    return plain, apart(intermediate(network, inputs, sharpen=sharpener)), sharpener.found


def test_sharpened_bounds_hold_and_the_checker_finds_them_too() -> None:
    tighter = 0
    for drawn in _drawn()[:60]:
        plain, sharp, found = _sharpened(drawn)
        if not found:
            continue
        region = drawn.cases[0].region
        rng = np.random.default_rng(drawn.seed)
        x = region.lower + rng.random((300, drawn.graph.input_size)) * (region.upper - region.lower)
        x = np.clip(np.concatenate([x, region.lower[None], region.upper[None]]), region.lower, region.upper)
        values = Network(drawn.graph, torch.float64).values(torch.from_numpy(x))
        proved = propagate(
            Checked(drawn.graph), region.lower[None], region.upper[None], refined=worth_refining(drawn.graph),
            sharpened=tuple(found),
        )  # fmt: skip
        for v, (lower, upper) in sharp.items():
            scale = 1e-5 * (1 + float(values[v].abs().max()))
            assert (values[v] >= lower.double() - scale).all(), (drawn.seed, v)
            assert (values[v] <= upper.double() + scale).all(), (drawn.seed, v)
            assert (values[v].numpy() >= proved.lower[v]).all(), (drawn.seed, v)
            assert (values[v].numpy() <= proved.upper[v]).all(), (drawn.seed, v)
            for given in (s for s in found if s.node == v):
                n = given.neuron
                slack = 1e-3 * (1 + np.abs(proved.upper[v] - proved.lower[v]).max())
                for least, most in ((lower.numpy(), proved.lower[v]), (-upper.numpy(), -proved.upper[v])):
                    assert (most.reshape(-1)[n] >= least.reshape(-1)[n] - slack).all(), (drawn.seed, v)
            tighter += int((sharp[v][0] > plain[v][0] + scale).sum())
    assert tighter > 20


@pytest.fixture(scope="module")
def proved() -> list[tuple[Instance, TreeProof]]:
    """Instances that enumeration knows to be safe, with proofs that rest on sharpened bounds."""
    found = []
    for drawn in _drawn():
        if judge(drawn.graph, drawn.cases)[0] is not Truth.SAFE:
            continue
        strategy = Strategy(method=Method.NEURON_SPLIT, steps=0, patience=0.0)
        verdict = verify(query_of(drawn), strategy, Budget(timeout=1.0))
        if isinstance(verdict, Verified) and any(t.sharpened for t in verdict.evidence.trees):
            found.append((drawn, verdict.evidence))
    assert len(found) >= 10
    return found


def _accepted(drawn: Instance, proof: TreeProof) -> bool:
    return check_proof(drawn.graph, drawn.cases, proof).ok


def _changed(proof: TreeProof, change: Callable[[Sharpened], Sharpened]) -> TreeProof:
    trees = [
        replace(t, sharpened={row: tuple(map(change, given)) for row, given in t.sharpened.items()})
        for t in proof.trees
    ]
    return replace(proof, trees=tuple(trees))


def _first(array: Array, value: float) -> Array:
    changed = np.array(array)
    changed.flat[:1] = value
    return changed


def _slopes(change: Callable[[Array], Array]) -> Callable[[Sharpened], Sharpened]:
    return lambda s: replace(s, slopes={e: change(values) for e, values in s.slopes.items()})


MALFORMED: dict[str, Callable[[Sharpened], Sharpened]] = {
    "a neuron that does not exist": lambda s: replace(s, neuron=_first(s.neuron, 10_000)),
    "a negative neuron": lambda s: replace(s, neuron=_first(s.neuron, -1)),
    "no sign": lambda s: replace(s, sign=_first(s.sign, 0)),
    "another sign": lambda s: replace(s, sign=_first(s.sign, 2)),
    "signs of another length": lambda s: replace(s, sign=s.sign[:-1]),
    "a node that does not exist": lambda s: replace(s, node=10_000),
    "the input": lambda s: replace(s, node=0),
    "numbers of another type": _slopes(lambda v: v.astype(np.float32)),
    "rows that are missing": _slopes(lambda v: v[:-1]),
    "columns that are missing": _slopes(lambda v: v[:, :-1]),
    "slopes of a later node": lambda s: replace(s, slopes=dict.fromkeys([s.node + 1], next(iter(s.slopes.values())))),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bounds_are_rejected(proved: list[tuple[Instance, TreeProof]], name: str) -> None:
    for drawn, proof in proved:
        assert _accepted(drawn, proof)
        assert not _accepted(drawn, _changed(proof, MALFORMED[name])), drawn.seed


def test_a_row_that_does_not_exist_is_rejected(proved: list[tuple[Instance, TreeProof]]) -> None:
    for drawn, proof in proved:
        trees = [replace(t, sharpened={len(t.node): given for given in t.sharpened.values()}) for t in proof.trees]
        if any(t.sharpened for t in trees):
            assert not _accepted(drawn, replace(proof, trees=tuple(trees)))


def _forged(rng: np.random.Generator) -> Callable[[Sharpened], Sharpened]:
    """Well-formed numbers that nobody found."""

    def change(s: Sharpened) -> Sharpened:
        order = rng.permutation(len(s.neuron)) if rng.random() < 0.3 else np.arange(len(s.neuron))
        sign = np.where(rng.random(len(s.sign)) < 0.3, -s.sign, s.sign).astype(np.int8)
        slopes = {
            e: np.where(rng.random(v.shape) < 0.5, rng.integers(0, 256, v.shape), v).astype(np.uint8)
            for e, v in s.slopes.items()
        }
        return replace(s, neuron=s.neuron[order], sign=sign, slopes=slopes)

    return change


def test_no_forged_bounds_prove_a_false_claim(proved: list[tuple[Instance, TreeProof]]) -> None:
    rng = np.random.default_rng(3)
    false = 0
    for drawn, proof in proved[:30]:
        claim = _barely_false(drawn, rng)
        if claim is None:
            continue
        false += 1
        told = replace(proof, spec_hash=spec_hash(claim.cases))
        assert not _accepted(claim, told)
        for _ in range(10):
            assert not _accepted(claim, _changed(told, _forged(rng))), drawn.seed
    assert false >= 8


def test_what_was_checked_before_does_not_matter(proved: list[tuple[Instance, TreeProof]]) -> None:
    """A checker that has bounded the region already, plainly or otherwise sharpened, answers as a new one does."""
    rng = np.random.default_rng(5)
    outcomes = []
    for drawn, proof in proved:
        used = Checker(drawn.graph, drawn.cases, proof.refined)
        for changed in (proof, *(_changed(proof, _forged(rng)) for _ in range(3)), proof):
            for tree in changed.trees:
                used.warm(tree.case, lambda: False)
                fresh = Checker(drawn.graph, drawn.cases, proof.refined)
                for mine in (tree, replace(tree, sharpened={})):
                    np.testing.assert_array_equal(used.accept(mine), fresh.accept(mine))
                    outcomes.append(fresh.accept(mine).all())
    assert True in outcomes
    assert False in outcomes
