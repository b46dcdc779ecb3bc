"""How much wider the planes around functions of several operators are than they must be, and than those of the chain.

Part of `python -m benchmarks.tightness`. Each function is bounded over boxes of its inputs as the graph has it, and as
the chain of operators that its formula is; what counts is the distance, in the box's middle, between the planes that
backward propagation finds (or the constants of interval arithmetic, where these are nearer). No two planes that hold
are nearer there than the function's convex and its concave envelope, which are computed by linear programs over the
function's values on a grid: the grid makes the least distance, and so the ratios' denominators, a little too small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.optimize import linprog

from certify.bounds.intermediate import intermediate
from certify.bounds.interval import interval
from certify.bounds.linear import lines_of, propagate
from certify.graph import layers, ops
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.graph.softmax import log_softmax, log_sum_exp, softmax
from certify.spec.inputset import InputSet

Array = np.ndarray
Make = Callable[[GraphBuilder, Operand], Operand]
GRID = 7
"""Values along each axis, of three; of one axis the cube of it."""


@dataclass(frozen=True)
class Composite:
    """`ours` builds it as the importers do, `chain` by its formula; `size` inputs."""

    name: str
    size: int
    ours: Make
    chain: Make


def _soft_chain(b: GraphBuilder, x: Operand) -> Operand:
    e = b.exp(x)
    return _times(b, e, b.reciprocal(b.reduce_sum(e, [0], True)))


def _normal_chain(b: GraphBuilder, x: Operand) -> Operand:
    centred = b.sub(x, b.reduce_mean(x, [0], True))
    variance = b.add(b.reduce_mean(b.square(centred), [0], True), np.float64(1e-5))
    return _times(b, centred, b.reciprocal(b.emit(ops.Sqrt(), variance)))


def _times(b: GraphBuilder, x: Operand, y: Operand) -> Operand:
    """x (n,) times y (n,) or (1,) as products of variables."""
    n, m = x.shape[0], y.shape[0]
    return b.emit(ops.Product(np.arange(n), n + np.arange(n) % m), b.concat([x, y], 0))


def _log_sum_chain(b: GraphBuilder, x: Operand) -> Operand:
    return b.emit(ops.Log(), b.reduce_sum(b.exp(x), [0], True))


def _softsign(b: GraphBuilder, x: Operand) -> Operand:
    return b.div(x, b.add(b.abs(x), np.float64(1)))


def _softsign_chain(b: GraphBuilder, x: Operand) -> Operand:
    return _times(b, x, b.reciprocal(b.add(b.abs(x), np.float64(1))))


COMPOSITES = (
    Composite("Softmax", 3, lambda b, x: softmax(b, x, 0), _soft_chain),
    Composite("Log-softmax", 3, lambda b, x: log_softmax(b, x, 0), lambda b, x: b.sub(x, _log_sum_chain(b, x))),
    Composite("Log-sum-exp", 3, lambda b, x: log_sum_exp(b, x, [0], keepdims=True), _log_sum_chain),
    Composite("Layer-norm", 3, lambda b, x: layers.normalise(b, x, [0], 1e-5), _normal_chain),
    Composite("x sigmoid(x)", 1, lambda b, x: b.mul(x, b.sigmoid(x)), lambda b, x: _times(b, x, b.sigmoid(x))),
    Composite("x / (1 + |x|)", 1, _softsign, _softsign_chain),
)


def graph_of(make: Make, size: int) -> Graph:
    b = GraphBuilder([Port("x", (size,))])
    y = make(b, b.inputs[0])
    return b.build([y], [Port("y", y.shape)])


def boxes(size: int, count: int) -> tuple[Array, Array]:
    """lower, upper (count, size), of widths from 0.01 to 10, each axis its own."""
    rng = np.random.default_rng(0)
    center, width = rng.normal(0, 2, (count, size)), 10 ** rng.uniform(-2, 1, (count, size))
    return center - width / 2, center + width / 2


def distances(graph: Graph, lower: Array, upper: Array) -> Array:
    """The distance (count,) between the planes around output 0, in the middle of each box."""
    network = Network(graph, torch.float64)
    inputs = InputSet(torch.from_numpy(lower), torch.from_numpy(upper))
    with torch.no_grad():
        bounds = intermediate(network, inputs)
        last = len(graph.nodes) - 1
        rows = torch.zeros(1, 2, graph.output_size, dtype=torch.float64)
        rows[0, :, 0] = torch.tensor([1.0, -1.0])
        lines = lines_of(network, bounds, graph.nonlinear)
        form = propagate(network, {last: rows.reshape(1, 2, *graph.nodes[-1].shape)}, torch.zeros(1, 2).double(), lines)
        middle = torch.from_numpy((lower + upper) / 2)
        below, above = ((form.input * middle.unsqueeze(1)).sum(-1) + form.constant).T
        least, most = (side.flatten(1)[:, 0] for side in interval(network, inputs, bounds)[last])
    return (torch.minimum(-above, most) - torch.maximum(below, least)).numpy()


def least(graph: Graph, lower: Array, upper: Array) -> Array:
    """The distance (count,) between the envelopes of output 0 in the middle of each box."""
    size = lower.shape[1]
    steps = np.linspace(0, 1, GRID if size > 1 else GRID**3)
    share = np.array(list(product(steps, repeat=size)))
    points = torch.from_numpy(lower[:, None] + (upper - lower)[:, None] * share)
    values = Network(graph, torch.float64)(points.flatten(0, 1)).reshape(len(lower), len(share), -1)[..., 0].numpy()
    rows = np.vstack([share.T, np.ones(len(share))])
    middle = np.append(np.full(size, 0.5), 1.0)
    found = []
    for f in values:
        ends = [linprog(sign * f, A_eq=rows, b_eq=middle, method="highs").fun for sign in (1, -1)]
        found.append(-ends[1] - ends[0])
    return np.array(found)


def measure(one: Composite, count: int) -> tuple[Array, dict[str, Array]]:
    """The least distances over `count` boxes, and those of both ways to build the function."""
    lower, upper = boxes(one.size, count)
    ours, chain = (graph_of(make, one.size) for make in (one.ours, one.chain))
    found = {"ours": distances(ours, lower, upper), "chain": distances(chain, lower, upper)}
    return least(ours, lower, upper), found
