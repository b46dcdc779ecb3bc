"""The command in a card makes the very plan that was followed, or there is none."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.cli import main
from certify.errors import BadOption
from tests.training.test_loop import PLAN
from training import EMA, IBP, SGD, SWA, Adam, Augment, IntervalStart, Plan
from training.catalogue import parse, start_of
from training.command import command_of
from training.schedule import Constant, Linear, Smooth, Steps
from training.space import UNBOUND

WORDS = ("standard", "ibp", "crown-ibp:fused=0", "staps:share=0.3,tail=2", "dual:projections=3", "spatial",
         "max:inf=0.1,2=1/3,rotation=10.1", "smooth-adv-ddn", "lipschitz")  # fmt: skip
SHARE = st.floats(0, 1)
BELOW = st.floats(0, 1, exclude_max=True)
SETTINGS = {
    "norm": st.sampled_from([math.inf, 2.0, 1.0]),
    "epochs": st.integers(1, 10**6),
    "batch": st.integers(1, 10**6),
    "optimiser": st.builds(Adam, SHARE, SHARE),
    "growth": st.tuples(SHARE, SHARE).map(lambda ends: Smooth(min(ends), max(ends))),
    "augment": st.none() | st.builds(Augment, st.integers(0, 9).map(float), st.floats(0, 180), BELOW, SHARE),
    "l1": SHARE,
    "clip": st.floats(0, exclude_min=True),
    "average": st.none() | st.builds(EMA, BELOW) | st.builds(SWA, BELOW),
    "patience": st.integers(0, 9),
    "replays": st.integers(1, 9),
    "validation": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "mixed": st.booleans(),
    "compiled": st.sampled_from(["", "inductor"]),
    "seed": st.integers(0, 2**31 - 1),
}


@settings(max_examples=40)
@given(st.sampled_from(WORDS), st.sampled_from([(None, 0.0), ("1/3", 1 / 3), ("2e-3", 0.002)]),
       st.fixed_dictionaries(SETTINGS))  # fmt: skip
def test_the_command_of_a_plan_makes_that_plan(tmp_path_factory, method, radius, given):
    eps, epsilon = radius
    plan = Plan(parse(method), epsilon, start=start_of(method), **given)
    if eps is None and method.partition(":")[0] not in UNBOUND:  # the command line wants a radius, and refuses 0
        with pytest.raises(BadOption, match="epsilon=0"):
            command_of("digits", "mlp", eps, plan)
        return
    command = shlex.split(command_of("digits", "mlp", eps, plan))
    instead = mock.patch("certify.commands.train._run", side_effect=typer.Exit)
    with instead as trained, mock.patch("models.data.load"), pytest.raises(SystemExit):
        main([*command[1:], "--out", str(tmp_path_factory.getbasetemp() / "out")])
    assert trained.call_args.args[:3:2] == ("mlp", plan)


@pytest.mark.parametrize(
    "setting",
    [
        {"growth": Linear()},
        {"growth": Constant()},
        {"growth": Smooth(middle=0.5)},
        {"pace": Steps((), 1.0)},
        {"start": IntervalStart()},
        {"optimiser": SGD(0.1, 0.0, 0.0)},
        {"compiled": "eager"},
        {"epsilon": 0.07},
        {"method": IBP()},
    ],
)
def test_a_plan_that_no_words_make_has_no_command(setting):
    assert command_of("digits", "mlp", "0.05", PLAN)
    with pytest.raises(BadOption, match=f"no command trains with {next(iter(setting))}|cannot be written"):
        command_of("digits", "mlp", "0.05", replace(PLAN, **setting))


def test_the_command_says_how_many_processes_trained():
    command = command_of("digits", "mlp", "0.05", PLAN, processes=3)
    assert command.startswith("torchrun --nproc-per-node 3 -m certify train --data digits ")


def test_words_with_blanks_are_one_word():
    folder = str(Path("my data") / "cifar10")
    assert folder in shlex.split(command_of(folder, "mlp", "0.05", PLAN))
