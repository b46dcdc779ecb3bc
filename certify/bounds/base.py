"""What all bound methods share: the words for shapes, and bounds on intermediate values.

Shape letters, everywhere: `B` batch of inputs or domains, `S` rows of the specification, `*N` the shape
of a node without batch, `d` the flattened input, `n` the flattened output.

Bounds here are computed in ordinary floating point: they steer the search. A claim is made only by
`certify.check`, which recomputes them with outward rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

Interval = tuple[Tensor, Tensor]
"""lower, upper, each (B, *N)."""

NodeBounds = dict[int, Interval]
"""Graph node -> bounds on its value; the nodes that elementwise operators read are the ones that matter."""


def intersect(a: Interval, b: Interval) -> Interval:
    """The common part. Where rounding made the two miss each other, the crossed result is kept as it is:
    the caller reads lower > upper as an empty domain, never as a narrow one."""
    return torch.maximum(a[0], b[0]), torch.minimum(a[1], b[1])


ROUNDING = 2e-6
"""What float32 rounding costs a bound, in parts of its size, in all but badly conditioned networks."""


def padded(lower: Tensor) -> Tensor:
    """Lower bounds, lowered by about what rounding may have raised them: what is stable here is so for the
    checker, too, nearly always. Zero, which is mostly exact, as behind a ReLU, stays."""
    return lower - ROUNDING * lower.abs()


def crossed(lower: Tensor, upper: Tensor) -> Tensor:
    """Where bounds are of an empty domain: where they miss each other by more than rounding, which makes the two ends
    of what is one value differ in the last place."""
    return padded(lower) > -padded(-upper)


def apart(bounds: NodeBounds) -> NodeBounds:
    """The bounds on all nodes, `padded` on both sides."""
    return {v: (padded(lower), -padded(-upper)) for v, (lower, upper) in bounds.items()}


def flat(x: Tensor, lead: int) -> Tensor:
    """x with the axes behind the first `lead` joined into one, which a scalar node (*N = ()) gets too."""
    return x.flatten(lead) if x.dim() > lead else x.unsqueeze(-1)
