"""Assertions of a specification as text: conditions and terms, read with a stack of what is open.

`Variables` knows what is declared, `Reader` what the text says; what is asserted goes into a `Conjunction`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from certify.spec.normal_form import Conjunct, Conjunction, Disjunction
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
from certify.spec.tokens import Place, Scanner

INDEX = r"(0|[1-9][0-9]{0,17})"
NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
WHOLE_NUMBER = re.compile(NUMBER)
WHOLE_VARIABLE = re.compile(f"([XY])_{INDEX}")
# Short cuts for what nearly all of a large file is made of; `Scanner.next` reads the same, more slowly.
BOUND = re.compile(rf"\(\s*assert\s+\(\s*([<>])=\s+X_{INDEX}\s+({NUMBER})\s*\)\s*\)\s*", re.ASCII)
ATOM = re.compile(rf"\(\s*([<>])=\s+([XY])_{INDEX}\s+(?:([XY])_{INDEX}|({NUMBER}))\s*\)\s*", re.ASCII)

COMPARISONS = ("<=", ">=", "<", ">", "=")
EQUAL = ("=", "==", "!=")
"""The last one is the opposite of the others."""
ARITHMETIC = {"+": add, "-": subtract, "*": multiply, "/": divide}


def short_cuts(scanner: Scanner, pattern: re.Pattern[str], use: Callable[..., bool], *more: object) -> int:
    """Read whole matches of `pattern`, as long as they come and `use` accepts them; how many these are.

    It refuses whatever is wrong, which is then read token by token, so that one place knows all errors.
    """
    count = 0
    for found in scanner.run(pattern):
        if not use(*found.groups(), *more):
            scanner.back()
            break
        count += 1
    return count


class Variables:
    """Which inputs X_i and outputs Y_j are declared, of those that the network has."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.outputs = outputs
        self.declared = {"X": bytearray(inputs), "Y": bytearray(outputs)}

    def declare(self, letter: str, digits: str) -> bool:
        """Declare a variable; False if the network does not have it, or it is declared already."""
        index, declared = int(digits), self.declared[letter]
        if index >= len(declared) or declared[index]:
            return False
        declared[index] = 1
        return True

    def column(self, letter: str, digits: str) -> int | None:
        """Where a variable is in z = [y; x]; None if it is not declared."""
        index, declared = int(digits), self.declared[letter]
        if index >= len(declared) or not declared[index]:
            return None
        return index if letter == "Y" else self.outputs + index


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


