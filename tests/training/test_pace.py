"""What is timed are the steps of the training loop; a peer's are those of its own, found in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.training import ctrain, pace
from benchmarks.training.steps import Ours, Work, alternate
from certify.errors import BadOption
from models import data
from training.run import Spent

PEER = """
class ShiIBPModelWrapper:
    def __init__(self, model, shape, eps, epochs, warm_up_epochs, ramp_up_epochs, device):
        self.model, self.seen = model, []

    def train_model(self, loader, start_epoch, end_epoch):
        print("noise")
        for _ in range(start_epoch, end_epoch):
            for x, y in loader:
                self.seen.append((start_epoch, float(x.min() - loader.min), float(loader.max - x.max())))
                self.model(x).sum().backward()
"""


@pytest.fixture
def work() -> Work:
    return Work(data.load("digits"), "cnn-small", 0.1, batch=8, steps=3, device="cpu")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that may be put on Python's path; what was imported as CTRAIN is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "CTRAIN"]:
        del sys.modules[name]


@pytest.fixture
def peer(path: Path) -> Path:
    """A folder from which a small CTRAIN can be imported."""
    (path / "CTRAIN").mkdir()
    (path / "CTRAIN" / "__init__.py").touch()
    (path / "CTRAIN" / "model_wrappers.py").write_text(PEER)
    return path


def test_a_round_trains_on_every_batch_and_notes_every_step(work):
    ours = Ours(work, "crown-ibp", 0.5)
    before = [p.detach().clone() for p in ours.run.network.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(before, work.network("crown-ibp").parameters(), strict=True))
    first, second = ours.round(), ours.round()
    assert len(first) == len(second) == 3
    assert all(step.clock > 0 for step in first + second)
    assert not torch.equal(before[0], next(ours.run.network.parameters()))
    assert [e.radius for e in ours.run.history] == [0.05, 0.05]


def test_contestants_take_turns_and_the_first_turn_does_not_count():
    said: list[str] = []

    def contestant(name: str):
        def one() -> list[Spent]:
            said.append(name)
            return [Spent(float(len(said)), 1.0), Spent(100.0, 3.0), Spent(0.0, 2.0)]

        return one

    found = alternate([contestant("a"), contestant("b")], 2)
    assert said == ["a", "b"] * 3
    assert found == [[Spent(3.0, 2.0), Spent(5.0, 2.0)], [Spent(4.0, 2.0), Spent(6.0, 2.0)]]


def test_a_peer_is_given_the_same_weights_and_normalised_batches_at_the_same_share(work, peer, capsys):
    peers = ctrain.contestants(ctrain.find(peer), work, "ibp", 0.5)
    assert list(peers) == ["CTRAIN"]
    theirs = peers["CTRAIN"]
    weights: list[Tensor] = list(theirs.wrapper.model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(weights, work.network("ibp").parameters(), strict=True))
    assert len(theirs.round()) == 3
    epochs, least, greatest = zip(*theirs.wrapper.seen, strict=True)
    assert set(epochs) == {594}  # of 1000: a quarter of the way is a power of four, up to 1 / 13 of the radius
    assert max(map(abs, least)) < 1e-5  # the least pixels are 0, the greatest 1
    assert max(map(abs, greatest)) < 1e-5
    assert "noise" not in capsys.readouterr().out


def test_the_table_has_the_ratio_to_the_peer(work, peer):
    theirs = ctrain.contestants(ctrain.find(peer), work, "ibp", 1.0)["CTRAIN"]
    (row,) = pace.rows(work, "ibp", 1.0, {"CTRAIN": theirs.round}, 1)
    assert row.theirs.ratio.clock == pytest.approx(row.ours.clock / row.theirs.spent.clock)
    assert f"| CTRAIN | {row.theirs.spent.cpu:.1f} |" in pace.markdown([row], work, [])
    (alone,) = pace.rows(work, "standard", 1.0, {}, 1)
    assert pace.markdown([alone], work, ["a note"]).endswith("| - | - | - | - | - |\n\na note")


def test_bounds_that_are_compared_leave_the_own_class_out(work):
    margins, fused = pace.bounds(work, "ibp", 0.02)
    x, y = next(work.batches())
    network = work.network("ibp")
    logits = network(x)
    others = torch.stack([row[torch.arange(10) != label] - row[label] for row, label in zip(logits, y, strict=True)])
    assert (others <= margins + 1e-6).all()
    assert fused >= nn.functional.cross_entropy(logits, y)


def test_a_folder_without_the_peer_is_refused(path):
    with pytest.raises(BadOption, match="CTRAIN cannot be imported"):
        ctrain.find(path)
