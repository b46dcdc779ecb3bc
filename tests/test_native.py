"""The compiled kernels against torch, for every instruction set that this processor has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
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
from certify.graph import ops
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network
from certify.graph.ir import Port
from certify.native import library as native
from certify.native import products
from certify.native.library import Library, library
from certify.native.weights import pack
from certify.relax.elementwise import LINES, Lines
from certify.spec.inputset import InputSet
from certify.threads import one_thread_each

ROOT = Path(__file__).resolve().parents[1]
LEVELS = range(1, 1 + (library().level if library() else 0))
needs_kernels = pytest.mark.skipif(not LEVELS, reason="the kernels were not built, or this processor lacks AVX2")


SEEDS = st.integers(0, 2**32 - 1)


@contextmanager
def using(level: int) -> Iterator[None]:
    """The kernels of one instruction set, with one thread; 0 for torch alone."""
    found = Library(library().path, level) if level else None
    with (
        mock.patch.object(chain, "library", return_value=found),
        mock.patch.object(products, "library", return_value=found),
        one_thread_each(),
    ):
        yield


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
    """`intermediate` in torch, one domain after another and without affine forms, as the kernels do."""
    options = {"within": {}} | options
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


def numbers(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(0, 40), n=st.integers(1, 200), m=st.integers(1, 200))
def test_products_agree_with_torch(level: int, seed: int, rows: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, matrix, bias = numbers(rng, 2, rows, n), numbers(rng, n, m), numbers(rng, m)
    a[..., torch.from_numpy(rng.random(n) < 0.3)] = 0  # left out of the product
    with using(level):
        plain, shifted = products.multiply(a, pack(matrix)), products.multiply(a, pack(matrix), bias)
    wanted = a.double() @ matrix.double()
    torch.testing.assert_close(plain.double(), wanted, rtol=0, atol=1e-6 * n)
    torch.testing.assert_close(shifted.double(), wanted + bias.double(), rtol=0, atol=1e-6 * n + 1e-6)


@needs_kernels
def test_a_product_with_what_is_not_finite_is_not_finite() -> None:
    a, matrix = torch.ones(30, 20), torch.ones(20, 3)
    a[4, 7], a[5, 7] = float("nan"), float("inf")
    out = products.multiply(a, pack(matrix))
    assert out[4].isnan().all()
    assert out[5].isinf().all()
    assert torch.isfinite(out[torch.arange(30) // 2 != 2]).all()


@st.composite
def lined(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, Lines]:
    """Coefficients, values and lines for them, which share what they may."""
    rng = np.random.default_rng(draw(SEEDS))
    batch, rows = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    shape = draw(st.sampled_from([(1,), (7,), (16,), (50,), (2, 3, 5)]))

    def some() -> torch.Tensor:
        return numbers(rng, draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, rows])), *shape)

    shift = draw(st.sampled_from([torch.zeros(()), some(), some()[..., :1]]))
    lines = Lines(some(), shift, some(), some())
    a, z = numbers(rng, batch, rows, *shape), numbers(rng, batch, rows, *shape)
    if draw(st.booleans()):
        a = a.transpose(0, 1).contiguous().transpose(0, 1)
    return (a[:1] if draw(st.booleans()) else a), z, lines


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(given=lined())
def test_lines_agree_with_torch(level: int, given: tuple[torch.Tensor, torch.Tensor, Lines]) -> None:
    a, z, lines = given
    with using(level):
        back, constant = products.relax(a, lines)
        ahead = products.follow(z, a, lines)
    below, down, above, up = (t.double() for t in lines)
    minus, plus = a.double().clamp(max=0), a.double().clamp(min=0)
    torch.testing.assert_close(back.double(), (plus * below + minus * above).expand_as(back), rtol=1e-5, atol=1e-5)
    total = (plus * down + minus * up).expand_as(back).flatten(2).sum(2)
    torch.testing.assert_close(constant.double(), total, rtol=1e-4, atol=1e-4)
    wanted = torch.where(a < 0, above * z + up, below * z + down).expand_as(ahead)
    torch.testing.assert_close(ahead.double(), wanted, rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(3, 2, 1), (2, 4, 5, 7), (5, 1, 64)])
def test_steps_agree_with_torch(level: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    slope, start, mean, square = (numbers(rng, *shape) for _ in range(4))
    square = square.abs()
    active = torch.from_numpy(rng.random(shape[:2]) < 0.5)
    moved = [t.clone() for t in (start, mean, square)]
    with using(level):
        assert products.ascend(moved[0], slope, *moved[1:], active, 0.3)
    mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
    step = 0.3 * mean / square.sqrt() * active.reshape(*shape[:2], *[1] * (len(shape) - 2))
    for found, wanted in zip(moved, (start + step, mean, square), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_what_the_kernels_leave_to_torch() -> None:
    weight, rows = torch.ones(4, 6), torch.ones(20, 6)
    with one_thread_each():
        assert products.covers(rows, weight)
        assert not products.covers(rows[:2], weight)
        assert not products.covers(rows.double(), weight.double())
        assert not products.covers(rows.to("meta"), weight)
        assert not products.covers(rows.clone().requires_grad_(), weight)
        with torch.no_grad():
            assert products.covers(rows.clone().requires_grad_(), weight)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert not products.covers(rows, weight)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_gradients_pass_through_layers() -> None:
    rng = np.random.default_rng(6)
    network = mlp(rng, [4, 30, 3])
    x = numbers(rng, 20, 4).requires_grad_()
    with one_thread_each():
        (found,) = torch.autograd.grad(network(x).sum(), x)
    x = x.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(Network(network.graph, torch.float64)(x).sum(), x)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


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


@needs_kernels
def test_a_library_of_other_sources_is_left_alone(tmp_path: Path) -> None:
    for path in (library().path, *native.sources(library().path.parent)):
        shutil.copy(path, tmp_path)
    with mock.patch.object(native, "__file__", str(tmp_path / "library.py")):
        assert native.library.__wrapped__() is not None
        (tmp_path / "kernels.h").write_text("// another layout\n")
        with pytest.warns(native.Stale, match="setup.py build_ext"):
            assert native.library.__wrapped__() is None


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_what_is_no_library_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ("_kernels" + EXTENSION_SUFFIXES[0])).write_bytes(content)
    (tmp_path / "kernels.h").write_text("// sources\n")
    with (
        mock.patch.object(native, "__file__", str(tmp_path / "library.py")),
        pytest.warns(native.Stale, match="setup.py build_ext"),
    ):
        assert native.library.__wrapped__() is None


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@given(SEEDS, st.integers(1, 3), st.integers(1, 40), st.sampled_from(["none", "plain", "shared", "rows", "few boxes"]))
@settings(max_examples=60, deadline=None)
def test_lines_around_relus_are_those_of_torch(level: int, seed: int, domains: int, size: int, kind: str) -> None:
    """To the last bit, whatever the bounds are: infinite, not numbers, beyond the type's range, crossed or zero."""
    rng = np.random.default_rng(seed)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-42, -1e-42], np.float32)

    def drawn(*shape: int) -> torch.Tensor:
        plain = rng.normal(size=shape).astype(np.float32)
        return torch.from_numpy(np.where(rng.random(shape) < 0.2, rng.choice(special, shape), plain))

    lower = drawn(1 if kind == "few boxes" else domains, size)
    upper = lower + drawn(*lower.shape).abs() if rng.random() < 0.7 else drawn(*lower.shape)
    shape = {"plain": (domains, size), "shared": (1, 4, size)}.get(kind, (domains, 3, size))
    slope = None
    if kind != "none":
        slope = torch.from_numpy(rng.random(shape).astype(np.float32))
        slope[torch.from_numpy(rng.random(shape) < 0.2)] = torch.nan
    with using(level):
        assert products.kinked(lower, upper, slope) is not None
        ours = LINES[ops.Relu()](ops.Relu(), lower, upper, slope)
    with using(0):
        plain = LINES[ops.Relu()](ops.Relu(), lower, upper, slope)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
