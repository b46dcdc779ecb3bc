"""Hulls of ReLUs: no inequality cuts off a point that counts, the worst one is found, and all make up the hull."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.budget import Budget
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.mip import lazy
from certify.mip.columns import Columns
from certify.mip.cuts import Hulls
from certify.mip.distance import bounded, least
from certify.mip.encode import Block, Encoded
from certify.mip.lazy import Lazy, pulls
from certify.solvers.highs import Kept, Limits, LinearProgram, MixedSolution, Solution, Status, solve_mixed
from certify.spec.property import clause
from certify.spec.regions import box
from tests.test_leaf import chosen, network
from tests.test_mip import LIES, REGION, least_margin, mixed

Array = np.ndarray


def single(seed: int, inputs: int = 4) -> Graph:
    """One ReLU, in whose middle 0 is."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder([Port("x", (inputs,), "float64")])
    h = build.relu(
        build.emit(ops.Linear(rng.standard_normal((1, inputs)), 0.3 * rng.standard_normal(1)), build.inputs[0])
    )
    return build.build([h], [Port("y", (1,))])


def columns_of(graph: Graph) -> Columns:
    region = REGION if graph.input_size == 2 else box([-1.0] * graph.input_size, [0.75] * graph.input_size)
    return bounded(Network(graph, torch.float64), region, Budget(60))[0]


