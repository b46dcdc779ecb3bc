"""From the conjuncts of a specification to its cases: one case per box, one clause per conjunct."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from certify.errors import EmptyRegion, MalformedSpec
from certify.spec.normal_form import Conjunct, Conjunction, Crossed, Normaliser
from certify.spec.products import Products
from certify.spec.property import Clause, Property
from certify.spec.query import Case
from certify.spec.regions import Region
from certify.spec.terms import Row, round_down, round_up
from certify.spec.tokens import Place

Array = np.ndarray


class EmptyDisjunct(UserWarning):
    """Some alternatives of a specification hold no point; they were left out."""


def to_cases(root: Conjunction, end: Place, inputs: int, outputs: int, products: Products | None = None) -> list[Case]:
    """The cases of a whole specification, which ends at `end`; conjuncts with one box become one case.

    An input without a bound gets the one that inequalities over inputs imply. With `products`, z has their values
    behind the outputs.

    Raises MalformedSpec if an input is not bounded, and EmptyRegion if no conjunct holds any point.
    Warns (EmptyDisjunct) if some conjuncts do not. `root` is used up.
    """
    normaliser = root.normaliser
    if root.base.failure:
        raise _empty(root.base, normaliser)
    conjuncts = root.distribute() if root.choices else [Conjunct(end)]
    if not conjuncts:
        raise _empty(root.clash(), normaliser)
    root.choices.clear()
    boxes = _Boxes(root.base, inputs, outputs, products or Products(), normaliser)
    conjuncts.reverse()  # so that each can be let go once it is read
    while conjuncts:
        boxes.add(conjuncts.pop())
    if not boxes.rows:
        raise _empty(normaliser.first_dropped, normaliser)
    if normaliser.dropped:
        first = normaliser.first_dropped
        where = f"{normaliser.path}:{first.place.line}:{first.place.column}"
        what = f"{where}: {normaliser.say(first.failure)}; {normaliser.dropped} empty alternative(s) left out"
        warnings.warn(what, EmptyDisjunct, stacklevel=4)
    return boxes.cases()


def _empty(conjunct: Conjunct, normaliser: Normaliser) -> EmptyRegion:
    what = f"the specification holds for no input: {normaliser.say(conjunct.failure)}"
    remedy = "correct the bounds (a proof over an empty region is vacuous)"
    return EmptyRegion(what, remedy, path=normaliser.path, line=conjunct.place.line, column=conjunct.place.column)


class _Boxes:
    """Conjuncts gathered by their box, in the order in which the boxes come."""

    def __init__(self, base: Conjunct, inputs: int, outputs: int, products: Products, normaliser: Normaliser) -> None:
        self.inputs, self.outputs, self.products, self.normaliser = inputs, outputs, products, normaliser
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
        if np.isinf(ends).any():
            imply_bounds(lower, upper, [row for row in rows if row.terms[0][0] >= self.outputs], self.outputs)
        crossed = np.flatnonzero(lower > upper)
        if crossed.size:  # by what was implied
            i = int(crossed[0])
            conjunct.fail(Crossed(i, float(lower[i]), float(upper[i])), conjunct.place)
            self.normaliser.drop(1, conjunct)
            return
        for row in rows:
            if row.terms[0][0] >= self.outputs and self._impossible(row, lower, upper):
                names = " and ".join(self.normaliser.name(column - self.outputs) for column, _ in row.terms)
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
        name, side = self.normaliser.name(int(missing[0])), "lower" if np.isinf(lower[missing[0]]) else "upper"
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
        width = self.outputs + len(self.products.factors) + (self.inputs if reads_input else 0)
        clauses = tuple(self._clause(rows, width) for rows in conjuncts)
        return Case(Region(ends[: self.inputs], ends[self.inputs :]), Property(clauses))

    def _clause(self, rows: list[Row], width: int) -> Clause:
        structure = (width, *(row.terms for row in rows))
        matrix = self.matrices.get(structure)
        if matrix is None:
            matrix = self.matrices[structure] = np.zeros((len(rows) or 1, width))
            for i, row in enumerate(rows):
                for column, coefficient in row.terms:
                    matrix[i, self.products.place(column, self.outputs)] = coefficient
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


def imply_bounds(lower: Array, upper: Array, rows: Sequence[Row], first: int) -> None:
    """Give inputs without a bound the one that rows over inputs imply, rounded outward, in place.

    lower, upper (d,) may be infinite; column `first` of a row is input 0. Only infinite ends change, so that each row
    is looked at again at most as often as its inputs get bounds. Sound: the box still holds every point of the rows.
    """
    readers: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        for column, _ in row.terms:
            readers[column - first].append(row)
    waiting = deque(rows)
    while waiting:
        row = waiting.popleft()
        # the least of each part; one whose input has no bound on that side says nothing about the others
        ends = [(c - first, a, (lower if a > 0 else upper)[c - first]) for c, a in row.terms]
        open_ended = [i for i, _, end in ends if np.isinf(end)]
        if len(open_ended) > 1:
            continue
        rest = sum((Fraction(a) * Fraction(end) for i, a, end in ends if i not in open_ended), Fraction(0))
        for i, a, end in ends:
            side = upper if a > 0 else lower
            if np.isinf(side[i]) and open_ended in ([], [i]):
                mine = Fraction(0) if np.isinf(end) else Fraction(a) * Fraction(end)
                limit = (Fraction(row.offset) - (rest - mine)) / Fraction(a)
                side[i] = round_up(limit) if a > 0 else round_down(limit)
                if np.isfinite(side[i]):
                    waiting.extend(readers[i])
