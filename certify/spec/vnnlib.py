"""VNN-LIB 1.0: specifications as text.

A specification is a list of `(assert F)`; together they say which (X, Y = network(X)) are *unsafe*. F is
made of `and`, `or`, `not` and the comparisons <=, >=, <, >, = of linear terms in the inputs X_i and the
outputs Y_j. What it means here:

- A literal means the float64 number nearest to it; so does the quotient of two constants, (/ 1 3).
  All else is exact. Where a number derived from several constants does not fit into float64, it is
  rounded so that the unsafe set only grows.
- Bounds on a single input make the region, closed; a strict one is also kept as a strict row.
- Every other comparison is a row over z = y, or over z = [y; x] where a row of the case reads inputs.
- Alternatives with one box are the clauses of one case. An alternative that says nothing but its box has
  the row 0 @ z <= 0: every input of the box is a counterexample.

Reading needs memory for the result and one block of text. It keeps its own stack, so nesting may be deep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from certify.errors import EmptyRegion
from certify.spec.gather import to_cases
from certify.spec.normal_form import Conjunct, Conjunction, Disjunction, Normaliser
from certify.spec.query import Case
from certify.spec.terms import (
    NotFloat,
    NotLinear,
    Row,
    Term,
    add,
    divide,
    is_float,
    multiply,
    negate,
    number,
    round_down,
    round_up,
    row,
    subtract,
    variable,
)
from certify.spec.tokens import Place, Scanner, file_blocks, line_blocks

_INDEX = r"(0|[1-9][0-9]{0,17})"
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
NUMBER = re.compile(_NUMBER)
VARIABLE = re.compile(f"([XY])_{_INDEX}")
# Short cuts for what nearly all of a large file is made of; `Scanner.next` reads the same, more slowly.
DECLARATION = re.compile(rf"\(\s*declare-const\s+([XY])_{_INDEX}\s+Real\s*\)\s*", re.ASCII)
BOUND = re.compile(rf"\(\s*assert\s+\(\s*([<>])=\s+X_{_INDEX}\s+({_NUMBER})\s*\)\s*\)\s*", re.ASCII)
ATOM = re.compile(rf"\(\s*([<>])=\s+([XY])_{_INDEX}\s+(?:([XY])_{_INDEX}|({_NUMBER}))\s*\)\s*", re.ASCII)

COMPARISONS = ("<=", ">=", "<", ">", "=")
ARITHMETIC = {"+": add, "-": subtract, "*": multiply, "/": divide}
WITHOUT_MEANING = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "echo", "exit")
SIDES = {"X": "input", "Y": "output"}


def read_vnnlib(path: str | Path, inputs: int, outputs: int, *, allow_empty: bool = False) -> list[Case]:
    """The cases of a .vnnlib or .vnnlib.gz file, for a network of so many inputs and outputs (flattened).

    Raises MalformedSpec, with line and column, for what cannot be read or does not fit the network, and
    EmptyRegion if no input satisfies the assertions; with `allow_empty`, there are then no cases. Warns
    (EmptyDisjunct) if some of the alternatives are empty, and leaves them out.
    """
    return _read(Scanner(file_blocks(path), str(path)), inputs, outputs, allow_empty)


def parse_vnnlib(
    text: str | Iterable[str], inputs: int, outputs: int, *, path: str = "", allow_empty: bool = False
) -> list[Case]:
    """The same for a text, or for its lines; `path` is its name in messages."""
    blocks = [text] if isinstance(text, str) else line_blocks(text)
    return _read(Scanner(blocks, path), inputs, outputs, allow_empty)


def _read(scanner: Scanner, inputs: int, outputs: int, allow_empty: bool) -> list[Case]:
    parser = _Parser(scanner, inputs, outputs)
    parser.read()
    try:
        return to_cases(parser.root, scanner.place(), parser.normaliser, inputs, outputs)
    except EmptyRegion:
        if allow_empty:
            return []
        raise


@dataclass(slots=True)
class _Logic:
    """An open `assert`, `and`, `or` or `not`: its parts go `into` a conjunction or disjunction.

    `not` turns its part's meaning over, so an `or` inside is a conjunction of what is turned over; an
    `and` within an `and` shares what it goes into, and only one that is `own` is closed with its formula.
    """

    op: str
    place: Place
    into: Conjunction | Disjunction
    negated: bool
    own: bool
    parts: int = 0


@dataclass(slots=True)
class _Terms:
    """An open comparison or arithmetic operator."""

    op: str
    place: Place
    terms: list[Term] = field(default_factory=list)


class _Parser:
    """Reads commands one by one; `root` then holds what was asserted."""

    def __init__(self, scanner: Scanner, inputs: int, outputs: int) -> None:
        self.scanner = scanner
        self.outputs = outputs
        self.declared = {"X": bytearray(inputs), "Y": bytearray(outputs)}
        self.declared_at: dict[str, Place] = {}
        self.normaliser = Normaliser(scanner.path)
        self.root = Conjunction(Place(1, 1))
        self.plain: dict[tuple[int | None, int | None], tuple[tuple[int, float], ...]] = {}

    # -- commands

    def read(self) -> None:
        """Read everything. Raises MalformedSpec."""
        scanner, empty = self.scanner, True
        while True:
            if not (self._short_cut(BOUND, self._bound) or self._short_cut(DECLARATION, self._declare)):
                token = scanner.next()
                if not token:
                    break
                if token == ")":
                    raise scanner.error("a ')' without its '('", "remove it, or open the parenthesis it closes")
                if token != "(":
                    raise scanner.error(f"{token!r} outside any command", "put it into (assert ...), or remove it")
                self._command()
            empty = False
        if empty:
            raise scanner.error("the specification is empty", "declare X_i and Y_j and assert what is unsafe")
        self._require_all_declared()

    def _short_cut(self, pattern: re.Pattern[str], use: Callable[..., bool], *more: object) -> bool:
        """Read a whole match of `pattern` at once, if there is one and `use` accepts it.

        It refuses whatever is wrong, which is then read token by token, so that one place knows all errors.
        """
        found = self.scanner.take(pattern)
        if found is None:
            return False
        if use(*found.groups(), *more):
            return True
        self.scanner.back()
        return False

    def _command(self) -> None:
        scanner = self.scanner
        place = scanner.place()
        command = scanner.next()
        if command == "assert":
            self._assertion(place)
        elif command in ("declare-const", "declare-fun"):
            self._declaration(command, place)
        elif command in WITHOUT_MEANING:
            self._skip(place)
        else:
            remedy = "VNN-LIB 1.0 has declare-const (or declare-fun) and assert"
            raise scanner.error(f"unknown command {command!r}", remedy)

    def _skip(self, place: Place) -> None:
        depth = 1
        while depth:
            token = self.scanner.next()
            if not token:
                raise self._never_closed(place)
            depth += (token == "(") - (token == ")")

    def _declaration(self, command: str, place: Place) -> None:
        """The rest of a declaration that the short cut did not take."""
        scanner = self.scanner
        name = scanner.next()
        found = VARIABLE.fullmatch(name)
        if not found:
            what = f"{name!r} is not the name of an input or output"
            raise scanner.error(what, "name inputs X_0, X_1, ... and outputs Y_0, Y_1, ...")
        if not self._declare(*found.groups()):
            raise self._undeclarable(*found.groups())
        for expected in ("(", ")", "Real", ")") if command == "declare-fun" else ("Real", ")"):
            token = scanner.next()
            if not token:
                raise self._never_closed(place)
            if token != expected:
                form = "(declare-fun X_0 () Real)" if command == "declare-fun" else "(declare-const X_0 Real)"
                raise scanner.error(f"{token!r} instead of {expected!r} in the declaration of {name}", f"write {form}")

    def _declare(self, letter: str, digits: str) -> bool:
        index, declared = int(digits), self.declared[letter]
        if index >= len(declared) or declared[index]:
            return False
        declared[index] = 1
        self.declared_at[letter] = self.scanner.place()
        return True

    def _undeclarable(self, letter: str, digits: str) -> Exception:
        index, size, name = int(digits), len(self.declared[letter]), f"{letter}_{digits}"
        if index < size:
            return self.scanner.error(f"{name} is declared a second time", "remove one of the declarations")
        side = SIDES[letter]
        what = f"{name} would be {side} number {index + 1}, but the network has {size} {side}{'s' * (size != 1)}"
        return self.scanner.error(what, "check that property and network belong together")

    def _require_all_declared(self) -> None:
        for letter, declared in self.declared.items():
            missing = declared.find(0)
            if missing >= 0:
                side, count = SIDES[letter], sum(declared)
                what = f"{count} {side}s are declared, the network has {len(declared)} ({letter}_{missing} is missing)"
                remedy = "declare all of them, and check that property and network belong together"
                raise self.scanner.error(what, remedy, self.declared_at.get(letter))

    # -- formulas

    def _assertion(self, place: Place) -> None:
        """Read `F)` behind `(assert`, with a stack of what is open."""
        scanner = self.scanner
        stack: list[_Logic | _Terms] = [_Logic("assert", place, self.root, negated=False, own=False)]
        while stack:
            frame = stack[-1]
            logic = isinstance(frame, _Logic)
            if logic and not frame.negated and self._short_cut(ATOM, self._atom, frame.into):
                frame.parts += 1
                continue
            token = scanner.next()
            if token == "(":
                stack.append(self._open_formula(frame) if logic else self._open_term())
            elif token == ")":
                stack.pop()
                if logic:
                    self._close_formula(frame, stack)
                else:
                    self._close_term(frame, stack[-1])
            elif not token:
                raise self._never_closed(frame.place)
            elif logic:
                frame.parts += 1
                self._truth(frame, token)
            else:
                frame.terms.append(self._operand(token))

    def _open_formula(self, frame: _Logic) -> _Logic | _Terms:
        scanner = self.scanner
        place, op = scanner.place(), scanner.next()
        frame.parts += 1
        if op in COMPARISONS:
            return _Terms(op, place)
        if op == "not":
            return _Logic(op, place, frame.into, not frame.negated, own=False)
        if op in ("and", "or"):
            wanted = Disjunction if (op == "or") != frame.negated else Conjunction
            own = not isinstance(frame.into, wanted)
            return _Logic(op, place, wanted(place) if own else frame.into, frame.negated, own)
        if op in ("assert", "declare-const", "declare-fun"):
            line, column = frame.place
            what = f"{op!r} inside the '({frame.op}' of line {line}, column {column}"
            raise scanner.error(what, "a ')' is missing before")
        if op in ARITHMETIC:
            raise scanner.error(f"{op!r} makes a number where a condition belongs", "compare it with something")
        raise scanner.error(f"unknown operator {op!r}", f"use and, or, not, {', '.join(COMPARISONS)}")

    def _open_term(self) -> _Terms:
        place, op = self.scanner.place(), self.scanner.next()
        if op not in ARITHMETIC:
            remedy = f"terms are made with {', '.join(ARITHMETIC)}"
            raise self.scanner.error(f"unknown operator {op!r} in a term", remedy)
        return _Terms(op, place)

    def _close_formula(self, frame: _Logic, stack: list[_Logic | _Terms]) -> None:
        if frame.op in ("assert", "not") and frame.parts != 1:
            what = f"'{frame.op}' has {frame.parts} conditions instead of one"
            raise self.scanner.error(what, "join them by and", frame.place)
        if frame.own:
            stack[-1].into.add(self.normaliser.close(frame.into))

    def _close_term(self, frame: _Terms, parent: _Logic | _Terms) -> None:
        if isinstance(parent, _Logic):
            self._compare(frame, parent)
            return
        if not frame.terms or (frame.op == "/" and len(frame.terms) == 1):
            raise self.scanner.error(f"{frame.op!r} has too few operands", "give it two", frame.place)
        try:
            parent.terms.append(ARITHMETIC[frame.op](frame.terms))
        except NotLinear as error:
            raise self.scanner.error(
                f"{error}: only linear terms can be read", "keep all factors but one constant", frame.place
            ) from error
        except (NotFloat, ZeroDivisionError) as error:
            raise self.scanner.error(str(error), "give finite numbers", frame.place) from error

    def _operand(self, token: str) -> Term:
        if found := VARIABLE.fullmatch(token):
            column = self._column(*found.groups())
            if column is None:
                raise self.scanner.error(f"{token} is not declared", f"put (declare-const {token} Real) before")
            return variable(column)
        if NUMBER.fullmatch(token):
            if math.isinf(float(token)):
                raise self.scanner.error(f"the number {token} is not finite in float64", "give a finite number")
            return number(token)
        raise self.scanner.error(f"{token!r} is neither a number nor a variable X_i or Y_j", "correct it")

    def _column(self, letter: str, digits: str) -> int | None:
        """Where a variable is in z = [y; x]; None if it is not declared."""
        index, declared = int(digits), self.declared[letter]
        if index >= len(declared) or not declared[index]:
            return None
        return index if letter == "Y" else self.outputs + index

    def _never_closed(self, place: Place) -> Exception:
        return self.scanner.error("this '(' is never closed", "add the missing ')'", place)

    # -- conditions

    def _truth(self, frame: _Logic, token: str) -> None:
        if token not in ("true", "false"):
            remedy = f"use and, or, not, {', '.join(COMPARISONS)}, in parentheses"
            raise self.scanner.error(f"{token!r} is not a condition", remedy)
        target = frame.into.target(self.scanner.place)
        if (token == "true") == frame.negated:
            target.fail("'false' never holds", self.scanner.place())

    def _bound(self, side: str, digits: str, text: str) -> bool:
        """The short cut for an assertion X_i <= c or X_i >= c."""
        column, value = self._column("X", digits), float(text) + 0.0  # never -0.0
        if column is None or math.isinf(value):
            return False
        self._tighten(self.root.base, column - self.outputs, side, value)
        return True

    def _tighten(self, conjunct: Conjunct, index: int, side: str, value: float) -> None:
        crossing = conjunct.tighten(index, *((-math.inf, value) if side == "<" else (value, math.inf)))
        if crossing:
            conjunct.fail(crossing, self.scanner.place())

    def _atom(
        self,
        side: str,
        letter: str,
        digits: str,
        other_letter: str | None,
        other_digits: str | None,
        text: str | None,
        into: Conjunction | Disjunction,
    ) -> bool:
        """The short cut for a variable <= or >= a literal or another variable."""
        column = self._column(letter, digits)
        if column is None:
            return False
        if text is None:
            other = self._column(other_letter, other_digits)
            if other is None or other == column:
                return False
            pair = (column, other) if side == "<" else (other, column)
            into.target(self.scanner.place).rows.append(Row(self._plain(*pair), 0.0, False))
            return True
        value = float(text) + 0.0
        if math.isinf(value):
            return False
        target = into.target(self.scanner.place)
        if letter == "X":
            self._tighten(target, column - self.outputs, side, value)
        elif side == "<":
            target.rows.append(Row(self._plain(column, None), value, False))
        else:
            target.rows.append(Row(self._plain(None, column), 0.0 - value, False))
        return True

    def _plain(self, plus: int | None, minus: int | None) -> tuple[tuple[int, float], ...]:
        """The terms of z[plus] - z[minus], one object for all rows that have them."""
        terms = self.plain.get((plus, minus))
        if terms is None:
            signed = [(plus, 1.0)] if plus is not None else []
            signed += [(minus, -1.0)] if minus is not None else []
            terms = self.plain[plus, minus] = tuple(sorted(signed))
        return terms

    def _compare(self, frame: _Terms, parent: _Logic) -> None:
        """A comparison of two terms, or of each with the next."""
        if len(frame.terms) < 2:
            raise self.scanner.error(f"{frame.op!r} compares fewer than two terms", "give it two", frame.place)
        parts: list[tuple[Term, bool]] = []  # differences that must all be <= 0, or < 0
        for left, right in pairwise(frame.terms):
            difference, strict = subtract([left, right]), frame.op in ("<", ">")
            if frame.op in ("<=", "<", "="):
                parts.append((difference, strict))
            if frame.op in (">=", ">", "="):
                parts.append((negate(difference), strict))
        if not parent.negated:
            target = parent.into.target(lambda: frame.place)
            for difference, strict in parts:
                self._impose(target, difference, strict, frame.place)
            return
        alternatives = [Conjunct(frame.place) for _ in parts]
        for conjunct, (difference, strict) in zip(alternatives, parts, strict=True):
            self._impose(conjunct, negate(difference), not strict, frame.place)
        parent.into.add([c for c in alternatives if not c.failure] or alternatives[:1])

    def _impose(self, conjunct: Conjunct, difference: Term, strict: bool, place: Place) -> None:
        """difference <= 0, or < 0 where strict."""
        coefficients, offset = difference.coefficients, -difference.constant
        if not coefficients:
            if offset < 0 or (strict and offset == 0):
                conjunct.fail("a comparison of constants is false", place)
            return
        (column, coefficient), *others = coefficients.items()
        if not others and column >= self.outputs:
            limit = offset / coefficient
            ends = (-math.inf, round_up(limit)) if coefficient > 0 else (round_down(limit), math.inf)
            if crossing := conjunct.tighten(column - self.outputs, *ends):
                conjunct.fail(crossing, place)
            if not strict and is_float(limit):
                return  # the closed bound says all; else the row says what it does not
        try:
            conjunct.rows.append(row(coefficients, offset, strict))
        except NotFloat as error:
            raise self.scanner.error(str(error), "write fewer or shorter constants", place) from error
