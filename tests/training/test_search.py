"""Searches by Optuna: killed ones end as others do; what fails is no end; spaces hold what they say."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify.errors import BadOption
from tests.training.test_loop import NET, PLAN, halves
from training import IBP, SGD, TRADES, Bounded, Methods, Standard, front, search, train
from training.catalogue import METHODS, parse, written
from training.search import TPE
from training.space import WEIGHED

optuna = pytest.importorskip("optuna", reason="Optuna is not installed (certify-nn[sweep])")
WIDE = Bounded(0.1)


def space(trial):
    """Depends on the method; some of it is no plan."""
    name = trial.suggest_categorical("method", ["ibp", "trades", "standard"])
    if name == "standard":
        method, epsilon = Standard(), 0.0
    else:
        epsilon = trial.suggest_float(f"{name} radius", 0.02, 0.2, log=True)
        method = IBP() if name == "ibp" else TRADES(trial.suggest_float("beta", 1, 10))
    if epsilon > 0.15:
        raise optuna.TrialPruned
    return replace(PLAN, method=method, epsilon=epsilon, epochs=1)


EAGER = TPE(random=3)  # learns soon
FIRST = ({"method": "standard"}, {"method": "ibp", "ibp radius": 0.1})


def test_a_search_that_was_killed_ends_as_one_that_was_not(tmp_path):
    whole = search(NET, halves(), space, 6, tmp_path / "whole", WIDE, train, EAGER, FIRST)
    assert len({p.plan for p in whole}) >= 3
    assert whole[0].plan.method == Standard()
    assert (whole[1].plan.method, whole[1].plan.epsilon) == (IBP(), 0.1)
    killed, trained = tmp_path / "killed", []

    def dying(*task):
        if len(trained) in (1, 3) and task[2] not in trained:
            trained.append(task[2])
            train(*task, stop=lambda: True)
            raise KeyboardInterrupt
        trained.append(task[2])
        return train(*task)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(NET, halves(), space, 6, killed, WIDE, dying, EAGER, FIRST)
    resumed = search(NET, halves(), space, 6, killed, WIDE, dying, EAGER, FIRST)
    assert [replace(p, folder=None) for p in resumed] == [replace(p, folder=None) for p in whole]
    assert len(trained) - 2 == len({p.plan for p in whole})  # none twice but those that were killed
    study = optuna.load_study(study_name="certify", storage=f"sqlite:///{killed}/study.db")
    assert {tuple(t.values) for t in study.best_trials} == {(p.clean, p.certified) for p in front(whole)}


def test_a_stopped_search_has_its_points_and_more_trials_continue_it(tmp_path):
    left = [2]

    def trainer(*task):
        left[0] -= 1
        return train(*task, stop=lambda: left[0] < 0)

    def varied(trial):
        return replace(PLAN, epochs=1, optimiser=replace(PLAN.optimiser, rate=trial.suggest_float("rate", 1e-4, 0.1)))

    def diverging(trial):
        return replace(varied(trial), optimiser=SGD(1e30), clip=1e30, epochs=8)

    some = search(NET, halves(), varied, 5, tmp_path, WIDE, trainer)
    assert len(some) == 2
    all_of_them = search(NET, halves(), varied, 3, tmp_path, WIDE)
    assert all_of_them[:2] == some
    assert len(all_of_them) == 3
    assert search(NET, halves(), varied, 3, tmp_path, WIDE, trainer) == all_of_them
    for words in ((varied, 3, tmp_path, Bounded(0.2)), (diverging, 3, tmp_path, WIDE)):
        with pytest.raises(BadOption, match="another search"):
            search(NET, halves(), *words)
    failed = search(NET, halves(), diverging, 2, tmp_path / "other", WIDE)
    assert ["diverged" in p.failed for p in failed] == [True, True]
    assert front(failed) == []


def test_optuna_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BadOption, match="certify-nn\\[sweep\\]"):
        search(NET, halves(), space, 1, tmp_path, WIDE)


@dataclass(frozen=True)
class Drawn:
    """A trial that proposes this method, and of every range the number at this part of the way."""

    method: str
    place: float

    def suggest_categorical(self, name, choices):
        assert self.method in choices
        return self.method

    def suggest_float(self, name, low, high, *, log):
        return min(high, max(low, low * (high / low) ** self.place)) if log else low + (high - low) * self.place


@given(st.sampled_from(sorted(METHODS)), st.floats(0, 1))
def test_methods_are_proposed_as_they_are_written(name, place):
    plan = Methods(replace(PLAN, epsilon=0.1), ("adversarial", name))(Drawn(name, place))
    assert parse(written(plan.method)) == plan.method
    assert type(plan.method) is type(METHODS[name])
    assert 0.05 <= plan.epsilon <= 0.2
    assert 0.005 <= plan.optimiser.rate <= 0.08


@pytest.mark.parametrize("name", WEIGHED)
def test_what_weighs_the_parts_is_searched_unless_it_is_written(name):
    ((key, (low, high)),) = WEIGHED[name].items()
    free, fixed = Methods(PLAN, (name,)), Methods(PLAN, (f"{name}:{key}={low}",))
    places = (0.0, 0.3, 1.0)
    drawn = [getattr(free(Drawn(name, place)).method, key) for place in places]
    assert drawn == pytest.approx([low, low * (high / low) ** 0.3, high], rel=1e-3)
    assert {getattr(fixed(Drawn(*fixed.methods, place)).method, key) for place in places} == {low}
    with pytest.raises(BadOption, match="no training method"):
        Methods(PLAN, (name, "ibq"))
