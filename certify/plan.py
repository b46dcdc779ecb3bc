"""What suits a query: which stage comes first, and which searches race for a case."""

from __future__ import annotations

import math
from collections.abc import Callable

from certify.bab.engine import Engine, Problem
from certify.bab.input_split import InputSplit
from certify.bab.race import Late
from certify.bab.search import Search
from certify.bab.stages import Stages
from certify.bounds.intermediate import unstable
from certify.bounds.zonotope import affine_forms
from certify.falsify import multiplications
from certify.graph.evaluate import Network
from certify.mip.pieces import exact
from certify.mip.search import LpSplit
from certify.spec.inputset import InputSet
from certify.strategy import Method, Strategy

MANY, SMALL = 16, 1e6
"""From so many cases on, networks of at most so many multiplications are bounded before they are attacked."""

FEW, PATIENCE = 100, 2.0
"""Of so many neurons at most that are unstable at the root, splits join a search over boxes after so many seconds."""

WIDE = 100
"""Unstable neurons per affine form, at the root, from which on boxes are also searched by affine forms alone."""


def bounds_are_cheaper(network: Network, cases: int) -> bool:
    """Whether one linear pass over so many cases costs no more than an attack on each; most cases of many hold."""
    return cases >= MANY and multiplications(network.graph) <= SMALL


def boxes_are_cheaper(problem: Problem, strategy: Strategy) -> bool:
    """Whether a search by affine forms begins with less work than one pass of backward propagation is."""
    few = problem.network.graph.input_size <= strategy.only_inputs_below
    return strategy.method is Method.AUTO and few and _wide(_unstable(problem.network, problem.inputs), problem.inputs)


def searches(
    problem: Problem, strategy: Strategy, refined: tuple[int, ...], make: Callable[[Engine], Search]
) -> tuple[list[Search | Stages], Late | None]:
    """The searches that suit the case, and one that may join them: over boxes if few inputs vary, over neurons if many
    do, else both; over neurons in any case if the region is a ball, which boxes fill badly. Where the least margin is
    nearly 0 along a whole surface, boxes never end but cells do: then neurons' splits come late. Where the unsafe
    inputs are cut by inequalities between them, boxes lie across these; then linear programs join at once."""
    network, inputs = problem.network, problem.inputs
    varying = int((inputs.upper > inputs.lower).sum())
    by_neuron, by_input = varying > strategy.only_inputs_below, varying <= strategy.only_neurons_above
    by_neuron |= inputs.norm is not None
    if strategy.method is not Method.AUTO:
        by_neuron, by_input = strategy.method is Method.NEURON_SPLIT, strategy.method is Method.INPUT_SPLIT
    if strategy.method is Method.MIP and network.graph.nonlinear:
        return [Stages(problem, refined, strategy.patience, make, LpSplit)], None
    found: list[Search | Stages] = []
    late = None
    if by_neuron and network.graph.nonlinear:
        found.append(Stages(problem, refined, strategy.patience, make))
    if by_input or not found:
        count = _unstable(network, inputs)
        if _wide(count, inputs):
            found.append(make(InputSplit(problem, ())))
        found.append(make(InputSplit(problem, refined)))
        if strategy.method is Method.AUTO and count <= FEW and _cut(problem) and exact(network.graph):
            found.append(Stages(problem, refined, strategy.patience, make, LpSplit))
        elif strategy.method is Method.AUTO and not by_neuron and network.graph.nonlinear:
            after = PATIENCE if count <= FEW else math.inf
            late = Late(lambda: Stages(problem, refined, strategy.patience, make), after)
    return found, late


def _cut(problem: Problem) -> bool:
    """Whether some clause has an inequality between inputs, without outputs."""
    n = problem.network.graph.output_size
    used = (clause.matrix != 0 for clause in problem.clauses)
    return any(bool((~rows[:, :n].any(1) & (rows[:, n:].sum(1) > 1)).any()) for rows in used)


def _unstable(network: Network, inputs: InputSet) -> int:
    """Neurons, by affine forms."""
    bounds = affine_forms(network, inputs)
    return sum(int(unstable(network.graph, v, bounds[v]).sum()) for v in bounds)


def _wide(count: int, inputs: InputSet) -> bool:
    """Whether one box with so many unstable neurons costs so much more by backward propagation than by affine forms
    that both should be tried."""
    return count > WIDE * (inputs.lower.shape[1] + 1)
