"""Time per epoch of certified training: ours and, in the same process by turns, that of CTRAIN over auto_LiRPA.

`python -m benchmarks.training.pace --data mnist --net cnn-small --eps 0.1 --out pace.md` times a few steps of every
method, at half the radius and at the full one, as the training loop makes them: bound, loss, backward pass, clipping,
optimiser. With `--peer FOLDER`, from which CTRAIN can be imported, the same batches go through its own loop, from the
same weights; rounds of steps alternate. What is said of an epoch is the median step times the steps of an epoch; the
ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.command import entry
from benchmarks.training import ctrain
from benchmarks.training.steps import Ours, Round, Work, alternate, middle
from certify.memory import keep_freed_memory
from models.data import load
from training import norms
from training.bounds import propagate
from training.certified import fused_loss, interval_margins
from training.checkpoint import replace_file
from training.region import Ball
from training.run import Spent

METHODS = "ibp;crown-ibp;sabr;mtl-ibp:steps=1"
RAMPS = (0.5, 1.0)  # shares of the radius: within the ramp, where all parts of a loss count, and behind it


@dataclass(frozen=True)
class Theirs:
    """A peer's seconds per epoch, of the processor and by the clock, and the ratios of ours to them."""

    who: str
    spent: Spent
    ratio: Spent


@dataclass(frozen=True)
class Row:
    """A method at one share of the radius: our seconds per epoch, and a peer's if there is one."""

    method: str
    ramp: float
    ours: Spent
    theirs: Theirs | None


def rows(work: Work, method: str, ramp: float, peers: dict[str, Round], times: int) -> list[Row]:
    """Ours beside each of the peers, or alone."""
    count = math.ceil(len(work.data.x_train) / work.batch)
    mine, *others = alternate([Ours(work, method, ramp).round, *peers.values()], times)

    def epoch(medians: list[Spent]) -> Spent:
        return Spent(*(count * seconds for seconds in middle(medians)))

    def beside(who: str, other: list[Spent]) -> Theirs:
        pairs = zip(mine, other, strict=True)
        return Theirs(who, epoch(other), middle([Spent(a.clock / b.clock, a.cpu / b.cpu) for a, b in pairs]))

    if not peers:
        return [Row(method, ramp, epoch(mine), None)]
    return [Row(method, ramp, epoch(mine), beside(who, o)) for who, o in zip(peers, others, strict=True)]


@torch.no_grad()
def bounds(work: Work, method: str, radius: float) -> tuple[Tensor, float]:
    """Of the network as it begins and the first batch: upper bounds (B, classes - 1) by intervals on each other logit
    minus that of y, and the mean fused loss by linear bounds."""
    network, (x, y) = work.network(method), next(work.batches())
    found = propagate(network, Ball(x, radius), norms.learn(network, x))
    margins = interval_margins(found, y)
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, y[:, None], False)
    return margins[others].view(len(y), -1), float(fused_loss(found, y).mean())


def agreement(work: Work, theirs: ctrain.Theirs, method: str, radius: float) -> str:
    """How far the peer's bounds are from ours, from the same weights: a note under the table."""
    (ours, fused), (other, loss) = bounds(work, method, radius), theirs.bounds(radius)
    apart = float((ours - other).abs().max() / ours.abs().max())
    said = f"radius {radius:g}: interval margins of the first batch differ by {apart:.1e} of the largest"
    return said + ("." if loss is None else f"; fused losses: {fused:.6g}, and its {loss:.6g}.")


def markdown(found: Sequence[Row], work: Work, notes: Sequence[str]) -> str:
    """The table as text."""
    cuda = torch.device(work.device).type == "cuda"
    where = torch.cuda.get_device_name(work.device) if cuda else f"threads: {torch.get_num_threads()}"
    lines = [
        f"{work.net}, {len(work.data.x_train)} samples of {'x'.join(map(str, work.data.shape))}, batch {work.batch}, "
        f"eps {work.epsilon:g}; torch {torch.__version__}, {where}, {platform.machine()}. Seconds per epoch, of the "
        "processor and by the clock; ratios are ours to the peer's.",
        "",
        "| method | radius | ours, CPU | ours, clock | peer | its CPU | its clock | ratio, CPU | ratio, clock |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        cells = [r.method, f"{r.ramp:g} eps", f"{r.ours.cpu:.1f}", f"{r.ours.clock:.1f}"]
        if r.theirs is None:
            cells += "-----"
        else:
            spent, ratio = r.theirs.spent, r.theirs.ratio
            cells += [r.theirs.who, f"{spent.cpu:.1f}", f"{spent.clock:.1f}", f"{ratio.cpu:.2f}", f"{ratio.clock:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def main() -> None:
    """Time the steps, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.pace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--net", default="cnn-small")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--methods", default=METHODS, help="names as for certify train, between semicolons")
    parser.add_argument("--peer", type=Path, help="a folder from which CTRAIN and auto_LiRPA can be imported")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu", help='"cpu", "cuda", ...')
    parser.add_argument("--out", type=Path, help="a file for the table")
    given = parser.parse_args()
    keep_freed_memory()  # as `certify train` does
    work = Work(load(given.data), given.net, given.eps, given.batch, given.steps, given.device)
    wrappers = None if given.peer is None else ctrain.find(given.peer)
    found: list[Row] = []
    notes: list[str] = []
    for method in given.methods.split(";"):
        for ramp in RAMPS:
            peers = {} if wrappers is None else ctrain.contestants(wrappers, work, method, ramp)
            said = [f"{who}, {agreement(work, theirs, method, ramp * given.eps)}" for who, theirs in peers.items()]
            notes += [note for note in said if note not in notes]
            found += rows(work, method, ramp, {who: theirs.round for who, theirs in peers.items()}, given.rounds)
            table = markdown(found, work, notes)
            if given.out is not None:
                replace_file(given.out, (table + "\n").encode())
    print(table)


if __name__ == "__main__":
    entry(main)
