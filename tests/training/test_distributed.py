"""Two processes that share every batch learn what one does alone, and go on together where they were stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import zoo
from tests.training.nets import batch, small
from tests.training.test_loop import NET, PLAN, halves
from training import EMA, IBP, Free, train
from training.distributed import Team, joined

WITH_NORMS = zoo.Description(
    "convnet", {"shape": [1, 2, 2], "classes": 2, "convolutions": [[3, 1, 1, 0]], "hidden": [4], "batch_norm": True}
)
EXACT = replace(PLAN, method=IBP(), average=EMA(0.5), epochs=2)
NOISY = replace(PLAN, method=Free(), epochs=1, replays=2)
CHILD = """
import os, sys
from pathlib import Path
import torch, torch._dynamo  # optimisers import it at their first step
from tests.training.test_distributed import EXACT, NET, NOISY, WITH_NORMS, halves
from training import train
from training.distributed import Team, joined

folder = Path(sys.argv[1])
other = os.fork()  # before torch has computed anything; so what takes longest, to import it, is done once
os.environ["RANK"] = "0" if other else "1"
with joined():
    rank = Team.here().rank
    assert Team.here().size == 2
    whole = train(NET, halves(), EXACT, folder / "exact")
    steps = iter(range(100))
    first = train(WITH_NORMS, halves(), NOISY, folder / "noisy", stop=lambda: rank == 1 and next(steps) >= 3)
    assert not first.finished
    again = train(WITH_NORMS, halves(), NOISY, folder / "noisy")
    never = train(WITH_NORMS, halves(), NOISY)
    found = {name: t.network.state_dict() for name, t in (("whole", whole), ("again", again), ("never", never))}
    torch.save((found, [e.score for e in whole.history]), folder / f"{rank}.pt")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) if other else 0)
"""


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_two_processes_learn_what_one_does_and_resume(tmp_path):
    root = Path(__file__).resolve().parents[2]
    common = {**os.environ, "PYTHONPATH": str(root), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = port()
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=common, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (one, scores), (two, others) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert scores == others
    for name in one:
        assert all(torch.equal(one[name][key], two[name][key]) for key in one[name]), name
    assert all(torch.equal(one["again"][key], one["never"][key]) for key in one["again"])
    alone = train(NET, halves(), EXACT)
    assert all(torch.allclose(one["whole"][key], value, atol=1e-4) for key, value in alone.network.state_dict().items())
    assert [s[-1] for s in scores] == pytest.approx([e.clean for e in alone.history])


def test_alone_nothing_is_exchanged():
    assert not {"WORLD_SIZE"} & set(os.environ)
    with joined():
        team = Team.here()
    assert (team.rank, team.size) == (0, 1)
    x, _ = batch("mlp", 0, 5)
    assert torch.equal(team.part(x), x)
    assert team.sum(1.5, 2.0) == (1.5, 2.0)
    assert team.any(False, True) == (False, True)
    assert team.each("own") == ["own"]
    network = small("mlp", 0)
    team.combine(network, 0.5)
    assert all(p.grad is None for p in network.parameters())


def test_parts_of_a_batch_are_the_batch():
    x = torch.arange(7)
    parts = [Team(rank, 3).part(x) for rank in range(3)]
    assert sorted(torch.cat(parts).tolist()) == x.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
