"""The compiled sweeps against torch, for every instruction set that this processor has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.bounds import sweeps
from certify.bounds.linear import Splits, least, lines_of
from certify.bounds.optimise import Free, Result, Schedule, Target, bound, initial, optimise
from certify.bounds.program import program
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import Rows
from certify.graph import ops
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.native import products
from certify.native.library import Library, library
from certify.native.sweep import Room
from certify.spec.inputset import InputSet
from certify.threads import one_thread_each

LEVELS = range(1, 1 + (library().level if library() else 0))
needs_kernels = pytest.mark.skipif(not LEVELS, reason="the kernels were not built, or this processor lacks AVX2")
SEEDS = st.integers(0, 2**32 - 1)


@contextmanager
def using(level: int) -> Iterator[None]:
    """The kernels of one instruction set, with one thread; 0 for torch alone."""
    found = Library(library().path, level) if level else None
    with mock.patch.object(products, "library", return_value=found), one_thread_each(), torch.no_grad():
        yield


class Maker:
    """Random networks of the operators that sweeps cover."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def weights(self, *shape: int) -> tuple[np.ndarray, np.ndarray | None]:
        bias = self.rng.normal(size=shape[0]) if self.rng.random() < 0.8 else None
        return self.rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5, bias

    def linear(self, b: GraphBuilder, x: Operand, size: int) -> Operand:
        return b.linear(x, *self.weights(size, x.shape[-1]))

    def conv(self, b: GraphBuilder, x: Operand, axes: int) -> Operand:
        kernel, stride = (tuple(int(k) for k in self.rng.integers(1, 4, axes)) for _ in range(2))
        weights = self.weights(int(self.rng.choice([2, 5, 8, 14])), x.shape[-axes - 1], *kernel)
        dilation = (int(self.rng.integers(1, 3)),) * axes
        return b.conv(x, *weights, stride=stride, before=(1,) * axes, after=(2,) * axes, dilation=dilation)

    def scaled(self, b: GraphBuilder, x: Operand) -> Operand:
        shape = (x.shape[0], *[1] * (len(x.shape) - 1))
        return b.emit(ops.Scale(self.rng.normal(size=shape), self.rng.normal(size=shape)), x)

    def dense(self) -> Graph:
        sizes = self.rng.choice([1, 2, 5, 13, 16, 30, 67], self.rng.integers(2, 5))
        b = GraphBuilder([Port("x", (int(sizes[0]),))])
        x = b.inputs[0]
        for size in sizes[1:]:
            x = b.relu(self.linear(b, x, int(size)))
            if self.rng.random() < 0.3:
                x = b.relu(b.add(self.linear(b, x, int(size)), x))
        return b.build([self.linear(b, x, 3)], [Port("y", (3,))])

    def spatial(self) -> Graph:
        """Convolutions along one to three axes, a residual block of them, a scale, and dense layers."""
        axes = int(self.rng.integers(1, 4))
        shape = (int(self.rng.integers(1, 4)), *(int(n) for n in self.rng.integers(3, 8 - axes, axes)))
        last = self.rng.random() < 0.5  # as some libraries have it: the channels come last
        shown = (1, *shape[1:], shape[0]) if last else shape
        grown = self.rng.random() < 0.4  # from a few numbers
        b = GraphBuilder([Port("x", (3,) if grown else shown)])
        x = b.inputs[0]
        if grown:
            x = self.linear(b, x, int(np.prod(shown)))
            x = b.reshape(b.relu(x) if self.rng.random() < 0.5 else x, shown)
        x = self.scaled(b, x)
        x = b.emit(ops.Permute((0, axes + 1, *range(1, axes + 1))), x) if last else x
        x = b.relu(self.conv(b, x, axes))
        one, none = (1,) * axes, (0,) * axes
        channels = x.shape[-axes - 1]
        wide = {"stride": one, "before": one, "after": one}
        y = b.relu(b.conv(x, *self.weights(7, channels, *[3] * axes), **wide))
        y = b.conv(y, *self.weights(7, 7, *[3] * axes), **wide)
        around = b.conv(x, *self.weights(7, channels, *one), stride=one, before=none, after=none)
        x = b.relu(b.sum([y, around], [1.0, -0.5]))
        x = b.emit(ops.Permute((0, *range(2, axes + 2), 1)), x) if last else x
        x = b.relu(self.linear(b, b.flatten(x), 6))
        return b.build([self.linear(b, x, 3)], [Port("y", (3,))])


@dataclass(frozen=True)
class Problem:
    target: Target
    relaxation: Relaxation
    free: Free

    def solve(self, schedule: Schedule, threshold: float = float("inf")) -> Result:
        return optimise(self.target, self.free, self.relaxation, schedule, threshold)


