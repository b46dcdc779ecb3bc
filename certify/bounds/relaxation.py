"""The relaxing lines of a network as functions of their free parameters."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from certify.bounds.base import NodeBounds
from certify.bounds.linear import lines_of
from certify.graph import ops
from certify.graph.evaluate import Network
from certify.graph.rules import Rules
from certify.relax.bowl import BOWLS, Bowled
from certify.relax.elementwise import LINES, Lines, curve_of, has_parameter
from certify.relax.product import Mixture, Planes
from certify.relax.s_shaped import Between
from certify.relax.turning import TURNED, Turned


class Family(Protocol):
    """The lines of one nonlinear node, by a parameter t (B, S, *N) in [0, 1]."""

    def initial(self) -> Tensor:
        """The parameters (B, 1, *N) of the lines of least area."""
        ...

    def lines(self, t: Tensor) -> Lines | Planes: ...

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        """How the value at z of the upper line, where `up`, else of the lower one changes with t."""
        ...

    def select(self, domains: Tensor) -> Family:
        """The lines of `domains` (positions), or of all, where they share theirs."""
        ...


class Kinked:
    """Lines whose slopes depend on t linearly, as ReLU's: two tables serve every t."""

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        rule = LINES[op]
        self.base, self.least = rule(op, lower, upper, torch.zeros_like(lower)), rule(op, lower, upper, None)
        one = rule(op, lower, upper, torch.ones_like(lower))
        self.low, self.up = one.lower_slope - self.base.lower_slope, one.upper_slope - self.base.upper_slope

    def initial(self) -> Tensor:
        gain = self.low + self.up
        moved = self.least.lower_slope - self.base.lower_slope + self.least.upper_slope - self.base.upper_slope
        return torch.where(gain != 0, moved / torch.where(gain != 0, gain, 1), 0).clamp(0, 1)

    def lines(self, t: Tensor) -> Lines:
        return self.base._replace(
            lower_slope=torch.addcmul(self.base.lower_slope, t, self.low),
            upper_slope=torch.addcmul(self.base.upper_slope, t, self.up),
        )

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        return z * torch.where(up, self.up, self.low)

    def select(self, domains: Tensor) -> Kinked:
        if len(self.low) == 1:
            return self
        chosen = copy(self)
        chosen.base, chosen.least = self.base.select(domains), self.least.select(domains)
        chosen.low, chosen.up = self.low[domains], self.up[domains]
        return chosen


class Rectified(Kinked):
    """ReLU's lines: t is the lower line's slope where the operator is unstable. One table, made in a few passes."""

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        self.least = LINES[op](op, lower, upper, None)
        unstable = (lower < 0) & (upper > 0)
        self.base = self.least._replace(lower_slope=self.least.lower_slope.masked_fill(unstable, 0))
        self.low, self.up = unstable.to(lower.dtype), lower.new_zeros(()).expand_as(lower)

    def initial(self) -> Tensor:
        return self.least.lower_slope * self.low

    def lines(self, t: Tensor) -> Lines:
        return self.base._replace(lower_slope=torch.addcmul(self.base.lower_slope, t, self.low))


class Touching:
    """Lines that touch an s-shaped function, or one with a few turns, where t says."""

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        self.between = Turned(op, lower, upper) if isinstance(op, TURNED) else Between(curve_of(op), lower, upper)
        self.like = lower

    def initial(self) -> Tensor:
        return torch.full_like(self.like, 0.5)

    def lines(self, t: Tensor) -> Lines:
        return Lines(*self.between.lines(t))

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        return self.between.rate(t, z, up)

    def select(self, domains: Tensor) -> Touching:
        if len(self.like) == 1:
            return self
        chosen = copy(self)
        chosen.between, chosen.like = self.between.select(domains), self.like[domains]
        return chosen


class Tangent:
    """Lines of a convex function, of which the tangent touches where t says."""

    def __init__(self, op: ops.Op, lower: Tensor, upper: Tensor) -> None:
        self.op, self.lower, self.upper = op, lower, upper
        self.bowled = Bowled(op, lower, upper)

    def initial(self) -> Tensor:
        return torch.full_like(self.lower, 0.5)

    def lines(self, t: Tensor) -> Lines:
        return Lines(*self.bowled.lines(t))

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        return self.bowled.rate(t, z, up)

    def select(self, domains: Tensor) -> Tangent:
        if len(self.lower) == 1:
            return self
        return Tangent(self.op, self.lower[domains], self.upper[domains])


FAMILIES: Rules[Callable[[ops.Op, Tensor, Tensor], Family]] = Rules("lines with parameters")
FAMILIES(ops.Relu)(Rectified)
FAMILIES(ops.LeakyRelu, ops.Abs)(Kinked)
FAMILIES(ops.Sigmoid, ops.Tanh, *TURNED)(Touching)
FAMILIES(*BOWLS)(Tangent)
FAMILIES(ops.Product)(Mixture)


class Relaxation:
    """The lines of all elementwise nodes whose inputs have bounds; `families` holds those with a parameter."""

    def __init__(self, network: Network, bounds: NodeBounds) -> None:
        nodes = network.graph.nodes
        every = tuple(e for e in network.graph.nonlinear if nodes[e].inputs[0] in bounds)
        free = [e for e in every if has_parameter(nodes[e].op)]
        self.fixed = lines_of(network, bounds, tuple(e for e in every if e not in free))
        self.families: dict[int, Family] = {}
        for e in free:
            lower, upper = (b.unsqueeze(1) for b in bounds[nodes[e].inputs[0]])
            self.families[e] = FAMILIES[nodes[e].op](nodes[e].op, lower, upper)

    def initial(self) -> dict[int, Tensor]:
        """The parameters {e: (B, 1, *N)} of the lines of least area."""
        return {e: family.initial() for e, family in self.families.items()}

    def lines(self, parameters: dict[int, Tensor]) -> dict[int, Lines | Planes]:
        """All lines, with parameters {e: (B, S, *N)}."""
        return self.fixed | {e: self.families[e].lines(t) for e, t in parameters.items()}

    def select(self, domains: Tensor) -> Relaxation:
        """The lines of `domains` (positions)."""
        chosen = copy(self)
        chosen.fixed = {e: line.select(domains) for e, line in self.fixed.items()}
        chosen.families = {e: family.select(domains) for e, family in self.families.items()}
        return chosen
