"""Damaged VNN-LIB files: each must be refused with its line and column, or mean what the reference reader says.

python -m tests.fuzz.vnnlib [--count 10000] [--seed 0]

Valid files of both versions are damaged: bytes are changed, removed, doubled or put in; tokens are exchanged for others
of the language; parts of the tree are moved. A file may take LIMIT seconds of this process's time, and the whole run
may not need more than MEMORY bytes beyond what it began with.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from certify.errors import MalformedSpec
from certify.spec.gather import EmptyDisjunct
from certify.spec.products import Products
from certify.spec.property import Clause
from certify.spec.query import Case
from certify.spec.vnnlib import read_vnnlib
from tests import vnnlib_reference as reference

LIMIT = 20.0
MEMORY = 1 << 30
POINTS = 12

FIRST = (
    "; a property\n(declare-const X_0 Real)\n(declare-const X_1 Real)\n"
    "(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
    "(assert (<= X_0 1.5))\n(assert (>= X_0 -1))\n(assert (and (<= X_1 0.25) (>= X_1 -2e-1)))\n"
    "(assert (or (and (<= Y_0 Y_1) (>= (+ Y_0 (* 2 X_0) (- Y_1)) 0.5)) (not (< (/ Y_1 4) (- X_1 1)))))\n"
)
SECOND = """(vnnlib-version <2.0>)
(declare-network f
  (declare-input X real [1,2]) ; inputs
  (declare-hidden H real [2] "relu")
  (declare-output Y real [])
)
(declare-network g (equal-to f) (declare-input A real [1, 2]) (declare-output B real []))
(assert (and (<= X[0,0] 1) (>= X[0,0] -1.5) (<= X[0,1] 0.5) (>= X[0,1] 0)))
(assert (and (== X[0,0] A[0,0]) (>= A[0,1] X[0,1]) (<= A[0,1] 2)))
(assert (or (> Y (+ B 0.25)) (and (!= Y H[0]) (<= (* 2 H[1] X[0,0]) (- Y 1)) (< (* Y Y) 2))))
"""
WORDS = [
    "(",
    ")",
    "(",
    ")",
    "and",
    "or",
    "not",
    "assert",
    "<=",
    ">=",
    "<",
    ">",
    "=",
    "==",
    "!=",
    "+",
    "-",
    "*",
    "/",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "0.5",
    "1e3",
    "1e400",
    "-0.0",
    "1e-9999999999999999999",
    "X_0",
    "X_1",
    "Y_0",
    "X_2",
    "X[0,0]",
    "X[0,1]",
    "X[0,2]",
    "A[0,1]",
    "H[0]",
    "H[1]",
    "Y",
    "B",
    "X",
    "[1,2]",
    "[2]",
    "[]",
    "[0]",
    "[",
    "]",
    ",",
    ";",
    '"',
    '"relu"',
    "real",
    "Real",
    "float32",
    "declare-const",
    "declare-network",
    "declare-input",
    "declare-hidden",
    "declare-output",
    "equal-to",
    "isomorphic-to",
    "f",
    "g",
    "check-sat",
    "declare-fun",
    "set-info",
    "|",
    ".5",
    "5.",
    "+2",
    "00",
    "<2.0>",
    "nan",
    "inf",
    "1_0",
    "٣",
    "\x00",
    "\ufeff",
]
ALIKE = (
    ("<=", ">=", "<", ">", "=", "==", "!="),
    ("and", "or"),
    ("+", "-", "*"),
    ("X_0", "X_1", "Y_0", "Y_1"),
    ("X[0,0]", "X[0,1]", "A[0,0]", "A[0,1]", "H[0]", "H[1]", "Y", "B", "X[0, 1]", "X[00,1]"),
)
"""Words that stand for one another."""


Damage = Callable[[str, np.random.Generator], str]


@dataclass
class Source:
    """A valid file, and how many inputs and outputs its network has."""

    text: str
    inputs: int
    outputs: int


SOURCES = (Source(FIRST, 2, 2), Source(SECOND, 4, 4))


def damage(text: str, rng: np.random.Generator) -> bytes:
    """The file with one to four kinds of damage."""
    data = text
    for _ in range(rng.choice([1, 1, 2, 4])):
        harm = MILD if rng.random() < 0.6 else DAMAGES
        data = harm[rng.integers(len(harm))](data, rng)
    raw = data.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        spoilt = bytearray(raw or b" ")
        for _ in range(rng.integers(1, 4)):
            spoilt[rng.integers(len(spoilt))] = rng.integers(256)
        raw = bytes(spoilt)
    return raw


def _cut(text: str, rng: np.random.Generator) -> tuple[int, int]:
    if not text:
        return 0, 0
    start = int(rng.integers(len(text)))
    return start, min(len(text), start + int(rng.integers(1, 30)))


def _remove(text: str, rng: np.random.Generator) -> str:
    a, b = _cut(text, rng)
    return text[:a] + text[b:]


def _double(text: str, rng: np.random.Generator) -> str:
    a, b = _cut(text, rng)
    return text[:b] + text[a:b] * int(rng.choice([1, 1, 2, 300])) + text[b:]


def _insert(text: str, rng: np.random.Generator) -> str:
    a, _ = _cut(text, rng)
    return text[:a] + str(rng.choice(WORDS)) + text[a:]


def _exchange(text: str, rng: np.random.Generator) -> str:
    """One token for a word of the language."""
    tokens = list(re.finditer(r"[()]|[^\s()]+", text))
    if not tokens:
        return text
    token = tokens[rng.integers(len(tokens))]
    return text[: token.start()] + str(rng.choice(WORDS)) + text[token.end() :]


def _swap(text: str, rng: np.random.Generator) -> str:
    """Two tokens change places."""
    tokens = list(re.finditer(r"[()]|[^\s()]+", text))
    if len(tokens) < 2:
        return text
    a, b = sorted(rng.choice(len(tokens), 2, replace=False))
    first, second = tokens[a], tokens[b]
    middle = text[first.end() : second.start()]
    return text[: first.start()] + second[0] + middle + first[0] + text[second.end() :]


def _move(text: str, rng: np.random.Generator) -> str:
    """A whole pair of parentheses is copied elsewhere, or nested a few hundred times."""
    starts = [m.start() for m in re.finditer(r"\(", text)]
    if not starts:
        return text
    start = starts[rng.integers(len(starts))]
    end, depth = start, 0
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if not depth:
            break
    part = text[start : end + 1]
    if rng.random() < 0.3:
        depth, op = int(rng.choice([2, 50, 3000])), str(rng.choice(["and", "or", "not", "+", "*", "-"]))
        return text[:start] + f"({op} " * depth + part + ")" * depth + text[end + 1 :]
    place = starts[rng.integers(len(starts))]
    return text[:place] + part + " " + text[place:]


def _digits(text: str, rng: np.random.Generator) -> str:
    """One number for another."""
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return text
    number = numbers[rng.integers(len(numbers))]
    other = str(rng.choice(["0", "1", "2", "3", "0.5", "7", "10" * 12, "9" * 5000, "0.1", "-3", "1e5", "1e-320", "00"]))
    return text[: number.start()] + other + text[number.end() :]


def _alike(text: str, rng: np.random.Generator) -> str:
    """One word for another of its kind."""
    kind = ALIKE[rng.integers(len(ALIKE))]
    words = [m for m in re.finditer(r"[^\s()]+", text) if m[0] in kind]
    if not words:
        return text
    word = words[rng.integers(len(words))]
    return text[: word.start()] + str(rng.choice(kind)) + text[word.end() :]


def _space(text: str, rng: np.random.Generator) -> str:
    """White space or a comment where it means nothing, or does."""
    a, _ = _cut(text, rng)
    return text[:a] + str(rng.choice([" ", "\n", "\r\n", "\t", " ; (or\n", "\u00a0"])) + text[a:]


MILD: tuple[Damage, ...] = (_alike, _alike, _digits, _space, _move)
DAMAGES: tuple[Damage, ...] = (_remove, _double, _insert, _exchange, _exchange, _swap, _move, _digits)


@dataclass
class Report:
    """What became of the files; `problems` are those that break the promise, with their bytes."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, bytes]] = field(default_factory=list)
    slowest: float = 0.0


