"""VNN-LIB: specifications as text. This is version 1.0; a file that begins with its version 2.0 is read by `vnnlib2`.

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

import re
from collections.abc import Iterable
from pathlib import Path

from certify.errors import EmptyRegion, MalformedSpec
from certify.spec.declarations import Declarations
from certify.spec.formula import INDEX, WHOLE_VARIABLE, Reader, Variables, short_cuts
from certify.spec.gather import to_cases
from certify.spec.normal_form import Conjunction, Normaliser
from certify.spec.products import Products
from certify.spec.query import Case
from certify.spec.tokens import Place, Scanner, file_blocks, line_blocks
from certify.spec.vnnlib2 import Parser, TensorReader, require_sizes

DECLARATION = re.compile(rf"\(\s*declare-const\s+([XY])_{INDEX}\s+Real\s*\)\s*", re.ASCII)
WITHOUT_MEANING = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "echo", "exit")
SIDES = {"X": "input", "Y": "output"}


def read_declarations(path: str | Path) -> Declarations | None:
    """What a file of version 2.0 declares; None for one of version 1.0, whose variables tell by their names what they
    are. Raises MalformedSpec, with line and column."""
    scanner = Scanner(file_blocks(path), str(path))
    if scanner.next() != "(" or scanner.next() != "vnnlib-version":
        return None
    return Parser(scanner).declarations()


def read_vnnlib(
    path: str | Path, inputs: int, outputs: int, *, allow_empty: bool = False, products: Products | None = None
) -> list[Case]:
    """The cases of a .vnnlib or .vnnlib.gz file, for a network of so many inputs and outputs (flattened).

    A file of version 2.0 may declare several networks: then these are all their inputs, and their hidden nodes and
    outputs, joined as `certify.spec.declarations` says. With `products`, its assertions may multiply variables; what
    they multiply is added to `products`, and clauses are over z = [y; products; x].

    Raises MalformedSpec, with line and column, for what cannot be read or does not fit the network, and
    EmptyRegion if no input satisfies the assertions; with `allow_empty`, there are then no cases. Warns
    (EmptyDisjunct) if some of the alternatives are empty, and leaves them out.
    """
    return _read(_Parser(Scanner(file_blocks(path), str(path)), inputs, outputs, products), allow_empty)


def parse_vnnlib(
    text: str | Iterable[str],
    inputs: int,
    outputs: int,
    *,
    path: str = "",
    allow_empty: bool = False,
    products: Products | None = None,
) -> list[Case]:
    """The same for a text, or for its lines; `path` is its name in messages."""
    blocks = [text] if isinstance(text, str) else line_blocks(text)
    return _read(_Parser(Scanner(blocks, path), inputs, outputs, products), allow_empty)


def _read(parser: _Parser, allow_empty: bool) -> list[Case]:
    parser.read()
    try:
        return to_cases(parser.root, parser.scanner.place(), *parser.sizes, parser.products)
    except EmptyRegion:
        if allow_empty:
            return []
        raise


class _Parser:
    """Reads commands one by one; `root` then holds what was asserted."""

    def __init__(self, scanner: Scanner, inputs: int, outputs: int, products: Products | None) -> None:
        self.scanner = scanner
        self.products = products
        self.variables = Variables(inputs, outputs)
        self.sizes = inputs, outputs
        self.first, self.second = True, False  # whether no command was read yet; whether this is version 2.0
        self.last_declared: dict[str, Place] = {}
        self.root = Conjunction(Place(1, 1), Normaliser(scanner.path))
        self.reader = Reader(scanner, self.variables, self.root)

    def read(self) -> None:
        """Read everything. Raises MalformedSpec."""
        scanner, empty = self.scanner, True
        while not self.second:
            if not (self.reader.read_bounds() or short_cuts(scanner, DECLARATION, self._declare)):
                token = scanner.next()
                if not token:
                    break
                if token == ")":
                    raise scanner.error("a ')' without its '('", "remove it, or open the parenthesis it closes")
                if token != "(":
                    raise scanner.error(f"{token!r} outside any command", "put it into (assert ...), or remove it")
                self._command()
            empty = self.first = False
        if empty:
            raise scanner.error("the specification is empty", "declare X_i and Y_j and assert what is unsafe")
        if not self.second:
            self._require_all_declared()

    def _command(self) -> None:
        scanner = self.scanner
        place = scanner.place()
        command = scanner.next()
        if command == "assert":
            self.reader.read(place)
        elif command in ("declare-const", "declare-fun"):
            self._declaration(command, place)
        elif command == "vnnlib-version" and self.first:
            self._second_version()
        elif command in WITHOUT_MEANING:
            self._skip(place)
        elif not command:
            raise scanner.never_closed(place)
        else:
            remedy = "VNN-LIB 1.0 has declare-const (or declare-fun) and assert"
            raise scanner.error(f"unknown command {command!r}", remedy)

    def _second_version(self) -> None:
        """All that stands behind `(vnnlib-version`."""
        parser = Parser(self.scanner)
        declared = parser.declarations()
        require_sizes(self.scanner, declared, *self.sizes)
        self.root.normaliser.name = declared.input_name
        parser.assertions(TensorReader(self.scanner, self.root, declared, self.products))
        self.second = True

    def _skip(self, place: Place) -> None:
        depth = 1
        while depth:
            token = self.scanner.next()
            if not token:
                raise self.scanner.never_closed(place)
            depth += (token == "(") - (token == ")")

    def _declaration(self, command: str, place: Place) -> None:
        """The rest of a declaration that the short cut did not take."""
        scanner = self.scanner
        name = scanner.next()
        if not name:
            raise scanner.never_closed(place)
        found = WHOLE_VARIABLE.fullmatch(name)
        if not found:
            what = f"{name!r} is not the name of an input or output"
            raise scanner.error(what, "name inputs X_0, X_1, ... and outputs Y_0, Y_1, ...")
        if not self._declare(*found.groups()):
            raise self._undeclarable(*found.groups())
        for expected in ("(", ")", "Real", ")") if command == "declare-fun" else ("Real", ")"):
            token = scanner.next()
            if not token:
                raise scanner.never_closed(place)
            if token != expected:
                form = "(declare-fun X_0 () Real)" if command == "declare-fun" else "(declare-const X_0 Real)"
                raise scanner.error(f"{token!r} instead of {expected!r} in the declaration of {name}", f"write {form}")

    def _declare(self, letter: str, digits: str) -> bool:
        self.last_declared[letter] = self.scanner.place()
        return self.variables.declare(letter, digits)

    def _undeclarable(self, letter: str, digits: str) -> MalformedSpec:
        index, size, name = int(digits), len(self.variables.declared[letter]), f"{letter}_{digits}"
        if index < size:
            return self.scanner.error(f"{name} is declared a second time", "remove one of the declarations")
        side = SIDES[letter]
        what = f"{name} would be {side} number {index + 1}, but the network has {size} {side}{'s' * (size != 1)}"
        return self.scanner.error(what, "check that property and network belong together")

    def _require_all_declared(self) -> None:
        for letter, declared in self.variables.declared.items():
            missing = declared.find(0)
            if missing >= 0:
                side, count = SIDES[letter], sum(declared)
                what = f"{count} {side}s are declared, the network has {len(declared)} ({letter}_{missing} is missing)"
                remedy = "declare all of them, and check that property and network belong together"
                raise self.scanner.error(what, remedy, self.last_declared.get(letter))
