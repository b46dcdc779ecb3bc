"""Certified accuracy by radius of base classifiers trained with Gaussian noise and with SmoothAdv, paired.

`python -m benchmarks.smooth_training OUT --data fashion-mnist --sigma 0.5` trains both networks (the same architecture,
epochs, batches and seed), smooths each with the noise it was trained with (Cohen et al. 2019), certifies the same test
images, and writes OUT/report.txt: accuracy by radius, how many images only one of the two certifies, how many draws the
adaptive scheme makes where CERTIFY makes --n, and the curves of the training. Stopped or killed, the same command goes
on. OUT/NAME/fixed and so on are folders of `certify smooth`, which `certify check --recount` replays.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.command import entry
from benchmarks.robust import SampleStore, data_hash
from benchmarks.smooth import Job, SmoothResult, table
from certify.budget import Budget
from certify.frontends.load import load_network
from certify.smoothing.noise import Gaussian as Noise
from certify.smoothing.plans import Adaptive, Fixed, Plan
from certify.smoothing.precision import base_classifier
from certify.smoothing.smoothed import Smoothed
from models.data import Data, load
from models.nets import describe
from training import loop
from training.inner import Ascent
from training.method import Method
from training.optimiser import Adam
from training.plan import Epoch
from training.plan import Plan as Training
from training.smoothed import SmoothAdv
from training.standard import Gaussian

BATCH = 500
"""Draws that go through a network at once."""


@dataclass(frozen=True)
class Question:
    """What is compared.

    sigma    of the noise in training and in certification
    epsilon  L2 radius of SmoothAdv's attack, of `steps` steps on `copies` noisy copies
    radii    of the table, ascending; `target` is the one that the adaptive scheme is also asked for alone
    samples  test images, evenly spaced
    """

    data: str
    net: str
    sigma: float
    epsilon: float
    steps: int
    copies: int
    epochs: int
    rate: float
    samples: int
    n: int
    alpha: float
    radii: tuple[float, ...]
    target: float
    seed: int

    def methods(self) -> dict[str, tuple[Method, float]]:
        """Name -> the loss, and the radius of the balls it looks at."""
        adversarial = SmoothAdv(self.sigma, self.copies, Ascent(self.steps, 2 / self.steps))
        return {"gaussian": (Gaussian(self.sigma), 0.0), "smooth-adv": (adversarial, self.epsilon)}

    def plans(self) -> dict[str, Plan]:
        """Name -> how many draws are made: CERTIFY's n, and adapting to all radii, or to one, with up to 2 n."""
        noise = Noise(self.sigma)
        adaptive = Adaptive(noise, self.alpha, 100, 2 * self.n, tuple(r for r in self.radii if r > 0))
        one = replace(adaptive, targets=(self.target,))
        return {"fixed": Fixed(noise, self.alpha, 100, self.n), "adaptive": adaptive, "one-radius": one}


def with_images(data: Data, archive: Path) -> Data:
    """The data with the images INDEX_LABEL.jpg of a zip file as their training part, in the order of their numbers."""
    from PIL import Image

    with zipfile.ZipFile(archive) as kept:
        names = sorted(
            (n for n in kept.namelist() if n.endswith(".jpg")), key=lambda n: int(Path(n).stem.split("_")[0])
        )
        pixels = [np.asarray(Image.open(io.BytesIO(kept.read(name)))) for name in names]
    x = np.stack(pixels).transpose(0, 3, 1, 2) / np.float32(255)
    y = np.array([int(Path(name).stem.split("_")[1]) for name in names], np.int64)
    return replace(data, x_train=np.ascontiguousarray(x, np.float32), y_train=y)


def trained(folder: Path, question: Question, data: Data, name: str) -> tuple[Path, tuple[Epoch, ...]]:
    """The file with the network of this name, and how its training went; goes on from what the folder holds."""
    method, epsilon = question.methods()[name]
    plan = Training(
        method,
        epsilon,
        norm=2.0,
        epochs=question.epochs,
        optimiser=Adam(question.rate),
        validation=0.001,  # what is kept aside is scored after each epoch, which nothing here looks at
        seed=question.seed,
    )

    def tell(epoch: Epoch) -> None:
        say(f"{name}: epoch {epoch.epoch} of {plan.epochs}, loss {epoch.loss:.4f}, {epoch.cpu_seconds:.0f} s")

    found = loop.train(describe(question.net, data), data, plan, folder, each_epoch=tell)
    path = folder / "model.safetensors"
    if not path.exists():
        found.save(path, data=data, data_name=question.data, command="python -m benchmarks.smooth_training")
    return path, found.history


