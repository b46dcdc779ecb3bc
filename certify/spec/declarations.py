"""What a VNN-LIB 2.0 query declares: networks, and the tensors that stand for their inputs, hidden nodes and outputs.

    (declare-network f (declare-input X real [1, 5]) (declare-hidden H real [4] "relu_1") (declare-output Y real [2]))
    (declare-network g (equal-to f) (declare-input A real [1, 5]) (declare-output B real [2]))

Assertions speak of z = [y; x]: x joins the inputs of all networks, y their hidden nodes and outputs, all flattened, in
the order in which they are declared. The rules are those of the standard's chapters on syntax and typing.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from certify.spec.tokens import Place, Scanner

NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*"
SHAPE = re.compile(r"\[(|[0-9]{1,18}(?:,[0-9]{1,18})*)\]", re.ASCII)
MOST = 1 << 40  # entries of one tensor

REAL = "real"
FLOATS = ("float16", "bfloat16", "float32", "float64")
OTHERS = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
    "float8e4m3fn", "float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz", "float4e2m1",
)  # fmt: skip
TYPES = (REAL, *FLOATS, *OTHERS)
"""The element types of ONNX, by the names that VNN-LIB takes from it, and `real`."""

REMEDY = "check that property and network belong together"


class Kind(enum.Enum):
    """What a declared tensor is; declarations come in this order."""

    INPUT = "declare-input"
    HIDDEN = "declare-hidden"
    OUTPUT = "declare-output"

    @property
    def word(self) -> str:
        return self.value.removeprefix("declare-")


KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True)
class Variable:
    """A declared tensor. `written` is its type as it stands in the file, `node` what it is called in the ONNX file
    (empty where that is told by its order)."""

    name: str
    kind: Kind
    written: str
    shape: tuple[int, ...]
    node: str
    place: Place

    @property
    def type(self) -> str:
        return self.written.lower()

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Copy:
    """This network is another one (`exact`), or is like it but for its weights."""

    of: str
    exact: bool


@dataclass(frozen=True)
class Declared:
    """One declared network."""

    name: str
    place: Place
    variables: tuple[Variable, ...]
    copy: Copy | None

    def of(self, *kinds: Kind) -> tuple[Variable, ...]:
        """Its variables of these kinds, as they are declared."""
        return tuple(v for v in self.variables if v.kind in kinds)


@dataclass(frozen=True)
class Declarations:
    """All networks of a query."""

    networks: tuple[Declared, ...]

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(v for network in self.networks for v in network.variables)

    @cached_property
    def inputs(self) -> int:
        """How many numbers the inputs are."""
        return sum(v.size for v in self.variables if v.kind is Kind.INPUT)

    @cached_property
    def outputs(self) -> int:
        """How many numbers the hidden nodes and outputs are."""
        return sum(v.size for v in self.variables if v.kind is not Kind.INPUT)

    @cached_property
    def first(self) -> dict[str, int]:
        """The column of z = [y; x] at which each variable begins."""
        columns, ends = {}, {True: self.outputs, False: 0}
        for v in self.variables:
            side = v.kind is Kind.INPUT
            columns[v.name] = ends[side]
            ends[side] += v.size
        return columns

    def input_name(self, index: int) -> str:
        """What entry `index` of x is called."""
        for v in self.variables:
            if v.kind is Kind.INPUT:
                if index < v.size:
                    place = [str(i) for i in np.unravel_index(index, v.shape)]
                    return f"{v.name}[{','.join(place)}]" if place else v.name
                index -= v.size
        raise IndexError(index)


def joined(scanner: Scanner, token: str) -> str:
    """A token with the rest of its brackets, which may hold spaces where these mean nothing."""
    place = scanner.place()
    if "[" not in token or "]" in token:
        return token
    parts = [token]
    while "]" not in parts[-1]:
        more = scanner.next()
        if not more or more in "()":
            raise scanner.error(f"the '[' of {token!r} is never closed", "write indices as [0,1]", place)
        parts.append(more)
    return re.sub(r" ?([\[\],]) ?", r"\1", " ".join(parts))


def read_network(scanner: Scanner, before: dict[str, Declared]) -> Declared:
    """What stands behind `(declare-network`; `before` are the networks declared so far, by name.

    Raises MalformedSpec.
    """
    place, name = scanner.place(), scanner.next()
    if not re.fullmatch(NAME, name):
        raise scanner.error(f"{name!r} is no name of a network", "write (declare-network f ...)")
    if name in before:
        raise scanner.error(f"a second network is called {name}", "give every network a name of its own")
    taken = {v.name for network in before.values() for v in network.variables}
    variables: list[Variable] = []
    copy: Copy | None = None
    while (token := scanner.next()) == "(":
        inner, command = scanner.place(), scanner.next()
        if command in ("equal-to", "isomorphic-to"):
            if copy is not None:
                raise scanner.error(f"{name} is compared with two networks", "leave one of the two out", inner)
            copy = _copy(scanner, before, command)
        elif command in KINDS:
            variables.append(_variable(scanner, KINDS[command], taken))
            _require_order(scanner, variables, inner)
        else:
            raise scanner.error(f"{command!r} in a network", f"use {', '.join(KINDS)}, equal-to or isomorphic-to")
    if token != ")":
        raise scanner.error(f"{token!r} in a network", "add a ')'") if token else scanner.never_closed(place)
    network = Declared(name, place, tuple(variables), copy)
    for kind in (Kind.INPUT, Kind.OUTPUT):
        if not network.of(kind):
            raise scanner.error(f"{name} has no {kind.word}", f"write ({kind.value} ...)", place)
    if len({bool(v.node) for v in network.of(Kind.INPUT, Kind.OUTPUT)}) == 2:
        raise scanner.error(f"some inputs and outputs of {name} have ONNX names", "name all of them, or none", place)
    if copy is not None:
        _require_alike(scanner, network, before[copy.of], copy)
    return network


def _copy(scanner: Scanner, before: dict[str, Declared], command: str) -> Copy:
    name = scanner.next()
    if name not in before:
        raise scanner.error(f"{command} names {name!r}, which is no network declared before", "declare it first")
    if before[name].copy is not None:
        what = f"{command} names {name}, which is itself declared as a copy"
        raise scanner.error(what, f"name {before[name].copy.of}")
    expect(scanner, ")", f"write ({command} {name})")
    return Copy(name, command == "equal-to")


def _require_order(scanner: Scanner, variables: list[Variable], place: Place) -> None:
    order = list(Kind)
    if len(variables) > 1 and order.index(variables[-2].kind) > order.index(variables[-1].kind):
        what = f"an {variables[-1].kind.word} behind an {variables[-2].kind.word}".replace("an h", "a h")
        raise scanner.error(what, "declare inputs first, then hidden nodes, then outputs", place)


def _variable(scanner: Scanner, kind: Kind, taken: set[str]) -> Variable:
    """`X float32 [1, 5])`, perhaps with the node's name before the parenthesis."""
    name, place = scanner.next(), scanner.place()
    if not re.fullmatch(NAME, name):
        raise scanner.error(f"{name!r} is no name of a variable", f"write ({kind.value} X real [1, 5])")
    if name in taken:
        raise scanner.error(f"{name} is declared a second time", "remove one of the declarations")
    taken.add(name)
    written = scanner.next()
    if written.lower() not in TYPES:
        raise scanner.error(f"{name} has no type that ONNX knows", f"use one of {', '.join(TYPES[:5])}")
    found = SHAPE.fullmatch(joined(scanner, scanner.next()))
    if found is None:
        raise scanner.error(f"{name} has no shape", "write it as [1, 5]")
    shape = tuple(int(n) for n in found[1].split(",")) if found[1] else ()
    if not 0 < prod(shape) <= MOST:
        raise scanner.error(f"the shape of {name} has {prod(shape)} entries", "give every axis a positive size")
    node = scanner.next()
    if node.startswith('"') and node.endswith('"') and len(node) > 2:
        expect(scanner, ")", "a declaration ends behind the node's name")
        return Variable(name, kind, written, shape, node[1:-1], place)
    if kind is Kind.HIDDEN:
        raise scanner.error(f"{name} names no node of the network", f'write ({kind.value} {name} {written} ... "node")')
    if node != ")":
        raise scanner.error(f"{node!r} instead of ')'", "a declaration has a name, a type and a shape")
    return Variable(name, kind, written, shape, "", place)


