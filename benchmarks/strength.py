"""How strong and how fast attacks are beside those of other libraries, on the same nets and images.

python -m benchmarks.strength --data mnist --net adversarial --norm inf --out DIR [--eps 0.3] [--images 100] [--ways ..]
python -m benchmarks.strength --out DIR --report

Nets are small CNNs (two convolutions of 16 and 32 channels, a dense layer of 100), trained normally or on attacks in
the norm of the comparison; one that DIR/models does not hold is trained first, in minutes. Images come in batches; each
is attacked by every way in turn, the order reversed from batch to batch, on one thread. `quick` and `standard` are our
ensembles, `torchattacks` is its AutoAttack as it ships (10 steps), `torchattacks-100` its attacks with the paper's 100;
`pgd`, `foolbox-pgd` and `art-pgd` take the same number of steps of the same size from a random point. All are judged
alike: an image stands if the model is right about it and about the point that the attack returned, or that point lies
outside the ball. A run that was stopped goes on; --report shows all comparisons that DIR holds.

The nets' weights require gradients, as torch's do if nobody says otherwise: a library that does not ask for the
inputs' gradient alone then pays for the weights' too. --frozen spares it that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.catalogue import by_name
from attacks.classifier import Classifier, cross_entropy, misclassified
from attacks.gradient import Constant, Descent
from attacks.regions import ball
from benchmarks import peers
from benchmarks.command import entry
from benchmarks.robust import SampleStore, stored
from models import nets, zoo
from models.data import Data, load
from training.adversarial import Adversarial, Climb
from training.loop import train
from training.optimiser import Adam
from training.plan import Plan
from training.standard import Standard

RADII = {
    "mnist": {"inf": "0.3", "2": "1.5"},
    "fashion-mnist": {"inf": "0.1", "2": "1.0"},
    "cifar10": {"inf": "8/255", "2": "0.5"},
}
"""What nets are trained against, and attacked with if nothing else is said."""

NETS = ("standard", "adversarial")
SAMPLES = 15_000
"""Of the training part, so that a net takes a minute of processor time."""

STEPS, SIZE = 40, 0.0625
"""Of PGD: 2.5 radii are gone in all."""

SLACK = 1e-5
"""By which part of the radius others' points may lie outside and count nevertheless, as float32 rounds."""

Way = Callable[[nn.Module, Tensor, Tensor, float, float], Tensor]
"""(model, x (N, *shape), labels (N,), norm, radius) -> the points (N, *shape) it comes to."""


def _ensemble(name: str) -> Way:
    def way(model: nn.Module, x: Tensor, y: Tensor, norm: float, eps: float) -> Tensor:
        return by_name(name, x.shape[1:])(Classifier(model, x.shape[1:]), ball(x, eps, norm), y).x.view_as(x)

    return way


def _pgd(model: nn.Module, x: Tensor, y: Tensor, norm: float, eps: float) -> Tensor:
    region = ball(x, eps, norm)
    objective = misclassified(Classifier(model, x.shape[1:]), y, cross_entropy)
    descent = Descent(steps=STEPS, step=Constant(SIZE))
    return descent(objective, region, region.sample(torch.Generator().manual_seed(0))).x.view_as(x)


def _peer(pgd: Callable[..., Tensor]) -> Way:
    return lambda *asked: pgd(*asked, STEPS, SIZE)


WAYS: dict[str, Way] = {
    "quick": _ensemble("quick"),
    "standard": _ensemble("autoattack"),
    "torchattacks": peers.torchattacks_standard,
    "torchattacks-100": peers.torchattacks_paper,
    "pgd": _pgd,
    "foolbox-pgd": _peer(peers.foolbox_pgd),
    "art-pgd": _peer(peers.art_pgd),
}
AGAINST = (
    ("quick", "torchattacks"),
    ("quick", "torchattacks-100"),
    ("standard", "torchattacks-100"),
    ("pgd", "foolbox-pgd"),
    ("pgd", "art-pgd"),
)
"""Ours and theirs."""


class Counted(nn.Module):
    """A network that counts how many inputs it was asked about, and for how many of them a gradient was taken."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.queries, self.gradients = network, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.queries += len(x)
        y = self.network(x)
        if y.requires_grad:
            y.register_hook(self._count)
        return y

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


@dataclass(frozen=True)
class Attacked:
    """A batch of images, from `first` on, attacked one way: how many there are and are right as they are, the indices
    of those that stand; seconds on the clock and of the processor; inputs asked about, and gradients."""

    first: int
    way: str
    images: int
    clean: int
    standing: list[int]
    time_s: float
    processor_s: float
    queries: int
    gradients: int


def network_file(data_name: str, net: str, norm: str, data: Data, folder: Path) -> Path:
    """The saved net; trained first if it is not there."""
    path = folder / "models" / f"{data_name}-{net}{'' if net == 'standard' else '-' + norm}.safetensors"
    if not path.exists():
        data = replace(data, x_train=data.x_train[:SAMPLES], y_train=data.y_train[:SAMPLES])
        common = {"batch": 128, "optimiser": Adam(2e-3), "epochs": 6}
        plan = Plan(Standard(), **common)
        if net == "adversarial":
            radius = number(RADII[data_name][norm])
            plan = Plan(Adversarial(Climb(steps=5, size=0.5)), epsilon=radius, norm=float(norm), **common)
        path.parent.mkdir(parents=True, exist_ok=True)
        trained = train(nets.describe("cnn-small", data), data, plan, each_epoch=lambda epoch: print(epoch, flush=True))
        trained.save(path, data=data, data_name=data_name, command="python -m benchmarks.strength")
    return path


@dataclass(frozen=True, eq=False)
class Contest:
    """A net that ways to attack are compared on, in balls of this norm and radius."""

    network: nn.Module
    norm: float
    eps: float

    def __call__(self, name: str, first: int, x: Tensor, y: Tensor) -> Attacked:
        """Images x (N, *shape) of classes y (N,), attacked one way."""
        with torch.no_grad():
            right = self.network(x).argmax(1) == y  # which warms the processor up, too
        model = Counted(self.network)
        torch.manual_seed(0)
        began, processor = time.perf_counter(), time.process_time()
        found = WAYS[name](model, x, y, self.norm, self.eps)
        seconds = round(time.perf_counter() - began, 4), round(time.process_time() - processor, 4)
        stands = right & self._stands(found.detach(), x, y)
        standing = [first + i for i in stands.nonzero()[:, 0].tolist()]
        return Attacked(first, name, len(x), int(right.sum()), standing, *seconds, model.queries, model.gradients)

    def _stands(self, found: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(N,): whether a point is no success: classified right, or outside."""
        inside = ball(x, self.eps * (1 + SLACK) + 1e-7, self.norm).contains(found.flatten(1))
        with torch.no_grad():
            return (self.network(found).argmax(1) == y) | ~inside


