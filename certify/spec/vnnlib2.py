"""VNN-LIB 2.0 behind its version: declared networks, and assertions over entries of their tensors.

    (declare-network f (declare-input X real [1, 5]) (declare-output Y real [1, 2]))
    (assert (or (>= (+ Y[0,0] (* -2 X[0,1])) 1.5) (!= Y[0,1] Y[0,0])))

Conditions mean what they mean in version 1.0; `==` and `!=` are the equality and its opposite. All variables of a
comparison must have one type. Products of variables are read where the caller keeps a list of them (`Products`).
"""

from __future__ import annotations

import math
import re

from certify.spec.declarations import NAME, REMEDY, Declarations, Declared, Kind, Variable, expect, joined, read_network
from certify.spec.formula import NUMBER, WHOLE_NUMBER, Reader, Variables
from certify.spec.normal_form import Conjunction, Disjunction
from certify.spec.products import Products
from certify.spec.terms import Term, variable
from certify.spec.tokens import Scanner

INDICES = r"[0-9]{1,18}(?:,[0-9]{1,18})*"
ELEMENT = re.compile(rf"({NAME})(?:\[({INDICES})\])?", re.ASCII)
# The short cut for what nearly all of a large file is made of.
ATOM = re.compile(rf"\(\s*([<>])=\s+({NAME})\[({INDICES})\]\s+({NUMBER})\s*\)\s*", re.ASCII)
COMPARISONS = ("<=", ">=", "<", ">", "==", "!=")


class TensorReader(Reader):
    """Reads assertions over entries of declared tensors."""

    comparisons = COMPARISONS
    atom = ATOM

    def __init__(
        self, scanner: Scanner, root: Conjunction, declared: Declarations, products: Products | None = None
    ) -> None:
        super().__init__(scanner, Variables(declared.inputs, declared.outputs), root)
        self.tensors = {v.name: v for v in declared.variables}
        self.first = declared.first
        self.products = products
        if products is not None:
            self.arithmetic = {**self.arithmetic, "*": products.multiply}
        self._typed: Variable | None = None  # the first variable of the comparison that is read

    def _begin_comparison(self) -> None:
        self._typed = None

    def _column(self, tensor: Variable, indices: str | None) -> int | None:
        """Where an entry is in z; None if there is no such entry."""
        index = tuple(int(i) for i in indices.split(",")) if indices else ()
        if len(index) != len(tensor.shape) or any(i >= n for i, n in zip(index, tensor.shape, strict=True)):
            return None
        place = 0
        for i, n in zip(index, tensor.shape, strict=True):
            place = place * n + i
        return self.first[tensor.name] + place

    def _operand(self, token: str) -> Term:
        token = joined(self.scanner, token)
        if WHOLE_NUMBER.fullmatch(token):
            return super()._operand(token)
        found = ELEMENT.fullmatch(token)
        tensor = self.tensors.get(found[1]) if found else None
        if tensor is None:
            raise self.scanner.error(f"{token!r} is neither a number nor an entry of what is declared", "correct it")
        column = self._column(tensor, found[2])
        if column is None:
            what = f"{token} is no entry of {found[1]}, whose shape is {list(tensor.shape)}"
            raise self.scanner.error(what, "give one number per axis, each counted from 0")
        first = self._typed = self._typed or tensor
        if first.type != tensor.type:
            what = f"{tensor.name} of type {tensor.type} is in one comparison with {first.name} of type {first.type}"
            raise self.scanner.error(what, "declare both with one type, such as real")
        return variable(column)

    def _atom(self, side: str, name: str, indices: str, text: str, into: Conjunction | Disjunction) -> bool:
        """The short cut for an entry <= or >= a literal."""
        tensor, value = self.tensors.get(name), float(text) + 0.0  # never -0.0
        column = None if tensor is None else self._column(tensor, indices)
        if column is None or math.isinf(value):
            return False
        self._impose_bound(side, column, value, into)
        return True


class Parser:
    """Reads what stands behind `(vnnlib-version`."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner

    def declarations(self) -> Declarations:
        """Read up to the first assertion, of which `(assert` is read. Raises MalformedSpec."""
        scanner, found = self.scanner, dict[str, Declared]()
        expect(scanner, "<2.0>", "certify reads versions 1.0 (without this line) and 2.0")
        expect(scanner, ")", "write (vnnlib-version <2.0>)")
        while command := self._command():
            if command == "declare-network":
                network = read_network(scanner, found)
                found[network.name] = network
            elif command == "assert" and found:
                return Declarations(tuple(found.values()))
            elif not found:
                raise scanner.error(f"{command!r} comes first", "declare a network before the assertions")
            else:
                remedy = "VNN-LIB 2.0 has declare-network, and behind it assert"
                raise scanner.error(f"unknown command {command!r}", remedy)
        if not found:
            raise scanner.error("no network is declared", "put (declare-network ...) before the assertions")
        raise scanner.error("nothing is asserted", "assert what is unsafe")

    def assertions(self, reader: TensorReader) -> None:
        """Read the rest, whose first `(assert` was read. Raises MalformedSpec."""
        command = "assert"
        while command:
            if command == "declare-network":
                raise self.scanner.error("a network is declared behind an assertion", "declare all networks first")
            if command != "assert":
                raise self.scanner.error(f"unknown command {command!r}", "VNN-LIB 2.0 has nothing but assert here")
            reader.read(self.place)
            command = self._command()

    def _command(self) -> str:
        """The next command behind its parenthesis, which is at `place`; empty at the end."""
        scanner = self.scanner
        token = scanner.next()
        if not token:
            return ""
        if token == ")":
            raise scanner.error("a ')' without its '('", "remove it, or open the parenthesis it closes")
        if token != "(":
            raise scanner.error(f"{token!r} outside any command", "put it into (assert ...), or remove it")
        self.place, command = scanner.place(), scanner.next()
        if not command:
            raise scanner.never_closed(self.place)
        return command


def require_sizes(scanner: Scanner, declared: Declarations, inputs: int, outputs: int) -> None:
    """Raise MalformedSpec unless all declared tensors together have as many entries as the network."""
    for kinds, expected in (((Kind.INPUT,), inputs), ((Kind.HIDDEN, Kind.OUTPUT), outputs)):
        count = declared.inputs if Kind.INPUT in kinds else declared.outputs
        if count != expected:
            names = " and ".join(network.name for network in declared.networks)
            what = f"the {kinds[-1].word}s of {names} have {count} entries, those of the network {expected}"
            raise scanner.error(what, REMEDY, declared.networks[0].place)
