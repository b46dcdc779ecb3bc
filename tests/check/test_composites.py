"""What softmax, normalisation, division and norms are made of, together: bounds against exact values.

Each operator's own lines are tested elsewhere; here it is what chains of them become on boxes from one unit in the last
place to a million wide, around zero, where exponentials overflow and underflow, and where everything cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from certify.bounds.interval import interval
from certify.check.bounds import propagate
from certify.check.linear import Network
from certify.graph import layers, steps
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network as Searched
from certify.graph.ir import Graph, Port
from certify.graph.softmax import log_softmax, log_sum_exp, softmax
from certify.spec.inputset import InputSet
from tests import exact

Make = Callable[[GraphBuilder, Operand], Operand]
SIZE = 3
CENTERS = (0.0, 1e-9, 0.3, 1.0, 20.0, 90.0, 750.0, 1e4, 1e6)
WIDTHS = (0.0, 1e-9, 1e-3, 0.5, 5.0, 200.0, 1e4, 1e6)
LARGEST = 2e4
"""Exact exponentials of larger numbers are too long to compute with."""


def quotient(b: GraphBuilder, x: Operand) -> Operand:
    """x_i / (1/8 + x_0^2)."""
    return b.div(x, b.add(b.square(b.select(x, 1, np.zeros(SIZE, np.int64))), np.float64(0.125)))


def norm(b: GraphBuilder, x: Operand) -> Operand:
    return layers.power(b, b.add(b.reduce_sum(b.square(x), [1]), np.float64(1e-12)), 0.5)


def attention(b: GraphBuilder, x: Operand) -> Operand:
    """Softmax of the products of pairs, times the values."""
    column, row = b.reshape(x, (1, SIZE, 1)), b.reshape(x, (1, 1, SIZE))
    return b.matmul(softmax(b, b.matmul(column, row), 2), column)


def unit(b: GraphBuilder, x: Operand) -> Operand:
    """x / max(|x|, 1e-3), whose products are known to be within one."""
    return b.div(x, b.clip(layers.length(b, x, 2, [1], keepdims=True), 1e-3, np.inf))


def masked(b: GraphBuilder, x: Operand) -> Operand:
    """Attention of which the first entry does not see the last one."""
    scores = b.add(b.matmul(b.reshape(x, (SIZE, 1)), x), np.triu(np.full((SIZE, SIZE), -np.inf), 2))
    return softmax(b, scores, 1)


def quantised(b: GraphBuilder, x: Operand) -> Operand:
    return steps.quantised(b, x, np.float64(0.5), np.array(3), -128, 127)


COMPOSITES: dict[str, tuple[Make, float]] = {
    "log-sum-exp": (lambda b, x: log_sum_exp(b, x, [1]), LARGEST),
    "softsign": (lambda b, x: b.div(x, b.add(b.abs(x), np.float64(1))), math.inf),
    "unit length": (unit, math.inf),
    "masked attention": (masked, 100.0),
    "quantised": (quantised, math.inf),
    "place of the largest": (lambda b, x: steps.place_of_largest(b, x, 1), math.inf),
    "softmax": (lambda b, x: softmax(b, x, 1), LARGEST),
    "log-softmax": (lambda b, x: log_softmax(b, x, 1), LARGEST),
    "layer norm": (lambda b, x: layers.normalise(b, x, [1], 1e-5), math.inf),
    "root mean square": (lambda b, x: layers.normalise(b, x, [1], 1e-6, centre=False), math.inf),
    "quotient": (quotient, math.inf),
    "norm": (norm, math.inf),
    "fifth power": (lambda b, x: b.power(x, 5), math.inf),
    "attention": (attention, 100.0),
}


def graph_of(make: Make) -> Graph:
    b = GraphBuilder([Port("x", (1, SIZE))])
    y = make(b, b.inputs[0])
    return b.build([y], [Port("y", y.shape)])


def boxes(largest: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    center = rng.choice([c for c in CENTERS if c <= largest], (count, 1)) * rng.choice([-1, 1], (count, SIZE))
    center = np.where(rng.random((count, 1)) < 0.5, np.abs(center), center * rng.uniform(0.9, 1.1, (count, SIZE)))
    width = rng.choice([w for w in WIDTHS if w <= largest], (count, SIZE))
    lower = center - width * rng.choice([0.0, 0.5, 1.0], (count, SIZE))
    upper = np.where(rng.random((count, SIZE)) < 0.2, np.nextafter(lower, np.inf), lower + width)
    return lower, np.maximum(lower, upper)


def places(lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    corners = [np.where(rng.random(SIZE) < 0.5, lower, upper) for _ in range(3)]
    middle = np.clip((lower + upper) / 2, lower, upper)
    return [lower, upper, middle, *corners, np.clip(lower + (upper - lower) * rng.random(SIZE), lower, upper)]


@pytest.mark.parametrize("name", COMPOSITES)
def test_what_the_checker_bounds_holds_exactly(name: str) -> None:
    make, largest = COMPOSITES[name]
    graph, rng, count = graph_of(make), np.random.default_rng(1), 20
    network = Network(graph)
    lower, upper = boxes(largest, count, seed=0)
    refined = {graph.nodes[e].inputs[0] for e in graph.nonlinear}
    with np.errstate(all="ignore"):
        bounds = propagate(network, lower, upper, refined=refined, thorough=True)
    low, high = (ends[-1].reshape(count, -1) for ends in (bounds.lower, bounds.upper))
    finite = 0
    for k in range(count):
        for x in places(lower[k], upper[k], rng):
            values = exact.outputs(graph, x.tolist())[: low.shape[1]]
            for y, least, most in zip(values, low[k], high[k], strict=True):
                finite += math.isfinite(least) and math.isfinite(most)
                assert least == -math.inf or Fraction(float(least)) <= y
                assert most == math.inf or y <= Fraction(float(most))
    assert finite > 3 * count


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_the_search_bounds_is_a_number_and_holds(name: str, dtype: torch.dtype) -> None:
    make, largest = COMPOSITES[name]
    graph, rng, count = graph_of(make), np.random.default_rng(2), 200
    network, precise = Searched(graph, dtype), Searched(graph, torch.float64)
    lower, upper = (torch.from_numpy(side).to(dtype) for side in boxes(largest, count, seed=3))
    bounds = interval(network, InputSet(lower, upper))
    share = torch.from_numpy(rng.random((count, SIZE)))
    x = (lower.double() + (upper - lower).double() * share).clamp(lower.double(), upper.double())
    values = precise.values(x)
    room = 0.0  # rounding grows with the largest value on the way
    for (low, high), value in zip(bounds, values, strict=True):
        assert not low.isnan().any()
        assert not high.isnan().any()
        sizes = torch.stack([b.double().abs().flatten(1).amax(1).expand(count) for b in (low, high)]).amax(0)
        room = room + 100 * torch.finfo(dtype).eps * (1 + sizes)
        known = value.isfinite().flatten(1).all(1) & (room < 1e-2)
        slack = room[known].reshape(-1, *[1] * (value.dim() - 1))
        assert (value[known] >= low.double().expand(count, *low.shape[1:])[known] - slack).all()
        assert (value[known] <= high.double().expand(count, *high.shape[1:])[known] + slack).all()
