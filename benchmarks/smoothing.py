"""What randomized smoothing promises, measured: errors at the boundary, draws that adapting saves, and its speed.

`python -m benchmarks.smoothing [--json]`, about a minute on one core.

Coverage: 10,000 runs each where the true probability is exactly what is about to be claimed, so that every claim is an
error; they must be no more than alpha allows, by a binomial test. Draws: adaptive against fixed, the same samples,
on probabilities as classifiers have them, and on the digits. Speed: draws per second, as the command counts them,
beside the bare network's, of one core and of the computing thread alone; in single and in half precision.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.command import entry
from certify.check.tails import binomial_tail
from certify.frontends.load import load_network
from certify.memory import keep_freed_memory
from certify.smoothing.noise import Gaussian
from certify.smoothing.plans import Adaptive, Fixed
from certify.smoothing.precision import PRECISIONS, base_classifier
from certify.smoothing.smoothed import Smoothed
from certify.smoothing.statistics import BETS, binomial_lower, log_wealth
from certify.smoothing.streams import PREDICTION
from models import data, zoo
from models.cnn import cnn

Array = np.ndarray
RUNS = 10_000


@dataclass(frozen=True)
class Coverage:
    """Of `runs` at the boundary p, so many made a wrong claim; `p_value` is of the test that alpha is kept."""

    bound: str
    p: float
    alpha: float
    runs: int
    errors: int
    p_value: float


@dataclass(frozen=True)
class Saving:
    """Mean draws and certified share of the same samples: fixed n, and adapting with up to twice as many."""

    samples: str
    radius: float
    fixed_certified: float
    adaptive_certified: float
    fixed_draws: float
    adaptive_draws: float


def fixed_errors(runs: int, n: int, p: float, alpha: float, seed: int) -> int:
    """How many of the runs of n draws of probability p claim that it is above p, by Clopper-Pearson."""
    enough = _least(n, lambda k: Fraction(binomial_tail(k, n, Fraction(p))) <= Fraction(alpha))
    return int((np.random.default_rng(seed).binomial(n, p, runs) >= enough).sum())


def _least(n: int, holds: Callable[[int], bool]) -> int:
    """The least count up to n for which `holds`, n + 1 if there is none; it holds of larger ones, too."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def adaptive_errors(runs: int, n: int, p: float, alpha: float, seed: int) -> int:
    """The same of runs that stop when the wealth suffices, at the ends of the blocks of `Adaptive`."""
    rich, _ = adapt(np.full(runs, p), p, n, alpha, np.random.default_rng(seed), give_up=False)
    return int(rich.sum())


def adapt(
    p: Array, level: float, n: int, alpha: float, rng: np.random.Generator, *, give_up: bool = True
) -> tuple[Array, Array]:
    """`Adaptive`, simulated: which of the probabilities p (N,) it claims to be above `level`, and its draws."""
    bets, goal = np.array(BETS), -np.log(alpha)
    successes, drawn = np.zeros(len(p), np.int64), np.zeros(len(p), np.int64)
    claimed, live = np.zeros(len(p), bool), np.arange(len(p))
    for size in Adaptive(Gaussian(1.0), alpha, n=n).blocks(1000):
        successes[live] += rng.binomial(size, p[live])
        drawn[live] += size
        k, m = successes[live], drawn[live]
        claimed[live] = log_wealth(k, m, level, bets) >= goal
        over = claimed[live]
        if give_up:
            over = over | (log_wealth(m - k, m, 1 - level, bets) >= goal)
            over |= log_wealth(k + n - m, np.full_like(m, n), level, bets) < goal
        live = live[~over]
        if not len(live):
            break
    return claimed, drawn


def coverage(runs: int = RUNS) -> list[Coverage]:
    """Both bounds, at two probabilities and two alphas."""
    rows = []
    for p in (0.6, 0.98):
        for alpha in (0.001, 0.05):
            found = {
                "clopper-pearson": fixed_errors(runs, 10_000, p, alpha, 3),
                "betting": adaptive_errors(runs, 50_000, p, alpha, 4),
            }
            for name, errors in found.items():
                value = float(binomtest(errors, runs, alpha, alternative="greater").pvalue)
                rows.append(Coverage(name, p, alpha, runs, errors, value))
    return rows


