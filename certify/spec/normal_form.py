"""Disjunctive normal form of bounds on inputs and rows, built piece by piece, and the cases it makes.

A formula is a non-empty list of conjuncts. A conjunct that cannot hold (crossed bounds, a false
comparison of constants) keeps the reason in `failure`; it is the normal form of *false*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from certify.errors import MalformedSpec
from certify.spec.terms import Row
from certify.spec.tokens import Place

CONJUNCTS = 1_000_000  # the most that a specification may have
WORK = 50_000_000  # the most bounds and rows that distributing `and` over `or` may look at


class Crossed(NamedTuple):
    """Why nothing is left: an input would lie between these bounds."""

    index: int
    lower: float
    upper: float


class Conjunct:
    """Bounds on single inputs and rows that hold together."""

    __slots__ = ("bounds", "failure", "place", "rows")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.bounds: dict[int, tuple[float, float]] = {}  # input -> (lower, upper)
        self.rows: list[Row] = []
        self.failure: str | Crossed = ""

    def tighten(self, index: int, lower: float, upper: float, place: Callable[[], Place]) -> None:
        """Add lower <= x[index] <= upper; fail at `place()` if the bounds cross now."""
        old = self.bounds.get(index)
        if old is not None:
            if old[0] > lower:
                lower = old[0]
            if old[1] < upper:
                upper = old[1]
        self.bounds[index] = (lower, upper)
        if lower > upper:
            self.fail(Crossed(index, lower, upper), place())

    def fail(self, why: str | Crossed, place: Place) -> None:
        """Note that the conjunct cannot hold, unless a reason is known already."""
        if not self.failure:
            self.failure, self.place = why, place

    def absorb(self, other: Conjunct) -> None:
        """Make this conjunct hold only where `other` holds, too."""
        for index, (lower, upper) in other.bounds.items():
            self.tighten(index, lower, upper, lambda: other.place)
        if other.failure:
            self.fail(other.failure, other.place)
        self.rows += other.rows

    def meets(self, other: Conjunct) -> bool:
        """Whether the bounds of both can hold together."""
        mine = self.bounds
        for index, (lower, upper) in other.bounds.items():
            old = mine.get(index)
            if old is not None and (old[0] > upper or old[1] < lower):
                return False
        return True

    def both(self, other: Conjunct) -> Conjunct:
        """A new conjunct that holds where both do."""
        joint = Conjunct(other.place)
        # What is closed is never changed again, so conjuncts may share their bounds.
        joint.bounds = dict(self.bounds) if other.bounds else self.bounds
        joint.rows, joint.failure = list(self.rows), self.failure
        joint.absorb(other)
        return joint


class Disjunction:
    """The alternatives of an `or`, while it is read."""

    def __init__(self, place: Place, normaliser: Normaliser) -> None:
        self.place = place
        self.normaliser = normaliser
        self.conjuncts: list[Conjunct] = []

    def target(self, place: Callable[[], Place]) -> Conjunct:
        """Where an atom that begins at `place()` belongs."""
        self.add([Conjunct(place())])
        return self.conjuncts[-1]

    def add(self, conjuncts: list[Conjunct]) -> None:
        self.conjuncts += conjuncts
        self.normaliser.limit(len(self.conjuncts), self.place)

    def close(self) -> list[Conjunct]:
        """The normal form, when all has been read: what can hold, or else one that cannot."""
        alive = [c for c in self.conjuncts if not c.failure]
        if not alive:
            never = Conjunct(self.place)
            never.fail("an `or` of nothing never holds", self.place)
            return self.conjuncts[-1:] or [never]
        if len(alive) < len(self.conjuncts):
            first = next(c for c in self.conjuncts if c.failure)
            self.normaliser.drop(len(self.conjuncts) - len(alive), first)
        return alive


class Conjunction:
    """The parts of an `and`, while it is read: what is one conjunct at once, what is several later."""

    def __init__(self, place: Place, normaliser: Normaliser) -> None:
        self.base = Conjunct(place)
        self.normaliser = normaliser
        self.choices: list[list[Conjunct]] = []

    def target(self, place: Callable[[], Place]) -> Conjunct:
        """Where an atom that begins at `place()` belongs."""
        return self.base

    def add(self, conjuncts: list[Conjunct]) -> None:
        if len(conjuncts) == 1:
            self.base.absorb(conjuncts[0])
        else:
            self.choices.append(conjuncts)

    def close(self) -> list[Conjunct]:
        """The normal form, when all has been read."""
        base, count = self.base, self.normaliser
        if base.failure or not self.choices:
            return [base]
        found = []
        for choice in self.distribute():
            count.work += len(base.bounds) + len(base.rows) + len(choice.bounds) + len(choice.rows)
            found.append(base.both(choice))
            count.limit(len(found), choice.place)
        return found or [self.clash()]

    def clash(self) -> Conjunct:
        """*False*: why no way to choose is left."""
        for choice in self.choices:
            if not any(map(self.base.meets, choice)):
                return self.base.both(choice[-1])
        never = Conjunct(self.choices[-1][-1].place)
        never.fail("no two alternatives of different `or`s go together", never.place)
        return never

    def distribute(self) -> list[Conjunct]:
        """One conjunct for every way to choose one of each of the choices, in their order, without the
        base. Ways whose bounds cross are left out as soon as they do."""
        count = self.normaliser
        found, *others = (self._possible(choice) for choice in self.choices)
        for choice in others:
            longer = []
            for first in found:
                count.work += len(choice)
                count.limit(len(longer), first.place)
                for second in choice:
                    if first.meets(second):
                        longer.append(first.both(second))
                        count.work += len(first.bounds) + len(first.rows) + len(second.bounds) + len(second.rows)
                        count.limit(len(longer), second.place)
            found = longer
        return found

    def _possible(self, choice: list[Conjunct]) -> list[Conjunct]:
        alive = [c for c in choice if self.base.meets(c)]
        if len(alive) < len(choice):
            first = next(c for c in choice if not self.base.meets(c))
            self.normaliser.drop(len(choice) - len(alive), self.base.both(first))
        return alive


class Normaliser:
    """Keeps count of the work on one specification and of the alternatives that are left out; `name` is what it calls
    an input."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.name: Callable[[int], str] = "X_{}".format
        self.work = 0
        self.dropped = 0
        self.first_dropped: Conjunct | None = None

    def drop(self, count: int, first: Conjunct) -> None:
        """Count alternatives that hold no point, the first of which says why."""
        self.dropped += count
        self.first_dropped = self.first_dropped or first

    def say(self, failure: str | Crossed) -> str:
        """The reason in words."""
        if isinstance(failure, Crossed):
            return f"{self.name(failure.index)} would lie in [{failure.lower:.9g}, {failure.upper:.9g}]"
        return failure

    def limit(self, conjuncts: int, place: Place) -> None:
        """Raise MalformedSpec, at `place`, if there are so many conjuncts or so much work that it is too much."""
        if conjuncts <= CONJUNCTS and self.work <= WORK:
            return
        what = f"the disjunctive normal form is too large (more than {CONJUNCTS:,} alternatives or {WORK:,} parts)"
        remedy = "split the property into several files, or list the alternatives in one `or`"
        raise MalformedSpec(what, remedy, path=self.path, line=place.line, column=place.column)
