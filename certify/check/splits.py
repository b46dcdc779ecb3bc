"""What the splits above a leaf say: limits of values, boxes that are empty, and what multipliers add."""

from __future__ import annotations

import numpy as np

from certify.check.linear import Bounds, Extra, Network
from certify.check.tree import Climb
from certify.numerics import UNIT, gamma, inflate
from certify.spec.regions import Region

Array = np.ndarray


def misses(region: Region, lower: Array, upper: Array) -> Array:
    """Which boxes (P,) surely hold no point of the region's L1 or L2 ball.

    Distances are measured in radii, so that nothing vanishes; a quotient of differences is wrong by less than
    3 units, its square by less than 7, the sum by one more for each term.
    """
    gap = np.maximum(np.maximum(lower - region.center, region.center - upper), 0) / region.radius
    total = (gap if region.norm == 1 else gap * gap).sum(1)
    return total > 1 + 4 * UNIT * (gap.shape[1] + 8)


def limits_of(climb: Climb, network: Network, count: int) -> dict[int, tuple[Array, Array]]:
    """For every split node, within what limits (`count`, *N) the splits on each path keep its value."""
    limits = {}
    for v in np.unique(climb.node):
        mine = climb.node == v
        lower, upper = (np.full((count, network.sizes[v]), end) for end in (-np.inf, np.inf))
        above, below = mine & (climb.sign > 0), mine & (climb.sign < 0)
        np.maximum.at(lower, (climb.leaf[above], climb.index[above]), climb.point[above])
        np.minimum.at(upper, (climb.leaf[below], climb.index[below]), climb.point[below])
        shape = network.graph.nodes[v].shape
        limits[int(v)] = lower.reshape(-1, *shape), upper.reshape(-1, *shape)
    return limits


def within(limits: tuple[Array, Array] | None, bounds: Bounds, v: int) -> tuple[Array, Array]:
    """The limits of node v, if there are any, and its bounds."""
    least, most = limits or (-np.inf, np.inf)
    return np.maximum(bounds.lower[v], least), np.minimum(bounds.upper[v], most)


def cut_by_splits(
    climb: Climb, bounds: Bounds, network: Network, count: int
) -> tuple[dict[int, tuple[Array, Array]], Array]:
    """For every split node, its bounds (P, *N) cut by the leaves' own splits; and which leaves are empty."""
    cut, empty = {}, np.zeros(count, bool)
    for v, (least, most) in limits_of(climb, network, count).items():
        cut[v] = lower, upper = within((least, most), bounds, v)
        empty |= (lower > upper).reshape(count, -1).any(1)
    return cut, empty


def multiplied(climb: Climb, multipliers: Array, bounds: Bounds, network: Network, count: int) -> dict[int, Extra]:
    """What the multipliers add: -beta * sign * (v - point), which is not positive anywhere in the leaf."""
    extras = {}
    for v in np.unique(climb.node):
        mine = climb.node == v
        who, index = climb.leaf[mine], climb.index[mine]
        signed = climb.sign[mine] * multipliers[mine]
        rows, constant, error = np.zeros((count, network.sizes[v])), np.zeros(count), np.zeros(count)
        np.add.at(rows, (who, index), -signed)
        np.add.at(constant, who, signed * climb.point[mine])
        share = gamma(len(who) + 4)
        h = bounds.largest[v].reshape(-1, network.sizes[v])
        reach = h[who if len(h) > 1 else 0, index] + np.abs(climb.point[mine])
        np.add.at(error, who, share * multipliers[mine] * reach)
        extras[int(v)] = Extra(rows[:, None], constant[:, None], inflate(error, len(who))[:, None])
    return extras
