"""Robustness of a network on the samples of a data set: clean, attacked and certified accuracy."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from benchmarks.store import hold
from certify.budget import Budget
from certify.errors import BadOption
from certify.spec.property import Property, robust, targeted
from certify.spec.query import Case, Query
from certify.spec.regions import ball
from certify.strategy import Method, Strategy

if TYPE_CHECKING:
    from certify.frontends.load import Imported
    from certify.verdict import Verdict

Array = np.ndarray
BATCH = 16  # samples that are bounded together


@dataclass(frozen=True)
class Threat:
    """What an adversary may do to a sample: move it by at most a radius in a norm, inside the data range
    `within` if given, to make one of `targets` (all classes but the label, if empty) win."""

    norm: float
    within: tuple[float, float] | None = None
    targets: tuple[int, ...] = ()

    def concerns(self, label: int) -> bool:
        """Whether there is anything to prove of a sample of this label: a target other than it."""
        return not self.targets or any(t != label for t in self.targets)

    def property(self, label: int, classes: int) -> Property:
        """What must hold of the outputs for a sample of this label, which must be one the threat concerns."""
        others = tuple(t for t in self.targets if t != label)
        return targeted(label, others, classes) if self.targets else robust(label, classes)


@dataclass(frozen=True)
class SampleResult:
    """The verdict on one sample and radius. A sample whose own outputs violate the property is falsified, of
    reason "misclassified"; `time_s` shares out evenly what was spent on a whole batch."""

    index: int
    label: int
    eps: str
    radius: float
    verdict: str
    reason: str | None
    time_s: float
    grade: str | None
    lower: float | None

    @property
    def key(self) -> tuple[int, float]:
        return (self.index, self.radius)


Watch = Callable[[Budget, Sequence[SampleResult]], AbstractContextManager]
"""Entered around work that should end with a budget, with what to say of its samples if it does not."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """A network to be judged on samples x (N, *shape) with labels (N,), `timeout` seconds (or None) for each."""

    network: Imported
    x: Array
    labels: Array
    threat: Threat
    strategy: Strategy
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Raises BadOption if samples, labels or targets do not fit the network."""
        graph, remedy = self.network.graph, "check that network and data belong together"
        if self.x[0].size != graph.input_size:
            sizes = f"{self.x[0].size} values per sample, shape {self.x.shape[1:]}"
            raise BadOption(f"the data have {sizes}; the network has {graph.input_size} inputs", remedy)
        classes = graph.output_size
        outside = [t for t in self.threat.targets if not 0 <= t < classes]
        if outside:
            raise BadOption(f"there is no class {outside[0]} to target", f"the network has classes 0 to {classes - 1}")
        if self.labels.max() >= classes:
            raise BadOption(f"the data have a label {self.labels.max()}; the network has {classes} outputs", remedy)
        flat = self.x.reshape(len(self.x), -1)
        low, high = self.threat.within or (-np.inf, np.inf)
        strange = np.flatnonzero((flat.min(1) < low) | (flat.max(1) > high))
        if len(strange):
            values = flat[strange[0]]
            what = f"sample {strange[0]} has values from {values.min():g} to {values.max():g}, beyond the data range"
            raise BadOption(f"{what} {low:g} to {high:g}", "give the data's own --range, or --range none")

    def judge(
        self,
        indices: Sequence[int],
        radii: Sequence[tuple[str, float]],
        budget: Budget,
        known: Iterable[SampleResult] = (),
        watch: Watch = lambda budget, late: nullcontext(),
    ) -> Iterator[SampleResult]:
        """The verdict on each of the samples `indices` and each of the radii, but for those in `known`.

        The largest radius comes first, as what is proved of a ball holds of the smaller ones inside it.
        A budget with a timeout is shared out evenly among the radii. Ends early, without the samples that
        it did not get to, once the budget is cancelled.
        """
        found = list(known)
        done = {result.key for result in found}
        ordered = sorted(radii, key=lambda eps: -eps[1])
        for r, eps in enumerate(ordered):
            proved = {p.index: p for p in found if p.verdict == "verified" and p.radius > eps[1]}
            left = [i for i in indices if (i, eps[1]) not in done]
            fair = budget.remaining / (len(ordered) - r)
            part = budget.part(None if fair == np.inf else max(fair, 1e-9))
            for i in left:
                if i in proved:
                    yield replace(proved[i], eps=eps[0], radius=eps[1], time_s=0.0)
            left = [i for i in left if i not in proved]
            for start in range(0, len(left), BATCH):
                for result in self._judge_batch(left[start : start + BATCH], eps, part, watch):
                    found.append(result)
                    yield result

    def _judge_batch(
        self, indices: Sequence[int], eps: tuple[str, float], budget: Budget, watch: Watch
    ) -> Iterator[SampleResult]:
        """First all samples are attacked and bounded together, then what is open is searched one by one."""
        from certify.verifier import SEARCHES, verify, verify_each

        if budget.cancelled:
            return
        begun = budget.elapsed
        network, strategy, timeout = self.network, self.strategy, self.timeout
        right: list[tuple[int, Case]] = []
        for i in indices:
            label = int(self.labels[i])
            prop = self.threat.property(label, network.graph.output_size)
            if prop.violated(network.source(self.x[i].reshape(-1).astype(np.float64))) is None:
                right.append((i, Case(ball(self.x[i], eps[1], self.threat.norm, self.threat.within), prop)))
            else:
                yield SampleResult(i, label, *eps, "falsified", "misclassified", 0.0, None, None)
        if not right:
            return
        searches = strategy.method in SEARCHES
        quick = replace(strategy, method=Method.LINEAR) if searches else strategy
        query = Query(network.source, network.graph, tuple(case for _, case in right))
        together = budget.part(None if timeout is None else timeout * len(right))
        with watch(together, [_late(i, int(self.labels[i]), eps, None, timeout) for i, _ in right]):
            first = verify_each(query, quick, together)
        seconds = (budget.elapsed - begun) / len(right)
        for (i, case), verdict in zip(right, first, strict=True):
            spent = seconds
            left = np.inf if timeout is None else timeout - seconds
            if verdict.name == "unknown" and searches and left > 0 and not budget.expired:
                part = budget.part(None if timeout is None else left)
                with watch(part, [_late(i, int(self.labels[i]), eps, verdict, timeout)]):
                    verdict = verify(Query(network.source, network.graph, (case,)), strategy, part)
                spent += part.elapsed
            if verdict.name == "unknown" and budget.cancelled:
                return
            yield _result(i, int(self.labels[i]), eps, verdict, spent)


