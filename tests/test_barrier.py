"""The interior-point method: it finds what conic solvers find, and all it ever has are multipliers of a bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certify.bounds import barrier
from certify.bounds.barrier import optimum
from certify.bounds.multipliers import adaptive, of_lines
from certify.bounds.quadratic import Multipliers, Quadratics
from certify.bounds.sdp import Conic, SdpBounds
from certify.budget import Budget
from certify.graph.ir import Graph
from tests.test_convex import cube, dense, least

quick = settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)

SMALL = [(2, 4, 1), (2, 3, 3, 2), (3, 4, 4, 1)]


def begun(graph: Graph, radius: float = 1.0) -> tuple[Quadratics, torch.Tensor, torch.Tensor, Multipliers]:
    """The problem over a cube, a row, its cost, and the multipliers of adaptive lines."""
    problem = Quadratics(graph, cube(graph.input_size, radius).regions()[0])
    row = torch.eye(graph.output_size, dtype=torch.float64)[0]
    cost = problem.cost(row, 0.0)[0]
    return problem, row, cost, of_lines(problem, cost, adaptive(problem))


@quick
@given(st.sampled_from(SMALL), st.integers(0, 2**16))
def test_constraints_are_the_products_they_are_said_to_be(sizes: tuple[int, ...], seed: int) -> None:
    """The form is the cost and the constraints, weighted: at any coordinates."""
    problem, _, cost, start = begun(dense(sizes, seed))
    rng = np.random.default_rng(seed)
    given_ = Multipliers(*(torch.from_numpy(rng.standard_normal(t.shape)) for t in start.tensors()))
    v = torch.cat([torch.ones(1, dtype=torch.float64), torch.from_numpy(rng.standard_normal(len(start.box) - 1))])
    base = torch.cat([v, barrier._reads(problem) @ v])
    left, right = ((f.weight * base[f.index]).sum(1) for f in barrier._constraints(problem))
    u = problem.centre.clone()
    u[problem.varying] += problem.radius * v[1:]
    weights = torch.cat(given_.tensors())
    form = problem.matrix(given_, cost) + torch.diag(given_.box)
    torch.testing.assert_close(v @ form @ v, cost @ u + (weights * left * right).sum())


@settings(quick, max_examples=3)
@given(st.sampled_from(SMALL), st.integers(0, 2**16))
def test_it_finds_what_a_conic_solver_finds(sizes: tuple[int, ...], seed: int) -> None:
    graph = dense(sizes, seed)
    problem, row, cost, start = begun(graph)
    found = problem.lower(optimum(problem, cost, start, Budget()), row, 0.0)
    conic = SdpBounds(Conic.CLARABEL).multipliers(problem, cost, start, Budget())
    best = max([problem.lower(m, row, 0.0) for m in conic], default=-np.inf)
    assert found >= best - 1e-5 * (1 + abs(best))
    assert found <= least(graph, cube(sizes[0]))[0, 0]


def test_many_neurons_and_more_inputs_than_neurons() -> None:
    """Where the optimum is far above what lines prove; the moments say how far it is at most."""
    for sizes, radius in (((5, 16, 16, 1), 1.0), ((60, 6, 6, 1), 0.05)):
        problem, row, cost, start = begun(dense(sizes, 3), radius)
        point = barrier._Point(problem, cost, start)
        while point.mean * point.count > 1e-6 and point.step():
            assert torch.linalg.eigvalsh(point._matrix(point.mu))[0] > 0
        found, plain = (problem.lower(m, row, 0.0) for m in (point.given, start))
        assert found > plain + 1e-3
        apart = point.price - point._constrained(point.moments)
        assert (apart >= -1e-6)[point.must].all()
        assert (apart.abs() <= 1e-6)[~point.must].all()
        at_most = float((problem.matrix(Multipliers(*(t * 0 for t in start.tensors())), cost) * point.moments).sum())
        assert found <= at_most + 1e-6
        assert found >= at_most - 1e-4


def test_where_the_budget_ends_there_are_multipliers_all_the_same() -> None:
    problem, row, cost, start = begun(dense((3, 6, 6, 1), 1))
    budget = Budget()
    budget.cancel()
    found = optimum(problem, cost, start, budget)
    assert problem.lower(found, row, 0.0) == problem.lower(start, row, 0.0)


@pytest.mark.parametrize("radius", [0.0, 1e-7])
def test_nothing_to_optimise(radius: float) -> None:
    """No input varies, or no neuron is bent."""
    problem, row, cost, start = begun(dense((2, 4, 4, 1), 2), radius)
    assert problem.lower(optimum(problem, cost, start, Budget()), row, 0.0) >= problem.lower(start, row, 0.0)
