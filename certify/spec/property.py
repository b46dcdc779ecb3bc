"""Properties: what must hold of the output, kept as its unsafe set in disjunctive normal form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from certify.errors import MalformedSpec

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Clause:
    """Half-spaces that are unsafe together: z is unsafe iff matrix @ z <= offset in every row.

    z (n,) is the flattened output y, or y followed by the flattened input x where a row speaks of
    inputs too. matrix (S, n), offset (S,), float64. Where `strict` (S,) is set, the row means <;
    proofs treat it as <=, which only makes the unsafe set larger.
    """

    matrix: Array
    offset: Array
    strict: Array

    def __post_init__(self) -> None:
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            raise MalformedSpec("a half-space of the property has a coefficient that is not finite")
        if not self.matrix.dtype == self.offset.dtype == np.float64 or self.strict.dtype != bool:
            made = f"{self.matrix.dtype}, {self.offset.dtype} and {self.strict.dtype}"
            raise MalformedSpec(
                f"a clause is of float64, float64 and bool, not of {made}", "make it with certify.clause"
            )
        if self.matrix.ndim != 2 or self.offset.shape != self.matrix.shape[:1] or not len(self.offset):
            shapes = f"{self.matrix.shape} and {self.offset.shape}"
            raise MalformedSpec(f"a clause needs rows (S, n) and offsets (S,), S > 0, not {shapes}")

    def margin(self, z: Tensor) -> Tensor:
        """max over rows of matrix @ z - offset, for z (..., n): safe where positive. Differentiable."""
        return (z @ z.new_tensor(self.matrix).T - z.new_tensor(self.offset)).amax(-1)

    def unsafe(self, z: Array) -> bool:
        """Whether z (n,) is unsafe, in exact arithmetic. False for values that are not finite."""
        z = np.asarray(z, np.float64).reshape(-1)
        if z.size != self.matrix.shape[1]:
            raise ValueError(f"the clause is over {self.matrix.shape[1]} values, not {z.size}")
        for row, offset, strict in zip(self.matrix, self.offset, self.strict, strict=True):
            support = np.flatnonzero(row)
            if not np.isfinite(z[support]).all():
                return False
            value = sum((Fraction(row[i]) * Fraction(z[i]) for i in support), Fraction(0)) - Fraction(offset)
            if value > 0 or (strict and value == 0):
                return False
        return True


@dataclass(frozen=True, eq=False)
class Property:
    """The unsafe set as an OR of clauses; holds of z iff no clause is unsafe."""

    clauses: tuple[Clause, ...]

    def margin(self, z: Tensor) -> Tensor:
        """min over clauses of their margin, for z (..., n): the property holds where it is positive."""
        import torch

        return torch.stack([c.margin(z) for c in self.clauses], -1).amin(-1)

    def violated(self, z: Array) -> int | None:
        """The first clause that z (n,) violates, exactly; None if the property holds of z."""
        return next((i for i, c in enumerate(self.clauses) if c.unsafe(z)), None)


def clause(matrix: Array, offset: Array, strict: Array | None = None) -> Clause:
    """A clause from array-likes: unsafe iff matrix @ z <= offset in every row."""
    matrix = np.atleast_2d(np.array(matrix, np.float64))
    offset = np.atleast_1d(np.array(offset, np.float64))
    return Clause(matrix, offset, np.zeros(len(offset), bool) if strict is None else np.asarray(strict, bool))


_CLASSES = "classes are counted from 0, and there are as many as the network has outputs"


def robust(label: SupportsIndex, classes: int) -> Property:
    """The label's output stays strictly above all others: unsafe iff y_label - y_j <= 0 for some j.

    Raises MalformedSpec for a label that is not one of the classes, of which there must be two.
    """
    label = index(label)
    if classes < 2:
        raise MalformedSpec(f"of {classes} classes none can be mistaken for another", _CLASSES)
    return targeted(label, (j for j in range(classes) if j != label), classes)


def targeted(label: SupportsIndex, targets: Iterable[SupportsIndex], classes: int) -> Property:
    """The label's output stays strictly above those of `targets`."""
    label, chosen = index(label), tuple(index(j) for j in targets)
    for j in (label, *chosen):
        if not 0 <= j < classes:
            raise MalformedSpec(f"class {j} is not one of {classes} classes", _CLASSES)
    if label in chosen or not chosen:
        raise MalformedSpec("the targets must be classes other than the label, at least one", _CLASSES)
    return Property(tuple(_beats(label, j, classes) for j in chosen))


def _beats(label: int, other: int, classes: int) -> Clause:
    row = np.zeros((1, classes))
    row[0, label], row[0, other] = 1.0, -1.0
    return clause(row, [0.0])
