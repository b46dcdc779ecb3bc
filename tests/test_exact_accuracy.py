"""The benchmark of exact accuracy: ways that agree on a small network, and rows that make a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import exact_accuracy, naive
from benchmarks.exact_accuracy import Judged, campaign, report
from benchmarks.robust import SampleStore
from certify.budget import Budget
from certify.graph.evaluate import Network, evaluate
from certify.spec.property import Property, clause
from certify.spec.regions import box
from models.data import Data
from tests.test_convex import cube, dense, least


def test_the_naive_program_finds_the_sign_of_the_least_margin() -> None:
    graph, region = dense((2, 4, 4, 1), 2), box([-1.0, -1.0], [1.0, 1.0])
    truth = float(least(graph, cube(2))[0, 0])
    for level, verdict in ((truth - 1e-3, "verified"), (truth + 1e-3, "falsified")):
        prop = Property((clause(np.ones((1, 1)), np.array([level])),))

        def unsafe(x: np.ndarray, prop: Property = prop) -> bool:
            return prop.violated(evaluate(graph, x[None])[0]) is not None

        assert naive.decide(Network(graph, torch.float64), region, prop, Budget(), unsafe) == verdict


def test_a_run_goes_on_and_compares_ways_in_pairs(tmp_path: Path) -> None:
    data = Data(np.zeros((0, 2)), np.zeros(0), np.zeros((2, 2)), np.array([0, 1]))
    asked: list[tuple[int, str]] = []

    def judge(index: int, x: np.ndarray, label: int, way: str) -> Judged:
        asked.append((index, way))
        verdict = "unknown" if way == "naive" and index else "verified"
        return Judged(index, label, way, verdict, 10.0 if way == "naive" else 1.0, 1.0)

    for images in (1, 2):
        store = SampleStore(tmp_path, {}, Judged)
        list(campaign(judge, data, images, ("naive", "auto"), store))
    assert asked == [(0, "naive"), (0, "auto"), (1, "naive"), (1, "auto")]
    table = report(store.results, 30.0)
    assert "naive -> auto, 2 images: median 20.00 s -> 1.00 s, median ratio 10.0, decided 1 -> 2" in table
    assert table.endswith("contradict each other: none")
    assert set(exact_accuracy.STAGES) < set(exact_accuracy.WAYS)