def problem(seed: int, graph: Graph, batch: int, clauses: int, depth: int, dtype: torch.dtype) -> Problem:
    """Random bounds, some of them stable, random rows, and random splits of which some are of no node."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32)).to(dtype)

    network = Network(graph, dtype)
    nodes = graph.nodes
    reads = [nodes[e].inputs[0] for e in graph.nonlinear]
    centre = some(batch, graph.input_size)
    bounds = {}
    for k, v in enumerate(reads):
        middle, half = (some(1 if k % 3 == 2 else batch, *nodes[v].shape) for _ in range(2))
        bounds[v] = (middle - half.abs(), middle + half.abs())
    node = torch.from_numpy(rng.choice(reads, (batch, depth)))
    sizes = torch.tensor([n.size for n in nodes])
    index = (torch.from_numpy(rng.random((batch, depth))) * sizes[node]).long()
    splits = Splits(
        node, index, 0.3 * some(batch, depth), torch.from_numpy(rng.integers(-1, 2, (batch, depth))).to(dtype)
    )
    shared = 1 if rng.random() < 0.5 else batch
    matrix, offset = some(shared, clauses, 1, graph.output_size), some(shared, clauses, 1)
    rows = Rows(matrix, offset, torch.ones_like(offset, dtype=torch.bool))
    target = Target(network, InputSet(centre - 0.3, centre + 0.3), bounds, rows, splits)
    relaxation = Relaxation(network, bounds)
    free = initial(target, relaxation)
    free = replace(free, lines={e: torch.where(t == 0, 0.3, t) for e, t in free.lines.items()})
    return Problem(target, relaxation, replace(free, multipliers=some(batch, clauses, depth).abs()))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, Problem]:
    """One problem in float32 and in float64."""
    seed = draw(SEEDS)
    graph = Maker(seed).spatial() if draw(st.booleans()) else Maker(seed).dense()
    sizes = draw(st.sampled_from([(1, 1), (3, 2), (17, 1), (9, 4), (70, 1)]))
    depth = draw(st.integers(0, 3))
    return tuple(problem(seed, graph, *sizes, depth, dtype) for dtype in (torch.float32, torch.float64))


def covered(network: Network) -> bool:
    return program(network, len(network.graph.nodes) - 1) is not None


def near(found: torch.Tensor, wanted: torch.Tensor, slack: float = 1e-4) -> None:
    torch.testing.assert_close(
        found.double(), wanted.expand_as(found), rtol=0, atol=slack * float(1 + wanted.abs().max())
    )


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(pair=problems())
def test_a_pass_agrees_with_torch(level: int, pair: tuple[Problem, Problem]) -> None:
    ours, exact = pair
    with using(level):
        assert covered(ours.target.network)
        found = ours.solve(Schedule(steps=0))
        (part,) = found.parts
    with using(0):
        wanted = exact.solve(Schedule(steps=0))
    near(found.lower, wanted.lower)
    near(part.form.input, wanted.parts[0].form.input)
    near(part.form.constant, wanted.parts[0].form.constant)
    assert part.form.kept.keys() == wanted.parts[0].form.kept.keys()
    for e, a in part.form.kept.items():
        near(a, wanted.parts[0].form.kept[e])


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=30, deadline=None)
@given(pair=problems(), steps=st.sampled_from([1, 4, 10]))
def test_an_ascent_ends_where_torch_does(level: int, pair: tuple[Problem, Problem], steps: int) -> None:
    ours, exact = pair
    with using(level):
        found = ours.solve(Schedule(steps=steps))
    with using(0):
        wanted = exact.solve(Schedule(steps=steps))
    near(found.lower, wanted.lower, 1e-3 * steps)  # where a slope is nearly nil, rounding decides on a whole step
    for t, t0 in zip(found.free.tensors(), ours.free.tensors(), strict=True):
        assert t.shape == t0.shape
    for e, t in found.free.lines.items():
        assert ((t >= 0) & (t <= 1)).all()
        lower, upper = ours.target.bounds[ours.target.network.graph.nodes[e].inputs[0]]
        stable = ((lower >= 0) | (upper <= 0)).unsqueeze(1).expand_as(t)
        assert torch.equal(t[stable], ours.free.lines[e][stable])
    assert (found.free.multipliers >= 0).all()


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=20, deadline=None)
@given(pair=problems(), trial=st.sampled_from([None, 2]))
def test_what_is_left_proves_what_it_claims(level: int, pair: tuple[Problem, Problem], trial: int | None) -> None:
    """In float64, by torch: the free values, the forms and the bounds of the rows that are closed, and the rest."""
    ours, exact = pair
    with using(level):
        first = ours.solve(Schedule(steps=0)).lower
        threshold = float(first.median()) + 0.2
        found = ours.solve(Schedule(steps=12, trial=trial), threshold)
    with using(0):
        free = Free(
            *({e: t.double() for e, t in found.free.lines.items()}, *(t.double() for t in found.free.tensors()[-2:]))
        )
        lines = exact.relaxation.lines(free.lines)
        value, form = bound(exact.target, free, lines, keep=True)
        index = torch.cat([part.index for part in found.parts])
        assert torch.equal(index.sort().values, torch.arange(len(value)))
        for part in found.parts:
            near(part.form.input, form.input[part.index])
            near(part.form.constant, form.constant[part.index])
    closed = found.lower > threshold
    near(found.lower[closed], value[closed]) if closed.any() else None
    assert (found.lower >= first - 1e-5 * first.abs().max()).all()


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=30, deadline=None)
@given(pair=problems(), seed=SEEDS)
def test_least_values_of_any_node_agree_with_torch(level: int, pair: tuple[Problem, Problem], seed: int) -> None:
    """Rows that all domains share, some or all of them for each, through lines that a domain's rows share."""
    rng = np.random.default_rng(seed)
    graph, batch = pair[0].target.network.graph, len(pair[0].target.inputs)
    v = int(rng.choice([graph.nodes[e].inputs[0] for e in graph.nonlinear]))
    start, constant = (torch.from_numpy(rng.normal(size=shape)) for shape in ((1, 5, *graph.nodes[v].shape), (1, 5)))
    choose = torch.from_numpy(rng.integers(0, 5, (batch, 3))) if rng.random() < 0.5 else None
    found = []
    for case, kernels in zip(pair, (level, 0), strict=True):
        target, dtype = case.target, case.target.network.dtype
        with using(kernels):
            lines = lines_of(target.network, target.bounds, graph.nonlinear)
            rows, shift = start.to(dtype), constant.to(dtype)
            found.append(least(target.network, v, rows, shift, lines, target.inputs, choose))
    near(found[0], found[1])


