"""Cones: parts of a network compute what the whole does, and bounds through them are those through the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certify.bounds import cones
from certify.bounds.cones import inputs_of, lines_of_cone, tiling
from certify.bounds.intermediate import intermediate
from certify.bounds.linear import lines_of, propagate
from certify.frontends.load import load_network
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.cone import cone
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.graph.windows import Window, max_pool
from certify.spec.inputset import InputSet
from models.layers import Residual

CHANNELS, SIDE = 2, 12


def convolutional() -> nn.Sequential:
    """Strides, dilation, padding of several kinds, pooling, batch normalisation and a residual block."""
    block = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 2, 2))
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 3, 5, 2, 2),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, 1, 1),
        Residual(block, nn.Identity()),
        nn.PReLU(3),
        nn.Conv2d(3, 2, 2, 1, (1, 0)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * 7 * 5, 2),
    )


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    module = convolutional().eval()
    for p in module.parameters():
        p.data += 0.3 * torch.randn_like(p)
    graph = load_network(module, torch.zeros(1, CHANNELS, SIDE, SIDE)).graph
    return Network(graph, torch.float64)


def region(radius: float, batch: int = 2) -> InputSet:
    x = torch.randn(batch, CHANNELS * SIDE * SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return InputSet(x - radius, x + radius)


@settings(max_examples=15)
@given(data=st.data())
def test_a_cone_computes_its_window_of_every_node(network: Network, data: st.DataObject) -> None:
    graph = network.graph
    spatial = [v for v, n in enumerate(graph.nodes) if v and len(n.shape) == 4]
    v = data.draw(st.sampled_from(spatial))
    window = [(0, n) for n in graph.nodes[v].shape]
    for axis in (-2, -1):
        begin = data.draw(st.integers(0, graph.nodes[v].shape[axis] - 1))
        window[axis] = (begin, data.draw(st.integers(begin + 1, graph.nodes[v].shape[axis])))
    part = cone(network, v, tuple(window))
    if part is None:  # a window that lies in the padding of some convolution
        assert max(end - begin for begin, end in window[-2:]) <= 2
        return
    inputs = region(0.0)
    values = network.values(inputs.lower)
    found = part.network.values(inputs_of(part, network, inputs).lower)
    for i, origin in enumerate(part.origin):
        if origin >= 0:
            torch.testing.assert_close(found[i], values[origin][(slice(None), *part.of(i))], rtol=1e-12, atol=1e-12)
    assert part.origin[-1] == v
    assert found[-1].shape[1:] == tuple(end - begin for begin, end in window)


@pytest.mark.parametrize("norm", [None, 2])
def test_bounds_through_cones_are_those_through_the_whole(
    network: Network, norm: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = region(0.05, 1)  # of several regions, a neuron may be tightened where only another one's is unstable
    if norm is not None:
        middle = (inputs.lower + inputs.upper) / 2
        inputs = InputSet(inputs.lower - 1, inputs.upper + 1, norm, middle, torch.tensor([0.3]).double())
    found = {}
    for overhead in (0.0, float("inf")):
        monkeypatch.setattr(cones, "OVERHEAD", overhead)
        found[overhead] = intermediate(network, inputs, within={})
    for v, (lower, upper) in found[0.0].items():
        for tile, whole in zip((lower, upper), found[float("inf")][v], strict=True):
            torch.testing.assert_close(tile, whole, rtol=1e-9, atol=1e-9)


def test_tiles_cover_a_node_once_and_pay(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    v = next(v for v, n in enumerate(network.graph.nodes) if isinstance(n.op, ops.LeakyRelu))
    assert tiling(network, v, 1) is None  # one row is not worth a cone
    monkeypatch.setattr(cones, "OVERHEAD", 1.0)
    windows = tiling(network, v, 1000)
    covered = np.zeros(network.graph.nodes[v].shape, int)
    for window in windows:
        covered[tuple(slice(*part) for part in window)] += 1
    assert (covered == 1).all()
    assert len(windows) > 1


def test_lines_of_a_cone_are_those_of_its_entries(network: Network) -> None:
    inputs = region(0.2, 1)
    bounds = intermediate(network, inputs, within={})
    lines = lines_of(network, bounds, network.graph.nonlinear)
    v = max(v for v in bounds if len(network.graph.nodes[v].shape) == 4)
    shape = network.graph.nodes[v].shape
    part = cone(network, v, ((0, 1), (0, shape[1]), (2, 4), (1, 3)))
    index = torch.arange(network.graph.nodes[v].size).reshape(shape)[part.of(len(part.origin) - 1)].ravel()
    whole = torch.eye(network.graph.nodes[v].size, dtype=torch.float64)[index].reshape(1, -1, *shape)
    own = torch.eye(len(index), dtype=torch.float64).reshape(1, -1, *part.network.graph.nodes[-1].shape)
    zero = torch.zeros(1, len(index), dtype=torch.float64)
    expected = propagate(network, {v: whole}, zero, lines).minimum(inputs)
    last = len(part.origin) - 1
    found = propagate(part.network, {last: own}, zero, lines_of_cone(part, lines))
    torch.testing.assert_close(found.minimum(inputs_of(part, network, inputs)), expected, rtol=1e-9, atol=1e-9)


def test_what_windows_cannot_say_has_no_cone() -> None:
    b = GraphBuilder([Port("x", (1, 2, 4, 4))])
    x = b.relu(b.inputs[0])
    mixed = b.reshape(x, (1, 4, 2, 4))
    graph = b.build([b.relu(mixed)], [Port("y", (1, 4, 2, 4))])
    network = Network(graph)
    assert cone(network, mixed.index, ((0, 1), (0, 4), (0, 1), (0, 1))) is None
    assert tiling(network, mixed.index, 10**9) is None


def test_maxima_along_an_axis_share_what_they_read() -> None:
    """The pairs of a pooling read one node several times, at different places."""
    b = GraphBuilder([Port("x", (1, 1, 9, 1))])
    pooled = max_pool(b, b.inputs[0], Window((3, 1), (2, 1), (1, 0), (1, 0), (1, 1)))
    graph: Graph = b.build([pooled], [Port("y", pooled.shape)])
    network = Network(graph, torch.float64)
    x = torch.arange(9.0).double()[None] % 4
    whole = network(x)
    last = len(graph.nodes) - 1
    for k in range(pooled.shape[2]):
        part = cone(network, last, ((0, 1), (0, 1), (k, k + 1), (0, 1)))
        assert part.network.graph.input_size < 9
        found = part.network(inputs_of(part, network, InputSet(x, x)).lower)
        assert found.item() == whole.reshape(-1)[k].item()
