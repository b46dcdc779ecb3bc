"""Bounds of a property's rows from Lipschitz constants: c f(x) >= c f(centre) - L_c * radius. One evaluation for each
region, whatever its size; as loose as the constant is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from certify.bounds.base import NodeBounds
from certify.bounds.method import BoundMethod, RowBounds
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.numerics import gamma, inflate, next_down, next_up
from certify.spec.inputset import InputSet

if TYPE_CHECKING:
    from certify.lipschitz.margin import Outputs
    from certify.lipschitz.network import GlobalBound

Array = np.ndarray


@dataclass(frozen=True)
class LipschitzBounds(BoundMethod):
    """By constants over all inputs, in the norm of the region's ball (of a box: L-infinity, around its middle).

    Sound: the bounds are rounded outward, those of norms and of the outputs at the centre, too.
    """

    name: ClassVar[str] = "lipschitz"
    outward: ClassVar[bool] = True

    def covers(self, op: ops.Op) -> bool:
        from certify.check.linear import RULES
        from certify.lipschitz.matrices import MATRICES
        from certify.lipschitz.slopes import SLOPES

        known = MATRICES.get(op) is not None or SLOPES.get(op) is not None
        return known and RULES.get(op) is not None

    def _bound(self, network: Network, inputs: InputSet, rows: Rows, within: NodeBounds, budget: Budget) -> RowBounds:
        norm = inputs.norm or np.inf
        constants, outputs = _prepared(network.graph, norm)
        batch, shape = len(inputs), rows.offset.shape[1:]
        matrix, offset = (t.expand(batch, *t.shape[1:]).cpu().double().numpy() for t in (rows.matrix, rows.offset))
        centre, radius = _balls(inputs)
        low, high = outputs(centre)
        found = np.empty((batch, *shape))
        for b in range(batch):
            flat = matrix[b].reshape(-1, matrix.shape[-1])
            least = _least(flat, offset[b].reshape(-1), (low[b], high[b], centre[b]), float(radius[b]), constants)
            found[b] = least.reshape(shape)
        return RowBounds(torch.from_numpy(found), {})


def _balls(inputs: InputSet) -> tuple[Array, Array]:
    """Centres (B, d) and radii (B,), rounded up, of balls that hold the regions."""
    if inputs.norm is not None:
        return inputs.center.cpu().double().numpy(), inputs.radius.cpu().double().numpy()
    lower, upper = (t.cpu().double().numpy() for t in (inputs.lower, inputs.upper))
    centre = 0.5 * lower + 0.5 * upper
    return centre, np.maximum(next_up(upper - centre), next_up(centre - lower)).max(1, initial=0.0)


def _least(rows: Array, offset: Array, at: tuple[Array, Array, Array], radius: float, bound: GlobalBound) -> Array:
    """Lower bounds (S,) of  rows @ (y, x) - offset  over the ball, rows (S, n) or (S, n + d)."""
    from certify.lipschitz.margin import below

    low, high, centre = at
    outputs = len(low)
    steep = bound.rows(rows[:, :outputs])
    if rows.shape[1] > outputs:
        low, high = (np.concatenate([side, centre]) for side in (low, high))
        size = np.abs(rows[:, outputs:])
        dual = {1: size.max(1), 2: np.sqrt(inflate(np.square(size).sum(1), 2 * len(centre))), np.inf: size.sum(1)}
        steep = inflate(steep + inflate(dual[bound.norm], len(centre) + 8), 2)
    value = below(rows, low, high)
    lost = inflate(np.where(steep > 0, steep * radius, 0.0), 2)
    error = gamma(8) * (np.abs(value) + np.abs(offset) + lost)
    return next_down(value - offset - lost - inflate(error, 4))


@lru_cache(maxsize=4)
def _prepared(graph: Graph, norm: float) -> tuple[GlobalBound, Outputs]:
    """What is the same for all regions: a data set asks for it again and again."""
    from certify.lipschitz.margin import Outputs
    from certify.lipschitz.network import global_bound

    return global_bound(graph, norm), Outputs(graph)
