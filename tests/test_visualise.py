"""`certify visualise`: images go where they are told to, no farther than allowed, and the picture shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attack import Campaign
from benchmarks.threats import Moved
from benchmarks.visualise import noise, visualise
from certify.budget import Budget
from certify.cli import main
from certify.frontends.load import load_network
from models import data


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["visualise", "digits-mlp", "--data", "digits", *arguments])
    return ended.value.code or 0


def test_images_go_toward_every_class_within_the_ball() -> None:
    digits, network = data.load("digits"), load_network("digits-mlp")
    campaign = Campaign(network, digits.x_test, digits.y_test, (0.0, 1.0), "")
    found = list(visualise(campaign, range(2, 4), (0, 3, 7), Moved("2", "2.5", 2.5), Budget()))
    assert [(seen.index, seen.toward) for seen, _ in found] == [(i, c) for i in (2, 3) for c in (0, 3, 7)]
    for seen, image in found:
        before = digits.x_test[seen.index].reshape(-1)
        offset = image.astype(float) - before
        logits = network.source(image.astype(float)).reshape(-1)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert ((image >= 0) & (image <= 1)).all()
        assert np.linalg.norm(offset) <= 2.5
        assert seen.distance == pytest.approx(np.linalg.norm(offset))
        assert seen.answer == logits.argmax() == seen.toward
        assert seen.probability == pytest.approx(shares[seen.toward])
        assert seen.probability > 0.99
        assert seen.label == digits.y_test[seen.index]
    cancelled = Budget()
    cancelled.cancel()
    assert not list(visualise(campaign, range(2), (0,), Moved("2", "1", 1.0), cancelled))


def test_noise_has_the_moments_of_the_data_and_stays_in_its_range() -> None:
    x = np.random.default_rng(0).normal([0.4, 0.6], [0.05, 0.0], (500, 2)).astype(np.float32)
    drawn = noise(x, 4000, (0.0, 1.0), 1)
    assert drawn.dtype == x.dtype
    assert np.allclose(drawn.mean(0), x.mean(0), atol=0.01)
    assert np.allclose(drawn.std(0), x.std(0), atol=0.01)
    low, high = noise(10 * x, 9, (0.0, 1.0), 1).min(), noise(10 * x, 9, (0.0, 1.0), 1).max()
    assert (low, high) == (1.0, 1.0)


def test_the_picture_is_drawn_and_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "seen.png"
    assert _run("--eps", "3", "--noise", "--index", "1:3", "--toward", "4:6", "--json", "--out", str(out)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["index"], row["label"], row["toward"]) for row in rows] == [
        (i, None, c) for i in (1, 2) for c in (4, 5)
    ]
    assert out.stat().st_size > 1000
    for wrong, message in (
        (("--eps", "1", "--out", str(tmp_path / "seen.txt")), "png"),
        (("--eps", "0", "--out", str(out)), "positive"),
        (("--eps", "1", "--norm", "3", "--out", str(out)), "inf, 2, 1 or 0"),
        (("--eps", "1", "--toward", "10:12", "--out", str(out)), "--toward"),
    ):
        assert _run(*wrong) == 2
        assert message in capsys.readouterr().err
