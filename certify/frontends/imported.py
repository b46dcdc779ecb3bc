"""What a frontend gives back, and the check that the imported graph computes what the original does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor

from certify.errors import ImportMismatch
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import FUNCTIONS
from certify.graph.ir import Graph, Node, split_fields
from certify.spec.query import Source

Array = np.ndarray

MARGIN = 16.0
"""How many times the largest effect of random rounding errors, out of `RUNS`, a difference may be."""
RUNS = 6
LARGE = 20_000_000
"""Numbers in a network (its weights, and 40 times its widest layer) beyond which one sample is compared
instead of one of each kind."""

_EXACT = (
    ops.Constant,
    ops.Concat,
    ops.Select,
    ops.Reshape,
    ops.Permute,
    ops.Pad,
    ops.Expand,
    ops.Relu,
    ops.Clip,
    ops.Abs,
    ops.Sign,
    ops.Floor,
)
"""Operators that do not round."""

_UNIT = (ops.Sigmoid, ops.Tanh, ops.Sin, ops.Cos, ops.Erf, ops.Elu)
"""Operators that round what is as large as 1 on the way."""

_OWN = (ops.Gelu, ops.GeluTanh, ops.Silu, ops.Mish, ops.Softplus, ops.HardSwish)
"""Operators that round what is as large as their argument on the way."""


@dataclass(frozen=True, eq=False)
class Imported:
    """An imported network: its graph, and the original to ask again."""

    graph: Graph
    source: Source


def compare(graph: Graph, source: Source, seed: int = 0) -> None:
    """Refuse (ImportMismatch) a graph that differs from its source beyond float rounding.

    Both are asked about random inputs (standard normal, uniform in [0, 1], small, zeros). What rounding may
    do is measured, not assumed: the graph runs in float64, and again `RUNS` times with a random error of
    one float32 rounding wherever float32 arithmetic would round (Monte Carlo arithmetic; Parker 1997). A
    difference of up to `MARGIN` times the largest effect of these errors is rounding, and so are four units in
    the last place of the largest output.

    A sample that puts the input of some Sign or Floor within these errors of a jump may go either way; it is left out,
    and so is one for which both give what is not finite, or rounding may do anything; if that leaves none, the
    comparison is refused.
    """
    rng = default_rng(seed)
    for attempt in range(4):
        x = _samples(graph, rng)
        expected = np.stack([np.asarray(source(row), np.float64).reshape(-1) for row in x])
        if expected.shape[1] != graph.output_size:
            raise ImportMismatch(f"{source.name} gives {expected.shape[1]} outputs, the graph {graph.output_size}")
        run = _Rounding(graph, x, torch.Generator().manual_seed(seed + attempt))
        finite = np.isfinite(run.value).all(1)
        run.clear &= np.where(finite, np.isfinite(run.allowed).all(1), np.isfinite(expected).all(1))
        if run.clear.any():
            _refuse_difference(run, expected, source.name)
            return
    raise ImportMismatch(
        f"{source.name} cannot be compared with its import: for every random input some Sign or Floor is about to "
        "jump, some output is not finite, or rounding may do anything to it",
        "import it with check=False if you trust the import",
    )


def _refuse_difference(run: _Rounding, expected: Array, name: str) -> None:
    difference = np.abs(run.value - expected)
    explained = (difference <= run.allowed) & np.isfinite(run.value)  # NaN is a difference, infinity no explanation
    wrong = ~explained & run.clear[:, None]
    if not wrong.any():
        return
    excess = np.where(wrong, np.nan_to_num(difference / np.maximum(run.allowed, 1e-300), nan=np.inf), 0.0)
    b, j = np.unravel_index(excess.argmax(), excess.shape)
    raise ImportMismatch(
        f"the imported graph differs from {name} by {difference[b, j]:.3g} at output {j}: "
        f"{run.value[b, j]:.9g} instead of {expected[b, j]:.9g}, where rounding explains {run.allowed[b, j]:.3g}",
        "report the network: a rule of the import does not fit it",
    )


def _samples(graph: Graph, rng: np.random.Generator) -> Array:
    """Inputs (B, d) of several kinds, each entry a number of its port's type."""
    d = graph.input_size
    normal = rng.standard_normal(d)
    weights = sum(a.size for n in graph.nodes for a in split_fields(n.op)[1].values())
    large = weights + 40 * max(n.size for n in graph.nodes) > LARGE
    kinds = [normal] if large else [normal, rng.uniform(size=d), 0.01 * rng.standard_normal(d), np.zeros(d)]
    columns = np.split(np.stack(kinds), np.cumsum([p.size for p in graph.inputs])[:-1], axis=1)
    typed = [
        c.astype(p.dtype) if np.dtype(p.dtype).kind == "f" else np.floor(8 * np.abs(c))
        for c, p in zip(columns, graph.inputs, strict=True)
    ]
    return np.concatenate([c.astype(np.float64) for c in typed], axis=1)


