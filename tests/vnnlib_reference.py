"""A second reader of VNN-LIB, slow and plain: text -> nested lists -> truth at a point, in exact arithmetic.

It shares nothing with certify's reader. It knows what the two versions of the language allow, and where it is stricter
or laxer than certify this is said. A literal means the float64 nearest to it, and so does a quotient of two constants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import isinf, prod

Tree = "str | list[Tree]"
TOKEN = re.compile(r'[()]|;[^\n]*|"[^"]*"|\|[^|]*\||[^\s();]+', re.ASCII)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*"


class Malformed(Exception):
    """The text is no specification."""


@dataclass
class Tensor:
    name: str
    kind: str
    type: str
    shape: tuple[int, ...]


@dataclass
class Specification:
    """Names of scalars, inputs before outputs as certify has them, and what is asserted."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    asserted: list = field(default_factory=list)
    second: bool = False

    def unsafe(self, values: Mapping[str, Fraction]) -> bool:
        return all(truth(formula, values, self.second) for formula in self.asserted)


def trees(text: str) -> list:
    """The text as nested lists, without recursion."""
    root: list = []
    stack = [root]
    for token in TOKEN.findall(text):
        if token.startswith(";"):
            continue
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise Malformed("a ) too many")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise Malformed("a ( too many")
    return root


def read(text: str) -> Specification:
    """The specification. Raises Malformed."""
    commands = trees(text.removeprefix("\ufeff"))
    if not commands or not all(isinstance(c, list) and c and isinstance(c[0], str) for c in commands):
        raise Malformed("not a list of commands")
    return _second(commands) if commands[0][0] == "vnnlib-version" else _first(commands)


def _first(commands: list) -> Specification:
    found = Specification()
    for command in commands:
        match command:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                if not re.fullmatch(r"[XY]_(0|[1-9]\d*)", name, re.ASCII) or name in found.types:
                    raise Malformed(f"cannot declare {name}")
                found.types[name] = "real"
                (found.inputs if name[0] == "X" else found.outputs).append(name)
            case ["assert", formula]:
                check(formula, found)
                found.asserted.append(formula)
            case [
                ("set-logic" | "set-info" | "set-option" | "check-sat" | "get-model" | "get-value" | "echo" | "exit"),
                *_,
            ]:
                pass
            case _:
                raise Malformed(f"command {command}")
    for names, letter in ((found.inputs, "X"), (found.outputs, "Y")):
        names.sort(key=lambda name: int(name[2:]))
        if names != [f"{letter}_{i}" for i in range(len(names))]:
            raise Malformed("a gap among the variables")
    return found


def _second(commands: list) -> Specification:
    if commands[0] != ["vnnlib-version", "<2.0>"]:
        raise Malformed("version")
    found = Specification(second=True)
    networks: dict[str, tuple[list[Tensor], bool]] = {}
    for i, command in enumerate(commands[1:]):
        match command:
            case ["declare-network", str(name), *parts] if not found.asserted:
                if not re.fullmatch(NAME, name) or name in networks:
                    raise Malformed(f"network {name}")
                networks[name] = _network(parts, networks, found)
            case ["assert", formula] if networks:
                check(formula, found)
                found.asserted.append(formula)
            case _:
                raise Malformed(f"command {i}")
    if not found.asserted:
        raise Malformed("nothing asserted")
    return found


def _network(parts: list, networks: dict, found: Specification) -> tuple[list[Tensor], bool]:
    tensors: list[Tensor] = []
    same: list[list[str]] = []
    for part in parts:
        match part:
            case ["equal-to" | "isomorphic-to", str(other)]:
                if other not in networks or networks[other][1]:
                    raise Malformed(f"copy of {other}")
                same.append(part)
            case [("declare-input" | "declare-hidden" | "declare-output") as kind, str(name), str(type_), *rest]:
                tensors.append(_tensor(kind, name, type_, rest, found))
            case _:
                raise Malformed(f"{part} in a network")
    order = ["declare-input", "declare-hidden", "declare-output"]
    kinds = [order.index(t.kind) for t in tensors]
    if kinds != sorted(kinds) or 0 not in kinds or 2 not in kinds or len(same) > 1:
        raise Malformed("order of declarations")
    for command, other in same:
        mine, its = ([t for t in ts if t.kind != "declare-hidden"] for ts in (tensors, networks[other][0]))
        exact = command == "equal-to"
        if [(t.kind, t.shape, t.type if exact else "") for t in mine] != [
            (t.kind, t.shape, t.type if exact else "") for t in its
        ]:
            raise Malformed("copies differ")
    return tensors, bool(same)


