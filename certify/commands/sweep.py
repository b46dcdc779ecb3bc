"""`certify sweep`: networks trained in several ways, and those of them that nothing else surpasses."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.picture import drawable, picture
from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.robust import NORMS
from certify.commands.tables import show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say, writable_directory
from certify.commands.train import finish
from certify.errors import BadOption

if TYPE_CHECKING:
    from models.data import Data
    from models.zoo import Description, Measured
    from training.loop import Trained
    from training.plan import Plan
    from training.sweep import Measure, Point, Trainer

TABLE, PICTURE = "points.csv", "front.png"


@dataclass(frozen=True)
class Row:
    """A network of a sweep: how it was trained; its shares of the samples kept aside, `certified` at the radius of the
    sweep, `by` bounds or verdicts; whether no other surpasses it; its shares of the first test images, if they were
    asked for; its folder; and why its training failed, if it did."""

    method: str
    trained_for: float
    rate: float
    clean: float
    certified: float
    by: str
    front: bool
    test_clean: float | None
    test_attacked: float | None
    test_certified: float | None
    folder: str
    failed: str


def sweep(
    data: Annotated[str, typer.Option(help="digits, mnist, fashion-mnist or cifar10.")],
    methods: Annotated[
        str, typer.Option(help="As of `certify train`, with commas between; with ; if they have settings.")
    ],
    eps: Annotated[str, typer.Option(help="Radius at which networks are compared, as 0.1 or 2/255.")],
    out: Annotated[Path, typer.Option(help="Folder for the networks; a sweep that was stopped goes on there.")],
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="So many networks, with settings that Optuna proposes; else one for each method."),
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Compare by verdicts on so many of the samples kept aside; 0: by linear bounds.")
    ] = 0,
    certify: Annotated[
        int,
        typer.Option(
            min=0, help="In the end, verify the front's networks on so many first test images, and attack them."
        ),
    ] = 0,
    net: Annotated[
        str,
        typer.Option(help="mlp, cnn-small[-bn], cnn-medium[-bn], cnn-large, cnn-7, resnet, vit, lipschitz-mlp, ..."),
    ] = "cnn-small",
    norm: Annotated[str, typer.Option(help="Norm of the ball around each sample: inf, 2 or 1.")] = "inf",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data, for each network.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 128,
    rate: Annotated[float, typer.Option(help="Learning rate of Adam, or the middle of those proposed.")] = 1e-3,
    validation: Annotated[float, typer.Option(help="Share of the training data on which networks are compared.")] = 0.1,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, order and noise, and of the proposals.")] = 0,
    as_object: options.Json = False,
) -> None:
    """Train networks in several ways, and show which of them no other surpasses in both accuracies.

    With --trials, Optuna (in certify-nn[sweep]) proposes for each network, after each method had its turn, the method,
    what weighs its parts, the radius (half to twice --eps) and the learning rate, after what the ones before came to.
    They are compared on training samples kept aside, at the radius --eps, by linear bounds in floating point, which
    prove nothing, or (--verify) by verdicts; --certify verifies those on the front on test images, as `certify robust`
    does. Each has a folder as `certify train` leaves it; beside them lie the table of all and the picture of the front.
    Exit status: 0 done, 2 bad input, 130 stopped before the end.
    """
    from benchmarks.store import hold
    from models.data import load
    from models.nets import describe
    from training.catalogue import parse, start_of
    from training.optimiser import Adam
    from training.plan import Plan
    from training.search import TPE, search
    from training.space import Methods
    from training.sweep import front
    from training.sweep import sweep as train_each

    names = tuple(dict.fromkeys(word.strip() for word in methods.split(";" if ";" in methods else ",")))
    _check(norm, validation, device)
    radius = options.parse_radius(eps, "--eps")
    shared = {"validation": validation, "device": device, "seed": seed}
    plans = [Plan(parse(n), radius, NORMS[norm], epochs, batch, Adam(rate), start=start_of(n), **shared) for n in names]
    samples, budget = load(data), Budget()
    measure = _measure(radius, NORMS[norm], verify, round(len(samples.x_train) * validation))
    description, wanted = describe(net, samples), trials or len(plans)
    with hold(writable_directory(out)), Stop(budget):
        with Bar(wanted, "networks") as bar:
            trainer = _trainer(data, net, out, budget, bar)
            if trials is None:
                points = train_each(description, samples, plans, out, measure, trainer)
            else:
                space = Methods(plans[0], names)
                each_once = [{"method": name} for name in names]
                points = search(description, samples, space, trials, out, measure, trainer, TPE(seed=seed), each_once)
        complete = len(points) == wanted
        points = list({point.folder: point for point in points}.values())  # a plan may be proposed twice
        best = [point.folder for point in front(points)]
        tested = _tested(best, samples, data, (eps, norm, certify), budget) if complete and certify else {}
    ordered = sorted(points, key=lambda p: (-p.clean, -p.certified))
    by = "verdicts" if verify else "bounds"
    rows = [_row(point, by, point.folder in best, tested.get(point.folder)) for point in ordered]
    _show(rows, out, as_object)
    if not complete or (certify and len(tested) < len(best)):
        done = f"{len(tested)} of {len(best)} verified" if complete else f"{len(points)} of {wanted} trained"
        say(f"stopped: {done}; the same command goes on from there")
        raise typer.Exit(ABORTED)
    if best and not certify and not as_object:
        emit(f"next: certify robust {best[0]} --data {data} --norm {norm} --eps {eps} --index 0:100")


def _check(norm: str, validation: float, device: str) -> None:
    if norm not in NORMS:
        raise BadOption(f"--norm {norm}: there is no such norm", "use inf, 2 or 1")
    if not 0 < validation < 1:
        raise BadOption(f"--validation {validation}: networks are compared on this share", "use one such as 0.1")
    options.check_device(device)


def _measure(radius: float, norm: float, verify: int, kept: int) -> Measure:
    """What compares networks on the `kept` samples, or verifies the first of them."""
    from benchmarks.training.verified import Verified
    from training.sweep import Bounded

    if verify > kept:
        raise BadOption(f"--verify {verify}: {kept} samples are kept aside", "verify fewer, or raise --validation")
    return Verified(radius, norm, verify) if verify else Bounded(radius, norm)


def _trainer(data: str, net: str, out: Path, budget: Budget, bar: Bar) -> Trainer:
    """Training that moves the bar, stops with the budget, and leaves folders as `certify train` does."""
    from training import loop
    from training.catalogue import written
    from training.sweep import RESULT

    def train(description: Description, samples: Data, plan: Plan, folder: Path) -> Trained:
        before = sum(1 for _ in out.glob(f"*/{RESULT}"))

        def advance(progress: float) -> None:
            bar.advance(before + progress, written(plan.method))

        trained = loop.train(
            description, samples, plan, folder, each_step=advance, stop=lambda: budget.cancelled
        )  # fmt: skip
        if trained.finished:
            finish(trained, folder, samples, data, net, str(plan.epsilon))
        return trained

    return train


def _tested(
    folders: Sequence[Path], samples: Data, data: str, asked: tuple[str, str, int], budget: Budget
) -> dict[Path, Measured]:
    """Of the networks in the folders, until the budget is cancelled, what is verified and attacked: `asked` are the
    radius, the norm and the number of first test images. It is written into their cards, too."""
    from benchmarks.training.cards import Questions, measured
    from certify.frontends.load import TRAINED

    eps, norm, count = asked
    found = {}
    with Bar(len(folders), "verified") as bar:
        for folder in folders:
            bar.advance(len(found), folder.name)
            place = folder / f"tested-{norm}-{eps.replace('/', '-')}"
            answers = measured(folder / TRAINED, samples, data, Questions(eps, count, norm=norm), place, budget)
            if answers is None:
                break
            found[folder] = answers
    return found


def _row(point: Point, by: str, front: bool, tested: Measured | None) -> Row:
    from training.catalogue import written

    plan = point.plan
    shares = (None, None, None) if tested is None else (tested.clean, tested.attacked, tested.certified)
    trained = (written(plan.method), plan.epsilon, plan.optimiser.rate)
    return Row(*trained, point.clean, point.certified, by, front, *shares, point.folder.name, point.failed)


def _show(rows: Sequence[Row], out: Path, as_object: bool) -> None:
    from training.checkpoint import replace_file

    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    replace_file(out / TABLE, table.getvalue().encode())
    draw(rows, out / PICTURE)
    if as_object:
        for row in rows:
            emit(as_json(asdict(row)))
        return
    share = "{:.1%}".format
    tested = any(row.test_certified is not None for row in rows)
    columns = ["method", "trained for", "rate", "clean", "certified", "front", "folder"]
    if tested:
        columns += ["test: clean", "test: attacked", "test: certified"]
    lines = []
    for row in rows:
        shares = (share(row.clean), share(row.certified)) if not row.failed else ("failed", "-")
        line = [row.method, f"{row.trained_for:.4g}", f"{row.rate:.4g}", *shares, "*" if row.front else "", row.folder]
        if tested:
            values = (row.test_clean, row.test_attacked, row.test_certified)
            line += ["" if value is None else share(value) for value in values]
        lines.append(line)
    show_table(columns, lines)
    if rows:
        emit(f"clean, certified: of samples kept aside, by {rows[0].by}")
    emit(f"table: {out / TABLE}, picture: {out / PICTURE}")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Every network by its accuracies, a colour for each method, and a line along the front, as a PNG; without
    matplotlib, a line that says so."""
    if not drawable(path):
        return
    with picture(path) as (_, axes):
        trained = [row for row in rows if not row.failed]
        for name in sorted({row.method.partition(":")[0] for row in trained}):
            own = [row for row in trained if row.method.partition(":")[0] == name]
            axes.scatter([100 * row.clean for row in own], [100 * row.certified for row in own], label=name)
        front = sorted((100 * row.clean, 100 * row.certified) for row in trained if row.front)
        # Between two networks there is no third: the front is a staircase.
        axes.step([x for x, _ in front], [y for _, y in front], where="pre", color="grey", zorder=0, label="front")
        axes.set_xlabel("clean accuracy on samples kept aside, %")
        axes.set_ylabel(f"certified accuracy there, by {' or '.join({row.by for row in rows})}, %")
        axes.legend()