class _Rounding:
    """A graph's float64 outputs on x, and how far float32 rounding may carry them.

    value and allowed are (B, n); clear (B,) tells which samples keep all inputs of Sign and Floor away from jumps.
    """

    def __init__(self, graph: Graph, x: Array, generator: torch.Generator) -> None:
        self.generator = generator
        self.epsilon = max(float(np.finfo(p.dtype).eps) for p in graph.outputs if np.dtype(p.dtype).kind == "f")
        self.epsilon = max(self.epsilon, float(np.finfo(np.float32).eps))
        self.batch = len(x)
        clear = torch.ones(self.batch, dtype=torch.bool)
        last = {j: i for i, node in enumerate(graph.nodes) for j in node.inputs}
        start = torch.from_numpy(x).reshape(-1, *graph.input_shape)
        values = {0: (start, start.repeat(RUNS, *[1] * len(graph.input_shape)))}
        with torch.no_grad():
            for i, node in enumerate(graph.nodes[1:], 1):
                pairs = [values[j] for j in node.inputs]
                if isinstance(node.op, ops.Sign | ops.Floor):
                    clear &= self._away_from_jumps(node.op, *pairs[0])
                values[i] = self._step(node, [graph.nodes[j].shape for j in node.inputs], pairs)
                for j in node.inputs:
                    if last[j] == i:
                        values.pop(j, None)
        exact, noisy = (v.reshape(v.shape[0], -1) for v in values[len(graph.nodes) - 1])
        exact = exact.expand(self.batch, -1)
        self.value = exact.numpy()
        largest = exact.abs().amax(1, keepdim=True)
        self.allowed = (MARGIN * self._spread(exact, noisy) + 4 * self.epsilon * largest).numpy()
        self.clear = clear.numpy()

    def _spread(self, exact: Tensor, noisy: Tensor) -> Tensor:
        """The largest deviation over the runs, for each sample."""
        if noisy.shape[0] == 1:  # a constant
            return torch.zeros_like(exact)
        return (noisy.reshape(RUNS, self.batch, *exact.shape[1:]) - exact).abs().amax(0)

    def _away_from_jumps(self, op: ops.Op, exact: Tensor, noisy: Tensor) -> Tensor:
        spread = self._spread(exact, noisy)
        distance = (exact - exact.round()).abs() if isinstance(op, ops.Floor) else exact.abs()
        return ((distance > MARGIN * spread) | (spread == 0)).reshape(exact.shape[0], -1).all(1)

    def _step(
        self, node: Node, shapes: list[tuple[int, ...]], pairs: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """One node's exact and noisy values; the noise is one rounding of the magnitudes that are added up."""
        exact, noisy = [p[0] for p in pairs], [p[1] for p in pairs]
        run, magnitude = _compile(node, shapes, torch.float64)
        value, shaken = run(*exact), run(*noisy)
        if isinstance(node.op, _EXACT):
            return value, shaken
        single = _compile(node, shapes, torch.float32)[0](*(v.float() for v in exact)).double()
        scale = self.epsilon * torch.where(single == value, 0.0, magnitude(*exact))
        noise = torch.rand(shaken.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return value, shaken + noise * scale.repeat(shaken.shape[0] // scale.shape[0], *[1] * (scale.dim() - 1))


def _compile(
    node: Node, shapes: list[tuple[int, ...]], dtype: torch.dtype
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """A node as a function of its inputs, and the size of the terms that it adds up: |M| |x| + |b|."""

    def cast(array: Array) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    if isinstance(node.op, ops.Nonlinear):
        function = FUNCTIONS[node.op](node.op, cast)
        if isinstance(node.op, _UNIT):
            return function, torch.ones_like
        return function, lambda x: x.abs() + 1 if isinstance(node.op, _OWN) else function(x).abs()
    affine = MAPS[node.op](node.op, node, shapes, cast)

    def magnitude(*xs: Tensor) -> Tensor:
        size = affine.absolute(*(x.abs() for x in xs))
        return size if affine.bias is None else size + affine.bias.abs()

    return affine.forward, magnitude
