"""`certify bench`: other tools' tables are read as they are, the statistics are what they say, and whatever a
process does becomes a row."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import benchmarks.fresh
from benchmarks.bench import Measured, compare, disagree, paired, par2, read_peer, standings, worst
from benchmarks.fresh import Ended, judge, run
from benchmarks.run import Instance
from benchmarks.store import ResultStore
from certify.budget import Budget
from certify.commands.options import as_arguments
from certify.errors import MalformedSpec
from certify.strategy import Method, Strategy
from tests.conftest import Ran

Certify = Callable[..., Ran]

HEADER = "category,onnx,vnnlib,timeout_s,expected,verdict,wall_s,own_s,peak_rss_mb,load\n"
SAID = '{"verdict": "verified", "reason": null, "own_s": 0.25}'
NOTHING = math.nan

times = st.floats(0, 100)
owns = st.one_of(times, st.just(NOTHING))
verdicts = st.sampled_from(["sat", "unsat", "timeout", "unknown: stuck", "error: it fell over"])
expectations = st.sampled_from(["sat", "unsat", "unknown", ""])
runs = st.tuples(verdicts, times, owns)


def row(number: int, verdict: str, wall: float, own: float, category: str = "a", expected: str = "unsat") -> Measured:
    return Measured(category, f"{number}.onnx", "p", 60.0, expected, verdict, wall, own, 1.0, 0.0)


# -- statistics


@given(st.lists(st.tuples(runs, st.none() | runs, st.sampled_from("ab"), expectations), max_size=12))
def test_the_statistics_are_those_of_their_definitions(table: list) -> None:
    """Computed here instance by instance; `None` is one that the other tool did not run."""
    ours = [row(i, *mine, c, e) for i, (mine, _, c, e) in enumerate(table)]
    peer = {r.instance: r for i, (_, its, c, _) in enumerate(table) if its for r in [row(i, *its, c, "sat")]}

    def right(verdict: str, expected: str) -> bool:
        return verdict in ("sat", "unsat") and (expected not in ("sat", "unsat") or verdict == expected)

    for category in ("a", "b", "all"):
        mine = [(m, i, e) for m, i, c, e in table if category in ("all", c)]
        common = [(m, i, e) for m, i, e in mine if i]
        standing = [s for s in standings(ours) if s.category == category]
        compared = [r for r in compare(paired(ours, peer)) if r.category == category]
        assert len(standing) == (1 if mine or category == "all" else 0)
        assert len(compared) == (1 if common or category == "all" else 0)
        for s in standing:
            assert s.instances == len(mine)
            assert s.solved == sum(right(m[0], e) for m, _, e in mine)
            assert s.contrary == sum(m[0] in ("sat", "unsat") and not right(m[0], e) for m, _, e in mine)
            assert s.par2 == pytest.approx(sum(m[1] if right(m[0], e) else 120 for m, _, e in mine))
        for r in compared:
            assert (r.instances, r.solved) == (len(common), sum(right(m[0], e) for m, _, e in common))
            assert r.peer_solved == sum(right(i[0], e) for _, i, e in common)
            assert r.peer_par2 == pytest.approx(sum(i[1] if right(i[0], e) else 120 for _, i, e in common))
            both = [(m, i) for m, i, e in common if right(m[0], e) and right(i[0], e)]
            assert r.both == len(both)
            for found, column in ((r.wall, 1), (r.own, 2)):
                ratios = [max(m[column], 0.05) / max(i[column], 0.05) for m, i in both]
                ratios = [x for (m, i), x in zip(both, ratios, strict=True) if m[column] >= 0 and i[column] >= 0]
                expected = math.prod(x ** (1 / len(ratios)) for x in ratios) if ratios else NOTHING
                assert found == pytest.approx(expected, nan_ok=True)


def test_par2_counts_twice_the_limit_for_what_is_unsolved_or_wrong() -> None:
    assert par2([row(1, "unsat", 3, 1), row(2, "timeout", 61, 60), row(3, "sat", 1, 1)]) == 3 + 120 + 120


def test_times_rounded_to_nothing_do_not_make_ratios_of_nothing() -> None:
    ours, its = row(1, "unsat", 2.0, 0.0), row(1, "unsat", 1.0, 0.1)
    assert compare([(ours, its)])[-1].own == pytest.approx(0.5)
    assert compare([(its, ours)])[-1].own == pytest.approx(2)


def test_the_worst_categories_are_found_by_either_ratio() -> None:
    pairs = [
        (row(1, "unsat", 2, 1, "slow start"), row(1, "unsat", 1, 1, "slow start")),
        (row(2, "unsat", 1, 3, "slow search"), row(2, "unsat", 1, 1, "slow search")),
        (row(3, "timeout", 99, 9, "unsolved"), row(3, "unsat", 1, 1, "unsolved")),
    ]
    found = worst(compare(pairs))
    assert found is not None
    assert [r.category for r in found] == ["slow start", "slow search"]
    assert worst(compare(pairs[2:])) is None


def test_contrary_is_only_what_contradicts() -> None:
    assert row(1, "sat", 1, 1).contrary
    assert not row(1, "sat", 1, 1).solved
    assert not row(1, "unsat", 1, 1).contrary
    assert not row(1, "error: sat", 1, 1).contrary
    for expected in ("unknown", ""):
        assert not row(1, "sat", 1, 1, expected=expected).contrary
        assert disagree((row(1, "sat", 1, 1, expected=expected), row(1, "unsat", 1, 1)))
        assert not disagree((row(1, "sat", 1, 1, expected=expected), row(1, "timeout", 1, 1)))
    assert not disagree((row(1, "unsat", 1, 1), row(1, "sat", 1, 1)))


# -- other tools' tables


def test_other_tools_tables(tmp_path: Path) -> None:
    path = tmp_path / "peer.csv"
    path.write_text("tier," + HEADER + 'easy,c,n,p,60,sat,"error: a, ""b""",2.3,,,\n')
    (entry,) = read_peer(path).values()
    assert (entry.solved, entry.wall_s, entry.verdict) == (False, 2.3, 'error: a, "b"')
    assert math.isnan(entry.own_s)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("c,n,p,60,sat,sat,soon,,,\n", ":2:1: .*soon"),
        ("\nc,n,p,60,sat,sat,1,1,,\nc,n,p,60,sat,sat,,1,,\n", ":4:1: .*wall_s"),
        ("c,n,p,60,sat,sat,inf,1,,\n", ":2:1: .*wall_s cannot be inf"),
        ("c,n,p,60,sat,sat,1,-1,,\n", ":2:1: .*own_s cannot be -1"),
        ("c,n,p,,sat,sat,1,1,,\n", ":2:1: .*timeout_s"),
        ("c,n,p,60,sat,holds,1,1,,\n", ":2:1: .*'holds'"),
        ("c,n,p,60,sat\n", ":2:1: .*too few"),
        ("c,n,p,60,sat,sat,1,1,,\nc,n,p,60,sat,sat,1,1,,\n", ":3:1: .*twice"),
    ],
)
def test_what_is_no_table_of_results_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "peer.csv"
    path.write_text(HEADER + text)
    with pytest.raises(MalformedSpec, match="peer.csv" + complaint):
        read_peer(path)


