"""Zonotopes: affine forms of shared noise symbols (DeepZ, Singh et al. 2018), in bounded memory.

A node's value is  centre + sum_g noise_g * generators_g + radius * box,  all noise in [-1, 1]. The
inputs have the first symbols. An elementwise operator gives a symbol of its own to the relaxation error
of each neuron that is not stable; errors for which there is no room go into `radius`, which is carried
like an interval, without memory of where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from certify.bounds.base import Interval, NodeBounds, flat, intersect
from certify.bounds.interval import step
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.relax.parallel import BANDS
from certify.relax.product import factors
from certify.spec.inputset import InputSet

COPIES = 8
"""Tensors of generators that may exist at once: those of live nodes and what an operator makes meanwhile."""


class Zonotope(NamedTuple):
    """centre (B, *N), generators (B, G, *N), radius (B, *N) >= 0; B = 1, G = 0 for constants.

    Symbol g of domain b means the same noise wherever it occurs; a node whose G is smaller lacks the later ones.
    """

    centre: Tensor
    generators: Tensor
    radius: Tensor

    def bounds(self) -> Interval:
        spread = self.generators.abs().sum(1) + self.radius
        return self.centre - spread, self.centre + spread

    def lower(self, rows: Tensor) -> Tensor:
        """Lower bounds (B, S) of <row, value> for rows (S, n) or (B, S, n)."""
        centre, generators, radius = flat(self.centre, 1), flat(self.generators, 2), flat(self.radius, 1)
        rows = rows if rows.dim() == 3 else rows.unsqueeze(0)
        spread = (rows @ generators.transpose(1, 2)).abs().sum(-1) + (rows.abs() @ radius.unsqueeze(-1)).squeeze(-1)
        return (rows @ centre.unsqueeze(-1)).squeeze(-1) - spread


class Bound(NamedTuple):
    """bounds[i] (B, *N) of node i; lower (B, S) of the rows asked for, or None."""

    bounds: list[Interval]
    lower: Tensor | None


def zonotope(
    network: Network,
    inputs: InputSet,
    rows: Tensor | None = None,
    *,
    within: NodeBounds | None = None,
    memory: int = 1 << 30,
    symbols: int | None = None,
) -> Bound:
    """Bounds on every node, and lower bounds of `rows` (S, n) or (B, S, n) of the output.

    Zonotope and interval bounds are intersected on the way. At most about `memory` bytes are used at once:
    domains are taken in chunks, and where not even one fits, it gets fewer symbols (`symbols` also limits
    them). An L1 or L2 ball is read as the box around it. Sound up to float rounding.
    """
    graph, batch = network.graph, len(inputs)
    wanted = graph.input_size + sum(graph.nodes[i].size for i in graph.nonlinear)
    wanted = wanted if symbols is None else min(wanted, symbols)
    widest = max(node.size for node in graph.nodes)
    room = max(1, memory // (COPIES * widest * (torch.finfo(network.dtype).bits // 8)))
    chunk = max(1, min(batch, room // max(1, wanted)))
    parts = []
    for first in range(0, batch, chunk):
        here = slice(first, first + chunk)
        chosen = {v: _slice(b, here) for v, b in (within or {}).items()}
        own = rows[here] if rows is not None and rows.dim() == 3 else rows
        parts.append(_Pass(network, inputs.select(here), chosen, min(wanted, room)).run(own))
    if len(parts) == 1:
        return parts[0]
    bounds = [_joined(node) for node in zip(*(part.bounds for part in parts), strict=True)]
    return Bound(bounds, None if rows is None else torch.cat([part.lower for part in parts]))


def affine_forms(network: Network, inputs: InputSet, within: NodeBounds | None = None) -> NodeBounds:
    """Bounds on every node from zonotopes with one symbol per input only, relaxation errors being boxes.

    Costs about d + 2 forward passes for d inputs: the filter to use before backward propagation when d is small.
    Sound up to float rounding.
    """
    return dict(enumerate(_Pass(network, inputs, within or {}, network.graph.input_size).run(None).bounds))


def _slice(bounds: Interval, here: slice) -> Interval:
    lower, upper = bounds
    return (lower, upper) if lower.shape[0] == 1 else (lower[here], upper[here])


def _joined(parts: Sequence[Interval]) -> Interval:
    lower, upper = (torch.cat(side) for side in zip(*parts, strict=True))
    return lower, upper


class _Pass:
    """One sweep through a network for domains that fit into memory together, with at most `limit` symbols."""

    def __init__(self, network: Network, inputs: InputSet, within: NodeBounds, limit: int) -> None:
        self.network, self.inputs, self.within, self.limit = network, inputs, within, limit
        self.count = 0  # symbols in use
        nodes = network.graph.nodes
        self.waiting = sum(nodes[e].size for e in network.graph.nonlinear)  # neurons to come, each due its share

    def run(self, rows: Tensor | None) -> Bound:
        graph, last = self.network.graph, len(self.network.graph.nodes) - 1
        matter = {graph.nodes[e].inputs[0] for e in graph.nonlinear} | {last}
        final = {j: i for i, node in enumerate(graph.nodes) for j in node.inputs}
        forms: dict[int, Zonotope] = {}
        found: list[Interval] = []
        for i, node in enumerate(graph.nodes):
            if i:
                bounds = step(self.network, i, [found[j] for j in node.inputs])
                read = [forms[j] for j in node.inputs]
                affine = self.network.functions[i] is None
                forms[i] = self._affine(i, read) if affine else self._relax(node.op, read[0], found[node.inputs[0]])
                if i in matter:
                    bounds = intersect(bounds, forms[i].bounds())
            else:
                bounds = tuple(b.reshape(-1, *graph.input_shape) for b in (self.inputs.lower, self.inputs.upper))
                forms[i] = self._box(*bounds)
            bounds = intersect(bounds, self.within[i]) if i in self.within else bounds
            found.append(tuple(b.expand(len(self.inputs), *node.shape) for b in bounds))
            for j in set(node.inputs):
                if final[j] == i:
                    del forms[j]
        return Bound(found, None if rows is None else self._lower(rows, forms[last], found[last]))

    def _box(self, lower: Tensor, upper: Tensor) -> Zonotope:
        generators, rest = self._symbols((upper - lower) / 2, self.limit)
        return Zonotope((lower + upper) / 2, generators, rest)

    def _affine(self, i: int, read: Sequence[Zonotope]) -> Zonotope:
        affine, shape = self.network.maps[i], self.network.graph.nodes[i].shape
        centre = affine.forward(*(form.centre for form in read))
        radius = affine.absolute(*(form.radius for form in read))
        count = max((form.generators.shape[1] for form in read), default=0)
        if not count:
            return Zonotope(centre, centre.new_zeros(centre.shape[0], 0, *shape), radius)
        batch = max(form.generators.shape[0] for form in read)
        moved = affine.linear(*(_flat(form.generators, batch, count) for form in read))
        return Zonotope(centre, moved.reshape(batch, count, *shape), radius)

    def _relax(self, op: ops.Op, read: Zonotope, bounds: Interval) -> Zonotope:
        if isinstance(op, ops.Product):
            return self._multiply(op, read, bounds)
        band = BANDS[op](op, *bounds)
        centre, generators = band.slope * read.centre + band.shift, read.generators * band.slope.unsqueeze(1)
        return self._with_errors(centre, generators, band.slope.abs() * read.radius, band.radius)

    def _multiply(self, op: ops.Product, read: Zonotope, bounds: Interval) -> Zonotope:
        """x y = m y + n x - m n + (x - m) (y - n), with the middles m, n of both bounds: the last term is an error."""
        which = factors(op, read.centre, 1)
        middle, other = which.of((bounds[0] + bounds[1]) / 2)
        width, other_width = which.of((bounds[1] - bounds[0]) / 2)

        def combined(parts: Tensor, one: Tensor, another: Tensor) -> Tensor:
            x, y = which.of(parts)
            return one * y + another * x

        centre = combined(read.centre, middle, other) - middle * other
        generators = combined(read.generators, middle.unsqueeze(1), other.unsqueeze(1))
        return self._with_errors(
            centre, generators, combined(read.radius, middle.abs(), other.abs()), (width * other_width).abs()
        )

    def _with_errors(self, centre: Tensor, generators: Tensor, radius: Tensor, errors: Tensor) -> Zonotope:
        """With symbols for the relaxation errors (B, *N), as many as there is room for."""
        size = flat(errors, 1).shape[1]
        fresh, rest = self._symbols(errors, (self.limit - self.count) * size // self.waiting)
        self.waiting -= size
        if fresh.shape[1]:
            known = self.count - fresh.shape[1]
            generators = torch.cat([_padded(generators, known), fresh], 1)
        return Zonotope(centre, generators, radius + rest)

    def _symbols(self, error: Tensor, share: int) -> tuple[Tensor, Tensor]:
        """New symbols for the largest errors, (B, *N) -> generators (B, k, *N), k <= share, and what is left."""
        errors = flat(error, 1)
        k = min(share, int((errors > 0).sum(1).max())) if share else 0
        if not k:
            return error.new_zeros(error.shape[0], 0, *error.shape[1:]), error
        self.count += k
        chosen = errors.topk(k, 1)
        fresh = errors.new_zeros(errors.shape[0], k, errors.shape[1])
        fresh.scatter_(2, chosen.indices.unsqueeze(2), chosen.values.unsqueeze(2))
        return fresh.reshape(-1, k, *error.shape[1:]), errors.scatter(1, chosen.indices, 0).reshape(error.shape)

    def _lower(self, rows: Tensor, form: Zonotope, bounds: Interval) -> Tensor:
        lower, upper = (flat(b, 1).unsqueeze(-1) for b in bounds)
        apart = (rows.clamp_min(0) @ lower + rows.clamp_max(0) @ upper).squeeze(-1)
        return torch.maximum(form.lower(rows), apart).expand(len(self.inputs), -1)


def _padded(generators: Tensor, count: int) -> Tensor:
    """The same generators with zeros for symbols up to `count` that the node does not have."""
    missing = count - generators.shape[1]
    if not missing:
        return generators
    return torch.cat([generators, generators.new_zeros(generators.shape[0], missing, *generators.shape[2:])], 1)


def _flat(generators: Tensor, batch: int, count: int) -> Tensor:
    """(B, G, *N) as a batch (batch * count, *N), or as one row of zeros, which broadcasts, where there are none."""
    if not generators.shape[1]:
        return generators.new_zeros(1, *generators.shape[2:])
    return _padded(generators, count).expand(batch, count, *generators.shape[2:]).flatten(0, 1)
