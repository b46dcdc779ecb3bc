"""`certify attack`: what it counts, keeps and draws, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attack import Campaign
from certify.budget import Budget
from certify.cli import main
from certify.errors import BadOption
from certify.frontends.load import load_network
from models import data


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["attack", "digits-mlp", "--data", "digits", *arguments])
    return ended.value.code or 0


def test_results_points_and_picture_are_kept_and_a_run_resumes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    options = ("--attack", "apgd-ce", "--out", str(out), "--json")
    assert _run("--eps", "0.2", "--index", "0:6", *options) == 0
    assert (out / "attack.png").stat().st_size > 1000
    before = (out / "results.jsonl").read_text()
    capsys.readouterr()
    assert _run("--eps", "0.2", "--index", "0:8", *options) == 0
    assert (out / "results.jsonl").read_text().startswith(before)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["index"] for row in shown] == [6, 7]
    digits, network = data.load("digits"), load_network("digits-mlp")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(8))
    assert any(row["fooled"] for row in rows)
    for row in rows:
        x, center = np.load(out / "points" / f"{row['index']}_0.2.npy"), digits.x_test[row["index"]].reshape(-1)
        assert np.abs(x.astype(float) - center).max() <= 0.2
        assert ((x >= 0) & (x <= 1)).all()
        assert (network.source(x).argmax() != row["label"]) == row["fooled"]
    assert _run("--eps", "0.2", "--attack", "fgsm", "--out", str(out)) == 2
    assert "attack" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eps", "0.1", "--attack", "aupgd"), "apgd-ce"),
        (("--eps", "0.1", "--norm", "3"), "inf, 2, 1 or 0"),
        (("--eps", "3", "--norm", "0", "--range", "none", "--index", "0:1"), "data range"),
        (("--eps", "0.1", "--data", "nothing"), "digits"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert _run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_campaign_ends_where_it_is_stopped_and_says_what_does_not_fit() -> None:
    digits, network = data.load("digits"), load_network("digits-mlp")
    campaign = Campaign(network, digits.x_test, digits.y_test, np.inf, (0.0, 1.0), "fgsm")
    budget = Budget()
    budget.cancel()
    assert not list(campaign.run(range(4), [("0.1", 0.1)], budget))
    wrong = Campaign(network, digits.x_test[:, :, :4], digits.y_test, np.inf, (0.0, 1.0), "fgsm")
    with pytest.raises(BadOption, match="64 inputs"):
        list(wrong.run(range(4), [("0.1", 0.1)], Budget()))
