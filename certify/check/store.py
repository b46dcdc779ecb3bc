"""A verdict in a directory: `verdict.json`, the arrays of its evidence, and the property it is about.

Every file is written beside its final name and renamed, `verdict.json` last, so that a directory with
a `verdict.json` is complete. Nothing that is read is executed.
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from certify.check.checker import Report, check_proof
from certify.check.witness import check_witness
from certify.errors import BadOption, CertifyError, EvidenceRejected
from certify.evidence import Sharpened, Tree, TreeProof, Witness
from certify.graph.ir import Graph
from certify.spec.property import Clause, Property
from certify.spec.query import Case, Source, spec_hash
from certify.spec.regions import Region
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified

Array = np.ndarray

FORMAT = 3
DAMAGE = (
    OSError, KeyError, ValueError, TypeError, IndexError, EOFError, OverflowError, MemoryError, CertifyError,
    RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged JSON file or array archive may raise (MemoryError: a shape that is nonsense)."""

DISTRIBUTIONS = {"certify": "certify-nn", "torch": "torch", "numpy": "numpy", "onnx": "onnx"}


@dataclass(frozen=True)
class RunInfo:
    """What the verdict is about, in the user's words: paths as given, the seed, the wall time, and the processor
    time that the checker took of it."""

    network: str
    property: str
    seed: int
    time_s: float
    checking_s: float


@dataclass(frozen=True, eq=False)
class Record:
    """What a directory holds: the verdict with its evidence, the cases, the hashes, and `verdict.json` itself."""

    verdict: Verdict
    cases: tuple[Case, ...]
    graph_hash: str
    spec_hash: str
    header: Mapping[str, object]


