"""The parts that a search is made of: how to bound a batch of domains, and how to split it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from certify.bab.domains import Batch, Domains
from certify.bounds.base import NodeBounds
from certify.budget import Budget
from certify.evidence import Sharpened
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet, stack
from certify.spec.property import Clause
from certify.spec.regions import Region

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Known:
    """Bounds on intermediate values over the whole region, and the seconds that they took."""

    bounds: NodeBounds
    seconds: float


@dataclass(frozen=True, eq=False)
class Problem:
    """What a search must decide: no input of `region` is unsafe for any of `clauses` of case `case`.

    `numbers` are the clauses' places in the case; `inputs` is the region as a batch of one; `budget` is what
    the search may use; `known` is what was computed before, through adaptive lines.
    """

    network: Network
    case: int
    region: Region
    inputs: InputSet
    clauses: tuple[Clause, ...]
    numbers: tuple[int, ...]
    budget: Budget
    known: Known | None = None

    @cached_property
    def wide(self) -> Network:
        """The network in float64."""
        return Network(self.network.graph, torch.float64, self.network.device)

    @cached_property
    def whole(self) -> InputSet:
        """The region as a batch of one, in float64: without the rounding of `inputs`."""
        ((_, inputs),) = stack([self.region], torch.float64, self.network.device)
        return inputs


@dataclass(frozen=True, eq=False)
class Bounded:
    """A batch of N domains, bounded.

    `lower` (N,) is the least bound over the clauses still open; `closed` (N,) tells which domains are
    proved as far as the search can tell; `points` (M, d) are inputs worth trying as witnesses; `state` is
    the engine's own, for `prove` and `branch`.
    """

    lower: Tensor
    closed: Tensor
    points: Tensor
    state: Any


@dataclass(frozen=True, eq=False)
class Proofs:
    """P proofs of domains: `owner` (P,) is the position of each in its batch, `clause` (P,) its clause of the
    case; `weights` (P, R), `slopes` (P, Q), `multipliers` and `offsets` (P + 1,) are as in evidence."""

    owner: Array
    clause: Array
    weights: Array
    slopes: Array
    multipliers: Array
    offsets: Array

    def select(self, at: Array) -> Proofs:
        """The proofs at these positions."""
        starts, ends = self.offsets[at], self.offsets[at + 1]
        return Proofs(
            self.owner[at],
            self.clause[at],
            self.weights[at],
            self.slopes[at],
            self.multipliers[spans(starts, ends)],
            np.append(0, np.cumsum(ends - starts)),
        )


def spans(starts: Array, ends: Array) -> Array:
    """starts[0], ..., ends[0] - 1, starts[1], ..., ends[1] - 1, and so on."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


@dataclass(frozen=True, eq=False)
class Cut:
    """One split for each of N domains: graph node, flat index and point, each (N,); `possible` (N,) is
    false where a domain has nothing left to split."""

    node: Tensor
    index: Tensor
    point: Tensor
    possible: Tensor


class Engine(Protocol):
    """Bounds and splits domains; knows nothing of pools and trees."""

    trees: tuple[tuple[int, ...], ...]  # for each tree of the search, the clauses (of the case) it covers
    depth: int  # rows of the longest clause
    sloped: tuple[Array, Array]  # (Q,) node and (Q,) neuron, ascending, whose line parameters proofs name
    sharpened: tuple[Sharpened, ...]  # how the root's bounds were found, if not by adaptive lines alone

    def root(self) -> Domains: ...

    def width(self) -> int:
        """How many domains to take at once."""
        ...

    def bound(self, domains: Domains) -> Bounded: ...

    def prove(self, domains: Domains, bounded: Bounded, which: Tensor) -> Proofs: ...

    def cut(self, domains: Domains, bounded: Bounded, which: Tensor) -> Cut: ...

    def children(self, domains: Domains, bounded: Bounded, which: Tensor, cut: Cut, rows: tuple[Array, Array]) -> Batch:
        """Both children of each of the domains `which`, whose tree rows are `rows` (below, above)."""
        ...

    def finish(self, domains: Domains, bounded: Bounded, which: Tensor) -> tuple[Proofs, Tensor]:
        """The domains `which`, that cannot be split, as exactly as can be: proofs of some, owned by positions
        in `which`, and inputs (M, d), float64, worth trying as witnesses for the others."""
        ...


def tensor(rows: Array, like: Tensor) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(rows), device=like.device)
