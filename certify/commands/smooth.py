"""`certify smooth`: certificates by randomized smoothing for the samples of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.accuracy import keep_accuracy, show_accuracy, table_radii
from certify.commands.progress import Bar
from certify.commands.sampled import job_of, noise_of, plan_of, share_of
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from benchmarks.shares import Share
    from benchmarks.smooth import Attacked, Job

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
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16: what is certified is the network computing in it.")
    ] = "float32",
    share: Annotated[
        str | None, typer.Option(help="K/M: make share K of M of each sample's draws; certify merge joins the shares.")
    ] = None,
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
    from benchmarks.smooth import Partial, SmoothResult
    from models.data import load

    samples = load(data)
    span = options.parse_span(index, len(samples.y_test))
    drawn = noise_of(sigma, noise, step, samples.shape)
    plan = plan_of(drawn, alpha, n0, n, target, two_sided)
    job, settings = job_of(net, data, plan, seed, batch, device, precision)
    if share is not None:
        _share(job, share_of(share), span, settings, out)
        return
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
        table = table_radii(results, radii)
        if steps and not budget.cancelled:
            attacked = _attack(job, steps, [r.index for r in results], table, budget, out, settings)
        show_accuracy(results, attacked, plan, table, stderr=as_object)
    if drawn.ideal:
        say(f"{IDEAL}" + ("; --step draws rounded noise, which is free of that" if drawn.kind == "gaussian" else ""))
    if results and out is not None:
        keep_accuracy(results, attacked, plan, table, out)
    if len(results) < len(span):
        say(f"stopped: {len(results)} of {len(span)} samples are done" + (f"; {out} keeps them" if out else ""))
        raise typer.Exit(ABORTED)


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


def _share(job: Job, share: Share, span: Sequence[int], settings: dict[str, object], out: Path | None) -> None:
    """Make a share of the draws, which proves nothing until all are joined."""
    from benchmarks.robust import SampleStore
    from benchmarks.shares import ShareResult, run_share
    from benchmarks.smooth import Partial

    if out is None:
        raise BadOption("a share of the draws is for joining", "name a folder for it with --out")
    asked = share.settings(settings)
    store = SampleStore(out, asked, ShareResult)
    finished = {r.index for r in store.results}
    left, budget = [i for i in span if i not in finished], Budget()
    with Stop(budget), Bar(len(span), "samples") as bar:
        for done, result in enumerate(run_share(job, share, left, budget, asked, Partial(out / "partial.json")), 1):
            store.append(result)
            bar.advance(len(span) - len(left) + done, "")
    count = len({r.index for r in store.results} & set(span))
    say(f"share {share.number} of {share.of}: {count} of {len(span)} samples are drawn; certify merge joins the shares")
    if count < len(span):
        raise typer.Exit(ABORTED)
