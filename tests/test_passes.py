"""Simplified graphs: the same function up to rounding, node by node, and fewer nodes where that is possible."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Node, Port
from certify.passes import simplify


def graph_of(kinds: list[str], rng: np.random.Generator) -> Graph:
    """A chain over (2, 4, 4) or, behind a reshape, over vectors; "fork" adds a node's value of before."""
    nodes = [Node(ops.Input(), (), (2, 4, 4), "x")]
    spare = 0

    def add(op: ops.Op, shape: tuple[int, ...], *inputs: int) -> None:
        nodes.append(Node(op, inputs or (len(nodes) - 1,), shape, f"n{len(nodes)}"))

    for kind in kinds:
        shape = nodes[-1].shape
        if kind == "conv" and len(shape) == 3:
            weight = rng.standard_normal((3, shape[0], 3, 3)).astype(np.float32) / 4
            bias = rng.standard_normal(3).astype(np.float32) if rng.random() < 0.5 else None
            add(ops.Conv(weight, bias, (1, 1), (1, 1), (1, 1), (1, 1), 1), (3, *shape[1:]))
        elif kind == "scale":
            wide = [
                (*[1] * len(shape),),
                (shape[0], *[1] * (len(shape) - 1)),
                (*[1] * (len(shape) - 1), shape[-1]),
                shape,
            ]
            form = wide[rng.integers(len(wide))]
            add(ops.Scale(rng.standard_normal(form), rng.standard_normal(form)), shape)
        elif kind == "flatten":
            add(ops.Reshape(), (int(np.prod(shape)),))
        elif kind == "linear":
            out = int(rng.integers(1, 6))
            weight = rng.standard_normal((out, shape[-1])) / np.sqrt(shape[-1])
            add(ops.Linear(weight, rng.standard_normal(out) if rng.random() < 0.5 else None), (*shape[:-1], out))
        elif kind == "relu":
            add(ops.Relu(), shape)
        elif kind == "fork" and spare and nodes[spare].shape == shape:
            add(ops.Sum((1.0, -0.5)), shape, len(nodes) - 1, spare)
        elif kind == "keep":
            spare = len(nodes) - 1
    return Graph(tuple(nodes), (Port("x", (2, 4, 4)),), (Port("y", nodes[-1].shape),))


KINDS = ("conv", "scale", "flatten", "linear", "relu", "fork", "keep")


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=12), st.integers(0, 2**31))
def test_every_node_computes_what_its_origin_computes(kinds: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = graph_of(kinds, rng)
    simplified = simplify(graph)
    x = torch.from_numpy(rng.standard_normal((3, graph.input_size)))
    before, after = (Network(g, torch.float64).values(x) for g in (graph, simplified.graph))
    assert simplified.origin[0] == 0
    assert simplified.origin[-1] == len(graph.nodes) - 1
    for value, i in zip(after, simplified.origin, strict=True):
        torch.testing.assert_close(value, before[i], rtol=1e-9, atol=1e-9)
    kept = set(simplified.origin)
    for e in graph.nonlinear:  # proofs speak of these
        assert e in kept
        assert graph.nodes[e].inputs[0] in kept


def test_neighbours_are_merged_and_shared_values_are_not() -> None:
    rng = np.random.default_rng(0)

    def kinds(*names: str) -> list[str]:
        return [type(n.op).__name__ for n in simplify(graph_of(list(names), rng)).graph.nodes]

    assert kinds("flatten", "linear", "linear", "relu") == ["Input", "Reshape", "Linear", "Relu"]
    forked = kinds("flatten", "linear", "keep", "scale", "fork")  # the first value is read twice
    assert forked == ["Input", "Reshape", "Linear", "Scale", "Sum"]


def test_batch_normalisation_goes_into_the_convolution() -> None:
    rng = np.random.default_rng(1)
    graph = graph_of(["conv"], rng)
    channel = Node(ops.Scale(rng.standard_normal((3, 1, 1)), rng.standard_normal((3, 1, 1))), (1,), (3, 4, 4), "bn")
    simplified = simplify(Graph((*graph.nodes, channel), graph.inputs, graph.outputs))
    assert [type(n.op) for n in simplified.graph.nodes] == [ops.Input, ops.Conv]
    assert simplified.origin == (0, 2)
