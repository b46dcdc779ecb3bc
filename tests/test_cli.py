"""The `certify` command: what it answers, its exit status, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from certify.commands import options
from certify.errors import BadOption
from tests.conftest import Ran, save_onnx, vnnlib

Certify = Callable[..., Ran]
FIELDS = ["verdict", "reason", "time_s", "grade", "lower"]


# -- verify


def test_verified(run: Certify, network: Path, holds: Path) -> None:
    ran = run("verify", network, holds)
    assert ran.status == 0
    assert ran.out.startswith("verified in ")
    assert "checked" in ran.out
    assert len(ran.out.splitlines()) == 1


def test_falsified_prints_a_true_witness(run: Certify, network: Path, fails: Path) -> None:
    ran = run("verify", network, fails)
    assert ran.status == 1
    first, *rest = ran.out.splitlines()
    assert first.startswith("falsified in ")
    values = {name.strip(): float(value) for name, value in (line.split("=") for line in rest)}
    assert sorted(values) == ["X_0", "X_1"]
    assert all(-1 <= v <= 1 for v in values.values())
    assert sum(abs(np.float32(v)) for v in values.values()) >= 1.5


def test_unknown_says_why(run: Certify, network: Path, tmp_path: Path) -> None:
    tight = vnnlib(tmp_path / "tight.vnnlib", [(-1, 1), (-1, 1)], "(and (>= Y_0 1.9) (<= Y_1 -0.3) (>= Y_1 0.3))")
    ran = run("verify", network, tight, "--method", "interval")
    assert ran.status == 3
    assert ran.out.startswith("unknown in ")
    assert "incomplete" in ran.out


@pytest.mark.parametrize(("prop", "status"), [("holds", 0), ("fails", 1)])
def test_json_is_one_strict_object(
    run: Certify, network: Path, prop: str, status: int, request: pytest.FixtureRequest
) -> None:
    ran = run("verify", network, request.getfixturevalue(prop), "--json")
    assert ran.status == status

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(ran.out, parse_constant=refuse)
    assert list(found)[:5] == FIELDS
    assert found["verdict"] == ("verified", "falsified")[status]
    assert found["reason"] is None
    assert found["grade"] == ("checked", None)[status]
    assert 0 < found["time_s"] < 600
    assert 0 <= found["checking_s"] < found["time_s"]
    assert (found["checking_s"] > 0) == (status == 0)
    assert ("witness" in found) == (status == 1)


def test_a_large_witness_is_not_poured_out(run: Certify, tmp_path: Path) -> None:
    net = save_onnx(tmp_path / "wide.onnx", [(np.ones((1, 20)), np.zeros(1))])
    prop = vnnlib(tmp_path / "p.vnnlib", [(0, 1)] * 20, "(>= Y_0 10)", outputs=1)
    ran = run("verify", net, prop)
    assert ran.status == 1
    assert "X_0 =" not in ran.out
    assert "--out" in ran.out
    found = json.loads(run("verify", net, prop, "--json").out)
    assert len(found["witness"]) == 20


def test_an_empty_region_is_refused_or_vacuous(run: Certify, network: Path, tmp_path: Path) -> None:
    empty = vnnlib(tmp_path / "empty.vnnlib", [(-1, 1), (1, -1)], "(>= Y_0 0)")
    refused = run("verify", network, empty)
    assert (refused.status, refused.out) == (2, "")
    allowed = run("verify", network, empty, "--allow-empty")
    assert allowed.status == 0
    assert "vacuous" in allowed.out
    out = tmp_path / "run"
    assert run("verify", network, empty, "--allow-empty", "--out", out).status == 0
    ran = run("check", out)
    assert ran.status == 0
    assert "vacuous" in ran.out
    assert json.loads(run("verify", network, empty, "--allow-empty", "--json").out)["grade"] == "vacuous"


def test_a_warning_is_one_line_for_the_user(run: Certify, network: Path, tmp_path: Path) -> None:
    prop = vnnlib(tmp_path / "p.vnnlib", [(-1, 1), (-1, 1)], "(or (and (<= X_0 -2) (>= Y_0 0)) (>= Y_0 2.5))")
    ran = run("verify", network, prop)
    assert ran.status == 0
    assert ran.err.startswith("certify: warning: ")
    assert "p.vnnlib:" in ran.err
    assert "verify.py" not in ran.err
    assert len(ran.err.splitlines()) == 1


# -- evidence


def test_saved_evidence_is_accepted_and_tampered_evidence_is_not(
    run: Certify, network: Path, holds: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run("verify", network, holds, "--out", out).status == 0
    ran = run("check", out)
    assert (ran.status, ran.out.split(":")[0]) == (0, "accepted")
    assert run("check", out, "--net", network, "--property", holds).status == 0
    found = json.loads(run("check", out, "--json").out)
    assert found == {"check": "accepted", "verdict": "verified", "grade": "checked", "failures": [], "notes": []}
    for at in sorted(out.glob("*.npz")):
        whole = at.read_bytes()
        with np.load(at) as archive:
            arrays = dict(archive)
        for key in ("0.weights", "0.lower", "0.0.offset"):
            if key in arrays:
                np.savez(at, **{**arrays, key: arrays[key] - 2.0})
                assert run("check", out).status in (1, 2), key
        at.write_bytes(whole)
    assert run("check", out).status == 0
    (out / "evidence.npz").unlink()
    assert run("check", out).status == 2


def test_evidence_of_another_network_is_refused(run: Certify, network: Path, holds: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("verify", network, holds, "--out", out).status == 0
    other = save_onnx(tmp_path / "other.onnx", [(np.eye(2), np.zeros(2))])
    ran = run("check", out, "--net", other)
    assert ran.status == 2
    assert "hash" in ran.err or "sha256" in ran.err


def test_a_saved_witness_is_replayed(run: Certify, network: Path, fails: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("verify", network, fails, "--out", out).status == 1
    ran = run("check", out)
    assert ran.status == 0
    assert "the real-valued network is unsafe there too" in ran.out


def test_an_earlier_verdict_does_not_outlive_a_later_run(
    run: Certify, network: Path, holds: Path, fails: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run("verify", network, holds, "--out", out).status == 0
    assert run("verify", network, tmp_path / "typo.vnnlib", "--out", out).status == 2
    assert run("check", out).status == 0  # nothing was asked
    assert run("verify", network, fails, "--out", out, "--timeout", "1e-9").status == 3
    ran = run("check", out)
    assert ran.status == 3
    assert "unknown" in ran.out


def test_a_run_that_is_cut_off_leaves_no_earlier_verdict(
    run: Certify, network: Path, holds: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run("verify", network, holds, "--out", out).status == 0
    process = start(False, "verify", network, holds, "--out", out)
    process.kill()
    process.communicate(timeout=100)
    assert run("check", out).status == 2
    process = start(False, "verify", network, holds, "--out", out, "--timeout", "1")
    process.communicate(timeout=100)
    assert process.returncode == 3
    assert json.loads((out / "verdict.json").read_text())["reason"] == "TIMEOUT"


def test_check_without_files(run: Certify, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        ran = run("check", folder)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("certify: ")


# -- bad input: one message, status 2, nothing on standard output, nothing written


def refused(ran: Ran, *words: str) -> None:
    assert ran.status == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, ran.err


def test_a_truncated_network(run: Certify, network: Path, holds: Path, tmp_path: Path) -> None:
    network.write_bytes(network.read_bytes()[:100])
    refused(run("verify", network, holds, "--out", tmp_path / "run"), "net.onnx")
    assert not list((tmp_path / "run").glob("*"))


def test_a_file_that_is_no_network(run: Certify, tmp_path: Path, holds: Path) -> None:
    (tmp_path / "poem.onnx").write_text("so much depends upon a red wheel barrow")
    refused(run("verify", tmp_path / "poem.onnx", holds), "poem.onnx")
    refused(run("inspect", tmp_path / "poem.onnx"), "poem.onnx")


def test_missing_files(run: Certify, network: Path, holds: Path, tmp_path: Path) -> None:
    refused(run("verify", tmp_path / "no.onnx", holds), "no.onnx")
    refused(run("verify", network, tmp_path / "no.vnnlib"), "no.vnnlib")
    refused(run("batch", tmp_path / "no.csv", "--out", tmp_path / "r.csv"), "no.csv")
    refused(run("verify", "no-such-model", holds), "no-such-model")


def test_unsupported_operators_are_all_named(run: Certify, tmp_path: Path, holds: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("x", "y")]
    nodes = [
        helper.make_node("Atan", ["x"], ["a"], "first"),
        helper.make_node("Tan", ["a"], ["b"], "second"),
        helper.make_node("Atan", ["b"], ["y"], "third"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, tmp_path / "odd.onnx")
    refused(run("verify", tmp_path / "odd.onnx", holds), "Atan", "Tan", "first", "second", "third")


def test_a_property_of_another_network(run: Certify, network: Path, tmp_path: Path) -> None:
    wide = vnnlib(tmp_path / "wide.vnnlib", [(-1, 1)] * 6, "(>= Y_0 1)")
    refused(run("verify", network, wide), "wide.vnnlib:", "2 inputs")


def test_a_property_with_a_slip(run: Certify, network: Path, tmp_path: Path) -> None:
    (tmp_path / "slip.vnnlib").write_text("(declare-const X_0 Real)\n(assert (<= X_0 1)\n")
    refused(run("verify", network, tmp_path / "slip.vnnlib"), "slip.vnnlib:2")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(run: Certify, tmp_path: Path, holds: Path, value: float) -> None:
    net = save_onnx(tmp_path / "nan.onnx", [(np.array([[1, value], [0, 1]]), np.zeros(2))])
    refused(run("verify", net, holds), "gemm0")


def test_a_pickle(run: Certify, tmp_path: Path, holds: Path) -> None:
    with open(tmp_path / "model.pt", "wb") as file:
        pickle.dump({"weight": [1.0]}, file)
    refused(run("verify", tmp_path / "model.pt", holds), "model.pt", "export")


@pytest.mark.parametrize("device", ["cuda:7", "cudda", "cpu:x", "meta"])
def test_a_device_that_is_not_there(run: Certify, network: Path, holds: Path, device: str) -> None:
    refused(run("verify", network, holds, "--device", device), device, "cpu")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "soon"])
@pytest.mark.parametrize("command", ["verify", "batch", "robust"])
def test_a_timeout_that_is_none(
    run: Certify, network: Path, holds: Path, tmp_path: Path, command: str, timeout: str
) -> None:
    (tmp_path / "list.csv").write_text(f"{network.name},{holds.name},1\n")
    arguments = {
        "verify": (network, holds),
        "batch": (tmp_path / "list.csv", "--out", tmp_path / "r.csv"),
        "robust": ("digits-mlp", "--data", "digits", "--eps", "0.1"),
    }[command]
    refused(run(command, *arguments, "--timeout", timeout), "timeout")
    assert not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize("eps", ["0", "-0.1", "0/3", "1/0", "much", "0.1,0", "nan", "inf", ""])
def test_a_radius_that_is_none(run: Certify, eps: str, tmp_path: Path) -> None:
    ran = run("robust", "digits-mlp", "--data", "digits", "--eps", eps, "--out", tmp_path / "run")
    refused(ran, "--eps")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--norm", "3"), ("--norm", "inf")),
        (("--index", "5:2"), ("--index",)),
        (("--index", "9999"), ("--index", "256")),
        (("--index", "a:b"), ("--index",)),
        (("--targets", "11"), ("11", "classes")),
        (("--targets", "cat"), ("--targets",)),
        (("--range", "1:0"), ("--range",)),
        (("--range", "wide"), ("--range",)),
        (("--data", "digitz"), ("digitz", "digits")),
        (("--restarts", "0"), ("restarts",)),
        (("--seed", "-1"), ("seed",)),
    ],
)
def test_robust_refuses(run: Certify, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(run("robust", "digits-mlp", "--data", "digits", "--eps", "0.1", *arguments), *words)


def test_data_that_do_not_fit(run: Certify, network: Path, tmp_path: Path) -> None:
    refused(run("robust", network, "--data", "digits", "--eps", "0.1"), "64", "2 inputs")
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 2), np.float32), y=np.array([0, 1, 2]))
    refused(run("robust", network, "--data", tmp_path / "d.npz", "--eps", "0.1"), "label 2")
    np.savez(tmp_path / "d.npz", x=np.array([[0.5, 0.5], [0, 2]], np.float32), y=np.array([0, 1]))
    command = ("robust", network, "--data", tmp_path / "d.npz", "--eps", "0.1", "--out", tmp_path / "run")
    refused(run(*command, "--range", "0:1"), "sample 1", "--range")
    assert not (tmp_path / "run").exists()


def test_a_list_of_nothing(run: Certify, tmp_path: Path) -> None:
    for text in ("", "\n", "category,onnx,vnnlib,timeout_s\n"):
        (tmp_path / "list.csv").write_text(text)
        refused(run("batch", tmp_path / "list.csv", "--out", tmp_path / "r.csv"), "list.csv", "lists no instance")
        assert not (tmp_path / "r.csv").exists()


def test_output_that_cannot_be_written_is_found_out_first(
    run: Certify, network: Path, holds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certify import verifier

    def too_late(*_: object) -> None:
        raise AssertionError("the search started")

    monkeypatch.setattr(verifier, "verify", too_late)
    monkeypatch.setattr(verifier, "verify_each", too_late)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "list.csv").write_text(f"{network.name},{holds.name},1\n")
    below = tmp_path / "file" / "run"
    refused(run("verify", network, holds, "--out", below), "file")
    refused(run("verify", network, holds, "--out", tmp_path / "file"), "file")
    refused(run("batch", tmp_path / "list.csv", "--out", below), "file")
    refused(run("robust", "digits-mlp", "--data", "digits", "--eps", "0.1", "--out", below), "file")
    refused(run("demo", "--out", below), "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_misspelt_option_or_command_gets_the_nearest(run: Certify, network: Path, holds: Path) -> None:
    refused(run("verify", network, holds, "--tmeout", "3"), "--tmeout", "--timeout")
    refused(run("verfy", network, holds), "verfy", "verify")
    refused(run("verify", network, holds, "--method", "liner"), "liner", "linear")
    refused(run("verify", network), "PROPERTY")


# -- stopping


SLOW = """
import sys, time
import certify.verifier
from certify.verdict import Reason, Unknown

