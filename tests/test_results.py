"""The stores of results: nothing finished is lost, whatever stops the run."""

from __future__ import annotations

import csv
import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import tiers
from benchmarks.robust import Assessment, SampleResult, SampleStore, Threat, stored
from benchmarks.robust import summarise as accuracies
from benchmarks.run import Instance, outcome, read_instances, run_all, summarise
from benchmarks.store import Result, ResultStore
from certify.budget import Budget
from certify.errors import BadOption, CertifyError, MalformedSpec
from certify.strategy import Strategy
from certify.verdict import Grade, Reason, Unknown

HEADER = ",".join(field.name for field in fields(Result))

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)


def instance(name: str, expected: str = "", timeout: float = 5.0) -> Instance:
    return Instance("cat", f"{name}.onnx", f"{name}.vnnlib", timeout, Path(), expected)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        outcome(instance("a"), "verified", grade="checked", lower="0.5", time_s=1.25),
        outcome(instance("b"), "unknown"),
    ]
    with ResultStore(tmp_path / "r.csv") as store:
        for row in rows:
            store.append(row)
    with ResultStore(tmp_path / "r.csv") as store:
        assert store.results == rows


@given(messages=st.lists(text, max_size=4), cut=st.integers(1, 40))
def test_a_row_cut_short_is_dropped_and_the_rest_kept(
    tmp_path_factory: pytest.TempPathFactory, messages: list[str], cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "r.csv"
    with ResultStore(path) as store:
        for i, message in enumerate(messages):
            store.append(outcome(instance(str(i)), "error", message=message))
        whole = path.read_bytes()
        store.append(outcome(instance("last"), "error", message="m" * 30))
    last = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + last[: min(cut, len(last) - 1)])
    with ResultStore(path) as store:
        assert [r.onnx for r in store.results] == [f"{i}.onnx" for i in range(len(messages))]
        store.append(outcome(instance("again"), "verified"))
    with ResultStore(path) as store:
        assert store.results[-1].onnx == "again.onnx"
        assert len(store.results) == len(messages) + 1


def test_a_message_of_many_lines_stays_one_row(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "r.csv") as store:
        store.append(outcome(instance("a"), "error", message='one\ntwo, "three"\r\nfour\u2028five'))
    assert len((tmp_path / "r.csv").read_text().split("\n")) == 3  # header, row, end
    with ResultStore(tmp_path / "r.csv") as store:
        assert store.results[0].message == 'one | two, "three" | four | five'


