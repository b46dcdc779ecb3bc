"""A smoothing run that several machines share: the draws of each sample in shares, and folders joined into one.

Draws come in numbered blocks, each with a generator of its own (`certify.smoothing.smoothed`); so machines that draw
different blocks of one run, with one seed, have drawn together what one machine would have drawn, answer by answer.
Joined is what was asked alike, each block and each sample once: a block that is counted twice would be evidence of
draws that were never made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.robust import SampleStore
from benchmarks.smooth import Job, Partial, SmoothResult
from certify.budget import Budget
from certify.check.counts import KIND, SHARE_KIND, check_run, chosen, digest, sampling_of
from certify.errors import BadOption, CertifyError
from certify.smoothing.plans import Fixed, Plan, TwoSided, even_blocks
from certify.smoothing.recorded import plan_from
from certify.smoothing.smoothed import Counts, conclude
from certify.smoothing.streams import ESTIMATION, SELECTION

LOCAL = ("kind", "share", "net", "data_name")
"""Settings in which folders of one run may differ: names on a machine. Network and data are known by their hashes."""


@dataclass(frozen=True)
class Share:
    """Share number `number`, counted from 1, of the `of` into which the blocks of each sample are dealt."""

    number: int
    of: int

    def __post_init__(self) -> None:
        """Raises BadOption for a share that there is not."""
        if not 1 <= self.number <= self.of:
            raise BadOption(f"there is no share {self.number} of {self.of}", "write it like 2/5")

    def blocks(self, plan: Plan, batch: int) -> list[tuple[int, int]]:
        """Number and size of the blocks of this share."""
        every = list(enumerate(plan.blocks(batch)))
        return every[self.number - 1 :: self.of]

    def settings(self, whole: Mapping[str, object]) -> dict[str, object]:
        """What `run.json` says, given the settings of the whole run."""
        return {**whole, "kind": SHARE_KIND, "share": [self.number, self.of]}


@dataclass(frozen=True)
class ShareResult:
    """A share of one sample's draws: answers by class as in `CountProof`, and the numbers of their blocks.

    selection  the draws that choose the class, which the first share makes; the others leave it empty
    """

    index: int
    label: int
    selection: list[int]
    answers: list[int]
    blocks: list[int]
    time_s: float
    digest: str = ""


def run_share(
    job: Job, share: Share, indices: Sequence[int], budget: Budget, settings: dict[str, object], partial: Partial
) -> Iterator[ShareResult]:
    """The share's draws for the samples, one by one; ends early once the budget is cancelled, leaving what was
    counted in `partial`. `settings` are the share's.

    Raises BadOption unless the plan makes a fixed number of draws: one that adapts decides by what was drawn before.
    """
    if not isinstance(job.plan, Fixed | TwoSided):
        raise BadOption(f"the draws of a {job.plan.kind} plan cannot be shared", "give each machine its own --index")
    blocks, run = share.blocks(job.plan, job.smoothed.batch), job.smoothed
    for i in indices:
        began = budget.elapsed
        x = torch.from_numpy(np.ascontiguousarray(job.x[i], np.float32))
        counts = partial.load(i) or Counts((0,) * (run.classes + 1))
        left = [block for block in blocks if block[0] not in counts.blocks]
        counts = counts.merge(run.count(x, (i, ESTIMATION), left, lambda: budget.cancelled))
        if len(counts.blocks) < len(blocks):
            partial.save(i, counts)
            return
        selection: Sequence[int] = ()
        if share.number == 1:
            selection = run.count(x, (i, SELECTION), enumerate(even_blocks(job.plan.n0, run.batch))).answers
        line = {
            "index": i,
            "label": int(job.labels[i]),
            "selection": list(selection),
            "answers": list(counts.answers),
            "blocks": sorted(counts.blocks),
            "time_s": round(budget.elapsed - began, 4),
        }
        yield ShareResult(**line, digest=digest(settings, line))


@dataclass(frozen=True)
class Part:
    """One of the folders to be joined: what its run was asked, and its lines, whole samples or shares of them."""

    folder: Path
    settings: dict[str, object]
    whole: tuple[SmoothResult, ...]
    shares: tuple[ShareResult, ...]


def read_part(folder: Path) -> Part:
    """What a folder of `certify smooth --out` holds, with its digests and claims replayed.

    Raises BadOption if it holds something else, or something that was changed.
    """
    try:
        settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        if settings["kind"] == KIND:
            report = check_run(folder)
            if not report.ok:
                raise BadOption(f"{folder} is rejected: {report.failures[0]}", "leave it out, or run it again")
            return Part(folder, settings, tuple(SmoothResult(**line) for line in lines), ())
        if settings["kind"] != SHARE_KIND:
            raise BadOption(f"{folder} is about something else than smoothing", "name folders of certify smooth --out")
        if any(line["digest"] != digest(settings, line) for line in lines):
            raise BadOption(f"{folder}: a line, or run.json, was changed: the digest differs", "run it again")
        return Part(folder, settings, (), tuple(_replayed(settings, ShareResult(**line)) for line in lines))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{folder} does not hold a smoothing run that certify saved: {error!r}"
        raise BadOption(what, "name folders of certify smooth --out") from error


def _replayed(settings: Mapping[str, object], result: ShareResult) -> ShareResult:
    """The share, if its answers are as many as its blocks have draws. Raises ValueError if not."""
    plan, share = _plan_of(settings), Share(*settings["share"])
    sizes = dict(share.blocks(plan, int(settings["batch"])))
    classes = int(settings["classes"])
    wanted = [(result.answers, sum(sizes[b] for b in result.blocks))]
    if share.number == 1:
        wanted.append((result.selection, plan.n0))
    for counts, draws in wanted:
        if any(type(c) is not int or c < 0 for c in counts) or len(counts) != classes + 1 or sum(counts) != draws:
            raise ValueError(f"sample {result.index}: {sum(counts)} draws are counted, not {draws}")
    if len(set(result.blocks)) < len(result.blocks) or (share.number > 1 and result.selection):
        raise ValueError(f"sample {result.index}: draws are listed that are not this share's")
    return result


def _plan_of(settings: Mapping[str, object]) -> Plan:
    return plan_from(sampling_of({**settings, "kind": KIND}))


def merge(folders: Sequence[Path], out: Path) -> tuple[list[SmoothResult], Plan]:
    """Join runs into the folder `out`, which then is what one machine would have left there: results and plan.

    Raises BadOption where the folders are not of one run, or share a sample or a block, or draws are missing.
    """
    parts = [read_part(folder) for folder in folders]
    settings = {k: v for k, v in parts[0].settings.items() if k != "share"} | {"kind": KIND}
    for part in parts[1:]:
        _same(parts[0], part)
    plan, owner = _plan_of(settings), dict[int, Path]()
    results = []
    for part in parts:
        for result in part.whole:
            if result.index in owner:
                places = f"{owner[result.index]} and in {part.folder}"
                raise BadOption(f"sample {result.index} is in {places}: the same draws twice", "name one of them")
            owner[result.index] = part.folder
            results.append(result)
    shared: dict[int, list[tuple[Path, ShareResult]]] = {}
    for part in parts:
        for share in part.shares:
            if share.index in owner:
                what = f"sample {share.index} is whole in {owner[share.index]}, and in shares in {part.folder}"
                raise BadOption(what, "name one of them")
            shared.setdefault(share.index, []).append((part.folder, share))
    blocks = frozenset(number for number, _ in enumerate(plan.blocks(int(settings["batch"]))))
    results += [_joined(plan, blocks, pieces) for pieces in shared.values()]
    signed = [_signed(settings, result) for result in sorted(results, key=lambda r: r.index)]
    store = SampleStore(out, settings, SmoothResult)
    if store.results:
        raise BadOption(f"{out} holds results already", "choose another --out")
    for result in signed:
        store.append(result)
    return signed, plan


def _same(one: Part, other: Part) -> None:
    """Raises BadOption unless both are of one run."""
    for name in sorted({*one.settings, *other.settings} - {*LOCAL}):
        here, there = (part.settings.get(name) for part in (one, other))
        if here != there:
            what = f"{one.folder} and {other.folder} are of different runs: {name} is {here!r} and {there!r}"
            raise BadOption(what, "join runs of one network, data set, noise, plan, seed and batch")


def _joined(plan: Plan, blocks: frozenset[int], pieces: Sequence[tuple[Path, ShareResult]]) -> SmoothResult:
    """One sample from its shares. Raises BadOption if a block is there twice, or missing."""
    index, label = pieces[0][1].index, pieces[0][1].label
    counts, at = Counts((0,) * len(pieces[0][1].answers)), []
    for folder, share in pieces:
        try:
            counts = counts.merge(Counts(tuple(share.answers), frozenset(share.blocks)))
        except CertifyError as error:
            places = ", ".join(str(place) for place in (*at, folder))
            raise BadOption(f"sample {index} in {places}: {error.what}", "name each share once") from error
        if share.label != label:
            raise BadOption(f"sample {index} has two labels, {label} and {share.label}", "run one of them again")
        at.append(folder)
    selections = [share.selection for _, share in pieces if share.selection]
    if missing := sorted(blocks - counts.blocks):
        raise BadOption(f"sample {index} lacks {len(missing)} blocks, as number {missing[0]}", "name all the shares")
    if len(selections) != 1:
        raise BadOption(f"sample {index} has {len(selections)} first shares", "name share 1 once")
    selection = tuple(selections[0])
    found = counts.answers if chosen(selection) is not None else (0,) * len(counts.answers)  # as one machine does
    proof = asdict(conclude(plan, selection, found))
    proof |= {"selection": list(selection), "counts": list(found)}
    return SmoothResult(index, label, **proof, time_s=round(sum(share.time_s for _, share in pieces), 4))


def _signed(settings: Mapping[str, object], result: SmoothResult) -> SmoothResult:
    line = {k: v for k, v in asdict(result).items() if k != "digest"}
    return SmoothResult(**line, digest=digest(settings, line))
