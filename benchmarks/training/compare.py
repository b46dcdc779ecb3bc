"""Training methods side by side, each with the same minutes of the processor: clean, attacked, certified accuracy.

`python -m benchmarks.training.compare --data mnist --eps 0.1 --minutes 40 --out DIR` trains every method, certifies the
first test images as `certify robust` does, attacks them with an ensemble, and writes the table (table.md, table.csv).
Stopped or killed anywhere, the same command goes on: what is done lies in DIR, a folder for each method. How many
epochs the minutes are worth is measured once, before a method's training begins, and kept there too.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import shlex
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.training.cards import Questions, measured
from certify.errors import CertifyError
from certify.frontends.load import TRAINED
from models.data import Data, load
from models.nets import describe
from training.catalogue import parse, start_of
from training.checkpoint import replace_file
from training.evaluate import scores
from training.loop import train
from training.method import Moment
from training.optimiser import Adam
from training.plan import Epoch, Plan
from training.region import Ball

METHODS = "standard,adversarial,ibp,crown-ibp,sabr,mtl-ibp"
PACE = "pace.json"
TRIED = 5  # steps that are timed, the first of which does not count
GRID = 100  # a share of an epoch below which a budget is not divided


@dataclass(frozen=True)
class Trial:
    """What all methods share: the data, the ball, the network, the minutes of the processor that training may take,
    the first `samples` test images, and the seconds that a verdict on one of them may take."""

    data: str
    eps: str
    net: str
    minutes: float
    samples: int
    timeout: float
    batch: int
    rate: float
    seed: int
    attack: str

    @property
    def epsilon(self) -> float:
        return self.questions.epsilon

    @property
    def questions(self) -> Questions:
        """What is asked about every network."""
        return Questions(self.eps, self.samples, self.timeout, self.attack, self.seed)

    def plan(self, method: str, epochs: int) -> Plan:
        """How a method is trained."""
        settings = {"batch": self.batch, "optimiser": Adam(self.rate), "seed": self.seed, "start": start_of(method)}
        return Plan(parse(method), self.epsilon, epochs=epochs, validation=0.01, **settings)


@dataclass(frozen=True)
class Row:
    """A line of the table: percentages of the first test images, epochs and their seconds of the processor (median),
    the minutes of all, and how it was made."""

    method: str
    clean: float
    attacked: float
    certified: float
    epochs: int
    cpu_seconds_per_epoch: float
    cpu_minutes: float
    seed: int
    command: str


def pace(trial: Trial, method: str, data: Data) -> float:
    """Seconds of the processor that an epoch of a method takes, with its scores at the end: a few steps are timed."""
    plan = trial.plan(method, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = describe(trial.net, data).build().train()
        optimiser = plan.optimiser(network.parameters())
        x, y = (torch.from_numpy(part[: plan.batch]) for part in (data.x_train, data.y_train))
        memory: dict[str, torch.Tensor] = {}
        times = []
        for _ in range(TRIED):
            begun = time.process_time()
            optimiser.zero_grad()
            plan.method(network, Ball(x, plan.epsilon / 2), y, Moment(0.5, 0.5, memory)).backward()
            optimiser.step()
            times.append(time.process_time() - begun)
        kept = round(len(data.x_train) * plan.validation)
        begun = time.process_time()
        scores(network, x[:64], y[:64], plan.epsilon)
        scoring = (time.process_time() - begun) * kept / len(x[:64])
    return median(times[1:]) * math.ceil((len(data.x_train) - kept) / plan.batch) + scoring


def shortened(data: Data, share: float) -> Data:
    """The first part of the training data, where a budget is not worth an epoch of all of them."""
    count = max(1, round(len(data.x_train) * share))
    return replace(data, x_train=data.x_train[:count], y_train=data.y_train[:count])


def settled(trial: Trial, method: str, data: Data, folder: Path) -> tuple[int, float]:
    """Epochs, and the share of the training data, that the budget is worth; decided once and kept in the folder."""
    path = folder / PACE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        epochs = trial.minutes * 60 / pace(trial, method, data)
        share = 1.0 if epochs >= 1 else max(1, math.floor(GRID * epochs)) / GRID
        decided = {"trial": asdict(trial), "method": method, "epochs": max(1, math.floor(epochs)), "share": share}
        replace_file(path, (json.dumps(decided, indent=2) + "\n").encode())
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["trial"] != asdict(trial):
        raise CertifyError(f"{folder} belongs to other settings: {kept['trial']}", "choose another --out")
    return kept["epochs"], kept["share"]


def trained(trial: Trial, method: str, data: Data, folder: Path) -> tuple[tuple[Epoch, ...], str]:
    """Trains, or goes on, until the folder holds the network; the epochs, and the command that does the same."""
    epochs, share = settled(trial, method, data, folder)

    def tell(epoch: Epoch) -> None:
        print(f"{method}, epoch {epoch.epoch} of {epochs}: clean {epoch.clean:.1%}, attacked {epoch.attacked:.1%}, "
              f"bounded {epoch.bounded:.1%}, {epoch.cpu_seconds:.0f} s", file=sys.stderr)  # fmt: skip

    result = train(
        describe(trial.net, data), shortened(data, share), trial.plan(method, epochs), folder, each_epoch=tell
    )
    command = (
        f"certify train --data {trial.data} --net {trial.net} --method {method} --eps {trial.eps} --epochs {epochs} "
        f"--batch {trial.batch} --rate {trial.rate:g} --validation 0.01 --seed {trial.seed}"
    )
    command += f"  # of the first {share:.0%} of the training data" if share < 1 else ""
    if not (folder / TRAINED).is_file():
        result.save(folder / TRAINED, data=data, data_name=trial.data, command=command)
    return result.history, command


def folder_of(out: Path, trial: Trial, method: str) -> Path:
    """Where a method's run lies."""
    name = f"{trial.data}-{trial.eps}-{method}"
    return out / "".join(c if c.isalnum() or c in ".-" else "-" for c in name)