def verify(query, strategy, budget, progress=None):
    print("searching", file=sys.stderr, flush=True)
    for _ in range(3000):
        time.sleep(0.02)
        if {attentive} and budget.expired:
            return Unknown(Reason.INTERRUPTED if budget.cancelled else Reason.TIMEOUT, -0.25)
    raise SystemExit("nobody stopped it")

certify.verifier.verify = verify
from certify.cli import main
main(sys.argv[1:])
"""


def start(attentive: bool, *arguments: object) -> subprocess.Popen[str]:
    """A run whose search looks at its budget, or not, and has begun."""
    command = [sys.executable, "-c", SLOW.format(attentive=attentive), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "searching" in process.stderr.readline()
    return process


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_what_is_known(network: Path, holds: Path, number: int) -> None:
    process = start(True, "verify", network, holds, "--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, err
    found = json.loads(out)
    assert (found["verdict"], found["reason"], found["lower"]) == ("unknown", "interrupted", -0.25)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_a_second_signal_aborts(network: Path, holds: Path) -> None:
    process = start(False, "verify", network, holds)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    assert "aborted" in err


def test_timeout_holds_when_the_search_does_not_look(network: Path, holds: Path) -> None:
    process = start(False, "verify", network, holds, "--timeout", "1", "--json")
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 3
    assert json.loads(out)["reason"] == "timeout"


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_a_stopped_batch_keeps_what_is_done(network: Path, holds: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"missing.onnx,{holds.name},9\n{network.name},{holds.name},99\n")
    process = start(True, "batch", tmp_path / "list.csv", "--out", tmp_path / "r.csv")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    header, *rows = (tmp_path / "r.csv").read_text().splitlines()
    assert header.startswith("category,")
    assert len(rows) == 1
    assert "missing.onnx" in rows[0]
    assert not (tmp_path / "r.csv.running").exists()


def test_a_bug_is_not_a_verdict(run: Certify, network: Path, holds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from certify import verifier

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(verifier, "verify", broken)
    ran = run("verify", network, holds)
    assert (ran.status, ran.out) == (70, "")
    assert "ZeroDivisionError" in ran.err


def test_memory_that_runs_out_is_neither_a_verdict_nor_a_bug(
    run: Certify, network: Path, holds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certify import verifier

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(verifier, "verify", full)
    ran = run("verify", network, holds)
    assert (ran.status, ran.out) == (3, "")
    assert "memory" in ran.err
    assert "bug" not in ran.err


# -- results that cannot be delivered


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise on Windows")
@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json")])
def test_nobody_reads_the_results(network: Path, arguments: tuple[str, ...]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "certify", *arguments, str(network)]
    ran = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(theirs)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_no_verdict(network: Path, fails: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "certify", "verify", str(network), str(fails)]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr
    assert "Traceback" not in ran.stderr


# -- batch


def test_batch(run: Certify, network: Path, holds: Path, fails: Path, tmp_path: Path) -> None:
    rows = [
        ("toy", "net.onnx", "holds.vnnlib", 30, "unsat"),
        ("toy", "net.onnx", "fails.vnnlib", 30, "sat"),
        ("toy", "missing.onnx", "holds.vnnlib", 30, ""),
    ]
    (tmp_path / "toy").mkdir()
    for path in (network, holds, fails):
        path.rename(tmp_path / "toy" / path.name)
    lines = ["category,onnx,vnnlib,timeout_s,expected", *(",".join(map(str, row)) for row in rows), ""]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    out = tmp_path / "r.csv"
    first = run("batch", tmp_path / "list.csv", "--out", out, "--limit", 1, "--json")
    assert first.status == 0
    assert [json.loads(line)["verdict"] for line in first.out.splitlines()] == ["verified"]
    second = run("batch", tmp_path / "list.csv", "--out", out, "--json", "--evidence", tmp_path / "kept")
    assert second.status == 0
    found = [json.loads(line) for line in second.out.splitlines()]
    assert [list(f)[:5] for f in found] == [FIELDS, FIELDS]
    assert [f["verdict"] for f in found] == ["falsified", "error"]
    assert "missing.onnx" in found[1]["reason"]
    assert "toy" in second.err
    third = run("batch", tmp_path / "list.csv", "--out", out)
    assert third.status == 0
    assert "total" in third.out
    assert "missing.onnx" not in third.out  # nothing was left to do


def test_the_evidence_of_a_batch_is_checked_whole(run: Certify, network: Path, tmp_path: Path) -> None:
    names = [vnnlib(tmp_path / f"p{k}.vnnlib", [(-1, 1), (-1, 1)], f"(>= Y_0 {k})").name for k in (2.5, 2.6, -9)]
    (tmp_path / "list.csv").write_text("".join(f"{network.name},{name},30\n" for name in names))
    kept = tmp_path / "kept"
    assert run("batch", tmp_path / "list.csv", "--out", tmp_path / "r.csv", "--evidence", kept).status == 0
    ran = run("check", kept)
    assert ran.status == 0
    assert ran.err.splitlines()[-1] == f"{kept}: 3 accepted"
    folders = sorted(path.parent for path in kept.rglob("verdict.json"))
    assert len(folders) == 3
    assert run("check", kept, "--net", network).status == 2  # which of them?
    (folders[1] / "evidence.npz").write_bytes(b"")
    assert run("check", kept).status == 2
    (folders[0] / "evidence.npz").write_bytes((folders[2] / "evidence.npz").read_bytes())
    ran = run("check", kept, "--json")
    assert ran.status in (1, 2)
    assert [json.loads(line)["check"] for line in ran.out.splitlines()].count("accepted") == 1


def test_batch_is_loud_about_a_contradiction(run: Certify, network: Path, holds: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        f"category,onnx,vnnlib,timeout_s,expected\n.,{network.name},{holds.name},30,sat\n"
    )
    ran = run("batch", tmp_path / "list.csv", "--out", tmp_path / "r.csv")
    assert ran.status == 1
    assert "CONTRARY" in ran.err
    assert run("batch", tmp_path / "list.csv", "--out", tmp_path / "r.csv").status == 1  # also when resumed


def test_batch_chooses(run: Certify, network: Path, holds: Path, fails: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("".join(f"net.onnx,{p.name},30\n" for p in (holds, fails, holds)))
    command = ("batch", tmp_path / "list.csv", "--out", tmp_path / "r.csv")
    ran = run(*command, "--index", "1:2", "--timeout", 20, "--json")
    assert [(f["vnnlib"], f["timeout_s"]) for f in map(json.loads, ran.out.splitlines())] == [("fails.vnnlib", 20.0)]
    refused(run(*command, "--category", "akasxu"), "akasxu")
    refused(run(*command, "--index", "7:9"), "--index")


# -- robust, inspect, demo


def test_robust_is_nested_and_resumes(run: Certify, tmp_path: Path) -> None:
    command = (
        "robust",
        "digits-mlp",
        "--data",
        "digits",
        "--eps",
        "1/100,0.2",
        "--timeout",
        2,
        "--out",
        tmp_path / "run",
    )
    first = run(*command, "--index", "0:3", "--json")
    assert first.status == 0
    found = [json.loads(line) for line in first.out.splitlines()]
    assert [list(f)[:5] for f in found] == [FIELDS] * 6
    assert sorted((f["index"], f["eps"]) for f in found) == sorted((i, e) for i in range(3) for e in ("1/100", "0.2"))
    second = run(*command, "--index", "0:4", "--json")
    assert [json.loads(line)["index"] for line in second.out.splitlines()] == [3, 3]
    table = run(*command, "--index", "0:4")
    assert table.status == 0
    rows = {line.split()[0]: line.split() for line in table.out.splitlines() if "%" in line}
    assert list(rows) == ["1/100", "0.2"]
    for row in rows.values():
        clean, attacked, certified = (float(row[i]) for i in (2, 4, 6))
        assert clean >= attacked >= certified
    refused(run(*command, "--method", "interval"), "another method")


def test_robust_on_own_data(run: Certify, network: Path, tmp_path: Path) -> None:
    # y_0 = |x_0| + |x_1| beats y_1 = x_0 - x_1 by at least 2 min(|x_0|, |x_1|) at (-1, 1), and ties with it at (1, -1)
    np.savez(tmp_path / "d.npz", x=np.array([[-1, 1], [1, -1]], np.float32), y=np.array([0, 0]))
    ran = run("robust", network, "--data", tmp_path / "d.npz", "--eps", "0.5", "--norm", "2", "--json")
    assert ran.status == 0
    found = {f["index"]: f for f in map(json.loads, ran.out.splitlines())}
    assert found[0]["verdict"] == "verified"
    assert (found[1]["verdict"], found[1]["reason"]) == ("falsified", "misclassified")


def test_inspect(run: Certify, network: Path) -> None:
    ran = run("inspect", network)
    assert ran.status == 0
    assert "Relu" in ran.out
    layers = [(np.ones((4, 2)), np.ones(4)), (np.ones((2, 4)), np.ones(2))]
    found = json.loads(run("inspect", save_onnx(network, layers), "--json").out)
    assert found["operators"]["Relu"] == 1
    assert found["parameters"] == 4 * 2 + 4 + 2 * 4 + 2
    assert [port["shape"] for port in found["inputs"]] == [[1, 2]]
    assert {"lp", "multi-neuron", "sdp", "sdp-fo", "checker"} <= set(found["missing"])
    assert not any(found["missing"].values())
    assert len(found["hash"]) == 64


@pytest.mark.slow
def test_demo_draws_a_picture(run: Certify, tmp_path: Path) -> None:
    ran = run("demo", "--out", tmp_path / "demo", "--samples", 4)
    assert ran.status == 0
    assert (tmp_path / "demo" / "certified.png").read_bytes().startswith(b"\x89PNG")
    assert "digits-mlp" in ran.out
    table, words = ran.out.split("clean: ")
    assert table.count("%") == 4 * 4 * 3
    assert ran.err.count(", eps ") == 4 * 4  # a line per step
    assert words.count("digits-") == 4


# -- words into values


def test_radii() -> None:
    assert options.parse_radii("2/255, 0.1,1e-3,0.10") == [("2/255", 2 / 255), ("0.1", 0.1), ("1e-3", 0.001)]
    assert options.parse_radius("8/255", "--largest") == 8 / 255
    for text in ("a", "0", "0.1,0.2"):
        with pytest.raises(BadOption, match="--largest"):
            options.parse_radius(text, "--largest")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [(None, range(10)), ("2:5", range(2, 5)), ("7", range(7, 8)), (":3", range(3)), ("8:99", range(8, 10))],
)
def test_spans(text: str | None, chosen: range) -> None:
    assert options.parse_span(text, 10) == chosen


@pytest.mark.parametrize("text", ["-1:3", "3:3", "10", "x", "1:2:3", ""])
def test_spans_that_select_nothing(text: str) -> None:
    with pytest.raises(BadOption):
        options.parse_span(text, 10)
