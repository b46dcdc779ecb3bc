"""Linear terms over z = [y; x] in exact rationals, and the half-spaces in float64 that they make.

A literal means the float64 number nearest to it, and so does the quotient of two constants: (/ 1 3).
Everything made of them is exact, until a comparison becomes a row of float64 numbers: see `row`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

ZERO = Fraction(0)
BITS = 1 << 14
"""Digits of a numerator or denominator beyond which no row in float64 will come of it; more would take all time."""
LARGEST = Fraction(float.fromhex("0x1.fffffffffffffp+1023"))


class Row(NamedTuple):
    """sum of coefficient * z[column] over `terms` <= offset, or < where strict; columns increase."""

    terms: tuple[tuple[int, float], ...]
    offset: float
    strict: bool


class NotLinear(ValueError):
    """Two terms with variables were multiplied, or a term was divided by one."""


class NotFloat(ValueError):
    """A number or a row that float64 cannot hold."""


@dataclass(frozen=True, slots=True)
class Term:
    """sum of coefficients[column] * z[column], none of them 0, plus a constant.

    `literal` is what a constant was written as, for the quotient of two.
    """

    coefficients: Mapping[int, Fraction]
    constant: Fraction
    literal: Decimal | None = None


def number(text: str) -> Term:
    """A decimal literal that is finite in float64."""
    value = float(text)
    return Term({}, Fraction(value), Decimal(text) if value else None)  # Decimal refuses exponents that are too long


def variable(column: int) -> Term:
    """z[column]."""
    return Term({column: Fraction(1)}, ZERO)


def add(terms: Sequence[Term]) -> Term:
    """The sum; in time linear in all but the largest of them."""
    largest = max(terms, key=lambda t: len(t.coefficients))
    total = dict(largest.coefficients) if len(terms) > 1 else largest.coefficients
    for term in terms:
        if term is largest:
            continue
        for column, value in term.coefficients.items():
            value = short(total.get(column, ZERO) + value)
            if value:
                total[column] = value
            else:
                del total[column]
    constant = ZERO
    for term in terms:
        constant = short(constant + term.constant)
    return Term(total, constant)


def short(value: Fraction) -> Fraction:
    """The number. Raises NotFloat where it has become longer than any use."""
    if value.numerator.bit_length() > BITS or value.denominator.bit_length() > BITS:
        raise NotFloat("the numbers of this term have thousands of digits")
    return value


def negate(term: Term) -> Term:
    literal = None if term.literal is None else term.literal.copy_negate()
    return Term({c: -v for c, v in term.coefficients.items()}, -term.constant, literal)


def subtract(terms: Sequence[Term]) -> Term:
    """The first minus the others; of one term, its negation."""
    if len(terms) == 1:
        return negate(terms[0])
    return add([terms[0], *map(negate, terms[1:])])


def multiply(terms: Sequence[Term]) -> Term:
    """The product. Raises NotLinear if two factors have variables."""
    varying = [t for t in terms if t.coefficients]
    if len(varying) > 1:
        raise NotLinear("two terms with variables are multiplied")
    factor = _product(t.constant for t in terms if not t.coefficients)
    return _scaled(varying[0], factor) if varying else Term({}, factor)


def divide(terms: Sequence[Term]) -> Term:
    """The first divided by the others. Raises NotLinear if a divisor has variables, ZeroDivisionError.

    The quotient of two constants is rounded to the nearest float64.
    """
    if any(t.coefficients for t in terms[1:]):
        raise NotLinear("a term is divided by one with variables")
    if len(terms) == 2 and not terms[0].coefficients:
        above, below = (_exact(t) for t in terms)
        try:
            return Term({}, Fraction(float(above / below)))
        except OverflowError as error:
            raise NotFloat("the quotient is not finite in float64") from error
    return _scaled(terms[0], 1 / _product(t.constant for t in terms[1:]))


def _product(values: Iterable[Fraction]) -> Fraction:
    factor = Fraction(1)
    for value in values:
        factor = short(factor * value)
    return factor


def _scaled(term: Term, factor: Fraction) -> Term:
    scaled = {c: short(v * factor) for c, v in term.coefficients.items()} if factor else {}
    return Term(scaled, short(term.constant * factor))


def _exact(term: Term) -> Fraction:
    # What underflows counts as its float64, 0: the exact value of 1e-999999999 would fill the memory.
    return Fraction(term.literal) if term.literal is not None and term.constant else term.constant


def round_up(value: Fraction) -> float:
    """The least float64 >= value, or infinity."""
    if abs(value) > LARGEST:
        return math.inf if value > 0 else -float(LARGEST)
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def round_down(value: Fraction) -> float:
    """The largest float64 <= value, or minus infinity; never -0.0, which would be another specification's hash."""
    return -round_up(-value) + 0.0


def is_float(value: Fraction) -> bool:
    return abs(value) <= LARGEST and Fraction(float(value)) == value


def row(coefficients: Mapping[int, Fraction], offset: Fraction, strict: bool) -> Row:
    """The half-space sum of coefficients * z <= offset (< if strict) in float64.

    The coefficients are exact, as they stand or after scaling the row; the offset is exact if it can
    be, and else rounded up, so that the half-space only grows. Raises NotFloat where the coefficients
    of several columns do not fit into float64 together: rounding them would change what the row means.
    """
    values = list(coefficients.values())
    scales = (Fraction(1), 1 / _content([*values, offset]), 1 / _content(values))
    fitting = [scale for scale in scales if all(is_float(v * scale) for v in values)]
    if not fitting:
        raise NotFloat("the coefficients of this comparison need more digits than float64 has")
    scale = next((s for s in fitting if is_float(offset * s)), fitting[0])
    limit = round_up(offset * scale)
    if not math.isfinite(limit):
        raise NotFloat("the constant of this comparison is not finite in float64")
    return Row(tuple(sorted((c, float(v * scale)) for c, v in coefficients.items())), limit, strict)


def _content(values: Sequence[Fraction]) -> Fraction:
    """The largest rational that all values are integer multiples of."""
    return Fraction(math.gcd(*(v.numerator for v in values)), math.lcm(*(v.denominator for v in values)))
