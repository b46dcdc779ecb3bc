"""Sweeps go on where they were, and their front is what nothing surpasses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from tests.training.test_loop import NET, PLAN, halves
from training import IBP, front, search, sweep
from training.sweep import Point, bounded

GRADES = st.integers(0, 6).map(float)


def test_a_sweep_goes_on_where_it_was(tmp_path):
    plans = [replace(PLAN, method=IBP(), epsilon=e, epochs=2) for e in (0.02, 0.1)]
    measured = []

    def measure(trained):
        measured.append(trained.plan)
        return bounded(trained)

    first = sweep(NET, halves(), plans[:1], tmp_path, measure)
    both = sweep(NET, halves(), plans, tmp_path, measure)
    assert measured == plans
    assert both[0] == first[0]
    assert [p.plan for p in both] == plans
    assert all(0 <= p.certified <= p.clean <= 1 for p in both)


@given(st.lists(st.tuples(GRADES, GRADES), max_size=12))
def test_the_front_is_what_nothing_surpasses(pairs):
    points = [Point(replace(PLAN, seed=i), *pair) for i, pair in enumerate(pairs)]
    best = {(p.clean, p.certified) for p in front(points)}
    beaten = {
        a for a in pairs for b in pairs if a != b and b[0] >= a[0] and b[1] >= a[1]
    }  # fmt: skip
    assert best == set(pairs) - beaten
    assert len(best) == len(front(points))


class Thirds:
    """A study as Optuna's, which proposes 1/3, 2/3, ... of every range."""

    def __init__(self):
        self.asked, self.told = 0, []

    def ask(self):
        self.asked += 1
        return Third(self.asked)

    def tell(self, trial, values):
        self.told.append((trial.number, values))


@dataclass(frozen=True)
class Third:
    number: int

    def suggest_float(self, name, low, high, *, log=False):
        share = self.number / 3
        return low * (high / low) ** share if log else low + (high - low) * share


def test_a_search_asks_a_study_and_tells_it_and_trains_nothing_twice(tmp_path):
    measured = []

    def choose(trial):
        return replace(PLAN, method=IBP(), epsilon=trial.suggest_float("eps", 0.01, 0.1, log=True), epochs=1)

    def measure(trained):
        measured.append(trained.plan.epsilon)
        return bounded(trained)

    study, again = Thirds(), Thirds()
    points = search(NET, halves(), choose, study, 2, tmp_path, measure)
    assert [p.plan.epsilon for p in points] == measured
    assert study.told == [(i + 1, (p.clean, p.certified)) for i, p in enumerate(points)]
    assert search(NET, halves(), choose, again, 3, tmp_path, measure)[:2] == points
    assert len(measured) == 3
