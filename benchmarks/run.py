"""Many verification instances in one process, one after another, each result kept at once."""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.store import Result, ResultStore
from certify.budget import Budget
from certify.errors import CertifyError, MalformedSpec
from certify.frontends.files import as_text, parse_files
from certify.strategy import Strategy

if TYPE_CHECKING:
    from certify.frontends.load import Imported
    from certify.verdict import Verdict
    from certify.verifier import Progress

HEADER = ("category", "onnx", "vnnlib")
LISTS = "each line is onnx,vnnlib,timeout, or the file begins with a header category,onnx,vnnlib,timeout_s,expected"


@dataclass(frozen=True)
class Instance:
    """A network and a property, as named in the list and as found on the disk, and a time limit in seconds.

    `expected` is "sat" (falsified), "unsat" (verified), "unknown" or empty.
    """

    category: str
    onnx: str
    vnnlib: str
    timeout: float
    folder: Path
    expected: str = ""

    @property
    def key(self) -> tuple[str, str, str, float]:
        return (self.category, self.onnx, self.vnnlib, self.timeout)

    @property
    def networks(self) -> str | dict[str, str]:
        """The network's file; or one for each network that the property declares, if `onnx` is such a list."""
        given = parse_files(self.onnx)
        if isinstance(given, str):
            return str(self.network)
        return {name: str(_stored(self.folder / file)) for name, file in given.items()}

    @property
    def files(self) -> list[Path]:
        """All files that it needs."""
        networks = self.networks
        return [*map(Path, [networks] if isinstance(networks, str) else networks.values()), self.property]

    @property
    def network(self) -> Path:
        """The only network's file."""
        return _stored(self.folder / self.onnx)

    @property
    def property(self) -> Path:
        return _stored(self.folder / self.vnnlib)


def _stored(path: Path) -> Path:
    """The file, or its gzip-compressed form where only that is there."""
    packed = path.with_name(path.name + ".gz")
    return packed if not path.exists() and packed.exists() else path


def read_instances(path: str | Path, root: str | Path | None = None) -> list[Instance]:
    """The instances listed in a CSV file, in one of two forms.

    With a header that holds at least category, onnx, vnnlib and timeout_s (perhaps expected), paths are
    relative to the category's folder beside the list. Without one, as in VNN-COMP, each line is
    `onnx,vnnlib,timeout`, with paths relative to the list, whose folder names the category. `root` stands
    in for the folder of the list. Raises MalformedSpec with file and line.
    """
    path = Path(path)
    folder = Path(root) if root is not None else path.parent
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = [(n, row) for n, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)]
    except OSError as error:
        raise MalformedSpec(f"{path} cannot be read: {error.strerror}", LISTS) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedSpec(f"{path} is not a CSV file: {error}", LISTS) from error
    names = [cell.strip() for cell in lines[0][1]] if lines else []
    if set(HEADER) <= set(names):
        if "timeout_s" not in names:
            raise MalformedSpec("the header has no column timeout_s", LISTS, path=str(path), line=1, column=1)
        rows = [(n, dict(zip(names, row, strict=False))) for n, row in lines[1:]]
        folders = {n: folder / row.get("category", "") for n, row in rows}
    else:
        plain = ("onnx", "vnnlib", "timeout_s")
        rows = [(n, dict(zip(plain, row, strict=False))) for n, row in lines]
        folders = {n: folder for n, row in rows}
    if not rows:
        raise MalformedSpec(f"{path} lists no instance", LISTS)
    return [_instance(path, n, row, folders[n]) for n, row in rows]


def _instance(path: Path, line: int, row: dict[str, str], folder: Path) -> Instance:
    try:
        limit = float(row["timeout_s"])
        onnx, vnnlib = row["onnx"].strip(), row["vnnlib"].strip()
    except (KeyError, ValueError) as error:
        raise MalformedSpec("an instance needs a network, a property and seconds", LISTS, path=str(path), line=line,
                            column=1) from error  # fmt: skip
    if not limit > 0:
        raise MalformedSpec(f"the timeout must be positive, not {limit:g}", LISTS, path=str(path), line=line, column=1)
    category = row.get("category", "").strip() or folder.resolve().name
    return Instance(category, onnx, vnnlib, limit, folder, row.get("expected", "").strip())


