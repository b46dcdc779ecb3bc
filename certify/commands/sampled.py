"""What the options of `certify smooth` mean: the noise, the plan of draws, and the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from certify.commands import options
from certify.errors import BadOption

if TYPE_CHECKING:
    from benchmarks.shares import Share
    from benchmarks.smooth import Job
    from certify.smoothing.noise import Noise
    from certify.smoothing.plans import Plan


def job_of(
    net: str, data: str, plan: Plan, seed: int, batch: int, device: str, precision: str
) -> tuple[Job, dict[str, object]]:
    """The run and its settings. Raises CertifyError where network, data, device or precision cannot be used."""
    from benchmarks.robust import data_hash
    from benchmarks.smooth import Job
    from certify.frontends.load import load_network
    from certify.smoothing.precision import base_classifier
    from certify.smoothing.smoothed import Smoothed
    from models.data import load

    options.check_device(device)
    samples = load(data)
    network = load_network(net)
    if samples.x_test[0].size != network.graph.input_size:
        what = (
            f"the data have {samples.x_test[0].size} values per sample, the network {network.graph.input_size} inputs"
        )
        raise BadOption(what, "check that network and data belong together")
    base = base_classifier(network.graph, precision, device)
    smoothed = Smoothed(base, plan.noise, network.graph.output_size, seed, batch, device)
    job = Job(smoothed, plan, samples.x_test, samples.y_test)
    hashes = {"network": network.graph.hash, "data": data_hash(samples.x_test, samples.y_test)}
    return job, job.settings(net=net, data_name=data, precision=precision, **hashes)


def plan_of(noise: Noise, alpha: float, n0: int, n: int, target: str | None, two_sided: bool) -> Plan:
    """The plan that the options describe. Raises BadOption."""
    from certify.smoothing.discrete import Positions
    from certify.smoothing.plans import Adaptive, Exhaustive, Fixed, TwoSided

    if target is not None and two_sided:
        raise BadOption("--two-sided bounds need a fixed number of draws", "leave out --target or --two-sided")
    if isinstance(noise, Positions):
        return Exhaustive(noise, alpha)
    if target is not None:
        return Adaptive(noise, alpha, n0, n, tuple(radius for _, radius in options.parse_radii(target, "--target")))
    return (TwoSided if two_sided else Fixed)(noise, alpha, n0, n)


def noise_of(sigma: float | None, text: str | None, step: str | None, shape: tuple[int, ...]) -> Noise:
    """The noise for inputs of this shape that the options describe. Raises BadOption."""
    from certify.smoothing import discrete, noise, semantic

    if (sigma is None) == (text is None):
        raise BadOption("say which noise: --sigma, or --noise", "give one of them, as --sigma 0.25")
    grid = None if step is None else number(step)
    size, pixels = math.prod(shape), math.prod(shape[-2:])
    if sigma is not None:
        return noise.Gaussian(sigma) if grid is None else noise.RoundedGaussian(sigma, grid, size)
    known: dict[str, Callable[..., Noise]] = {
        "uniform": noise.Uniform,
        "laplace": noise.Laplace,
        "flips": discrete.Flips,
        "categories": lambda flip, count: discrete.Categories(flip, int(count), 1.0 if grid is None else grid),
        "ablation": lambda keep: discrete.Ablation(pixels, int(keep)),
        "bands": lambda width: discrete.Bands(shape[-1], int(width)),
        "blocks": lambda width: discrete.Blocks(pixels, int(width)),
        "translation": semantic.Translation,
        "brightness": semantic.Brightness,
        "contrast": semantic.Contrast,
    }
    name, _, values = text.partition(":")
    if name not in known:
        raise BadOption(f"--noise {text}: there is no such noise", options.did_you_mean(name, known))
    try:
        return known[name](*(number(word) for word in values.split(",")))
    except TypeError as error:
        raise BadOption(f"--noise {text}: that is not how many parameters it has", "see --help") from error


def share_of(text: str) -> Share:
    """The share that `2/5` names. Raises BadOption."""
    from benchmarks.shares import Share

    words = text.split("/")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise BadOption(f"--share {text!r} is not a share", "write it like 2/5")
    return Share(*map(int, words))


def number(word: str) -> float:
    """The number or fraction. Raises BadOption."""
    try:
        return float(Fraction(word))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadOption(f"{word!r} is not a number", "write it like 0.1 or 1/255") from error
