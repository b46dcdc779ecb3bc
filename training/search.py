"""A sweep whose plans a study of Optuna proposes, each after what the ones before came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from certify.errors import BadOption
from models import zoo
from models.data import Data
from training.checkpoint import apart
from training.loop import train
from training.plan import Plan
from training.run import subject
from training.sweep import Measure, Point, Trainer, called, sweep

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STUDY = "study.db"
NAME = "certify"  # of the study in the file


class Space(Protocol):
    """What is searched; a function, or a frozen dataclass whose `repr` says all of it."""

    def __call__(self, trial: Trial | FrozenTrial) -> Plan:
        """A plan from settings that `trial.suggest_float`, `suggest_categorical` and so on give; what is asked may
        depend on earlier answers. Raises optuna.TrialPruned if there is no plan with these settings."""
        ...


class Sampler(Protocol):
    """A frozen dataclass, whose `repr` says all of it."""

    def __call__(self, done: int) -> BaseSampler:
        """What proposes settings after `done` proposals: the same whenever it is asked."""
        ...


@dataclass(frozen=True)
class TPE:
    """Optuna's tree of Parzen estimators (Bergstra et al. 2011; Ozaki et al. 2020 for several aims), after `random`
    proposals by chance."""

    random: int = 10
    seed: int = 0

    def __call__(self, done: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=self.seed + done, n_startup_trials=self.random)


def search(
    description: zoo.Description,
    data: Data,
    space: Space,
    trials: int,
    folder: str | Path,
    measure: Measure,
    trainer: Trainer = train,
    sampler: Sampler = TPE(),
    first: Sequence[Mapping[str, object]] = (),
) -> list[Point]:
    """The points of `trials` proposals, in their order; fewer if the trainer was stopped, or some were no plans. The
    `first` ones have these settings, as {"method": "ibp"}, and of others what is proposed.

    The study lies in `folder`, as the file `study.db` that Optuna reads, too (`optuna.load_study(study_name="certify",
    storage="sqlite:///FOLDER/study.db")`), beside the folders of `sweep`. A search that was stopped or killed at any
    moment goes on there, to the same points as one that was not: a proposal rests on what the ones before came to, and
    on how many they are. More `trials` continue a search that has ended. A folder is one process's at a time.

    Raises BadOption if Optuna is not installed, or the folder holds another search.
    """
    task = f"{subject(description, data)}, {called(space)}, {called(measure)}, {called(sampler)}, first {list(first)}"
    study = _opened(Path(folder), task)
    from optuna import TrialPruned
    from optuna.trial import TrialState

    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # by a process that was stopped
        study.tell(left.number, state=TrialState.FAIL)
    over = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    plans = [space(trial) for trial in over if trial.state is TrialState.COMPLETE]
    points = sweep(description, data, plans, folder, measure, trainer)
    if len(points) < len(plans):
        return points
    for done in range(len(over), trials):
        study.sampler = sampler(done)
        if done < len(first) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.enqueue_trial(dict(first[done]))
        trial = study.ask()
        try:
            plan = space(trial)
        except TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        found = sweep(description, data, [plan], folder, measure, trainer)
        if not found:
            break
        study.tell(trial, (found[0].clean, found[0].certified))
        points += found
    return points


def _opened(folder: Path, task: str) -> Study:
    """The study in the folder, a new one if there is none."""
    try:
        import optuna
    except ImportError as error:
        raise BadOption("Optuna is not installed, which proposes plans", "pip install 'certify-nn[sweep]'") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOption(f"{folder} cannot be made: {error.strerror}", "choose another folder") from error
    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # that a study was made is no news
    try:
        study = optuna.create_study(
            study_name=NAME,
            storage=f"sqlite:///{folder / STUDY}",
            directions=["maximize", "maximize"],
            load_if_exists=True,
        )
    finally:
        optuna.logging.set_verbosity(loudness)
    found = study.user_attrs.get("task", task)
    if found != task:
        raise BadOption(f"{folder} holds another search: {apart(found, task)}", "choose another folder")
    study.set_user_attr("task", task)
    return study
