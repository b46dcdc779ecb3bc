"""The comparison of trainings for smoothing, as a whole and small: it resumes, and says what its evidence says."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.smooth_training import Question, run, with_images
from certify.check.counts import check_run
from models.data import Data, load

QUESTION = Question(
    data="digits", net="mlp", sigma=0.25, epsilon=0.25, steps=2, copies=2, epochs=2, rate=0.005, samples=3, n=300,
    alpha=0.01, radii=(0.0, 0.2), target=0.2, seed=0,
)  # fmt: skip


def test_it_certifies_both_trainings_and_resumes(tmp_path: Path) -> None:
    whole = load("digits")
    data = replace(whole, x_train=whole.x_train[:400], y_train=whole.y_train[:400])
    told: list[str] = []
    first = run(tmp_path, QUESTION, data, told.append)
    assert told == [f"{m}, {p}: done" for m in ("gaussian", "smooth-adv") for p in ("fixed", "adaptive", "one-radius")]
    for method in ("gaussian", "smooth-adv"):
        for plan in ("fixed", "adaptive", "one-radius"):
            assert check_run(tmp_path / method / plan).ok
    lines = tmp_path / "gaussian" / "fixed" / "results.jsonl"
    kept = lines.read_text()
    lines.write_text("".join(kept.splitlines(keepends=True)[:1]))
    again = run(tmp_path, QUESTION, data, told.append)
    row = next(row for row in first.splitlines() if row.startswith("| gaussian | fixed"))
    assert row in again.splitlines()
    assert lines.read_text().count("\n") == QUESTION.samples
    assert "| gaussian | fixed | 400 | 400 |" in first
    assert (tmp_path / "report.txt").read_text() == again


def test_images_of_an_archive_are_the_training_part(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="images in an archive are read by Pillow")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for i, label in ((10, 3), (2, 7), (1, 0)):
            path = tmp_path / f"{i}_{label}.jpg"
            image.new("RGB", (8, 8), (20 * label, 100, 200)).save(path)
            archive.write(path, path.name)
    nothing = np.zeros((0, 3, 8, 8), np.float32)
    data = with_images(Data(nothing, np.zeros(0, np.int64), nothing, np.zeros(0, np.int64)), tmp_path / "some.zip")
    assert data.y_train.tolist() == [0, 7, 3]
    assert data.x_train.shape == (3, 3, 8, 8)
    for x, label in zip(data.x_train, data.y_train, strict=True):
        assert x.mean((1, 2)) * 255 == pytest.approx([20 * label, 100, 200], abs=4)
