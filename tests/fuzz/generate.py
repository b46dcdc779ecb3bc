"""Random small networks and properties: all operators and norms, and whatever is known to break verifiers.

One seed gives one instance. Sizes are kept so small that most instances can be enumerated exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np
import torch

from certify.graph import ops
from certify.graph.build import GraphBuilder, Var
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph, Port
from certify.spec.inputset import stack
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case
from certify.spec.regions import Region, ball, box
from tests import exact

Array = np.ndarray

MOST_ENTRIES = 16  # of any value in the network
MOST_NEURONS = 9  # entries that nonlinear operators change, in most networks
MOST_FREE = 3  # inputs that vary, in most regions
CELLS = 400  # beyond this, enumeration gives up
PLAIN: dict[str, Callable[[], ops.Op]] = {
    "relu": ops.Relu,
    "abs": ops.Abs,
    "sign": ops.Sign,
    "sigmoid": ops.Sigmoid,
    "tanh": ops.Tanh,
    "exp": ops.Exp,
    "square": ops.Square,
    "sin": ops.Sin,
    "cos": ops.Cos,
    "reciprocal": ops.Reciprocal,
    "floor": ops.Floor,
    "softplus": ops.Softplus,
    "erf": ops.Erf,
    "gelu": ops.Gelu,
    "gelu tanh": ops.GeluTanh,
    "silu": ops.Silu,
    "mish": ops.Mish,
    "elu": lambda: ops.Elu(1.5),
    "hard-swish": ops.HardSwish,
    "log": ops.Log,
    "sqrt": ops.Sqrt,
    "rsqrt": ops.Rsqrt,
}


@dataclass(frozen=True, eq=False)
class Instance:
    """A network and what must hold of it, and where it came from."""

    graph: Graph
    cases: tuple[Case, ...]
    seed: int


def instance(seed: int) -> Instance:
    """The instance of this seed."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.15:
        return hard(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        while True:
            graph = _Maker(rng).network()
            cases = tuple(_case(rng, graph) for _ in range(1 + (rng.random() < 0.2)))
            if all(case is not None for case in cases):
                return Instance(graph, cases, seed)


def hard(seed: int) -> Instance:
    """A piecewise-linear network of unstable neurons, and a single row close to what it attains: to decide
    it takes splits."""
    rng = np.random.default_rng([seed, 2])
    while True:
        build = GraphBuilder([Port("x", (int(rng.integers(2, 4)),))])
        h = build.inputs[0]
        for _ in range(rng.integers(2, 4)):
            width = int(rng.integers(3, 6))
            weight, bias = rng.standard_normal((width, h.shape[0])), 0.5 * rng.standard_normal(width)
            h = build.emit(ops.Linear(weight.astype(np.float32), bias.astype(np.float32)), h)
            bent = [ops.Relu(), ops.Relu(), ops.Relu(), ops.Abs(), ops.LeakyRelu(np.array(0.1)), ops.Clip(-0.5, 1.0)]
            h = build.emit(bent[rng.integers(len(bent))], h)
        graph = build.build([h], [Port("y", h.shape)])
        center = rng.standard_normal(graph.input_size)
        norm = rng.choice([0, np.inf, 2, 1], p=[0.6, 0.1, 0.2, 0.1])
        region = ball(center, 1.0, norm) if norm else box(center - 1, center + 1)
        row = rng.standard_normal(graph.output_size)
        least = _least(graph, Region(region.lower, region.upper), row)
        if least is not None:
            offset = _next_to(rng, least, float(np.ptp(evaluate(graph, samples(region, 64, rng)) @ row)))
            return Instance(graph, (Case(region, Property((clause(row, offset),))),), seed)


class _Maker:
    """Draws one network: weights in one style, then a chain of operators with branches to earlier values."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.style: Callable[[tuple[int, ...]], Array] = self._pick(
            [self._integers, self._integers, self._normal, self._normal, self._doubles, self._extreme, self._ragged]
        )
        self.smooth = rng.random() < 0.2
        self.left = MOST_NEURONS if rng.random() < 0.9 else 3 * MOST_NEURONS

    def _pick(self, choices: list) -> object:
        return choices[self.rng.integers(len(choices))]

    # --- numbers ---------------------------------------------------------------------------------

    def _integers(self, shape: tuple[int, ...]) -> Array:
        return self.rng.integers(-3, 4, shape).astype(np.float32)

    def _normal(self, shape: tuple[int, ...]) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)

    def _doubles(self, shape: tuple[int, ...]) -> Array:
        return self.rng.standard_normal(shape)

    def _extreme(self, shape: tuple[int, ...]) -> Array:
        """One huge or tiny scale, which float32 holds."""
        return (self.rng.standard_normal(shape) * 10.0 ** self.rng.integers(-30, 31)).astype(np.float32)

    def _ragged(self, shape: tuple[int, ...]) -> Array:
        """Scales that differ from entry to entry."""
        return (self.rng.standard_normal(shape) * 10.0 ** self.rng.integers(-6, 7, shape)).astype(np.float32)

    def weights(self, *shape: int) -> Array:
        found = np.asarray(self.style(shape))
        if self.rng.random() < 0.15:
            found = np.where(self.rng.random(shape) < 0.6, found, np.zeros_like(found))
        return np.asarray(found, found.dtype)

    def bias(self, size: int) -> Array | None:
        """Often none; sometimes so large that neurons behind it are dead or always on."""
        if self.rng.random() < 0.25:
            return None
        found = self.weights(size)
        if self.rng.random() < 0.25:
            far = self.rng.choice([-1, 0, 1], size) * (1 + np.abs(found).max()) * 20
            found = (found + far).astype(found.dtype)
        return found

    # --- networks --------------------------------------------------------------------------------

    def network(self) -> Graph:
        shape = self._pick(
            [(1,), (2,), (3,), (4,), (6,), (1, 3), (1, 4), (2, 3), (1, 2, 2), (1, 1, 2, 3), (1, 1, 2, 1, 2)]
        )
        self.build = GraphBuilder([Port("x", shape, "float64" if self.style == self._doubles else "float32")])
        self.seen: list[Var] = [self.build.inputs[0]]
        h = self._layers(self.seen[0]) if self.rng.random() < 0.35 else self._chain(self.seen[0])
        y = self.build.flatten(h) if len(h.shape) != 1 else h
        if self.rng.random() < 0.75:
            size = int(self.rng.integers(1, 5))
            y = self.build.emit(ops.Linear(self.weights(size, y.shape[0]), self.bias(size)), y)
        return self.build.build([y], [Port("y", y.shape)])

    def _layers(self, h: Var) -> Var:
        """Fully connected layers, most of whose neurons are unstable: bounds alone seldom suffice."""
        h = self.build.reshape(h, (-1,))
        for _ in range(self.rng.integers(1, 4)):
            width = int(self.rng.integers(3, 6))
            h = self.build.emit(ops.Linear(self.weights(width, h.shape[0]), self.bias(width)), h)
            h = self.build.relu(h) if self.rng.random() < 0.7 else self._activate(h)
        return h

    def _chain(self, h: Var) -> Var:
        """Any operators one after the other, with branches to earlier values."""
        for _ in range(self.rng.integers(1, 8)):
            grown = self._step(h)
            if isinstance(grown, Var) and 0 < prod(grown.shape) <= MOST_ENTRIES:
                h = grown
                self.seen.append(h)
            if self.rng.random() < 0.6:
                h = self._activate(h)
                self.seen.append(h)
        return h

    def _activate(self, h: Var) -> Var:
        build, kinds = self.build, ["relu", "relu", "relu", "leaky", "clip", "abs", "sign"]
        if prod(h.shape) > self.left:
            return h
        self.left -= prod(h.shape)
        curves = ["sigmoid", "tanh", "exp", "square", "sin", "cos", "reciprocal", "floor", "product"]
        curves += ["softplus", "erf", "gelu", "gelu tanh", "silu", "mish", "elu", "hard-swish", "log", "sqrt", "rsqrt"]
        kind = self._pick([*kinds[2:], *curves] if self.smooth else kinds)
        if kind == "leaky":
            slope = self._pick([np.float64(0.01), np.float32(0.5), self._normal(h.shape[-1:])])
            return build.emit(ops.LeakyRelu(np.asarray(slope)), h)
        if kind == "clip":
            ends = sorted((self.rng.integers(-2, 3, 2) * 0.5).tolist())
            return build.emit(ops.Clip(*self._pick([ends, (0.0, 6.0), (-np.inf, 0.5), (-0.5, np.inf)])), h)
        if kind == "exp":  # of few digits, which exact arithmetic can follow
            h = build.emit(ops.Clip(-4.0, 4.0), h)
        if kind in ("reciprocal", "log", "sqrt", "rsqrt"):  # of something away from 0
            h = build.emit(ops.Scale(np.array(1.0), np.array(self._pick([0.5, 1.0]))), build.emit(ops.Abs(), h))
        if kind == "product":
            left, right = (self.rng.integers(0, prod(h.shape), h.shape[-1:]) for _ in range(2))
            return build.emit(ops.Product(left, right), h)
        return build.emit(PLAIN[kind](), h)

    def _step(self, h: Var) -> Var | None:
        """One affine operator, or None where the drawn one does not fit."""
        steps = [self._linear, self._linear, self._linear, self._conv, self._conv, self._conv,
                 self._conv_transpose, self._conv_transpose, self._scale, self._sum,
                 self._sum, self._concat, self._select, self._reshape, self._permute, self._pad, self._reduce,
                 self._expand]  # fmt: skip
        return self._pick(steps)(h)

    def _linear(self, h: Var) -> Var:
        out = int(self.rng.integers(1, 5))
        return self.build.emit(ops.Linear(self.weights(out, h.shape[-1]), self.bias(out)), h)

    def _spatial(self, h: Var) -> tuple[int, list[tuple[int, ...]]] | None:
        """(channels, [kernel, stride, before, after, dilation]) that may fit h."""
        dims = int(self.rng.integers(1, 4))
        if len(h.shape) < dims + 1:
            return None
        highs = (4, 3, 3, 3, 3)
        lows = (1, 1, 0, 0, 1)
        sizes = [tuple(int(v) for v in self.rng.integers(a, b, dims)) for a, b in zip(lows, highs, strict=True)]
        return h.shape[-dims - 1], sizes

    def _conv(self, h: Var) -> Var | None:
        drawn = self._spatial(h)
        if drawn is None:
            return None
        channels, (kernel, stride, before, after, dilation) = drawn
        groups = channels if self.rng.random() < 0.3 else 1
        out = groups * int(self.rng.integers(1, 3))
        weight = self.weights(out, channels // groups, *kernel)
        return self._fitting(ops.Conv(weight, self.bias(out), stride, before, after, dilation, groups), h)

    def _conv_transpose(self, h: Var) -> Var | None:
        drawn = self._spatial(h)
        if drawn is None:
            return None
        channels, (kernel, stride, before, after, dilation) = drawn
        groups = channels if self.rng.random() < 0.3 else 1
        out = groups * int(self.rng.integers(1, 3))
        extra = tuple(int(self.rng.integers(0, s)) for s in stride)
        weight = self.weights(channels, out // groups, *kernel)
        op = ops.ConvTranspose(weight, self.bias(out), stride, before, after, dilation, extra, groups)
        return self._fitting(op, h)

    def _fitting(self, op: ops.Op, *hs: Var) -> Var | None:
        try:
            return self.build.emit(op, *hs)
        except ValueError:
            return None

    def _scale(self, h: Var) -> Var:
        shapes = [(), h.shape[-1:], h.shape]
        return self.build.emit(ops.Scale(self.weights(*self._pick(shapes)), self.weights(*self._pick(shapes))), h)

    def _sum(self, h: Var) -> Var | None:
        """A residual connection, or any earlier value that can be broadcast against h."""
        others = [v for v in self.seen if _broadcasts(v.shape, h.shape)]
        terms = [h, *(self._pick(others) for _ in range(self.rng.integers(1, 3)))]
        if self.rng.random() < 0.2:
            terms.append(self.build.emit(ops.Scale(self.weights(), self.weights(*h.shape)), h))
        return self._fitting(ops.Sum(tuple(float(self._pick([1, 1, -1, 0.5, 3])) for _ in terms)), *terms)

    def _concat(self, h: Var) -> Var | None:
        axis = int(self.rng.integers(len(h.shape)))
        constant = self.weights(*(2 if i == axis else n for i, n in enumerate(h.shape)))
        return self._fitting(ops.Concat(axis), h, self._pick([*self.seen, constant]))

    def _select(self, h: Var) -> Var:
        axis = int(self.rng.integers(len(h.shape)))
        index = self.rng.integers(0, h.shape[axis], self.rng.integers(1, 5))
        return self.build.emit(ops.Select(axis, np.asarray(index, np.int64)), h)

    def _reshape(self, h: Var) -> Var:
        size = prod(h.shape)
        first = self._pick([n for n in range(1, size + 1) if size % n == 0])
        return self.build.emit(ops.Reshape(), h, shape=self._pick([(first, size // first), (1, size), (size,)]))

    def _permute(self, h: Var) -> Var:
        return self.build.emit(ops.Permute(tuple(int(a) for a in self.rng.permutation(len(h.shape)))), h)

    def _pad(self, h: Var) -> Var:
        before, after = (tuple(int(v) for v in self.rng.integers(0, 2, len(h.shape))) for _ in range(2))
        return self.build.emit(ops.Pad(before, after, float(self._pick([0.0, 1.0, -2.5]))), h)

    def _reduce(self, h: Var) -> Var:
        chosen = [a for a in range(len(h.shape)) if self.rng.random() < 0.5]
        keep = bool(self.rng.random() < 0.5) or len(chosen) == len(h.shape)
        return self.build.emit(ops.ReduceSum(tuple(chosen), keep), h)

    def _expand(self, h: Var) -> Var:
        shape = tuple(int(self.rng.integers(1, 4)) if n == 1 else n for n in h.shape)
        return self.build.emit(ops.Expand(), h, shape=(2, *shape) if self.rng.random() < 0.3 else shape)


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


# --- specifications ------------------------------------------------------------------------------


def _case(rng: np.random.Generator, graph: Graph) -> Case | None:
    """A region, and a property whose offsets lie near what the network attains there; None if it overflows."""
    region = _region(rng, graph.input_size)
    x = samples(region, 64, rng)
    z = np.concatenate([evaluate(graph, x), x], 1)
    if not (np.isfinite(z).all() and np.abs(z).max() < 1e200):
        return None
    count = int(rng.choice([1, 1, 1, 2, 3]))
    return Case(region, Property(tuple(_clause(rng, graph, region, z) for _ in range(count))))


def _region(rng: np.random.Generator, size: int) -> Region:
    """Boxes and balls, with grid-aligned or arbitrary numbers, many coordinates of zero width."""
    aligned = rng.random() < 0.5
    center = rng.integers(-2, 3, size) * 0.5 if aligned else rng.standard_normal(size)
    width = rng.integers(1, 4, size) * 0.5 if aligned else np.abs(rng.standard_normal(size)) + 1e-3
    width = width * float(rng.choice([1, 1, 0.1, 1e-4, 10]))
    flat = rng.random(size) < rng.choice([0.0, 0.0, 0.5, 1.0], p=[0.35, 0.35, 0.27, 0.03])
    limit = MOST_FREE if rng.random() < 0.95 else size
    flat[rng.permutation(size)[limit:]] = True
    lower, upper = np.where(flat, center, center - width), np.where(flat, center, center + width)
    norm = rng.choice([0, np.inf, 2, 1], p=[0.45, 0.2, 0.2, 0.15])
    if norm == 0:
        return box(lower, upper)
    radius = float(width.max() * rng.choice([0.5, 1, 1.5]))
    return ball(center, radius, norm, (lower, upper) if flat.any() or rng.random() < 0.5 else None)


def samples(region: Region, count: int, rng: np.random.Generator) -> Array:
    """Points of the region up to rounding (count, d): the middle, corners of the box, random ones."""
    ((_, inputs),) = stack([region], torch.float64)
    inputs = inputs.select(torch.zeros(count, dtype=torch.int64))
    x = rng.uniform(region.lower, region.upper, (count, region.size))
    corners = np.where(rng.random(x.shape) < 0.5, region.lower, region.upper)
    x[: count // 2] = corners[: count // 2]
    x[0] = inputs.start()[0].numpy()
    return inputs.project(torch.from_numpy(x)).numpy()


def _clause(rng: np.random.Generator, graph: Graph, region: Region, z: Array) -> Clause:
    n = graph.output_size
    width = z.shape[1] if rng.random() < 0.2 else n
    rows = int(rng.choice([1, 1, 2, 3]))
    matrix = np.zeros((rows, width))
    for row in matrix:
        if rng.random() < 0.3 and n > 1:
            i, j = rng.permutation(n)[:2]
            row[i], row[j] = 1, -1
        else:
            row[:] = rng.integers(-2, 3, width) if rng.random() < 0.6 else rng.standard_normal(width)
    values = z[:, :width] @ matrix.T
    offset = np.array([_offset(rng, v) for v in values.T])
    if rows == 1 and rng.random() < 0.6:
        least = _least(graph, region, matrix[0])
        if least is not None:
            offset[0] = _next_to(rng, least, float(np.ptp(values)))
    return clause(matrix, offset, rng.random(rows) < 0.15)


def _offset(rng: np.random.Generator, values: Array) -> float:
    """A right-hand side, given the row's sampled values: below them (safe, perhaps), among them, or at the edge."""
    low, high = float(values.min()), float(values.max())
    spread = high - low or abs(low) or 1.0
    choices = (
        low - spread * rng.choice([0.01, 0.1, 0.3, 1.0]),
        low - spread * rng.choice([0.01, 0.1, 0.3, 1.0]),
        low + spread * rng.random() * 0.3,
        low,
        np.round(low) - rng.integers(0, 2),
    )
    return float(choices[rng.integers(len(choices))])


def _least(graph: Graph, region: Region, row: Array) -> Fraction | None:
    """The row's exact minimum; None if it cannot be enumerated."""
    if any(isinstance(node.op, ops.Sign | ops.Floor) for node in graph.nodes):
        return None
    try:
        return exact.minimum(graph, region, row, limit=CELLS)
    except exact.TooComplex:
        return None


def _next_to(rng: np.random.Generator, least: Fraction, spread: float) -> float:
    """An offset at a row's exact minimum, where the verdict turns, or so near that it is hard to say."""
    near = float(least)
    tie = near if least >= near else float(np.nextafter(near, -np.inf))
    gap = spread * float(rng.choice([0.002, 0.01, 0.03, 0.1]))
    hair = max(spread, abs(near)) * 10.0 ** rng.integers(-16, -12)
    choices = [tie, np.nextafter(tie, -np.inf), np.nextafter(tie, np.inf), near + hair, near - gap, near + gap]
    return float(rng.choice(choices, p=[0.15, 0.05, 0.05, 0.2, 0.35, 0.2]))