def test_a_header_must_name_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "peer.csv"
    for text in ("", "category,onnx\nc,n\n"):
        path.write_text(text)
        with pytest.raises(MalformedSpec, match=r"peer.csv:1:1: the header has no .*verdict"):
            read_peer(path)


@given(st.lists(st.tuples(runs, expectations), max_size=6))
def test_our_own_results_can_be_read_as_a_peers(tmp_path_factory: pytest.TempPathFactory, table: list) -> None:
    rows = [row(i, *mine, expected=e) for i, (mine, e) in enumerate(table)]
    path = tmp_path_factory.mktemp("own") / "bench.csv"
    with ResultStore(path, Measured) as store:
        for r in rows:
            store.append(r)
    assert list(map(repr, read_peer(path).values())) == list(map(repr, rows))


# -- processes


def python(code: str, limit: float = 60.0, budget: Budget | None = None) -> Ended | None:
    return run([sys.executable, "-c", code], limit, budget or Budget())


def ended(out: str = SAID, err: str = "", status: int = 0, overran: bool = False) -> Ended:
    return Ended(out, err, status, 1.0, 1.0, overran)


def test_an_answer_needs_its_exit_status() -> None:
    assert judge(ended()) == ("unsat", 0.25)
    assert judge(ended(SAID.replace("verified", "falsified"), status=1)) == ("sat", 0.25)
    unknown = SAID.replace("verified", "unknown")
    assert judge(ended(unknown.replace("null", '"timeout"'), status=3)) == ("timeout", 0.25)
    assert judge(ended(unknown.replace("null", '"rejected"'), status=3)) == ("unknown: rejected", 0.25)
    for status in (-9, 1, 2, 3, 70):
        assert judge(ended(status=status))[0].startswith("error: ")


@pytest.mark.parametrize("out", ["", "verified", "{}", "[]", "null", SAID + SAID, SAID.replace("0.25", "NaN"),
                                 SAID.replace("0.25", "-1"), SAID.replace('"verified"', "{}")])  # fmt: skip
def test_nonsense_is_an_error(out: str) -> None:
    verdict, own = judge(ended(out, "\nIt is late.\n\n"))
    assert verdict == "error: status 0: It is late."
    assert math.isnan(own)


