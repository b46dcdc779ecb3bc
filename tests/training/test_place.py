"""Methods make their tensors where the data lie: on the device `meta`, whose tensors have shapes and no values, as an
operation with a tensor of another device is refused there, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.lipschitz import lipschitz_mlp
from tests.training.nets import batch, small
from training import DDN, Ascent, Ball, Climb, Dual, Moment
from training.catalogue import MARGINS, METHODS
from training.place import forked, random_state, restore

NONE = Climb(steps=0)  # an attack's own loop asks how many samples still stand, which has no answer here


def still(method: object) -> object:
    """The method with attacks that take no step."""
    attack = getattr(method, "attack", None)
    if isinstance(attack, Climb):
        return replace(method, attack=NONE)
    return replace(method, attack=Ascent(steps=0)) if isinstance(attack, Ascent) else method


@pytest.mark.parametrize("name", [*METHODS, "projected"])
@pytest.mark.parametrize("norm", [torch.inf, 2.0])
def test_losses_lie_where_the_data_are(name, norm):
    method = still(METHODS.get(name, Dual(projections=3)))
    if isinstance(getattr(method, "attack", None), DDN) and norm != 2.0:
        pytest.skip("DDN is for L2")
    network = small("cnn", 0).train().to("meta")
    x, y = (part.to("meta") for part in batch("cnn", 0, 4))
    loss = method(network, Ball(x, 0.1, norm), y, Moment(0.5, 0.5))
    loss.backward()
    assert loss.device.type == "meta"
    assert loss.shape == ()


@pytest.mark.parametrize("name", MARGINS)
def test_margins_lie_where_the_data_are(name):
    network = lipschitz_mlp((4,), 3, (6,)).to("meta")
    x, y = torch.empty(5, 4, device="meta"), torch.empty(5, dtype=torch.long, device="meta")
    loss = MARGINS[name](network, Ball(x, 0.1, 2.0), y, Moment())
    assert loss.device.type == "meta"


def test_cpu_tensors_are_refused_there():
    """What the tests above rest on."""
    with pytest.raises(RuntimeError):
        torch.zeros(3, device="meta") + torch.zeros(3)


def test_random_numbers_on_the_side_leave_no_trace():
    place = torch.device("cpu")
    states = random_state(place)
    with forked(place):
        first = torch.rand(3)
    assert torch.equal(random_state(place)[0], states[0])
    torch.rand(5)
    restore(place, states)
    assert torch.equal(torch.rand(3), first)
