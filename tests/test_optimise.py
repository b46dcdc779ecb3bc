"""Optimised bounds: what they claim is so, and domains that are left early lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.bounds.intermediate import intermediate
from certify.bounds.linear import Splits
from certify.bounds.optimise import Result, Schedule, Target, bound, initial, optimise
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import rows_of
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Port
from certify.spec.inputset import InputSet
from certify.spec.property import clause

INPUTS, WIDTH, DOMAINS = 3, 6, 12
STEPS = 12
ACTIVATIONS = (ops.Relu(), ops.Abs(), ops.LeakyRelu(np.array(0.25)), ops.Sigmoid(), ops.Tanh())


def target_of(seed: int, activation: ops.Elementwise) -> Target:
    """A random network over a box, whose domains are split at one neuron of each layer or none, and whose
    property's offset lies among the bounds that these can have."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder([Port("x", (INPUTS,), "float64")])
    h = build.inputs[0]
    for fan_in in (INPUTS, WIDTH):
        weight = rng.standard_normal((WIDTH, fan_in)) / fan_in**0.5
        h = build.emit(activation, build.emit(ops.Linear(weight, rng.standard_normal(WIDTH) / 4), h))
    h = build.emit(ops.Linear(rng.standard_normal((1, WIDTH)), None), h)
    network = Network(build.build([h], [Port("y", (1,))]), torch.float64)
    one = InputSet(torch.full((1, INPUTS), -1.0).double(), torch.ones(1, INPUTS).double())
    middle = float(network(torch.from_numpy(rng.uniform(-1, 1, (100, INPUTS)))).min())
    rows = rows_of([clause([1.0], middle - 0.3)], network)
    root = intermediate(network, one)
    nodes = [network.graph.nodes[e].inputs[0] for e in network.graph.nonlinear]
    index = torch.from_numpy(rng.integers(0, WIDTH, (DOMAINS, 2)))
    sign = torch.from_numpy(rng.integers(-1, 2, (DOMAINS, 2))).double()
    splits = Splits(torch.tensor([nodes] * DOMAINS), index, torch.zeros(DOMAINS, 2).double(), sign)
    inputs = one.select(torch.zeros(DOMAINS, dtype=torch.long))
    return Target(network, inputs, splits.restrict(root, DOMAINS), rows, splits)


def optimised(target: Target, schedule: Schedule) -> Result:
    relaxation = Relaxation(target.network, target.bounds)
    return optimise(target, initial(target, relaxation), relaxation, schedule)


def least_inside(target: Target, seed: int) -> np.ndarray:
    """(DOMAINS,): the least margin at random inputs that obey the domain's splits."""
    network, splits = target.network, target.splits
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (4000, INPUTS)))
    values = network.values(x)
    margin = values[-1].flatten() - target.rows.offset.flatten()
    least = np.full(DOMAINS, np.inf)
    for d in range(DOMAINS):
        inside = torch.ones(len(x), dtype=torch.bool)
        for v, i, sign in zip(splits.node[d], splits.index[d], splits.sign[d], strict=True):
            inside &= values[int(v)][:, int(i)] * sign >= 0
        if inside.any():
            least[d] = float(margin[inside].min())
    return least


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(ACTIVATIONS), st.sampled_from([None, 1, 3]))
def test_bounds_hold_and_what_proved_a_domain_is_kept(
    seed: int, activation: ops.Elementwise, trial: int | None
) -> None:
    target = target_of(seed, activation)
    result = optimised(target, Schedule(steps=STEPS, lines=0.15, multipliers=0.3, decay=0.9, trial=trial))
    lower = result.lower[:, 0]
    assert (lower.numpy() <= least_inside(target, seed) + 1e-9).all()
    lines = Relaxation(target.network, target.bounds).lines(result.free.lines)
    again, _ = bound(target, result.free, lines)
    assert (again[:, 0] <= lower + 1e-9).all()
    closed = lower > 0
    assert torch.allclose(again[closed, 0], lower[closed])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(ACTIVATIONS))
def test_every_domain_is_left_once_with_its_own_form(seed: int, activation: ops.Elementwise) -> None:
    target = target_of(seed, activation)
    result = optimised(target, Schedule(steps=STEPS, lines=0.15, multipliers=0.3, decay=0.9, trial=2))
    assert sorted(torch.cat([p.index for p in result.parts]).tolist()) == list(range(DOMAINS))
    for part in result.parts:
        value = part.form.minimum(target.inputs.select(part.index))[:, 0]
        assert (value <= result.lower[part.index, 0] + 1e-12).all()
        closed = result.lower[part.index, 0] > 0
        assert torch.allclose(value[closed], result.lower[part.index, 0][closed])


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_domains_do_not_depend_on_their_company(activation: ops.Elementwise) -> None:
    """Leaving some domains early changes nothing for those that go on."""
    target = target_of(7, activation)
    together = optimised(target, Schedule(steps=STEPS, multipliers=0.3, trial=3))
    for d in range(DOMAINS):
        alone = optimised(target.select(torch.tensor([d])), Schedule(steps=STEPS, multipliers=0.3, trial=3))
        if alone.lower[0, 0] > 0:
            assert torch.allclose(together.lower[d], alone.lower[0])
        else:  # in company it may have gone on for longer
            assert together.lower[d, 0] >= alone.lower[0, 0] - 1e-9