def _result(index: int, label: int, eps: tuple[str, float], verdict: Verdict, seconds: float) -> SampleResult:
    reason = verdict.reason.name.lower() if verdict.name == "unknown" else None
    grade = verdict.grade.value if verdict.name == "verified" else None
    lower = verdict.lower if verdict.name != "falsified" and np.isfinite(verdict.lower) else None
    return SampleResult(index, label, *eps, verdict.name, reason, round(seconds, 4), grade, lower)


def _late(index: int, label: int, eps: tuple[str, float], known: Verdict | None, timeout: float | None) -> SampleResult:
    """Of a sample whose time is over: what an earlier verdict, which left it open, says of it."""
    lower = known.lower if known is not None and np.isfinite(known.lower) else None
    return SampleResult(index, label, *eps, "unknown", "timeout", timeout or 0.0, None, lower)


@dataclass(frozen=True)
class Accuracy:
    """Counts for one radius: `clean` samples are right, `attacked` ones of these are not falsified, and
    `certified` ones are verified; so the robust accuracy lies between certified and attacked."""

    eps: str
    samples: int
    clean: int
    attacked: int
    certified: int
    time_s: float


def summarise(results: Iterable[SampleResult]) -> list[Accuracy]:
    """One row per radius, in increasing order. A misclassified input in a ball lies in the larger ones too, and
    what is proved of a ball holds of the smaller ones, whether or not it was found there."""
    groups: dict[float, list[SampleResult]] = {}
    broken: dict[int, float] = {}  # sample -> the least radius at which it is falsified
    proved: dict[int, float] = {}  # sample -> the largest radius at which it is verified
    for r in results:
        groups.setdefault(r.radius, []).append(r)
        if r.verdict == "falsified":
            broken[r.index] = min(r.radius, broken.get(r.index, np.inf))
        if r.verdict == "verified":
            proved[r.index] = max(r.radius, proved.get(r.index, 0.0))
    return [
        Accuracy(
            eps=group[0].eps,
            samples=len(group),
            clean=sum(r.reason != "misclassified" for r in group),
            attacked=sum(not broken.get(r.index, np.inf) <= radius for r in group),
            certified=sum(proved.get(r.index, 0.0) >= radius for r in group),
            time_s=sum(r.time_s for r in group),
        )
        for radius, group in sorted(groups.items())
    ]


