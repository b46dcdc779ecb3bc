"""LipSDP (Fazlyab et al. 2019): the multipliers of slope constraints that a conic solver finds best.

With one multiplier per neuron, or one per layer, which is looser and has fewer unknowns. Deep networks are split at
cuts into stretches, whose constants multiply. What the solver says is a hint: `Form.certified` makes the claim.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence

import numpy as np

from certify.budget import Budget
from certify.errors import CertifyError
from certify.graph import ops
from certify.graph.ir import Graph
from certify.lipschitz.network import Part, along_paths, part_bound
from certify.lipschitz.norms import How, Norm, product
from certify.lipschitz.quadratic import MARGINS, Form, Quadratic
from certify.lipschitz.system import Slopes, System, between, cuts, global_slopes, require

Array = np.ndarray

MOST = 60
"""Inputs and neurons of a stretch; a program of so many takes some seconds."""


class Multipliers(enum.Enum):
    """Which multipliers are free."""

    NEURON = "neuron"
    LAYER = "layer"


def lip_sdp(
    graph: Graph,
    slopes: Slopes | None = None,
    multipliers: Multipliers = Multipliers.NEURON,
    most: int = MOST,
    budget: Budget | None = None,
) -> tuple[float, tuple[Part, ...]]:
    """A bound of the L2 Lipschitz constant over the inputs for which the slopes hold (None: all), and its parts.

    Stretches hold as many parts in a row as have at most `most` inputs and neurons together; those that are larger, or
    come after the budget is used up, are bounded without a solver. Raises CertifyError without cvxpy, UnsupportedOp.
    Sound: what the solver proposes is verified with all roundings.
    """
    require(graph)
    slopes = global_slopes(graph) if slopes is None else slopes
    budget = budget or Budget()
    found = []
    for first, last in stretches(graph, slopes, most):
        system = between(graph, first, last)
        small = system.sizes[0] + _bent(system, slopes) <= most
        if small and system.nodes and not budget.expired:
            bound = Norm(_solved(system, slopes, multipliers, budget), How.QUADRATIC)
        else:
            bound = part_bound(system, slopes, 2)
        found.append(Part(first, last, bound))
    return product(part.bound.value for part in found), tuple(found)


def stretches(graph: Graph, slopes: Slopes, most: int) -> list[tuple[int, int]]:
    """Pairs of cuts, one behind the other, with as much in between as has at most `most` inputs and bent neurons."""
    ends = cuts(graph)
    found = []
    begin = 0
    while begin < len(ends) - 1:
        end = begin + 1
        while end + 1 < len(ends) and _weight(graph, slopes, ends[begin], ends[end + 1]) <= most:
            end += 1
        found.append((ends[begin], ends[end]))
        begin = end
    return found


def _weight(graph: Graph, slopes: Slopes, first: int, last: int) -> int:
    inside = (i for i in range(first + 1, last + 1) if isinstance(graph.nodes[i].op, ops.Elementwise))
    return graph.nodes[first].size + sum(int((slopes[i][0] < slopes[i][1]).sum()) for i in inside)


def _bent(system: System, slopes: Slopes) -> int:
    return sum(int((slopes[e][0] < slopes[e][1]).sum()) for e in system.nodes)


def _solved(system: System, slopes: Slopes, multipliers: Multipliers, budget: Budget) -> float:
    along = along_paths(system, slopes, 2)
    quadratic = Quadratic(system, slopes, along[:-1])
    best = min(along[-1], quadratic.best())
    if not quadratic.finite or not np.isfinite(best) or best == 0:
        return best
    hint = propose(quadratic.form, quadratic.layers, multipliers, best, budget)
    if hint is None:
        return best
    values, level = hint
    tried = [quadratic.form.certified(values, level), quadratic.form.certified(values)]
    tried += [quadratic.form.certified(values * (1 + margin)) for margin in MARGINS[:3]]
    return min(best, *tried)


def propose(
    form: Form, layers: Sequence[int], multipliers: Multipliers, scale: float, budget: Budget
) -> tuple[Array, float] | None:
    """About the best multipliers (N,) of a form, and their level; None if the solver has none. `scale` is about the
    constant, `layers` (N,) the operator that each neuron belongs to."""
    try:
        import cvxpy
    except ImportError as error:
        raise CertifyError("cvxpy is not installed", "pip install 'certify-nn[convex]'") from error
    if form.count == 0:
        return np.zeros(0), form.level(form.matrix(np.zeros(0))[0])
    y, v = form.output.value.toarray() / scale, form.reads.value.toarray()
    inputs = np.zeros(y.shape[1])
    inputs[: form.inputs] = 1.0
    own = np.eye(y.shape[1])[form.inputs :]
    alike = np.eye(form.count)
    if multipliers is Multipliers.LAYER:
        alike = (np.asarray(layers)[:, None] == np.unique(layers)).astype(float)
    level, free = cvxpy.Variable(), cvxpy.Variable(alike.shape[1], nonneg=True)
    weights = cvxpy.diag(alike @ free)
    matrix = level * np.diag(inputs) - y.T @ y - v.T @ weights @ v + own.T @ weights @ own
    program = cvxpy.Problem(cvxpy.Minimize(level), [(matrix + matrix.T) / 2 >> 0])
    limit = {} if budget.timeout is None else {"time_limit": max(budget.remaining, 1e-3)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccurate solutions: any is sound
            program.solve(solver="CLARABEL", **limit)
    except cvxpy.error.SolverError:
        return None
    if free.value is None or level.value is None:
        return None
    return alike @ np.maximum(free.value, 0) * scale**2, float(level.value) * scale**2
