"""Without matplotlib, which is in an extra, commands do all but draw."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.conftest import save_onnx


@pytest.mark.parametrize(
    ("words", "drawing"),
    [
        (("attack", "--eps", "0.9", "--attack", "pgd"), "attack.png"),
        (("smooth", "--sigma", "0.25", "--n", "100"), "accuracy.png"),
        (("radius", "--timeout", "20"), "radius.png"),
    ],
)
def test_nothing_drawn_is_no_failure(run, tmp_path, monkeypatch, words, drawing):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net = save_onnx(tmp_path / "net.onnx", [(np.eye(2), np.zeros(2)), (np.eye(2), np.zeros(2))])
    np.savez(tmp_path / "data.npz", x=np.array([[0.9, 0.1]], np.float32), y=np.array([0]))
    command, *options = words
    done = run(command, net, "--data", tmp_path / "data.npz", *options, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert f"{tmp_path / 'out' / drawing} is not drawn: matplotlib is not installed" in done.err
    assert "picture: " not in done.err
    assert "histogram: " not in done.err