R = TypeVar("R")

RESULTS = "results.jsonl"


class SampleStore(Generic[R]):
    """Results of a run, of the dataclass `kind`, as JSON lines in a folder, with what the run was asked beside them.

    The folder is this process's for as long as the store lives. Raises BadOption if the folder cannot be written,
    is another process's, or holds the results of a run that was asked otherwise.
    """

    def __init__(self, folder: Path, settings: dict[str, object], kind: type[R] = SampleResult) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = hold(folder)
            weakref.finalize(self, lock.close)
            self._ask(settings)
            self._file = open(folder / RESULTS, "ab+")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            self._file.seek(0)
            text = self._file.read()
            complete = text[: text.rfind(b"\n") + 1]
            if len(complete) < len(text):  # a crash in the middle of a line
                self._file.truncate(len(complete))
            self.results: list[R] = [kind(**json.loads(line)) for line in complete.splitlines()]
        except OSError as error:
            raise BadOption(f"{folder} cannot be written: {error.strerror}", "choose another --out") from error
        except (ValueError, TypeError) as error:
            raise _foreign(folder) from error

    def _ask(self, settings: dict[str, object]) -> None:
        """Write what the run is asked beside its results; or compare, if it is there."""
        asked_now = json.loads(json.dumps(settings))  # as it will read from the file: tuples become lists
        asked = self.folder / "run.json"
        if not asked.exists():
            begun = self.folder / "run.json.part"  # else a crash could leave half of it
            begun.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            begun.replace(asked)
            return
        before = json.loads(asked.read_text(encoding="utf-8"))
        other = ", ".join(sorted(k for k in {*before, *asked_now} if before.get(k) != asked_now.get(k)))
        if other:
            raise BadOption(f"{self.folder} holds the results of a run with another {other}", "choose another --out")

    def append(self, result: R) -> None:
        """Put the result on the disk."""
        self._file.write(json.dumps(asdict(result)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.results.append(result)


def stored(folder: Path, kind: type[R]) -> list[R]:
    """The results, of the dataclass `kind`, that a folder holds, of a run that may be going on. Raises BadOption if
    there are none, or others."""
    try:
        text = (folder / RESULTS).read_bytes()
        return [kind(**json.loads(line)) for line in text[: text.rfind(b"\n") + 1].splitlines()]
    except OSError as error:
        raise BadOption(f"{folder} holds no results: {error.strerror}", "name the folder of a run") from error
    except (ValueError, TypeError) as error:
        raise _foreign(folder) from error


def _foreign(folder: Path) -> BadOption:
    return BadOption(f"{folder} holds other files than results", "choose another --out")


def data_hash(x: Array, labels: Array) -> str:
    """sha256 of the samples and their labels."""
    digest = sha256(f"{x.shape}{x.dtype.str}".encode())
    digest.update(np.ascontiguousarray(x).data)
    digest.update(np.ascontiguousarray(labels, np.int64).data)
    return digest.hexdigest()
