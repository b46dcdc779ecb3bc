"""A network that attacks can follow where the network's own derivative is zero almost everywhere."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from certify.graph import ops
from certify.graph.evaluate import Network

Function = Callable[[Tensor], Tensor]

WINDOW = 0.1
"""How near to its step a value must be, as a part of the mean magnitude of its tensor, for a derivative of half the
largest: what is about to change its sign counts, and the rest does not drown it."""

LARGEST = 10.0
"""What the exponents of one entry are scaled down to, at most: exp(-10) is still seen beside 1 in float32."""


class _Straight(torch.autograd.Function):
    """The sign, with the derivative of atan(x / s), where s is WINDOW of the entry's mean magnitude
    (straight-through estimators: Bengio et al. 2013; Yin et al. 2019)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        mean = x.abs().mean(tuple(range(1, x.dim())), keepdim=True)
        scale = (WINDOW * mean).clamp_min(torch.finfo(x.dtype).tiny)
        return gradient / (1 + (x / scale).square()) / scale


def _floor(x: Tensor) -> Tensor:
    """The floor, with the derivative of its argument."""
    return x + (x.floor() - x).detach()


def _flattened(x: Tensor) -> Tensor:
    """x / t, with t >= 1 an entry's own: what exponentials make of it keeps its order, and does not saturate."""
    largest = x.detach().abs().amax(tuple(range(1, x.dim())), keepdim=True)
    return x / (largest / LARGEST).clamp_min(1)


def _exp(x: Tensor) -> Tensor:
    return _flattened(x).exp()


def _sigmoid(x: Tensor) -> Tensor:
    return _flattened(x).sigmoid()


STEPS: dict[type[ops.Op], Function] = {ops.Sign: _Straight.apply, ops.Floor: _floor}
FLAT: dict[type[ops.Op], Function] = {ops.Exp: _exp, ops.Sigmoid: _sigmoid}


def surrogate(network: Network) -> Network:
    """The network itself, unless it has steps: then one with their values, whose derivatives lead somewhere.

    Behind steps the numbers are whole and large, as those of a binarised network, and a softmax at the end is 0 or
    1 in float32; so exponentials and sigmoids are flattened, which keeps the order of a softmax's outputs, but not
    their values.
    For searching only: whoever uses a point asks the network itself.
    """
    if not any(type(node.op) in STEPS for node in network.graph.nodes):
        return network
    rules = STEPS | FLAT
    led = copy(network)
    led.notes = {}
    led.functions = [rules.get(type(n.op), f) for n, f in zip(network.graph.nodes, network.functions, strict=True)]
    return led
