"""Smoothing runs that machines share, joined: equal to one machine's, and refused where draws would count twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.robust import SampleStore
from benchmarks.shares import Share, ShareResult, merge, run_share
from benchmarks.smooth import Job, Partial, SmoothResult
from certify.budget import Budget
from certify.check.counts import check_run, digest
from certify.errors import BadOption, CertifyError
from certify.frontends.load import load_network
from certify.graph.ir import Graph
from certify.smoothing.noise import Gaussian
from certify.smoothing.plans import Adaptive, Fixed, Plan, TwoSided
from certify.smoothing.precision import base_classifier
from certify.smoothing.smoothed import Smoothed
from tests.conftest import Ran

NOISE = Gaussian(0.5)
X, LABELS = np.array([[0.2, 0], [-0.6, 1], [0.0, 0]], np.float32), np.array([1, 0, 1])


def sign(x: torch.Tensor) -> torch.Tensor:
    """Class 1 where the first value is positive."""
    return torch.stack([-x[:, 0], x[:, 0]], 1)


def job_of(plan: Plan, seed: int = 0, batch: int = 100) -> Job:
    return Job(Smoothed(sign, plan.noise, 2, seed, batch), plan, X, LABELS)


def whole(folder: Path, job: Job, indices: list[int], **names: str) -> Path:
    asked = job.settings(**{"network": "n", "data": "d", "net": str(folder), **names})
    store = SampleStore(folder, asked, SmoothResult)
    for result in job.run(indices, Budget(), asked):
        store.append(result)
    return folder


def share(folder: Path, job: Job, part: Share, indices: list[int], budget: Budget | None = None) -> Path:
    asked = part.settings(job.settings(network="n", data="d", net=str(folder)))
    store = SampleStore(folder, asked, ShareResult)
    for result in run_share(job, part, indices, budget or Budget(), asked, Partial(folder / "partial.json")):
        store.append(result)
    return folder


def untimed(results: list[SmoothResult]) -> list[SmoothResult]:
    return [replace(r, time_s=0.0, digest="") for r in results]


@settings(max_examples=6)
@given(st.integers(1, 4), st.integers(150, 700), st.sampled_from([64, 100]), st.booleans())
def test_shares_joined_are_what_one_machine_counts(
    tmp_path_factory: pytest.TempPathFactory, of: int, n: int, batch: int, two_sided: bool
) -> None:
    folder = tmp_path_factory.mktemp("shares")
    job = job_of((TwoSided if two_sided else Fixed)(NOISE, n=n, n0=30), batch=batch)
    parts = [share(folder / str(k), job, Share(k, of), [0, 1, 2]) for k in range(of, 0, -1)]
    joined, plan = merge(parts, folder / "joined")
    assert untimed(joined) == untimed(list(job.run([0, 1, 2], Budget(), {})))
    assert plan == job.plan
    assert check_run(folder / "joined").ok


def test_samples_of_several_machines_are_joined_in_order(tmp_path: Path) -> None:
    job = job_of(Adaptive(NOISE, n=2000, targets=(0.1,)))
    parts = [whole(tmp_path / "a", job, [2]), whole(tmp_path / "b", job, [0, 1])]
    joined, _ = merge(parts, tmp_path / "joined")
    assert [r.index for r in joined] == [0, 1, 2]
    assert untimed(joined) == untimed(list(job.run([0, 1, 2], Budget(), {})))
    assert check_run(tmp_path / "joined").ok  # signed anew: the folders named the network differently
    assert (tmp_path / "joined" / "run.json").exists()
    with pytest.raises(BadOption, match="already"):
        merge(parts, tmp_path / "joined")


def test_draws_that_would_count_twice_are_refused(tmp_path: Path) -> None:
    job = job_of(Fixed(NOISE, n=500, n0=30))
    first, second = (share(tmp_path / str(k), job, Share(k, 2), [0, 1]) for k in (1, 2))
    other = share(tmp_path / "3", job, Share(2, 3), [0, 1])  # another cut: block 1 is in both
    once, again = whole(tmp_path / "w", job, [0, 2]), whole(tmp_path / "v", job, [2])
    for parts, what in (((first, first, second), "in both"), ((first, second, other), "in both"),
                        ((first,), "lacks"), ((second,), "lacks"), ((first, second, once), "whole in"),
                        ((once, again), "twice"), ((once, once), "twice")):  # fmt: skip
        with pytest.raises(BadOption, match=what):
            merge(parts, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["seed", "batch", "alpha", "n", "noise", "bound", "network", "data", "precision"])
def test_runs_that_were_asked_otherwise_are_refused(tmp_path: Path, what: str) -> None:
    plan = Fixed(NOISE, n=300, n0=20)
    others: dict[str, tuple[Job, dict[str, str]]] = {
        "seed": (job_of(plan, seed=1), {}),
        "batch": (job_of(plan, batch=50), {}),
        "alpha": (job_of(replace(plan, alpha=0.01)), {}),
        "n": (job_of(replace(plan, n=299)), {}),
        "noise": (job_of(replace(plan, noise=Gaussian(0.25))), {}),
        "bound": (job_of(TwoSided(NOISE, n=300, n0=20)), {}),
        "network": (job_of(plan), {"network": "m"}),
        "data": (job_of(plan), {"data": "e"}),
        "precision": (job_of(plan), {"precision": "bfloat16"}),
    }
    other, names = others[what]
    parts = [whole(tmp_path / "a", job_of(plan), [0]), whole(tmp_path / "b", other, [1], **names)]
    with pytest.raises(BadOption, match=f"different runs: {what}"):
        merge(parts, tmp_path / "out")


def test_forged_shares_are_refused(tmp_path: Path) -> None:
    job = job_of(Fixed(NOISE, n=500, n0=30))
    first, second = (share(tmp_path / str(k), job, Share(k, 2), [0]) for k in (1, 2))
    asked, kept = (json.loads((second / name).read_text()) for name in ("run.json", "results.jsonl"))

    def merged(sign_again: bool = True, **changes: object) -> None:
        line = {**kept, **changes}
        if sign_again:
            line["digest"] = digest(asked, {k: v for k, v in line.items() if k != "digest"})
        (second / "results.jsonl").write_text(json.dumps(line) + "\n")
        merge([first, second], tmp_path / "out")

    low, high, none = kept["answers"]
    for changes in ({"answers": [low, high + 1, none]}, {"answers": [-1, low + high + 1, none]}, {"label": 0},
                    {"answers": [float(low), high, none]}, {"answers": [low + high]}, {"blocks": [0, 3]},
                    {"blocks": [1, 1]}, {"blocks": [1, 99]}, {"selection": [30, 0, 0]}, {"blocks": None}):  # fmt: skip
        with pytest.raises(CertifyError):
            merged(**changes)
    with pytest.raises(BadOption, match="digest"):
        merged(sign_again=False, answers=[0, low + high, none])
    with pytest.raises(BadOption, match="does not hold"):
        merge([first, tmp_path], tmp_path / "out")
    (second / "results.jsonl").write_text(json.dumps(kept) + "\n")
    (second / "run.json").write_text(json.dumps({**asked, "share": [3, 2]}))
    with pytest.raises(BadOption):
        merge([first, second], tmp_path / "out")


class StopsAfter(Budget):
    """Cancelled when it was asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    @property
    def cancelled(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_share_that_was_stopped_goes_on_inside_a_sample(tmp_path: Path) -> None:
    job = job_of(Fixed(NOISE, n=900, n0=30))
    share(tmp_path / "stopped", job, Share(1, 2), [0, 1], StopsAfter(7))
    assert json.loads((tmp_path / "stopped" / "partial.json").read_text())["blocks"] == [0, 2]  # of the second sample
    share(tmp_path / "stopped", job, Share(1, 2), [1])
    whole_shares = [share(tmp_path / str(k), job, Share(k, 2), [0, 1]) for k in (1, 2)]
    lines = [(folder / "results.jsonl").read_text().splitlines() for folder in (tmp_path / "stopped", whole_shares[0])]
    found = [[{**json.loads(line), "time_s": 0, "digest": ""} for line in part] for part in lines]
    assert found[0] == found[1]
    with pytest.raises(BadOption, match="cannot be shared"):
        share(tmp_path / "adaptive", job_of(Adaptive(NOISE)), Share(1, 2), [0])
    for number, of in ((0, 2), (3, 2), (1, 0)):
        with pytest.raises(BadOption):
            Share(number, of)


def test_the_commands_share_and_join(run: Callable[..., Ran], tmp_path: Path) -> None:
    asked = ("smooth", "digits-mlp-adv", "--data", "digits", "--sigma", "0.2", "--n", "300", "--batch", "100")
    for k in (1, 2):
        done = run(*asked, "--index", "0:2", "--share", f"{k}/2", "--out", tmp_path / str(k))
        assert done.status == 0
    assert "2 of 2" in done.err
    both = tmp_path / "both"
    joined = run("merge", tmp_path / "1", tmp_path / "2", "--out", both)
    assert joined.status == 0
    assert "2 samples" in joined.out
    assert (both / "accuracy.png").exists()
    checked = run("check", both, "--recount", "1")
    assert checked.status == 0
    assert "0 with other counts" in checked.out
    assert "computes in float32" in checked.out
    assert run("check", tmp_path / "1").status == 2
    assert run("merge", tmp_path / "1", "--out", tmp_path / "alone").status == 2
    for words in (("--share", "1/2"), ("--share", "0/2", "--out", tmp_path / "x"), ("--precision", "int8")):
        assert run(*asked, *words).status == 2


# -- precision


def graph_of(*layers: nn.Module) -> Graph:
    return load_network(nn.Sequential(*layers), torch.zeros(1, 2)).graph


def dense(weights: list[list[float]]) -> nn.Module:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor(weights)
    return layer


def test_half_precision_is_another_classifier_and_says_so(tmp_path: Path) -> None:
    """1 + 2^-9 is 1 in bfloat16: there both classes always have equal outputs, and the first one answers."""
    graph = graph_of(dense([[1.0, 0.0], [1 + 2.0**-9, 0.0]]))
    plan, answers = Fixed(NOISE, n=400, n0=20), {}
    for name in ("float32", "bfloat16"):
        run = Smoothed(base_classifier(graph, name, "cpu"), NOISE, 2, batch=200)
        answers[name] = run.certify(torch.tensor([5.0, 0.0]), 0, plan).counts
    assert answers == {"float32": (0, 400, 0), "bfloat16": (400, 0, 0)}
    job = job_of(plan)
    asked = job.settings(network="n", data="d", precision="bfloat16")
    store = SampleStore(tmp_path / "run", asked, SmoothResult)
    for result in job.run([0], Budget(), asked):
        store.append(result)
    report = check_run(tmp_path / "run")
    assert report.ok
    assert any("computes in bfloat16" in note for note in report.notes)
    asked["precision"] = "float32"  # the digest covers it
    (tmp_path / "run" / "run.json").write_text(json.dumps(asked))
    assert not check_run(tmp_path / "run").ok


def test_what_overflows_in_half_precision_is_no_class() -> None:
    graph = graph_of(dense([[6e4, -6e4], [-6e4, 6e4]]), nn.ReLU(), dense([[1.0, 0.0], [0.0, 1.0]]))  # inf * 0
    for name, expected in (("float32", (100, 0, 0)), ("float16", (0, 0, 100))):
        run = Smoothed(base_classifier(graph, name, "cpu"), Gaussian(0.01), 2)
        assert run.count(torch.tensor([4.0, 2.0]), (0, "prediction"), [(0, 100)]).answers == expected
    with pytest.raises(BadOption, match="precision"):
        base_classifier(graph, "float8", "cpu")
