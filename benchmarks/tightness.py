"""How much wider the lines of the nonlinear operators are than they must be.

`python -m benchmarks.tightness`, seconds. For intervals of many widths and places, the area between an operator's two
lines over the least possible: that between the envelopes' supporting lines in the interval's middle, as no line that
holds is nearer there, and the area between a line and the function depends on the middle only. The least is found on a
grid of the function's values, so ratios a little below 1 are the grid's. Intervals whose least area is below rounding
are left out. Search and checker are measured apart: each has lines of its own. Functions of several operators follow
(`benchmarks.composites`).
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import composites
from benchmarks.command import entry
from certify.check.linear import Network as CheckedNetwork
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import FUNCTIONS
from certify.graph.ir import Port
from certify.relax.elementwise import LINES

Array = np.ndarray
KINKED: tuple[ops.Elementwise, ...] = (
    *(ops.Relu(), ops.LeakyRelu(np.array(0.1)), ops.LeakyRelu(np.array(-0.5)), ops.Abs()),
    *(ops.Clip(-1.0, 1.0), ops.Sign(), ops.Floor()),
)
SMOOTH: tuple[ops.Elementwise, ...] = (
    *(kind() for kind in (ops.Sigmoid, ops.Tanh, ops.Exp, ops.Square, ops.Reciprocal, ops.Sin, ops.Cos, ops.Log)),
    *(kind() for kind in (ops.Sqrt, ops.Rsqrt, ops.Softplus, ops.Erf, ops.Gelu, ops.GeluTanh, ops.Silu, ops.Mish)),
    ops.HardSwish(),
    ops.Elu(1.0),
    ops.Elu(1.67),
)
RIGHT = (ops.Reciprocal, ops.Log, ops.Sqrt, ops.Rsqrt)
SIDE = 150
"""Samples left and right of the middle."""


def intervals(op: ops.Elementwise, count: int) -> tuple[Array, Array]:
    """lower, upper (count,), of widths from 0.01 to 10, where the operator bends."""
    rng = np.random.default_rng(0)
    center, width = rng.normal(0, 2, count), 10 ** rng.uniform(-2, 1, count)
    if isinstance(op, RIGHT):
        center = width / 2 + 10 ** rng.uniform(-1.5, 1, count)
    return center - width / 2, center + width / 2


def least(op: ops.Elementwise, lower: Array, upper: Array) -> Array:
    """The least distance (count,) in the middle between two lines that hold."""
    middle, share = (lower + upper) / 2, (np.arange(SIDE) + 1) / SIDE
    left = middle - (middle - lower) * share[:, None]
    right = middle + (upper - middle) * share[:, None]
    at_left, at_right, at_middle = (values(op, x) for x in (left, right, middle))
    weight = (right - middle) / (right - left[:, None])  # of the left end of each chord
    chords = weight * at_left[:, None] + (1 - weight) * at_right
    top, bottom = chords.max((0, 1)), chords.min((0, 1))
    return np.maximum(top, at_middle) - np.minimum(bottom, at_middle)


def values(op: ops.Elementwise, x: Array) -> Array:
    return FUNCTIONS[op](op, torch.as_tensor)(torch.from_numpy(x)).numpy()


def distances(op: ops.Elementwise, lower: Array, upper: Array) -> dict[str, Array]:
    """The distance in the middle between the lines of the search, and between those of the checker."""
    build = GraphBuilder([Port("x", (1,))])
    graph = build.build([build.emit(op, build.inputs[0])], [Port("y", (1,))])
    ends = lower[:, None], upper[:, None]
    found = {
        "search": tuple(t.numpy() for t in LINES[op](op, *(torch.from_numpy(e) for e in ends), None)),
        "checker": tuple(0.0 if t is None else t for t in CheckedNetwork(graph).rules[1].lines(*ends)),
    }
    middle = (ends[0] + ends[1]) / 2
    return {name: ((up - low) * middle + above - below)[:, 0] for name, (low, below, up, above) in found.items()}


def products(count: int) -> tuple[Array, dict[str, Array]]:
    """For products over boxes of widths from 0.01 to 10 the least distance in the middle between two planes that hold,
    which is that between the products' means at opposite corners, and the distances of search and checker."""
    rng = np.random.default_rng(1)
    center, width = rng.normal(0, 2, (count, 2)), 10 ** rng.uniform(-2, 1, (count, 2))
    lower, upper, first, second = center - width / 2, center + width / 2, np.array([0]), np.array([1])
    build = GraphBuilder([Port("x", (2,))])
    op = ops.Product(first, second)
    y = build.emit(op, build.inputs[0])
    checked = CheckedNetwork(build.build([y], [Port("y", (1,))])).rules[1].lines(lower, upper)
    ends = (torch.from_numpy(e)[:, None] for e in (lower, upper))
    searched = LINES[op](op, *ends, None).gap(torch.from_numpy((lower + upper) / 2)[:, None])
    corners = [
        (a[:, 0] * b[:, 1] + c[:, 0] * d[:, 1]) / 2
        for a, b, c, d in ((lower, lower, upper, upper), (lower, upper, upper, lower))
    ]
    low, below, up, above = checked
    apart = ((up - low)[:, :, 0] * (lower + upper) / 2).sum(1) + (above - below)[:, 0]
    return corners[0] - corners[1], {"search": searched.numpy().reshape(-1), "checker": apart}


def show(name: str, best: Array, found: dict[str, Array], scale: Array) -> None:
    """Print mean and worst ratio, of the intervals whose least area is above rounding."""
    kept = best > 1e-6 * scale
    ratios = [made[kept] / best[kept] for made in found.values()]
    print(f"{name:16}" + "".join(f"{v:16.4f}" for r in ratios for v in (r.mean(), r.max())), flush=True)


def main() -> None:
    print(f"{'operator':16}" + "".join(f"{h:>16}" for h in ("search: mean", "worst", "checker: mean", "worst")))
    for op in (*KINKED, *SMOOTH):
        lower, upper = intervals(op, 300)
        name = " ".join([type(op).__name__, *(f"{float(v):g}" for v in vars(op).values())])
        show(name, least(op, lower, upper), distances(op, lower, upper), 1 + np.abs(values(op, upper)))
    show("Product", *products(300), np.ones(300))
    print(f"{'composite':16}" + "".join(f"{h:>16}" for h in ("ours: mean", "worst", "chain: mean", "worst")))
    for one in composites.COMPOSITES:
        show(one.name, *composites.measure(one, 60), np.ones(60))


if __name__ == "__main__":
    entry(main)
