"""Searches that take turns, and one that joins late."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from benchmarks.exactness import NEAR, Evaluated, problem, true_distances
from certify.bab.race import Late, race
from certify.bab.search import Outcome
from certify.budget import Budget
from certify.exact import Metric
from certify.spec.property import Property
from certify.spec.query import Case, Query
from certify.strategy import Method, Strategy
from certify.verdict import Reason
from certify.verifier import verify

PROVED, STUCK = Outcome(), Outcome(reason=Reason.STUCK, lower=-1.0)


class Works:
    """A search that comes to its outcome after so many seconds of turns; infinite: when the budget is spent."""

    def __init__(self, budget: Budget, outcome: Outcome, seconds: float) -> None:
        self.budget, self.outcome, self.left, self.closed = budget, outcome, seconds, False

    def run(self, turn: Budget | None = None) -> Outcome | None:
        began = time.monotonic()
        while time.monotonic() - began < self.left:
            if self.budget.expired:
                return Outcome(reason=Reason.TIMEOUT, lower=-2.0)
            if turn is not None and turn.expired:
                self.left -= time.monotonic() - began
                return None
            time.sleep(0.005)
        return self.outcome

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("first", "after"), [((STUCK, 0.01), math.inf), ((PROVED, math.inf), 0.05)])
def test_a_late_search_joins_when_it_is_time_or_when_the_others_are_stuck(
    first: tuple[Outcome, float], after: float
) -> None:
    budget, made = Budget(20.0), []
    search = Works(budget, *first)

    def begin() -> Works:
        made.append(Works(budget, PROVED, 0.01))
        return made[-1]

    assert race([search], budget, Late(begin, after)) is PROVED
    assert [s.closed for s in (search, *made)] == [True, True]


@pytest.mark.parametrize(("outcome", "reason"), [(STUCK, Reason.STUCK), (PROVED, None)])
def test_it_does_not_begin_where_nothing_is_left_to_do(outcome: Outcome, reason: Reason | None) -> None:
    budget = Budget(20.0)

    def begin() -> Works:
        pytest.fail("the budget is spent, or all is proved")

    if reason is not None:
        budget.cancel()
    found = race([Works(Budget(20.0), outcome, 0.0)], budget, Late(begin))
    assert found.reason is reason


def test_cells_decide_where_boxes_do_not_end() -> None:
    """A millionth inside the distance of the nearest input that is unsafe, boxes are split to the last ulp."""
    given = problem(200012, 24)
    radius = true_distances(given)[0]["inf"] * (1 - NEAR)
    case = Case(Metric(np.inf, (-1.0, 1.0), 2.0).ball(given.x, radius), Property((given.unsafe,)))
    query = Query(Evaluated(given.graph), given.graph, (case,))
    assert verify(query, Strategy(method=Method.AUTO), Budget(60.0)).name == "verified"
