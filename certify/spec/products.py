"""Products of variables in assertions: each is one further column of z = [y; x], so that all else stays linear.

While a file is read such a column is a negative number, as the count of outputs is not known to end before all is read;
`Products.place` then says where it is: behind the outputs, before the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from certify.spec.terms import NotLinear, Term, short

DEGREE = 16  # the most factors of one product
TERMS = 10_000  # the most parts of one polynomial
COUNT = 100_000  # the most different products of a specification

Polynomial = dict[tuple[int, ...], Fraction]
"""Factors, ascending, none for the constant -> coefficient, never 0."""


class Products:
    """The products of two and more variables that a specification speaks of."""

    def __init__(self) -> None:
        self.factors: list[tuple[int, ...]] = []  # columns of z, ascending, without products
        self._column: dict[tuple[int, ...], int] = {}

    def multiply(self, terms: Sequence[Term]) -> Term:
        """The product, multiplied out. Raises NotLinear where it has too many parts or factors."""
        total = self._polynomial(terms[0])
        for term in terms[1:]:
            total = _both(total, self._polynomial(term))
        constant = total.pop((), Fraction(0))
        return Term({self._of(factors): value for factors, value in total.items()}, constant)

    def _polynomial(self, term: Term) -> Polynomial:
        found = {(self.factors[-1 - c] if c < 0 else (c,)): v for c, v in term.coefficients.items()}
        return found | {(): term.constant} if term.constant else found

    def _of(self, factors: tuple[int, ...]) -> int:
        """The column of a product."""
        if len(factors) == 1:
            return factors[0]
        column = self._column.get(factors)
        if column is None:
            if len(self.factors) >= COUNT:
                raise NotLinear(f"there are more than {COUNT:,} different products of variables")
            self.factors.append(factors)
            column = self._column[factors] = -len(self.factors)
        return column

    def place(self, column: int, outputs: int) -> int:
        """The place of a column in z = [y; products; x], y being `outputs` numbers."""
        if column < 0:
            return outputs - 1 - column
        return column if column < outputs else column + len(self.factors)


def _both(a: Polynomial, b: Polynomial) -> Polynomial:
    if len(a) * len(b) > TERMS:
        raise NotLinear(f"a product of more than {TERMS:,} parts")
    total: Polynomial = {}
    for left, u in a.items():
        for right, v in b.items():
            factors = tuple(sorted(left + right))
            if len(factors) > DEGREE:
                raise NotLinear(f"more than {DEGREE} terms with variables are multiplied")
            total[factors] = short(total.get(factors, Fraction(0)) + u * v)
    return {factors: value for factors, value in total.items() if value}
