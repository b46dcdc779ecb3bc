"""A property file and the networks it speaks of, as one graph and its cases.

Version 1.0 of VNN-LIB speaks of one network's inputs and outputs. Version 2.0 declares networks, which files are
assigned to by name; all of them become one graph (see `certify.frontends.joint`), and inputs that the property says are
equal become one input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from certify.errors import BadOption, EmptyRegion, MalformedNetwork, MalformedSpec
from certify.frontends.imported import Imported
from certify.frontends.joint import join
from certify.frontends.load import load_network
from certify.graph.ir import Graph, Port
from certify.spec.declarations import FLOATS, REAL, REMEDY, Declarations, Declared, Kind, Variable
from certify.spec.products import Products
from certify.spec.query import Case, Source
from certify.spec.sharing import Shared, equal_inputs, share
from certify.spec.terms import NotFloat
from certify.spec.vnnlib import read_declarations, read_vnnlib

Array = np.ndarray
Files = Mapping[str, str | Path]
"""The file of each declared network, by its name in the property."""


class Assigned(NamedTuple):
    """The value of a declared variable, in float64, and the type that the network has for it."""

    variable: Variable
    type: str
    value: Array


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked; there are no cases if no input satisfies the property's assertions.

    `declared` is None for version 1.0. Else the graph's input i stands for all declared inputs j with
    shared.index[j] = i, and `types` are the networks' own types of the declared variables.
    """

    source: Source
    graph: Graph
    cases: tuple[Case, ...]
    declared: Declarations | None = None
    shared: Shared | None = None
    types: tuple[str, ...] = ()

    def every_input(self, x: Array) -> Array:
        """What x (d,), the graph's input, says of all inputs that the property declares, one after the other."""
        return x if self.shared is None else x[self.shared.index]

    def input_name(self, index: int) -> str:
        """What the property calls one of these."""
        return f"X_{index}" if self.declared is None else self.declared.input_name(index)

    def assignment(self, x: Array, y: Array) -> list[Assigned]:
        """The value of every declared variable, in the order of their declaration, where the graph's input is x (d,)
        and its output y (n,)."""
        if self.declared is None:
            raise ValueError("a property of version 1.0 declares no tensors")
        z = np.concatenate([y[: self.declared.outputs], self.every_input(x)])
        pairs = zip(self.declared.variables, self.types, strict=True)
        first = self.declared.first
        return [Assigned(v, t, z[first[v.name] : first[v.name] + v.size].reshape(v.shape)) for v, t in pairs]


def ask(
    files: str | Path | Files,
    prop: str | Path,
    *,
    allow_empty: bool = False,
    strict: bool = False,
    load: Callable[[str], Imported] = load_network,
) -> Question:
    """What the property asks of the networks.

    `files` is one network (as for `load_network`) or one for each declared network that is not a copy of another.
    With `strict`, as the standard's command line has it: types other than `real` are refused, since what is proved is
    about real arithmetic, and so are files that nothing needs. `load` reads a network that needs nothing special.

    Raises BadOption for networks that are missing or too many, MalformedNetwork, UnsupportedOp, ImportMismatch,
    MalformedSpec and, unless `allow_empty` is set, EmptyRegion.
    """
    if not isinstance(files, str | Path):
        files = {name: str(file) for name, file in files.items()}
    declared = read_declarations(prop)
    if declared is None:
        imported = load(_single(files, prop))
        cases = read_vnnlib(prop, imported.graph.input_size, imported.graph.output_size, allow_empty=allow_empty)
        return Question(imported.source, imported.graph, tuple(cases))
    _require_real(declared, prop, strict)
    parts = _parts(declared, _assigned(files, declared, prop, strict), prop, load)
    products = Products()
    cases = read_vnnlib(prop, declared.inputs, declared.outputs, allow_empty=allow_empty, products=products)
    shared, cases = _shared(cases, declared.inputs)
    if not cases and not allow_empty:
        what = "the specification holds for no input: none lies within the bounds of all that it says are equal"
        raise EmptyRegion(what, "correct the bounds (a proof over an empty region is vacuous)", path=str(prop))
    if len(parts) == 1 and shared is None and not products.factors:
        imported = parts[0]
    else:
        identity = Shared(np.arange(declared.inputs), declared.inputs)
        imported = join(parts, shared or identity, products.factors)
    types = tuple(p.dtype for part in parts for p in (*part.graph.inputs, *part.graph.outputs))
    return Question(imported.source, imported.graph, tuple(cases), declared, shared, types)


