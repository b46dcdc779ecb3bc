"""`certify attack`: what it counts, keeps and draws, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attack import AttackResult, Campaign, PointStore, summarise
from benchmarks.threats import Moved
from certify.budget import Budget
from certify.cli import main
from certify.errors import BadOption
from certify.frontends.imported import Imported
from certify.frontends.load import load_network
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import evaluate
from certify.graph.ir import Port
from models import data


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["attack", "digits-mlp", "--data", "digits", *arguments])
    return ended.value.code or 0


def test_results_points_and_picture_are_kept_and_a_run_resumes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    options = ("--attack", "apgd-ce", "--out", str(out), "--json")
    assert _run("--eps", "0.2", "--index", "0:6", *options) == 0
    assert (out / "attack.png").stat().st_size > 1000
    before = (out / "results.jsonl").read_text()
    capsys.readouterr()
    assert _run("--eps", "0.2", "--index", "0:8", *options) == 0
    assert (out / "results.jsonl").read_text().startswith(before)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["index"] for row in shown] == [6, 7]
    digits, network = data.load("digits"), load_network("digits-mlp")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(8))
    assert any(row["fooled"] for row in rows)
    for row in rows:
        x, center = np.load(out / "points" / f"{row['index']}_inf_0.2.npy"), digits.x_test[row["index"]].reshape(-1)
        assert np.abs(x.astype(float) - center).max() <= 0.2
        assert ((x >= 0) & (x <= 1)).all()
        assert (network.source(x).argmax() != row["label"]) == row["fooled"]
    assert _run("--eps", "0.2", "--attack", "fgsm", "--out", str(out)) == 2
    assert "attack" in capsys.readouterr().err


def test_several_threats_are_told_apart_and_their_union_is_the_worst(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    options = ("--attack", "pgd", "--index", "0:8", "--out", str(out))
    assert _run("--eps", "0.1", *options) == 0
    threats = ("--threat", "2=1/10", "--spatial", "rotation=9", "--colour", "contrast=0.1")
    assert _run("--eps", "1e-1", *threats, *options, "--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(shown) == 8 * 3, "what was done before is not done again"
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {row["norm"] for row in rows} == {"inf", "2", "spatial", "colour"}
    network = load_network("digits-mlp")
    for row in rows:
        kept = PointStore(out).read(AttackResult(**row))
        assert (network.source(kept).argmax() != row["label"]) == row["fooled"]
        assert (row["parameters"] is not None) == (row["fooled"] and row["radius"] is None)
        if row["parameters"] is not None:
            assert abs(row["parameters"][0] - (row["norm"] == "colour")) <= 9
    worst = summarise([AttackResult(**row) for row in rows])[-1]
    fallen = {row["index"] for row in rows if row["fooled"]}
    assert (worst.threat, worst.samples, worst.standing) == ("union", 8, 8 - len(fallen))


def test_a_mixture_is_as_strong_as_either_part_and_its_points_are_mixtures(tmp_path: Path) -> None:
    out, span = tmp_path / "run", ("--index", "0:10")
    threats = ("--threat", "inf=0.05", "--threat", "2=0.4", "--mixture", "inf=0.05,2=0.4")
    assert _run(*threats, "--mixture", "inf=0.05, 2=0.4, weight=1/2", *span, "--out", str(out)) == 0
    rows = [AttackResult(**json.loads(line)) for line in (out / "results.jsonl").read_text().splitlines()]
    fallen = {name: {r.index for r in rows if r.threat == name and r.fooled} for name in {r.threat for r in rows}}
    free, half = fallen["inf=0.05,2=0.4"], fallen["inf=0.05,2=0.4,weight=0.5"]
    assert fallen["inf=0.05"] | fallen["2=0.4"] | half <= free
    assert fallen["inf=0.05"] & fallen["2=0.4"] <= half
    digits, network, store = data.load("digits"), load_network("digits-mlp"), PointStore(out)
    for r in (r for r in rows if r.norm == "mixture" and r.by):
        x = store.read(r).astype(float)
        offset = x - digits.x_test[r.index].reshape(-1)
        assert network.source(x).argmax() != r.label
        assert ((x >= 0) & (x <= 1)).all()
        assert r.parameters is None
        if r.threat.endswith("weight=0.5"):  # what is left when the first ball has given all that it can
            rest = np.maximum(np.abs(offset) - 0.5 * 0.05, 0)
            assert np.linalg.norm(rest) <= 0.5 * 0.4 * (1 + 1e-6)


def test_signs_of_masked_gradients_are_shown(capsys: pytest.CaptureFixture) -> None:
    """A network of steps: its own gradient is zero, and surrogates find what it hides."""
    digits = data.load("digits")
    build = GraphBuilder([Port("x", (64,))])
    rng = np.random.default_rng(0)
    first, last = (rng.standard_normal(shape).astype(np.float32) for shape in ((30, 64), (10, 30)))
    y = build.emit(ops.Linear(last, None), build.sign(build.emit(ops.Linear(first, None), build.inputs[0])))
    graph = build.build([y], [Port("y", (10,))])
    network = Imported(graph, lambda x: evaluate(graph, x.reshape(1, -1))[0])
    labels = np.array([network.source(x.reshape(-1)).argmax() for x in digits.x_test[:6]])
    campaign = Campaign(network, digits.x_test[:6], labels, (0.0, 1.0), "quick")
    found = {caution.name: caution for caution in campaign.diagnose(range(6), Moved("inf", "0.1", 0.1))}
    assert {"flat-parts", "zero-gradients"} <= set(found)
    assert "Sign" in found["flat-parts"].seen
    assert _run("--eps", "0.1", "--index", "0:6", "--attack", "fgsm", "--diagnose") == 0
    assert "no sign" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eps", "0.1", "--attack", "aupgd"), "apgd-ce"),
        (("--eps", "0.1", "--norm", "3"), "inf, 2, 1 or 0"),
        (("--eps", "3", "--norm", "0", "--range", "none", "--index", "0:1"), "data range"),
        (("--eps", "0.1", "--data", "nothing"), "digits"),
        (("--index", "0:1"), "--spatial"),
        (("--threat", "2"), "2=0.5"),
        (("--spatial", "turn=3"), "rotation"),
        (("--mixture", "inf=0.1"), "two balls"),
        (("--mixture", "inf=0.1,2=1,weight=2"), "weight"),
        (("--mixture", "inf=0.1,2=1", "--attack", "square", "--index", "0:1"), "balls"),
        (("--colour", "hue=3", "--index", "0:1"), "3 channels"),
        (("--spatial", "rotation=3", "--attack", "square", "--index", "0:1"), "grid"),
        (("--spatial", "rotation=3", "--diagnose"), "--eps"),
        (("--eps", "0.1", "--attack", "pgd", "--queries", "9", "--index", "0:1"), "square"),
        (("--eps", "0.1", "--attack", "transfer"), "--surrogate"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert _run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_campaign_ends_where_it_is_stopped_and_says_what_does_not_fit() -> None:
    digits, network = data.load("digits"), load_network("digits-mlp")
    campaign = Campaign(network, digits.x_test, digits.y_test, (0.0, 1.0), "fgsm")
    budget = Budget()
    budget.cancel()
    assert not list(campaign.run(range(4), [Moved("inf", "0.1", 0.1)], budget))
    wrong = Campaign(network, digits.x_test[:, :, :4], digits.y_test, (0.0, 1.0), "fgsm")
    with pytest.raises(BadOption, match="64 inputs"):
        list(wrong.run(range(4), [Moved("inf", "0.1", 0.1)], Budget()))
