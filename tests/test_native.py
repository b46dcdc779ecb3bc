"""The compiled kernels against torch, for every instruction set that this processor has."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.bounds import chain
from certify.bounds.base import NodeBounds
from certify.bounds.intermediate import intermediate
from certify.budget import Budget
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network
from certify.graph.ir import Port
from certify.native import library as native
from certify.native.library import Library, library
from certify.spec.inputset import InputSet

ROOT = Path(__file__).resolve().parents[1]
LEVELS = range(1, 1 + (library().level if library() else 0))
needs_kernels = pytest.mark.skipif(not LEVELS, reason="the kernels were not built, or this processor lacks AVX2")


SEEDS = st.integers(0, 2**32 - 1)


def using(level: int) -> mock._patch:
    """The kernels of one instruction set; 0 for torch alone."""
    found = None
    if level:
        found = Library(library().path)
        found.level = level
    return mock.patch.object(chain, "library", return_value=found)


def mlp(rng: np.random.Generator, widths: list[int]) -> Network:
    """Linear, ReLU, ..., Linear of these widths, with random weights, some of them zero."""
    build = GraphBuilder([Port("x", (widths[0],))])
    x = build.inputs[0]
    for k, (n, m) in enumerate(pairwise(widths)):
        x = build.relu(x) if k else x
        weight = rng.normal(size=(m, n)) / n**0.5 * (rng.random((m, n)) < 0.9)
        x = build.linear(x, weight.astype(np.float32), rng.normal(size=m).astype(np.float32) if k % 3 < 2 else None)
    return Network(build.build([x], [Port("y", (widths[-1],))]))


def boxes(rng: np.random.Generator, count: int, size: int) -> InputSet:
    """Random boxes, some of them without width along some axes."""
    centre, radius = rng.normal(size=(count, size)), rng.exponential(0.3, (count, size))
    radius[rng.random((count, size)) < 0.2] = 0
    return InputSet(*(torch.from_numpy(x.astype(np.float32)) for x in (centre - radius, centre + radius)))


def each(network: Network, inputs: InputSet, **options: object) -> NodeBounds:
    """`intermediate` in torch, one domain after another, as the kernels do."""
    with using(0):
        found = [intermediate(network, inputs.select([i]), **options) for i in range(len(inputs))]
    return {v: tuple(torch.cat([f[v][side] for f in found]) for side in (0, 1)) for v in found[0]}


def assert_near(found: NodeBounds, expected: NodeBounds) -> None:
    assert found.keys() == expected.keys()
    for v, pair in expected.items():
        for bound, wanted in zip(found[v], pair, strict=True):
            assert bound.shape == wanted.shape
            slack = 2e-4 * float(1 + torch.stack(pair).abs().max())
            torch.testing.assert_close(bound.double(), wanted.double(), rtol=0, atol=slack)


def wide(inputs: InputSet) -> InputSet:
    return InputSet(inputs.lower.double(), inputs.upper.double())


WIDTHS = st.lists(st.sampled_from([1, 2, 5, 16, 17, 50, 64, 67, 130]), min_size=3, max_size=6)


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, widths=WIDTHS, count=st.integers(1, 3))
def test_chain_bounds_agree_with_torch(level: int, seed: int, widths: list[int], count: int) -> None:
    rng = np.random.default_rng(seed)
    network = mlp(rng, widths)
    inputs = boxes(rng, count, widths[0])
    with using(level):
        found = intermediate(network, inputs)
    assert_near(found, each(Network(network.graph, torch.float64), wide(inputs)))


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, widths=WIDTHS)
def test_chain_bounds_hold_for_points(level: int, seed: int, widths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    network = mlp(rng, widths)
    inputs = boxes(rng, 4, widths[0])
    with using(level):
        found = intermediate(network, inputs)
    exact = Network(network.graph, torch.float64)
    for share in (torch.zeros(1), torch.ones(1), *torch.from_numpy(rng.random((30, 4, widths[0])))):
        x = inputs.lower.double() + share * (inputs.upper.double() - inputs.lower.double())
        for v, (lower, upper) in found.items():
            value = exact.values(x)[v]
            slack = 1e-5 * float(1 + torch.maximum(lower.abs(), upper.abs()).max())
            assert (lower - slack <= value).all()
            assert (value <= upper + slack).all()


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
def test_known_bounds_are_kept_and_used(level: int) -> None:
    rng = np.random.default_rng(1)
    network = mlp(rng, [5, 50, 50, 50, 2])
    inputs = boxes(rng, 6, 5)
    first, (lower, upper) = min(each(network, inputs).items())
    half = (lower / 2, upper / 2)
    for i, known in ((slice(0, 6), half), (slice(0, 1), half), (slice(0, 6), (lower[:1] / 2, upper[:1] / 2))):
        some = inputs.select(i)
        with using(level):
            found = intermediate(network, some, within={first: tuple(b[i] for b in known)})
        own = [{first: tuple(b[k % len(b)][None] for b in known)} for k in range(len(some))]
        parts = [each(network, some.select([k]), within=w) for k, w in enumerate(own)]
        assert_near(found, {v: tuple(torch.cat([p[v][side] for p in parts]) for side in (0, 1)) for v in found})


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
def test_only_what_is_asked_for_is_refined(level: int) -> None:
    rng = np.random.default_rng(2)
    network = mlp(rng, [5, 30, 30, 30, 2])
    inputs = boxes(rng, 3, 5)
    used_up = Budget(1e-9)
    for options in ({"refine": ()}, {"refine": (3,)}, {"refine": (5,)}, {"budget": used_up}):
        with using(level):
            found = intermediate(network, inputs, **options)
        assert_near(found, each(network, inputs, **options))


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_proves_nothing(level: int, number: float) -> None:
    rng = np.random.default_rng(3)
    network = mlp(rng, [3, 20, 20, 20, 1])
    inputs = boxes(rng, 2, 3)
    network.maps[1].weight[4, 1] = number
    with using(level):
        found = intermediate(network, inputs)
    lower, upper = found[1]
    assert not (torch.isfinite(lower[:, 4]) & torch.isfinite(upper[:, 4])).any()
    for v in list(found)[1:]:
        lower, upper = found[v]
        reached = network.maps[v].weight[:, 4] != 0 if v == 3 else torch.ones(20, dtype=torch.bool)
        assert not torch.isfinite(upper - lower)[:, reached].any()


def test_what_is_a_chain() -> None:
    build = GraphBuilder([Port("x", (2, 3))])
    x = build.inputs[0]
    weight = np.ones((6, 6), np.float32)

    def nodes(output: Operand) -> tuple[int, ...] | None:
        return chain.chain_of(Network(build.build([output], [Port("y", output.shape)])))

    first = build.relu(build.linear(build.flatten(x), weight))
    assert nodes(first) == (2,)
    assert nodes(build.linear(first, weight)) == (2,)
    second = build.linear(first, weight, np.ones(6, np.float32))
    assert nodes(build.sum([build.relu(second), second], [1, 1])) == (2, 4)
    for no_chain in (
        build.flatten(x),
        build.relu(x),
        build.relu(build.linear(x, np.ones((4, 3), np.float32))),  # a layer on each row of x
        build.relu(build.linear(second, weight)),
        build.relu(build.reshape(second, (2, 3))),
        build.sigmoid(second),
        build.relu(build.sum([second, first], [1, 1])),
    ):
        assert nodes(no_chain) is None


@pytest.mark.slow
def test_the_package_builds_without_a_compiler(tmp_path: Path) -> None:
    code = ("setup.py", "-q", "build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp"))
    broken = os.environ | {"CC": "no-such-compiler", "CXX": "no-such-compiler"}
    subprocess.run([sys.executable, *code], cwd=ROOT, env=broken, check=True, capture_output=True)
    assert not list(tmp_path.rglob("*.so"))


def test_without_the_library_there_are_no_kernels(tmp_path: Path) -> None:
    with mock.patch.object(native, "__file__", str(tmp_path / "library.py")):
        assert native.library.__wrapped__() is None
