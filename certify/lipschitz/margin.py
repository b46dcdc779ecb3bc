"""Radii that follow from Lipschitz constants: no input within them is classified otherwise.

If f is L-Lipschitz from L2 to L2, a difference of two outputs is sqrt(2) L-Lipschitz, so that the class does not change
within (largest output - second largest) / (sqrt(2) L) (Tsuzuku et al. 2018, proposition 1); with constants L_yt of the
differences f_y - f_t themselves, within min_t (f_y - f_t) / L_yt, which is never less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certify.check.bounds import propagate
from certify.check.linear import Network
from certify.errors import MalformedSpec
from certify.graph.ir import Graph
from certify.lipschitz.network import GlobalBound
from certify.numerics import UNIT, gamma, inflate, next_down, next_up

Array = np.ndarray


class Outputs:
    """The outputs of a network at single inputs, with all their roundings."""

    def __init__(self, graph: Graph) -> None:
        self.network = Network(graph)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Bounds (k, n) of the real-valued outputs at inputs x (k, d)."""
        found = propagate(self.network, x, x)
        return tuple(
            np.broadcast_to(b[-1], (len(x), *b[-1].shape[1:])).reshape(len(x), -1) for b in (found.lower, found.upper)
        )


def below(rows: Array, lower: Array, upper: Array) -> Array:
    """At most rows (S, n) @ y, for every y between bounds (n,): (S,)."""
    positive, negative = np.maximum(rows, 0), np.minimum(rows, 0)
    value = positive @ lower + negative @ upper
    size = np.abs(rows) @ np.maximum(np.abs(lower), np.abs(upper))
    return next_down(value - inflate(gamma(rows.shape[1] + 4) * size, rows.shape[1]))


def pair_rows(label: int, classes: int) -> Array:
    """The rows f_label - f_t (classes - 1, classes) of all other classes t."""
    rows = np.zeros((classes, classes))
    rows[:, label] = 1.0
    rows -= np.eye(classes)
    return np.delete(rows, label, 0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The differences of one class's output and those of all others: rows (classes - 1, classes), and their Lipschitz
    constants (classes - 1,)."""

    rows: Array
    constants: Array

    @classmethod
    def of(cls, bound: GlobalBound, label: int, classes: int) -> Pairs:
        """Raises MalformedSpec if there is no such class."""
        if not 0 <= label < classes or classes < 2:
            what = f"there is no class {label} among {classes} outputs"
            raise MalformedSpec(what, "give one of the network's classes")
        rows = pair_rows(label, classes)
        return cls(rows, bound.rows(rows))

    def radius(self, lower: Array, upper: Array) -> float:
        """A radius, in the constants' norm, within which this class is the only largest output of every input of the
        real-valued network, given bounds (n,) of the outputs at the centre: rounded down, 0 if nothing is known.

        Sound if the bounds are (`Outputs` makes such), and within the open ball: what lies at the radius may tie.
        """
        margins = below(self.rows, lower, upper)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(margins > 0, next_down(margins / self.constants), 0.0)
        return max(float(found.min()), 0.0) if not np.isnan(found).any() else 0.0


def radius(bound: GlobalBound, label: int, lower: Array, upper: Array) -> float:
    """The radius of `Pairs` for one sample."""
    return Pairs.of(bound, label, len(lower)).radius(lower, upper)


def crude_radius(bound: GlobalBound, label: int, lower: Array, upper: Array) -> float:
    """The same from the whole network's constant alone: margin / (2^(1 - 1/p) L), in L2 margin / (sqrt(2) L)."""
    factor = {1: 1.0, 2: float(np.sqrt(2.0)) * (1 + 2 * UNIT), np.inf: 2.0}[bound.norm]
    margin = float(below(pair_rows(label, len(lower)), lower, upper).min())
    steep = float(next_up(np.float64(factor * bound.constant)))
    return float(next_down(np.float64(margin / steep))) if margin > 0 and steep > 0 else 0.0
