"""The comparison of attacks with exact distances: gaps are right, and points that are too near are noticed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import minimum
from benchmarks.radius import RadiusResult
from certify.frontends.imported import Imported
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import evaluate
from certify.graph.ir import Port
from models.data import Data

WEIGHT = np.array([[1.0, 2.0, -1.0], [-1.0, 0.5, 1.0]], np.float32)


def _case(scale: float) -> tuple[Imported, Data, list[RadiusResult]]:
    """A linear network, samples away from the range's edge, and their L2 distances times a scale."""
    build = GraphBuilder([Port("x", (3,))])
    y = build.emit(ops.Linear(WEIGHT, np.array([-1.0, 0.0], np.float32)), build.inputs[0])
    graph = build.build([y], [Port("y", (2,))])
    network = Imported(graph, lambda x: evaluate(graph, x.reshape(1, -1))[0])
    x = (0.5 + 0.05 * np.random.default_rng(0).standard_normal((6, 3))).astype(np.float32)
    data = minimum.answered(network, Data(x[:0], np.zeros(0, np.int64), x, np.zeros(6, np.int64)))
    apart = (WEIGHT[0] - WEIGHT[1]).astype(np.float64)
    far = np.abs(x.astype(np.float64) @ apart - 1) / np.linalg.norm(apart) * scale
    exact = [RadiusResult(i, int(data.y_test[i]), d, d, None, True, 0.0) for i, d in enumerate(far.tolist())]
    return network, data, exact


def test_gaps_are_those_over_the_exact_distance() -> None:
    network, data, exact = _case(1 - 1e-6)
    (row,) = minimum.compare(network, data, "2", exact, ["closest"])
    assert (row.samples, row.failed, row.below) == (6, 0, 0)
    assert 0 < row.mean < 1e-3
    assert row.median <= row.largest < 1e-2
    (row,) = minimum.compare(network, data, "2", [*exact[:4], RadiusResult(4, 0, 0.1, 9, None, False, 0.0)], ["ddn"])
    assert row.samples == 4, "of the others the distance is not known"
    assert "closest" in minimum.report("title", minimum.compare(network, data, "2", exact, ["closest"]))


def test_points_nearer_than_what_is_proved_are_counted() -> None:
    (row,) = minimum.compare(*_case(1.01)[:2], "2", _case(1.01)[2], ["closest"])
    assert row.below == 6
    assert row.mean < 0


@given(st.sampled_from((math.inf, 2.0, 1.0)), st.integers(0, 10**6))
def test_distances_are_compared_exactly(norm: float, seed: int) -> None:
    x = np.random.default_rng(seed).random(5)
    move = np.zeros(5)
    move[seed % 5] = 0.25
    moved = np.where(move > 0, 0.25, x)
    center = np.where(move > 0, 0.5, x)
    assert minimum.nearer(moved, center, 0.25, norm)
    assert not minimum.nearer(moved, center, np.nextafter(0.25, 0), norm)


@pytest.mark.slow
def test_a_run_trains_measures_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--out", str(tmp_path), "--net", "noise", "--norm", "inf", "--attack", "closest"]
    minimum.main([*options, "--samples", "2"])
    assert "closest" in capsys.readouterr().out
    before = (tmp_path / "noise-inf" / "results.jsonl").read_text()
    minimum.main([*options, "--samples", "3"])
    after = (tmp_path / "noise-inf" / "results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3
