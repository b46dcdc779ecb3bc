"""Sums of products by Einstein's convention, as matrix products of two operands at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from certify.graph.build import GraphBuilder, NotLowered, Operand

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def einsum(b: GraphBuilder, equation: str, operands: Sequence[Operand]) -> Operand:
    """The sum that `equation` describes, as numpy.einsum.

    Raises NotLowered where a letter stands twice in one operand or the result, or for axes of one and of more entries,
    which would be broadcast.
    """
    terms, right = _terms(equation.replace(" ", ""), operands)
    if any(len(set(t)) < len(t) for t in (*terms, right)):
        raise NotLowered(f"the sum {equation}")
    if len(terms) != len(operands) or any(len(t) != len(x.shape) for t, x in zip(terms, operands, strict=False)):
        raise ValueError(f"the sum {equation} of {[x.shape for x in operands]}")
    axes = {(c, n) for term, x in zip(terms, operands, strict=True) for c, n in zip(term, x.shape, strict=True)}
    if len(axes) > len({c for c, _ in axes}):
        raise NotLowered(f"the sum {equation} of {[x.shape for x in operands]}")
    x, one = _summed(b, operands[0], terms[0], (*terms[1:], right))
    for i, y in enumerate(operands[1:], 1):
        y, other = _summed(b, y, terms[i], (one, *terms[i + 1 :], right))
        x, one = _product(b, (x, one), (y, other), (*terms[i + 1 :], right))
    return b.permute(x, [one.index(c) for c in right])


def _terms(equation: str, operands: Sequence[Operand]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, an ellipsis being letters that nobody uses.

    Its axes of size one are not broadcast: they have letters as the others.
    """
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    free = [c for c in LETTERS if c not in equation]
    count = max((len(x.shape) - len(t) + 3 for t, x in zip(terms, operands, strict=False) if "..." in t), default=0)
    shared = "".join(free[:count])
    if not arrow:
        once = sorted(c for c in set(left) if c not in ",." and left.count(c) == 1)
        right = "..." * ("..." in left) + "".join(once)

    def spelt(term: str, rank: int) -> str:
        own = rank - len(term) + 3
        return term.replace("...", shared[count - own :] if own else "")

    spelled = [spelt(t, len(x.shape)) if "..." in t else t for t, x in zip(terms, operands, strict=False)]
    return spelled + terms[len(operands) :], right.replace("...", shared)


def _summed(b: GraphBuilder, x: Operand, term: str, others: Sequence[str]) -> tuple[Operand, str]:
    """x without the letters that occur nowhere else, which are summed over."""
    alone = [i for i, c in enumerate(term) if not any(c in t for t in others)]
    if alone:
        x = b.reduce_sum(x, alone)
    return x, "".join(c for i, c in enumerate(term) if i not in alone)


def _product(
    b: GraphBuilder, first: tuple[Operand, str], second: tuple[Operand, str], later: Sequence[str]
) -> tuple[Operand, str]:
    """Two operands multiplied, and summed over the letters that they share and nobody needs `later`."""
    (x, one), (y, other) = first, second
    needed = set().union(*later)
    shared = [c for c in one if c in other and c in needed]
    inner = [c for c in one if c in other and c not in needed]
    rows, columns = [c for c in one if c not in other], [c for c in other if c not in one]
    sizes = {c: n for v, term in (first, second) for c, n in zip(term, v.shape, strict=True)}
    count = {name: prod(sizes[c] for c in part) for name, part in (("r", rows), ("i", inner), ("c", columns))}
    lead = tuple(sizes[c] for c in shared)
    x = b.reshape(b.permute(x, [one.index(c) for c in (*shared, *rows, *inner)]), (*lead, count["r"], count["i"]))
    y = b.reshape(b.permute(y, [other.index(c) for c in (*shared, *inner, *columns)]), (*lead, count["i"], count["c"]))
    made = b.reshape(b.matmul(x, y), tuple(sizes[c] for c in (*shared, *rows, *columns)))
    return made, "".join((*shared, *rows, *columns))