@pytest.mark.parametrize(
    "content",
    [
        b"name,value\n1,2\n",
        b"precious",
        ",".join(f.name for f in fields(Result)).encode() + b"\n1,2\n",
        b"\xff\xfe\n",
        b"x\n",
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(BadOption, match="something other"), ResultStore(path):
        pass
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match="cannot be written"), ResultStore(tmp_path / "file" / "r.csv"):
        pass


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no advisory locks on this system")
    code = f"from benchmarks.store import ResultStore\nwith ResultStore({str(tmp_path / 'r.csv')!r}): pass"
    with ResultStore(tmp_path / "r.csv"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "being written by another run" in done.stderr


def solve_as(verdicts: dict[str, str]):
    asked: list[str] = []

    def solve(one: Instance, budget: Budget) -> Result:
        asked.append(one.onnx)
        return outcome(one, verdicts[one.onnx])

    return solve, asked


def test_a_run_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    instances = [instance("a"), instance("b"), instance("a"), instance("a", timeout=9.0)]
    verdicts = {"a.onnx": "verified", "b.onnx": "falsified"}
    first, asked = solve_as(verdicts)
    with ResultStore(tmp_path / "r.csv") as store:
        run_all(instances[:1], store, first, Budget(), lambda result: None)
    assert asked == ["a.onnx"]
    second, asked = solve_as(verdicts)
    with ResultStore(tmp_path / "r.csv") as store:
        run_all(instances, store, second, Budget(), lambda result: None)
    assert asked == ["b.onnx", "a.onnx"]  # the second "a" has another timeout, the repeated one is one
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [(r["onnx"], r["timeout_s"]) for r in rows] == [("a.onnx", "5.0"), ("b.onnx", "5.0"), ("a.onnx", "9.0")]


def test_a_cancelled_instance_leaves_no_row(tmp_path: Path) -> None:
    budget = Budget()

    def solve(one: Instance, part: Budget) -> Result:
        if one.onnx == "b.onnx":
            budget.cancel()
            assert part.expired
        return outcome(one, "unknown")

    with ResultStore(tmp_path / "r.csv") as store:
        run_all([instance(n) for n in "abc"], store, solve, budget, lambda result: None)
        assert [r.onnx for r in store.results] == ["a.onnx"]
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]


def test_a_process_that_dies_on_an_instance_gets_past_it(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from benchmarks.run import Instance, outcome, run_all\n"
        "from benchmarks.store import ResultStore\n"
        "from certify.budget import Budget\n"
        "def solve(one, budget):\n"
        "    if one.onnx == 'b': os._exit(9)\n"
        "    return outcome(one, 'verified')\n"
        "listed = [Instance('cat', n, n, 5.0, Path()) for n in 'abc']\n"
        "with ResultStore(sys.argv[1]) as store: run_all(listed, store, solve, Budget(), lambda r: None)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "r.csv")]
    assert subprocess.run(command, check=False).returncode == 9
    assert subprocess.run(command, check=False).returncode == 0
    with ResultStore(tmp_path / "r.csv") as store:
        assert [(r.onnx, r.verdict) for r in store.results] == [("a", "verified"), ("b", "error"), ("c", "verified")]
        assert "died" in store.results[1].message


def test_summary_counts_and_contradictions() -> None:
    results = [
        outcome(instance("a", "sat"), "verified", time_s=1.0),
        outcome(instance("b", "unsat"), "falsified", time_s=3.0),
        outcome(instance("c", "unsat"), "verified", time_s=8.0),
        outcome(instance("d", "sat"), "unknown", time_s=99.0),
        outcome(instance("e", "unknown"), "error"),
    ]
    assert [r.contrary for r in results] == [True, True, False, False, False]
    category, total = summarise(results)
    assert (category.category, total.category) == ("cat", "total")
    assert (total.instances, total.solved, total.verified, total.falsified, total.unknown, total.errors) == (
        5,
        3,
        2,
        1,
        1,
        1,
    )
    assert total.median_s == 3.0


def test_lists_with_and_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("onnx/n.onnx,p.vnnlib,116\n\nonnx/m.onnx, q.vnnlib ,2.5\n")
    plain = read_instances(tmp_path / "plain.csv")
    assert [i.key for i in plain] == [
        (tmp_path.name, "onnx/n.onnx", "p.vnnlib", 116.0),
        (tmp_path.name, "onnx/m.onnx", "q.vnnlib", 2.5),
    ]
    assert plain[0].network == tmp_path / "onnx/n.onnx"
    (tmp_path / "full.csv").write_text(
        "category,onnx,vnnlib,timeout_s,expected,sources\nacas,n.onnx,p.vnnlib,3,sat,x\n"
    )
    (full,) = read_instances(tmp_path / "full.csv")
    assert (full.key, full.expected) == (("acas", "n.onnx", "p.vnnlib", 3.0), "sat")
    assert full.network == tmp_path / "acas" / "n.onnx"
    (moved,) = read_instances(tmp_path / "full.csv", root=tmp_path / "elsewhere")
    assert moved.property == tmp_path / "elsewhere" / "acas" / "p.vnnlib"


def test_a_compressed_file_stands_in_for_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("n.onnx,p.vnnlib,1\n")
    (tmp_path / "n.onnx.gz").write_bytes(b"")
    (one,) = read_instances(tmp_path / "list.csv")
    assert one.network.name == "n.onnx.gz"
    assert one.property.name == "p.vnnlib"  # neither form is there: the plain name is the one to complain about


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("n.onnx,p.vnnlib,1\nn.onnx,p.vnnlib\n", ":2:"),
        ("n.onnx,p.vnnlib,soon\n", ":1:"),
        ("n.onnx,p.vnnlib,0\n", "positive"),
        ("n.onnx,p.vnnlib,nan\n", "positive"),
        ("", "no instance"),
        ("category,onnx,vnnlib\na,b,c\n", "timeout_s"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(MalformedSpec, match=says):
        read_instances(tmp_path / "list.csv")


def sample(index: int, verdict: str, reason: str | None = None, radius: float = 0.1) -> SampleResult:
    return SampleResult(index, 3, str(radius), radius, verdict, reason, 0.5, None, None)


def test_accuracies_are_nested() -> None:
    results = [
        sample(0, "verified"),
        sample(1, "falsified"),
        sample(2, "falsified", "misclassified"),
        sample(3, "unknown", "timeout"),
        sample(0, "verified", radius=0.05),
    ]
    small, large = accuracies(results)
    assert (small.eps, small.samples, small.certified) == ("0.05", 1, 1)
    assert (large.samples, large.clean, large.attacked, large.certified) == (4, 3, 2, 1)


def test_accuracies_use_what_other_radii_showed() -> None:
    results = [
        sample(0, "unknown", "timeout", radius=0.1),
        sample(0, "falsified", radius=0.05),
        sample(1, "verified", radius=0.1),
        sample(1, "unknown", "timeout", radius=0.05),
    ]
    small, large = accuracies(results)
    assert (small.clean, small.attacked, small.certified) == (2, 1, 1)
    assert (large.clean, large.attacked, large.certified) == (2, 1, 1)


def test_samples_resume_and_other_questions_are_refused(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "out", {"network": "a", "within": (0.0, 1.0)})
    store.append(sample(0, "verified"))
    store.append(sample(1, "unknown"))
    lines = tmp_path / "out" / "results.jsonl"
    lines.write_bytes(lines.read_bytes()[:-7])
    again = SampleStore(tmp_path / "out", {"network": "a", "within": (0.0, 1.0)})
    assert again.results == [sample(0, "verified")]
    again.append(sample(1, "falsified"))
    assert len(SampleStore(tmp_path / "out", {"network": "a", "within": (0.0, 1.0)}).results) == 2
    with pytest.raises(BadOption, match="another network"):
        SampleStore(tmp_path / "out", {"network": "b", "within": (0.0, 1.0)})


def test_a_store_that_nobody_needs_closes_its_files(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        store = SampleStore(tmp_path, {})
        store.append(sample(0, "verified"))
        with pytest.raises(BadOption, match="another network"):
            SampleStore(tmp_path, {"network": "b"})
        del store
        gc.collect()
    assert not [w.message for w in said if w.category is ResourceWarning]


def test_work_on_samples_is_watched_with_what_to_say_if_it_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """First of a whole batch, then of each sample that is still open, of which a bound is known by then."""
    open_, proved = Unknown(Reason.INCOMPLETE, -0.5), SimpleNamespace(name="verified", grade=Grade.CHECKED, lower=1.0)
    monkeypatch.setattr("certify.verifier.verify_each", lambda *args: [proved, open_])
    monkeypatch.setattr("certify.verifier.verify", lambda *args: Unknown(Reason.STUCK, -0.25))
    network = SimpleNamespace(
        graph=SimpleNamespace(input_size=2, output_size=2), source=lambda x: x  # a class is the larger coordinate
    )  # fmt: skip
    x = np.array([[0.9, 0.1], [0.2, 0.6], [0.8, 0.3]])
    assessment = Assessment(network, x, np.array([0, 1, 1]), Threat(np.inf), Strategy(), timeout=3.0)
    entered: list[tuple[float, Sequence[SampleResult]]] = []
    left = []

    @contextmanager
    def watch(budget: Budget, late: Sequence[SampleResult]) -> Iterator[None]:
        entered.append((budget.timeout, late))
        yield
        left.append(late)

    found = list(assessment.judge([0, 1, 2], [("0.1", 0.1)], Budget(), watch=watch))
    assert [(r.index, r.verdict, r.reason) for r in found] == [
        *((2, "falsified", "misclassified"), (0, "verified", None), (1, "unknown", "stuck"))
    ]
    assert left == [late for _, late in entered]
    (together, batch), (alone, one) = entered
    assert together == pytest.approx(6.0)
    assert alone <= 3.0
    late = [SampleResult(i, i, "0.1", 0.1, "unknown", "timeout", 3.0, None, None) for i in (0, 1)]
    assert list(batch) == late
    assert list(one) == [replace(late[1], lower=-0.5)]


STUCK = """
import time
from benchmarks.robust import SampleResult
from certify.budget import Budget
from certify.commands import terminal
from certify.commands.robust import _watch

terminal.STUCK = 1.0, 0.1
late = [SampleResult(7, 1, "0.1", 0.1, "unknown", "timeout", 0.1, None, None)]
with _watch(0.1, lambda result: print(result.index, result.reason), lambda: print("the table"))(Budget(0.1), late):
    time.sleep(100)
"""


def test_a_sample_that_does_not_end_ends_the_run() -> None:
    ran = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert ran.returncode == 130, ran.stderr
    assert ran.stdout.split("\n")[:2] == ["7 timeout", "the table"]
    assert "sample 7 takes far longer" in ran.stderr


def test_a_folder_belongs_to_one_process_until_it_dies(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no advisory locks on this system")
    code = f"""
import time
from pathlib import Path
from benchmarks.robust import SampleResult, SampleStore
store = SampleStore(Path({str(tmp_path)!r}), {{}})
store.append(SampleResult(0, 1, "0.1", 0.1, "verified", None, 1.0, None, None))
print("holds it", flush=True)
time.sleep(100)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert "holds it" in other.stdout.readline()
    with pytest.raises(BadOption, match=rf"{tmp_path} is being written by another run, process {other.pid}"):
        SampleStore(tmp_path, {})
    lines = tmp_path / "results.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"index": 1')  # which the other one is about to complete
    assert [r.index for r in stored(tmp_path, SampleResult)] == [0]
    assert lines.read_bytes().endswith(b'{"index": 1')
    other.kill()
    other.communicate()
    store = SampleStore(tmp_path, {})
    assert [r.index for r in store.results] == [0]
    store.append(sample(1, "unknown"))
    assert [r.index for r in stored(tmp_path, SampleResult)] == [0, 1]


@pytest.mark.parametrize("content", [None, b"no json\n", b'{"other": 1}\n'])
def test_what_is_no_result_is_not_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_bytes(content)
    with pytest.raises(BadOption, match="results"):
        stored(tmp_path, SampleResult)


def test_targets_leave_the_label_out() -> None:
    threat = Threat(np.inf, targets=(1, 3))
    assert len(threat.property(3, 10).clauses) == 1
    assert len(threat.property(0, 10).clauses) == 2
    assert len(Threat(np.inf).property(0, 10).clauses) == 9
    assert not Threat(np.inf, targets=(3,)).concerns(3)
    with pytest.raises(CertifyError):
        Threat(np.inf, targets=(12,)).property(0, 10)


def test_the_table_of_tiers_counts_what_agrees(tmp_path: Path) -> None:
    (tmp_path / "tiers.csv").write_text(
        "category,onnx,vnnlib,expected,tier\na,n,p,unsat,easy\na,n,q,sat,easy\nb,n,p,unknown,unsolved\nb,n,q,sat,hard\n"
    )
    known = tiers.read_tiers(tmp_path / "tiers.csv")
    rows = [
        Result("a", "n", "p", 60, "unsat", "verified"),
        Result("a", "n", "q", 60, "sat", "verified"),  # wrong
        Result("b", "n", "p", 60, "unknown", "falsified"),
        Result("b", "n", "q", 60, "sat", "unknown"),
        Result("b", "n", "another", 60, "sat", "falsified"),
    ]
    cells = tiers.by_tier(rows, known)
    assert {place: (str(cell), cell.decided) for place, cell in cells.items() if place[1] == "total"} == {
        ("a", "total"): ("1/2", 2),
        ("b", "total"): ("1/2", 1),
        ("total", "total"): ("2/4", 3),
    }
    assert str(cells["total", "hard"]) == "0/1"
    assert tiers.table(cells).splitlines()[-1].split() == ["total", "1/2", "-", "0/1", "-", "1/1", "2/4", "3"]
    (tmp_path / "tiers.csv").write_text("category,onnx,vnnlib,expected,tier\na,n,p,unsat,trivial\n")
    with pytest.raises(MalformedSpec, match="trivial"):
        tiers.read_tiers(tmp_path / "tiers.csv")