def test_errors_say_what_the_process_said_last() -> None:
    refused = "certify: warning: slow\ncertify: no rule for Cos\n  remedy: none\n"
    assert judge(ended("", refused, 2))[0] == "error: no rule for Cos"
    bug = "Traceback:\nKeyError: 'x'\ncertify: this is a bug in certify; please report it with the lines above\n"
    assert judge(ended("", bug, 70))[0] == "error: status 70: KeyError: 'x'"
    assert judge(ended("", "", -9))[0] == "error: signal 9: it said nothing"
    assert judge(ended(overran=True))[0] == "error: killed 30 s beyond its limit"
    assert len(judge(ended("", "x" * 9999, 1))[0]) < 300


def test_a_process_is_measured() -> None:
    done = python("import sys, time; block = bytearray(50 << 20); time.sleep(0.1); print('out'); sys.exit('err')")
    assert done is not None
    assert (done.out, done.err, done.status, done.overran) == ("out\n", "err\n", 1, False)
    assert done.wall_s >= 0.1
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # a process begins with what its parent held
    assert 50 < done.peak_rss_mb < 500 + inherited


def test_a_process_that_dies_has_its_signals_number() -> None:
    done = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert done is not None
    assert (done.status, done.overran) == (-signal.SIGKILL, False)


def test_a_process_that_overruns_is_killed_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']);"
    code += f"open({str(child)!r}, 'w').write(str(p.pid)); print({SAID!r}, flush=True); time.sleep(99)"

    class Started(Budget):
        """Not expired; its user waits for the child before the limit may pass."""

        @property
        def expired(self) -> bool:
            while not (child.exists() and child.read_text()):
                time.sleep(0.01)
            return False

    done = python(code, 0.0, Started())
    assert done is not None
    assert done.overran
    assert judge(done)[0].startswith("error: ")
    pid = int(child.read_text())
    for _ in range(500):  # an orphan that was killed is gone once its new parent has looked
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split(")")[-1].split()[0] == "Z":
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_a_cancelled_run_kills_the_process_and_leaves_no_result() -> None:
    budget = Budget()
    budget.cancel()
    assert python("import time; time.sleep(99)", budget=budget) is None


def test_options_that_differ_from_their_defaults_are_handed_on() -> None:
    assert as_arguments(Strategy()) == []
    changed = replace(Strategy(), method=Method.INPUT_SPLIT, restarts=3)
    assert as_arguments(changed) == ["--method", "input-split", "--restarts", "3"]


# -- the command


@pytest.fixture
def suite(network: Path, holds: Path, fails: Path, tmp_path: Path) -> Path:
    """A property that holds, and one that does not."""
    folder = tmp_path / "vnncomp" / "c"
    folder.mkdir(parents=True)
    for path in (network, holds, fails):
        path.rename(folder / path.name)
    (tmp_path / "peers").mkdir()
    listed = "category,onnx,vnnlib,timeout_s,expected\n"
    listed += "c,net.onnx,holds.vnnlib,9,unsat\nc,net.onnx,fails.vnnlib,9,sat\n"
    path = tmp_path / "peers" / "list.csv"
    path.write_text(listed + listed.splitlines()[1] + "\n")  # once more: what is listed twice is run once
    (tmp_path / "them.csv").write_text(HEADER + "c,net.onnx,holds.vnnlib,60,unsat,timeout,60,60,1,1\n")
    return path


def rows_of(path: Path) -> list[Measured]:
    with ResultStore(path, Measured) as store:
        return store.results


@pytest.mark.parametrize("form", [[], ["--one-process"]])
def test_a_suite_is_run_compared_and_resumed(run: Certify, suite: Path, tmp_path: Path, form: list[str]) -> None:
    out, table = tmp_path / "out.csv", tmp_path / "table.md"
    arguments = ["bench", "--suite", suite, "--peer", tmp_path / "them.csv", "--out", out, "--timeout", 50]
    arguments += ["--markdown", table, "--restarts", 3, *form]
    ran = run(*arguments)
    assert ran.status == 0, ran
    assert "Solved 2 of 2 at 50 s each" in ran.out
    assert "none contrary" in ran.out
    assert "only we solved: 1" in ran.out
    assert "Its limit was 60 s, ours 50 s." in ran.out
    assert "| c | 1 | 1 | 0 | 0 |" in table.read_text()
    rows = rows_of(out)
    assert [r.verdict for r in rows] == ["unsat", "sat"]
    assert all(0 <= r.own_s <= r.wall_s and r.peak_rss_mb > 1 for r in rows)
    before = out.read_text()
    again = run(*arguments)
    assert again.status == 0
    assert "2 of 2 instances are in" in again.err
    assert out.read_text() == before


