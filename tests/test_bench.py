"""`certify bench`: other tools' tables are read as they are, and the statistics are what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.bench import Measured, compare, markdown, only, par2, read_peer
from benchmarks.store import ResultStore
from certify.cli import app
from certify.errors import MalformedSpec

HEADER = "category,onnx,vnnlib,timeout_s,expected,verdict,wall_s,own_s,peak_rss_mb,load\n"
PROPERTY = """
(declare-const X_0 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0)) (assert (<= X_0 1))
(assert (>= Y_0 {}))
"""

times = st.floats(0.1, 100)
verdicts = st.sampled_from(["sat", "unsat", "timeout", "error: it fell over"])


def row(number: int, verdict: str, wall: float, own: float, category: str = "a") -> Measured:
    return Measured(category, f"{number}.onnx", "p", 60.0, "unsat", verdict, wall, own, 1.0, 0.0)


@given(st.lists(st.tuples(verdicts, times, verdicts, times, st.sampled_from("ab")), min_size=1, max_size=12))
def test_the_statistics_are_those_of_their_definitions(table: list[tuple[str, float, str, float, str]]) -> None:
    ours = [row(i, v, w, w / 2, c) for i, (v, w, _, _, c) in enumerate(table)]
    theirs = {r.key[:3]: r for i, (_, _, v, w, c) in enumerate(table) for r in [row(i, v, w, w / 4, c)]}
    rows = compare(ours, theirs)
    assert [r.category for r in rows] == [*sorted({c for *_, c in table}), "all"]
    total = rows[-1]
    assert sum(r.instances for r in rows[:-1]) == total.instances == len(table)
    both = [(w, x) for v, w, u, x, _ in table if v in ("sat", "unsat") and u in ("sat", "unsat")]
    assert total.both == len(both)
    if both:
        assert total.wall == pytest.approx(math.prod(w / x for w, x in both) ** (1 / len(both)))
        expected = math.prod(max(w / 2, 0.05) / max(x / 4, 0.05) for w, x in both) ** (1 / len(both))
        assert total.own == pytest.approx(expected)
    else:
        assert math.isnan(total.wall)
        assert math.isnan(total.own)
    assert par2(ours) == pytest.approx(sum(w if v in ("sat", "unsat") else 120 for v, w, *_ in table))
    assert total.par2 == pytest.approx(par2(ours))
    assert markdown(rows, "them").count("\n") == len(rows) + 2


def test_instances_that_one_side_did_not_run_are_left_out() -> None:
    ours = [row(1, "unsat", 1, 1), row(2, "unsat", 1, 1)]
    peer = {r.key[:3]: r for r in (row(2, "timeout", 9, 9), row(3, "sat", 1, 1))}
    assert compare(ours, peer)[-1].instances == 1
    assert only(ours, peer, lambda a, b: a.solved and not b.solved) == [ours[1]]


def test_contrary_is_only_what_contradicts() -> None:
    assert row(1, "sat", 1, 1).contrary
    assert not row(1, "unsat", 1, 1).contrary
    assert not row(1, "error: sat", 1, 1).contrary
    assert not replace(row(1, "sat", 1, 1), expected="unknown").contrary


def test_other_tools_tables(tmp_path: Path) -> None:
    path = tmp_path / "peer.csv"
    path.write_text(HEADER + "c,n,p,60,sat,error: TypeError: a, b,2.3,,427,1.7\n".replace("a, b", '"a"'))
    (entry,) = read_peer(path).values()
    assert (entry.solved, entry.own_s, entry.wall_s) == (False, 0.0, 2.3)
    path.write_text(HEADER + "c,n,p,60,sat,sat,soon,,,\n")
    with pytest.raises(MalformedSpec, match=r"line 2|:2"):
        read_peer(path)
    path.write_text("category,onnx\nc,n\n")
    with pytest.raises(MalformedSpec, match="header"):
        read_peer(path)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two properties of a network that adds one, and one that is not there."""
    import torch

    class Plus(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x) + 1

    folder = tmp_path / "vnncomp" / "c"
    folder.mkdir(parents=True)
    torch.export.save(torch.export.export(Plus(), (torch.zeros(1, 1),)), folder / "n.pt2")
    for name, bound in (("holds", 2.5), ("fails", 1.5)):
        (folder / f"{name}.vnnlib").write_text(PROPERTY.format(bound))
    (tmp_path / "peers").mkdir()
    path = tmp_path / "peers" / "list.csv"
    path.write_text(
        "category,onnx,vnnlib,timeout_s,expected\nc,n.pt2,holds.vnnlib,9,unsat\nc,n.pt2,fails.vnnlib,9,sat\n"
    )
    (tmp_path / "them.csv").write_text(HEADER + "c,n.pt2,holds.vnnlib,60,unsat,timeout,60,60,1,1\n")
    return path


@pytest.mark.parametrize("form", [[], ["--one-process"]])
def test_a_suite_is_run_compared_and_resumed(suite: Path, tmp_path: Path, form: list[str]) -> None:
    out, table = tmp_path / "out.csv", tmp_path / "table.md"
    arguments = ["bench", "--suite", str(suite), "--peer", str(tmp_path / "them.csv"), "--out", str(out)]
    arguments += ["--timeout", "50", "--markdown", str(table), *form]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert "solved 2 of 2" in ran.output
    assert "solved by us only: 1" in ran.output
    assert table.read_text().count("| c | 1 | 1 | 0 | 0 |") == 1
    with ResultStore(out, Measured) as store:
        rows = store.results
    assert [r.verdict for r in rows] == ["unsat", "sat"]
    assert all(0 <= r.own_s <= r.wall_s and r.peak_rss_mb > 1 for r in rows)
    before = out.read_text()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert out.read_text() == before


def test_a_contrary_verdict_ends_with_status_1(suite: Path, tmp_path: Path) -> None:
    suite.write_text("category,onnx,vnnlib,timeout_s,expected\nc,n.pt2,holds.vnnlib,9,sat\n")
    ran = CliRunner().invoke(app, ["bench", "--suite", str(suite), "--out", str(tmp_path / "o.csv"), "--one-process"])
    assert ran.exit_code == 1
    assert "CONTRARY" in ran.output


def test_missing_files_are_named(suite: Path, tmp_path: Path) -> None:
    suite.write_text("category,onnx,vnnlib,timeout_s,expected\nc,gone.pt2,holds.vnnlib,9,sat\n")
    ran = CliRunner().invoke(app, ["bench", "--suite", str(suite), "--out", str(tmp_path / "o.csv")])
    assert ran.exit_code == 2
    assert "gone.pt2" in ran.output
    assert "--root" in ran.output
