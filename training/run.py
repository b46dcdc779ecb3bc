"""A training run in progress: its whole state, which goes to the disk and comes back bit by bit."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from certify.errors import BadOption
from models import zoo
from models.data import Data
from training import checkpoint, events, norms
from training.distributed import Team
from training.evaluate import Scores, scores
from training.faster import compile_forward, widened
from training.method import Moment
from training.place import forked, random_state, restore
from training.plan import Epoch, Plan, best
from training.region import Ball

CHECKPOINT, LOG = "checkpoint.pt", "epochs.csv"


class Diverged(BadOption):
    """The loss is no number any more."""


class Spent(NamedTuple):
    """Seconds by the clock and of the processor."""

    clock: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.clock - other.clock, self.cpu - other.cpu)


class Run:
    """Trains epoch by epoch. With a `folder`, every `every` seconds and after each epoch its state is kept there,
    and a run that finds a state goes on from it, to the same weights as one that was never interrupted.

    The random numbers are those of torch's own generator, whose state is part of the run's. Where several processes
    train together (`training.distributed`), all of them call the same, and the folder must be one that all can read.
    """

    def __init__(
        self, description: zoo.Description, data: Data, plan: Plan, folder: Path | None = None, every: float = 60.0
    ) -> None:
        self.plan, self.folder, self.every = plan, folder, every
        x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
        aside, chosen = split(len(x), plan)
        self.aside = tuple(part[aside].to(plan.device) for part in (x, y))
        self.device = torch.device(plan.device)
        if plan.patience and not len(aside):
            raise BadOption("patience waits for better scores, and nothing is kept aside for them", "raise validation")
        if not len(chosen):
            raise BadOption(f"of {len(x)} samples, none is left to train on", "lower `validation`")
        self.x, self.y = x[chosen].to(self.device), y[chosen].to(self.device)
        self.team = Team.here()
        torch.manual_seed(plan.seed)
        self.description, self.network = description, description.build().train()
        if plan.start is not None:
            plan.start(self.network)
        self.network.to(self.device)  # after weights were drawn: the same ones everywhere
        self.optimiser = plan.optimiser(self.network.parameters())
        self.averaged = copy.deepcopy(self.network) if plan.average is not None else None
        self.count = 0  # of the steps that the average is of
        self.best = None if not plan.patience else copy.deepcopy(self.network.state_dict())
        self.memory: dict[str, Tensor] = {}
        self.epoch, self.place, self.total, self.spent = 0, 0, 0.0, Spent()
        self.history: list[Epoch] = []
        self._settings = f"{subject(description, data)}: {plan}"
        if self.team.size > 1:
            self._settings += f", {self.team.size} processes"
        if self.team.rank:
            torch.manual_seed(plan.seed + 1_000_003 * self.team.rank)  # each its own noise
        if plan.mixed:
            self.network.register_forward_hook(widened)
        if plan.compiled:
            compile_forward(self.network, plan.compiled)
        self._resume()

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or patience is."""
        return self.epoch >= self.plan.epochs or (self.plan.patience > 0 and self._stale() >= self.plan.patience)

    @property
    def current(self) -> nn.Module:
        """The network as it is: averaged, if the plan says so."""
        return self.network if self.averaged is None else self.averaged

    def result(self) -> nn.Module:
        """The network that the run has come to, in eval mode: its best one if the plan has patience."""
        with forked(self.device):
            network = self.description.build()
        network.load_state_dict(self.current.state_dict() if self.best is None else self.best)
        return network.eval().requires_grad_(False)

    def one_epoch(self, stop: Callable[[], bool], each_step: Callable[[float], None]) -> Epoch | None:
        """Train to the end of the epoch; None if `stop`, asked before every batch, says so earlier.

        `each_step` hears the progress, from 0 to 1 of the whole run."""
        begun, saved = Spent.now() - self.spent, time.perf_counter()
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(7919 * self.plan.seed + self.epoch))
        batches = batched(order, self.plan.batch)
        while self.place < len(batches):
            due = self.folder is not None and time.perf_counter() - saved >= self.every
            stopped, due = self.team.any(stop(), due)
            if due or stopped:
                self.save()
                saved = time.perf_counter()
            if stopped:
                return None
            chosen = batches[self.place]
            progress = (self.epoch + self.place / len(batches)) / self.plan.epochs
            x = self.x[chosen] if self.plan.augment is None else self.plan.augment(self.x[chosen])
            for _ in range(self.plan.replays):
                loss = self._step(x, self.y[chosen], progress)
            self.total += loss * len(chosen)
            self.place += 1
            self.spent = Spent.now() - begun
            each_step(progress)
        self._close_epoch()
        self.save()
        return self.history[-1]

    def _close_epoch(self) -> None:
        begun = Spent.now() - self.spent
        if not all(value.isfinite().all() for value in self.network.state_dict().values()):
            raise self._diverged("there are weights that are no numbers")  # no later step's loss may say so
        if self.averaged is not None:
            norms.refresh(self.averaged, self.x, self.plan.batch)
        own = tuple(self.team.part(values) for values in self.aside)
        found = scores(self.current, *own, self.plan.epsilon, self.plan.norm)
        *counts, all_own = self.team.sum(*(len(own[0]) * share for share in astuple(found)), len(own[0]))
        found = Scores(*(count / max(1.0, all_own) for count in counts)) if self.team.size > 1 else found
        radius = self.plan.epsilon * self.plan.growth((self.epoch + 1) / self.plan.epochs)
        spent = Spent.now() - begun
        times = {"seconds": round(spent.clock, 3), "cpu_seconds": round(spent.cpu, 3)}
        self.history.append(Epoch(self.epoch + 1, self.total / len(self.x), radius, **asdict(found), **times))
        self.epoch, self.place, self.total, self.spent = self.epoch + 1, 0, 0.0, Spent()
        if self.best is not None and self._stale() == 0:
            self.best = copy.deepcopy(self.current.state_dict())

    def _step(self, x: Tensor, y: Tensor, progress: float) -> float:
        """One step on a batch; the loss before it. Raises Diverged if that is no number."""
        ramp = self.plan.growth(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.optimiser.rate * self.plan.pace(progress)
        self.optimiser.zero_grad()
        own, labels = self.team.part(x), self.team.part(y)
        loss = x.new_zeros(())
        if len(own):
            region = Ball(own, self.plan.epsilon * ramp, self.plan.norm)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.mixed):
                loss = self.plan.method(self.network, region, labels, Moment(progress, ramp, self.memory))
            loss.backward()
        (value,) = self.team.sum(loss.item() * len(own) / len(x))
        if not math.isfinite(value):  # the weights still are those of the step before
            raise self._diverged(f"the loss is {value}")
        self.team.combine(self.network, len(own) / len(x))
        if self.plan.l1:
            self._pull()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
        self.optimiser.step()
        if self.averaged is not None:
            self._average(progress)
        return value

    def _diverged(self, how: str) -> Diverged:
        return Diverged(f"training diverged in epoch {self.epoch + 1}: {how}", "lower the rate")

    @torch.no_grad()
    def _pull(self) -> None:
        """Add the gradient of the weights' absolute sum, which is none of the loss that is reported."""
        for weight in self.network.parameters():
            if weight.dim() > 1 and weight.grad is not None:
                weight.grad.add_(weight.sign(), alpha=self.plan.l1)

    @torch.no_grad()
    def _average(self, progress: float) -> None:
        begun = self.plan.average.begun(progress)
        share = self.plan.average.share(self.count) if begun else 1.0
        self.count += begun
        for mean, now in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, share)
        for mean, now in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)

    def _stale(self) -> int:
        """Epochs since the best one."""
        place = best(self.history, self.plan.epsilon)
        return 0 if place is None else len(self.history) - 1 - place

    # what is on the disk

    def save(self) -> None:
        """Keep the state, and the table of epochs, in the folder, if there is one."""
        if self.folder is None:
            return
        state = {
            "settings": self._settings,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "count": self.count,
            "best": self.best,
            "own": self.team.each((self.memory, random_state(self.device))),  # of every process
            "place": (self.epoch, self.place, self.total, *self.spent),
            "history": [asdict(e) for e in self.history],
        }
        if self.team.rank == 0:
            checkpoint.write(self.folder / CHECKPOINT, state)
            self._log()
        self.team.wait()  # or another process would read what was there before

    def _resume(self) -> None:
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadOption(f"{self.folder} cannot be made: {error.strerror}", "choose another folder") from error
        state = checkpoint.read(self.folder / CHECKPOINT, self._settings)
        found = self.team.each(None if state is None else state["place"][:2])
        if any(place != found[0] for place in found):
            raise BadOption(f"{self.folder} is not the same folder for all processes: {found}", "use a shared one")
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.best, self.count = state["best"], state["count"]
        memory, generators = state["own"][self.team.rank]
        self.memory = {name: tensor.to(self.device) for name, tensor in memory.items()}
        self.epoch, self.place, self.total, *spent = state["place"]
        self.spent = Spent(*spent)
        self.history = [Epoch(**e) for e in state["history"]]
        restore(self.device, generators)

    def _log(self) -> None:
        """The table of the epochs, for people and for TensorBoard."""
        table = io.StringIO()
        rows = csv.DictWriter(table, [f.name for f in fields(Epoch)], lineterminator=os.linesep)
        rows.writeheader()
        rows.writerows(asdict(e) for e in self.history)
        checkpoint.replace_file(self.folder / LOG, table.getvalue().encode())
        written = events.event_file(self.history)
        if written is not None:  # not put in the file's place: TensorBoard keeps the one that it has opened
            (self.folder / events.NAME).write_bytes(written)


def split(count: int, plan: Plan) -> tuple[Tensor, Tensor]:
    """The places, of `count` samples, of those that the plan keeps aside for scores, and of those it trains on."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(plan.seed))
    kept = round(count * plan.validation)
    return order[:kept], order[kept:]


def batched(order: Tensor, size: int) -> list[Tensor]:
    """Batches of this size. A last one of one sample, which batch normalisation cannot learn from, joins the one
    before."""
    sizes = [size] * (len(order) // size) + [len(order) % size] * (len(order) % size > 0)
    if len(sizes) > 1 and sizes[-1] == 1 < size:
        sizes[-2:] = [size + 1]
    return list(order.split(sizes))


def subject(description: zoo.Description, data: Data) -> str:
    """What is trained, on which samples: tells two of them apart."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (data.x_train, data.y_train):
        digest.update(np.ascontiguousarray(array))
    return f"{description} on {digest.hexdigest()}"
