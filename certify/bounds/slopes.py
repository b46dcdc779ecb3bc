"""Where the free line of a ReLU-like operator starts: four rules, all sound, none always the tightest."""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from certify.bounds.base import NodeBounds
from certify.bounds.linear import lines_of
from certify.graph.evaluate import Network
from certify.relax.elementwise import Lines, adaptive, chord, has_slope


class Slopes(enum.Enum):
    """Rules for the slope parameter of `certify.relax.elementwise`: 0 or 1 is a function's own piece."""

    ADAPTIVE = "adaptive"
    """1 where upper > -lower, else 0: least area per neuron (CROWN, Zhang et al. 2018)."""
    PARALLEL = "parallel"
    """upper / (upper - lower): parallel to the chord (Wong & Kolter 2018; also DeepZ, Fast-Lin)."""
    ZERO = "zero"
    """0 wherever unstable: a ReLU's lower bound is never negative."""
    ONE = "one"
    """1 wherever unstable."""

    def parameter(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The slope parameter (B, *N) in [0, 1] for bounds (B, *N); read only where the operator is unstable."""
        match self:
            case Slopes.ADAPTIVE:
                return adaptive(lower, upper)
            case Slopes.PARALLEL:
                return chord(lower, upper)[0]
            case Slopes.ZERO:
                return torch.zeros_like(lower)
            case Slopes.ONE:
                return torch.ones_like(lower)

    def lines(self, network: Network, bounds: NodeBounds, nodes: tuple[int, ...]) -> dict[int, Lines]:
        """Relaxing lines (B, 1, *N) of the elementwise `nodes`, given bounds on what they read."""
        if self is Slopes.ADAPTIVE:  # the operators' own default
            return lines_of(network, bounds, nodes)
        kinked = [e for e in nodes if has_slope(network.graph.nodes[e].op)]
        read = {e: bounds[network.graph.nodes[e].inputs[0]] for e in kinked}
        given = {e: self.parameter(*b).unsqueeze(1) for e, b in read.items()}
        return lines_of(network, bounds, tuple(e for e in nodes if e not in given)) | lines_of(network, bounds, given)
