"""Disjunctive normal form of bounds on inputs and rows, built piece by piece, and the cases it makes.

A formula is a non-empty list of conjuncts. A conjunct that cannot hold (crossed bounds, a false
comparison of constants) keeps the reason in `failure`; it is the normal form of *false*.
"""

from __future__ import annotations

from collections.abc import Callable

from certify.errors import MalformedSpec
from certify.spec.terms import Row
from certify.spec.tokens import Place

CONJUNCTS = 1_000_000  # the most that a specification may have
WORK = 50_000_000  # the most bounds and rows that distributing `and` over `or` may look at


class Conjunct:
    """Bounds on single inputs and rows that hold together."""

    __slots__ = ("bounds", "failure", "place", "rows")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.bounds: dict[int, tuple[float, float]] = {}  # input -> (lower, upper)
        self.rows: list[Row] = []
        self.failure = ""

    def tighten(self, index: int, lower: float, upper: float) -> str:
        """Add lower <= x[index] <= upper. Returns what is wrong if the bounds now cross, else nothing."""
        old = self.bounds.get(index)
        if old is not None:
            if old[0] > lower:
                lower = old[0]
            if old[1] < upper:
                upper = old[1]
        self.bounds[index] = (lower, upper)
        return "" if lower <= upper else f"X_{index} would lie in [{lower:.9g}, {upper:.9g}]"

    def fail(self, why: str, place: Place) -> None:
        """Note that the conjunct cannot hold, unless a reason is known already."""
        if not self.failure:
            self.failure, self.place = why, place

    def absorb(self, other: Conjunct) -> None:
        """Make this conjunct hold only where `other` holds, too."""
        for index, (lower, upper) in other.bounds.items():
            if crossing := self.tighten(index, lower, upper):
                self.fail(crossing, other.place)
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
        joint.bounds, joint.rows, joint.failure = dict(self.bounds), list(self.rows), self.failure
        joint.absorb(other)
        return joint


class Disjunction:
    """The alternatives of an `or`, while it is read."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.conjuncts: list[Conjunct] = []

    def target(self, place: Callable[[], Place]) -> Conjunct:
        """Where an atom that begins at `place()` belongs."""
        self.conjuncts.append(Conjunct(place()))
        return self.conjuncts[-1]

    def add(self, conjuncts: list[Conjunct]) -> None:
        self.conjuncts += conjuncts


class Conjunction:
    """The parts of an `and`, while it is read: what is one conjunct at once, what is several later."""

    def __init__(self, place: Place) -> None:
        self.base = Conjunct(place)
        self.choices: list[list[Conjunct]] = []

    def target(self, place: Callable[[], Place]) -> Conjunct:
        """Where an atom that begins at `place()` belongs."""
        return self.base

    def add(self, conjuncts: list[Conjunct]) -> None:
        if len(conjuncts) == 1:
            self.base.absorb(conjuncts[0])
        else:
            self.choices.append(conjuncts)


class Normaliser:
    """Closes conjunctions and disjunctions of one specification, within limits that it keeps count of."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.work = 0
        self.dropped = 0
        self.first_dropped: Conjunct | None = None

    def close(self, part: Conjunction | Disjunction) -> list[Conjunct]:
        """The normal form of a part that has been read to its end."""
        return self._close_or(part) if isinstance(part, Disjunction) else self._close_and(part)

    def _close_or(self, part: Disjunction) -> list[Conjunct]:
        alive = [c for c in part.conjuncts if not c.failure]
        self._limit(len(alive), part.place)
        if not alive:
            if part.conjuncts:
                return part.conjuncts[-1:]
            never = Conjunct(part.place)
            never.fail("an `or` of nothing never holds", part.place)
            return [never]
        if len(alive) < len(part.conjuncts):
            self.drop([c for c in part.conjuncts if c.failure])
        return alive

    def _close_and(self, part: Conjunction) -> list[Conjunct]:
        base = part.base
        if base.failure or not part.choices:
            return [base]
        found = []
        for choice in self.distribute(part):
            self.work += len(base.bounds) + len(base.rows) + len(choice.bounds) + len(choice.rows)
            self._limit(len(found), choice.place)
            found.append(base.both(choice))
        return found or [self.clash(part)]

    def drop(self, conjuncts: list[Conjunct]) -> None:
        """Count alternatives that hold no point, for the warning."""
        self.dropped += len(conjuncts)
        self.first_dropped = self.first_dropped or conjuncts[0]

    def clash(self, part: Conjunction) -> Conjunct:
        """*False*, at the last of the choices that do not go together."""
        never = Conjunct(part.choices[-1][-1].place)
        never.fail("no two alternatives of different `or`s go together", never.place)
        return never

    def distribute(self, part: Conjunction) -> list[Conjunct]:
        """One conjunct for every way to choose one of each of `part`'s choices, in their order, without
        its base. Ways whose bounds cross are left out as soon as they do."""
        choices = [self._possible(part.base, choice) for choice in part.choices]
        found = choices[0]
        for choice in choices[1:]:
            longer = []
            for first in found:
                for second in choice:
                    self.work += 1 + len(second.bounds)
                    if first.meets(second):
                        longer.append(first.both(second))
                        self.work += len(first.bounds) + len(first.rows) + len(second.rows)
                        self._limit(len(longer), second.place)
                if self.work > WORK:
                    self._limit(len(longer), first.place)
            found = longer
        return found

    def _possible(self, base: Conjunct, choice: list[Conjunct]) -> list[Conjunct]:
        alive = [c for c in choice if base.meets(c)]
        if alive and len(alive) < len(choice):
            self.drop([base.both(c) for c in choice if not base.meets(c)])
        return alive

    def _limit(self, conjuncts: int, place: Place) -> None:
        if conjuncts <= CONJUNCTS and self.work <= WORK:
            return
        what = f"the disjunctive normal form is too large (more than {CONJUNCTS:,} alternatives or {WORK:,} parts)"
        remedy = "split the property into several files, or list the alternatives in one `or`"
        raise MalformedSpec(what, remedy, path=self.path, line=place.line, column=place.column)
