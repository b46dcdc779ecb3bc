"""Bounds on every value of a network over many boxes: intervals, tightened by linear propagation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from certify.check.forms import MOST_INPUTS, Form, of_box, through_function, through_map, through_product
from certify.check.linear import Bounds, Network, Pass, direct
from certify.check.ops import Affine, Array, Elementwise, Lines, Nonlinear
from certify.check.product import Product
from certify.evidence import DEFAULT, LEVELS, Sharpened
from certify.numerics import TINY, UNIT, gamma, inflate, next_down, next_up
from certify.spec.regions import Region

CHUNK = 1 << 15
"""Entries of A that one backward pass holds if memory allows more: what stays in a processor's cache."""


PARAMETERS = np.where(np.arange(256) == DEFAULT, np.nan, np.arange(256) / LEVELS)
"""The slope parameter that each byte names."""


class Stopped(Exception):
    """The deadline passed; nothing is claimed about what was not finished."""


def tidy(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Whatever overflowed, or is not a number, becomes no bound at all."""
    return np.where(np.isfinite(lower), lower, -np.inf), np.where(np.isfinite(upper), upper, np.inf)


def propagate(
    network: Network,
    lower: Array,
    upper: Array,
    *,
    refined: Collection[int] = (),
    thorough: bool = False,
    cut: Mapping[int, tuple[Array, Array]] | None = None,
    sharpened: Sequence[Sharpened] = (),
    ball: Region | None = None,
    memory: int = 1 << 30,
    stop: Callable[[], bool] = lambda: False,
) -> Bounds:
    """Bounds on all nodes over the boxes lower <= x <= upper, each (k, d), within `ball` if there is one.

    Nodes in `refined` are tightened by backward propagation of their unit rows, as far as elementwise
    operators read them and are bent on their interval, or, if `thorough`, not constant on it; later nodes
    profit. `cut` holds limits, each (k, *N), that the nodes' values are known to keep. With a single box,
    `sharpened` tightens refined nodes further. Raises Stopped when `stop()`.
    Sound: every value that a node takes for an input of box j, at which the limits are kept, lies within row j
    of its bounds. Where there is no such input, bounds may cross, and mean nothing.
    """
    bounds = Bounds(floor=np.full(len(lower), TINY))
    forms = _Forms(network) if lower.shape[1] <= MOST_INPUTS else None
    for i, (node, rule) in enumerate(zip(network.graph.nodes, network.rules, strict=True)):
        if stop():
            raise Stopped
        mass = None
        if i == 0:
            low, high = (x.reshape(-1, *node.shape) for x in (lower, upper))
        elif isinstance(rule, Nonlinear):
            j = node.inputs[0]
            bounds.lines[i] = rule.lines(bounds.lower[j], bounds.upper[j])
            low, high = rule.range(bounds.lower[j], bounds.upper[j])
        else:
            low, high, mass = _affine(bounds, node.inputs, rule)
        low, high = tidy(low, high)
        if cut is not None and i in cut:
            low, high = np.maximum(low, cut[i][0]), np.minimum(high, cut[i][1])
        if forms is not None:
            below, above = tidy(*forms.next(i, lower, upper, bounds).interval())
            low, high = np.maximum(low, below), np.minimum(high, above)
        bounds.lower.append(low)
        bounds.upper.append(high)
        _measure(network, bounds, i, mass)
        if i in refined and (ball is not None or not network.exact[i]):
            _tighten(network, bounds, i, thorough, (lower, upper), ball, memory, stop)
            for given in sharpened:
                if given.node == i:
                    _sharpen(network, bounds, given, (lower, upper), ball, memory, stop)
            bounds.largest[i] = np.maximum(np.abs(bounds.lower[i]), np.abs(bounds.upper[i]))
    return bounds


class _Forms:
    """The affine forms of the nodes that are still to be read."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.last = {j: i for i, node in enumerate(network.graph.nodes) for j in node.inputs}
        self.kept: dict[int, Form] = {}

    def next(self, i: int, lower: Array, upper: Array, bounds: Bounds) -> Form:
        """Node i's form, from those of the nodes before it; `bounds` holds these nodes' bounds."""
        node, rule = self.network.graph.nodes[i], self.network.rules[i]
        if i == 0:
            form = of_box(lower, upper, node.shape)
        elif isinstance(rule, Elementwise):
            j = node.inputs[0]
            form = through_function(rule, self.kept[j], bounds.lower[j], bounds.upper[j], bounds.lines[i])
        elif isinstance(rule, Product):
            j = node.inputs[0]
            form = through_product(rule, self.kept[j], bounds.lower[j], bounds.upper[j])
        else:
            form = through_map(rule, [self.kept[j] for j in node.inputs], *lower.shape)
        self.kept[i] = form
        for j in node.inputs:
            if self.last[j] == i:
                self.kept.pop(j, None)
        return form


def _affine(bounds: Bounds, inputs: tuple[int, ...], rule: Affine) -> tuple[Array, Array, Array | None]:
    """Interval bounds of M x + b, and at least |M| |x| where somebody needs it."""
    if not inputs:
        return rule.bias[None], rule.bias[None], None
    count = max(bounds.lower[j].shape[0] for j in inputs)

    def all_of(values: list[Array]) -> list[Array]:
        return [np.broadcast_to(values[j], (count, *values[j].shape[1:])) for j in inputs]

    lowers, uppers = all_of(bounds.lower), all_of(bounds.upper)
    mass = None
    if rule.terms or rule.back_terms:
        mass = inflate(rule.absolute(*all_of(bounds.largest)), rule.terms)
    if not rule.terms:
        low, high = rule.linear(*lowers), rule.linear(*uppers)
        if rule.bias is not None:  # only where the map itself has no entry
            low, high = low + rule.bias, high + rule.bias
        return low, high, mass
    with np.errstate(invalid="ignore", over="ignore"):
        centers = [np.where(low == high, low, 0.5 * low + 0.5 * high) for low, high in zip(lowers, uppers, strict=True)]
        radii = [next_up(np.maximum(high - c, c - low)) for low, c, high in zip(lowers, centers, uppers, strict=True)]
        radii = [np.where(low == high, 0.0, r) for low, high, r in zip(lowers, uppers, radii, strict=True)]
        center = rule.linear(*centers)
        size = mass
        if rule.bias is not None:
            center = center + rule.bias
            size = mass + np.abs(rule.bias)
        # the center is off by gamma(terms + 2) (|M| |center| + |b|), and |center| <= largest
        radius = inflate(rule.absolute(*radii) + gamma(rule.terms + 4) * size, rule.terms)
        return next_down(center - radius), next_up(center + radius), mass


def _measure(network: Network, bounds: Bounds, i: int, mass: Array | None) -> None:
    """Fill in `largest`, `charge` and `floor` for node i."""
    rule = network.rules[i]
    largest = np.maximum(np.abs(bounds.lower[i]), np.abs(bounds.upper[i]))
    bounds.largest.append(largest)
    weight: Array | float = 0.0
    if isinstance(rule, Affine) and mass is not None and rule.back_terms:
        weight = weight + gamma(rule.back_terms + 4) * mass
    if isinstance(rule, Affine) and rule.bias is not None:
        weight = weight + gamma(network.sizes[i] + 4) * np.abs(rule.bias)[None]
    if direct(network, i):
        weight = weight + 2 * UNIT * largest
    bounds.charge.append(None if isinstance(weight, float) else weight * (1 + 16 * UNIT) + TINY)
    # every entry of each part of A that arrives here may be off by TINY: underflow in its products
    total = inflate(largest.reshape(len(largest), -1).sum(1), network.sizes[i])
    bounds.floor = bounds.floor + TINY * (network.fan[i] + 1) * total


def _worth(network: Network, bounds: Bounds, i: int, thorough: bool) -> Array:
    """Which neurons (k, n) of node i have a reader that is bent on their interval, or varies on it at all."""
    lower, upper = bounds.lower[i], bounds.upper[i]
    which = np.zeros(lower.shape, bool)
    for function in network.functions[i]:
        which |= function.bent(lower, upper)
        if thorough:
            which |= function.varies(lower, upper)
    return which.reshape(len(which), -1)


def _tighten(
    network: Network,
    bounds: Bounds,
    i: int,
    thorough: bool,
    box: tuple[Array, Array],
    ball: Region | None,
    memory: int,
    stop: Callable[[], bool],
) -> None:
    """Tighten node i's bounds in place by backward propagation, where it is worth it.

    The bound that is nearer to 0 comes first: where it shows that no reader is bent, the other one is left as it is.
    """
    shape, width = network.graph.nodes[i].shape, max(network.sizes[: i + 1])
    entries = max(1, min(memory // 64, max(CHUNK, 32 * width)))
    order = _by_place(shape)
    upward = (bounds.lower[i] + bounds.upper[i] > 0).reshape(len(bounds.lower[i]), -1)
    for side in (upward, ~upward):
        low, high = (x.reshape(len(x), -1).copy() for x in (bounds.lower[i], bounds.upper[i]))
        which = _worth(network, bounds, i, thorough)
        for pick, place in _batches(which[:, order], max(1, entries // width)):
            if stop():
                raise Stopped
            index = order[place]
            part = bounds.take(pick) if len(bounds.floor) > 1 else bounds
            at = (pick[:, None], index)
            work = _unit_pass(network, part, i, index, np.where(side[at], 1.0, -1.0))
            work.run({}, {})
            found = work.lower(box[0][pick], box[1][pick], ball)
            below, above = tidy(np.where(side[at], found, -np.inf), np.where(side[at], np.inf, -found))
            low[at] = np.maximum(low[at], below)
            high[at] = np.minimum(high[at], above)
        bounds.lower[i], bounds.upper[i] = (x.reshape(-1, *shape) for x in (low, high))


def _sharpen(
    network: Network,
    bounds: Bounds,
    given: Sharpened,
    box: tuple[Array, Array],
    ball: Region | None,
    memory: int,
    stop: Callable[[], bool],
) -> None:
    """Tighten node `given.node` of the only box in place, each row through the lines that it names."""
    i = given.node
    low, high = (x.reshape(-1).copy() for x in (bounds.lower[i], bounds.upper[i]))
    total = sum(network.sizes[: i + 1])
    step = max(1, min(memory // 128, max(8 * CHUNK, 16 * total)) // total)
    for first in range(0, len(given.neuron), step):
        if stop():
            raise Stopped
        rows = slice(first, first + step)
        neuron, sign = given.neuron[rows], given.sign[rows].astype(np.float64)
        work = Pass(network, bounds, (len(neuron), 1))
        unit = np.zeros((len(neuron), 1, network.sizes[i]))
        unit[np.arange(len(neuron)), 0, neuron] = sign
        work.put(i, unit)
        work.run({e: sloped(network, bounds, e, values[rows]) for e, values in given.slopes.items()}, {})
        found = work.lower(*box, ball)[:, 0]
        below, above = tidy(found, -found)
        np.maximum.at(low, neuron[sign > 0], below[sign > 0])
        np.minimum.at(high, neuron[sign < 0], above[sign < 0])
    shape = (1, *network.graph.nodes[i].shape)
    bounds.lower[i], bounds.upper[i] = low.reshape(shape), high.reshape(shape)


def sloped(network: Network, bounds: Bounds, e: int, values: Array) -> Lines:
    """Lines (R, *N) of elementwise node e over the only box, with slope parameters in bytes, (R, size)."""
    node = network.graph.nodes[e]
    free = PARAMETERS[values].reshape(-1, *node.shape)
    v = node.inputs[0]
    return network.rules[e].lines(bounds.lower[v], bounds.upper[v], free)


def _batches(which: Array, rows: int) -> Iterator[tuple[Array, Array]]:
    """Boxes (k',) and neurons of them (k', R), padded by repetition, with k' R <= `rows` where possible.

    Boxes are taken in the order of their counts, so that little is padded.
    """
    counts = which.sum(1)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    at = 0
    while at < len(order):
        most = int(counts[order[at]])
        pick = order[at : at + max(1, rows // most)]
        index = np.argsort(~which[pick], axis=1, kind="stable")[:, :most]
        padding = np.arange(most)[None] >= counts[pick][:, None]
        index = np.where(padding, index[:, :1], index)
        step = max(1, rows // len(pick))
        for first in range(0, most, step):
            yield pick, index[:, first : first + step]
        at += len(pick)


def _by_place(shape: tuple[int, ...]) -> Array:
    """A node's neurons in the order in which rows are propagated: in images all channels of one place, then those of
    the next, so that the rows that are propagated together are zero nearly everywhere (see `affine.occupied`)."""
    every = np.arange(int(np.prod(shape)))
    return every.reshape(-1, shape[-2] * shape[-1]).T.reshape(-1) if len(shape) > 2 else every


def _unit_pass(network: Network, bounds: Bounds, i: int, index: Array, sign: Array) -> Pass:
    """A pass begun with the unit rows of the neurons `index` (k, R) of node i, times `sign` (k, R), 1 or -1."""
    k, count = index.shape
    rule, node = network.rules[i], network.graph.nodes[i]
    work = Pass(network, bounds, (k, count))
    rows = rule.unit_rows(index) if isinstance(rule, Affine) else None
    if rows is not None:  # read off, so nothing was rounded
        work.put(node.inputs[0], rows.reshape(k, count, -1) * sign[..., None])
        if rule.bias is not None:
            work.constant = rule.bias.reshape(-1)[index] * sign
        return work
    unit = np.zeros((k, count, network.sizes[i]))
    box, row = np.indices(index.shape)
    unit[box, row, index] = sign
    work.put(i, unit)
    return work
