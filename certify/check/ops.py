"""What the checker must know of an operator, and the table that says it.

All arrays are float64 with one leading batch axis: (B, *N).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from certify.graph.ir import Node
from certify.graph.ops import Input, Op
from certify.graph.rules import Rules

Array = np.ndarray
Shape = tuple[int, ...]


class Affine(ABC):
    """y = M x + b, with plain float64 maps and the lengths of the sums in them.

    `terms` is the largest number of products that are added up in an entry of M x, `back_terms` in an
    entry of M^T a. Zero means that every entry of the result is an entry of the argument, or zero: no
    rounding (and then no entry of M is negative).
    """

    terms: int = 0
    back_terms: int = 0
    bias: Array | None = None  # (*N), None for zero

    @abstractmethod
    def linear(self, *xs: Array) -> Array:
        """M x: one (B, *N_i) per input -> (B, *N)."""

    def absolute(self, *xs: Array) -> Array:
        """|M| x."""
        return self.linear(*xs)

    @abstractmethod
    def adjoint(self, a: Array) -> tuple[Array, ...]:
        """M^T a: (B, *N) -> one (B, *N_i) per input."""

    def unit_rows(self, index: Array) -> Array | None:
        """Rows `index` (any shape) of M, as (*index.shape, *N_0), where they can be read off; else None."""
        return None


class Lines(NamedTuple):
    """lower_slope * x + lower_shift <= f(x) <= upper_slope * x + upper_shift on an interval.

    Each (B, *N). None stands for a shift that is zero.
    """

    lower_slope: Array
    lower_shift: Array | None
    upper_slope: Array
    upper_shift: Array | None


class Nonlinear(ABC):
    """What is bounded by lines. Bounds `lower <= upper` of its argument are (B, *shape). Where one is NaN or infinite,
    shifts may be infinite or NaN, which proves nothing."""

    free_slope = False
    """Whether a proof may give a parameter, a number in [0, 1], of the lines."""

    @abstractmethod
    def range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Bounds (B, *N) of the values over [lower, upper], rounded outward."""

    @abstractmethod
    def bent(self, lower: Array, upper: Array) -> Array:
        """(B, *shape): where f is not (known to be) affine on [lower, upper], so that tighter bounds would help."""

    @abstractmethod
    def varies(self, lower: Array, upper: Array) -> Array:
        """(B, *shape): where f is not constant on [lower, upper]."""

    @abstractmethod
    def lines(self, lower: Array, upper: Array, free: Array | None = None) -> Lines:
        """Lines that hold for all real arguments within the bounds."""


class Elementwise(Nonlinear):
    """A function of one number. Only the two shifts and the range are trusted; slopes (B, *N) are anybody's choice."""

    @abstractmethod
    def slopes(self, lower: Array, upper: Array, free: Array | None) -> tuple[Array, Array]:
        """The slopes of the lower and the upper line. `free` holds slope parameters, NaN for the default."""

    @abstractmethod
    def upper_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        """At least max of f(x) - slope * x over [lower, upper]."""

    @abstractmethod
    def lower_shift(self, slope: Array, lower: Array, upper: Array) -> Array:
        """At most min of f(x) - slope * x over [lower, upper]."""

    def varies(self, lower: Array, upper: Array) -> Array:
        least, most = self.range(lower, upper)
        return least < most

    def lines(self, lower: Array, upper: Array, free: Array | None = None) -> Lines:
        """Lines that hold for all real x in [lower, upper]."""
        below, above = self.slopes(lower, upper, free)
        return Lines(below, self.lower_shift(below, lower, upper), above, self.upper_shift(above, lower, upper))


class Identity(Affine):
    """The input node: nothing is computed."""

    def linear(self, *xs: Array) -> Array:
        return xs[0]

    def adjoint(self, a: Array) -> tuple[Array, ...]:
        return (a,)


Builder = Callable[[Op, Node, Sequence[Shape]], Affine | Nonlinear]

RULES: Rules[Builder] = Rules("the checker")
"""Operator -> its rule, made for one node and the shapes of its inputs."""


@RULES(Input)
def _input(op: Op, node: Node, shapes: Sequence[Shape]) -> Affine:
    return Identity()
