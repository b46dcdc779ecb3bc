"""The throughput benchmark: what it counts and what it prints."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks import throughput
from benchmarks.throughput import Case, cases, last_pass, operations, unstable_bounds
from certify.bounds.intermediate import unstable
from certify.graph.evaluate import Network

CASES = {case.name: case for case in cases()}
CPU = torch.device("cpu")


def test_operations_are_those_of_the_layers() -> None:
    assert operations(CASES["6x50"].graph) == 2 * (5 * 50 + 5 * 50 * 50 + 50 * 5)
    assert operations(CASES["4x256"].graph) == 2 * (784 * 256 + 3 * 256 * 256 + 256 * 10)
    graph = CASES["resnet_2b"].graph
    convolutions = 2048 * 27 + 1024 * (72 + 144 + 8 + 144 + 144)
    assert operations(graph) == 2 * (convolutions + 1024 * 100 + 100 * 10)
    assert sum(graph.nodes[e].size for e in graph.nonlinear) == 6244


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_last_pass_bounds_every_domain_with_all_neurons_unstable(case: Case) -> None:
    network = Network(case.graph)
    for v, bounds in unstable_bounds(network, 3).items():
        assert unstable(case.graph, v, bounds).all()
    found = last_pass(network, 3)()
    assert found.shape == (3, 1)
    assert torch.isfinite(found).all()
    assert len(found.unique()) == 3


def test_it_prints_all_that_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    small = Case("small", throughput.mlp((3, 8, 8, 2), np.random.default_rng(0)), (4, 8), 40, (1, None, 2), 4)
    quick = mock.patch.multiple(
        throughput, SECONDS=0.001, RUN=0.0001, cases=lambda: [small], memory=lambda case, device: 7.0
    )
    with quick:
        throughput.main(["--json"])
        found = json.loads(capsys.readouterr().out)
        throughput.main(["--only", "small"])
    (row,) = found["networks"]
    assert row["batch"] in small.batches
    one = max(value for name, value in found["peak_gflops"].items() if "two" not in name)
    assert row["percent"] == pytest.approx(100 * row["gflops"] / one)
    assert row["gflops"] == pytest.approx(1e-9 * operations(small.graph) * row["last_pass"])
    text = capsys.readouterr().out
    assert "small, batches of" in text
    assert "aim 40 %" in text


@pytest.mark.slow
def test_memory_is_near_what_it_is_on_paper() -> None:
    case = CASES["resnet_2b"]
    neurons = 6244
    paper = 4 * (throughput.ARRAYS * neurons + throughput.INPUTS * case.graph.input_size)
    assert 0.5 * paper < throughput.memory(case, CPU) < 2 * paper
