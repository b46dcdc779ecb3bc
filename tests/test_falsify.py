"""What is called falsified passes the checker's own examination of the witness."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import certify
from certify import Falsified, Property, Unknown, Verified
from certify.check.witness import check_witness
from certify.frontends.load import load_network
from certify.spec.property import clause
from certify.spec.query import Case


@pytest.mark.parametrize(
    ("x", "limit", "expected"),
    [
        (0.1, 0.1 + 1e-9, Verified),
        (0.1, 0.1 - 1e-9, Falsified),
        (0.1, 0.0, Falsified),
        (2.2e-45, 2.5e-45, Unknown | Verified),  # the float32 next to it is a quarter larger
        (2.2e-45, 2.1e-45, Falsified),
    ],
)
def test_rounding_of_the_input_alone_is_no_counterexample(x: float, limit: float, expected: type) -> None:
    """0.1 is no float32, and the one next to it is larger: y = x reaches 0.1 + 1e-9 in the runtime alone."""
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.zero_()
    imported = load_network(module, torch.zeros(1, 1))
    region, prop = certify.box([x], [x]), Property((clause([[-1.0]], [-limit]),))  # unsafe: y >= limit
    assert imported.source(region.lower)[0] >= limit
    verdict = certify.verify(imported, region, prop, timeout=20)
    assert isinstance(verdict, expected)
    if isinstance(verdict, Falsified):
        assert check_witness(imported.graph, (Case(region, prop),), verdict.witness).ok