class Solver:
    """Answers instances, keeping the last network, as lists name the same one many times in a row.

    With `evidence`, a folder, each verdict that claims something is kept below it, as `certify verify --out` would.
    """

    def __init__(self, strategy: Strategy, evidence: Path | None = None) -> None:
        self.strategy = strategy
        self.evidence = evidence
        self._path: str | None = None
        self._network: Imported | None = None

    def __call__(self, instance: Instance, budget: Budget) -> Result:
        """The result of one instance. What goes wrong with it becomes its result, of verdict "error"."""
        try:
            verdict = self._verify(instance, budget)
        except CertifyError as error:
            return outcome(instance, "error", time_s=budget.elapsed, message=str(error))
        except Exception as error:  # a bug of ours must not end the run of the other instances
            return outcome(instance, "error", time_s=budget.elapsed, message=f"{type(error).__name__}: {error}")
        return outcome(
            instance,
            verdict.name,
            reason=verdict.reason.name.lower() if verdict.name == "unknown" else "",
            grade=verdict.grade.value if verdict.name == "verified" else "",
            lower=f"{verdict.lower:.9g}" if verdict.name != "falsified" else "",
            time_s=budget.elapsed,
            message=verdict.detail if verdict.name == "unknown" else "",
        )

    def _verify(self, instance: Instance, budget: Budget) -> Verdict:
        from certify.frontends.question import ask
        from certify.spec.query import Query
        from certify.verifier import verify

        question = ask(instance.networks, instance.property, load=self._load)
        graph, cases = question.graph, question.cases
        checking = 0.0

        def heard(progress: Progress) -> None:
            nonlocal checking
            checking = progress.checking

        verdict = verify(Query(question.source, graph, cases), self.strategy, budget, heard)
        if self.evidence is not None and verdict.name != "unknown":
            from certify.check.store import RunInfo, save

            names = as_text(instance.networks), str(instance.property.resolve())
            info = RunInfo(*names, self.strategy.seed, round(budget.elapsed, 4), round(checking, 4))
            save(folder_of(self.evidence, instance), verdict, info, graph, cases)
        return verdict

    def _load(self, path: str) -> Imported:
        from certify.frontends.load import load_network

        if path != self._path or self._network is None:
            self._path = self._network = None  # the old network need not be in memory while the new one is read
            self._network = load_network(path)
            self._path = path
        return self._network


def folder_of(evidence: Path, instance: Instance) -> Path:
    """Where the verdict of the instance is kept: one folder per category, then one per network and property."""
    names = [name.removesuffix(".gz").rsplit(".", 1)[0] for name in (instance.onnx, instance.vnnlib)]
    return evidence / instance.category / "-".join("_".join(Path(name).parts) for name in names).replace(os.sep, "")


def outcome(instance: Instance, verdict: str, **details: object) -> Result:
    """A result row of the instance."""
    details["time_s"] = round(float(details.get("time_s", 0.0)), 4)
    return Result(*instance.key, instance.expected, verdict, **details)


def run_all(
    instances: Sequence[Instance],
    store: ResultStore,
    solve: Callable[[Instance, Budget], Result],
    budget: Budget,
    report: Callable[[Result], None],
) -> None:
    """Solve every instance that the store does not hold yet; append each result, then report it.

    Once `budget` is cancelled the run ends; an instance that this cut short leaves no result.
    """
    known = {result.key for result in store.results}
    for instance in instances:
        if instance.key in known:
            continue
        known.add(instance.key)
        if store.crashed == tuple(map(str, instance.key)):
            result = outcome(instance, "error", message="an earlier run died on this instance; remove the row to retry")
        else:
            if budget.expired:
                return
            store.started(instance.key)
            result = solve(instance, budget.part(instance.timeout))
            if budget.expired:
                return
        store.append(result)
        report(result)


@dataclass(frozen=True)
class Row:
    """Counts for one category; `median_s` is over its solved instances."""

    category: str
    instances: int
    solved: int
    verified: int
    falsified: int
    unknown: int
    errors: int
    median_s: float


def summarise(results: Iterable[Result]) -> list[Row]:
    """One row per category, in order of name, and a row "total"."""
    results = list(results)
    groups = {name: [r for r in results if r.category == name] for name in sorted({r.category for r in results})}
    return [_row(name, group) for name, group in [*groups.items(), ("total", results)]]


def _row(name: str, group: list[Result]) -> Row:
    counts = [sum(r.verdict == v for r in group) for v in ("verified", "falsified", "unknown", "error")]
    times = [r.time_s for r in group if r.verdict in ("verified", "falsified")]
    return Row(name, len(group), len(times), *counts, statistics.median(times) if times else float("nan"))
