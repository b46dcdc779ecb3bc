"""Training methods side by side, each with the same minutes of the processor: clean, attacked, certified accuracy.

`python -m benchmarks.training.compare --data mnist --eps 0.1 --minutes 40 --out DIR` trains every method, certifies the
first test images as `certify robust` does, attacks them with an ensemble, and writes the table (table.md, table.csv)
and the curves (curves.png, curves.csv).
Stopped or killed anywhere, the same command goes on: what is done lies in DIR, a folder for each method. How many
epochs the minutes are worth is measured once, before a method's training begins, and kept there too.
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from statistics import median

from benchmarks.command import entry
from benchmarks.training.budget import Setup, folder_of, trained
from benchmarks.training.cards import Questions, measured
from benchmarks.training.curves import keep
from certify.frontends.load import TRAINED
from certify.memory import keep_freed_memory
from models.data import Data, load
from training import augment
from training.average import SWA
from training.catalogue import parse, start_of
from training.checkpoint import replace_file
from training.command import command_of
from training.optimiser import Adam
from training.plan import Plan

METHODS = "standard,adversarial,ibp,crown-ibp,sabr,mtl-ibp"
VALIDATION = 0.01


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


def plan(setup: Setup, radius: float, method: str, epochs: int) -> Plan:
    """How a method is trained for a radius."""
    settings = {"batch": setup.batch, "seed": setup.seed, "start": start_of(method), "l1": setup.l1}
    settings |= {"optimiser": Adam(setup.rate, setup.decay), "average": None if setup.swa is None else SWA(setup.swa)}
    settings |= {"augment": augment.parse(setup.augment) if setup.augment else None}
    return Plan(parse(method), radius, epochs=epochs, validation=VALIDATION, **settings)


def line(setup: Setup, questions: Questions, trained_for: str, method: str, data: Data, out: Path) -> Row:
    """A method trained, or its training continued, for a radius, and measured at that of the questions."""
    folder = folder_of(out, setup.data, trained_for, method)
    made, share = trained(setup, lambda epochs: plan(setup, float(Fraction(trained_for)), method, epochs), data, folder)
    command = command_of(setup.data, setup.net, trained_for, made.plan)
    if share < 1:
        command += f"  # on the first {share:.0%} of the training data"
    if not (folder / TRAINED).is_file():
        made.save(folder / TRAINED, data=data, data_name=setup.data, command=command)
    found = measured(folder / TRAINED, data, setup.data, questions, folder)
    shares = (round(100 * part, 2) for part in (found.clean, found.attacked, found.certified))
    spent = [e.cpu_seconds for e in made.history]
    times = (len(spent), round(median(spent), 2), round(sum(spent) / 60, 2))
    return Row(method, *shares, *times, setup.seed, command)


def compare(setup: Setup, questions: Questions, trained_for: str, methods: list[str], out: Path) -> list[Row]:
    """A row for each method; the tables are written anew after each. Raises CertifyError as `measured`."""
    data, rows = load(setup.data), []
    for method in methods:
        rows.append(line(setup, questions, trained_for, method, data, out))
        table = io.StringIO()
        writer = csv.DictWriter(table, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        replace_file(out / "table.csv", table.getvalue().encode())
        replace_file(out / "table.md", (markdown(rows, setup, questions) + "\n").encode())
        keep({row.method: folder_of(out, setup.data, trained_for, row.method) for row in rows}, out)
    return rows


def markdown(rows: list[Row], setup: Setup, questions: Questions) -> str:
    """The table as text."""
    asked = f"the first {questions.samples} test images, {questions.timeout:g} s for each verdict"
    lines = [
        f"{setup.data}, L-infinity radius {questions.eps}, network `{setup.net}`, {setup.length} for training, seed "
        f"{setup.seed}; {asked}, attack `{questions.attack}`.",
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
    parser.add_argument("--train-eps", help="radius that networks are trained for, where it is another one")
    parser.add_argument("--methods", default=METHODS, help="as `certify train --method`; with ; if they have settings")
    parser.add_argument("--net", default="cnn-small")
    parser.add_argument("--minutes", type=float, default=40.0, help="of the processor, for each method's training")
    parser.add_argument("--epochs", type=int, default=0, help="of each method, instead of minutes")
    parser.add_argument("--samples", type=int, default=1000, help="the first test images")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for the verdict on an image")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--augment", default="", help="as `certify train --augment`")
    parser.add_argument("--l1", type=float, default=0.0, help="as `certify train --l1`")
    parser.add_argument("--decay", type=float, default=0.0, help="as `certify train --decay`")
    parser.add_argument("--swa", type=float, help="as `certify train --swa`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attack", default="quick", help="as `certify attack --attack`")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    keep_freed_memory()  # as `certify train` does
    print(f"python {shlex.join(['-m', 'benchmarks.training.compare', *sys.argv[1:]])}", file=sys.stderr)
    lengths = (given.minutes, given.batch, given.rate, given.seed, given.epochs)
    setup = Setup(given.data, given.net, *lengths, given.augment, given.l1, given.decay, given.swa)
    questions = Questions(given.eps, given.samples, given.timeout, given.attack, given.seed)
    methods = [m for m in given.methods.split(";" if ";" in given.methods else ",") if m]
    rows = compare(setup, questions, given.train_eps or given.eps, methods, given.out)
    print(markdown(rows, setup, questions))


if __name__ == "__main__":
    entry(main)
