"""Hypothesis strategies: graphs of one operator, small random graphs, and regions to try them on.

`OPERATORS` has one entry per operator of `certify.graph.ops`; a new operator gets its conformance tests
with an entry here. Numbers are drawn from what breaks verifiers: whole numbers (exact ties), zeros, tiny
and huge weights, boxes without width, boxes that end at a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from hypothesis import strategies as st

from certify.graph import ops
from certify.graph.build import GraphBuilder, Operand
from certify.graph.ir import Graph, Port
from certify.spec.inputset import InputSet

Draw = Callable[[st.SearchStrategy], object]
Shape = tuple[int, ...]

ACTIVATIONS: tuple[ops.Elementwise, ...] = (
    ops.Relu(),
    ops.Abs(),
    ops.LeakyRelu(np.array(0.125)),
    ops.LeakyRelu(np.array(-0.5)),
    ops.LeakyRelu(np.array(2.0)),
    ops.Clip(-1.0, 1.0),
    ops.Clip(0.0, 6.0),
    ops.Clip(0.5, math.inf),
    ops.Clip(-math.inf, 0.25),
    ops.Clip(1.0, 1.0),
    ops.Sign(),
    ops.Sigmoid(),
    ops.Tanh(),
)
"""One of every kind of elementwise operator that is of the size of its argument, and of every kind of parameter."""

CURVES: tuple[ops.Elementwise, ...] = (
    ops.Exp(),
    ops.Square(),
    ops.Reciprocal(),
    ops.Sin(),
    ops.Cos(),
    ops.Floor(),
    ops.Log(),
    ops.Sqrt(),
    ops.Rsqrt(),
    ops.Softplus(),
    ops.Erf(),
    ops.Gelu(),
    ops.GeluTanh(),
    ops.Silu(),
    ops.Mish(),
    ops.Elu(1.0),
    ops.Elu(1.75),
    ops.HardSwish(),
)
"""The others: they overflow, have poles, or turn ever again."""


@st.composite
def arrays(draw: Draw, shape: Shape) -> np.ndarray:
    """float64 numbers of one style: whole, normal, mostly zero, tiny, huge, or of all sizes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    normal = rng.standard_normal(shape)
    return {
        "whole": lambda: rng.integers(-2, 3, shape).astype(np.float64),
        "normal": lambda: normal,
        "sparse": lambda: normal * (rng.random(shape) < 0.3),
        "tiny": lambda: normal * 1e-9,
        "huge": lambda: normal * 1e6,
        "ragged": lambda: normal * 10.0 ** rng.integers(-8, 6, shape),
    }[draw(st.sampled_from(["whole", "normal", "sparse", "tiny", "huge", "ragged"]))]()


def _shape(draw: Draw, least: int = 1, most: int = 3) -> Shape:
    """Up to `most` axes, at most 8 entries."""
    return draw(st.lists(st.integers(1, 3), min_size=least, max_size=most).filter(lambda s: prod(s) <= 8).map(tuple))


def _small(draw: Draw, most: int, least: int = 0) -> int:
    return draw(st.integers(least, most))


OPERATORS: dict[type[ops.Op], Callable[[Draw], tuple[ops.Op, list[Shape], Shape | None]]] = {}
"""Operator -> draw(an operator, the shapes of its inputs, the output's shape where the operator does not say)."""


def _operator(kind: type[ops.Op]) -> Callable:
    def register(function: Callable) -> Callable:
        OPERATORS[kind] = function
        return function

    return register


for _kind in sorted({type(op) for op in (*ACTIVATIONS, *CURVES)}, key=lambda kind: kind.__name__):
    OPERATORS[_kind] = lambda draw, kind=_kind: (
        draw(st.sampled_from([op for op in (*ACTIVATIONS, *CURVES) if type(op) is kind])),
        [_shape(draw, least=0)],
        None,
    )


@_operator(ops.LeakyRelu)
def _(draw: Draw) -> tuple:
    shape = _shape(draw, least=0)
    return ops.LeakyRelu(draw(arrays((*shape[:1], *[1] * (len(shape) - 1))))), [shape], None


@_operator(ops.Product)
def _(draw: Draw) -> tuple:
    """No entry by itself: intervals would know nothing of that."""
    shape = draw(st.sampled_from([(2,), (2, 1, 2), (3, 2)]))
    size = prod(shape)
    made = _shape(draw, least=0)
    left = np.array(draw(st.lists(st.integers(0, size - 1), min_size=prod(made), max_size=prod(made))), np.int64)
    apart = np.array(draw(st.lists(st.integers(1, size - 1), min_size=prod(made), max_size=prod(made))), np.int64)
    return ops.Product(left.reshape(made), ((left + apart) % size).reshape(made)), [shape], None


@_operator(ops.Constant)
def _(draw: Draw) -> tuple:
    """A constant has no input, so it is looked at through a sum; see `single`."""
    shape = _shape(draw, least=0)
    return ops.Constant(draw(arrays(shape))), [shape], None