def excess(cut: Block, x: Array) -> Array:
    return np.bincount(cut.row, cut.value * x[cut.column], len(cut.upper)) - cut.upper


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_no_inequality_cuts_off_what_a_neuron_can_do(seed: int) -> None:
    """For sets I of all kinds; at any point of the box of what the neuron reads, reachable or not, and at inputs."""
    rng = np.random.default_rng(seed)
    columns = columns_of(network(seed % 7, [ops.Relu(), ops.Relu()]))
    encoded = Encoded(columns)
    hulls = Hulls(encoded, 100)
    finite = np.isfinite(encoded.lower)
    assert finite.all()
    at = rng.uniform(encoded.lower, encoded.upper)
    at[hulls.y] += 10.0  # all are violated
    cut = hulls.violated(at, 100)
    assert len(cut.upper) == len(hulls.y) >= 2
    equalities, constants = columns.equalities, columns.constants
    owner = {int(d): int(z) for bent, choices in zip(columns.bent, encoded.choices, strict=True)
             for d, z in zip(choices[1], bent.z, strict=True)}  # fmt: skip
    made = {int(d): int(y) for d, y in zip(hulls.d, hulls.y, strict=True)}
    for x in [
        np.where(rng.random(len(at)) < 0.5, encoded.lower, encoded.upper),
        rng.uniform(encoded.lower, encoded.upper),
    ]:
        for d, z in owner.items():
            row = next(r for r in range(len(constants)) if equalities.index[equalities.start[r + 1] - 1] == z)
            entries = slice(equalities.start[row], equalities.start[row + 1] - 1)
            value = constants[row] - equalities.value[entries] @ x[equalities.index[entries]]
            mine = [r for r in range(len(cut.upper)) if made[d] in cut.column[(cut.row == r) & (cut.value == 1)]]
            for on in (False, True):
                if (value > 0) != on and value != 0:
                    continue
                x = x.copy()
                x[d], x[made[d]] = on, max(value, 0.0)
                only = np.zeros(len(x))
                read = [d, made[d], *equalities.index[entries]]
                only[read] = x[read]
                assert (excess(cut, only)[mine] <= 1e-9).all()
    for x in rng.uniform(REGION.lower, REGION.upper, (30, 2)):
        assert (excess(cut, encoded.at(x)) <= 1e-9).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_inequality_that_is_found_is_the_most_violated_of_all(seed: int) -> None:
    rng, graph = np.random.default_rng(seed), single(seed % 5)
    encoded = Encoded(columns_of(graph))
    hulls = Hulls(encoded, 100)
    if not len(hulls.y):  # it does not bend
        return
    x = rng.uniform(encoded.lower, encoded.upper)
    y, d = x[hulls.y[0]], x[hulls.d[0]]
    w, c, b = hulls.weight, x[hulls.column], hulls.bias[0]
    low = np.where(w > 0, encoded.lower[hulls.column], encoded.upper[hulls.column])
    high = np.where(w > 0, encoded.upper[hulls.column], encoded.lower[hulls.column])
    every = [
        y - (w * np.where(mine, c - low * (1 - d), high * d)).sum() - b * d
        for mine in np.array(list(product([False, True], repeat=len(w))))
    ]
    cut = hulls.violated(x, 1)
    assert (cut is None) == (max(every) <= 1e-6 * (1 + abs(y)))
    if cut is not None:
        assert excess(cut, x)[0] == pytest.approx(max(every), abs=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_cuts_leave_the_convex_hull_of_a_neuron(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a linear program finds the least value, of the output and the inputs together, where big-M does not."""
    monkeypatch.setattr(lazy, "PAYS", -np.inf)
    monkeypatch.setattr(lazy, "ROUNDS", 100)
    columns, unsafe = (
        columns_of(single(seed)),
        clause(np.append(-1.5, np.random.default_rng(seed).standard_normal(4)), 0.0),
    )
    true = least(columns, unsafe, Budget(60)).upper
    found = []
    for inputs in (0, 100):
        monkeypatch.setattr(lazy, "INPUTS", inputs)
        encoded = Encoded(columns)
        level = encoded.level(columns.objective(unsafe))
        found.append(Lazy(encoded, pulls(columns, unsafe), solve_mixed)._cut(np.eye(1, level + 1, level)[0], Limits()))
    assert found[0] <= found[1] + 1e-7
    assert found[1] == pytest.approx(true, abs=1e-6)


@pytest.mark.parametrize("lie", LIES)
def test_a_linear_solver_that_lies_proves_nothing_wrong(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do inequalities that its solutions choose, whatever these are."""
    matrix, at = chosen(1, 2), least_margin(1, 2, 2)
    columns = columns_of(mixed(1))

    class Liar(Kept):
        def __init__(self, program: LinearProgram, *args: object) -> None:
            super().__init__(program, *args)
            self.program = program

        def minimise(self, cost: Array, seconds: float = np.inf) -> Solution:
            return LIES[lie](self.program, super().minimise(cost, seconds))

    monkeypatch.setattr(lazy, "Kept", Liar)
    unsafe = clause(matrix, np.zeros(2))
    encoded = Encoded(columns)
    level = encoded.level(columns.objective(unsafe))
    assert (
        Lazy(encoded, pulls(columns, unsafe), solve_mixed)._cut(np.eye(1, level + 1, level)[0], Limits()) <= at + 1e-9
    )


@pytest.mark.parametrize("way", ["memory", "cancelled", "dead"])
def test_a_linear_program_that_is_broken_off(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, budget, asked = columns_of(network(1, [ops.Relu()] * 3)), Budget(60), []
    unsafe = clause(chosen(1, 2), np.zeros(2))
    true = least(columns, unsafe, budget).upper

    class Broken(Kept):
        def minimise(self, cost: Array, seconds: float = np.inf) -> Solution:
            asked.append(1)
            if len(asked) < 2:
                return super().minimise(cost, seconds)
            if way == "dead":
                raise RuntimeError("the solver died")
            if way == "memory":
                raise MemoryError
            budget.cancel()
            return Solution(Status.CANCELLED)

    monkeypatch.setattr(lazy, "Kept", Broken)
    monkeypatch.setattr(lazy, "PAYS", -np.inf)
    encoded = Encoded(columns)
    level = encoded.level(columns.objective(unsafe))
    one = Lazy(encoded, pulls(columns, unsafe), lambda *args, **kwargs: MixedSolution(Status.MEMORY))
    limits = Limits(above=true + 1.0, stop=lambda: budget.expired)
    if way == "dead":
        with pytest.raises(RuntimeError, match="died"):
            one.minimise(level, limits)
        return
    found = one.minimise(level, limits)
    assert (found.status, found.x) == (Status.MEMORY, None)
    assert found.bound <= true + 1e-6
    assert len(asked) == 2
    assert (found.bound > -np.inf) == (way == "cancelled")