def examine(raw: bytes, source: Source, path: Path, rng: np.random.Generator) -> tuple[str, str]:
    """(what became of the file, what is wrong with that); it is read from `path`."""
    products = Products()
    path.write_bytes(raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyDisjunct)
            cases = read_vnnlib(path, source.inputs, source.outputs, allow_empty=True, products=products)
    except MalformedSpec as error:
        named = 1 <= error.line <= raw.count(b"\n") + 1 and error.column >= 1 and bool(error.remedy)
        return "refused", "" if named else f"no place or remedy: {error}"
    except Exception as error:  # any other is what is looked for
        return "crashed", f"{type(error).__name__}: {error}"
    try:
        meant = reference.read(raw.decode("utf-8-sig"))
    except reference.Malformed as error:
        return "read", f"the reference refuses it: {error}"
    except RecursionError:
        return "too deep for the reference", ""
    return _compare(cases, products, meant, rng)


def _compare(
    cases: list[Case], products: Products, meant: reference.Specification, rng: np.random.Generator
) -> tuple[str, str]:
    n, d = len(meant.outputs), len(meant.inputs)
    ends = {float(v) for case in cases for v in (*case.region.lower[:50], *case.region.upper[:50])}
    offsets = {float(o) for case in cases for c in case.property.clauses[:50] for o in c.offset[:50]}
    values = sorted({-2.0, -1.0, -0.25, 0.0, 0.125, 0.5, 1.0, 3.0} | ends | offsets)
    for _ in range(POINTS):
        x, y = rng.choice(values, d), rng.choice(values, n)
        if cases and rng.random() < 0.8:  # else few points are in the box, and fewer at the edge of what is unsafe
            case = cases[rng.integers(len(cases))]
            clause = case.property.clauses[rng.integers(len(case.property.clauses))]
            x = np.where(rng.random(d) < 0.5, case.region.lower, np.clip(x, case.region.lower, case.region.upper))
            x, y = _toward(clause, x, y, len(products.factors), rng)
        point = dict(zip([*meant.outputs, *meant.inputs], map(Fraction, [*y, *x]), strict=True))
        try:
            expected = meant.unsafe(point)
        except RecursionError:
            return "too deep for the reference", ""
        except (ZeroDivisionError, OverflowError) as error:
            return "read", f"the reference says {error}"
        z = np.concatenate([y, x])
        factors = [np.prod(list(map(Fraction, z[list(f)].tolist()))) for f in products.factors]
        if any(Fraction(float(f)) != f for f in factors):
            continue
        whole = np.concatenate([y, np.array(factors, np.float64), x])
        found = any(
            case.region.contains(x) and any(c.unsafe(whole[: c.matrix.shape[1]]) for c in case.property.clauses)
            for case in cases
        )
        if found != expected:
            return "read", f"at {point} the file says {expected}, certify {found}"
    return "same meaning", ""