@_operator(ops.Linear)
def _(draw: Draw) -> tuple:
    shape, out = _shape(draw), _small(draw, 4, 1)
    bias = draw(st.none() | arrays((out,)))
    return ops.Linear(draw(arrays((out, shape[-1]))), bias), [shape], None


def _window(draw: Draw, kernel: Shape) -> tuple[Shape, Shape, Shape, Shape]:
    """stride, before, after, dilation for a convolution."""
    k = len(kernel)
    stride, dilation = (tuple(_small(draw, 2, 1) for _ in range(k)) for _ in range(2))
    before, after = (tuple(_small(draw, 1) for _ in range(k)) for _ in range(2))
    return stride, before, after, dilation


@_operator(ops.Conv)
def _(draw: Draw) -> tuple:
    k, groups = _small(draw, 3, 1), _small(draw, 2, 1)
    kernel = tuple(_small(draw, 2, 1) for _ in range(k))
    stride, before, after, dilation = _window(draw, kernel)
    spatial = tuple(d * (w - 1) + 1 + _small(draw, 1) for d, w in zip(dilation, kernel, strict=True))
    out, into = groups * _small(draw, 2, 1), _small(draw, 1, 1)
    lead = draw(st.sampled_from([(), (1,)]))
    bias = draw(st.none() | arrays((out,)))
    op = ops.Conv(draw(arrays((out, into, *kernel))), bias, stride, before, after, dilation, groups)
    return op, [(*lead, into * groups, *spatial)], None


