"""`certify check` of a smoothing run: its claims replayed from the counts, and on demand the counts drawn again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from certify.commands.progress import Bar
from certify.commands.terminal import as_json, emit
from certify.errors import BadOption, CertifyError

if TYPE_CHECKING:
    from certify.check.checker import Report


def holds_counts(folder: Path) -> bool:
    """Whether the folder is one of `certify smooth --out`. Raises BadOption if it is a share, which claims nothing."""
    from certify.check.counts import KIND, SHARE_KIND

    try:
        kind = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return False
    if kind == SHARE_KIND:
        raise BadOption(f"{folder} is a share of a run's draws, which proves nothing", "join all with certify merge")
    return kind == KIND


def replay_counts(folder: Path, net: str | None, samples: int, as_object: bool) -> bool:
    """Whether the run in `folder` is accepted, reported. `samples` of it are drawn again, evenly chosen.

    Raises CertifyError where for that the network or the data cannot be read, or are not those of the run.
    """
    from certify.check.counts import check_run

    report = check_run(folder)
    if report.ok and samples:
        report = _draw_again(folder, net, samples, report)
    answer = "accepted" if report.ok else "rejected"
    if as_object:
        emit(as_json({"check": answer, "failures": list(report.failures), "notes": list(report.notes)}))
    else:
        emit(f"{answer}: smoothing run in {folder}")
        for line in (*report.failures, *report.notes):
            emit(f"  {line}")
        if report.ok and not samples:
            emit("  the counts themselves were taken as they stand; --recount K draws those of K samples again")
    return report.ok


def _draw_again(folder: Path, net: str | None, samples: int, report: Report) -> Report:
    """The report after the counts of some samples were drawn again from the run's seed: they must prove the claim."""
    from benchmarks.robust import stored
    from benchmarks.smooth import SmoothResult, recount
    from certify.check.counts import check_counts, proof_of, sampling_of
    from certify.commands.sampled import job_of
    from certify.smoothing.recorded import plan_from

    settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    try:
        plan = plan_from(sampling_of(settings))
        run = (int(settings[name]) for name in ("seed", "batch"))
        where = (str(settings["device"]), str(settings["precision"]))
        job, now = job_of(net or settings["net"], settings["data_name"], plan, *run, *where)
    except (KeyError, TypeError, ValueError) as error:
        raise CertifyError(f"{folder}/run.json does not describe a run: {error!r}") from error
    for name in ("network", "data"):
        if now[name] != settings[name]:
            raise BadOption(f"{folder} is about another {name} (the hashes differ)", "name the right one")
    results = stored(folder, SmoothResult)
    chosen = results[:: max(1, len(results) // samples)][:samples]
    failures, differ, sampling = [], 0, sampling_of(settings)
    with Bar(len(chosen), "samples") as bar:
        for done, result in enumerate(chosen, 1):
            again, claimed = recount(job, result), proof_of(vars(result))
            fresh = replace(claimed, selection=tuple(again.selection), counts=tuple(again.counts))
            differ += fresh != claimed
            wrong = check_counts(sampling, fresh)
            failures += [f"sample {result.index}: drawn again, {what}" for what in wrong]
            bar.advance(done, f"{differ} differ")
    told = f"{len(chosen)} samples were drawn again, {differ} with other counts" + (
        ", as another machine's rounding may give; they prove the claims, too" if differ and not failures else ""
    )
    return replace(report, ok=not failures, failures=tuple(failures), notes=(*report.notes, told))
