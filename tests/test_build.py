"""The builder: every method on variables against NumPy or torch, and on constants against itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from certify.errors import MalformedNetwork
from certify.graph import ops
from certify.graph.build import GraphBuilder, NotLowered, Operand, Var
from certify.graph.einsum import einsum
from certify.graph.evaluate import evaluate
from certify.graph.ir import Graph, Port
from certify.graph.shapes import infer_shape
from certify.graph.softmax import softmax
from certify.graph.steps import where
from certify.graph.store import load, save
from certify.graph.windows import Window, avg_pool, global_avg_pool, global_max_pool, max_pool, reduce_max, sum_pool

Array = np.ndarray
Builds = Callable[[GraphBuilder, Operand], Operand]
RNG = np.random.default_rng(0)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def graph_of(builds: Builds, shape: tuple[int, ...]) -> Graph:
    b = GraphBuilder([Port("x", shape)])
    b.at("tested")
    y = builds(b, b.inputs[0])
    return b.build([y], [Port("y", y.shape)])


def run(graph: Graph, x: Array) -> Array:
    return evaluate(graph, x.reshape(1, -1)).reshape(graph.nodes[-1].shape)


def pooled(kind: Callable, **options: object) -> Callable[[Array], Array]:
    return lambda x: kind(torch.from_numpy(x), **options).numpy()


def torch_conv(kind: Callable, weight: Array, bias: Array | None = None, **options: object) -> Callable[[Array], Array]:
    fixed = [torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)]
    return lambda x: kind(torch.from_numpy(x), *fixed, **options).numpy()


W23, ROW, MATRIX, BATCHED = draw(2, 3), draw(3), draw(4, 5), draw(2, 3, 4, 5)
CONV, BIAS, GROUPED, CONV1, CONV3 = draw(4, 3, 3, 2), draw(4), draw(6, 1, 2, 2), draw(4, 3, 3), draw(2, 3, 2, 2, 2)
UP = draw(3, 2, 3, 2)
NORM = [draw(3), draw(3), draw(3), np.abs(draw(3)) + 0.1]


def norm(x: Array) -> Array:
    w, b, m, v = (a.reshape(-1, 1, 1) for a in NORM)
    return (x - m) / np.sqrt(v + 1e-5) * w + b


CASES: dict[str, tuple[tuple[int, ...], Builds, Callable[[Array], Array]]] = {
    "reshape": ((2, 3, 4), lambda b, x: b.reshape(x, (4, -1)), lambda x: x.reshape(4, -1)),
    "flatten": ((2, 3, 4), lambda b, x: b.flatten(x, 1), lambda x: x.reshape(2, 12)),
    "flatten scalar": ((), lambda b, x: b.flatten(x), lambda x: x.reshape(1)),
    "squeeze": ((1, 3, 1), lambda b, x: b.squeeze(x, [-1]), lambda x: x[..., 0]),
    "squeeze all": ((1, 3, 1), lambda b, x: b.squeeze(x), lambda x: x[0, :, 0]),
    "unsqueeze": ((3, 2), lambda b, x: b.unsqueeze(x, [0, -1]), lambda x: x[None, ..., None]),
    "permute": ((2, 3, 4), lambda b, x: b.permute(x, (2, 0, -2)), lambda x: x.transpose(2, 0, 1)),
    "select": ((4, 3), lambda b, x: b.select(x, 0, np.array([-1, 0, 0, 2])), lambda x: x[[3, 0, 0, 2]]),
    "select of select": (
        (5,),
        lambda b, x: b.select(b.select(x, 0, np.array([4, 2, 0])), 0, np.array([-1, 0, 1, 1])),
        lambda x: x[[0, 4, 2, 2]],
    ),
    "gather": ((4, 3), lambda b, x: b.gather(x, 1, [[0, 2], [-1, 1]]), lambda x: x[:, [[0, 2], [2, 1]]]),
    "gather scalar": ((4, 3), lambda b, x: b.gather(x, -1, 1), lambda x: x[:, 1]),
    "slice": ((7, 2), lambda b, x: b.slice(x, 0, -2, -100, -2), lambda x: x[-2::-2]),
    "slice far": ((7, 2), lambda b, x: b.slice(x, 0, 1, 2**62, 3), lambda x: x[1::3]),
    "split": ((5, 2), lambda b, x: b.concat(b.split(x, 0, [2, 3])[::-1], 0), lambda x: np.concatenate([x[2:], x[:2]])),
    "concat constant": ((2, 3), lambda b, x: b.concat([W23, x, W23], 1), lambda x: np.hstack([W23, x, W23])),
    "concat empty": ((2, 3), lambda b, x: b.concat([x, np.zeros((2, 0))], 1), lambda x: x),
    "stack": ((2, 3), lambda b, x: b.stack([x, W23], -1), lambda x: np.stack([x, W23], -1)),
    "expand": ((3, 1), lambda b, x: b.expand(x, (2, 1, 4)), lambda x: np.broadcast_to(x, (2, 3, 4))),
    "tile": ((2, 3), lambda b, x: b.tile(x, (2, 3)), lambda x: np.tile(x, (2, 3))),
    "pad": (
        (2, 3),
        lambda b, x: b.pad(x, (1, 0), (0, 2), 0.5),
        lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=0.5),
    ),
    "pad and cut": ((4, 3), lambda b, x: b.pad(x, (-1, 1), (-2, 0)), lambda x: np.pad(x[1:2], ((0, 0), (1, 0)))),
    "pad reflect": (
        (4, 3),
        lambda b, x: b.pad_copies(x, (2, 0), (3, 1), "reflect"),
        lambda x: np.pad(x, ((2, 3), (0, 1)), "reflect"),
    ),
    "pad edge": (
        (4, 3),
        lambda b, x: b.pad_copies(x, (2, -1), (0, 1), "edge"),
        lambda x: np.pad(x, ((2, 0), (0, 1)), "edge")[:, 1:],
    ),
    "pad wrap": ((3,), lambda b, x: b.pad_copies(x, (2,), (1,), "wrap"), lambda x: np.pad(x, (2, 1), "wrap")),
    "add row": ((2, 3), lambda b, x: b.add(ROW, x), lambda x: x + ROW),
    "add larger": ((3,), lambda b, x: b.add(x, W23), lambda x: x + W23),
    "add itself": ((2, 3), lambda b, x: b.add(x, b.relu(x)), lambda x: x + np.maximum(x, 0)),
    "broadcast sum": ((2, 1), lambda b, x: b.sub(x, b.reshape(x, (1, 2))), lambda x: x - x.reshape(1, 2)),
    "sub from constant": ((2, 3), lambda b, x: b.sub(W23, x), lambda x: W23 - x),
    "sum": ((2, 3), lambda b, x: b.sum([x, ROW, x, W23], [2, 3, -0.5, 1]), lambda x: 1.5 * x + 3 * ROW + W23),
    "neg": ((3,), lambda b, x: b.neg(x), lambda x: -x),
    "mul": ((2, 3), lambda b, x: b.mul(ROW, x), lambda x: x * ROW),
    "mul larger": ((3,), lambda b, x: b.mul(x, W23), lambda x: x * W23),
    "mul integer": ((3,), lambda b, x: b.mul(x, np.array([1, 2, 3])), lambda x: x * [1, 2, 3]),
    "div": ((2, 3), lambda b, x: b.div(x, ROW), lambda x: x / ROW),
    "bias": ((2, 4), lambda b, x: b.add(b.matmul(x, MATRIX), MATRIX[:1]), lambda x: x @ MATRIX + MATRIX[:1]),
    "not a bias": ((4, 4), lambda b, x: b.add(b.matmul(x, MATRIX), MATRIX), lambda x: x @ MATRIX + MATRIX),
    "reduce_sum": ((2, 3, 4), lambda b, x: b.reduce_sum(x, [-1, 0]), lambda x: x.sum((0, 2))),
    "reduce_sum all": ((2, 3), lambda b, x: b.reduce_sum(x, keepdims=True), lambda x: x.sum(keepdims=True)),
    "reduce_sum to a scalar": ((2, 3), lambda b, x: b.reduce_sum(x), lambda x: x.sum()),
    "reduce_mean": ((2, 3, 4), lambda b, x: b.reduce_mean(x, [1], True), lambda x: x.mean(1, keepdims=True)),
    "linear": ((2, 3), lambda b, x: b.linear(x, W23, ROW[:2]), lambda x: x @ W23.T + ROW[:2]),
    "linear matrix bias": ((2, 3), lambda b, x: b.linear(x, W23, W23[:, :2]), lambda x: x @ W23.T + W23[:, :2]),
    "matmul": ((6, 2, 4), lambda b, x: b.matmul(x, MATRIX), lambda x: x @ MATRIX),
    "matmul unit batch": ((4,), lambda b, x: b.matmul(x, MATRIX[None]), lambda x: x @ MATRIX[None]),
    "matmul left": ((6, 5, 2), lambda b, x: b.matmul(MATRIX, x), lambda x: MATRIX @ x),
    "matmul vector": ((4,), lambda b, x: b.matmul(x, MATRIX), lambda x: x @ MATRIX),
    "matmul left vector": ((5,), lambda b, x: b.matmul(MATRIX, x), lambda x: MATRIX @ x),
    "matmul by vector": ((2, 4), lambda b, x: b.matmul(x, MATRIX[:, 0]), lambda x: x @ MATRIX[:, 0]),
    "matmul vector left": ((4, 3), lambda b, x: b.matmul(MATRIX[:, 0], x), lambda x: MATRIX[:, 0] @ x),
    "matmul dot": ((4,), lambda b, x: b.matmul(MATRIX[:, 0], x), lambda x: MATRIX[:, 0] @ x),
    "matmul batched": ((2, 3, 6, 4), lambda b, x: b.matmul(x, BATCHED), lambda x: x @ BATCHED),
    "matmul batched broadcast": ((3, 1, 4), lambda b, x: b.matmul(x, BATCHED), lambda x: x @ BATCHED),
    "matmul batched left": ((5, 2), lambda b, x: b.matmul(BATCHED, x), lambda x: BATCHED @ x),
    "conv": (
        (2, 3, 7, 6),
        lambda b, x: b.conv(x, CONV, BIAS, stride=(2, 1), before=(1, 0), after=(1, 0), dilation=(1, 2)),
        torch_conv(F.conv2d, CONV, BIAS, stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    ),
    "conv uneven": (
        (3, 7, 6),
        lambda b, x: b.conv(x, CONV, before=(2, 0), after=(0, 1)),
        lambda x: torch_conv(F.conv2d, CONV)(np.pad(x, ((0, 0), (2, 0), (0, 1)))),
    ),
    "conv grouped": (
        (1, 3, 5, 5),
        lambda b, x: b.conv(x, GROUPED, groups=3),
        torch_conv(F.conv2d, GROUPED, groups=3),
    ),
    "conv1d": ((2, 3, 8), lambda b, x: b.conv(x, CONV1, stride=(3,)), torch_conv(F.conv1d, CONV1, stride=3)),
    "conv3d": ((1, 3, 3, 4, 5), lambda b, x: b.conv(x, CONV3), torch_conv(F.conv3d, CONV3)),
    "conv bias": (
        (1, 3, 4, 4),
        lambda b, x: b.add(b.conv(x, CONV), BIAS.reshape(4, 1, 1)),
        torch_conv(F.conv2d, CONV, BIAS),
    ),
    "conv_transpose": (
        (2, 3, 4, 5),
        lambda b, x: b.conv_transpose(
            x, UP, BIAS[:2], stride=(2, 3), before=(1, 0), after=(1, 0), dilation=(1, 2), output_padding=(1, 2)
        ),
        torch_conv(
            F.conv_transpose2d, UP, BIAS[:2], stride=(2, 3), padding=(1, 0), dilation=(1, 2), output_padding=(1, 2)
        ),
    ),
    "batch_norm": ((2, 3, 2, 2), lambda b, x: b.batch_norm(x, *NORM, 1e-5), norm),
    "relu": ((2, 3), lambda b, x: b.relu(x), lambda x: np.maximum(x, 0)),
    "leaky_relu": ((2, 3), lambda b, x: b.leaky_relu(x, 0.1), lambda x: np.where(x >= 0, x, 0.1 * x)),
    "prelu": ((2, 3), lambda b, x: b.leaky_relu(x, ROW), lambda x: np.where(x >= 0, x, ROW * x)),
    "clip": ((2, 3), lambda b, x: b.clip(x, -0.3, 0.4), lambda x: x.clip(-0.3, 0.4)),
    "clip below": ((2, 3), lambda b, x: b.clip(x, upper=0.4), lambda x: np.minimum(x, 0.4)),
    "clip crossed": ((2, 3), lambda b, x: b.clip(x, 0.5, -0.5), lambda x: np.full_like(x, -0.5)),
    "hard_sigmoid": ((9,), lambda b, x: b.hard_sigmoid(x, 0.7, 0.4), lambda x: (0.7 * x + 0.4).clip(0, 1)),
    "abs": ((9,), lambda b, x: b.abs(x), np.abs),
    "sign": ((9,), lambda b, x: b.sign(x), np.sign),
    "sigmoid": ((9,), lambda b, x: b.sigmoid(x), lambda x: 1 / (1 + np.exp(-x))),
    "tanh": ((9,), lambda b, x: b.tanh(x), np.tanh),
    "curves": (
        (9,),
        lambda b, x: b.sum([b.exp(x), b.sin(x), b.cos(x)], [1, 1, 1]),
        lambda x: np.exp(x) + np.sin(x) + np.cos(x),
    ),
    "floor": ((9,), lambda b, x: b.floor(b.scale(x, 3.0, 0.1)), lambda x: np.floor(3 * x + 0.1)),
    "mul of variables": ((2, 3), lambda b, x: b.mul(x, b.slice(x, 0, 0, 1)), lambda x: x * x[:1]),
    "div by a variable": (
        (2, 3),
        lambda b, x: b.div(ROW, b.scale(b.abs(x), 1.0, 1.0)),
        lambda x: ROW / (np.abs(x) + 1),
    ),
    "power": (
        (9,),
        lambda b, x: b.sum([b.power(x, n) for n in (0, 1, 2, 3, 7)], [1] * 5),
        lambda x: 1 + x + x**2 + x**3 + x**7,
    ),
    "power below 0": ((9,), lambda b, x: b.power(b.scale(b.abs(x), 1.0, 1.0), -3), lambda x: (np.abs(x) + 1) ** -3),
    "matmul of variables": ((2, 3, 4), lambda b, x: b.matmul(x, b.transpose(x)), lambda x: x @ np.swapaxes(x, -1, -2)),
    "matmul with a vector": (
        (3, 3),
        lambda b, x: b.matmul(b.reshape(b.slice(x, 0, 0, 1), (3,)), x),
        lambda x: x[0] @ x,
    ),
    "softmax": ((2, 4, 3), lambda b, x: softmax(b, x, 1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    "softmax of one": ((2, 1), lambda b, x: softmax(b, x, 1), lambda x: np.ones_like(x)),
    "maximum": ((2, 3), lambda b, x: b.maximum(x, b.mul(x, ROW)), lambda x: np.maximum(x, x * ROW)),
    "minimum": ((2, 3), lambda b, x: b.minimum(x, b.mul(x, ROW)), lambda x: np.minimum(x, x * ROW)),
    "maximum constant": ((2, 3), lambda b, x: b.maximum(ROW, x), lambda x: np.maximum(x, ROW)),
    "minimum constant": ((3,), lambda b, x: b.minimum(x, W23), lambda x: np.minimum(x, W23)),
    "minimum scalar": ((2, 3), lambda b, x: b.minimum(np.float32(0.25), x), lambda x: np.minimum(x, 0.25)),
    "maximum larger": (
        (3,),
        lambda b, x: b.maximum(x, np.full((2, 3), 0.1)),
        lambda x: np.maximum(x, np.full((2, 3), 0.1)),
    ),
    "max_pool": (
        (2, 3, 7, 8),
        lambda b, x: max_pool(b, x, Window((3, 2), (2, 1), (1, 1), (1, 1), (2, 3))),
        pooled(F.max_pool2d, kernel_size=(3, 2), stride=(2, 1), padding=(1, 1), dilation=(2, 3)),
    ),
    "max_pool ceil": (
        (1, 3, 8, 6),
        lambda b, x: max_pool(b, x, Window((3, 5), (2, 4), (1, 2), (1, 2), (1, 1), True)),
        pooled(F.max_pool2d, kernel_size=(3, 5), stride=(2, 4), padding=(1, 2), ceil_mode=True),
    ),
    "max_pool 1d": (
        (3, 9),
        lambda b, x: max_pool(b, x, Window((4,), (3,), (0,), (0,), (1,))),
        pooled(F.max_pool1d, kernel_size=4, stride=3),
    ),
    "max_pool 3d": (
        (1, 2, 4, 5, 6),
        lambda b, x: max_pool(b, x, Window((2, 3, 1), (2, 1, 2), (0, 1, 0), (0, 1, 0), (1, 1, 1))),
        pooled(F.max_pool3d, kernel_size=(2, 3, 1), stride=(2, 1, 2), padding=(0, 1, 0)),
    ),
    "avg_pool": (
        (2, 3, 7, 8),
        lambda b, x: avg_pool(b, x, Window((3, 2), (2, 1), (1, 1), (1, 1), (1, 1)), count_padding=True),
        pooled(F.avg_pool2d, kernel_size=(3, 2), stride=(2, 1), padding=(1, 1)),
    ),
    "avg_pool inside": (
        (2, 3, 7, 8),
        lambda b, x: avg_pool(b, x, Window((3, 2), (2, 1), (1, 1), (1, 1), (1, 1))),
        pooled(F.avg_pool2d, kernel_size=(3, 2), stride=(2, 1), padding=(1, 1), count_include_pad=False),
    ),
    "avg_pool ceil": (
        (1, 3, 8, 6),
        lambda b, x: avg_pool(b, x, Window((3, 5), (2, 4), (1, 2), (1, 2), (1, 1), True), count_padding=True),
        pooled(F.avg_pool2d, kernel_size=(3, 5), stride=(2, 4), padding=(1, 2), ceil_mode=True),
    ),
    "avg_pool ceil inside": (
        (1, 3, 8, 6),
        lambda b, x: avg_pool(b, x, Window((3, 5), (2, 4), (1, 2), (1, 2), (1, 1), True)),
        pooled(
            F.avg_pool2d, kernel_size=(3, 5), stride=(2, 4), padding=(1, 2), ceil_mode=True, count_include_pad=False
        ),
    ),
    "sum_pool": (
        (1, 3, 4, 4),
        lambda b, x: sum_pool(b, x, Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))),
        lambda x: 4 * pooled(F.avg_pool2d, kernel_size=2)(x),
    ),
    "global_avg_pool": ((2, 3, 4, 5), lambda b, x: global_avg_pool(b, x, 2), lambda x: x.mean((2, 3), keepdims=True)),
    "global_max_pool": ((2, 3, 4, 5), lambda b, x: global_max_pool(b, x, 2), lambda x: x.max((2, 3), keepdims=True)),
    "reduce_max": ((2, 7, 4), lambda b, x: reduce_max(b, x, [1]), lambda x: x.max(1, keepdims=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_method_computes_what_numpy_does(name: str) -> None:
    shape, builds, expected = CASES[name]
    graph = graph_of(builds, shape)
    for x in (draw(*shape), np.zeros(shape), -np.ones(shape), np.round(draw(*shape))):
        want = expected(x)
        assert graph.nodes[-1].shape == want.shape
        np.testing.assert_allclose(run(graph, x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_constants_fold_to_the_same_value(name: str) -> None:
    shape, builds, expected = CASES[name]
    x = draw(*shape)
    b = GraphBuilder([Port("x", (1,))])
    folded = builds(b, x)
    assert not isinstance(folded, Var)
    assert len(b.nodes) == 1
    assert folded.shape == expected(x).shape
    np.testing.assert_allclose(folded, expected(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_graph_is_consistent_and_survives_storing(name: str, tmp_path) -> None:
    shape, builds, _ = CASES[name]
    graph = graph_of(builds, shape)
    for node in graph.nodes[1:]:
        inputs = [graph.nodes[i].shape for i in node.inputs]
        assert infer_shape(node.op, inputs, node.shape) == node.shape
    read = {i for node in graph.nodes for i in node.inputs}
    assert read | {0, len(graph.nodes) - 1} == set(range(len(graph.nodes)))
    save(graph, tmp_path / "graph.npz")
    again = load(tmp_path / "graph.npz")
    x = draw(*shape)
    np.testing.assert_array_equal(run(again, x), run(graph, x))


def test_weights_keep_their_stored_type() -> None:
    weight = np.float32(draw(4, 3))
    graph = graph_of(lambda b, x: b.mul(b.add(b.linear(x, weight), np.float32(draw(4))), np.float16(0.5)), (2, 3))
    linear, scale = graph.nodes[1].op, graph.nodes[2].op
    assert linear.weight is weight
    assert linear.bias.dtype == scale.scale.dtype == np.float32
    assert graph_of(lambda b, x: b.div(x, np.float32(3)), (2,)).nodes[1].op.scale == np.float64(1) / np.float64(3)


def test_no_node_where_nothing_changes() -> None:
    identities: list[Builds] = [
        lambda b, x: b.reshape(b.reshape(x, (3, 2)), (2, 3)),
        lambda b, x: b.permute(x, (0, 1)),
        lambda b, x: b.slice(x, 0, None, None),
        lambda b, x: b.pad(x, (0, 0), (0, 0)),
        lambda b, x: b.clip(x),
        lambda b, x: b.add(x, np.zeros((1, 3))),
        lambda b, x: b.mul(x, np.ones(3)),
        lambda b, x: b.expand(x, (2, 1)),
        lambda b, x: b.concat([x], 0),
        lambda b, x: b.reduce_sum(x, [], True),
        lambda b, x: b.tile(x, (1, 1)),
    ]
    for builds in identities:
        b = GraphBuilder([Port("x", (2, 3))])
        assert builds(b, b.inputs[0]) == b.inputs[0]


def test_nothing_is_fused_that_would_round() -> None:
    graph = graph_of(lambda b, x: b.add(b.mul(b.linear(b.linear(x, W23), W23.T), ROW), ROW), (2, 3))
    assert [type(n.op) for n in graph.nodes[1:]] == [ops.Linear, ops.Linear, ops.Scale, ops.Scale]
    biased = graph_of(lambda b, x: b.add(b.linear(x, W23, ROW[:2]), ROW[:2]), (2, 3))
    assert [type(n.op) for n in biased.nodes[1:]] == [ops.Linear, ops.Scale]


def test_several_inputs_and_outputs() -> None:
    ports = [Port("a", (2, 2)), Port("b", (3,)), Port("c", ())]
    builder = GraphBuilder(ports)
    a, b, c = builder.inputs
    outputs = [builder.add(a, c), b, np.arange(2.0), builder.reduce_sum(b)]
    graph = builder.build(outputs, [Port(n, o.shape) for n, o in zip("wxyz", outputs, strict=True)])
    x = draw(8)
    want = np.concatenate([x[:4] + x[7], x[4:7], [0, 1], [x[4:7].sum()]])
    np.testing.assert_allclose(evaluate(graph, x[None])[0], want)
    assert graph.input_shape == (8,)
    assert graph.output_size == 10


@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_output_may_be_the_input_or_a_constant(shape: tuple[int, ...]) -> None:
    x = draw(2, prod(shape))
    same = graph_of(lambda b, v: v, shape)
    np.testing.assert_array_equal(evaluate(same, x), x)
    assert len(same.nodes) == 2
    fixed = graph_of(lambda b, v: np.full(shape, 7.0), shape)
    np.testing.assert_array_equal(evaluate(fixed, x), np.full((2, prod(shape)), 7.0))


def test_unused_nodes_are_dropped() -> None:
    def builds(b: GraphBuilder, x: Operand) -> Operand:
        b.relu(b.linear(x, W23))
        return b.tanh(x)

    assert [type(n.op) for n in graph_of(builds, (3,)).nodes] == [ops.Input, ops.Tanh]


REFUSED: dict[str, Builds] = {
    "reshape": lambda b, x: b.reshape(x, (5,)),
    "two unknowns": lambda b, x: b.reshape(x, (-1, -1)),
    "axis": lambda b, x: b.slice(x, 2, 0, 1),
    "index": lambda b, x: b.select(x, 1, np.array([3])),
    "index twice": lambda b, x: b.select(b.select(x, 1, np.array([0, 1])), 1, np.array([2])),
    "squeeze": lambda b, x: b.squeeze(x, [1]),
    "permute": lambda b, x: b.permute(x, (0, 0)),
    "split": lambda b, x: b.split(x, 1, [1, 1])[0],
    "concat": lambda b, x: b.concat([x, np.zeros((3, 3))], 1),
    "matmul": lambda b, x: b.matmul(x, np.ones((2, 2))),
    "linear": lambda b, x: b.linear(x, np.ones((3, 2))),
    "bias": lambda b, x: b.emit(ops.Linear(np.ones((2, 3)), np.ones(3)), x),
    "conv": lambda b, x: b.conv(x, np.ones((1, 2, 1))[None]),
    "kernel too large": lambda b, x: b.conv(x, np.ones((1, 2, 4))),
    "groups": lambda b, x: b.conv(x, np.ones((3, 1, 1)), groups=2),
    "stride": lambda b, x: b.conv(x, np.ones((1, 2, 1)), stride=(0,)),
    "add": lambda b, x: b.add(x, np.ones(2)),
    "slope": lambda b, x: b.leaky_relu(x, np.ones(2)),
    "nan": lambda b, x: b.mul(x, np.nan * ROW),
    "infinite weight": lambda b, x: b.linear(x, W23 * np.array([1, -np.inf, 1])),
    "division by zero": lambda b, x: b.div(x, np.array([1.0, 0, 1])),
    "overflow of 1 / c": lambda b, x: b.div(x, np.float64(1e-320)),
    "nan limit": lambda b, x: b.clip(x, np.nan, 1),
    "infinite padding": lambda b, x: b.pad(x, (1, 0), (0, 0), -np.inf),
    "infinite constant": lambda b, x: b.concat([x, np.full((2, 1), np.inf)], 1),
    "variance": lambda b, x: b.batch_norm(x, ROW, ROW, ROW, -np.abs(ROW), 1e-5),
    "window in the padding": lambda b, x: max_pool(b, x, Window((1,), (1,), (1,), (1,), (1,))),
    "window too large": lambda b, x: max_pool(b, x, Window((4,), (1,), (0,), (0,), (1,))),
    "mean of nothing": lambda b, x: b.reduce_mean(b.slice(x, 0, 0, 0), [0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operands_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        graph_of(REFUSED[name], (2, 3))


def test_axes_that_einsum_would_broadcast_are_not_lowered() -> None:
    """Both operands have two entries, and the shapes that either suggests do, too; the sum has four."""
    b = GraphBuilder([Port("x", (1, 2))])
    for other in (np.ones((2, 1)), b.reshape(b.inputs[0], (2, 1))):
        with pytest.raises(NotLowered, match="ab,ab->ab"):
            einsum(b, "ab,ab->ab", [b.inputs[0], other])


def test_a_variable_kernel_is_not_lowered() -> None:
    b = GraphBuilder([Port("x", (2, 2))])
    (x,) = b.inputs
    with pytest.raises(NotLowered):
        b.conv(np.ones((2, 2)), x)


@given(st.data())
def test_max_pool_takes_every_window(data: st.DataObject) -> None:
    """Against the definition, on windows of all kinds; equal entries included."""
    size = data.draw(st.integers(1, 9))
    kernel, stride, dilation = (data.draw(st.integers(1, 4)) for _ in range(3))
    reach = dilation * (kernel - 1) + 1
    before, after = (data.draw(st.integers(0, reach - 1)) for _ in range(2))
    window = Window((kernel,), (stride,), (before,), (after,), (dilation,), data.draw(st.booleans()))
    x = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size)), np.float64)
    try:
        places = window.entries(0, size)
    except ValueError:
        assert size + before + after < reach
        return
    windows = [[x[p] for p in row if 0 <= p < size] for row in places]
    if not all(windows):
        with pytest.raises(ValueError, match="padding"):
            graph_of(lambda b, v: max_pool(b, v, window), (1, size))
        return
    graph = graph_of(lambda b, v: max_pool(b, v, window), (1, size))
    np.testing.assert_array_equal(run(graph, x)[0], [max(w) for w in windows])
    counted = graph_of(lambda b, v: avg_pool(b, v, window), (1, size))
    np.testing.assert_allclose(run(counted, x)[0], [np.mean(w) for w in windows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("node", "shape"), [(1, (2,)), (1, (3, 1)), (2, (4,))])
def test_a_file_with_shapes_that_operators_do_not_give_is_refused(
    tmp_path: Path, node: int, shape: tuple[int, ...]
) -> None:
    """Its hash is that of what it holds: whoever changed the shape could compute it again."""
    weight = np.ones((3, 4), np.float32)
    graph = graph_of(lambda b, x: b.reshape(b.relu(b.linear(x, weight)), (3, 1)), (4,))
    nodes = list(graph.nodes)
    nodes[node] = replace(nodes[node], shape=shape)
    save(replace(graph, nodes=tuple(nodes)), tmp_path / "graph.npz")
    with pytest.raises(MalformedNetwork):
        load(tmp_path / "graph.npz")


def test_a_value_times_a_function_of_itself_is_one_operator() -> None:
    root = np.float32(np.sqrt(0.5))
    made = {
        "silu": lambda b, x: b.mul(x, b.sigmoid(x)),
        "quick gelu": lambda b, x: b.mul(b.sigmoid(b.mul(x, np.float32(1.702))), x),
        "gelu": lambda b, x: b.mul(b.mul(x, b.add(b.emit(ops.Erf(), b.mul(x, root)), np.float32(1))), np.float32(0.5)),
        "half first": lambda b, x: b.mul(
            b.mul(x, np.float32(0.5)), b.add(b.emit(ops.Erf(), b.mul(x, root)), np.ones(1))
        ),
        "mish": lambda b, x: b.mul(x, b.tanh(b.emit(ops.Softplus(), x))),
    }
    wanted = {"silu": ops.Silu, "quick gelu": ops.Silu, "gelu": ops.Gelu, "half first": ops.Gelu, "mish": ops.Mish}
    values = np.random.default_rng(0).normal(0, 2, (50, 3))
    sigmoid, erf = 1 / (1 + np.exp(-values)), np.vectorize(math.erf)(values * np.float64(root))
    expected = {
        "silu": values * sigmoid,
        "quick gelu": values / (1 + np.exp(-np.float64(np.float32(1.702)) * values)),
        "gelu": values * (1 + erf) / 2,
        "half first": values * (1 + erf) / 2,
        "mish": values * np.tanh(np.log1p(np.exp(values))),
    }
    for name, make in made.items():
        build = GraphBuilder([Port("x", (3,))])
        y = make(build, build.inputs[0])
        graph = build.build([y], [Port("y", y.shape)])
        assert wanted[name] in [type(n.op) for n in graph.nodes], name
        assert not any(isinstance(n.op, ops.Product | ops.Sigmoid | ops.Erf | ops.Tanh) for n in graph.nodes), name
        np.testing.assert_allclose(evaluate(graph, values), expected[name], rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize(
    "gate",
    [
        lambda b, x: b.sigmoid(b.add(x, np.float32(1))),
        lambda b, x: b.sigmoid(b.mul(x, np.float32(-1))),
        lambda b, x: b.add(b.emit(ops.Erf(), x), np.float32(2)),
        lambda b, x: b.emit(ops.Erf(), x),
        lambda b, x: b.tanh(x),
        lambda b, x: b.sigmoid(b.select(x, 0, np.array([2, 1, 0]))),
    ],
)
def test_other_products_stay_products(gate) -> None:
    build = GraphBuilder([Port("x", (3,))])
    y = build.mul(build.inputs[0], gate(build, build.inputs[0]))
    graph = build.build([y], [Port("y", y.shape)])
    assert any(isinstance(n.op, ops.Product) for n in graph.nodes)


def test_norms_are_told_from_what_looks_like_them() -> None:
    """x times 1 / its norm is cut off at the most that it can be; what x is multiplied with otherwise must not be, of
    which large values tell."""
    tenth = np.float64(0.1)

    def summed(b: GraphBuilder, x: Operand) -> Operand:
        return b.reduce_sum(b.square(x), [1], keepdims=True)

    def inverse(b: GraphBuilder, spread: Operand) -> Operand:
        return b.emit(ops.Rsqrt(), spread)

    norms: dict[str, tuple[Builds, Builds]] = {
        "of all": (lambda b, x: inverse(b, b.add(summed(b, x), tenth)), lambda x: (x**2).sum(1, keepdims=True) + 0.1),
        "reciprocal": (
            lambda b, x: b.reciprocal(b.emit(ops.Sqrt(), b.add(summed(b, x), tenth))),
            lambda x: (x**2).sum(1, keepdims=True) + 0.1,
        ),
        "own": (lambda b, x: inverse(b, b.add(b.square(x), tenth)), lambda x: x**2 + 0.1),
        "at least": (
            lambda b, x: inverse(b, b.clip(b.mul(summed(b, x), np.float64(3)), 2.0)),
            lambda x: np.maximum(3 * (x**2).sum(1, keepdims=True), 2),
        ),
    }
    others: dict[str, tuple[Builds, Builds]] = {
        "other axis": (
            lambda b, x: b.transpose(inverse(b, b.add(summed(b, x), tenth))),
            lambda x: (x**2).sum(1) + 0.1,
        ),
        "without axis": (
            lambda b, x: inverse(b, b.add(b.reduce_sum(b.square(x), [1]), tenth)),
            lambda x: (x**2).sum(1) + 0.1,
        ),
        "of one": (
            lambda b, x: inverse(b, b.add(b.slice(b.square(x), 1, 0, 1), tenth)),
            lambda x: (x**2)[:, :1] + 0.1,
        ),
        "mirrored": (
            lambda b, x: inverse(b, b.add(b.select(b.square(x), 1, np.array([2, 1, 0])), tenth)),
            lambda x: (x**2)[:, ::-1] + 0.1,
        ),
        "of another": (
            lambda b, x: inverse(b, b.add(summed(b, b.mul(x, ROW)), tenth)),
            lambda x: ((x * ROW) ** 2).sum(1, keepdims=True) + 0.1,
        ),
        "cut off": (
            lambda b, x: inverse(b, b.clip(summed(b, x), 0.2, 2.0)),
            lambda x: np.clip((x**2).sum(1, keepdims=True), 0.2, 2),
        ),
        "less": (
            lambda b, x: inverse(b, b.clip(b.sub(summed(b, x), np.float64(9)), 0.2)),
            lambda x: np.maximum((x**2).sum(1, keepdims=True) - 9, 0.2),
        ),
        "weighted": (
            lambda b, x: inverse(b, b.add(b.mul(b.square(x), np.array([1, 0, 1e-4])), tenth)),
            lambda x: x**2 * [1, 0, 1e-4] + 0.1,
        ),
    }
    values = np.random.default_rng(0).normal(0, 30, (40, 3, 3))
    for name, (make, spread) in (norms | others).items():
        build = GraphBuilder([Port("x", (3, 3))])
        x = build.inputs[0]
        graph = build.build([build.mul(x, make(build, x))], [Port("y", (3, 3))])
        kinds = [type(n.op) for n in graph.nodes]
        assert (kinds[kinds.index(ops.Product) :] == [ops.Product, ops.Clip]) == (name in norms), name
        expected = np.stack([v / np.sqrt(spread(v)) for v in values]).reshape(len(values), -1)
        np.testing.assert_allclose(evaluate(graph, values.reshape(len(values), -1)), expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("low", [-2e3, -1e9, float(np.finfo(np.float32).min)])
def test_masks_of_finite_numbers_leave_the_rest_exact(low: float) -> None:
    """Scores that a large negative number is added to do not drown the others, wherever a mask goes before the softmax
    reads it; nor does a row that has only such change."""
    mask = np.where(np.tri(4, dtype=bool)[:, [1, 3, 0, 2]], [0, 1, -2, 3], low)

    def moved(b: GraphBuilder, x: Operand) -> Operand:
        scores = b.div(b.add(b.reshape(x, (2, 4, 4)), mask.astype(np.float32)), np.float32(4))
        return b.transpose(softmax(b, b.transpose(scores), 1))

    builds: dict[str, tuple[Builds, Callable[[torch.Tensor], torch.Tensor]]] = {
        "added": (lambda b, x: softmax(b, b.add(x, mask), 3), lambda x: (x + torch.tensor(mask)).softmax(3)),
        "chosen": (
            lambda b, x: softmax(b, where(b, mask != low, x, np.array(low)), -1),
            lambda x: x.masked_fill(torch.tensor(mask == low), low).softmax(-1),
        ),
        "other axis": (lambda b, x: softmax(b, b.add(x, mask.T), 2), lambda x: (x + torch.tensor(mask.T)).softmax(2)),
        "moved": (moved, lambda x: ((x[0] + torch.tensor(mask.astype(np.float32))) / 4).softmax(2)),
    }
    x = np.random.default_rng(0).normal(0, 3, (5, 1, 2, 4, 4))
    for name, (make, torchs) in builds.items():
        graph = graph_of(make, (1, 2, 4, 4))
        expected = np.stack([torchs(torch.tensor(one)).numpy().reshape(-1) for one in x])
        for dtype, close in ((np.float64, 1e-12), (np.float32, 1e-5)):
            found = evaluate(graph, x.reshape(5, -1), dtype)
            np.testing.assert_allclose(found, expected, rtol=close, atol=close, err_msg=name)