@_operator(ops.ConvTranspose)
def _(draw: Draw) -> tuple:
    k, groups = _small(draw, 3, 1), _small(draw, 2, 1)
    kernel = tuple(_small(draw, 3, 2) for _ in range(k))  # so large that something is left of one entry
    stride, before, after, dilation = _window(draw, kernel)
    before = tuple(min(b, d * (w - 1) - 1) for b, d, w in zip(before, dilation, kernel, strict=True))
    extra = tuple(_small(draw, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
    out, spatial = _small(draw, 2, 1), tuple(_small(draw, 2, 1) for _ in range(k))
    bias = draw(st.none() | arrays((out * groups,)))
    weight = draw(arrays((groups, out, *kernel)))
    op = ops.ConvTranspose(weight, bias, stride, before, after, dilation, extra, groups)
    return op, [(groups, *spatial)], None


@_operator(ops.Scale)
def _(draw: Draw) -> tuple:
    shape = _shape(draw, least=0)
    return ops.Scale(draw(arrays(shape[-1:])), draw(arrays((1,) * len(shape)))), [shape], None


@_operator(ops.Sum)
def _(draw: Draw) -> tuple:
    shape = _shape(draw)
    others = [shape[1:], (1,) * len(shape), shape[-1:], shape]
    shapes = [shape, *draw(st.lists(st.sampled_from(others), max_size=2))]
    coefficients = tuple(draw(st.sampled_from([1.0, -1.0, 0.5, -2.0, 0.0])) for _ in shapes)
    return ops.Sum(coefficients), draw(st.permutations(shapes)), None


@_operator(ops.Concat)
def _(draw: Draw) -> tuple:
    shape = _shape(draw)
    axis = _small(draw, len(shape) - 1)
    others = [(*shape[:axis], _small(draw, 2, 1), *shape[axis + 1 :]) for _ in range(_small(draw, 2))]
    return ops.Concat(axis), [shape, *others], None


@_operator(ops.Select)
def _(draw: Draw) -> tuple:
    shape = _shape(draw)
    axis = _small(draw, len(shape) - 1)
    steps = st.sampled_from([range(shape[axis]), range(0, shape[axis], 2)]).map(list)
    index = draw(steps | st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))
    return ops.Select(axis, np.array(index, np.int64)), [shape], None


@_operator(ops.Reshape)
def _(draw: Draw) -> tuple:
    shape = _shape(draw)
    return ops.Reshape(), [shape], draw(st.sampled_from([(prod(shape),), (1, *shape), shape[::-1]]))


@_operator(ops.Permute)
def _(draw: Draw) -> tuple:
    shape = _shape(draw, least=0)
    return ops.Permute(tuple(draw(st.permutations(range(len(shape)))))), [shape], None


@_operator(ops.Pad)
def _(draw: Draw) -> tuple:
    shape = _shape(draw, least=0)
    before, after = (tuple(_small(draw, 2) for _ in shape) for _ in range(2))
    return ops.Pad(before, after, draw(st.sampled_from([0.0, 1.5]))), [shape], None


@_operator(ops.ReduceSum)
def _(draw: Draw) -> tuple:
    shape = _shape(draw)
    axes = tuple(a for a in range(len(shape)) if draw(st.booleans()))
    return ops.ReduceSum(axes, draw(st.booleans())), [shape], None


@_operator(ops.Expand)
def _(draw: Draw) -> tuple:
    shape = _shape(draw, least=0, most=2)
    wanted = tuple(2 if n == 1 and draw(st.booleans()) else n for n in shape)
    return ops.Expand(), [shape], draw(st.sampled_from([wanted, (2, *wanted)]))


WITHIN = {
    ops.Exp: (-30.0, 30.0),
    ops.Reciprocal: (0.25, 50.0),
    ops.Log: (0.25, 50.0),
    ops.Sqrt: (0.25, 50.0),
    ops.Rsqrt: (0.25, 50.0),
    ops.Sin: (-100.0, 100.0),
    ops.Cos: (-100.0, 100.0),
}
"""Where `single` lets these operators' arguments be."""


@st.composite
def single(draw: Draw, kind: type[ops.Op]) -> Graph:
    """A graph whose last node is one operator of this kind (a sum with it, for a Constant), each of its
    inputs being an input of the network."""
    op, shapes, wanted = OPERATORS[kind](draw)
    build = GraphBuilder([Port(f"x{i}", shape) for i, shape in enumerate(shapes)])
    if kind in WITHIN:
        return build.build([build.emit(op, build.clip(build.inputs[0], *WITHIN[kind]))], [Port("y", shapes[0])])
    if isinstance(op, ops.Constant):
        y = build.emit(ops.Sum((1.0, 1.0)), op.value, build.inputs[0])
    else:
        y = build.emit(op, *build.inputs, shape=wanted)
    return build.build([y], [Port("y", y.shape)])


KINDS = ("linear", "linear", "activation", "activation", "fork", "sum", "concat", "conv", "slice")
"""What `graphs` appends, and how often."""


@st.composite
def graphs(draw: Draw, size: int = 3, most: int = 8) -> Graph:
    """Up to `most` operators in any order on `size` inputs, with branches that meet again."""
    build = GraphBuilder([Port("x", (size,))])
    values: list[Operand] = [build.inputs[0]]
    for _ in range(draw(st.integers(2, most))):
        x = values[draw(st.integers(max(0, len(values) - 3), len(values) - 1))]
        kind = draw(
            st.sampled_from(["linear", "linear", "activation", "activation", "fork", "sum", "concat", "conv", "slice"])
        )
        if kind == "linear":
            out = draw(st.integers(1, 4))
            x = build.emit(ops.Linear(draw(arrays((out, x.shape[0]))), draw(arrays((out,)))), x)
        elif kind == "activation":
            x = build.emit(draw(st.sampled_from(ACTIVATIONS)), x)
        elif kind == "fork":  # two relaxations of one value
            one, other = (build.emit(draw(st.sampled_from(ACTIVATIONS)), x) for _ in range(2))
            x = build.emit(ops.Sum((1.0, draw(st.sampled_from([1.0, -1.0])))), one, other)
        elif kind == "sum":
            alike = [v for v in values if v.shape == x.shape]
            x = build.emit(ops.Sum((1.0, draw(st.sampled_from([1.0, -1.0])))), x, draw(st.sampled_from(alike)))
        elif kind == "concat" and x.shape[0] < 4:
            other = draw(st.sampled_from(values) | arrays((2,)))
            x = build.emit(ops.Concat(0), x, other)
        elif kind == "conv":
            image = build.reshape(x, (1, x.shape[0]))
            weight = draw(arrays((2, 1, 2)))
            x = build.flatten(build.emit(ops.Conv(weight, draw(arrays((2,))), (2,), (1,), (1,), (1,), 1), image))
        elif kind == "slice" and x.shape[0] > 1:
            x = build.emit(ops.Select(0, np.arange(1, x.shape[0])), x)
        values.append(x)
    y = build.emit(ops.Linear(draw(arrays((2, x.shape[0]))), draw(arrays((2,)))), x)
    return build.build([y], [Port("y", (2,))])


@st.composite
def boxes(draw: Draw, size: int, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """lower, upper (batch, size), finite, lower <= upper."""
    center = draw(arrays((batch, size)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = rng.random((batch, size)) * 10.0 ** draw(st.sampled_from([-12, -6, -1, 0, 0, 0, 1, 3]))
    width *= rng.random((batch, size)) < draw(st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0]))
    below = draw(st.sampled_from([0.0, 0.5, 0.5, 1.0]))
    lower, upper = center - below * width, center + (1 - below) * width
    if draw(st.booleans()):  # ends at a kink
        lower, upper = np.where(rng.random(lower.shape) < 0.3, np.minimum(0.0, upper), lower), upper
    return lower, np.maximum(lower, upper)


@st.composite
def input_sets(draw: Draw, size: int, batch: int = 3) -> InputSet:
    """Boxes, or balls in the L1 or L2 norm met with boxes, in float64."""
    lower, upper = (torch.from_numpy(b) for b in draw(boxes(size, batch)))
    norm = draw(st.sampled_from([None, None, 1.0, 2.0]))
    if norm is None:
        return InputSet(lower, upper)
    radius = ((upper - lower).norm(p=norm, dim=1) / 2).clamp_min(1e-9)
    return InputSet(lower, upper, norm, (lower + upper) / 2, radius * draw(st.sampled_from([0.3, 0.7, 1.0])))
