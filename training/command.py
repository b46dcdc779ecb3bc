"""Plans as the words of `certify train` that make them."""

from __future__ import annotations

import shlex
from fractions import Fraction

from certify.errors import BadOption
from training import augment
from training.augment import Augment
from training.average import EMA, SWA
from training.catalogue import start_of, written
from training.optimiser import Adam
from training.plan import SMOOTH, STEPS, Plan
from training.schedule import Smooth
from training.space import UNBOUND


def command_of(data: str, net: str, eps: str | None, plan: Plan, processes: int = 1) -> str:
    """What trains this on the command line; `eps` is the plan's radius as it was written, and so many processes trained
    together. Raises BadOption for a plan that the command line has no words for."""
    method = written(plan.method)
    if unsaid := _unsaid(plan, method, eps):
        settings = ", ".join(f"{name}={getattr(plan, name)}" for name in unsaid)
        raise BadOption(f"no command trains with {settings}", "use it from Python, by training.train")
    words = {"--data": data, "--net": net, "--method": method, "--eps": eps, "--norm": f"{plan.norm:g}"}
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
    program = ["torchrun", "--nproc-per-node", processes, "-m"] if processes > 1 else []
    options = [word for pair in words.items() if pair[1] is not None for word in pair]
    return shlex.join(map(str, [*program, "certify", "train", *options, *flags]))


def _unsaid(plan: Plan, method: str, eps: str | None) -> list[str]:
    """The settings of a plan that no words of the command line make."""
    growth, name = plan.growth, method.partition(":")[0]
    said = {
        "epsilon": plan.epsilon == float(Fraction(eps)) if eps else plan.epsilon == 0 and name in UNBOUND,
        "optimiser": type(plan.optimiser) is Adam,
        "growth": type(growth) is Smooth and growth == Smooth(growth.first, growth.last),
        "pace": plan.pace == STEPS,
        "start": plan.start == start_of(method),
        "augment": plan.augment is None or type(plan.augment) is Augment,
        "average": plan.average is None or type(plan.average) in (EMA, SWA),
        "compiled": plan.compiled in ("", "inductor"),
    }
    return [name for name, is_said in said.items() if not is_said]