def certified(folder: Path, question: Question, data: Data, model: Path, plan: Plan) -> list[SmoothResult]:
    """Results on the test images, which the folder keeps one by one."""
    graph = load_network(model).graph
    smoothed = Smoothed(base_classifier(graph, "float32", "cpu"), plan.noise, graph.output_size, question.seed, BATCH)
    job = Job(smoothed, plan, data.x_test, data.y_test)
    hashes = {"network": graph.hash, "data": data_hash(data.x_test, data.y_test)}
    settings = job.settings(net=str(model), data_name=question.data, precision="float32", **hashes)
    store = SampleStore(folder, settings, SmoothResult)
    done = {r.index for r in store.results}
    wanted = np.linspace(0, len(data.x_test), question.samples, endpoint=False).astype(int).tolist()
    for result in job.run([i for i in wanted if i not in done], Budget(), settings):
        store.append(result)
        if len(store.results) % 20 == 0:
            say(f"{folder}: {len(store.results)} of {question.samples}")
    return sorted((r for r in store.results if r.index in set(wanted)), key=lambda r: r.index)


Found = dict[str, dict[str, list[SmoothResult]]]
"""Training method -> plan -> results of the same images."""


def accuracy(found: Found, question: Question) -> Iterator[str]:
    """Certified accuracy by radius, one row for each method and plan; the mean radius counts 0 where it is wrong."""
    yield "| training | draws | " + " | ".join(f"{r:g}" for r in question.radii) + " | mean radius |"
    yield "|---" * (len(question.radii) + 3) + "|"
    for name, plans in found.items():
        for kind, results in plans.items():
            rows = table(results, question.plans()[kind], question.radii)
            shares = " | ".join(f"{100 * row.certified / row.samples:.1f}" for row in rows)
            mean = np.mean([r.radius if r.correct else 0.0 for r in results])
            yield f"| {name} | {kind} | {shares} | {mean:.3f} |"


def pairs(found: Found, question: Question) -> Iterator[str]:
    """Of the same images, with CERTIFY's n: those that only one training certifies; p of a two-sided sign test."""
    yield "| radius | only gaussian | only smooth-adv | both | p |"
    yield "|---|---|---|---|---|"
    for radius in question.radii:
        one, other = (_held(found[name]["fixed"], radius) for name in ("gaussian", "smooth-adv"))
        first, second, both = len(one - other), len(other - one), len(one & other)
        p = binomtest(first, first + second).pvalue if first + second else 1.0
        yield f"| {radius:g} | {first} | {second} | {both} | {p:.2g} |"


def _held(results: Sequence[SmoothResult], radius: float) -> set[int]:
    return {r.index for r in results if r.correct and r.radius >= radius}


def draws(found: Found, question: Question) -> Iterator[str]:
    """Mean draws per image, and what is certified with them at the radius that one plan was asked for alone."""
    yield f"| training | draws | mean per image | median | seconds per image | certified at {question.target:g} |"
    yield "|---|---|---|---|---|---|"
    for name, plans in found.items():
        for kind, results in plans.items():
            made = [sum(r.selection) + sum(r.counts) for r in results]
            held = len(_held(results, question.target)) / len(results)
            seconds = np.mean([r.time_s for r in results])
            numbers = f"{np.mean(made):.0f} | {np.median(made):.0f} | {seconds:.3f} | {100 * held:.1f}"
            yield f"| {name} | {kind} | {numbers} |"


def report(found: Found, curves: dict[str, tuple[Epoch, ...]], question: Question, command: str) -> str:
    """All of it as text."""
    lines = [f"# {command}", f"# {question}", f"# torch {torch.__version__}, one thread", ""]
    for title, rows in (
        ("Certified accuracy, %, by L2 radius", accuracy),
        ("The same images", pairs),
        ("Draws", draws),
    ):
        lines += [title, "", *rows(found, question), ""]
    lines += ["Training: loss by epoch, and seconds of the processor", ""]
    for name, history in curves.items():
        losses = " ".join(f"{e.loss:.3f}" for e in history)
        lines.append(f"{name}: {losses}; {sum(e.cpu_seconds for e in history):.0f} s")
    return "\n".join(lines) + "\n"


def run(folder: Path, question: Question, data: Data, say_so: Callable[[str], None]) -> str:
    """Train, certify and report, into the folder."""
    curves, found = {}, Found()
    for name in question.methods():
        model, curves[name] = trained(folder / name, question, data, name)
        found[name] = {}
        for kind, plan in question.plans().items():
            found[name][kind] = certified(folder / name / kind, question, data, model, plan)
            say_so(f"{name}, {kind}: done")
    command = "python -m benchmarks.smooth_training " + " ".join(sys.argv[1:])
    text = report(found, curves, question, command)
    (folder / "report.txt").write_text(text, encoding="utf-8")
    return text


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--images", type=Path, help="zip of images INDEX_LABEL.jpg to train on instead")
    parser.add_argument("--net", default="cnn-small-bn")
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--epsilon", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--alpha", type=float, default=0.001)
    parser.add_argument("--radii", type=json.loads, default=[0, 0.25, 0.5, 0.75, 1, 1.25, 1.5], help="as [0,0.25]")
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    out, images = given.pop("out"), given.pop("images")
    question = Question(**{**given, "radii": tuple(map(float, given["radii"]))})
    torch.set_num_threads(1)
    data = load(question.data)
    try:
        print(run(out, question, data if images is None else with_images(data, images), say))
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on from what {out} holds")
        sys.exit(130)


if __name__ == "__main__":
    entry(main)
