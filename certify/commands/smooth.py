"""`certify smooth`: certificates by randomized smoothing for the samples of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import percent, show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from benchmarks.smooth import Attacked, Job, SmoothResult
    from certify.smoothing.noise import Noise
    from certify.smoothing.plans import Plan

IDEAL = (
    "note: the draws are floating point numbers of a pseudorandom generator, taken for draws of the real distribution"
)


def smooth(
    net: options.Network,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or FILE.npz with arrays x and y; test part.")
    ],
    sigma: Annotated[float | None, typer.Option(help="Standard deviation of Gaussian noise (L2 radii).")] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="Other noise: uniform:WIDTH, laplace:SCALE (L1); flips:ADD,DELETE, categories:FLIP,COUNT, "
            "ablation:KEEP (L0); bands:WIDTH, blocks:WIDTH (patches); translation:S, brightness:S, contrast:S."
        ),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(help="The data are whole multiples of this, as 1/255: draw rounded noise, free of float error."),
    ] = None,
    n: Annotated[int, typer.Option(help="Draws that bound the probability (most draws, with --target).")] = 100_000,
    n0: Annotated[int, typer.Option(help="Draws that choose the class.")] = 100,
    alpha: Annotated[float, typer.Option(help="Probability of error of each sample's claim.")] = 0.001,
    target: Annotated[
        str | None, typer.Option(help="Radius, or several: stop as soon as they are certified, or hopeless.")
    ] = None,
    two_sided: Annotated[bool, typer.Option("--two-sided", help="Bound the other classes too, all at once.")] = False,
    steps: Annotated[
        int, typer.Option("--attack", min=0, help="Steps of an attack on the smoothed classifier; 0 for none.")
    ] = 0,
    radii: Annotated[str | None, typer.Option(help="Radii of the table, with commas.")] = None,
    index: Annotated[str | None, typer.Option(help="Only samples A:B of the data, counted from 0.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Draws at once; part of what the seed means.")] = 1000,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder for evidence, a table and a plot; a run resumes there.")
    ] = None,
    as_object: options.Json = False,
) -> None:
    """Certify the smoothed classifier around every sample of a data set, with a probability of error.

    The smoothed classifier answers what the network answers most often under noise. Exit status: 0 all done, 2 bad
    input, 130 stopped before the end.
    """
    from benchmarks.robust import SampleStore
    from benchmarks.smooth import Partial, SmoothResult, draw, write_tsv
    from models.data import load

    samples = load(data)
    span = options.parse_span(index, len(samples.y_test))
    drawn = noise_of(sigma, noise, step, samples.shape)
    plan = plan_of(drawn, alpha, n0, n, target, two_sided)
    job, settings = job_of(net, data, plan, seed, batch, device)
    store = None if out is None else SampleStore(out, settings, SmoothResult)
    partial = None if out is None else Partial(out / "partial.json")
    results = [] if store is None else [r for r in store.results if r.index in span]
    done = {r.index for r in results}
    budget = Budget()
    with Stop(budget), Bar(len(span), "samples") as bar:
        for result in job.run([i for i in span if i not in done], budget, settings, partial):
            results.append(result)
            if store is not None:
                store.append(result)
            if as_object:
                emit(as_json(asdict(result)))
            bar.advance(len(results), f"{sum(r.correct for r in results)} certified")
    attacked: list[Attacked] = []
    if results:
        results.sort(key=lambda r: r.index)
        table = _radii(results, radii)
        if steps and not budget.cancelled:
            attacked = _attack(job, steps, [r.index for r in results], table, budget, out, settings)
        _show(results, attacked, plan, table, stderr=as_object)
    if drawn.ideal:
        say(f"{IDEAL}" + ("; --step draws rounded noise, which is free of that" if drawn.kind == "gaussian" else ""))
    if results and out is not None:
        write_tsv(results, out / "results.tsv")
        draw(results, attacked, drawn.norm, out / "accuracy.png")
        say(f"evidence, table and plot: {out}")
    if len(results) < len(span):
        say(f"stopped: {len(results)} of {len(span)} samples are done" + (f"; {out} keeps them" if out else ""))
        raise typer.Exit(ABORTED)


def job_of(net: str, data: str, plan: Plan, seed: int, batch: int, device: str) -> tuple[Job, dict[str, object]]:
    """The run and its settings. Raises CertifyError where network, data or device cannot be used."""
    from benchmarks.robust import data_hash
    from benchmarks.smooth import Job
    from certify.frontends.load import load_network
    from certify.graph.evaluate import Network
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
    base = Network(network.graph, device=device)
    smoothed = Smoothed(base, plan.noise, network.graph.output_size, seed, batch, device)
    job = Job(smoothed, plan, samples.x_test, samples.y_test)
    hashes = {"network": network.graph.hash, "data": data_hash(samples.x_test, samples.y_test)}
    return job, job.settings(net=net, data_name=data, **hashes)


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
    grid = None if step is None else _number(step)
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
        return known[name](*(_number(word) for word in values.split(",")))
    except TypeError as error:
        raise BadOption(f"--noise {text}: that is not how many parameters it has", "see --help") from error


def _number(word: str) -> float:
    try:
        return float(Fraction(word))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadOption(f"{word!r} is not a number", "write it like 0.1 or 1/255") from error


def _attack(
    job: Job, steps: int, indices: list[int], radii: list[float], budget: Budget, out: Path | None, settings: dict
) -> list[Attacked]:
    """What the attack does to the samples; nothing if it was stopped. Results in `out` are not asked again."""
    from benchmarks.robust import SampleStore
    from benchmarks.smooth import Attacked, attack
    from certify.smoothing.attack import Attack

    asked = {**settings, "kind": "attack", "steps": steps, "radii": radii}
    store = None if out is None else SampleStore(out / "attack", asked, Attacked)
    found = [] if store is None else [a for a in store.results if a.index in set(indices)]
    done = {a.index for a in found}
    with Stop(budget), Bar(len(indices), "attacked") as bar:
        for one in attack(job, Attack(steps), [i for i in indices if i not in done], radii, budget):
            found.append(one)
            if store is not None:
                store.append(one)
            bar.advance(len(found), f"{sum(a.broken is not None for a in found)} broken")
    return found if len(found) == len(indices) else []


def _radii(results: Sequence[SmoothResult], radii: str | None) -> list[float]:
    """The radii of the table: those that the user names, or else steps up to the largest."""
    from benchmarks.smooth import default_radii

    return default_radii(results) if radii is None else [_number(word) for word in radii.split(",")]


def _show(
    results: Sequence[SmoothResult], attacked: Sequence[Attacked], plan: Plan, radii: list[float], *, stderr: bool
) -> None:
    from benchmarks.smooth import CONFIDENCE, table

    share = f"{100 * CONFIDENCE:.0f} %"
    columns = [f"radius ({plan.noise.norm})", "samples", "certified", f"at least ({share})", f"at once ({share})"]
    cells = [[f"{r.radius:.4g}", r.samples, *(percent(c, r.samples) for c in (r.certified, r.sure, r.together))]
             for r in table(results, plan, radii)]  # fmt: skip
    if attacked:
        columns.append("not broken")
        for row, radius in zip(cells, radii, strict=True):
            row.append(percent(sum(a.broken is None or a.broken > radius for a in attacked), len(attacked)))
    show_table(columns, cells, stderr=stderr)
    draws = sum(sum(r.selection) + sum(r.counts) for r in results)
    say(f"{draws / len(results):.0f} draws per sample, {sum(r.time_s for r in results):.1f} s")
