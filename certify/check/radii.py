"""What a probability under noise says about inputs nearby: one rule for each kind of noise.

A rule takes the parameters of the noise, a lower bound of the probability that the base classifier answers class A on
the noisy sample, and an upper bound of the probability of any other class. It returns how far the sample may be
changed so that A provably stays the most probable class: a float64, rounded down; 0.0 where nothing is certified.
For a continuous norm this means all changes *smaller* than the radius, for a count (L0, shifts of a patch) all changes
*up to* it.

Probabilities are Fractions, and where the rule has no logarithm or quantile it is computed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import localcontext
from fractions import Fraction
from functools import cmp_to_key
from typing import NamedTuple

from certify.check.tails import DOWN, float_down, log_down, quantile_down, quantile_up, to_decimal
from certify.errors import EvidenceRejected

MOST_CHANGES, MOST_FLIPS = 512, 64
"""Changes beyond which no radius is looked for; of flips, which take a proof for each number of additions."""


class Sets(NamedTuple):
    """Probabilities of sets of constant likelihood ratio, around the sample and around the changed one, as whole
    numbers; set i is where a sum over coordinates is i. A product is of independent coordinates."""

    here: list[int]
    there: list[int]

    def __mul__(self, other: Sets) -> Sets:
        return Sets(*(_convolved(a, b) for a, b in zip(self, other, strict=True)))


def _convolved(a: Sequence[int], b: Sequence[int]) -> list[int]:
    found = [0] * (len(a) + len(b) - 1)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            found[i + j] += p * q
    return found


def radius(noise: Mapping[str, object], lower: Fraction, upper: Fraction) -> float:
    """The radius for noise as `Noise.described` gives it. Sound if P[A] >= lower and P[any other class] <= upper.

    Raises EvidenceRejected for noise that is not known, or parameters that make no sense.
    """
    if not 0 <= lower <= 1 or not 0 <= upper <= 1:
        raise EvidenceRejected(f"{float(lower)} and {float(upper)} are not both probabilities")
    parameters = dict(noise)
    rule = RULES.get(str(parameters.pop("kind", "")))
    if rule is None:
        raise EvidenceRejected(f"noise of kind {noise.get('kind')!r} is not known; known are {', '.join(RULES)}")
    if lower <= upper:
        return 0.0
    try:
        return max(0.0, rule(lower, upper, **parameters))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise EvidenceRejected(f"noise {dict(noise)} makes no sense: {error}") from error


def gaussian(lower: Fraction, upper: Fraction, *, sigma: float) -> float:
    """L2: sigma / 2 (Phi^-1(lower) - Phi^-1(upper)) (Cohen et al. 2019, theorem 1)."""
    _positive(sigma)
    if lower + upper == 1:
        return _product(sigma, quantile_down(lower))
    return _product(sigma, (Fraction(quantile_down(lower)) - Fraction(quantile_up(upper))) / 2)


def rounded_gaussian(lower: Fraction, upper: Fraction, *, sigma: float, step: float, size: int) -> float:
    """L2, between points of the grid of whole multiples of `step`, of `size` coordinates.

    To round x + noise to the grid is part of the base classifier, for which `gaussian` holds (Vorácek and Hein 2023);
    for x on the grid it adds rounded noise. A coordinate of it is drawn by comparing 63 random bits with 2 reach
    thresholds, each of which is off by at most 2 units of 2^-63. So its distribution is off, in total variation, by
    4 reach units, and by the mass beyond the table, less than one.
    """
    _positive(sigma, step)
    if size < 1:
        raise ValueError(f"{size} coordinates")
    off = size * (4 * reach(sigma, step) + 1) * Fraction(1, 2**BITS)
    if lower - off <= min(upper + off, 1 - lower + off):
        return 0.0
    return gaussian(lower - off, min(upper + off, 1 - lower + off), sigma=sigma)


BITS = 63
"""Random bits of which a rounded Gaussian coordinate is made."""


def reach(sigma: float, step: float) -> int:
    """Grid steps that rounded Gaussian noise reaches: 10 sigma, beyond which lies less than 2^-63 of its mass."""
    return math.ceil(10 * Fraction(sigma) / Fraction(step))


def uniform(lower: Fraction, upper: Fraction, *, width: float) -> float:
    """L1, noise uniform in [-width, width]: width (lower - upper).

    The total variation between the two boxes is at most |change|_1 / (2 width) (Lee et al. 2019; Yang et al. 2020).
    """
    _positive(width)
    return float_down(Fraction(width) * (lower - upper))


def laplace(lower: Fraction, upper: Fraction, *, scale: float) -> float:
    """L1: scale max(ln(lower / upper) / 2, -ln(1 - lower + upper)) (Teng et al. 2020).

    Densities differ by at most a factor exp(|change|_1 / scale). Where upper = 1 - lower, the second is
    -ln(2 (1 - lower)), which is tight (Yang et al. 2020). An upper bound of 0 makes the first infinite: it is not used.
    """
    _positive(scale)
    if lower == 1 and upper == 0:
        raise ValueError("a probability of 1 cannot be certified by sampling")
    gains = [log_down(1 / (1 - lower + upper))]
    with localcontext(DOWN):
        if upper > 0:
            gains.append(log_down(lower / upper) / 2)
        return float_down(to_decimal(Fraction(scale), DOWN) * max(gains))


def flips(lower: Fraction, upper: Fraction, *, add: float, delete: float) -> float:
    """L0 of binary data, a 0 flipped with probability `add`, a 1 with `delete` (Bojchevski et al. 2020, section 4).

    All additions and deletions that are at most so many together are certified. In set q, the noisy sample differs
    from x in q of the changed coordinates. With u = add / (1 - delete) and v = delete / (1 - add), its likelihood under
    x is u^(q - deletions) v^(q - additions) times the one under x'.
    """
    (a, d), whole = _whole(_inside(add), _inside(delete))
    added, deleted = Sets([whole - a, a], [d, whole - d]), Sets([whole - d, d], [a, whole - a])
    diagonal, total = [Sets([1], [1])], 1  # by the number of additions, for so many changes
    for changes in range(MOST_FLIPS):
        total *= whole
        diagonal = [diagonal[0] * deleted, *(sets * added for sets in diagonal)]
        if not all(stays(lower, upper, sets, total) for sets in diagonal):
            return float(changes)
    return float(MOST_FLIPS)


def categories(lower: Fraction, upper: Fraction, *, flip: float, count: int, step: float = 1.0) -> float:
    """L0 of data of `count` categories, `step` apart, each replaced with probability `flip` by another one, all alike.

    Bojchevski et al. 2020, section 4.4. In set s, the noisy sample agrees with x in s coordinates more than with x',
    of those that were changed; the likelihood ratio depends on s only.
    """
    p = _inside(flip)
    _positive(step)
    if count < 2:
        raise ValueError(f"{count} categories")
    (keep, other), whole = _whole(1 - p, p / (count - 1))
    one = [other, whole - keep - other, keep]
    changed, sets, total = Sets(one, one[::-1]), Sets([1], [1]), 1
    for changes in range(MOST_CHANGES):
        sets, total = sets * changed, total * whole
        if not stays(lower, upper, sets, total):
            return float(changes)
    return float(MOST_CHANGES)


def ablation(lower: Fraction, upper: Fraction, *, size: int, keep: int) -> float:
    """L0 where all but `keep` of `size` pixels, drawn evenly, are blanked (Levine and Feizi 2020a).

    Pixels that were changed are seen with probability 1 - C(size - changes, keep) / C(size, keep) only.
    """
    if not 0 < keep <= size:
        raise ValueError(f"{keep} of {size} pixels")

    def holds(changes: int) -> bool:
        seen = 1 - Fraction(math.comb(size - changes, keep), math.comb(size, keep)) if changes <= size else Fraction(1)
        return lower - seen > min(upper + seen, 1 - lower + seen)

    return _most(holds)


def bands(lower: Fraction, upper: Fraction, *, positions: int, width: int) -> float:
    """Side of a patch where all but a band of `width` of `positions` columns is blanked (Levine and Feizi 2020b).

    The bands go round the edge. A patch meets side + width - 1 of them.
    """
    return _patch(lower, upper, positions, lambda side: side + width - 1, width)


def blocks(lower: Fraction, upper: Fraction, *, positions: int, width: int) -> float:
    """As `bands`, where all but a square block is blanked, of this width, at one of as many positions as pixels."""
    return _patch(lower, upper, positions, lambda side: (side + width - 1) ** 2, width)


def _patch(lower: Fraction, upper: Fraction, positions: int, met: Callable[[int], int], width: int) -> float:
    if not 0 < width <= positions:
        raise ValueError(f"{width} of {positions} positions")

    def holds(side: int) -> bool:
        seen = Fraction(met(side), positions)
        return lower - seen > min(upper + seen, 1 - lower + seen)

    return _most(holds)


def stays(lower: Fraction, upper: Fraction, sets: Sets, total: int) -> bool:
    """Whether A is the most probable class around the changed sample, whatever the classifier is.

    The worst one for A answers A where that is, around the changed sample, the least likely in proportion; the best
    one for another class where it is most likely (Neyman-Pearson; a fractional knapsack). `total` is probability 1.
    """
    possible = [(p, q) for p, q in zip(sets.here, sets.there, strict=True) if p]  # here if and only if there
    ascending = sorted(possible, key=cmp_to_key(lambda r, s: r[1] * s[0] - s[1] * r[0]))
    worst = _filled(lower, ascending, total)
    return worst > min(_filled(upper, ascending[::-1], total), 1 - worst)


def _filled(mass: Fraction, sets: Sequence[tuple[int, int]], total: int) -> Fraction:
    """Probability around the changed sample of what has probability `mass` around x, sets being taken in this order."""
    there, left = 0, mass * total
    for p, q in sets:
        if p > left:
            return (there + q * left / p) / total
        there, left = there + q, left - p
    return Fraction(there, total)


def _whole(*probabilities: Fraction) -> tuple[tuple[int, ...], int]:
    """Whole numbers in the same proportions, and the one that stands for 1. (Fractions would look for common factors
    all the time.)"""
    total = math.lcm(*(p.denominator for p in probabilities))
    return tuple(int(p * total) for p in probabilities), total


def _most(holds: Callable[[int], bool]) -> float:
    """The largest number up to which `holds` is true."""
    changes = 0
    while changes < MOST_CHANGES and holds(changes + 1):
        changes += 1
    return float(changes)


def _product(sigma: float, quantile: float | Fraction) -> float:
    return float_down(Fraction(sigma) * Fraction(quantile))


def _positive(*parameters: float) -> None:
    for p in parameters:
        if not 0 < p < math.inf:
            raise ValueError(f"{p} is not a positive number")


def _inside(probability: float) -> Fraction:
    if not 0 < probability < 1:
        raise ValueError(f"{probability} is not strictly between 0 and 1")
    return Fraction(probability)


RULES: dict[str, Callable[..., float]] = {
    "gaussian": gaussian,
    "rounded-gaussian": rounded_gaussian,
    "uniform": uniform,
    "laplace": laplace,
    "flips": flips,
    "categories": categories,
    "ablation": ablation,
    "bands": bands,
    "blocks": blocks,
    "translation": gaussian,
    "brightness": gaussian,
    "contrast": gaussian,
}
