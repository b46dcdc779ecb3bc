"""Randomized smoothing of a data set: one claim per sample, and what they say together."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.picture import picture
from certify.budget import Budget
from certify.check.counts import CONFIDENCE, KIND, digest, false_at_most
from certify.errors import BadOption
from certify.evidence import CountProof
from certify.smoothing.attack import Attack
from certify.smoothing.plans import Adaptive, Exhaustive, Plan
from certify.smoothing.smoothed import Counts, Smoothed
from certify.smoothing.statistics import BETS, p_value, simultaneous
from certify.smoothing.streams import BLOCKS

Array = np.ndarray


@dataclass(frozen=True)
class SmoothResult:
    """One sample: the evidence as in `CountProof`, the digest that ties it to the run, and the seconds it took."""

    index: int
    label: int
    predicted: int | None
    radius: float
    lower: float
    upper: float | None
    selection: list[int]
    counts: list[int]
    time_s: float
    digest: str = ""

    @property
    def correct(self) -> bool:
        """Whether the smoothed classifier provably answers the label, for the sample at least."""
        return self.predicted == self.label and self.radius > 0


@dataclass(frozen=True, eq=False)
class Job:
    """Samples x (N, *shape) with labels (N,), the smoothed classifier to be certified around them, and the plan."""

    smoothed: Smoothed
    plan: Plan
    x: Array
    labels: Array

    def __post_init__(self) -> None:
        """Raises BadOption if a label is no class of the network, or the plan has more blocks than there are seeds."""
        if self.labels.max() >= self.smoothed.classes:
            what = f"the data have a label {self.labels.max()}; the network has {self.smoothed.classes} outputs"
            raise BadOption(what, "check that network and data belong together")
        if sum(1 for _ in self.plan.blocks(self.smoothed.batch)) > BLOCKS:
            raise BadOption(f"a sample's draws come in {BLOCKS} blocks at most", "raise --batch")

    def settings(self, **names: str) -> dict[str, object]:
        """What a run is asked, for `run.json`: all that its counts depend on, and `names` of network and data."""
        run = self.smoothed
        asked = {"kind": KIND, **names, **asdict(self.plan.sampling()), "seed": run.seed, "batch": run.batch}
        return {**asked, "classes": run.classes, "device": torch.device(run.device).type}

    def run(
        self, indices: Sequence[int], budget: Budget, settings: dict[str, object], partial: Partial | None = None
    ) -> Iterator[SmoothResult]:
        """The samples one by one; ends early once the budget is cancelled, leaving what was counted in `partial`."""
        for i in indices:
            began = budget.elapsed
            x = torch.from_numpy(np.ascontiguousarray(self.x[i], np.float32))
            known = None if partial is None else partial.load(i)
            proof = self.smoothed.certify(x, i, self.plan, known=known, stop=lambda: budget.cancelled)
            if not isinstance(proof, CountProof):
                if partial is not None:
                    partial.save(i, proof)
                return
            line = {
                "index": i,
                "label": int(self.labels[i]),
                **asdict(proof),
                "time_s": round(budget.elapsed - began, 4),
            }
            line |= {"selection": list(proof.selection), "counts": list(proof.counts)}
            yield SmoothResult(**line, digest=digest(settings, line))


@dataclass(frozen=True)
class Partial:
    """A file that keeps what was counted of the sample at which a run was stopped."""

    path: Path

    def save(self, index: int, counts: Counts) -> None:
        """Put the counts of sample `index` on the disk."""
        text = json.dumps({"index": index, "answers": counts.answers, "blocks": sorted(counts.blocks)})
        beside = self.path.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path)

    def load(self, index: int) -> Counts | None:
        """What is kept of sample `index`. Raises BadOption if the file is damaged."""
        if not self.path.exists():
            return None
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            found = Counts(tuple(map(int, kept["answers"])), frozenset(map(int, kept["blocks"])))
            return found if kept["index"] == index else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadOption(f"{self.path} is damaged: {error!r}", "remove it: its sample begins anew") from error


@dataclass(frozen=True)
class Attacked:
    """The least of the radii at which an attack on the smoothed classifier succeeds on a sample; None if at none."""

    index: int
    broken: float | None


def attack(job: Job, by: Attack, indices: Iterable[int], radii: Sequence[float], budget: Budget) -> Iterator[Attacked]:
    """The samples one by one; ends early once the budget is cancelled."""
    for i in indices:
        x, label = torch.from_numpy(np.ascontiguousarray(job.x[i], np.float32)), int(job.labels[i])
        broken = None
        for radius in sorted(radii):
            if budget.cancelled:
                return
            if by.breaks(job.smoothed, x, i, label, radius):
                broken = radius
                break
        yield Attacked(i, broken)


@dataclass(frozen=True)
class Row:
    """Of `samples`, `certified` are certified right at the radius, each with its own probability of error.

    With probability CONFIDENCE, over all draws: at least `sure` of these claims are right (some, not known which, may
    be wrong), and the `together` strongest ones are all right at once (Holm).
    """

    radius: float
    samples: int
    certified: int
    sure: int
    together: int


def table(results: Sequence[SmoothResult], plan: Plan, radii: Iterable[float]) -> list[Row]:
    """Accuracy by radius."""
    exact = isinstance(plan, Exhaustive)
    wrong = 0 if exact else false_at_most(len(results), plan.alpha, 1 - CONFIDENCE)
    rows = []
    for radius in radii:
        held = [r for r in results if r.correct and r.radius >= radius]
        together = len(held) if exact else _together(results, held, plan, radius)
        rows.append(Row(radius, len(results), len(held), max(0, len(held) - wrong), together))
    return rows


def _together(results: Sequence[SmoothResult], held: Sequence[SmoothResult], plan: Plan, radius: float) -> int:
    """How many claims of this radius hold at once. The first draws choose the hypotheses, so those of other labels do
    not count; a p-value above alpha is taken for 1."""
    level = max(0.5, plan.noise.needed(radius)) if radius > 0 else 0.5
    bets = BETS if isinstance(plan, Adaptive) else None
    values = [p_value(r.counts[r.label], sum(r.counts), level, bets) for r in held] if level < 1 else []
    tested = sum(r.predicted == r.label for r in results)
    return int(simultaneous([*values, *[1.0] * (tested - len(values))], 1 - CONFIDENCE).sum())


def default_radii(results: Sequence[SmoothResult]) -> list[float]:
    """Steps of 1/4, or wider or finer so that there are about ten, from 0 to the largest radius; whole for counts."""
    largest = max((r.radius for r in results), default=0.0)
    step = 0.25 if largest > 0.5 else 2.0 ** math.floor(math.log2(largest / 4)) if largest > 0 else 0.25
    while largest / step > 12:
        step *= 2
    return [step * i for i in range(math.floor(largest / step) + 2)]


def write_tsv(results: Iterable[SmoothResult], path: Path) -> None:
    """Per-sample results in the columns of the published tables (Cohen et al. 2019); -1 abstains. Radii are cut off
    after six digits, so never printed larger than they are."""
    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
    for r in results:
        predicted = r.predicted if r.predicted is not None and r.radius > 0 else -1
        radius = f"{math.floor(r.radius * 1e6) / 1e6:.6f}"
        lines.append(f"{r.index}\t{r.label}\t{predicted}\t{radius}\t{int(r.correct)}\t{r.time_s:.4f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Accuracy by radius; the columns are the fields of `Row`, `sure` and `together` at CONFIDENCE."""
    lines = ["\t".join(field.name for field in fields(Row))]
    for row in rows:
        lines.append("\t".join([as_written(row.radius), *map(str, astuple(row)[1:])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_written(radius: float) -> str:
    """The radius in few digits where these are exact, in all of them otherwise: never rounded up."""
    short = f"{radius:g}"
    return short if float(short) == radius else repr(radius)


def draw(results: Sequence[SmoothResult], attacked: Sequence[Attacked], norm: str, path: Path) -> None:
    """Certified accuracy by radius as a PNG, and above it, if there was an attack, what it did not break."""
    radii = np.array([r.radius if r.correct else -1.0 for r in results])
    broken = np.array([np.inf if a.broken is None else a.broken for a in attacked])
    grid = np.linspace(0, max(radii.max(initial=0.0) * 1.05, 1e-3), 400)
    with picture(path) as (_, axes):
        axes.step(grid, (radii[None] >= np.maximum(grid, 1e-300)[:, None]).mean(1), where="post", label="certified")
        if attacked:
            axes.step(grid, (broken[None] > grid[:, None]).mean(1), where="post", label="not broken by the attack")
            axes.legend()
        axes.set_xlabel(f"radius ({norm})")
        axes.set_ylabel("accuracy")
        axes.set_ylim(0, 1)


def recount(job: Job, result: SmoothResult) -> SmoothResult:
    """The sample drawn again, from the same seed."""
    (again,) = job.run([result.index], Budget(), {})
    return replace(again, digest=result.digest)