def _require_alike(scanner: Scanner, network: Declared, other: Declared, copy: Copy) -> None:
    """The two have the same inputs and outputs, but for their names, and for their types where only the structure is
    the same; and so has a hidden node that both declare."""
    word = "equal" if copy.exact else "isomorphic"

    def require(mine: Variable, its: Variable) -> None:
        if mine.shape != its.shape or (copy.exact and mine.type != its.type):
            what = f"{mine.name} is not like {its.name}, though {network.name} is {word} to {other.name}"
            raise scanner.error(what, "give both the same shape and type", mine.place)

    for kind in (Kind.INPUT, Kind.OUTPUT):
        both = network.of(kind), other.of(kind)
        if len(both[0]) != len(both[1]):
            what = (
                f"{network.name} has {len(both[0])} {kind.word}s, {other.name}, to which it is {word}, {len(both[1])}"
            )
            raise scanner.error(what, "declare the same ones in both", network.place)
        for mine, its in zip(*both, strict=True):
            require(mine, its)
    hidden = {v.node: v for v in other.of(Kind.HIDDEN)}
    for mine in network.of(Kind.HIDDEN):
        if mine.node in hidden:
            require(mine, hidden[mine.node])


def expect(scanner: Scanner, token: str, remedy: str) -> None:
    """Read this token. Raises MalformedSpec where another one comes."""
    found = scanner.next()
    if found != token:
        raise scanner.error(f"{found!r} instead of {token!r}" if found else f"{token!r} is missing", remedy)
