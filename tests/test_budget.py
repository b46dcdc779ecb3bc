"""Budgets and their parts."""

from __future__ import annotations

import math
import threading
import time

import pytest

from certify.budget import Budget, Stopwatch
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


def test_a_stopwatch_counts_what_its_threads_do() -> None:
    watch = Stopwatch()

    def work() -> None:
        with watch.running():
            began = time.thread_time()
            while time.thread_time() - began < 0.02:
                pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    with watch.running():
        for thread in threads:
            thread.join()  # takes no processor time
    assert watch.seconds >= 0.06
