"""The mixed-integer formulation as one would write it first: the baseline of `benchmarks.exact_accuracy`, nothing else.

Big-M with bounds from interval arithmetic, every unstable neuron a binary, no tightening, no cut-off and no early
stop: the least margin of each clause, one after the other, to the end. Its word is the solver's; nobody checks it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from certify.bounds.base import apart
from certify.bounds.intermediate import read_by_elementwise
from certify.bounds.interval import interval
from certify.budget import Budget
from certify.graph.evaluate import Network
from certify.mip.columns import Columns
from certify.mip.encode import Encoded
from certify.solvers.highs import Limits, solve_mixed
from certify.spec.inputset import stack
from certify.spec.property import Property
from certify.spec.regions import Region

Array = np.ndarray


def decide(network: Network, region: Region, prop: Property, budget: Budget, unsafe: Callable[[Array], bool]) -> str:
    """verified, falsified or unknown, for a piecewise-linear network in float64 over a box; `unsafe` tells whether an
    input (d,) of it is."""
    ((_, inputs),) = stack([region], torch.float64)
    every = interval(network, inputs, {})
    columns = Columns(network, apart({v: every[v] for v in read_by_elementwise(network.graph)}), inputs)
    verdict = "verified"
    for clause in prop.clauses:
        encoded = Encoded(columns)
        cost = np.eye(1, len(encoded.lower) + 1, encoded.level(columns.objective(clause)))[0]
        found = solve_mixed(encoded.program(cost), Limits(seconds=budget.remaining, stop=lambda: budget.expired))
        if found.x is not None and unsafe(np.clip(columns.input_at(found.x), region.lower, region.upper)):
            return "falsified"
        if not found.bound > 0:
            verdict = "unknown"
        if budget.expired:
            return "unknown"
    return verdict
