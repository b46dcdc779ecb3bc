"""Verdicts survive the disk; damaged, incomplete or foreign directories are rejected."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from certify.check.store import RunInfo, check_directory, load, prepare, save
from certify.errors import BadOption, EvidenceRejected
from certify.evidence import TreeProof, Witness
from certify.graph import ops
from certify.graph.ir import Graph
from certify.spec.property import Property, clause, robust
from certify.spec.query import Case, spec_hash
from certify.spec.regions import ball, box
from certify.verdict import Falsified, Grade, Reason, Unknown, Verified
from tests.check.nets import chain, mlp, proved_case, small_case

INFO = RunInfo(network="net.onnx", property="prop.vnnlib", seed=7, time_s=1.25, checking_s=0.5)


@pytest.fixture(scope="module")
def proved() -> tuple[Graph, Case, TreeProof]:
    return proved_case(False, 3, small_case)


@pytest.fixture
def saved(tmp_path: Path, proved: tuple[Graph, Case, TreeProof]) -> tuple[Path, Graph, Case]:
    graph, case, proof = proved
    save(tmp_path / "run", Verified(proof, Grade.CHECKED), INFO, graph, (case,))
    return tmp_path / "run", graph, case


def test_a_proof_survives(saved: tuple[Path, Graph, Case], proved: tuple[Graph, Case, TreeProof]) -> None:
    directory, graph, case = saved
    assert check_directory(directory, graph).ok
    assert check_directory(directory, graph, (case,)).ok
    record = load(directory)
    assert record.header["network"] == "net.onnx"
    assert record.header["seed"] == 7
    assert record.header["versions"]["numpy"] == np.__version__
    before, after = proved[2].trees[0], record.verdict.evidence.trees[0]
    for field in fields(before):
        np.testing.assert_array_equal(getattr(before, field.name), getattr(after, field.name))
    assert before.slopes.size
    assert sorted(p.name for p in directory.iterdir()) == ["evidence.npz", "property.npz", "verdict.json"]


def test_another_network_or_property_is_rejected(saved: tuple[Path, Graph, Case]) -> None:
    directory, graph, case = saved
    other = mlp(np.random.default_rng(99), [2, 4, 4, 2])
    assert not check_directory(directory, other).ok
    assert not check_directory(directory, graph, (case, case)).ok
    wider = replace(case, region=box(case.region.lower - 0.1, case.region.upper))
    assert not check_directory(directory, graph, (wider,)).ok


def test_an_edited_property_is_rejected(saved: tuple[Path, Graph, Case]) -> None:
    directory, graph, _ = saved
    with np.load(directory / "property.npz") as archive:
        arrays = dict(archive)
    arrays["0.lower"] = arrays["0.lower"] + 0.25
    np.savez(directory / "property.npz", **arrays)
    report = check_directory(directory, graph)
    assert not report.ok
    assert "hash" in report.failures[0]


def test_an_edited_header_does_not_help(saved: tuple[Path, Graph, Case]) -> None:
    """Hashes and property rewritten together still face the proof itself."""
    directory, graph, case = saved
    harder = replace(case, property=Property((clause([[1.0, 0.5]], [1e3]),)))
    header = json.loads((directory / "verdict.json").read_text())
    proof = replace(load(directory).verdict.evidence, spec_hash=spec_hash((harder,)))
    save(directory, Verified(proof, Grade.CHECKED), INFO, graph, (harder,))
    report = check_directory(directory, graph)
    assert not report.ok
    assert "not proved" in report.failures[0]
    for key, value in (
        ("grade", "vacuous"),
        ("graph_hash", "0"),
        ("format", 99),
        ("verdict", "proved"),
        ("grade", "x"),
    ):
        (directory / "verdict.json").write_text(json.dumps({**header, key: value}))
        assert not check_directory(directory, graph).ok


def test_vacuous_needs_nothing_to_cover(tmp_path: Path, proved: tuple[Graph, Case, TreeProof]) -> None:
    graph, case, _ = proved
    save(tmp_path, Verified(None, Grade.VACUOUS), INFO, graph, ())
    assert check_directory(tmp_path, graph).ok
    save(tmp_path, Verified(None, Grade.VACUOUS), INFO, graph, (case,))
    assert not check_directory(tmp_path, graph).ok


@pytest.mark.parametrize("name", ["verdict.json", "property.npz", "evidence.npz"])
def test_damaged_files(saved: tuple[Path, Graph, Case], name: str) -> None:
    """Cut short anywhere, flipped anywhere, or gone: rejected with a reason, or the proof is still whole."""
    directory, graph, case = saved
    path = directory / name
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(content), 12).tolist():
        path.write_bytes(content[:cut])
        assert not check_directory(directory, graph, (case,)).ok
    for at in rng.integers(0, len(content), 60).tolist():
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(flipped))
        report = check_directory(directory, graph, (case,))
        assert report.ok or report.failures
    path.unlink()
    assert not check_directory(directory, graph, (case,)).ok


@pytest.mark.parametrize("key", ["network", "property", "seed", "verdict", "grade", "graph_hash", "spec_hash", "lower"])
def test_a_header_without_an_entry(saved: tuple[Path, Graph, Case], key: str) -> None:
    directory, _, _ = saved
    header = json.loads((directory / "verdict.json").read_text())
    del header[key]
    (directory / "verdict.json").write_text(json.dumps(header))
    with pytest.raises(EvidenceRejected, match=key):
        load(directory)


def test_no_pickle_is_read(saved: tuple[Path, Graph, Case]) -> None:
    directory, graph, _ = saved
    with np.load(directory / "evidence.npz") as archive:
        arrays = dict(archive)
    np.savez(directory / "evidence.npz", **{**arrays, "0.node": np.array([print], object)})
    report = check_directory(directory, graph)
    assert not report.ok
    assert "allow_pickle" in report.failures[0]


def test_witnesses(tmp_path: Path) -> None:
    graph = chain(2, (ops.Linear(np.array([[1.0, -1.0], [-1.0, 1.0]]), None), (2,)))
    case = Case(ball([0.5, 0.25], 0.5, 2), robust(0, 2))
    x = np.array([0.5, 0.625])
    good = Witness(0, 0, x, np.array([-0.125, 0.125]), "test")
    save(tmp_path, Falsified(good), INFO, graph, (case,))
    assert check_directory(tmp_path, graph, (case,)).ok
    loaded = load(tmp_path).verdict.witness
    np.testing.assert_array_equal(loaded.x, x)
    assert loaded.replayed_on == "test"
    for bad in (replace(good, x=x + 1), replace(good, y=-good.y), replace(good, clause=3), replace(good, x=x[:1])):
        save(tmp_path, Falsified(bad), INFO, graph, (case,))
        assert not check_directory(tmp_path, graph, (case,)).ok


def test_a_witness_of_no_case_fails_whatever_its_numbers_are(tmp_path: Path) -> None:
    graph = chain(1, (ops.Relu(), (1,)))
    case = Case(box([-1.0], [1.0]), Property((clause([[1.0]], [0.5]),)))
    save(tmp_path, Falsified(Witness(0, 0, np.zeros(1), np.zeros(1), "test")), INFO, graph, (case,))
    with np.load(tmp_path / "evidence.npz") as archive:
        arrays = dict(archive)
    for at in ([0, 1], [-1, 0], [0.0, np.nan], [np.inf, 0.0], [0, 0, 0], [[0], [0]]):
        np.savez(tmp_path / "evidence.npz", **{**arrays, "at": np.array(at)})
        assert not check_directory(tmp_path, graph, (case,)).ok
    np.savez(tmp_path / "evidence.npz", **{**arrays, "at": np.array([0.0, 0.0])})
    assert check_directory(tmp_path, graph, (case,)).ok


def test_unknown_claims_nothing(tmp_path: Path, proved: tuple[Graph, Case, TreeProof]) -> None:
    graph, case, _ = proved
    save(tmp_path, Unknown(Reason.TIMEOUT, -0.5, "half way"), INFO, graph, (case,))
    verdict = load(tmp_path).verdict
    assert isinstance(verdict, Unknown)
    assert (verdict.reason, verdict.lower, verdict.detail) == (Reason.TIMEOUT, -0.5, "half way")
    assert not check_directory(tmp_path, graph).ok
    save(tmp_path, Unknown(Reason.STUCK), INFO, graph, (case,))
    assert load(tmp_path).verdict.lower == -np.inf


def test_saving_again_leaves_nothing_behind(tmp_path: Path, proved: tuple[Graph, Case, TreeProof]) -> None:
    graph, case, proof = proved
    save(tmp_path, Verified(proof, Grade.CHECKED), INFO, graph, (case,))
    save(tmp_path, Unknown(Reason.TIMEOUT), INFO, graph, (case,))
    assert not (tmp_path / "evidence.npz").exists()
    assert isinstance(load(tmp_path).verdict, Unknown)


def test_unwritable_directories_are_found_out_first(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for path in (blocked, blocked / "below"):
        with pytest.raises(BadOption):
            prepare(path)
    assert prepare(tmp_path / "new" / "deep").is_dir()
    assert not list((tmp_path / "new" / "deep").iterdir())


def test_an_empty_directory_is_no_evidence(tmp_path: Path, proved: tuple[Graph, Case, TreeProof]) -> None:
    with pytest.raises(EvidenceRejected):
        load(tmp_path)
    assert not check_directory(tmp_path, proved[0]).ok
    shutil.rmtree(tmp_path)
    assert not check_directory(tmp_path, proved[0]).ok
