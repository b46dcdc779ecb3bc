"""Lipschitz constants of whole networks over all inputs: norms of layers, multiplied along the graph and added where
paths meet. In L2 a part of several paths is bounded as one, by multipliers of its slope constraints.

Virmaux & Scaman, "Lipschitz regularity of deep neural networks" (2018), for the product; `certify.lipschitz.sdp` for
the parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certify.errors import BadOption
from certify.graph import ops
from certify.graph.ir import Graph
from certify.lipschitz.circular import circular_norm
from certify.lipschitz.matrices import Matrix, matrices_of
from certify.lipschitz.norms import How, Norm, operator_norm, product, row_norms, total
from certify.lipschitz.quadratic import Quadratic
from certify.lipschitz.system import Slopes, System, Terms, global_slopes, parts, require

Array = np.ndarray
NORMS = (1, 2, np.inf)


@dataclass(frozen=True)
class Part:
    """A part of the network between two graph nodes, and an upper bound of its Lipschitz constant."""

    first: int
    last: int
    bound: Norm


@dataclass(frozen=True, eq=False)
class GlobalBound:
    """||f(a) - f(b)|| <= constant * ||a - b|| for all inputs a, b, in the norm 1, 2 or inf on both sides."""

    norm: float
    constant: float
    parts: tuple[Part, ...]
    system: System
    """The last part."""

    def rows(self, matrix: Array) -> Array:
        """Lipschitz constants (S,) of rows (S, n) of the output, |c f(a) - c f(b)| <= L ||a - b||: of the whole
        network's, or through the last layer, of which each row has its own norm, whichever is less."""
        dual = {1: np.inf, 2: 2, np.inf: 1}[self.norm]
        rows = _matrix(matrix)
        found = [product([self.constant, float(c)]) for c in row_norms(rows, dual)]
        if not self.system.nodes and 0 in self.system.output:
            before = product(part.bound.value for part in self.parts[:-1])
            through = row_norms(rows @ self.system.output[0], dual)
            found = [min(f, product([before, float(c)])) for f, c in zip(found, through, strict=True)]
        return np.array(found)


def _matrix(rows: Array) -> Matrix:
    from scipy import sparse

    return Matrix(sparse.csr_array(np.atleast_2d(np.asarray(rows, np.float64))))


def global_bound(graph: Graph, norm: float = 2) -> GlobalBound:
    """A bound of the network's Lipschitz constant over all inputs, from `norm` to `norm`.

    Raises UnsupportedOp for operators without slopes, BadOption for another norm than 1, 2 and inf. The constant is
    inf where an operator's slope has no bound.
    Sound: operator norms are rounded outward, and all sums and products.
    """
    if norm not in NORMS:
        raise BadOption(f"there is no bound for the norm {norm}", "use 1, 2 or inf")
    require(graph)
    slopes = global_slopes(graph)
    systems = parts(graph)
    bounds = [Part(s.first, s.last, _bounded(graph, s, slopes, norm)) for s in systems]
    return GlobalBound(norm, product(part.bound.value for part in bounds), tuple(bounds), systems[-1])


def _bounded(graph: Graph, system: System, slopes: Slopes, norm: float) -> Norm:
    """The bound of one part; of convolutions too large to be enclosed, from their Fourier symbols."""
    found = part_bound(system, slopes, norm)
    nodes = graph.nodes[system.first + 1 : system.last + 1]
    if found.how is not How.PRODUCT or any(n.inputs != (i,) for i, n in enumerate(nodes, system.first)):
        return found
    factors = []
    for node in nodes:
        (matrix,) = matrices_of(node.op, node, [graph.nodes[j].shape for j in node.inputs])
        one = operator_norm(matrix, norm)
        if one.how is How.PRODUCT and isinstance(node.op, ops.Conv):
            one = Norm(min(one.value, circular_norm(node.op, node.shape[-len(node.op.stride) :])), How.CIRCULAR)
        factors.append(one.value)
    through = product(factors)
    return Norm(through, How.CIRCULAR) if through < found.value else found


def part_bound(system: System, slopes: Slopes, norm: float) -> Norm:
    """An upper bound of the Lipschitz constant of one part."""
    along = along_paths(system, slopes, norm)
    if not system.nodes:
        return _sum_of(system.output, norm, [1.0])
    simple = len(system.nodes) == 1 and 0 not in system.output
    if simple and _is_identity(system.output.get(1)) and _is_identity(system.read[0].get(0)):
        return Norm(along[-1], How.SLOPE)
    if norm == 2:
        found = Quadratic(system, slopes, along[:-1]).best()
        if found < along[-1]:
            return Norm(found, How.QUADRATIC)
    return Norm(along[-1], How.PATHS)


def _is_identity(matrix: Matrix | None) -> bool:
    if matrix is None or matrix.shape[0] != matrix.shape[1]:
        return False
    return matrix.value.nnz == matrix.shape[0] and bool((matrix.value.diagonal() == 1).all())


def along_paths(system: System, slopes: Slopes, norm: float) -> list[float]:
    """Lipschitz constants, as functions of w_0, of what every elementwise operator reads, and of the output, by
    adding and multiplying norms."""
    values = [1.0]  # of w_0, w_1, ...
    found = []
    for e, terms in zip(system.nodes, system.read, strict=True):
        found.append(_sum_of(terms, norm, values).value)
        steepest = float(np.maximum(np.abs(slopes[e][0]), np.abs(slopes[e][1])).max(initial=0.0))
        values.append(product([found[-1], steepest]))
    return [*found, _sum_of(system.output, norm, values).value]


def _sum_of(terms: Terms, norm: float, values: list[float]) -> Norm:
    norms = {s: operator_norm(matrix, norm) for s, matrix in terms.items()}
    worst = [n.how for n in norms.values() if n.how is not How.ENCLOSED]
    how = How.PATHS if len(norms) > 1 else worst[0] if worst else How.ENCLOSED
    return Norm(total(product([n.value, values[s]]) for s, n in norms.items()), how)