def test_json_ends_with_the_tables(run: Certify, suite: Path, tmp_path: Path) -> None:
    arguments = ["--suite", suite, "--peer", tmp_path / "them.csv", "--out", tmp_path / "o.csv"]
    ran = run("bench", *arguments, "--one-process", "--json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    *rows, tables = [json.loads(line, parse_constant=refuse) for line in ran.out.splitlines()]
    assert [r["verdict"] for r in rows] == ["unsat", "sat"]
    assert [r["category"] for r in tables["ours"]] == ["c", "all"]
    assert tables["ours"][-1]["solved"] == 2
    assert tables["peers"]["them"][-1]["wall"] is None


def test_without_another_tool_there_is_our_own_table(run: Certify, suite: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    ran = run("bench", "--suite", suite, "--out", tmp_path / "o.csv", "--one-process", "--markdown", table)
    assert ran.status == 0
    assert "| all | 2 | 2 | 0 |" in table.read_text()
    assert "median wall s" in ran.out


@pytest.mark.parametrize(
    ("expected", "words"), [("sat", "CONTRARY TO THE EXPECTED sat"), ("unknown", "WHERE them SAYS sat")]
)
def test_a_contradiction_ends_with_status_1(
    run: Certify, suite: Path, tmp_path: Path, expected: str, words: str
) -> None:
    suite.write_text(f"category,onnx,vnnlib,timeout_s,expected\nc,net.onnx,holds.vnnlib,9,{expected}\n")
    (tmp_path / "them.csv").write_text(HEADER + "c,net.onnx,holds.vnnlib,60,,sat,60,60,1,1\n")
    ran = run("bench", "--suite", suite, "--peer", tmp_path / "them.csv", "--out", tmp_path / "o.csv", "--one-process")
    assert ran.status == 1
    assert words in ran.out


def test_missing_files_are_named_with_the_places(run: Certify, suite: Path, tmp_path: Path) -> None:
    (tmp_path / "vnncomp" / "c" / "fails.vnnlib").unlink()
    ran = run("bench", "--suite", suite, "--out", tmp_path / "o.csv")
    assert ran.status == 2
    for words in (f"under {tmp_path / 'vnncomp'}, 1 of ", "fails.vnnlib", f"under {tmp_path / 'peers'}, ", "--root"):
        assert words in ran.err
    assert not (tmp_path / "o.csv").exists()


def test_what_is_wrong_is_said_before_anything_runs(run: Certify, suite: Path, tmp_path: Path) -> None:
    good = ["bench", "--suite", suite, "--out", tmp_path / "o.csv"]
    for bad, words in (
        (["--category", "d"], "known are c"),
        (["--peer", tmp_path / "nobody.csv"], "nobody.csv"),
        (["--markdown", tmp_path / "no" / "m.md"], "choose another --markdown"),
        (["--timeout", "0"], "must be positive"),
    ):
        ran = run(*good, *bad)
        assert ran.status == 2
        assert words in ran.err
    assert not (tmp_path / "o.csv").exists()


def test_ctrl_c_keeps_what_is_finished(
    run: Certify, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Instance] = []

    def measure(instance: Instance, budget: Budget, options: list[str]) -> Measured:
        asked.append(instance)
        if len(asked) == 2:
            signal.raise_signal(signal.SIGINT)
        return Measured(*instance.key, instance.expected, instance.expected, 1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(benchmarks.fresh, "measure", measure)
    out = tmp_path / "o.csv"
    assert run("bench", "--suite", suite, "--out", out).status == 130
    assert [r.vnnlib for r in rows_of(out)] == ["holds.vnnlib"]
    assert run("bench", "--suite", suite, "--out", out).status == 0
    assert [i.vnnlib for i in asked] == ["holds.vnnlib", "fails.vnnlib", "fails.vnnlib"]


def test_an_instance_that_ended_the_process_is_not_run_again(run: Certify, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    first = ("c", "net.onnx", "holds.vnnlib", 60.0)
    (tmp_path / "o.csv.running").write_text("\n".join(map(str, first)))
    ran = run("bench", "--suite", suite, "--out", out, "--one-process")
    assert ran.status == 0
    died, other = rows_of(out)
    assert died.verdict.startswith("error: an earlier run died")
    assert all(math.isnan(x) for x in astuple(died)[-4:])
    assert other.verdict == "sat"
    assert "PAR-2 12" in ran.out  # twice the limit, and a moment


def test_the_program_says_its_version(run: Certify) -> None:
    from certify import __version__

    assert run("--version") == Ran(0, f"{__version__}\n", "")
    assert run("--name") == Ran(0, "certify\n", "")