def campaign(
    contest: Contest, data: Data, images: int, batch: int, ways: Sequence[str], store: SampleStore[Attacked]
) -> Iterator[Attacked]:
    """The first images by every way, batch by batch, but for what the store has."""
    done = {(row.first, row.way) for row in store.results}
    for number_, first in enumerate(range(0, images, batch)):
        here = slice(first, min(first + batch, images))
        x, y = torch.from_numpy(data.x_test[here]), torch.from_numpy(data.y_test[here])
        for way in ways if number_ % 2 == 0 else reversed(ways):
            if (first, way) not in done:
                row = contest(way, first, x, y)
                store.append(row)
                yield row


def report(title: str, rows: Sequence[Attacked]) -> str:
    """A line for every way, and one for each of ours with each of theirs on the batches that both saw."""
    lines = [f"{title:36}  images  clean  robust  seconds  processor  queries  gradients"]
    by_way = {way: {r.first: r for r in rows if r.way == way} for way in WAYS}
    for way, found in by_way.items():
        if found:
            images, clean, queries, gradients = (
                sum(getattr(r, k) for r in found.values()) for k in ("images", "clean", "queries", "gradients")
            )
            robust = sum(len(r.standing) for r in found.values())
            spent = [sum(getattr(r, k) for r in found.values()) for k in ("time_s", "processor_s")]
            lines.append(
                f"  {way:34}  {images:6}  {clean / images:5.3f}  {robust / images:6.3f}  {spent[0]:7.2f}  "
                f"{spent[1]:9.2f}  {queries / images:7.0f}  {gradients / images:9.0f}"
            )
    for ours, theirs in AGAINST:
        both = by_way[ours].keys() & by_way[theirs].keys()
        if both:
            left, right = ({i for first in both for i in by_way[w][first].standing} for w in (ours, theirs))
            ratios = [
                sum(getattr(by_way[ours][b], k) for b in both) / sum(getattr(by_way[theirs][b], k) for b in both)
                for k in ("time_s", "processor_s")
            ]
            lines.append(
                f"  {ours} beside {theirs}: stand {len(left)} beside {len(right)}, only theirs fooled "
                f"{sorted(left - right) or 'none'}, only ours {len(right - left)}; time {ratios[0]:.2f}, "
                f"processor {ratios[1]:.2f}"
            )
    return "\n".join(lines)


def number(text: str) -> float:
    """A radius, as 0.1 or 8/255."""
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", choices=tuple(RADII))
    parser.add_argument("--net", default="adversarial", choices=NETS)
    parser.add_argument("--norm", default="inf", choices=("inf", "2"))
    parser.add_argument("--eps", help="radius, as 0.3 or 8/255; else what nets are trained against")
    parser.add_argument("--images", type=int, default=100, help="the first of the test images")
    parser.add_argument("--batch", type=int, default=100, help="images that are attacked together")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}; with commas")
    parser.add_argument("--frozen", action="store_true", help="weights that require no gradient")
    parser.add_argument("--out", type=Path, required=True, help="folder of nets and results; a run goes on there")
    parser.add_argument("--report", action="store_true", help="only say what is there")
    options = parser.parse_args()
    if options.report:
        for path in sorted(options.out.glob("*/run.json")):
            print(report(path.parent.name, stored(path.parent, Attacked)), end="\n\n")
        return
    ways = options.ways.split(",")
    if strange := [w for w in ways if w not in WAYS]:
        parser.error(f"there is no way {strange[0]!r}; there are {', '.join(WAYS)}")
    torch.set_num_threads(1)
    data, eps = load(options.data), options.eps or RADII[options.data][options.norm]
    path = network_file(options.data, options.net, options.norm, data, options.out)
    settings = {"norm": options.norm, "eps": eps, "batch": options.batch, "net": sha256(path.read_bytes()).hexdigest()}
    settings["frozen"] = options.frozen
    title = f"{path.stem}_norm-{options.norm}_eps-{eps.replace('/', '-over-')}{'_frozen' * options.frozen}"
    store = SampleStore(options.out / title, settings, Attacked)
    network = zoo.load_file(path).requires_grad_(not options.frozen)
    contest = Contest(network, float(options.norm), number(eps))
    for row in campaign(contest, data, options.images, options.batch, ways, store):
        print(replace(row, standing=row.standing[:5]), flush=True)
    print(report(title, store.results))


if __name__ == "__main__":
    entry(main)