def prepare(directory: str | Path) -> Path:
    """Make `directory` if needed and try to write in it, so that a long search does not end in an error.

    Raises BadOption where that fails.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise BadOption(f"{directory} cannot be written: {error.strerror}", "choose another --out") from error
    return directory


def save(directory: str | Path, verdict: Verdict, info: RunInfo, graph: Graph, cases: Sequence[Case]) -> None:
    """Write the verdict, its evidence and the cases. Raises BadOption where the directory cannot be written."""
    directory = prepare(directory)
    header = {
        "format": FORMAT,
        "verdict": verdict.name,
        "reason": verdict.reason.name if isinstance(verdict, Unknown) else None,
        "detail": verdict.detail if isinstance(verdict, Unknown) else "",
        "grade": verdict.grade.value if isinstance(verdict, Verified) else None,
        "lower": _plain(getattr(verdict, "lower", -math.inf)),
        **asdict(info),
        "graph_hash": graph.hash,
        "spec_hash": spec_hash(cases),
        "versions": {name: _version(package) for name, package in DISTRIBUTIONS.items()},
    }
    files = {"property.npz": _pack_cases(cases)}
    if isinstance(verdict, Falsified):
        files["evidence.npz"] = _pack_witness(verdict.witness)
    if isinstance(verdict, Verified) and verdict.evidence is not None:
        files["evidence.npz"] = _pack_proof(verdict.evidence)
    try:
        discard(directory)
        for name, arrays in files.items():
            with _Replacing(directory / name) as file:
                np.savez_compressed(file, **arrays)
        with _Replacing(directory / "verdict.json") as file:
            file.write((json.dumps(header, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise BadOption(f"{directory} cannot be written: {error.strerror}", "choose another --out") from error


def discard(directory: Path) -> None:
    """Remove an earlier verdict, the file that makes it one first, so that it cannot pass for a newer one."""
    for name in ("verdict.json", "evidence.npz", "property.npz"):
        (directory / name).unlink(missing_ok=True)


def load(directory: str | Path) -> Record:
    """Read what `save` wrote. Raises EvidenceRejected where files are missing, damaged or inconsistent."""
    directory = Path(directory)
    try:
        header = json.loads((directory / "verdict.json").read_text("utf-8"))
        if header["format"] != FORMAT:
            raise EvidenceRejected(f"{directory}: format {header['format']} is not known", "use a newer certify")
        if absent := {field.name for field in fields(RunInfo)} - header.keys():
            raise KeyError(*absent)
        with np.load(directory / "property.npz", allow_pickle=False) as archive:
            cases = _unpack_cases(dict(archive))
        arrays: dict[str, Array] = {}
        if (directory / "evidence.npz").exists():
            with np.load(directory / "evidence.npz", allow_pickle=False) as archive:
                arrays = dict(archive)
        verdict = _unpack_verdict(header, arrays)
        hashes = str(header["graph_hash"]), str(header["spec_hash"])
    except EvidenceRejected:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{directory} does not hold a whole verdict: {Path(error.filename).name} is not there"
        raise EvidenceRejected(what, "name a folder that `certify verify --out` wrote") from error
    except DAMAGE as error:
        what = f"{directory} does not hold a verdict that certify saved: {error!r}"
        raise EvidenceRejected(what, "verify it again with --out") from error
    return Record(verdict, cases, *hashes, header)


def check_directory(
    directory: str | Path,
    graph: Graph,
    cases: Sequence[Case] | None = None,
    *,
    source: Source | None = None,
    memory: int = 1 << 30,
) -> Report:
    """Whether the evidence in `directory` bears out its verdict for this network, and for `cases` if given.

    The hashes are compared first. `source`, if given, is asked about a witness again. An unknown verdict
    claims nothing, so nothing can be checked: not ok.
    Raises UnsupportedOp where the checker has no rule for a node of the graph.
    """
    try:
        record = load(directory)
    except EvidenceRejected as error:
        return Report(False, (str(error),))
    failures = []
    if record.graph_hash != graph.hash:
        failures.append("the verdict is about another network (the hashes differ)")
    if record.spec_hash != spec_hash(record.cases):
        failures.append("the stored property does not hash to what verdict.json says")
    if cases is not None and record.spec_hash != spec_hash(cases):
        failures.append("the verdict is about another property (the hashes differ)")
    if failures:
        return Report(False, tuple(failures))
    verdict = record.verdict
    if isinstance(verdict, Falsified):
        try:
            found = check_witness(graph, record.cases, verdict.witness, source)
        except EvidenceRejected as error:
            return Report(False, (str(error),))
        return Report(found.ok, found.failures, (found.agreement.value,) if found.ok else ())
    if isinstance(verdict, Unknown):
        return Report(False, ("the verdict is unknown: there is nothing to check",))
    if verdict.evidence is None:
        if verdict.grade in (Grade.RECOMPUTED, Grade.TRUSTED):
            grade = verdict.grade.value
            return Report(False, (f"the verdict is graded {grade}: it has no evidence that could be replayed",))
        nothing = not record.cases
        return Report(nothing, () if nothing else ("the verdict says vacuous, but there are inputs to cover",))
    return check_proof(graph, record.cases, verdict.evidence, memory)


class _Replacing:
    """A file that takes its name only when it was written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> tempfile._TemporaryFileWrapper:
        self.file = tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=self.path.name, delete=False)
        return self.file

    def __exit__(self, kind: type | None, *rest: object) -> None:
        self.file.close()
        if kind is None:
            os.chmod(self.file.name, 0o644)  # temporary files begin private
            os.replace(self.file.name, self.path)
        else:
            os.unlink(self.file.name)


def _plain(number: float) -> float | None:
    """JSON has no infinity."""
    return number if math.isfinite(number) else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _pack_cases(cases: Sequence[Case]) -> dict[str, Array]:
    arrays = {"cases": np.array(len(cases))}
    for i, case in enumerate(cases):
        region = case.region
        arrays[f"{i}.lower"], arrays[f"{i}.upper"] = region.lower, region.upper
        if region.norm is not None:
            arrays[f"{i}.center"], arrays[f"{i}.ball"] = region.center, np.array([region.radius, region.norm])
        arrays[f"{i}.clauses"] = np.array(len(case.property.clauses))
        for j, c in enumerate(case.property.clauses):
            arrays |= {f"{i}.{j}.matrix": c.matrix, f"{i}.{j}.offset": c.offset, f"{i}.{j}.strict": c.strict}
    return arrays


def _unpack_cases(arrays: Mapping[str, Array]) -> tuple[Case, ...]:
    cases = []
    for i in range(int(arrays["cases"])):
        ball = ()
        if f"{i}.ball" in arrays:
            radius, norm = arrays[f"{i}.ball"].tolist()
            ball = (arrays[f"{i}.center"], radius, norm)
        clauses = [
            Clause(*(arrays[f"{i}.{j}.{name}"] for name in ("matrix", "offset", "strict")))
            for j in range(int(arrays[f"{i}.clauses"]))
        ]
        cases.append(Case(Region(arrays[f"{i}.lower"], arrays[f"{i}.upper"], *ball), Property(tuple(clauses))))
    return tuple(cases)


