"""Budgets and their parts."""

from __future__ import annotations

import math

import pytest

from certify.budget import Budget
from certify.errors import BadOption


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan])
def test_a_limit_is_positive(timeout: float) -> None:
    with pytest.raises(BadOption, match="must be positive"):
        Budget(timeout)


@pytest.mark.parametrize("timeout", [0.0, -3.0, 5.0, None])
def test_a_part_of_nothing_is_nothing(timeout: float | None) -> None:
    over = Budget(1e-9)
    assert over.expired
    assert over.part(timeout).expired


def test_a_part_ends_with_the_whole() -> None:
    whole = Budget(100.0, memory=7)
    part = whole.part(1000.0)
    assert 0 < part.remaining <= 100
    assert part.memory == 7
    assert Budget().part(0.0).expired
    assert not Budget().part(None).expired
    assert Budget().part(None).timeout is None
    whole.cancel()
    assert part.cancelled
    assert part.expired