def compare(trial: Trial, methods: list[str], out: Path) -> list[Row]:
    """A row for each method; the tables are written anew after each."""
    data, rows = load(trial.data), []
    for method in methods:
        folder = folder_of(out, trial, method)
        history, command = trained(trial, method, data, folder)
        found = measured(folder / TRAINED, data, trial.data, trial.questions, folder)
        spent = [e.cpu_seconds for e in history]
        shares = (round(100 * share, 2) for share in (found.clean, found.attacked, found.certified))
        times = (len(history), round(median(spent), 2), round(sum(spent) / 60, 2))
        rows.append(Row(method, *shares, *times, trial.seed, command))
        write(rows, trial, out)
    return rows


def write(rows: list[Row], trial: Trial, out: Path) -> None:
    """table.md and table.csv in `out`."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    replace_file(out / "table.csv", table.getvalue().encode())
    replace_file(out / "table.md", (markdown(rows, trial) + "\n").encode())


def markdown(rows: list[Row], trial: Trial) -> str:
    """The table as text."""
    lines = [
        f"{trial.data}, L-infinity radius {trial.eps}, network `{trial.net}`, at most {trial.minutes:g} minutes of the "
        f"processor for training, seed {trial.seed}; the first {trial.samples} test images, {trial.timeout:g} s each.",
        "",
        "| method | clean % | attacked % | certified % | epochs | CPU s per epoch | CPU minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = f"{r.clean:.1f} | {r.attacked:.1f} | {r.certified:.1f}"
        lines.append(f"| {r.method} | {shares} | {r.epochs} | {r.cpu_seconds_per_epoch:.1f} | {r.cpu_minutes:.1f} |")
    return "\n".join([*lines, "", *(f"`{r.command}`  " for r in rows)])


def main() -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--eps", default="0.1", help="radius in L-infinity, as 0.1 or 2/255")
    parser.add_argument("--methods", default=METHODS, help="names and settings as `certify train --method`, with ;")
    parser.add_argument("--net", default="cnn-small")
    parser.add_argument("--minutes", type=float, default=40.0, help="of the processor, for each method's training")
    parser.add_argument("--samples", type=int, default=1000, help="the first test images")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for the verdict on an image")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attack", default="quick", help="as `certify attack --attack`")
    parser.add_argument("--out", type=Path, required=True)
    given = vars(parser.parse_args())
    methods, out = given.pop("methods"), given.pop("out")
    print(f"python {shlex.join(['-m', 'benchmarks.training.compare', *sys.argv[1:]])}", file=sys.stderr)
    trial = Trial(**given)
    rows = compare(trial, methods.split(";" if ";" in methods else ","), out)
    print(markdown(rows, trial))


if __name__ == "__main__":
    main()