def _pack_witness(witness: Witness) -> dict[str, Array]:
    return {
        "x": witness.x,
        "y": witness.y,
        "at": np.array([witness.case, witness.clause]),
        "replayed_on": np.array(witness.replayed_on),
    }


COLUMNS = tuple(f.name for f in fields(Tree) if f.name not in ("case", "clauses", "sharpened"))


def _pack_proof(proof: TreeProof) -> dict[str, Array]:
    arrays = {
        "trees": np.array(len(proof.trees)),
        "refined": np.array(proof.refined, np.int64),
        "hashes": np.array([proof.graph_hash, proof.spec_hash]),
    }
    for t, tree in enumerate(proof.trees):
        arrays[f"{t}.case"], arrays[f"{t}.clauses"] = np.array(tree.case), np.array(tree.clauses, np.int64)
        for name in COLUMNS:
            arrays[f"{t}.{name}"] = getattr(tree, name)
    return arrays | _pack_sharpened(proof.trees)


def _pack_sharpened(trees: Sequence[Tree]) -> dict[str, Array]:
    """What is sharpened, once for all trees that share it; and for each tree the rows and what belongs to them."""
    numbers: dict[int, int] = {}
    arrays = {}
    for t, tree in enumerate(trees):
        pairs = [(row, part) for row, given in tree.sharpened.items() for part in given]
        for _, part in pairs:
            if id(part) not in numbers:
                number = numbers[id(part)] = len(numbers)
                columns = {"node": np.array(part.node), "neuron": part.neuron, "sign": part.sign}
                columns |= {f"slopes.{e}": values for e, values in part.slopes.items()}
                arrays |= {f"sharpened.{number}.{name}": values for name, values in columns.items()}
        arrays[f"{t}.sharpened"] = np.array([[row, numbers[id(part)]] for row, part in pairs], np.int64).reshape(-1, 2)
    return arrays


def _unpack_proof(arrays: Mapping[str, Array]) -> TreeProof:
    trees = []
    sharpened: dict[int, Sharpened] = {}
    for t in range(int(arrays["trees"])):
        given: dict[int, tuple[Sharpened, ...]] = {}
        for row, number in arrays[f"{t}.sharpened"].tolist():
            if number not in sharpened:
                sharpened[number] = _unpack_sharpened(arrays, f"sharpened.{number}")
            given[row] = (*given.get(row, ()), sharpened[number])
        trees.append(
            Tree(
                case=int(arrays[f"{t}.case"]),
                clauses=tuple(arrays[f"{t}.clauses"].tolist()),
                sharpened=given,
                **{name: arrays[f"{t}.{name}"] for name in COLUMNS},
            )
        )
    graph_hash, property_hash = arrays["hashes"].tolist()
    return TreeProof(tuple(trees), tuple(arrays["refined"].tolist()), graph_hash, property_hash)


def _unpack_sharpened(arrays: Mapping[str, Array], name: str) -> Sharpened:
    prefix = f"{name}.slopes."
    slopes = {int(k[len(prefix) :]): v for k, v in arrays.items() if k.startswith(prefix)}
    return Sharpened(int(arrays[f"{name}.node"]), arrays[f"{name}.neuron"], arrays[f"{name}.sign"], slopes)


def _unpack_verdict(header: Mapping[str, object], arrays: Mapping[str, Array]) -> Verdict:
    lower = header["lower"]
    name = header["verdict"]
    if name == Falsified.name:
        case, clause = map(int, arrays["at"].tolist())
        return Falsified(Witness(case, clause, arrays["x"], arrays["y"], str(arrays["replayed_on"])))
    if name == Verified.name:
        evidence = _unpack_proof(arrays) if arrays else None
        return Verified(evidence, Grade(header["grade"]), math.inf if lower is None else float(lower))
    if name == Unknown.name:
        reason = Reason[str(header["reason"])]
        return Unknown(reason, -math.inf if lower is None else float(lower), str(header["detail"]))
    raise EvidenceRejected(f"verdict {name!r} is not known")
