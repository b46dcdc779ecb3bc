"""Bounds of neurons on which claims may rest, and the methods that use them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certify.bounds.base import NodeBounds
from certify.bounds.lp import LpBounds
from certify.bounds.method import BoundMethod
from certify.bounds.multi_neuron import MultiNeuronBounds
from certify.bounds.outward import Outward, outward
from certify.bounds.sdp import SdpBounds, SdpFirstOrderBounds
from certify.graph.evaluate import Network
from certify.spec.inputset import stack
from certify.spec.regions import box
from tests.test_convex import cube, dense, least
from tests.test_sdp import unit_rows

METHODS = [MultiNeuronBounds(rounds=1), SdpFirstOrderBounds(5), SdpBounds()]

quick = settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)


@quick
@given(st.sampled_from([(2, 4, 4, 1), (3, 4, 4, 2)]), st.integers(0, 2**16))
def test_they_hold_and_sharpening_tightens_them(sizes: tuple[int, ...], seed: int) -> None:
    graph, inputs = dense(sizes, seed), cube(sizes[0])
    network, rows = Network(graph, torch.float64), unit_rows(sizes[-1])
    plain = outward(network, inputs)
    sharp = outward(network, inputs, plain, LpBounds(neurons=99)(network, inputs, rows).sharpened)
    torch.manual_seed(seed)
    values = network.values(2 * torch.rand(500, sizes[0], dtype=torch.float64) - 1)
    for v, (low, up) in sharp.items():
        assert (values[v] >= low).all()
        assert (values[v] <= up).all()
        assert (low >= plain[v][0]).all()
        assert (up <= plain[v][1]).all()
    assert sum(float((up - low).sum()) for low, up in sharp.values()) <= sum(
        float((up - low).sum()) for low, up in plain.values()
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_claims_use_what_is_rounded_outward_and_nothing_else(method: BoundMethod) -> None:
    """Limits that are false, as plain numbers, change nothing; true ones, known to be rounded outward, do."""
    graph, inputs = dense((3, 5, 5, 1), 4), cube(3)
    network, rows = Network(graph, torch.float64), unit_rows(1)
    alone = method(network, inputs, rows)
    lie: NodeBounds = {v: (low * 0, up * 0) for v, (low, up) in alone.nodes.items()}
    assert torch.equal(method(network, inputs, rows, within=lie).lower, alone.lower)
    common = outward(network, inputs, sharpened=LpBounds(neurons=99)(network, inputs, rows).sharpened)
    found = method(network, inputs, rows, within=common)
    assert isinstance(found.nodes, Outward)
    assert found.lower > alone.lower
    assert found.lower.item() <= least(graph, inputs)[0, 0]
    assert all((low >= common[v][0]).all() and (up <= common[v][1]).all() for v, (low, up) in found.nodes.items())


def test_each_region_of_a_batch_has_its_own() -> None:
    graph = dense((2, 4, 4, 2), 1)
    network, rows = Network(graph, torch.float64), unit_rows(2)
    regions = [box(np.full(2, -1.0), np.full(2, k)) for k in (0.5, 1.0)]
    ((_, both),) = stack(regions, torch.float64)
    common = outward(network, both)
    together = MultiNeuronBounds(rounds=1)(network, both, rows, within=common).lower
    for b, region in enumerate(regions):
        ((_, one),) = stack([region], torch.float64)
        own = outward(network, one)
        assert all(torch.equal(common[v][side][b : b + 1], own[v][side]) for v in own for side in (0, 1))
        assert torch.equal(MultiNeuronBounds(rounds=1)(network, one, rows, within=own).lower[0], together[b])