@needs_kernels
@pytest.mark.parametrize("level", LEVELS)
@given(SEEDS, st.sampled_from([1, 5, 33, 150]), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_threads_share_the_work_and_change_nothing(level: int, seed: int, batch: int, threads: int) -> None:
    """To the last bit: no row depends on who sweeps it, or on the rows that it is swept with."""
    found = []
    for count in (1, threads):
        case = problem(seed, Maker(seed).spatial() if seed % 2 else Maker(seed).dense(), batch, 2, 2, torch.float32)
        shared = mock.patch.multiple(sweeps, WORTH_THREADS=0.0, for_kernels=lambda count=count: count)
        with using(level), shared:
            result = case.solve(Schedule(steps=9), threshold=0.5)
            found.append((result.lower, *result.free.tensors()))
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, rtol=0, atol=0, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_closes_nothing(number: float) -> None:
    case = problem(3, Maker(3).dense(), 20, 1, 1, torch.float32)
    case.target.rows.matrix[..., 0] = number
    with using(LEVELS[-1]):
        lower = case.solve(Schedule(steps=3), 0.0).lower
    assert not (torch.isfinite(lower) | (lower > 0)).any()


@needs_kernels
def test_a_budget_that_is_used_up_still_gives_bounds() -> None:
    case = problem(5, Maker(5).spatial(), 20, 1, 0, torch.float32)
    with using(LEVELS[-1]):
        first = case.solve(Schedule(steps=0)).lower
        found = optimise(case.target, case.free, case.relaxation, Schedule(steps=9), float("inf"), lambda: True)
    assert torch.equal(found.lower, first)


def test_what_sweeps_do_not_cover() -> None:
    def built(make: object) -> Network:
        b = GraphBuilder([Port("x", (2, 3, 3))])
        y = b.flatten(make(b, b.inputs[0]))
        return Network(b.build([b.linear(y, np.ones((2, y.shape[0])))], [Port("y", (2,))]))

    weight = np.ones((2, 2, 1, 1))
    one, none = (1, 1), (0, 0)

    def conv(b: GraphBuilder, x: Operand, weight: np.ndarray = weight, **more: object) -> Operand:
        return b.conv(x, weight, None, stride=one, before=none, after=none, **more)

    assert covered(built(lambda b, x: b.relu(conv(b, x))))
    assert not covered(Network(built(lambda b, x: b.relu(conv(b, x))).graph, torch.float64))
    for make in (
        lambda b, x: b.sigmoid(conv(b, x)),
        lambda b, x: conv(b, b.emit(ops.Permute((0, 2, 1)), b.relu(conv(b, x)))),
        lambda b, x: b.relu(conv(b, x, np.ones((2, 1, 1, 1)), groups=2)),
        lambda b, x: conv(b, b.reshape(b.relu(conv(b, x)), (3, 2, 3)), np.ones((2, 3, 1, 1))),
    ):
        assert not covered(built(make))


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_places_in_use_do_not_overlap(seed: int) -> None:
    rng, room, used = np.random.default_rng(seed), Room(), {}
    for _ in range(40):
        if used and rng.random() < 0.45:
            place = int(rng.choice(list(used)))
            room.give(place, used.pop(place))
        else:
            size = int(rng.integers(1, 9))
            used[room.take(size)] = size
        taken = [k for place, size in used.items() for k in range(place, place + size)]
        assert len(taken) == len(set(taken))
        assert max(taken, default=-1) < room.size
