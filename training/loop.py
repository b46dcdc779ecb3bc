"""From a description, data and a plan to a network that `certify` reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from certify.device import device_of
from certify.errors import BadOption
from models import zoo
from models.data import Data
from training.place import forked
from training.plan import Epoch, Plan, best
from training.run import Run


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in eval mode with plain layers, what it is, how it was made, and how that went; `finished` is false if
    training was stopped before its end."""

    network: nn.Module
    description: zoo.Description
    plan: Plan
    history: tuple[Epoch, ...]
    finished: bool

    @property
    def epoch(self) -> Epoch | None:
        """How the epoch went whose network this is: the best one if the plan has patience, else the last."""
        place = best(self.history, self.plan.epsilon) if self.plan.patience else None
        return self.history[-1 if place is None else place] if self.history else None

    def save(self, path: str | Path, *, data: Data, data_name: str, command: str = "python") -> zoo.Card:
        """Write the weights (.safetensors) that `certify` reads, and their card beside them."""
        notes = {"plan": repr(self.plan), "torch": torch.__version__.split("+")[0]}
        notes["epoch"] = None if self.epoch is None else asdict(self.epoch)
        clean = round(accuracy(self.network, data), 4)
        card = zoo.Card(data_name, type(self.plan.method).__name__, self.plan.epsilon or None, clean, command, notes)
        zoo.save(self.description, self.network, path, card)
        return card


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Share of the test data that the network classifies as it should."""
    right = sum(
        int((network(x).argmax(1) == y).sum())
        for x, y in zip(*(torch.from_numpy(a).split(512) for a in (data.x_test, data.y_test)), strict=True)
    )
    return right / max(1, len(data.x_test))


def train(
    description: zoo.Description,
    data: Data,
    plan: Plan,
    folder: str | Path | None = None,
    *,
    each_epoch: Callable[[Epoch], None] = lambda epoch: None,
    each_step: Callable[[float], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """A network of this architecture, trained on data's training part as the plan says.

    The same arguments give the same weights on the same machine and number of threads; torch's random state is
    left as it was. With a `folder`, the run's state is kept there: killed at any moment and started again with the
    same arguments, it goes on and ends with the same weights; a table of the epochs lies beside it.

    `each_epoch` hears how every epoch went, `each_step` the progress from 0 to 1; `stop` is asked before every
    batch. Raises BadOption if there is nothing to train on, no such device, or if the folder holds another run's
    state, and Diverged, which is one, if the loss is no number any more.
    """
    if not len(data.x_train):
        raise BadOption("there are no training data", "use data with a training part, not an .npz file")
    with forked(device_of(plan.device)):
        run = Run(description, data, plan, None if folder is None else Path(folder))
        while not run.done:
            epoch = run.one_epoch(stop, each_step)
            if epoch is None:
                break
            each_epoch(epoch)
        made, network = zoo.plain(description, run.result())
        return Trained(network, made, plan, tuple(run.history), run.done)
