"""`certify train`: a network trained to be robust, in a folder that `certify robust` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.picture import drawable, picture
from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.robust import NORMS
from certify.commands.terminal import ABORTED, Stop, as_json, emit, finite, say, writable_directory
from certify.errors import BadOption

if TYPE_CHECKING:
    from models.data import Data
    from models.zoo import Card
    from training.average import Averaging
    from training.loop import Trained
    from training.plan import Epoch, Plan
    from training.schedule import Smooth

CURVES = "curves.png"


def train(
    data: Annotated[str, typer.Option(help="digits, mnist, fashion-mnist or cifar10; its training part.")],
    method: Annotated[
        str,
        typer.Option(help="ibp, crown-ibp, sabr, mtl-ibp, adversarial, ...; settings as mtl-ibp:share=0.02."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the network; a run that was stopped goes on there.")],
    eps: Annotated[
        str | None, typer.Option(help="Radius to train for, as 0.1 or 2/255, where it plays a part.")
    ] = None,
    net: Annotated[
        str,
        typer.Option(help="mlp, cnn-small[-bn], cnn-medium[-bn], cnn-large, cnn-7, resnet, vit, lipschitz-mlp, ..."),
    ] = "cnn-small",
    norm: Annotated[str, typer.Option(help="Norm of the ball around each sample: inf, 2 or 1.")] = "inf",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 128,
    rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 5e-4,
    average: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the weights, which then is the result.")
    ] = None,
    swa: Annotated[
        float | None, typer.Option(help="The result is the mean of the weights from this part of the run on, as 0.75.")
    ] = None,
    ramp: Annotated[str, typer.Option(help="FIRST:LAST part of the run between which the radius grows.")] = "0.05:0.5",
    augment: Annotated[
        str | None, typer.Option(help="Random changes of the images: pixels=2,degrees=10,stretch=0.1,mirror=0.5.")
    ] = None,
    decay: Annotated[float, typer.Option(help="Decoupled weight decay of Adam.")] = 0.0,
    l1: Annotated[float, typer.Option(help="Weight of the sum of all absolute weights in the loss, as 1e-5.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of a step's gradient.")] = 10.0,
    replays: Annotated[int, typer.Option(min=1, help="Steps on each batch; `--method free` wants 4 to 10.")] = 1,
    validation: Annotated[float, typer.Option(help="Share of the training data kept aside for scores.")] = 0.02,
    patience: Annotated[
        int,
        typer.Option(min=0, help="Epochs at the full radius without a better bounded accuracy that end it; 0: none."),
    ] = 0,
    mixed: Annotated[bool, typer.Option("--mixed", help="Half precision, for methods that need no bounds.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network's forward pass.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, order and noise.")] = 0,
    as_object: options.Json = False,
) -> None:
    """Train a network to be robust, on bounds or on attacks.

    The folder then holds model.safetensors with its card, the table of epochs, and their curves; TensorBoard can read
    it if it is installed when training. Networks for methods that rest on intervals begin with weights for them (Shi
    et al. 2021). The accuracies are measured on samples kept aside, in floating point: they prove nothing; `certify
    robust DIR` does. The same command continues a run that was stopped or killed, to the same weights. `torchrun
    --nproc-per-node 2 -m certify train ...` shares every batch among processes. Exit status: 0 done, 2 bad input, 130
    stopped before the end.
    """
    from models.data import load
    from training import augment as changes
    from training.catalogue import parse, start_of
    from training.distributed import Team, joined
    from training.optimiser import Adam
    from training.plan import Plan
    from training.space import UNBOUND

    if norm not in NORMS:
        raise BadOption(f"--norm {norm}: there is no such norm", "use inf, 2 or 1")
    radii = options.parse_radii(eps) if eps is not None else [("0", 0.0)]
    if len(radii) != 1:
        raise BadOption(f"--eps {eps}: a network is trained for one radius", "write it like 0.1 or 2/255")
    if eps is None and method.partition(":")[0] not in UNBOUND:
        raise BadOption(f"--method {method}: a network is trained for a radius", "add --eps, as 0.1 or 2/255")
    eps = None if eps is None else radii[0][0]  # of several words for it, the first
    settings = {"start": start_of(method), "average": _averaging(average, swa), "patience": patience}
    settings |= {"validation": validation, "mixed": mixed, "compiled": "inductor" if compiled else "", "seed": seed}
    settings |= {"device": device, "clip": clip, "replays": replays, "growth": _growth(ramp), "l1": l1}
    settings |= {"augment": None if augment is None else changes.parse(augment)}
    plan = Plan(parse(method), radii[0][1], NORMS[norm], epochs, batch, Adam(rate, decay), **settings)
    options.check_device(device)
    samples = load(data)
    writable_directory(out)
    with joined():
        team = Team.here()
        first = team.rank == 0  # of the processes that torchrun started; the others keep silent
        trained = _run(net, samples, plan, out, as_object and first)
        if not first:
            return
    card = finish(trained, out, samples, data, net, eps, team.size)
    if not as_object:
        scores = f"; {_scores(trained.epoch)}, epoch {trained.epoch.epoch}" if validation else ""
        emit(f"trained: {out}, {100 * card.clean_accuracy:.2f} % of the test data right{scores}")
        emit(f"next: certify robust {out} --data {data} --norm {norm} --eps {eps or 0.01} --index 0:100")


def _run(net: str, samples: Data, plan: Plan, out: Path, as_object: bool) -> Trained:
    """Train to the end, with a bar; exits with status 130 if it is stopped before."""
    from models.nets import describe
    from training import loop
    from training.tradeoff import overfitted

    budget = Budget()
    history: list[Epoch] = []
    with Stop(budget), Bar(plan.epochs, "epochs") as bar:

        def tell(epoch: Epoch) -> None:
            history.append(epoch)
            if as_object:
                emit(as_json({k: finite(v) for k, v in asdict(epoch).items()}))

        def advance(progress: float) -> None:
            bar.advance(progress * plan.epochs, _scores(history[-1]) if history and plan.validation else "")

        description = describe(net, samples)
        trained = loop.train(
            description, samples, plan, out, each_epoch=tell, each_step=advance, stop=lambda: budget.cancelled
        )
    if not trained.finished:
        say(f"stopped in epoch {len(trained.history) + 1} of {plan.epochs}; the same command goes on from there")
        raise typer.Exit(ABORTED)
    if (lost := overfitted(trained.history)) is not None:
        say(f"robustness was lost in epoch {lost.epoch} (catastrophic overfitting): use adversarial, or a smaller step")
    return trained


def finish(
    trained: Trained, out: Path, samples: Data, data: str, net: str, eps: str | None, processes: int = 1
) -> Card:
    """Leave the network in the folder, with its card and its curves; `eps` is the radius as it was written."""
    from certify.frontends.load import TRAINED
    from training.command import command_of

    command = command_of(data, net, eps, trained.plan, processes)
    card = trained.save(out / TRAINED, data=samples, data_name=data, command=command)
    draw(trained.history, out / CURVES)
    return card


def _growth(ramp: str) -> Smooth:
    from training.schedule import Smooth

    first, _, last = ramp.partition(":")
    try:
        begin, end = float(first), float(last)
    except ValueError as error:
        raise BadOption(f"--ramp {ramp!r} is no part of a run", "write it like 0.05:0.5") from error
    if not 0 <= begin <= end <= 1:
        raise BadOption(f"--ramp {ramp}: a run goes from 0 to 1", "write it like 0.05:0.5")
    return Smooth(begin, end)


def _averaging(decay: float | None, first: float | None) -> Averaging | None:
    from training.average import EMA, SWA

    if decay is not None and first is not None:
        raise BadOption("--average and --swa are two ways to average", "choose one")
    if decay is not None:
        return EMA(decay)
    return None if first is None else SWA(first)


def _scores(epoch: Epoch) -> str:
    shares = f"clean {epoch.clean:.1%}, attacked {epoch.attacked:.1%}, bounded {epoch.bounded:.1%}"
    return f"{shares} of what was kept aside"


def draw(history: Sequence[Epoch], path: Path) -> None:
    """The accuracies and the loss by epoch, as a PNG; without matplotlib, a line that says so."""
    if not drawable(path):
        return
    with picture(path) as (_, axes):
        epochs = [e.epoch for e in history]
        for name in ("clean", "attacked", "bounded"):
            axes.plot(epochs, [100 * getattr(e, name) for e in history], marker=".", label=f"{name}, %")
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy on samples kept aside, %")
        axes.set_ylim(0, 102)
        losses = axes.twinx()
        losses.plot(epochs, [e.loss for e in history], color="grey", linestyle=":", label="loss")
        losses.set_ylabel("mean loss while training (dotted)")
        axes.legend(loc="center right")
