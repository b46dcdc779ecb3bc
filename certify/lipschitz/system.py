"""A part of a network as matrices between its elementwise operators: v_k = sum_s M_ks w_s, w_k = f_k(v_k).

w_0 is the value at which the part begins, y = sum_s M_s w_s the one at which it ends. Parts begin and end at *cuts*:
nodes through which everything that depends on the input goes, so that their Lipschitz constants multiply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from certify.errors import UnsupportedOp
from certify.graph import ops
from certify.graph.ir import Graph
from certify.lipschitz.matrices import MATRICES, Matrix, matrices_of
from certify.lipschitz.slopes import SLOPES, everywhere

Array = np.ndarray
Terms = dict[int, Matrix]
"""Source s -> the matrix that multiplies w_s; sources without one are left out."""

Slopes = Mapping[int, tuple[Array, Array]]
"""Graph node of an elementwise operator -> bounds of its slopes, each (size,)."""


@dataclass(frozen=True, eq=False)
class System:
    """What lies between the nodes `first` and `last` of a graph.

    `nodes` are the graph's elementwise nodes w_1, w_2, ...; `read[k]` are the terms of what w_(k+1) reads, `output`
    those of the last node's value. `sizes` are those of w_0, w_1, ...
    """

    first: int
    last: int
    sizes: tuple[int, ...]
    nodes: tuple[int, ...]
    read: tuple[Terms, ...]
    output: Terms


def require(graph: Graph) -> None:
    """Raise UnsupportedOp naming every node whose Lipschitz constant nothing is known of."""
    missing = [
        (type(n.op).__name__, n.name) for n in graph.nodes[1:] if MATRICES.get(n.op) is None and not SLOPES.get(n.op)
    ]
    if missing:
        raise UnsupportedOp("Lipschitz bounds", missing, "bound outputs over a region instead: certify verify")


def cuts(graph: Graph) -> list[int]:
    """The nodes, from input to output, that everything that depends on the input goes through."""
    varies = [True]
    for node in graph.nodes[1:]:
        varies.append(any(varies[j] for j in node.inputs))
    found, reach = [], 0
    for i in range(len(graph.nodes)):
        if varies[i] and reach <= i:
            found.append(i)
        if varies[i] and graph.readers[i]:
            reach = max(reach, graph.readers[i][-1])
    if not varies[-1]:
        return [0, len(graph.nodes) - 1]
    return found


def between(graph: Graph, first: int = 0, last: int | None = None) -> System:
    """The system between two cuts, or the whole network. Raises CertifyError for weights beyond 2^100."""
    last = len(graph.nodes) - 1 if last is None else last
    nodes = graph.nodes
    values: dict[int, Terms] = {first: {0: Matrix.identity(nodes[first].size)}}
    uses = {j: i for i in range(first + 1, last + 1) for j in nodes[i].inputs}
    found: list[int] = []
    read: list[Terms] = []
    for i in range(first + 1, last + 1):
        node = nodes[i]
        if isinstance(node.op, ops.Elementwise):
            source = values.get(node.inputs[0], {})
            found.append(i)
            read.append(source)
            values[i] = {len(found): Matrix.identity(node.size)}
        else:
            values[i] = {}
            for j, matrix in zip(
                node.inputs, matrices_of(node.op, node, [nodes[j].shape for j in node.inputs]), strict=True
            ):
                for s, term in values.get(j, {}).items():
                    part = matrix @ term
                    values[i][s] = values[i][s] + part if s in values[i] else part
        for j in node.inputs:
            if uses[j] == i and j != last:
                values.pop(j, None)
    sizes = tuple(nodes[j].size for j in (first, *found))
    return System(first, last, sizes, tuple(found), tuple(read), values[last])


def parts(graph: Graph) -> list[System]:
    """The network as systems in a row, as small as its cuts allow, but for neighbours without elementwise operators,
    which are joined."""
    ends: list[tuple[int, int]] = []
    for first, last in pairwise(cuts(graph)):
        bends = any(isinstance(graph.nodes[i].op, ops.Elementwise) for i in range(first + 1, last + 1))
        if (
            ends
            and not bends
            and not any(isinstance(graph.nodes[i].op, ops.Elementwise) for i in range(ends[-1][0] + 1, ends[-1][1] + 1))
        ):
            ends[-1] = (ends[-1][0], last)
        else:
            ends.append((first, last))
    return [between(graph, first, last) for first, last in ends]


def global_slopes(graph: Graph) -> Slopes:
    """The slopes of all elementwise operators, whatever their arguments are."""
    return {e: tuple(s.reshape(-1) for s in everywhere(graph, e)) for e in graph.nonlinear}
