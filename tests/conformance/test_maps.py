"""What operators do to tensors, against NumPy and torch, and the maps of an affine operator against its matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from certify.graph import ops
from certify.graph.affine import Map
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Graph, Node
from certify.graph.rules import Rules
from tests import strategies

quick = settings(max_examples=25, suppress_health_check=list(HealthCheck))

REFERENCE: Rules[Callable[[ops.Op, Node, Sequence[np.ndarray]], np.ndarray]] = Rules("reference")
"""op -> its value from its inputs' values, none of which have a batch axis. As `ops` says it, in other words
than `certify.graph` has."""


@REFERENCE(ops.Constant)
def _(op: ops.Constant, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return op.value


@REFERENCE(ops.Linear)
def _(op: ops.Linear, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.einsum("...i,oi->...o", xs[0], op.weight) + (0 if op.bias is None else op.bias)


@REFERENCE(ops.Conv)
def _(op: ops.Conv, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    """Every output entry as a sum over its window."""
    k = len(op.stride)
    x = np.pad(xs[0].reshape(-1, *xs[0].shape[-k - 1 :]), [(0, 0), (0, 0), *zip(op.before, op.after, strict=True)])
    out = np.zeros((len(x), *node.shape[-k - 1 :]))
    into, each = op.weight.shape[1], op.weight.shape[0] // op.groups
    for at in np.ndindex(*out.shape):
        first = (at[1] // each) * into
        for offset in np.ndindex(*op.weight.shape[1:]):
            place = tuple(p * s + o * d for p, s, o, d in zip(at[2:], op.stride, offset[1:], op.dilation, strict=True))
            out[at] += x[(at[0], first + offset[0], *place)] * op.weight[(at[1], *offset)]
        out[at] += 0 if op.bias is None else op.bias[at[1]]
    return out.reshape(node.shape)


@REFERENCE(ops.ConvTranspose)
def _(op: ops.ConvTranspose, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    """Every input entry spread over its window, and the ends cut off."""
    k = len(op.stride)
    x = xs[0].reshape(-1, *xs[0].shape[-k - 1 :])
    sizes = node.shape[-k:]
    full = [n + b + a for n, b, a in zip(sizes, op.before, op.after, strict=True)]
    out = np.zeros((len(x), op.weight.shape[1] * op.groups, *full))
    each = x.shape[1] // op.groups
    for at in np.ndindex(*x.shape):
        for offset in np.ndindex(*op.weight.shape[1:]):
            place = tuple(p * s + o * d for p, s, o, d in zip(at[2:], op.stride, offset[1:], op.dilation, strict=True))
            channel = (at[1] // each) * op.weight.shape[1] + offset[0]
            out[(at[0], channel, *place)] += x[at] * op.weight[(at[1], *offset)]
    kept = out[(..., *(slice(b, b + n) for b, n in zip(op.before, sizes, strict=True)))]
    bias = 0 if op.bias is None else op.bias.reshape(-1, *[1] * k)
    return (kept + bias).reshape(node.shape)


@REFERENCE(ops.Scale)
def _(op: ops.Scale, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return op.scale * xs[0] + op.shift


@REFERENCE(ops.Sum)
def _(op: ops.Sum, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return sum(c * x for c, x in zip(op.coefficients, xs, strict=True))


@REFERENCE(ops.Concat)
def _(op: ops.Concat, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(xs, op.axis)


@REFERENCE(ops.Select)
def _(op: ops.Select, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.take(xs[0], op.index, op.axis)


@REFERENCE(ops.Reshape)
def _(op: ops.Reshape, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0].reshape(node.shape)


@REFERENCE(ops.Permute)
def _(op: ops.Permute, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.transpose(xs[0], op.axes)


@REFERENCE(ops.Pad)
def _(op: ops.Pad, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    pads = np.array([op.before, op.after], int).T
    return np.pad(xs[0], pads, constant_values=op.value) if pads.size else xs[0]


@REFERENCE(ops.ReduceSum)
def _(op: ops.ReduceSum, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0].sum(op.axes, keepdims=op.keepdims)


@REFERENCE(ops.Expand)
def _(op: ops.Expand, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.broadcast_to(xs[0], node.shape)


@REFERENCE(ops.Relu)
def _(op: ops.Relu, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.maximum(xs[0], 0)


@REFERENCE(ops.LeakyRelu)
def _(op: ops.LeakyRelu, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.maximum(xs[0], 0) + op.slope * np.minimum(xs[0], 0)


@REFERENCE(ops.Clip)
def _(op: ops.Clip, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.minimum(np.maximum(xs[0], op.lower), op.upper)


@REFERENCE(ops.Abs)
def _(op: ops.Abs, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.maximum(xs[0], -xs[0])


@REFERENCE(ops.Sign)
def _(op: ops.Sign, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return (xs[0] > 0) * 1.0 - (xs[0] < 0)


@REFERENCE(ops.Sigmoid)
def _(op: ops.Sigmoid, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-xs[0]))


@REFERENCE(ops.Tanh)
def _(op: ops.Tanh, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.tanh(xs[0])


@REFERENCE(ops.Exp)
def _(op: ops.Exp, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.exp(xs[0])


@REFERENCE(ops.Square)
def _(op: ops.Square, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0] * xs[0]


@REFERENCE(ops.Reciprocal)
def _(op: ops.Reciprocal, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 1 / xs[0]


@REFERENCE(ops.Sin)
def _(op: ops.Sin, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.sin(xs[0])


@REFERENCE(ops.Cos)
def _(op: ops.Cos, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.cos(xs[0])


@REFERENCE(ops.Floor)
def _(op: ops.Floor, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.trunc(xs[0]) - (xs[0] < np.trunc(xs[0]))


@REFERENCE(ops.Log)
def _(op: ops.Log, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.log(xs[0])


@REFERENCE(ops.Sqrt)
def _(op: ops.Sqrt, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.sqrt(xs[0])


@REFERENCE(ops.Rsqrt)
def _(op: ops.Rsqrt, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return 1 / np.sqrt(xs[0])


@REFERENCE(ops.Softplus)
def _(op: ops.Softplus, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.logaddexp(0, xs[0])


@REFERENCE(ops.Erf)
def _(op: ops.Erf, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return scipy.special.erf(xs[0])


@REFERENCE(ops.Gelu)
def _(op: ops.Gelu, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0] * scipy.special.ndtr(xs[0])


@REFERENCE(ops.GeluTanh)
def _(op: ops.GeluTanh, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0] * scipy.special.expit(2 * math.sqrt(2 / math.pi) * (xs[0] + 0.044715 * xs[0] ** 3))


@REFERENCE(ops.Silu)
def _(op: ops.Silu, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0] * scipy.special.expit(xs[0])


@REFERENCE(ops.Mish)
def _(op: ops.Mish, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0] * np.tanh(np.logaddexp(0, xs[0]))


@REFERENCE(ops.Elu)
def _(op: ops.Elu, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.where(xs[0] >= 0, xs[0], op.alpha * np.expm1(np.minimum(xs[0], 0)))


@REFERENCE(ops.HardSwish)
def _(op: ops.HardSwish, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    return xs[0] * np.minimum(np.maximum(xs[0] + 3, 0), 6) / 6


@REFERENCE(ops.Product)
def _(op: ops.Product, node: Node, xs: Sequence[np.ndarray]) -> np.ndarray:
    flat = xs[0].flatten()
    return np.array([flat[i] * flat[j] for i, j in zip(op.left.flat, op.right.flat, strict=True)]).reshape(node.shape)


OPERATORS = sorted(set(ops.registered().values()) - {ops.Input}, key=lambda kind: kind.__name__)
every = pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
affine = pytest.mark.parametrize("kind", [k for k in OPERATORS if issubclass(k, ops.Affine)], ids=lambda k: k.__name__)


def _close(a: np.ndarray, b: np.ndarray, size: np.ndarray | float = 0.0) -> bool:
    return bool((np.abs(a - b) <= 1e-12 * (np.abs(b) + size) + 1e-300).all())


@every
def test_operators_compute_what_they_say(kind: type[ops.Op]) -> None:
    @quick
    @given(strategies.single(kind), st.data())
    def run(graph: Graph, data: st.DataObject) -> None:
        x = data.draw(strategies.arrays((3, graph.input_size)))
        network = Network(graph, torch.float64)
        found = network.values(torch.from_numpy(x))
        for i, node in enumerate(graph.nodes):
            assert node.shape == tuple(found[i].shape[1:])
        for b in range(3):
            known: list[np.ndarray] = [x[b].reshape(graph.input_shape)]
            sizes: list[np.ndarray] = [np.abs(known[0])]
            for i, node in enumerate(graph.nodes[1:], 1):
                known.append(REFERENCE[node.op](node.op, node, [known[j] for j in node.inputs]))
                row = slice(b, b + 1) if found[i].shape[0] == 3 else slice(0, 1)
                sizes.append(_size(network, i, [sizes[j] for j in node.inputs]))
                assert _close(found[i][row].numpy()[0], known[i], sizes[i])
        outputs = evaluate(graph, x)
        assert outputs.shape == (3, graph.output_size)
        assert np.array_equal(outputs, network(torch.from_numpy(x)).numpy())

    run()


def _size(network: Network, i: int, sizes: Sequence[np.ndarray]) -> np.ndarray:
    """How large the numbers are that are added up to node i's value: what its rounding is relative to."""
    mapping = network.maps[i]
    op = network.graph.nodes[i].op
    if isinstance(op, ops.Product):
        return sizes[0].flat[op.left] * sizes[0].flat[op.right]
    if mapping is None:
        slope = getattr(op, "slope", np.zeros(()))
        return sizes[0] * (1 + np.abs(slope))
    total = mapping.absolute(*(torch.from_numpy(np.array(s))[None] for s in sizes))
    return (total if mapping.bias is None else total + mapping.bias.abs())[0].numpy()