class Reader:
    """Reads assertions into `root`."""

    comparisons: tuple[str, ...] = COMPARISONS
    atom = ATOM

    def __init__(self, scanner: Scanner, variables: Variables, root: Conjunction) -> None:
        self.scanner = scanner
        self.variables = variables
        self.root = root
        self.arithmetic: dict[str, Callable[[Sequence[Term]], Term]] = ARITHMETIC
        self.plain: dict[tuple[int | None, int | None], tuple[tuple[int, float], ...]] = {}

    def read_bounds(self) -> int:
        """Read as many whole assertions X_i <= c or X_i >= c as there come; how many these are."""
        return short_cuts(self.scanner, BOUND, self._bound)

    def _bound(self, side: str, digits: str, text: str) -> bool:
        column, value = self.variables.column("X", digits), float(text) + 0.0  # never -0.0
        if column is None or math.isinf(value):
            return False
        lower, upper = (-math.inf, value) if side == "<" else (value, math.inf)
        self.root.base.tighten(column - self.variables.outputs, lower, upper, self.scanner.place)
        return True

    def read(self, place: Place) -> None:
        """Read `F)` behind `(assert`, whose parenthesis is at `place`."""
        scanner = self.scanner
        stack: list[_Logic | _Terms] = [_Logic("assert", place, self.root, negated=False, own=False)]
        while stack:
            frame = stack[-1]
            logic = isinstance(frame, _Logic)
            if logic and not frame.negated:
                frame.parts += short_cuts(scanner, self.atom, self._atom, frame.into)
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
                raise scanner.never_closed(frame.place)
            elif logic:
                frame.parts += 1
                self._truth(frame, token)
            else:
                frame.terms.append(self._operand(token))

    def _open_formula(self, frame: _Logic) -> _Logic | _Terms:
        scanner = self.scanner
        place, op = scanner.place(), scanner.next()
        if not op:
            raise scanner.never_closed(place)
        frame.parts += 1
        if op in self.comparisons:
            self._begin_comparison()
            return _Terms(op, place)
        if op == "not":
            return _Logic(op, place, frame.into, not frame.negated, own=False)
        if op in ("and", "or"):
            wanted = Disjunction if (op == "or") != frame.negated else Conjunction
            own = not isinstance(frame.into, wanted)
            into = wanted(place, self.root.normaliser) if own else frame.into
            return _Logic(op, place, into, frame.negated, own)
        if op in ("assert", "declare-const", "declare-fun"):
            line, column = frame.place
            what = f"{op!r} inside the '({frame.op}' of line {line}, column {column}"
            raise scanner.error(what, "a ')' is missing before")
        if op in ARITHMETIC:
            raise scanner.error(f"{op!r} makes a number where a condition belongs", "compare it with something")
        raise scanner.error(f"unknown operator {op!r}", f"use and, or, not, {', '.join(self.comparisons)}")

    def _begin_comparison(self) -> None:
        """A comparison is opened; for those who must know which terms belong to it."""

    def _open_term(self) -> _Terms:
        place, op = self.scanner.place(), self.scanner.next()
        if not op:
            raise self.scanner.never_closed(place)
        if op not in ARITHMETIC:
            remedy = f"terms are made with {', '.join(ARITHMETIC)}"
            raise self.scanner.error(f"unknown operator {op!r} in a term", remedy)
        return _Terms(op, place)

    def _close_formula(self, frame: _Logic, stack: list[_Logic | _Terms]) -> None:
        if frame.op in ("assert", "not") and frame.parts != 1:
            what = f"'{frame.op}' has {frame.parts} conditions instead of one"
            raise self.scanner.error(what, "join them by and", frame.place)
        if frame.own:
            stack[-1].into.add(frame.into.close())

    def _close_term(self, frame: _Terms, parent: _Logic | _Terms) -> None:
        if isinstance(parent, _Logic):
            self._compare(frame, parent)
            return
        if not frame.terms or (frame.op == "/" and len(frame.terms) == 1):
            raise self.scanner.error(f"{frame.op!r} has too few operands", "give it two", frame.place)
        try:
            term = self.arithmetic[frame.op](frame.terms)
        except NotLinear as error:
            raise self.scanner.error(
                f"{error}: only linear terms can be read", "keep all factors but one constant", frame.place
            ) from error
        except ZeroDivisionError as error:
            raise self.scanner.error("division by zero", "give another divisor", frame.place) from error
        except NotFloat as error:
            raise self.scanner.error(str(error), "give finite numbers", frame.place) from error
        parent.terms.append(term)
        self.root.normaliser.work += len(term.coefficients)
        self.root.normaliser.limit(0, frame.place)

    def _operand(self, token: str) -> Term:
        if found := WHOLE_VARIABLE.fullmatch(token):
            column = self.variables.column(*found.groups())
            if column is None:
                raise self.scanner.error(f"{token} is not declared", f"put (declare-const {token} Real) before")
            return variable(column)
        if WHOLE_NUMBER.fullmatch(token):
            if math.isinf(float(token)):
                raise self.scanner.error(f"the number {token} is not finite in float64", "give a finite number")
            return number(token)
        raise self.scanner.error(f"{token!r} is neither a number nor a variable X_i or Y_j", "correct it")

    def _truth(self, frame: _Logic, token: str) -> None:
        if token not in ("true", "false"):
            remedy = f"use and, or, not, {', '.join(self.comparisons)}, in parentheses"
            raise self.scanner.error(f"{token!r} is not a condition", remedy)
        target = frame.into.target(self.scanner.place)
        if (token == "true") == frame.negated:
            target.fail("'false' never holds", self.scanner.place())

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
        column = self.variables.column(letter, digits)
        if column is None:
            return False
        if text is None:
            other = self.variables.column(other_letter, other_digits)
            if other is None or other == column:
                return False
            pair = (column, other) if side == "<" else (other, column)
            into.target(self.scanner.place).rows.append(Row(self._plain(*pair), 0.0, False))
            return True
        value = float(text) + 0.0
        if math.isinf(value):
            return False
        self._impose_bound(side, column, value, into)
        return True

    def _impose_bound(self, side: str, column: int, value: float, into: Conjunction | Disjunction) -> None:
        """z[column] <= value (`side` "<") or >= value."""
        target = into.target(self.scanner.place)
        if column >= self.variables.outputs:
            lower, upper = (-math.inf, value) if side == "<" else (value, math.inf)
            target.tighten(column - self.variables.outputs, lower, upper, self.scanner.place)
        elif side == "<":
            target.rows.append(Row(self._plain(column, None), value, False))
        else:
            target.rows.append(Row(self._plain(None, column), 0.0 - value, False))

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
            if frame.op in ("<=", "<", *EQUAL):
                parts.append((difference, strict))
            if frame.op in (">=", ">", *EQUAL):
                parts.append((negate(difference), strict))
        if parent.negated == (frame.op == "!="):
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
        if not others and column >= self.variables.outputs:
            limit = offset / coefficient
            ends = (-math.inf, round_up(limit)) if coefficient > 0 else (round_down(limit), math.inf)
            conjunct.tighten(column - self.variables.outputs, *ends, lambda: place)
            if not strict and is_float(limit):
                return  # the closed bound says all; else the row says what it does not
        try:
            conjunct.rows.append(row(coefficients, offset, strict))
        except NotFloat as error:
            raise self.scanner.error(str(error), "write fewer or shorter constants", place) from error
