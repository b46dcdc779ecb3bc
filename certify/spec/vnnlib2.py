"""VNN-LIB 2.0 behind its version: one declared network, whose variables are tensors.

    (declare-network f (declare-input X float32 [1, 5]) (declare-output Y float32 [1, 2]))
    (assert (or (>= (+ Y[0,0] (* -2 X[0,1])) 1.5) (!= Y[0,1] Y[0,0])))

Inputs and outputs are those of the network, in its order; their types are what the network stores, and its arithmetic
is exact, as everywhere in certify. Several networks and hidden nodes are refused. Conditions mean what they mean in
version 1.0; `==` and `!=` are the equality and its opposite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from certify.errors import MalformedSpec
from certify.spec.formula import WHOLE_NUMBER, Reader, Variables
from certify.spec.normal_form import Conjunction
from certify.spec.terms import Term, variable
from certify.spec.tokens import Place, Scanner

NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*"
ELEMENT = re.compile(rf"({NAME})(?:\[([0-9,]*)\])?", re.ASCII)
SHAPE = re.compile(r"\[(|[0-9]+(?:,[0-9]+)*)\]", re.ASCII)
TYPES = ("real", "float16", "float32", "float64", "bfloat16")
KINDS = {"declare-input": "input", "declare-output": "output"}
COMPARISONS = ("<=", ">=", "<", ">", "==", "!=")


@dataclass(frozen=True)
class Tensor:
    """A declared variable: its shape, and the column of z = [y; x] at which its entries begin, in C order."""

    shape: tuple[int, ...]
    first: int

    def column(self, index: tuple[int, ...]) -> int | None:
        """Where an entry is; None if there is no such entry."""
        if len(index) != len(self.shape) or any(i >= n for i, n in zip(index, self.shape, strict=True)):
            return None
        place = 0
        for i, n in zip(index, self.shape, strict=True):
            place = place * n + i
        return self.first + place


class TensorReader(Reader):
    """Reads assertions over entries of declared tensors."""

    comparisons = COMPARISONS

    def __init__(self, scanner: Scanner, variables: Variables, root: Conjunction, tensors: dict[str, Tensor]) -> None:
        super().__init__(scanner, variables, root)
        self.tensors = tensors

    def _operand(self, token: str) -> Term:
        token = joined(self.scanner, token)
        if WHOLE_NUMBER.fullmatch(token):
            return super()._operand(token)
        found = ELEMENT.fullmatch(token)
        tensor = self.tensors.get(found[1]) if found else None
        if tensor is None:
            raise self.scanner.error(f"{token!r} is neither a number nor an entry of what is declared", "correct it")
        index = tuple(int(i) for i in found[2].split(",")) if found[2] and not found[2].endswith(",") else ()
        column = tensor.column(index)
        if column is None:
            what = f"{token} is no entry of {found[1]}, whose shape is {list(tensor.shape)}"
            raise self.scanner.error(what, "give one number per axis, each counted from 0")
        return variable(column)


def joined(scanner: Scanner, token: str) -> str:
    """A token with the rest of its brackets, which may hold spaces."""
    place = scanner.place()
    while "[" in token and "]" not in token:
        more = scanner.next()
        if not more or more in "()":
            raise scanner.error(f"the '[' of {token!r} is never closed", "write indices as [0,1]", place)
        token += more
    return token


class Parser:
    """Reads what stands behind `(vnnlib-version`; `root` then holds what was asserted."""

    def __init__(self, scanner: Scanner, inputs: int, outputs: int, root: Conjunction) -> None:
        self.scanner, self.root = scanner, root
        self.sizes = {"input": inputs, "output": outputs}
        self.declared = {"input": 0, "output": 0}
        self.tensors: dict[str, Tensor] = {}
        self.reader = TensorReader(scanner, Variables(inputs, outputs), root, self.tensors)

    def read(self) -> None:
        """Read everything. Raises MalformedSpec."""
        scanner = self.scanner
        self._expect("<2.0>", "certify reads versions 1.0 (without this line) and 2.0")
        self._expect(")", "write (vnnlib-version <2.0>)")
        declared = False
        while token := scanner.next():
            if token != "(":
                raise scanner.error(f"{token!r} outside any command", "put it into (assert ...), or remove it")
            place, command = scanner.place(), scanner.next()
            if command == "declare-network":
                if declared:
                    raise self._refused("a second network", place)
                self._network(place)
                declared = True
            elif command == "assert" and declared:
                self.reader.read(place)
            elif not command:
                raise scanner.never_closed(place)
            else:
                remedy = "VNN-LIB 2.0 has declare-network, and behind it assert"
                raise scanner.error(f"unknown command {command!r}" if declared else f"{command!r} comes first", remedy)
        if not declared:
            raise scanner.error("no network is declared", "put (declare-network ...) before the assertions")

    def _refused(self, what: str, place: Place) -> MalformedSpec:
        return self.scanner.error(f"{what} cannot be read yet", "ask about one network's inputs and outputs", place)

    def _expect(self, token: str, remedy: str) -> None:
        found = self.scanner.next()
        if found != token:
            raise self.scanner.error(f"{found!r} instead of {token!r}" if found else f"{token!r} is missing", remedy)

    def _network(self, place: Place) -> None:
        scanner = self.scanner
        name = scanner.next()
        if not re.fullmatch(NAME, name):
            raise scanner.error(f"{name!r} is no name of a network", "write (declare-network f ...)")
        while (token := scanner.next()) == "(":
            inner, command = scanner.place(), scanner.next()
            if command in KINDS:
                self._variable(KINDS[command])
            elif command in ("declare-hidden", "equal-to", "isomorphic-to"):
                raise self._refused(f"({command} ...)", inner)
            else:
                raise scanner.error(f"{command!r} in a network", f"use {' and '.join(KINDS)}")
        if token != ")":
            raise scanner.error(f"{token!r} in a network", "add a ')'") if token else scanner.never_closed(place)
        for kind, size in self.sizes.items():
            if self.declared[kind] != size:
                what = f"the {kind}s of {name} have {self.declared[kind]} entries, those of the network {size}"
                raise scanner.error(what, "check that property and network belong together", place)

    def _variable(self, kind: str) -> None:
        """`X float32 [1, 5])`."""
        scanner = self.scanner
        name = scanner.next()
        if not re.fullmatch(NAME, name):
            raise scanner.error(f"{name!r} is no name of a variable", "write (declare-input X float32 [1, 5])")
        if name in self.tensors:
            raise scanner.error(f"{name} is declared a second time", "remove one of the declarations")
        if scanner.next().lower() not in TYPES:
            raise scanner.error(f"{name} has no type that certify knows", f"use one of {', '.join(TYPES)}")
        found = SHAPE.fullmatch(joined(scanner, scanner.next()))
        if found is None:
            raise scanner.error(f"{name} has no shape", "write it as [1, 5]")
        shape = tuple(int(n) for n in found[1].split(",")) if found[1] else ()
        self._expect(")", "a declaration has a name, a type and a shape")
        first = self.declared[kind] + (self.sizes["output"] if kind == "input" else 0)
        self.tensors[name] = Tensor(shape, first)
        self.declared[kind] += prod(shape)
