"""Sweeps go on where they were, and their front is what nothing surpasses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify.errors import BadOption
from tests.training.test_loop import NET, PLAN, halves
from training import IBP, SGD, Bounded, Point, front, sweep, train

GRADES = st.integers(0, 6).map(float)


WIDE = Bounded(0.05)


def test_a_sweep_goes_on_where_it_was(tmp_path):
    plans = [replace(PLAN, method=IBP(), epsilon=e, epochs=2) for e in (0.02, 0.1)]
    measured = []

    def measure(trained, data):
        measured.append(trained.plan)
        return WIDE(trained, data)

    first = sweep(NET, halves(), plans[:1], tmp_path, measure)
    both = sweep(NET, halves(), plans, tmp_path, measure)
    assert measured == plans
    assert both[0] == first[0]
    assert [p.plan for p in both] == plans
    assert all(0 <= p.certified <= p.clean <= 1 for p in both)
    network = train(NET, halves(), plans[1], both[1].folder)  # is there already
    assert WIDE(network, halves()) == (both[1].clean, both[1].certified)


def test_other_data_and_another_measure_are_other_points(tmp_path):
    plans = [replace(PLAN, method=IBP(), epochs=4)]
    (point,) = sweep(NET, halves(), plans, tmp_path, WIDE)
    (wider,) = sweep(NET, halves(), plans, tmp_path, Bounded(0.4))
    assert wider.folder == point.folder
    assert wider.certified < point.certified
    (other,) = sweep(NET, halves(100), plans, tmp_path, WIDE)
    assert other.folder != point.folder


def test_a_stopped_sweep_has_the_points_before(tmp_path):
    plans = [replace(PLAN, seed=seed, epochs=1) for seed in range(3)]
    started = []

    def trainer(*task):
        started.append(task)
        return train(*task, stop=lambda: len(started) == 2)

    points = sweep(NET, halves(), plans, tmp_path, WIDE, trainer)
    assert [p.plan for p in points] == plans[:1]
    assert sweep(NET, halves(), plans, tmp_path, WIDE)[:1] == points


def test_what_diverges_is_no_part_of_the_front_and_is_not_tried_again(tmp_path):
    wild = replace(PLAN, optimiser=SGD(1e30), clip=1e30, epochs=8)
    points = sweep(NET, halves(), [wild, PLAN], tmp_path, WIDE)
    assert "diverged" in points[0].failed
    assert (points[0].clean, points[0].certified) == (0, 0)
    assert front(points) == points[1:]
    assert front(points[:1]) == []

    def never(*task):
        raise AssertionError(task)

    assert sweep(NET, halves(), [wild, PLAN], tmp_path, WIDE, never) == points


def test_without_samples_kept_aside_nothing_is_measured(tmp_path):
    with pytest.raises(BadOption, match="validation"):
        sweep(NET, halves(), [replace(PLAN, validation=0, epochs=1)], tmp_path, WIDE)


@given(st.lists(st.tuples(GRADES, GRADES), max_size=12))
def test_the_front_is_what_nothing_surpasses(pairs):
    points = [Point(replace(PLAN, seed=i), *pair) for i, pair in enumerate(pairs)]
    best = {(p.clean, p.certified) for p in front(points)}
    beaten = {
        a for a in pairs for b in pairs if a != b and b[0] >= a[0] and b[1] >= a[1]
    }  # fmt: skip
    assert best == set(pairs) - beaten
    assert len(best) == len(front(points))
