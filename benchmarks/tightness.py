"""How much wider the lines of the nonlinear operators are than they must be.

`python -m benchmarks.tightness`, seconds. For intervals of many widths and places, the area between an operator's two
lines over the least possible: that between the envelopes' supporting lines in the interval's middle, as no line that
holds is nearer there, and the area between a line and the function depends on the middle only. The least is found on a
grid of the function's values, so ratios a little below 1 are the grid's. Intervals whose least area is below rounding
are left out. Search and checker are measured apart: each has lines of its own.
"""

from __future__ import annotations

import numpy as np
import torch

from certify.check.linear import Network as CheckedNetwork
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import FUNCTIONS
from certify.graph.ir import Port
from certify.relax.elementwise import LINES

Array = np.ndarray
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
    return FUNCTIONS[op](op, lambda a: a)(torch.from_numpy(x)).numpy()


def distances(op: ops.Elementwise, lower: Array, upper: Array) -> dict[str, Array]:
    """The distance in the middle between the lines of the search, and between those of the checker."""
    build = GraphBuilder([Port("x", (1,))])
    graph = build.build([build.emit(op, build.inputs[0])], [Port("y", (1,))])
    ends = lower[:, None], upper[:, None]
    found = {
        "search": tuple(t.numpy() for t in LINES[op](op, *(torch.from_numpy(e) for e in ends), None)),
        "checker": CheckedNetwork(graph).rules[1].lines(*ends),
    }
    middle = (ends[0] + ends[1]) / 2
    return {name: ((up - low) * middle + above - below)[:, 0] for name, (low, below, up, above) in found.items()}


def main() -> None:
    print(f"{'operator':12}" + "".join(f"{h:>16}" for h in ("search: mean", "worst", "checker: mean", "worst")))
    for op in SMOOTH:
        lower, upper = intervals(op, 300)
        best = least(op, lower, upper)
        kept = best > 1e-6 * (1 + np.abs(values(op, upper)))
        ratios = [made[kept] / best[kept] for made in distances(op, lower, upper).values()]
        name = type(op).__name__ + (f" {op.alpha:g}" if isinstance(op, ops.Elu) else "")
        print(f"{name:12}" + "".join(f"{v:16.4f}" for r in ratios for v in (r.mean(), r.max())), flush=True)


if __name__ == "__main__":
    main()
