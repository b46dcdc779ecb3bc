"""Evidence: what a verdict is made from. Data only; `certify.check` decides whether it proves its claim.

A *tree* covers one case and some of its clauses. Its rows are splits and leaves. A split row names a
graph node, a neuron of it and a point: its `below` child has that node's value <= point, its `above`
child has it >= point, so the two always cover their parent, whatever the point. Node 0 is the input:
splitting it cuts the region's box. Splitting node v > 0 means splitting the value *entering* the
nonlinear operator(s) that read v (the pre-activation).

A *proof* closes one clause on one leaf. With weights w >= 0 (one per row of the clause, not all 0) it
claims that  w @ (matrix @ z - offset) > 0  for every input of the leaf, so that no input there makes all
rows <= 0. It is replayed by linear bound propagation backward from that combination of rows:

- `slopes[p, q]`, a byte b < 255, is the parameter t = b / 254 of the lines of neuron `sloped_neuron[q]` of the
  nonlinear node `sloped_node[q]`, an operator whose lines have a free one. For a ReLU-like operator the line through
  0 has the slope a + t (1 - a), a being the function's own slope below 0 (t itself for a Relu). For an s-shaped one t
  names the point where the line touches it, for a product the share of the second of McCormick's planes. A byte of
  255, and a neuron that is not listed, means the line of least area. Listing the neurons that are not stable at the
  root suffices: the parameters of stable ones mean nothing.
- `multipliers[p]` has one number >= 0 for every *neuron* split on the path from the root to the leaf, in
  path order: the Lagrange multiplier of that split (beta-CROWN, Wang et al. 2021, eq. 7-9).
- `anchor`, a row on the path of the leaf, tells where the bounds on intermediate values are computed:
  over the input box of that row, cut by the neuron splits above it. They are then cut by the leaf's own splits.
- `sharpened[row]`: how bounds of an anchor `row` were tightened, node after node (alpha-CROWN, Xu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Witness:
    """An input of case `case` for which clause `clause` is unsafe.

    x (d,) float64 lies exactly in the region; y (n,) float64 is what the original network, asked
    again through `replayed_on`, answered.
    """

    case: int
    clause: int
    x: Array
    y: Array
    replayed_on: str


LEVELS = 254
"""A slope parameter in a byte b is b / LEVELS."""

DEFAULT = 255
"""The byte that stands for the default slope."""


def in_bytes(parameters: Array) -> Array:
    """Slope parameters in [0, 1] to the nearest that bytes name; NaN to the default."""
    return np.where(np.isnan(parameters), DEFAULT, np.rint(parameters * LEVELS)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Sharpened:
    """Bounds of some neurons of graph node `node`, which a nonlinear operator reads.

    Row r bounds sign[r] * (value of neuron[r]) from below, by backward propagation through lines whose slope
    parameters at node e are slopes[e][r].
    """

    node: int
    neuron: Array  # (R,) int64: flat C order
    sign: Array  # (R,) int8: +1 or -1
    slopes: dict[int, Array] = field(default_factory=dict)  # graph node e < node -> (R, size of e) uint8

    def renumbered(self, numbers: Sequence[int] | Array) -> Sharpened:
        """The same of a graph in which node i of this one is node numbers[i]."""
        slopes = {int(numbers[e]): values for e, values in self.slopes.items()}
        return Sharpened(int(numbers[self.node]), self.neuron, self.sign, slopes)


@dataclass(frozen=True, eq=False)
class Tree:
    """Split tree of one case for the clauses in `clauses`. Row 0 is the root; T rows, P proofs."""

    case: int
    clauses: tuple[int, ...]
    node: Array  # (T,) int32: graph node that is split, -1 for a leaf
    index: Array  # (T,) int64: neuron of it, flat C order
    point: Array  # (T,) float64
    below: Array  # (T,) int32: row of the child with value <= point
    above: Array  # (T,) int32: row of the child with value >= point
    anchor: Array  # (T,) int32: for a leaf, the row whose box gives its intermediate bounds
    leaf: Array  # (P,) int32: row that proof p closes
    clause: Array  # (P,) int32: clause (of the case) that proof p closes
    weights: Array  # (P, S) float64, zero-padded to the longest clause
    sloped_node: Array  # (Q,) int32: graph node of a nonlinear operator, ascending
    sloped_neuron: Array  # (Q,) int64: neuron of it, flat C order, ascending within a node
    slopes: Array  # (P, Q) uint8
    multipliers: Array = field(default_factory=lambda: np.zeros(0))  # all proofs' multipliers, joined
    offsets: Array = field(default_factory=lambda: np.zeros(1, np.int64))  # (P + 1,): where each begins
    sharpened: dict[int, tuple[Sharpened, ...]] = field(default_factory=dict)  # row -> by ascending node


@dataclass(frozen=True, eq=False)
class TreeProof:
    """Trees that together must cover every clause of every case.

    `refined` lists the graph nodes (inputs of nonlinear operators) whose bounds the checker tightens
    by backward propagation; all others keep their interval bounds.
    """

    trees: tuple[Tree, ...]
    refined: tuple[int, ...]
    graph_hash: str
    spec_hash: str


def single_leaf(
    case: int,
    clauses: tuple[int, ...],
    weights: Array,
    slopes: Mapping[int, Array] | None = None,
    sharpened: tuple[Sharpened, ...] = (),
) -> Tree:
    """A tree that is one leaf, with one proof for each of `clauses`; weights (P, S), slopes (P, size) in bytes."""
    numbers = np.array(clauses, np.int32)
    cases, weights = np.full(len(numbers), case), np.asarray(weights, np.float64)
    (tree,) = single_leaves(cases, numbers, weights, slopes or {}, {case: sharpened})
    return tree


def single_leaves(
    cases: Array,
    clauses: Array,
    weights: Array,
    slopes: Mapping[int, Array],
    sharpened: Mapping[int, tuple[Sharpened, ...]],
) -> list[Tree]:
    """A tree that is one leaf for each case in cases (P,), ascending, with a proof for each of its clauses (P,).

    weights (P, S) float64, slopes (P, size) in bytes by node, sharpened by case. The trees share the arrays that they
    have in common.
    """
    given = sorted(slopes.items())
    sloped_node = np.concatenate([np.zeros(0, np.int32), *(np.full(v.shape[1], e, np.int32) for e, v in given)])
    sloped_neuron = np.concatenate([np.zeros(0, np.int64), *(np.arange(v.shape[1]) for _, v in given)])
    joined = np.concatenate([np.zeros((len(cases), 0), np.uint8), *(v for _, v in given)], 1)
    clauses = clauses.astype(np.int32)
    zero, index, point, leaf = np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1), np.full(1, -1, np.int32)
    none, zeros, offsets = np.zeros(0), np.zeros(len(cases), np.int32), np.zeros(len(cases) + 1, np.int64)
    starts = np.flatnonzero(np.diff(cases, prepend=-1)).tolist()
    return [
        Tree(
            case=int(cases[first]),
            clauses=tuple(clauses[first:last].tolist()),
            node=leaf,
            index=index,
            point=point,
            below=zero,
            above=zero,
            anchor=zero,
            leaf=zeros[first:last],
            clause=clauses[first:last],
            weights=weights[first:last],
            sloped_node=sloped_node,
            sloped_neuron=sloped_neuron,
            slopes=joined[first:last],
            multipliers=none,
            offsets=offsets[: last - first + 1],
            sharpened={0: sharpened[int(cases[first])]} if sharpened.get(int(cases[first])) else {},
        )
        for first, last in pairwise([*starts, len(cases)])
    ]


@dataclass(frozen=True)
class Sampling:
    """How many noisy samples were drawn around each input, of which noise, and what is concluded from their counts.

    noise   its parameters, and its name under "kind": a key of `certify.check.radii.RULES`
    bound   which bound of a probability the counts give: its name under "kind", a key of
            `certify.check.counts.BOUNDS`, and its parameters
    alpha   the probability, over the draws, that a claim about one input is wrong
    n0, n   draws that choose the class, and draws that bound its probability (at most so many, where they adapt)
    """

    noise: Mapping[str, object]
    bound: Mapping[str, object]
    alpha: float
    n0: int
    n: int


@dataclass(frozen=True)
class CountProof:
    """What the base classifier answered on noisy samples of one input, and what that proves.

    selection, counts   answers by class of the n0 and of the n draws; the last entry counts answers that are no class,
                        as some output was not a number
    predicted           the class chosen by `selection`, or None if that is no class
    lower, upper        with probability 1 - alpha over the draws, the probability of `predicted` under noise is at
                        least `lower`, and that of any other class at most `upper` (None: 1 - lower)
    radius              then `predicted` stays the most probable class for changes below it; 0 claims nothing
    """

    selection: tuple[int, ...]
    counts: tuple[int, ...]
    predicted: int | None
    lower: float
    upper: float | None
    radius: float