def _tensor(kind: str, name: str, type_: str, rest: list, found: Specification) -> Tensor:
    if not all(isinstance(r, str) for r in rest):
        raise Malformed("brackets")
    text = " ".join(rest)
    shape = re.match(r"\[ ?(\d+(?: ?, ?\d+)*)? ?\]", text, re.ASCII)
    if not shape or not re.fullmatch(NAME, name) or any(n.split("[")[0] == name for n in found.types):
        raise Malformed(f"declaration of {name}")
    behind = text[shape.end() :].strip()
    if behind and not re.fullmatch(r'"[^"]+"', behind):
        raise Malformed("behind a shape")
    if kind == "declare-hidden" and not behind:
        raise Malformed("a hidden node without its name")
    sizes = tuple(int(n) for n in shape[1].split(",")) if shape[1] else ()
    if not 0 < prod(sizes) <= 100_000:
        raise Malformed("size")
    names = [name]
    for n in sizes:
        names = [f"{stem},{i}" for stem in names for i in range(n)]
    names = [re.sub(",", "[", n, count=1) + "]" if sizes else n for n in names]
    for n in names:
        found.types[n] = type_.lower()
    (found.inputs if kind == "declare-input" else found.outputs).extend(names)
    return Tensor(name, kind, type_.lower(), sizes)


# -- formulas


def spaced(formula: list) -> list:
    """A list with the pieces of `X[0, 1]` joined."""
    joined: list = []
    for part in formula:
        if joined and isinstance(part, str) and isinstance(joined[-1], str) and _open(joined[-1]):
            joined[-1] = re.sub(r" ?([\[\],]) ?", r"\1", f"{joined[-1]} {part}")
        else:
            joined.append(part)
    return joined


def _open(text: str) -> bool:
    return "[" in text and "]" not in text


def check(formula: object, found: Specification) -> None:
    """Raise Malformed unless the formula is one over declared variables."""
    compare = ("<=", ">=", "<", ">", "==", "!=") if found.second else ("<=", ">=", "<", ">", "=")
    if isinstance(formula, str):
        if formula not in ("true", "false"):
            raise Malformed(f"{formula} is no condition")
        return
    if not formula or not isinstance(formula[0], str):
        raise Malformed("no operator")
    op, *parts = formula
    if op in ("and", "or", "not"):
        if op == "not" and len(parts) != 1:
            raise Malformed("not of several")
        for part in parts:
            check(part, found)
    elif op in compare:
        parts = spaced(parts) if found.second else parts
        if len(parts) < 2:
            raise Malformed("a comparison of nothing")
        types = {t for part in parts for t in _types(part, found)}
        if len(types) > 1:
            raise Malformed("mixed types")
    else:
        raise Malformed(f"operator {op}")


def _types(term: object, found: Specification) -> set[str]:
    if isinstance(term, str):
        if NUMBER.fullmatch(term):
            if isinf(float(term)):
                raise Malformed("an infinite number")
            return set()
        name = _normal(term)
        if name not in found.types:
            raise Malformed(f"{term} is not declared")
        return {found.types[name]}
    if not term or term[0] not in ("+", "-", "*", "/"):
        raise Malformed("no operator")
    parts = spaced(term[1:]) if found.second else term[1:]
    if not parts or (term[0] == "/" and len(parts) < 2):
        raise Malformed("too few operands")
    return {t for part in parts for t in _types(part, found)}


def _normal(name: str) -> str:
    """An entry's name without leading zeros of its indices."""
    return re.sub(r"(?<=[\[,])0+(?=\d)", "", name) if "[" in name else name


def truth(formula: object, values: Mapping[str, Fraction], second: bool) -> bool:
    if isinstance(formula, str):
        return formula == "true"
    op, *parts = formula
    if op == "and":
        return all(truth(part, values, second) for part in parts)
    if op == "or":
        return any(truth(part, values, second) for part in parts)
    if op == "not":
        return not truth(parts[0], values, second)
    numbers = [value(part, values, second) for part in (spaced(parts) if second else parts)]
    pairs = list(pairwise(numbers))
    match op:
        case "<=":
            return all(a <= b for a, b in pairs)
        case ">=":
            return all(a >= b for a, b in pairs)
        case "<":
            return all(a < b for a, b in pairs)
        case ">":
            return all(a > b for a, b in pairs)
        case "!=":
            return not all(a == b for a, b in pairs)
    return all(a == b for a, b in pairs)


def value(term: object, values: Mapping[str, Fraction], second: bool) -> Fraction:
    if isinstance(term, str):
        return Fraction(float(term)) if NUMBER.fullmatch(term) else values[_normal(term)]
    parts = spaced(term[1:]) if second else term[1:]
    if term[0] == "/" and len(parts) == 2 and _constant(parts[0]) and _constant(parts[1]):
        above, below = (_literal(p, values, second) for p in parts)
        return Fraction(float(above / below))
    numbers = [value(part, values, second) for part in parts]
    if term[0] == "+":
        return sum(numbers, Fraction(0))
    if term[0] == "*":
        return prod(numbers, start=Fraction(1))
    if term[0] == "/":
        return numbers[0] / prod(numbers[1:], start=Fraction(1))
    return -numbers[0] if len(numbers) == 1 else numbers[0] - sum(numbers[1:], Fraction(0))


def _literal(term: object, values: Mapping[str, Fraction], second: bool) -> Fraction:
    """A constant of a quotient: a literal, perhaps negated, counts as it is written, unless its float64 is 0."""
    if isinstance(term, str):
        return Fraction(term) if float(term) else Fraction(0)
    if term[0] == "-" and len(term) == 2:
        return -_literal(term[1], values, second)
    return value(term, values, second)


def _constant(term: object) -> bool:
    if isinstance(term, str):
        return NUMBER.fullmatch(term) is not None
    return all(_constant(part) for part in term[1:])
