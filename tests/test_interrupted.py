"""What an undecided run says of what it proved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from certify.bab.search import Progress
from certify.budget import Budget
from certify.frontends.torch_export import from_module
from certify.spec.property import Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import box
from certify.strategy import Method, Strategy
from certify.verdict import Reason, Unknown
from certify.verifier import verify


@pytest.mark.parametrize("method", [Method.AUTO, Method.INPUT_SPLIT, Method.NEURON_SPLIT, Method.MIP])
def test_an_interrupted_search_keeps_the_best_bound_that_it_showed(method: Method) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1)).eval()
    imported = from_module(module, torch.zeros(1, 4))
    boxes = [box(-np.ones(4), np.ones(4)), box(-2 * np.ones(4), 2 * np.ones(4))]
    with torch.no_grad():
        tops = [float(module((torch.rand(20000, 4) * 2 - 1) * reach).max()) for reach in (1, 2)]
    # the second case fails just outside of what was sampled, or almost
    cases = [Case(b, Property((clause([[-1.0]], [-top - 1e-3]),))) for b, top in zip(boxes, tops, strict=True)]
    budget = Budget()
    shown: list[Progress] = []

    def look(progress: Progress) -> None:
        shown.append(progress)
        if sum(p.stage == "search" for p in shown) == 5:
            budget.cancel()

    verdict = verify(Query(imported.source, imported.graph, tuple(cases)), Strategy(method, steps=0), budget, look)
    assert isinstance(verdict, Unknown)
    assert verdict.reason is Reason.INTERRUPTED
    lowers = [p.lower for p in shown if p.stage == "search"]
    assert lowers == sorted(lowers)
    assert verdict.lower >= lowers[-1] > -np.inf
    assert verdict.lower <= 1e-3 + 1e-5  # the second case's margin is no larger, whatever the first one's