def savings(samples: int = 2000, n: int = 100_000, alpha: float = 0.001) -> list[Saving]:
    """Simulated: probabilities of classifiers that are nearly always sure, mostly, or often not."""
    rng, noise, rows = np.random.default_rng(5), Gaussian(0.5), []
    for name, shape in (("sure", (8, 0.5)), ("mostly sure", (3, 0.7)), ("unsure", (2, 1))):
        p = rng.beta(*shape, samples)
        for radius in (0.25, 0.5, 1.0):
            level = noise.needed(radius)
            enough = _least(n, lambda k, level=level: binomial_lower(min(k, n), n, alpha) >= level)
            claimed, drawn = adapt(p, level, 2 * n, alpha, rng)
            fixed = float((rng.binomial(n, p) >= enough).mean())
            rows.append(Saving(name, radius, fixed, float(claimed.mean()), n, float(drawn.mean())))
    return rows


def on_digits(samples: int = 40, n: int = 10_000, radius: float = 0.25) -> Saving:
    """Measured, on a small trained model, with draws of its own."""
    digits, network, noise = data.load("digits"), zoo.load("digits-mlp-adv"), Gaussian(0.25)
    run, held, draws = Smoothed(network, noise, 10), [0, 0], [0, 0]
    for i in range(samples):
        x, label = torch.from_numpy(digits.x_test[i]), int(digits.y_test[i])
        for j, plan in enumerate((Fixed(noise, n=n), Adaptive(noise, n=2 * n, targets=(radius,)))):
            proof = run.certify(x, i, plan)
            held[j] += proof.predicted == label and proof.radius >= radius
            draws[j] += sum(proof.counts)
    return Saving("digits-mlp-adv", radius, *(h / samples for h in held), *(d / samples for d in draws))


@dataclass(frozen=True)
class Speed:
    """Draws per second, medians: of the bare network, and of counting what the command counts with it."""

    channels: tuple[int, ...]
    precision: str
    bare: float
    smoothed: float


def throughput(channels: tuple[int, ...], precision: str = "float32", batch: int = 128, repeats: int = 15) -> Speed:
    """Of a convolutional network for inputs of 3 x 32 x 32, alternating. Noise costs the same for all networks, so
    that it weighs most in the fastest ones."""
    torch.manual_seed(0)
    network = cnn((3, 32, 32), 10, channels, 64).eval().requires_grad_(False)
    x, noisy = torch.rand(3, 32, 32), torch.rand(batch, 3, 32, 32)
    base = base_classifier(load_network(network, noisy[:1]).graph, precision, "cpu")
    run = Smoothed(base, Gaussian(0.25), 10, batch=batch)
    network, noisy = network.to(PRECISIONS[precision]), noisy.to(PRECISIONS[precision])

    def bare() -> None:
        with torch.inference_mode():
            network(noisy)

    def smoothed() -> None:
        run.count(x, (0, PREDICTION), [(0, batch)])

    seconds: dict[str, list[float]] = {"bare": [], "smoothed": []}
    for work in (bare, smoothed):
        work()
    for _ in range(repeats):
        seconds["bare"].append(_seconds(bare))
        seconds["smoothed"].append(_seconds(smoothed))
    return Speed(channels, precision, *(batch / float(np.median(times)) for times in seconds.values()))


def _seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def main() -> None:
    """Measure all, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoothing", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    keep_freed_memory()  # as the program does
    rows, saved = coverage(), [*savings(), on_digits()]
    speeds = [throughput(channels, kind) for channels in ((16, 32), (32, 64)) for kind in ("float32", "bfloat16")]
    if as_json:
        tables = {"coverage": rows, "draws": saved, "speed": speeds}
        found = {name: [asdict(r) for r in table] for name, table in tables.items()}
        json.dump(found, sys.stdout)
        return
    for r in rows:
        print(f"{r.bound:15} p {r.p:<5} alpha {r.alpha:<6} {r.errors:4} errors of {r.runs}, p-value {r.p_value:.3g}")
    for r in saved:
        ratio = r.fixed_draws / r.adaptive_draws
        shares = f"certified {r.fixed_certified:.4f} fixed, {r.adaptive_certified:.4f} adaptive"
        print(f"{r.samples:15} radius {r.radius:<5} {shares}; {r.adaptive_draws:8.0f} draws, {ratio:.1f} times fewer")
    for r in speeds:
        ratio = r.smoothed / r.bare
        rates = f"{r.bare:.0f} bare and {r.smoothed:.0f} smoothed inputs per second"
        print(f"channels {r.channels}, {r.precision}: {rates}: {ratio:.3f}")


if __name__ == "__main__":
    entry(main)
