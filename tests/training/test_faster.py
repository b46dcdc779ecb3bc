"""Half precision only where no bound rests on it; compiled networks learn what others do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from certify.errors import BadOption
from models import zoo
from tests.training.test_loop import NET, PLAN, halves
from training import IBP, MTLIBP, Adversarial, Dual, Standard, train
from training.faster import compile_forward

SHORT = replace(PLAN, epochs=2)


def test_attacks_in_half_precision_learn_weights_in_single():
    plan = replace(PLAN, method=Adversarial(), epochs=6)
    half, single = (train(NET, halves(), replace(plan, mixed=m)) for m in (True, False))
    assert half.history[-1].clean >= 0.85
    assert all(p.dtype == torch.float32 for p in half.network.parameters())
    pairs = list(zip(half.network.parameters(), single.network.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.allclose(a, b, atol=0.3) for a, b in pairs)
    assert not any(m._forward_hooks for m in half.network.modules())


@pytest.mark.parametrize("method", [IBP(), MTLIBP(), Dual(), Dual(projections=3)])
def test_bounds_in_half_precision_are_refused(method):
    with pytest.raises(BadOption, match="half precision"):
        train(NET, halves(), replace(SHORT, method=method, mixed=True))


def test_a_compiled_network_learns_the_same():
    """The backend runs the operators one by one, as torch does without it."""
    plan = replace(SHORT, method=Standard())
    counters.clear()
    one = train(NET, halves(64), replace(plan, compiled="eager")).network
    assert counters["stats"]["unique_graphs"] >= 1  # something was
    two = train(NET, halves(64), plan).network
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_what_cannot_be_compiled_is_refused():
    normed = zoo.Description("convnet", {"shape": [1, 2, 2], "classes": 2, "convolutions": [[2, 1, 1, 0]]})
    compile_forward(normed.build(), "eager")
    held = zoo.Description("convnet", {**normed.arguments, "batch_norm": True})
    with pytest.raises(BadOption, match="hooks"):
        compile_forward(held.build(), "eager")
    with pytest.raises(BadOption, match="no backend 'fast'"):
        train(NET, halves(), replace(SHORT, compiled="fast"))
