"""Plans as the words of `certify train` that make them."""

from __future__ import annotations

from training import augment
from training.average import EMA, SWA
from training.catalogue import written
from training.plan import SMOOTH, Plan


def command_of(data: str, net: str, eps: str | None, plan: Plan) -> str:
    """What trains this on the command line; `eps` is the plan's radius as it was written."""
    words = {"--data": data, "--net": net, "--method": written(plan.method), "--eps": eps, "--norm": f"{plan.norm:g}"}
    words |= {"--epochs": plan.epochs, "--batch": plan.batch, "--rate": plan.optimiser.rate}
    words |= {"--average": plan.average.decay if isinstance(plan.average, EMA) else None}
    words |= {"--swa": plan.average.first if isinstance(plan.average, SWA) else None}
    words |= {"--ramp": f"{plan.growth.first}:{plan.growth.last}" if plan.growth != SMOOTH else None}
    words |= {"--augment": augment.written(plan.augment) if plan.augment else None}
    words |= {"--decay": plan.optimiser.decay or None, "--l1": plan.l1 or None}
    words |= {"--clip": plan.clip, "--replays": plan.replays, "--patience": plan.patience}
    words |= {"--validation": plan.validation, "--seed": plan.seed}
    words |= {"--device": plan.device if plan.device != "cpu" else None}
    flags = [name for name, given in (("--mixed", plan.mixed), ("--compile", plan.compiled)) if given]
    return " ".join(["certify train", *(f"{k} {v}" for k, v in words.items() if v is not None), *flags])
