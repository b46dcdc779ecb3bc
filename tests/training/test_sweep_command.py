"""`certify sweep`: a table, a picture, and folders that other commands take; stopped, it goes on."""

from __future__ import annotations

import csv
import json
import os
import signal

import pytest

from certify.commands.progress import Bar
from models import zoo

SWEEP = ("sweep", "--data", "digits", "--net", "mlp", "--eps", "0.03", "--epochs", "1", "--rate", "0.005")


def test_a_sweep_leaves_networks_and_their_front(run, tmp_path, monkeypatch):
    words = (*SWEEP, "--methods", "standard;mtl-ibp:share=0.3", "--certify", "2", "--out", tmp_path)
    advance = Bar.advance

    def interrupted(self, done, description):
        if done >= 1.5:
            os.kill(os.getpid(), signal.SIGINT)
        advance(self, done, description)

    with monkeypatch.context() as patched:
        patched.setattr(Bar, "advance", interrupted)
        stopped = run(*words)
    assert stopped.status == 130, stopped.err
    assert "stopped: 1 of 2 trained" in stopped.err
    done = run(*words, "--json")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {row["method"] for row in rows} == {"standard", "mtl-ibp:share=0.3"}
    assert any(row["front"] for row in rows)
    for row in rows:
        assert row["front"] == (row["test_certified"] is not None)
        card = zoo.read(tmp_path / row["folder"] / "model.safetensors").card
        assert row["method"] in card.command
        assert len(card.measured) == row["front"]
    assert [row["method"] for row in csv.DictReader((tmp_path / "points.csv").open())] == [r["method"] for r in rows]
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_trials_are_proposed_by_optuna(run, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed (certify-nn[sweep])")
    words = (*SWEEP, "--methods", "ibp,trades", "--trials", "3", "--verify", "2", "--out", tmp_path)
    first = run(*words)
    assert first.status == 0, first.err
    assert "next: certify robust" in first.out
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 3
    assert run(*words).out == first.out
    rows = list(csv.DictReader((tmp_path / "points.csv").open()))
    assert {(row["by"], float(row[key]) % 0.5) for row in rows for key in ("clean", "certified")} == {("verdicts", 0.0)}
    other = run(*words[:-2], "--norm", "2", "--out", tmp_path)
    assert other.status == 2
    assert "another search" in other.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "ibp,ibq"), "no training method"),
        (("--methods", ""), "no training method"),
        (("--methods", "ibp", "--validation", "0"), "compared on this share"),
        (("--methods", "ibp", "--norm", "3"), "no such norm"),
        (("--methods", "ibp", "--verify", "1000"), "154 samples are kept aside"),
    ],
)
def test_wrong_words_are_refused(run, tmp_path, words, said):
    done = run(*SWEEP, *words, "--out", tmp_path / "x")
    assert done.status == 2
    assert said in done.err