def _last(graph: Graph) -> tuple[Map, list[tuple[int, ...]], tuple[int, ...]]:
    """The map of the operator in question, its inputs' shapes, its shape."""
    network = Network(graph, torch.float64)
    i = len(graph.nodes) - 1
    return network.maps[i], [graph.nodes[j].shape for j in graph.nodes[i].inputs], graph.nodes[i].shape


def _matrix(mapping: Map, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """M, column by column: (size of input, size of output) per input."""
    found = []
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
    for k, shape in enumerate(shapes):
        unit = torch.eye(int(np.prod(shape)), dtype=torch.float64)
        columns = []
        for column in unit:
            xs = list(zeros)
            xs[k] = column.reshape(1, *shape)
            columns.append(mapping.linear(*xs).flatten())
        found.append(torch.stack(columns))
    return found


@affine
def test_maps_agree_with_their_matrix(kind: type[ops.Op]) -> None:
    """linear, forward, absolute, adjoint and bias_term, all for a batch of three."""

    @quick
    @given(strategies.single(kind), st.data())
    def run(graph: Graph, data: st.DataObject) -> None:
        mapping, shapes, shape = _last(graph)
        matrix = _matrix(mapping, shapes)
        xs = [torch.from_numpy(data.draw(strategies.arrays((3, *s)))) for s in shapes]
        a = torch.from_numpy(data.draw(strategies.arrays((3, *shape))))

        def product(inputs: Sequence[Tensor], absolute: bool = False) -> Tensor:
            terms = (x.reshape(3, -1) @ (m.abs() if absolute else m) for x, m in zip(inputs, matrix, strict=True))
            return sum(terms).reshape(3, *shape)

        size = product([x.abs() for x in xs], absolute=True)
        zero = mapping.forward(*(torch.zeros(1, *s, dtype=torch.float64) for s in shapes))
        bias = torch.zeros_like(zero) if mapping.bias is None else mapping.bias.expand(1, *shape)
        assert torch.equal(zero, bias)
        assert _close(mapping.linear(*xs).numpy(), product(xs).numpy(), size.numpy())
        assert _close(mapping.forward(*xs).numpy(), (product(xs) + bias).numpy(), (size + bias.abs()).numpy())
        assert _close(mapping.absolute(*xs).numpy(), product(xs, absolute=True).numpy(), size.numpy())
        backward = mapping.adjoint(a)
        assert len(backward) == len(shapes)
        for back, m, s in zip(backward, matrix, shapes, strict=True):
            assert back.shape == (3, *s)
            expected = (a.reshape(3, -1) @ m.T).reshape(3, *s)
            assert _close(back.numpy(), expected.numpy(), (a.abs().reshape(3, -1) @ m.abs().T).reshape(3, *s).numpy())
        left = (mapping.linear(*xs) * a).reshape(3, -1).sum(1)
        right = sum((x * b).reshape(3, -1).sum(1) for x, b in zip(xs, backward, strict=True))
        assert _close(left.numpy(), right.numpy(), (size * a.abs()).reshape(3, -1).sum(1).numpy())
        term = mapping.bias_term(a)
        expected = (a * bias).reshape(3, -1).sum(1)
        if term is None:
            assert not bias.any()
        else:
            assert _close(term.numpy(), expected.numpy(), (a * bias).abs().reshape(3, -1).sum(1).numpy())

    run()


@affine
def test_maps_take_constants_with_a_batch_of_one(kind: type[ops.Op]) -> None:
    """As bounds have them, in any of an operator's inputs."""

    @quick
    @given(strategies.single(kind), st.data())
    def run(graph: Graph, data: st.DataObject) -> None:
        mapping, shapes, _ = _last(graph)
        xs = [torch.from_numpy(data.draw(strategies.arrays((1 if k else 3, *s)))) for k, s in enumerate(shapes)]
        full = [x.expand(3, *x.shape[1:]) for x in xs]
        assert torch.equal(mapping.forward(*xs), mapping.forward(*full))
        assert torch.equal(mapping.absolute(*xs), mapping.absolute(*full))

    run()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_are_torchs(dims: int) -> None:
    """The defining sums above, and torch's own convolutions with equal padding, agree."""
    rng = np.random.default_rng(dims)
    weight, bias = rng.standard_normal((4, 3, *[2] * dims)), rng.standard_normal(4)
    x = rng.standard_normal((3, *[4] * dims))
    ones = (1,) * dims
    op = ops.Conv(weight, bias, (2,) * dims, ones, ones, ones, 1)
    conv = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    expected = conv(torch.from_numpy(x)[None], torch.from_numpy(weight), torch.from_numpy(bias), 2, 1)[0].numpy()
    assert _close(REFERENCE[op](op, Node(op, (0,), expected.shape, ""), [x]), expected, 10)
    back = ops.ConvTranspose(weight, None, (2,) * dims, ones, ones, ones, ones, 1)
    transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    y = rng.standard_normal((4, *[3] * dims))
    expected = transpose(torch.from_numpy(y)[None], torch.from_numpy(weight), None, 2, 1, 1)[0].numpy()
    assert _close(REFERENCE[back](back, Node(back, (0,), expected.shape, ""), [y]), expected, 10)


def test_every_operator_has_a_reference() -> None:
    assert set(REFERENCE.table) == set(OPERATORS)
