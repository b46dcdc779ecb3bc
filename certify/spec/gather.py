"""From the conjuncts of a specification to its cases: one case per box, one clause per conjunct."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np

from certify.errors import EmptyRegion, MalformedSpec
from certify.spec.normal_form import Conjunct, Conjunction, Normaliser
from certify.spec.property import Clause, Property
from certify.spec.query import Case
from certify.spec.regions import Region
from certify.spec.terms import Row
from certify.spec.tokens import Place

Array = np.ndarray


class EmptyDisjunct(UserWarning):
    """Some alternatives of a specification hold no point; they were left out."""


def to_cases(root: Conjunction, end: Place, inputs: int, outputs: int) -> list[Case]:
    """The cases of a whole specification, which ends at `end`; conjuncts with one box become one case.

    Raises MalformedSpec if an input is not bounded, and EmptyRegion if no conjunct holds any point.
    Warns (EmptyDisjunct) if some conjuncts do not. `root` is used up.
    """
    normaliser = root.normaliser
    if root.base.failure:
        raise _empty(root.base, normaliser.path)
    conjuncts = root.distribute() if root.choices else [Conjunct(end)]
    if not conjuncts:
        raise _empty(root.clash(), normaliser.path)
    root.choices.clear()
    boxes = _Boxes(root.base, inputs, outputs, normaliser)
    conjuncts.reverse()  # so that each can be let go once it is read
    while conjuncts:
        boxes.add(conjuncts.pop())
    if not boxes.rows:
        raise _empty(normaliser.first_dropped, normaliser.path)
    if normaliser.dropped:
        first = normaliser.first_dropped
        where = f"{normaliser.path}:{first.place.line}:{first.place.column}"
        what = f"{where}: {first.failure}; {normaliser.dropped} empty alternative(s) left out"
        warnings.warn(what, EmptyDisjunct, stacklevel=4)
    return boxes.cases()


def _empty(conjunct: Conjunct, path: str) -> EmptyRegion:
    what = f"the specification holds for no input: {conjunct.failure}"
    remedy = "correct the bounds (a proof over an empty region is vacuous)"
    return EmptyRegion(what, remedy, path=path, line=conjunct.place.line, column=conjunct.place.column)


class _Boxes:
    """Conjuncts gathered by their box, in the order in which the boxes come."""

    def __init__(self, base: Conjunct, inputs: int, outputs: int, normaliser: Normaliser) -> None:
        self.inputs, self.outputs, self.normaliser = inputs, outputs, normaliser
        self.base_rows = base.rows
        self.lower, self.upper = np.full(inputs, -np.inf), np.full(inputs, np.inf)
        _cut(self.lower, self.upper, base)
        self.rows: dict[bytes, list[list[Row]]] = {}  # both ends of a box as bytes -> rows of its conjuncts
        self.matrices: dict[tuple, Array] = {}  # clauses that differ in their offsets only share a matrix

    def add(self, conjunct: Conjunct) -> None:
        ends = np.concatenate((self.lower, self.upper))
        lower, upper = ends[: self.inputs], ends[self.inputs :]
        _cut(lower, upper, conjunct)
        rows = self.base_rows + conjunct.rows
        for row in rows:
            if row.terms[0][0] >= self.outputs and self._impossible(row, lower, upper):
                names = " and ".join(f"X_{column - self.outputs}" for column, _ in row.terms)
                conjunct.fail(f"an inequality over {names} leaves no point of the box", conjunct.place)
                self.normaliser.drop(1, conjunct)
                return
        key = ends.tobytes()
        gathered = self.rows.get(key)
        if gathered is None:
            if np.isinf(ends).any():
                raise self._unbounded(lower, upper, conjunct.place)
            gathered = self.rows[key] = []
        gathered.append(rows)

    def cases(self) -> list[Case]:
        """What was gathered; it is let go."""
        return [self._case(key, self.rows.pop(key)) for key in list(self.rows)]

    def _unbounded(self, lower: Array, upper: Array, place: Place) -> MalformedSpec:
        missing = np.flatnonzero(np.isinf(lower) | np.isinf(upper))
        name, side = f"X_{missing[0]}", "lower" if np.isinf(lower[missing[0]]) else "upper"
        more = f" (nor have {missing.size - 1} more inputs both)" if missing.size > 1 else ""
        what, remedy = f"the input {name} has no {side} bound{more}", f"bound {name} by numbers from both sides"
        return MalformedSpec(what, remedy, path=self.normaliser.path, line=place.line, column=place.column)

    def _impossible(self, row: Row, lower: Array, upper: Array) -> bool:
        """Whether a row over inputs only holds nowhere in the box."""
        least = Fraction(0)
        for column, coefficient in row.terms:
            end = (lower if coefficient > 0 else upper)[column - self.outputs]
            if np.isinf(end):
                return False
            least += Fraction(coefficient) * Fraction(end)
        return least > row.offset or (row.strict and least == row.offset)

    def _case(self, key: bytes, conjuncts: list[list[Row]]) -> Case:
        ends = np.frombuffer(key)
        reads_input = any(row.terms[-1][0] >= self.outputs for rows in conjuncts for row in rows)
        width = self.outputs + self.inputs if reads_input else self.outputs
        clauses = tuple(self._clause(rows, width) for rows in conjuncts)
        return Case(Region(ends[: self.inputs], ends[self.inputs :]), Property(clauses))

    def _clause(self, rows: list[Row], width: int) -> Clause:
        structure = (width, *(row.terms for row in rows))
        matrix = self.matrices.get(structure)
        if matrix is None:
            matrix = self.matrices[structure] = np.zeros((len(rows) or 1, width))
            for i, row in enumerate(rows):
                for column, coefficient in row.terms:
                    matrix[i, column] = coefficient
        if not rows:  # every input of the box is a counterexample
            return Clause(matrix, np.zeros(1), np.zeros(1, bool))
        return Clause(matrix, np.array([row.offset for row in rows]), np.array([row.strict for row in rows]))


def _cut(lower: Array, upper: Array, conjunct: Conjunct) -> None:
    """Cut the box lower <= x <= upper by the conjunct's bounds, in place."""
    for i, (low, high) in conjunct.bounds.items():
        if low > lower[i]:
            lower[i] = low
        if high < upper[i]:
            upper[i] = high