def _toward(
    clause: Clause, x: np.ndarray, y: np.ndarray, products: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A point next to this one where, in turn, rows of the clause become tight, or nearly so; products count as 0."""
    n = len(y)
    z = np.concatenate([y, np.zeros(products), x])[: clause.matrix.shape[1]]
    for at in rng.permutation(len(clause.offset))[:20]:
        row, offset = clause.matrix[at], clause.offset[at]
        support = [c for c in np.flatnonzero(row) if not n <= c < n + products]
        if not support:
            continue
        c = support[rng.integers(len(support))] if rng.random() < 0.3 else support[0]
        rest = sum(Fraction(row[j]) * Fraction(z[j]) for j in np.flatnonzero(row) if j != c)
        z[c] = float((Fraction(offset) - rest) / Fraction(row[c])) + rng.choice([0.0, 0.0, -0.25, 0.25])
    return (z[n + products :] if len(z) > n + products else x), z[:n]


def campaign(count: int, seed: int, path: Path) -> Report:
    """Damage and examine `count` files, each of them written to `path`."""
    report, began = Report(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        source = SOURCES[i % len(SOURCES)]
        raw = damage(source.text, rng)
        start = time.thread_time()
        what, problem = examine(raw, source, path, rng)
        spent = time.thread_time() - start
        report.slowest = max(report.slowest, spent)
        report.counts[what] += 1
        if spent > LIMIT:
            problem = problem or f"it took {spent:.1f} s"
        if problem:
            report.problems.append((problem, raw))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) * 1024
    if grown > MEMORY:
        report.problems.append((f"the run needed {grown >> 20} MiB more", b""))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.vnnlib", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.setrecursionlimit(100_000)  # for the reference, which knows no other way
    with tempfile.TemporaryDirectory() as folder:
        report = campaign(options.count, options.seed, Path(folder) / "damaged.vnnlib")
    for problem, raw in report.problems[:20]:
        print(f"--- {problem}\n{raw[:3000]!r}")
    counts = ", ".join(f"{n} {what}" for what, n in report.counts.most_common())
    print(f"{options.count} files: {counts}; {len(report.problems)} problems; the slowest took {report.slowest:.2f} s")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
