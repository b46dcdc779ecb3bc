"""Robustness to several perturbations at once: what training for one, the worst or the mean of them comes to.

`python -m benchmarks.training.several --data mnist --minutes 40 --out DIR` trains a network for each threat alone, for
the worst of all ("max"), their mean ("avg") and one drawn per batch, and with MSD for the balls; then attacks each
network under every threat: as Tramèr & Boneh (2019) do, accuracy under each and under the union of all.
Radii are those of the paper unless others are given. Stopped or killed anywhere, the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.attack import AttackResult, Campaign, summarise
from benchmarks.command import entry
from benchmarks.robust import SampleStore, data_hash
from benchmarks.threats import Allowed, Spatial
from benchmarks.threats import Moved as Around
from benchmarks.training.budget import Setup, folder_of, trained
from benchmarks.training.curves import keep
from certify.budget import Budget
from certify.frontends.load import TRAINED, load_network
from certify.memory import keep_freed_memory
from models.data import Data, load
from training.adversarial import Climb
from training.checkpoint import replace_file
from training.method import Method
from training.optimiser import Adam
from training.plan import Plan
from training.schedule import Linear
from training.several import MSD, Average, Mixture, Moved, Within, Worst
from training.standard import Standard

GROWTH = Linear(0.0, 1.0, 0.0, 0.3)
CLIMB = Climb(steps=5, size=0.4)


@dataclass(frozen=True)
class Limits:
    """How far each kind of perturbation may go: radii in the norms inf, 2 and 1, degrees and pixels."""

    inf: float = 0.3
    l2: float = 2.0
    l1: float = 10.0
    degrees: float = 30.0
    pixels: float = 3.0

    def balls(self) -> dict[str, Within]:
        """The balls, as training sees them."""
        radii = {"inf": self.inf, "2": self.l2, "1": self.l1}
        return {norm: Within(radius, float(norm), CLIMB) for norm, radius in radii.items()}

    def methods(self) -> dict[str, Method]:
        """Every method by name."""
        balls, moved = self.balls(), Moved(self.degrees, self.pixels)
        every = (*balls.values(), moved)
        alone = {f"only {norm}": Worst((ball,)) for norm, ball in balls.items()}
        joint: dict[str, Method] = {"max": Worst(every), "avg": Average(every), "drawn": Mixture(every)}
        return {"standard": Standard(), **alone, "only spatial": Worst((moved,)), **joint,
                "msd (balls)": MSD(tuple(balls.values()), CLIMB.steps)}  # fmt: skip

    def threats(self) -> list[Allowed]:
        """What the networks are attacked with."""
        balls = [Around(norm, f"{ball.epsilon:g}", ball.epsilon) for norm, ball in self.balls().items()]
        return [*balls, Spatial(self.degrees, self.pixels)]


@dataclass(frozen=True)
class Row:
    """A method's percentages of the first test images: right as they are, under each threat, under all of them."""

    method: str
    clean: float
    under: tuple[float, ...]
    union: float
    epochs: int
    cpu_minutes: float


def line(setup: Setup, limits: Limits, name: str, data: Data, samples: int, out: Path) -> Row:
    """A method trained, or its training continued, and attacked."""
    method = limits.methods()[name]
    folder = folder_of(out, setup.data, name)

    def plan_of(epochs: int) -> Plan:
        settings = {"batch": setup.batch, "optimiser": Adam(setup.rate), "seed": setup.seed, "growth": GROWTH}
        return Plan(method, limits.inf, math.inf, epochs, validation=0.01, **settings)

    made, share = trained(setup, plan_of, data, folder)
    if not (folder / TRAINED).is_file():
        command = _command(setup, limits, name, made.plan.epochs)
        if share < 1:
            command += f"  # on the first {share:.0%} of the training data"
        made.save(folder / TRAINED, data=data, data_name=setup.data, command=command)
    network = load_network(folder / TRAINED)
    span, threats = range(min(samples, len(data.y_test))), limits.threats()
    asked = {"network": network.graph.hash, "data": data_hash(data.x_test, data.y_test), "seed": setup.seed}
    store = SampleStore(folder / "attack", asked, AttackResult)
    campaign = Campaign(network, data.x_test, data.y_test, (0.0, 1.0), "quick", setup.seed)
    for found, _ in campaign.run(span, threats, Budget(), list(store.results)):
        store.append(found)
    *each, union = summarise([r for r in store.results if r.index in span])
    under = tuple(round(100 * row.standing / row.samples, 2) for row in each)
    shares = (round(100 * each[0].clean / each[0].samples, 2), under, round(100 * union.standing / union.samples, 2))
    return Row(name, *shares, len(made.history), round(sum(e.cpu_seconds for e in made.history) / 60, 2))


def _command(setup: Setup, limits: Limits, name: str, epochs: int) -> str:
    """What trains this network again."""
    words = {"data": setup.data, "net": setup.net, "methods": name, "epochs": epochs, "rate": setup.rate}
    words |= {"seed": setup.seed, **asdict(limits)}
    options = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
    return shlex.join(["python", "-m", "benchmarks.training.several", *options])


def markdown(rows: Sequence[Row], setup: Setup, limits: Limits, samples: int) -> str:
    """The table as text."""
    heads = [t.eps if t.radius is None else f"{t.kind}: {t.eps}" for t in limits.threats()]
    lines = [
        f"{setup.data}, network `{setup.net}`, {setup.length} for training, seed {setup.seed}; percentages "
        f"of the first {samples} test images that stand.",
        "",
        f"| trained for | clean | {' | '.join(heads)} | all | epochs | CPU minutes |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for r in rows:
        shares = " | ".join(f"{share:.1f}" for share in (r.clean, *r.under, r.union))
        lines.append(f"| {r.method} | {shares} | {r.epochs} | {r.cpu_minutes:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Train, attack, and print the table, which is also in table.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.several",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Limits()
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--net", default="cnn-small")
    parser.add_argument("--methods", default=",".join(usual.methods()), help="some of these")
    parser.add_argument("--minutes", type=float, default=40.0, help="of the processor, for each method's training")
    parser.add_argument("--epochs", type=int, default=0, help="of each method, instead of minutes")
    parser.add_argument("--samples", type=int, default=1000, help="the first test images")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("inf", "l2", "l1", "degrees", "pixels"):
        parser.add_argument(f"--{name}", type=float, default=getattr(usual, name))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    keep_freed_memory()  # as `certify train` does
    limits = Limits(given.inf, given.l2, given.l1, given.degrees, given.pixels)
    if unknown := [name for name in given.methods.split(",") if name not in limits.methods()]:
        parser.error(f"no method is called {unknown[0]!r}; there are {', '.join(limits.methods())}")
    setup = Setup(given.data, given.net, given.minutes, rate=given.rate, seed=given.seed, epochs=given.epochs)
    data, rows = load(given.data), []
    for name in given.methods.split(","):
        rows.append(line(setup, limits, name, data, given.samples, given.out))
        table = markdown(rows, setup, limits, given.samples)
        replace_file(given.out / "table.md", (table + "\n").encode())
        keep({row.method: folder_of(given.out, setup.data, row.method) for row in rows}, given.out)
    print(table)


if __name__ == "__main__":
    entry(main)
