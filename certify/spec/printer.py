"""Cases as VNN-LIB, of either version: the opposite of reading, up to the last bit.

Reading what is printed gives the same cases. Numbers are written in full, as version 2.0 has no exponents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np

from certify.errors import MalformedSpec
from certify.spec.declarations import Declarations, Variable
from certify.spec.property import Clause
from certify.spec.query import Case
from certify.spec.regions import Region

Array = np.ndarray


def print_vnnlib(cases: Sequence[Case], inputs: int, outputs: int) -> Iterator[str]:
    """The lines of a file of version 1.0 that says the same as these cases over so many inputs and outputs.

    Raises MalformedSpec for a region that is no box.
    """
    names = [*(f"Y_{i}" for i in range(outputs)), *(f"X_{i}" for i in range(inputs))]
    yield from (f"(declare-const {name} Real)" for name in (*names[outputs:], *names[:outputs]))
    yield from _assertions(cases, names, outputs)


def print_vnnlib2(cases: Sequence[Case], declared: Declarations) -> Iterator[str]:
    """The same for version 2.0: the cases are over z = [y; x] of what is declared, without products."""
    yield "(vnnlib-version <2.0>)"
    for network in declared.networks:
        yield f"(declare-network {network.name}"
        if network.copy is not None:
            yield f"  ({'equal-to' if network.copy.exact else 'isomorphic-to'} {network.copy.of})"
        yield from (f"  {_declaration(variable)}" for variable in network.variables)
        yield ")"
    names = [""] * (declared.outputs + declared.inputs)
    for variable in declared.variables:
        first = declared.first[variable.name]
        for i, index in enumerate(np.ndindex(*variable.shape)):
            entry = f"[{','.join(map(str, index))}]" if index else ""
            names[first + i] = variable.name + entry
    yield from _assertions(cases, names, declared.outputs)


def _declaration(variable: Variable) -> str:
    node = f' "{variable.node}"' if variable.node else ""
    shape = ",".join(map(str, variable.shape))
    return f"({variable.kind.value} {variable.name} {variable.written} [{shape}]{node})"


def _assertions(cases: Sequence[Case], names: Sequence[str], outputs: int) -> Iterator[str]:
    """`names` are those of z = [y; x]."""
    if not cases:
        raise MalformedSpec("there is no case to print", "a file must say of some input that it is unsafe")
    inputs = names[outputs:]
    if len(cases) == 1:
        yield from (f"(assert {bound})" for bound in _bounds(cases[0].region, inputs))
        yield f"(assert {_clauses(cases[0].property.clauses, names)})"
        return
    yield "(assert (or"
    for case in cases:
        bounds = " ".join(_bounds(case.region, inputs))
        yield f"  (and {bounds} {_clauses(case.property.clauses, names)})"
    yield "))"


def _bounds(region: Region, names: Sequence[str]) -> Iterator[str]:
    if region.norm is not None:
        raise MalformedSpec("a ball cannot be said in VNN-LIB, which has linear inequalities only", "give its box")
    for name, lower, upper in zip(names, region.lower.tolist(), region.upper.tolist(), strict=True):
        yield f"(>= {name} {_number(lower)})"
        yield f"(<= {name} {_number(upper)})"


def _clauses(clauses: Sequence[Clause], names: Sequence[str]) -> str:
    return f"(or {' '.join(_clause(clause, names) for clause in clauses)})"


def _clause(clause: Clause, names: Sequence[str]) -> str:
    rows = zip(clause.matrix, clause.offset.tolist(), clause.strict.tolist(), strict=True)
    return f"(and {' '.join(_row(row, offset, strict, names) for row, offset, strict in rows)})"


def _row(row: Array, offset: float, strict: bool, names: Sequence[str]) -> str:
    terms = [f"(* {_number(float(row[i]))} {names[i]})" for i in np.flatnonzero(row)] or [_number(0.0)]
    total = terms[0] if len(terms) == 1 else f"(+ {' '.join(terms)})"
    return f"({'<' if strict else '<='} {total} {_number(offset)})"


def _number(value: float) -> str:
    """The shortest decimal that is read as this float64, without an exponent."""
    return format(Decimal(repr(value)), "f")
