"""Several searches for one problem, taking turns until one of them decides it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from certify.bab.search import Outcome, Search
from certify.bab.stages import Stages
from certify.budget import Budget
from certify.verdict import Reason

FIRST_TURN = 0.5
"""Seconds of each search's first turn; turns grow, so that little is lost to the one that does not finish."""


@dataclass(frozen=True)
class Late:
    """A search that joins after so many seconds, or when all others are stuck: `begin` makes it."""

    begin: Callable[[], Search | Stages]
    after: float = math.inf


def race(searches: Sequence[Search | Stages], budget: Budget, late: Late | None = None) -> Outcome:
    """The first verdict of any; else an outcome without one, with the best lower bound.

    A search that gets stuck leaves the race; the others go on.
    """
    started, running = list(searches), list(searches)
    ended: list[Outcome] = []
    turn, began = FIRST_TURN, time.monotonic()
    try:
        while running or (late is not None and not budget.expired):
            if late is not None and (not running or time.monotonic() - began >= late.after):
                started.append(late.begin())
                running.append(started[-1])
                late = None
            waiting = math.inf if late is None else late.after
            for search in list(running):
                length = min(turn if len(running) > 1 else math.inf, waiting)
                outcome = search.run(None if math.isinf(length) else budget.part(length))
                if outcome is None:
                    continue
                if outcome.reason is None:
                    return outcome
                ended.append(outcome)
                running.remove(search)
            turn *= 2
    finally:
        for search in started:
            search.close()
    timeouts = [o for o in ended if o.reason is not Reason.STUCK]
    return max(timeouts or ended, key=lambda o: o.lower)
