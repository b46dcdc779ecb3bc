"""A run that is killed goes on to the very weights of one that was not; what is on the disk is whole, or refused."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from certify.errors import BadOption
from tests.training.nets import batch, small
from tests.training.test_loop import NET, PLAN, halves
from training import EMA, SWA, Adversarial, Augment, norms, train
from training.loop import Trained
from training.run import CHECKPOINT, LOG, Run

CHANGES = Augment(pixels=1, mirror=0.5)
FULL = replace(PLAN, method=Adversarial(), average=EMA(0.9), patience=2, epochs=3, augment=CHANGES, l1=1e-4)
CHILD = """
import os, signal, sys
from pathlib import Path
from tests.training.test_resume import FULL, NET, halves
from training.run import Run
run = Run(NET, halves(), FULL, Path(sys.argv[1]), every=0.0)  # keeps its state after every step
steps = 0
def kill(progress):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
while not run.done:
    run.one_epoch(lambda: False, kill)
"""


def same(one: Trained, two: Trained) -> bool:
    pairs = zip(one.network.state_dict().values(), two.network.state_dict().values(), strict=True)
    scores = [(e.loss, *e.score) for e in one.history] == [(e.loss, *e.score) for e in two.history]
    return scores and all(torch.equal(a, b) for a, b in pairs)


def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    whole = train(NET, halves(), FULL)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", CHILD, str(tmp_path), "8"]  # in the second epoch of five steps each
    killed = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = Run(NET, halves(), FULL, tmp_path)
    assert (run.epoch, run.place) == (1, 2)
    resumed = train(NET, halves(), FULL, tmp_path)
    assert same(whole, resumed)
    assert len((tmp_path / LOG).read_text().splitlines()) == 1 + FULL.epochs
    assert same(resumed, train(NET, halves(), FULL, tmp_path))  # nothing is left to do


@pytest.mark.parametrize("after", [0, 1, 6])
def test_a_stopped_run_goes_on_wherever_it_was(tmp_path, after):
    calls = []

    def stop() -> bool:
        calls.append(None)
        return len(calls) > after

    part = train(NET, halves(), FULL, tmp_path, stop=stop)
    assert not part.finished
    assert same(train(NET, halves(), FULL), train(NET, halves(), FULL, tmp_path))


def test_a_file_cut_short_by_a_kill_is_never_read(tmp_path):
    train(NET, halves(), FULL, tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / (CHECKPOINT + ".partial")).write_bytes(whole[:100])  # killed while writing the next one
    assert train(NET, halves(), FULL, tmp_path).finished
    (tmp_path / CHECKPOINT).write_bytes(whole[:-200])
    with pytest.raises(BadOption, match="not a checkpoint"):
        train(NET, halves(), FULL, tmp_path)


def test_the_state_of_another_run_is_refused(tmp_path):
    train(NET, halves(), FULL, tmp_path, stop=lambda: True)
    for other in (replace(FULL, seed=3), replace(FULL, method=Adversarial(replace(FULL.method.attack, steps=2)))):
        with pytest.raises(BadOption, match="another run"):
            train(NET, halves(), other, tmp_path)
    with pytest.raises(BadOption, match="another run"):
        train(NET, halves(199), FULL, tmp_path)


def test_patience_ends_training_and_keeps_the_best_epoch():
    plan = replace(FULL, epochs=40, patience=2, average=None)
    trained = train(NET, halves(), plan)
    full = [e for e in trained.history if e.radius >= plan.epsilon]
    best = max(full, key=lambda e: e.score)
    assert trained.finished
    assert trained.epoch == best
    assert len(full) < sum(plan.growth(e / 40) == 1.0 for e in range(1, 41))
    assert full.index(best) == len(full) - 1 - 2
    again = train(NET, halves(), plan, stop=_until(plan, best.epoch))
    assert all(torch.equal(a, b) for a, b in zip(trained.network.parameters(), again.network.parameters(), strict=True))


def _until(plan, epoch):
    steps = iter(range(10**6))
    per_epoch = -(-round(200 * (1 - plan.validation)) // plan.batch)
    return lambda: next(steps) >= epoch * per_epoch


def test_the_average_trails_the_weights():
    plain, averaged = (train(NET, halves(), replace(PLAN, average=a)) for a in (None, EMA(0.99)))
    first = Run(NET, halves(), PLAN).network
    distance = [
        sum(
            float((a - b).detach().square().sum())
            for a, b in zip(t.network.parameters(), first.parameters(), strict=True)
        )
        for t in (plain, averaged)
    ]
    assert 0 < distance[1] < distance[0]


def test_swa_is_the_mean_of_the_last_steps_and_survives_a_stop(tmp_path):
    plan = replace(PLAN, average=SWA(0.5))
    run, seen = Run(NET, halves(), plan), []

    def note(progress):
        if progress >= 0.5:
            seen.append([p.detach().clone() for p in run.network.parameters()])

    while not run.done:
        run.one_epoch(lambda: False, note)
    means = [torch.stack(list(ps)).mean(0) for ps in zip(*seen, strict=True)]
    whole = run.result()
    assert len(seen) > 5
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole.parameters(), means, strict=True))
    train(NET, halves(), plan, tmp_path, stop=_until(plan, 2))
    resumed = train(NET, halves(), plan, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.network.parameters(), strict=True))


def test_averaged_weights_have_statistics_of_their_own():
    network = small("cnn", 2).train()
    x, _ = batch("cnn", 3, 40)
    norms.refresh(network, x, 40)
    seen = network[:2](x)
    assert torch.allclose(network[2].running_mean, seen.mean((0, 2, 3)))
    assert torch.allclose(network[2].running_var, seen.var((0, 2, 3)))
    assert network[2].momentum == 0.1
    assert network.training


@pytest.mark.parametrize("average", [lambda: EMA(1.0), lambda: EMA(-0.1), lambda: SWA(1.0), lambda: SWA(math.nan)])
def test_averages_of_nothing_are_refused(average):
    with pytest.raises(BadOption, match="use a number from 0"):
        average()
