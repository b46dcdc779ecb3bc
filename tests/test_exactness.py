"""A small part of the exactness campaign, its truth by other means, and that it goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import exactness
from benchmarks.exactness import (
    NEAR,
    NORMS,
    Allowed,
    Compared,
    campaign,
    compare,
    nearest,
    problem,
    report,
    true_distances,
)
from benchmarks.robust import SampleStore
from certify.graph.evaluate import evaluate


def test_distances_from_hulls() -> None:
    square = np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])
    assert nearest(square, np.inf) == pytest.approx(1.0)
    assert nearest(square, 1.0) == pytest.approx(2.0)
    assert nearest(square, 2.0) == pytest.approx(np.sqrt(2))
    edge = np.array([[1.0, -1.0, 0.5], [1.0, 1.0, 0.5]])
    assert nearest(edge, 2.0) == pytest.approx(np.sqrt(1.25))
    assert nearest(edge, 1.0) == pytest.approx(1.5)


def test_no_sample_is_nearer_than_the_truth() -> None:
    given = problem(32)
    truths, cells = true_distances(given)
    assert cells > 1
    points = np.random.default_rng(0).uniform(-1, 1, (20000, len(given.x)))
    values = evaluate(given.graph, points) @ given.unsafe.matrix.T - given.unsafe.offset
    unsafe = points[(values <= 0).all(1)]
    assert len(unsafe)
    for name, norm in NORMS.items():
        sampled = np.linalg.norm(unsafe - given.x, norm, axis=1).min()
        assert truths[name] <= sampled <= truths[name] + 0.5


def test_a_slice_of_the_campaign() -> None:
    rows = compare(12, Allowed(20.0, 20.0, 20.0))
    assert [row.norm for row in rows] == list(NORMS)
    for row in rows:
        assert row.solved
        assert not any((row.wrong, row.misled))
        assert {(row.inside, row.outside), (row.mip_inside, row.mip_outside)} == {("verified", "falsified")}
        assert max(row.truth - row.lower, row.upper - row.truth) <= NEAR
    assert replace(rows[0], lower=rows[0].truth * 1.01).wrong
    assert replace(rows[0], mip_inside="falsified").wrong
    assert replace(rows[0], program_lower=rows[0].truth + 1e-3).misled


def test_the_campaign_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    right = "verified", "falsified"

    def made(seed: int, allowed: Allowed) -> list[Compared]:
        asked.append(seed)
        if seed == 1:  # too many cells
            return []
        return [Compared(seed, n, 2, 5, 9, 0.5, 0.5, 0.5, 0.5, 0.5, *right, *right, 1, 1, 1) for n in NORMS]

    monkeypatch.setattr(exactness, "compare", made)
    for count, seeds in ((2, [0, 1, 2]), (3, [1, 3])):
        asked.clear()
        store = SampleStore(tmp_path, {"seconds": 1.0}, Compared)
        list(campaign(count, Allowed(1.0, 1.0, 1.0), store))
        assert asked == seeds
    assert [line.split()[:5] for line in report(store.results).splitlines()[1:]] == [
        [name, "3", "0", "0", "3"] for name in NORMS
    ]