def _shared(cases: list[Case], inputs: int) -> tuple[Shared | None, list[Case]]:
    """Which inputs are one, and the cases over these."""
    shared = equal_inputs(cases, inputs)
    if shared is None:
        return None, cases
    try:
        return shared, share(cases, shared)
    except NotFloat:  # they stay apart: the rows still say that they are equal
        return None, cases


def _single(files: str | Path | Files, prop: str | Path) -> str:
    if isinstance(files, str | Path):
        return str(files)
    if len(files) != 1:
        raise BadOption(f"{prop} speaks of one network, not of {len(files)}", "give one")
    return str(next(iter(files.values())))


def _assigned(files: str | Path | Files, declared: Declarations, prop: str | Path, strict: bool) -> Files:
    """The file of every network, by its name."""
    wanted = {n.name: n.copy for n in declared.networks}
    needed = [name for name, copy in wanted.items() if copy is None or not copy.exact]
    if isinstance(files, str | Path):
        if len(needed) != 1:
            what = f"{prop} speaks of the networks {', '.join(needed)}, but one file is given"
            raise BadOption(what, f"give one for each: {' '.join(f'--network {name}=FILE' for name in needed)}")
        files = {needed[0]: str(files)}
    if missing := [name for name in needed if name not in files]:
        raise BadOption(f"{prop}: no file is given for the network {missing[0]}", f"--network {missing[0]}=FILE")
    found = dict(files)
    for name in files:
        copy = wanted.get(name)
        unneeded = name not in wanted or (copy is not None and copy.exact and (strict or files[name] != files[copy.of]))
        if unneeded:
            why = f"is equal to {copy.of}" if copy else "is not declared"
            raise BadOption(f"{prop}: a file is given for the network {name}, which {why}", "leave it out")
    return found | {name: files[copy.of] for name, copy in wanted.items() if copy is not None and copy.exact}


def _require_real(declared: Declarations, prop: str | Path, strict: bool) -> None:
    for v in declared.variables:
        if v.type == REAL or (v.type in FLOATS and not strict):
            continue
        what = f"{v.name} has the type {v.type}, but what certify proves is about real numbers"
        remedy = "write the type real, which allows for that"
        raise MalformedSpec(what, remedy, path=str(prop), line=v.place.line, column=v.place.column)


def _parts(declared: Declarations, files: Files, prop: str | Path, load: Callable[[str], Imported]) -> list[Imported]:
    """The network of each declaration, with its hidden nodes as outputs; one that is declared twice is read once."""
    read: dict[object, Imported] = {}
    found = []
    for network in declared.networks:
        names = tuple(tuple(v.node for v in network.of(kind) if v.node) for kind in Kind)
        key = files[network.name], names
        if key not in read:
            read[key] = _load(files[network.name], names, load)
        _require_fit(network, read[key].graph, prop)
        found.append(read[key])
    return found


def _load(file: str, names: Sequence[tuple[str, ...]], load: Callable[[str], Imported]) -> Imported:
    if not any(names):
        return load(file)
    if not file.endswith((".onnx", ".onnx.gz")):
        raise MalformedNetwork(f"{file}: only the nodes of an ONNX file have the names that a property may use")
    from certify.frontends.onnx import from_onnx
    from certify.frontends.onnx_ports import Ports

    return from_onnx(file, ports=Ports(*names))


def _require_fit(network: Declared, graph: Graph, prop: str | Path) -> None:
    """Raise MalformedSpec unless each declared tensor has the shape and, where it is not real, the type of the
    network's own. Axes of size one do not count, and a flattened tensor fits any shape."""
    for kinds, ports in (((Kind.INPUT,), graph.inputs), ((Kind.HIDDEN, Kind.OUTPUT), graph.outputs)):
        variables = network.of(*kinds)
        word = kinds[-1].word
        if len(variables) != len(ports):
            what = f"{network.name} declares {len(variables)} {word}s, the network has {len(ports)}"
            raise MalformedSpec(what, REMEDY, path=str(prop), line=network.place.line, column=network.place.column)
        for variable, port in zip(variables, ports, strict=True):
            reason = _misfit(variable, port)
            if reason:
                place = variable.place
                raise MalformedSpec(reason, REMEDY, path=str(prop), line=place.line, column=place.column)


def _misfit(variable: Variable, port: Port) -> str:
    mine, its = ([n for n in shape if n != 1] for shape in (variable.shape, port.shape))
    if mine != its and not (variable.size == port.size and len(mine) == 1):
        return f"{variable.name} has the shape {list(variable.shape)}, {port.name} of the network {list(port.shape)}"
    if variable.type not in (REAL, port.dtype):
        return f"{variable.name} has the type {variable.type}, {port.name} of the network {port.dtype}"
    return ""
