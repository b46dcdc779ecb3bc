"""`certify train`: a folder that `certify robust` takes; wrong words are refused."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certify.errors import BadOption
from certify.frontends.load import load_network
from models import data, nets, zoo
from training import IBP, MSD, MTLIBP, STAPS, TAPS, Average, Climb, CrownIBP, Moved, Regulariser, Within, Worst, events
from training.catalogue import MARGINS, METHODS, parse, written
from training.schedule import Constant

TRAIN = ("train", "--data", "digits", "--net", "mlp", "--method", "ibp", "--eps", "0.03")


def test_what_is_trained_is_certified(run, tmp_path):
    out = str(tmp_path / "net")
    done = run(*TRAIN, "--epochs", "3", "--rate", "0.005", "--out", out)
    assert done.status == 0, done.err
    assert "trained" in done.out
    files = {p.name for p in (tmp_path / "net").iterdir()}
    assert {"model.safetensors", "model.json", "epochs.csv", "curves.png", "checkpoint.pt", events.NAME} == files
    robust = run("robust", out, "--data", "digits", "--eps", "0.01", "--index", "0:4", "--json")
    assert robust.status == 0, robust.err
    assert len(robust.out.splitlines()) == 4
    again = run(*TRAIN, "--epochs", "3", "--rate", "0.005", "--out", out, "--json")  # nothing is left to do
    assert (again.status, again.out) == (0, "")
    other = run(*TRAIN, "--epochs", "4", "--rate", "0.005", "--out", out)
    assert other.status == 2
    assert "another run: epochs=3, not epochs=4\n" in other.err


def test_epochs_as_objects(run, tmp_path):
    done = run("train", "--data", "digits", "--net", "mlp", "--method", "max:inf=0.05,2=1/3", "--epochs", "1", "--json",
               "--swa", "0.5", "--validation", "0.1", "--ramp", "0:0.3", "--clip", "1", "--replays", "2",
               "--augment", "pixels=1,degrees=5.4321012", "--decay", "0.01", "--l1", "1e-5",
               "--out", str(tmp_path))  # fmt: skip
    (line,) = done.out.splitlines()
    assert json.loads(line)["epoch"] == 1
    command = json.loads((tmp_path / "model.json").read_text())["command"]
    again = run(*shlex.split(command)[1:], "--out", str(tmp_path / "again"))
    assert again.status == 0, again.err
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "ibq"), "no training method"),
        (("--method", "adversarial:stepz=3"), "there are: .*steps"),
        (("--method", "adversarial:steps=many"), "not a number"),
        (("--method", "max:3=1"), "no threat '3'"),
        (("--method", "max"), "names no threat"),
        (("--method", "msd:rotation=3"), "radii only"),
        (("--method", "avg:inf=many"), "not a number"),
        (("--ramp", "0.5"), "0.05:0.5"),
        (("--ramp", "0.5:0.2"), "from 0 to 1"),
        (("--clip", "0"), "clip"),
        (("--augment", "colour=1"), "there are pixels"),
        (("--l1", "-1"), "l1 >= 0"),
        (("--augment", "pixels=8"), "leaves nothing of 8"),
        (("--decay", "-1"), "decay >= 0"),
        (("--seed", "-1"), "seed in"),
        (("--validation", "0.9999"), "lower `validation`"),
        (("--method", "adversarial:steps=inf"), "not a number for steps"),
        (("--method", "adversarial:steps=-1"), "not a number for steps"),
        (("--method", "adversarial:steps=2.5"), "not a number for steps"),
        (("--method", "crown-ibp:fused=yes"), "like fused=1"),
        (("--method", "max:inf=1e400"), "not a number"),
        (("--method", "smooth-adv:samples=0"), "noisy copies"),
        (("--method", "taps:tail=0"), "tail from 1"),
        (("--method", "mtl-ibp:share=2"), "share 2.0"),
        (("--net", "cnn-8"), "no network"),
        (("--norm", "3"), "no such norm"),
        (("--eps", "0.1,0.2"), "one radius"),
        (("--average", "0.9", "--swa", "0.5"), "choose one"),
        (("--swa", "1.5"), "no part"),
    ],
)
def test_wrong_words_are_refused(run, tmp_path, words, said):
    done = run(*TRAIN, *words, "--out", str(tmp_path / "x"))
    assert done.status == 2
    assert re.search(said, done.err), done.err


def test_a_method_for_a_radius_is_not_trained_without_one(run, tmp_path):
    words = ("train", "--data", "digits", "--net", "mlp", "--epochs", "1", "--out", str(tmp_path))
    refused = run(*words, "--method", "ibp")
    assert refused.status == 2
    assert "add --eps" in refused.err
    assert run(*words, "--method", "smooth-mix:samples=1,steps=1").status == 0


def test_settings_reach_the_method_and_its_attack():
    method = parse("adversarial:steps=3,size=0.5")
    assert (method.attack.steps, method.attack.size) == (3, 0.5)
    assert parse("crown-ibp:fused=0").fused is False
    both = parse("staps:steps=3,latent.steps=5,tail=2")
    assert (both.attack.steps, both.latent.steps, both.latent.tail) == (3, 5, 2)
    assert parse("ibp:regulariser.weight=0").regulariser.weight == 0
    assert parse("staps:regulariser.tau=0.25").latent.regulariser.tau == 0.25
    with pytest.raises(BadOption, match=r"there are: share, steps, size, tail, latent\.steps, weight, regulariser\.w"):
        parse("staps:latent=5")
    assert [parse(name) for name in METHODS] == list(METHODS.values())


def test_several_threats_are_written_in_a_word():
    threats = (Within(0.1), Within(0.5, 2.0), Moved(30.0, 0.0))
    assert parse("max:2=1/2,inf=0.1,rotation=30") == Worst(threats)
    assert parse("avg:2=0.5") == Average(threats[1:2])
    assert parse("msd:inf=0.1,2=0.5") == MSD(threats[:2])


EASED = st.builds(Regulariser, st.floats(0, 9))
EASED_TAPS = st.builds(TAPS, st.integers(1, 3), st.integers(1, 9), st.floats(0, 9), regulariser=EASED)
METHOD = st.one_of(
    st.sampled_from([*METHODS.values(), *MARGINS.values()]),
    st.builds(MTLIBP, st.floats(0, 1), st.builds(Climb, st.integers(0, 99), st.floats(0, 9)), st.just(Regulariser())),
    st.builds(CrownIBP, fused=st.booleans(), regulariser=st.just(Regulariser())),
    st.builds(STAPS, st.floats(0, 1), latent=EASED_TAPS),
    st.builds(Worst, st.tuples(st.builds(Within, st.floats(0, 9)), st.builds(Moved, st.floats(0, 90)))),
    st.builds(MSD, st.tuples(st.builds(Within, st.floats(0, 9), st.just(1.0)))),
)


@given(METHOD)
def test_what_is_written_of_a_method_is_read_as_it(method):
    assert parse(written(method)) == method


def test_a_method_without_words_is_said_to_be_one():
    with pytest.raises(BadOption, match="cannot be written"):
        written(MSD((Within(0.1),), steps=3))
    with pytest.raises(BadOption, match="cannot be written"):
        written(IBP(kappa=Constant(0.3)))


@pytest.mark.parametrize("name", nets.NETS)
def test_every_architecture_is_described_saved_and_read_by_certify(name, tmp_path):
    digits = data.load("digits")
    description = nets.describe(name, digits)
    torch.manual_seed(0)
    module = description.build().eval()
    path = tmp_path / "m.safetensors"
    zoo.save(description, module, path, zoo.Card("digits", "none", None, 0.1, "none"))
    x = torch.from_numpy(digits.x_test[:3])
    assert module(x).shape == (3, 10)
    assert torch.equal(zoo.load_file(path)(x), module(x))
    if name in ("mlp", "cnn-small-bn", "vit"):
        load_network(path)  # compares with the original on random inputs
