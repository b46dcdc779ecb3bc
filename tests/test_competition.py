"""What `certify verify --result` writes, and the competition's scripts."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from certify.commands.competition import result_text, write_result
from certify.evidence import Witness
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified
from tests import replay
from tests.conftest import Ran


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


# -- the scripts, end to end, and results that another checker replays

FOLDER = Path(__file__).resolve().parents[1] / "competition"
PAIR = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [1,2]) (declare-hidden H real [1,4] "a0") (declare-output Y real [1,2]))
(declare-network g (equal-to f) (declare-input A real [1,2]) (declare-output B real [1,2]))
(assert (and (>= X[0,0] 0) (<= X[0,0] 1) (>= X[0,1] 0) (<= X[0,1] 1) (== X[0,1] A[0,1])))
(assert (and (>= A[0,0] X[0,0]) (<= A[0,0] 1) (>= H[0,0] 0.25) (>= B[0,0] (+ Y[0,0] 0.5))))
"""


def script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CERTIFY_PYTHON": sys.executable}
    command = ["bash", str(FOLDER / f"{name}.sh"), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_two_networks_from_preparation_to_a_witness(network: Path, tmp_path: Path) -> None:
    prop, result = tmp_path / "pair.vnnlib", tmp_path / "result.txt"
    prop.write_text(PAIR)
    listed = f"[('f', '{network}')]"
    assert script("prepare_instance", "v1", "pairs", listed, prop).returncode == 0
    ran = script("run_instance", "v1", "pairs", listed, prop, result, 100)
    assert ran.returncode == 0, ran.stderr
    text = result.read_text()
    assert text.split("\n")[0] == "sat"
    assert replay.second_version(text, PAIR, {"f": network, "g": network})
    assert not replay.second_version(text, PAIR.replace("0.5)", "5)"), {"f": network, "g": network})


def test_what_cannot_be_read_is_an_error(network: Path, holds: Path, tmp_path: Path) -> None:
    absent, result = tmp_path / "absent.onnx", tmp_path / "result.txt"
    assert script("prepare_instance", "v1", "c", absent, holds).returncode == 1
    assert script("prepare_instance", "v1", "c", network, absent).returncode == 1
    assert script("prepare_instance", "v2", "c", network, holds).returncode == 2
    assert script("run_instance", "v1", "c", network, absent, result, 100).returncode == 1
    assert result.read_text() == "error\n"
    assert script("run_instance", "v1", "c").returncode == 2
    assert script("install_tool", "v2").returncode == 2


def test_certify_is_stopped_with_its_script(network: Path, holds: Path, tmp_path: Path) -> None:
    """A stand-in for the interpreter says that it began, and would go on for a minute."""
    began, stand_in = tmp_path / "began", tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\necho $$ > "{began}.part"; mv "{began}.part" "{began}"\nexec sleep 60\n')
    stand_in.chmod(0o755)
    command = ["bash", str(FOLDER / "run_instance.sh"), "v1", "c", str(network), str(holds), str(tmp_path / "r"), "90"]
    script = subprocess.Popen(command, env={**os.environ, "CERTIFY_PYTHON": str(stand_in)})
    deadline = time.monotonic() + 60
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    assert script.wait(60) == 1
    assert (tmp_path / "r").read_text() == "error\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(began.read_text()), 0)


def test_installing_is_the_makefile(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/called"\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", str(FOLDER / "install_tool.sh"), "v1"], env=environment, check=True)
    words = (tmp_path / "called").read_text().split()
    assert (words[0], words[2]) == ("-C", "setup")
    assert Path(words[1]).resolve() == FOLDER.parent


def test_a_witness_of_the_first_version_is_replayed(
    run: Callable[..., Ran], network: Path, fails: Path, holds: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.txt"
    assert run("verify", network, fails, "--result", result).status == 1
    assert replay.first_version(result.read_text(), fails.read_text(), network)
    assert not replay.first_version(result.read_text(), holds.read_text(), network)
    assert run("verify", network, holds, "--result", result).status == 0
    assert result.read_text() == "unsat\n"


@pytest.mark.slow
@pytest.mark.parametrize("category", ["test", "acasxu", "linearizenn", "safenlp", "cora", "dist_shift"])
def test_instances_of_the_competition(shared: Path, category: str, tmp_path: Path) -> None:
    """One instance that is sat and one that is unsat, if the category has them, by the scripts."""
    with open(shared / "vnncomp" / "instances.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] == category]
    chosen = {row["expected"]: row for row in reversed(rows) if row["expected"] in ("sat", "unsat")}
    assert chosen
    for expected, row in chosen.items():
        folder = shared / "vnncomp" / category
        network, prop, result = folder / row["onnx"], folder / row["vnnlib"], tmp_path / "result.txt"
        assert script("prepare_instance", "v1", category, network, prop).returncode == 0
        ran = script("run_instance", "v1", category, network, prop, result, 60)
        assert ran.returncode == 0, ran.stderr
        text = result.read_text()
        assert text.split("\n")[0] in (expected, "timeout", "unknown")
        if text.startswith("sat"):
            assert replay.first_version(text, replay.text_of(prop), network)
