"""Making a failing instance smaller while it still fails: fewer cases, clauses, rows, layers, neurons, digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from certify.errors import CertifyError
from certify.graph.ir import Graph, Node, split_fields
from certify.spec.property import Property
from certify.spec.query import Case
from certify.spec.regions import Region, box
from tests.fuzz.generate import Instance


def shrink(instance: Instance, fails: Callable[[Instance], bool], seconds: float = 30.0) -> Instance:
    """The smallest instance that greedy steps reach from this one, all of which fail."""
    end = time.monotonic() + seconds
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(instance):
            if time.monotonic() > end:
                return instance
            if fails(smaller):
                instance, progress = smaller, True
                break
    return instance


def _smaller(instance: Instance) -> Iterator[Instance]:
    cases = instance.cases
    if len(cases) > 1:
        for case in cases:
            yield replace(instance, cases=(case,))
    for i, case in enumerate(cases):
        for simpler in _simpler_cases(case):
            yield replace(instance, cases=(*cases[:i], simpler, *cases[i + 1 :]))
    for graph in _simpler_graphs(instance.graph):
        if graph.output_size == instance.graph.output_size:
            yield replace(instance, graph=graph)


def _simpler_cases(case: Case) -> Iterator[Case]:
    clauses = case.property.clauses
    if len(clauses) > 1:
        for i in range(len(clauses)):
            yield replace(case, property=Property(clauses[:i] + clauses[i + 1 :]))
    for i, c in enumerate(clauses):
        for k in range(len(c.offset) if len(c.offset) > 1 else 0):
            kept = np.arange(len(c.offset)) != k
            fewer = replace(c, matrix=c.matrix[kept], offset=c.offset[kept], strict=c.strict[kept])
            yield replace(case, property=Property((*clauses[:i], fewer, *clauses[i + 1 :])))
        for matrix in _plainer(c.matrix):
            yield replace(case, property=Property((*clauses[:i], replace(c, matrix=matrix), *clauses[i + 1 :])))
        for offset in _plainer(c.offset):
            yield replace(case, property=Property((*clauses[:i], replace(c, offset=offset), *clauses[i + 1 :])))
    for region in _simpler_regions(case.region):
        yield replace(case, region=region)


def _simpler_regions(region: Region) -> Iterator[Region]:
    if region.norm is not None:
        yield box(region.lower, region.upper)
        return
    for k in np.flatnonzero(region.lower < region.upper):
        for value in (0.0, (region.lower[k] + region.upper[k]) / 2, region.lower[k], region.upper[k]):
            if region.lower[k] <= value <= region.upper[k]:
                lower, upper = region.lower.copy(), region.upper.copy()
                lower[k] = upper[k] = value
                yield box(lower, upper)
    for k in range(region.size):
        for side in (np.rint, lambda v: v * 0):
            lower, upper = region.lower.copy(), region.upper.copy()
            lower[k], upper[k] = side(lower[k]), side(upper[k])
            if (lower != region.lower).any() or (upper != region.upper).any():
                yield box(lower, upper)


def _plainer(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array with zeros for one entry, or with fewer digits everywhere."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        whole = (np.zeros_like(array), np.rint(array), np.float64(np.float16(array)).astype(array.dtype))
        for plain in whole:
            if (plain != array).any() and np.isfinite(plain).all():
                yield plain
    for k in np.flatnonzero(array):
        plain = array.copy()
        plain.flat[k] = 0
        yield plain


def _simpler_graphs(graph: Graph) -> Iterator[Graph]:
    nodes = graph.nodes
    for i in range(len(nodes) - 1, 0, -1):
        for j in nodes[i].inputs:
            if nodes[j].shape == nodes[i].shape:  # node i left out
                moved = [replace(n, inputs=tuple(j if k == i else k for k in n.inputs)) for n in nodes]
                yield from _pruned(graph, moved, j if i == len(nodes) - 1 else len(nodes) - 1)
    for i, node in enumerate(nodes):
        for key, array in split_fields(node.op)[1].items():
            for plain in _plainer(array):
                changed = replace(node, op=replace(node.op, **{key: plain}))
                yield Graph((*nodes[:i], changed, *nodes[i + 1 :]), graph.inputs, graph.outputs)


def _pruned(graph: Graph, nodes: list[Node], last: int) -> Iterator[Graph]:
    """The graph that ends in node `last`, without what it does not need; none if that is the input."""
    if last == 0:
        return
    needed = {0, last}
    for i in range(last, 0, -1):
        if i in needed:
            needed.update(nodes[i].inputs)
    order = sorted(needed)
    place = {old: new for new, old in enumerate(order)}
    kept = tuple(replace(nodes[i], inputs=tuple(place[j] for j in nodes[i].inputs)) for i in order)
    try:
        yield Graph(kept, graph.inputs, (replace(graph.outputs[0], shape=kept[-1].shape),))
    except (ValueError, CertifyError):
        return
