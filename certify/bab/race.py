"""Several searches for one problem, taking turns until one of them decides it."""

from __future__ import annotations

from collections.abc import Sequence

from certify.bab.search import Outcome, Search
from certify.bab.stages import Stages
from certify.budget import Budget
from certify.verdict import Reason

FIRST_TURN = 0.5
"""Seconds of each search's first turn; turns grow, so that little is lost to the one that does not finish."""


def race(searches: Sequence[Search | Stages], budget: Budget) -> Outcome:
    """The first verdict of any; else an outcome without one, with the best lower bound.

    A search that gets stuck leaves the race; the others go on.
    """
    running = list(searches)
    ended: list[Outcome] = []
    turn = FIRST_TURN
    try:
        while running:
            for search in list(running):
                outcome = search.run(budget.part(turn) if len(running) > 1 else None)
                if outcome is None:
                    continue
                if outcome.reason is None:
                    return outcome
                ended.append(outcome)
                running.remove(search)
            turn *= 2
    finally:
        for search in searches:
            search.close()
    timeouts = [o for o in ended if o.reason is not Reason.STUCK]
    return max(timeouts or ended, key=lambda o: o.lower)
