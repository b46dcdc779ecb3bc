"""The benchmark of attacks beside other libraries': judged alike, resumed, and reported in pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import peers, strength
from benchmarks.robust import SampleStore
from benchmarks.strength import Attacked, Contest, Counted, campaign, report
from certify.errors import BadOption
from models.data import Data

LABELS = torch.zeros(4, dtype=torch.int64)


def line() -> nn.Module:
    """Class 1 where the first of two pixels is above 1/2."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).requires_grad_(False).eval()
    network[1].weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    network[1].bias.copy_(torch.tensor([0.5, -0.5]))
    return network


def samples(*first: float) -> torch.Tensor:
    return torch.tensor([[[[value, 0.5]]] for value in first])


def test_points_outside_the_ball_and_wrong_ones_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = torch.tensor([0.2, 0.3, 0.1, 0.0])  # the second goes too far, the third not far enough
    monkeypatch.setitem(strength.WAYS, "quick", lambda model, x, y, norm, eps: x + moves[:, None, None, None])
    row = Contest(line(), math.inf, 0.2)("quick", 10, samples(0.4, 0.4, 0.3, 0.9), LABELS)
    assert (row.images, row.clean, row.standing) == (4, 3, [11, 12])


@pytest.mark.parametrize("way", ["quick", "pgd"])
@pytest.mark.parametrize("norm", [math.inf, 2.0])
def test_our_ways_fool_what_can_be_fooled(way: str, norm: float) -> None:
    row = Contest(line(), norm, 0.2)(way, 0, samples(0.35, 0.25, 0.45, 0.1), LABELS)
    assert row.standing == [1, 3]
    assert row.queries > 0
    assert row.gradients > 0


def test_queries_and_gradients_are_counted() -> None:
    model = Counted(line())
    x = samples(0.1, 0.2).requires_grad_()
    model(x.detach())
    torch.autograd.grad(model(x).sum(), x)
    assert (model.queries, model.gradients) == (4, 2)


def test_a_run_goes_on_and_is_reported_in_pairs(tmp_path: Path) -> None:
    data = Data(np.zeros((0, 2)), np.zeros(0), np.zeros((3, 2)), np.zeros(3, np.int64))
    asked: list[tuple[int, str]] = []

    def contest(way: str, first: int, x: torch.Tensor, y: torch.Tensor) -> Attacked:
        asked.append((first, way))
        standing = [first] if way == "quick" else [first + len(x) - 1]
        return Attacked(first, way, len(x), len(x), standing, 1.0 if way == "quick" else 4.0, 1.0, 9, 3)

    for images in (2, 3):
        store = SampleStore(tmp_path, {}, Attacked)
        list(campaign(contest, data, images, 2, ("quick", "torchattacks"), store))
    assert asked == [(0, "quick"), (0, "torchattacks"), (2, "torchattacks"), (2, "quick")]
    table = report("here", store.results)
    beside = "stand 2 beside 2, only theirs fooled [0], only ours 1; time 0.25, processor 1.00"
    assert table.endswith(f"quick beside torchattacks: {beside}")


def test_a_library_that_is_missing_is_named_with_the_command() -> None:
    with pytest.raises(BadOption, match="no_such_library is needed") as caught:
        peers.library("no_such_library")
    assert "pip install --no-deps --target DIR torchattacks==" in str(caught.value.remedy)
