"""Methods side by side: a run resumes, its figures are those of its samples, and a contradiction ends it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from shutil import copy

import pytest

from benchmarks.command import entry
from benchmarks.training import budget, cards, pace, several
from benchmarks.training import compare as compare_module
from benchmarks.training.budget import Setup, folder_of
from benchmarks.training.cards import Questions, measured
from benchmarks.training.compare import compare, markdown, plan
from benchmarks.training.several import Limits
from benchmarks.training.several import line as several_line
from certify.errors import BadOption, CertifyError
from certify.frontends.load import TRAINED
from models import zoo
from models.data import load

SETUP, QUESTIONS = Setup("digits", "mlp", 0.004, rate=5e-3), Questions("1/40", 6, 5.0)


def test_a_comparison_goes_on_and_says_what_was_counted(tmp_path, monkeypatch, capsys):
    rows = compare(SETUP, QUESTIONS, "1/40", ["standard"], tmp_path)
    folder = folder_of(tmp_path, "digits", "1/40", "standard")
    verdicts = [json.loads(line) for line in (folder / "robust" / "results.jsonl").read_text().splitlines()]
    assert {v["index"] for v in verdicts} == set(range(6))
    (row,) = rows
    assert row.certified == pytest.approx(100 * sum(v["verdict"] == "verified" for v in verdicts) / 6, abs=0.01)
    assert row.certified <= row.attacked <= row.clean
    assert row.command.startswith("certify train --data digits --net mlp --method standard --eps 1/40")
    card = zoo.read(folder / TRAINED).card
    (found,) = card.measured
    assert (found.epsilon, found.samples, found.clean) == (1 / 40, 6, pytest.approx(row.clean / 100, abs=1e-4))
    assert str(found) in str(card)
    curves = (tmp_path / "curves.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curves] == ["method"] + ["standard"] * row.epochs
    table = (tmp_path / "table.md").read_text()
    assert table == markdown(rows, SETUP, QUESTIONS) + "\n"

    monkeypatch.setattr(budget, "pace", lambda *_: pytest.fail("the budget was settled before"))
    weights = (folder / TRAINED).read_bytes()
    assert compare(SETUP, QUESTIONS, "1/40", ["standard"], tmp_path) == rows
    assert (folder / TRAINED).read_bytes() == weights
    with pytest.raises(BadOption, match="other settings"):
        compare(replace(SETUP, seed=1), QUESTIONS, "1/40", ["standard"], tmp_path)


def test_a_budget_below_an_epoch_takes_a_part_of_the_data(tmp_path, monkeypatch):
    data = load("digits")
    monkeypatch.setattr(budget, "pace", lambda *_: 60 * SETUP.minutes * 4)
    epochs, share = budget.settled(SETUP, lambda n: plan(SETUP, 1 / 40, "standard", n), data, tmp_path)
    assert (epochs, share) == (1, 0.25)
    short = budget.shortened(data, share)
    assert len(short.x_train) == len(short.y_train) == round(len(data.x_train) / 4)
    assert len(short.x_test) == len(data.x_test)
    assert asdict(SETUP).items() <= json.loads((tmp_path / budget.PACE).read_text())["asked"].items()


def test_the_union_of_threats_is_no_better_than_each(tmp_path):
    limits = Limits(0.05, 0.3, 0.5, 10.0, 1.0)
    row = several_line(SETUP, limits, "max", load("digits"), 4, tmp_path)
    assert len(row.under) == 4
    assert row.union <= min(row.under) <= max(row.under) <= row.clean
    assert row.epochs == len((tmp_path / "digits-max" / "epochs.csv").read_text().splitlines()) - 1


def test_the_command_in_a_card_trains_the_network_again(tmp_path, monkeypatch):
    setup, limits = replace(SETUP, epochs=1, seed=3), Limits(0.05, 0.3, 0.5, 10.0, 1.0)
    several_line(setup, limits, "only inf", load("digits"), 1, tmp_path / "first")
    path = tmp_path / "first" / "digits-only-inf" / TRAINED
    words = shlex.split(zoo.read(path).card.command)
    monkeypatch.setattr("sys.argv", [*words[2:], "--samples", "1", "--out", str(tmp_path / "again")])
    several.main()
    assert (tmp_path / "again" / "digits-only-inf" / TRAINED).read_bytes() == path.read_bytes()


def test_a_verified_image_that_an_attack_misleads_is_a_bug(tmp_path):
    data, name = load("digits"), "digits-mlp-ibp"
    path = tmp_path / f"{name}.safetensors"
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).write_bytes((zoo.SAVED / name).with_suffix(suffix).read_bytes())
    questions = Questions("0.01", 2)
    found = measured(path, data, "digits", questions, tmp_path / "out")
    assert found.certified > 0
    lines = (tmp_path / "out" / "attack" / "results.jsonl").read_text().splitlines()
    forged = [json.dumps({**json.loads(line), "fooled": True}) for line in lines]
    (tmp_path / "out" / "attack" / "results.jsonl").write_text("\n".join(forged) + "\n")
    with pytest.raises(CertifyError, match="verified and yet misclassified"):
        measured(path, data, "digits", questions, tmp_path / "out")


def test_a_measurement_takes_the_place_of_its_earlier_one(tmp_path, run):
    description = zoo.Description("mlp", {"shape": [1, 4, 4], "classes": 3, "hidden": [5]})
    path = tmp_path / "m.safetensors"
    zoo.save(description, description.build(), path, zoo.Card("digits", "none", None, 0.1, "none"))
    assert zoo.read(path).card.measured == ()
    first = zoo.Measured(0.1, "inf", 10, 0.9, 0.8, 0.7, "one")
    zoo.measure(path, first)
    card = zoo.measure(path, replace(first, epsilon=0.05, certified=0.75))
    assert [m.epsilon for m in card.measured] == [0.05, 0.1]
    card = zoo.measure(path, replace(first, certified=0.6))
    assert [m.certified for m in card.measured] == [0.75, 0.6]
    assert zoo.read(path).card == card
    ran = run("inspect", path)
    assert ran.status == 0, ran.err
    assert "certified 75.0% within 0.05 (norm inf) of 10 test images" in ran.out


@pytest.mark.parametrize("module", [cards, compare_module, pace, several])
def test_what_a_user_can_mend_is_a_message_and_not_a_traceback(module, tmp_path, monkeypatch, capsys):
    named = [str(tmp_path / "none")] if module is cards else []
    monkeypatch.setattr("sys.argv", ["benchmark", *named, "--data", "nothing", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        entry(module.main)
    assert ended.value.code == 2
    assert "no data set is called 'nothing'\n  remedy: use one of digits, mnist" in capsys.readouterr().err


def test_folders_of_certify_train_keep_their_samples_apart(tmp_path, monkeypatch, capsys):
    saved = zoo.SAVED / "digits-mlp.safetensors"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for ending in (".safetensors", ".json"):
            copy(saved.with_suffix(ending), (tmp_path / name / TRAINED).with_suffix(ending))
    asked = ["--samples", "2", "--timeout", "2", "--out", str(tmp_path / "found")]
    monkeypatch.setattr("sys.argv", ["cards", str(tmp_path / "one"), str(tmp_path / "two" / TRAINED), *asked])
    cards.main()
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["one-inf-0.05", "two-inf-0.05"]


def test_a_network_without_a_card_is_refused_before_it_is_measured(tmp_path):
    network = tmp_path / "bare.safetensors"
    copy(zoo.SAVED / "digits-mlp.safetensors", network)
    with pytest.raises(CertifyError, match="no card beside it"):
        measured(network, load("digits"), "digits", QUESTIONS, tmp_path / "found")
    assert not (tmp_path / "found").exists()
