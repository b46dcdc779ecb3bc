"""Several networks as one: its input joins theirs, some of which may be the same, and so does its output.

Further outputs are products of inputs and outputs, for specifications that multiply them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np

from certify.frontends.imported import Imported, compare
from certify.graph import ops
from certify.graph.ir import Graph, Node, Port
from certify.spec.query import Source
from certify.spec.sharing import Shared

Array = np.ndarray


def join(parts: Sequence[Imported], shared: Shared, products: Sequence[tuple[int, ...]]) -> Imported:
    """One network of input x (shared.count,): entry i of all inputs of `parts`, joined, is x[shared.index[i]].

    Its output joins theirs, and the products: each is a sequence of entries of z = [outputs; all inputs].
    Raises ImportMismatch where the joint graph does not compute what its parts do.
    """
    graph = _graph([part.graph for part in parts], shared, products)
    sources = [part.source for part in parts]
    sizes = [part.graph.input_size for part in parts]
    rounding = JointSource(sources, sizes, shared.index, products, exact=False)
    compare(graph, rounding)
    return Imported(graph, replace(rounding, exact=True))


@dataclass(frozen=True)
class JointSource:
    """The originals of several networks as one; see `join`.

    A product that float64 cannot hold is NaN where `exact` is set, so that no claim rests on its rounding.
    """

    sources: Sequence[Source]
    sizes: Sequence[int]
    index: Array
    products: Sequence[tuple[int, ...]]
    exact: bool

    @property
    def name(self) -> str:
        return ", ".join(dict.fromkeys(source.name for source in self.sources))

    def __call__(self, x: Array) -> Array:
        """y (n,) float64 for x (d,) float64."""
        every = np.asarray(x, np.float64).reshape(-1)[self.index]
        inputs = np.split(every, np.cumsum(self.sizes)[:-1])
        y = np.concatenate([np.asarray(s(part)).reshape(-1) for s, part in zip(self.sources, inputs, strict=True)])
        z = np.concatenate([y, every])
        return np.concatenate([y, [self._product(z[list(factors)]) for factors in self.products]])

    def _product(self, values: Array) -> float:
        rounded = float(np.prod(values))
        if not self.exact or not np.isfinite(rounded):
            return rounded
        return rounded if prod(map(Fraction, values.tolist())) == Fraction(rounded) else float("nan")


def _graph(graphs: Sequence[Graph], shared: Shared, products: Sequence[tuple[int, ...]]) -> Graph:
    nodes = [Node(ops.Input(), (), (shared.count,), "input")]

    def append(op: ops.Op, inputs: tuple[int, ...], shape: tuple[int, ...], name: str) -> int:
        nodes.append(Node(op, inputs, shape, name))
        return len(nodes) - 1

    ends, start = [], 0
    for k, graph in enumerate(graphs):
        index = shared.index[start : start + graph.input_size]
        start += graph.input_size
        chosen = append(ops.Select(0, index), (0,), (len(index),), f"{k}/input")
        place = [append(ops.Reshape(), (chosen,), graph.input_shape, f"{k}/input")]
        for node in graph.nodes[1:]:
            place.append(append(node.op, tuple(place[j] for j in node.inputs), node.shape, f"{k}/{node.name}"))
        ends.append(append(ops.Reshape(), (place[-1],), (graph.output_size,), f"{k}/output"))
    if products:
        every = append(ops.Select(0, shared.index), (0,), (len(shared.index),), "all inputs")
        size = sum(nodes[j].size for j in ends) + len(shared.index)
        pool = append(ops.Concat(0), (*ends, every), (size,), "all")
        ends.append(_products(append, pool, size, products))
    append(ops.Concat(0), tuple(ends), (sum(nodes[j].size for j in ends),), "output")
    inputs = tuple(Port(f"x{i}", (1,), kind) for i, kind in enumerate(_types(graphs, shared)))
    outputs = tuple(port for graph in graphs for port in graph.outputs)
    more = (Port("products", (len(products),), "float64"),) if products else ()
    return Graph(tuple(nodes), _merged(inputs), (*outputs, *more))


def _products(append: Callable[..., int], pool: int, size: int, products: Sequence[tuple[int, ...]]) -> int:
    """The node of all products of entries of node `pool`, whose `size` entries they name: each is one factor times
    the product of the others, beginning with squares, whose lines are tighter than those of a product."""
    done: dict[tuple[int, ...], int] = {(i,): i for i in range(size)}  # product -> entry of the pool so far
    for length in range(2, max(map(len, products)) + 1):
        wanted = sorted({p[:length] for p in products if len(p) >= length})
        squares = [p for p in wanted if length == 2 and p[0] == p[1]]
        others = [p for p in wanted if p not in set(squares)]
        made = []
        if squares:
            chosen = append(ops.Select(0, np.array([p[0] for p in squares])), (pool,), (len(squares),), "squared")
            made.append(append(ops.Square(), (chosen,), (len(squares),), "squares"))
        if others:
            left, right = np.array([done[p[:-1]] for p in others]), np.array([p[-1] for p in others])
            made.append(append(ops.Product(left, right), (pool,), (len(others),), "products"))
        done |= {p: size + i for i, p in enumerate([*squares, *others])}
        size += len(wanted)
        pool = append(ops.Concat(0), (pool, *made), (size,), "all")
    return append(ops.Select(0, np.array([done[p] for p in products])), (pool,), (len(products),), "products")


def _types(graphs: Sequence[Graph], shared: Shared) -> list[str]:
    """The type of each shared input: the narrowest of those it stands for, as numbers of it are numbers of all."""
    found: dict[int, str] = {}
    given = [port.dtype for graph in graphs for port in graph.inputs for _ in range(port.size)]
    for i, kind in zip(shared.index.tolist(), given, strict=True):
        found[i] = min(found.get(i, kind), kind, key=lambda name: np.dtype(name).itemsize)
    return [found[i] for i in range(shared.count)]


def _merged(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Neighbouring inputs of one type as one port each."""
    merged: list[Port] = []
    for port in ports:
        if merged and merged[-1].dtype == port.dtype:
            merged[-1] = Port(merged[-1].name, (merged[-1].size + 1,), port.dtype)
        else:
            merged.append(port)
    return tuple(merged)
