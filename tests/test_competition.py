"""What `certify verify --result` writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from certify.commands.competition import result_text, write_result
from certify.evidence import Witness
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (Verified(None, Grade.VACUOUS), "unsat"),
        (Unknown(Reason.TIMEOUT, 0.0), "timeout"),
        (Unknown(Reason.INCOMPLETE, 0.0), "unknown"),
    ],
)
def test_words(verdict: Verdict, word: str, tmp_path: Path) -> None:
    write_result(tmp_path / "r.txt", verdict)
    assert (tmp_path / "r.txt").read_text() == f"{word}\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_witness_is_written_to_the_last_bit() -> None:
    x, y = np.array([0.1, -1e-30, 3.0]), np.array([np.float32(0.1), 2.5], np.float64)
    first, *rest = result_text(Falsified(Witness(0, 0, x, y, "onnxruntime"))).splitlines()
    assert first == "sat"
    text = "\n".join(rest)
    assert text.startswith("((X_0 ")
    assert text.endswith("))")
    found = re.findall(r"\(([XY]_\d+) (\S+?)\)", text)
    assert [name for name, _ in found] == ["X_0", "X_1", "X_2", "Y_0", "Y_1"]
    assert [float(value) for _, value in found] == [*x, *y]
