"""The training loops of CTRAIN, over auto_LiRPA's bounds, on our networks and batches; for benchmarks only.

Neither is a dependency: `find` imports them from a folder of the caller's. What is timed is the body of CTRAIN's own
loop over batches, with the settings that its model wrappers have; batches lie ready on the device, as ours do.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.steps import Work, clock
from certify.errors import BadOption
from models.layers import Normalise
from training.run import Spent
from training.schedule import Smooth

WRAPPERS = {
    "ibp": "ShiIBPModelWrapper",
    "crown-ibp": "CrownIBPModelWrapper",
    "sabr": "SABRModelWrapper",
    "mtl-ibp": "MTLIBPModelWrapper",
}
RAMP = 1000  # epochs in which its radius grows; one of them is trained, so that it stays nearly the same


def find(folder: Path) -> ModuleType:
    """CTRAIN's wrappers, from a folder in which it and auto_LiRPA can be imported. Raises BadOption if they cannot."""
    sys.path.append(str(folder.resolve()))  # the last one: what is installed goes before the folder's
    try:
        with _quiet():
            return importlib.import_module("CTRAIN.model_wrappers")
    except ImportError as error:
        remedy = "give --peer a folder that holds CTRAIN, auto_LiRPA and what they import"
        raise BadOption(f"CTRAIN cannot be imported from {folder}: {error}", remedy) from error


@dataclass
class Loader:
    """What CTRAIN's loops read of a data loader; it notes what passes between a batch and the request for the next."""

    work: Work
    mean: Tensor
    std: Tensor
    spent: list[Spent] = field(default_factory=list)
    normalised: bool = True

    @property
    def min(self) -> Tensor:
        """The least values (C, 1, 1) of normalised data."""
        return (0 - self.mean)[:, None, None] / self.std[:, None, None]

    @property
    def max(self) -> Tensor:
        """The greatest values (C, 1, 1) of normalised data."""
        return (1 - self.mean)[:, None, None] / self.std[:, None, None]

    def of(self, x: Tensor) -> Tensor:
        """Normalised."""
        return (x - self.mean.to(x.device)[:, None, None]) / self.std.to(x.device)[:, None, None]

    def __len__(self) -> int:
        return self.work.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = [(self.of(x), y) for x, y in self.work.batches()]
        for batch in batches:
            begun = clock(self.work.device)
            yield batch
            self.spent.append(clock(self.work.device) - begun)


class Theirs:
    """A method of CTRAIN on the network of the work, at one share of the radius.

    `upper` spares auto_LiRPA the lower bounds on the fused loss: CTRAIN asks for them, but does not use them.
    """

    def __init__(self, wrappers: ModuleType, work: Work, method: str, ramp: float, upper: bool = False) -> None:
        network = work.network(method)
        if not isinstance(network, nn.Sequential) or not isinstance(network[0], Normalise):
            raise BadOption("the peer takes normalised data: a network without normalisation has none", "use a cnn")
        mean, std = (v.flatten().cpu() for v in (network[0].mean, network[0].std))
        self.loader = Loader(work, mean, std)
        # Where the radius is a share of the full one: the same function as CTRAIN's, power 4 up to a quarter.
        growth = Smooth(0.0, 1.0)
        self.epoch = RAMP + 1 if ramp >= 1 else min(range(1, RAMP), key=lambda e: abs(growth(e / RAMP) - ramp))
        make = getattr(wrappers, WRAPPERS[method.partition(":")[0]])
        settings = {"warm_up_epochs": 0, "ramp_up_epochs": RAMP, "device": torch.device(work.device)}
        with _quiet():
            self.wrapper: Any = make(network[1:], (1, *work.data.shape), work.epsilon, 2 * RAMP, **settings)
        if upper:
            fused = self.wrapper.loss_fusion_model
            fused.compute_bounds = partial(fused.compute_bounds, bound_lower=False)

    def round(self) -> list[Spent]:
        """Train on all batches; what each step took."""
        self.loader.spent.clear()
        with _quiet():
            self.wrapper.train_model(self.loader, start_epoch=self.epoch, end_epoch=self.epoch + 1)
        return list(self.loader.spent)

    def bounds(self, radius: float) -> tuple[Tensor, float | None]:
        """On the first batch, upper bounds (B, classes - 1) by intervals on each other logit minus that of y, and the
        mean fused loss by linear bounds, if the method has one."""
        x, y = next(self.loader.work.batches())
        lirpa, bound = importlib.import_module("auto_LiRPA"), importlib.import_module("CTRAIN.bound")
        loader, data = self.loader, self.loader.of(x)
        reach = (radius / loader.std)[:, None, None].to(x.device)
        low, high = loader.min.to(x.device), loader.max.to(x.device)
        ends = {"x_L": (data - reach).clamp(low, high), "x_U": (data + reach).clamp(low, high)}
        region = lirpa.PerturbationLpNorm(eps=reach, norm=float("inf"), **ends)
        with _quiet(), torch.no_grad():
            self.wrapper.train()
            self.wrapper.bounded_model(data)  # sets the statistics of batch normalisations
            lower, _ = bound.bound_ibp(self.wrapper.bounded_model, region, data, y, self.wrapper.n_classes)
            if getattr(self.wrapper, "loss_fusion_model", None) is None:
                return -lower, None
            losses = importlib.import_module("CTRAIN.train.certified.losses")
            self.wrapper.loss_fusion_model(data, y)
            asked: dict[str, Any] = {"n_classes": self.wrapper.n_classes, "criterion": None, "beta": 1.0}
            fused = losses.get_crown_ibp_loss(
                self.wrapper.loss_fusion_model, region, data, y, **asked, loss_fusion=True
            )
        return -lower, float(fused[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While it is entered, the peer's notes, bars and warnings go nowhere."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def contestants(wrappers: ModuleType, work: Work, method: str, ramp: float) -> dict[str, Theirs]:
    """What a method of ours is compared with; nothing, if CTRAIN has no such method."""
    name = method.partition(":")[0]
    if name not in WRAPPERS:
        return {}
    found = {"CTRAIN": Theirs(wrappers, work, method, ramp)}
    if name == "crown-ibp":
        found["CTRAIN, upper bounds only"] = Theirs(wrappers, work, method, ramp, upper=True)
    return found
