"""Minimum adversarial distances of the samples of a data set: proved radius, and distance of the nearest witness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.picture import picture
from benchmarks.robust import Assessment
from certify.budget import Budget
from certify.exact import Metric, Report, distance


@dataclass(frozen=True)
class RadiusResult:
    """One sample: no input at most `lower` away is misclassified, one `upper` away is (None: none is known). `solver`
    is the distance's lower bound according to the mixed-integer program, which nobody checked, None if not asked.
    A misclassified sample has 0 for both."""

    index: int
    label: int
    lower: float
    upper: float | None
    solver: float | None
    exact: bool
    time_s: float


def measure(
    assessment: Assessment, indices: Sequence[int], largest: float, budget: Budget, known: Iterable[RadiusResult] = ()
) -> Iterator[RadiusResult]:
    """The samples one by one, but for those in `known`, each for the assessment's timeout; ends early once the
    budget is cancelled."""
    done = {result.index for result in known}
    for i in (i for i in indices if i not in done):
        result = None if budget.cancelled else measure_one(assessment, i, largest, budget.part(assessment.timeout))
        if result is None:
            return
        yield result


def measure_one(
    assessment: Assessment, index: int, largest: float, budget: Budget, progress: Report | None = None
) -> RadiusResult | None:
    """One sample, for as long as the budget allows; None if that was cancelled before the distance was exact.
    `progress` hears of both bounds as they change."""
    label, threat, network = int(assessment.labels[index]), assessment.threat, assessment.network
    found = distance(
        network,
        assessment.x[index],
        threat.property(label, network.graph.output_size),
        Metric(threat.norm, threat.within, largest),
        strategy=assessment.strategy,
        budget=budget,
        progress=progress,
    )
    if budget.cancelled and not found.exact:
        return None
    solver = None if found.solver is None or not np.isfinite(found.solver.lower) else found.solver.lower
    upper = None if np.isinf(found.upper) else found.upper
    return RadiusResult(index, label, found.lower, upper, solver, found.exact, round(budget.elapsed, 4))


@dataclass(frozen=True)
class Radii:
    """All samples: how many, how many of them misclassified, how many of which the distance is exact; and means and
    medians of both bounds over the others, of the upper where one is known."""

    samples: int
    wrong: int
    exact: int
    mean: tuple[float, float]
    median: tuple[float, float]
    time_s: float


def summarise(results: Sequence[RadiusResult]) -> Radii:
    """What a table shows; NaN stands for what there is no sample of."""
    right = [r for r in results if r.upper != 0]
    bounds = [[r.lower for r in right], [r.upper for r in right if r.upper is not None]]

    def of_both(average: object) -> tuple[float, float]:
        lower, upper = (float(average(b)) if b else float("nan") for b in bounds)
        return lower, upper

    return Radii(
        len(results),
        len(results) - len(right),
        sum(r.exact for r in right),
        of_both(np.mean),
        of_both(np.median),
        sum(r.time_s for r in results),
    )


def draw(results: Sequence[RadiusResult], path: Path) -> None:
    """A histogram of both bounds over the samples that are classified right, as a PNG."""
    right = [r for r in results if r.upper != 0]
    lower, upper = [r.lower for r in right], [r.upper for r in right if r.upper is not None]
    edges = np.linspace(0, max([*lower, *upper, 1e-9]), 21)
    with picture(path) as (_, axes):
        axes.hist([lower, upper], bins=edges, label=["proved radius", "distance of the nearest witness found"])
        axes.set_xlabel("distance")
        axes.set_ylabel("samples")
        axes.legend()
