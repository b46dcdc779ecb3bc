"""Cheaper steps: half precision where nothing rests on it, and compiled forward passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from certify.errors import BadOption


def refuse_half() -> None:
    """Raise BadOption where half precision is in force: its rounding, eight bits, is wider than many intervals, so
    that ends would cross and a loss would no longer bound the worst case. Attacks only look for points: for them and
    for plain losses it is good enough."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise BadOption(
            "bounds are not computed in half precision: its rounding is wider than many intervals",
            "train without mixed precision, or with a method that rests on attacks or noise",
        )


def compile_forward(network: nn.Module, backend: str) -> None:
    """Compile the network's forward pass, in place, with a backend of torch.compile. Raises BadOption where there is no
    such backend, or compiled code would miss what is done to the network."""
    from torch._dynamo import list_backends

    if backend not in (known := list_backends(exclude_tags=())):
        raise BadOption(f"torch.compile has no backend {backend!r}", f"use one of {', '.join(known)}")
    if any(isinstance(layer, _BatchNorm) for layer in network.modules()):
        raise BadOption(
            "networks with batch normalisation are not compiled: hooks hold it to the clean batch, and compiled code "
            "does not see them",
            "train without compiling, or a network without it, as cnn-small",
        )

    # Of a container as it is, torch compiles nothing, as it skips the frames of its own modules.
    def through(x: Tensor) -> Tensor:
        for layer in network:
            x = layer(x)
        return x

    forward = through if isinstance(network, nn.Sequential) else network.forward
    network.forward = torch.compile(forward, backend=backend)


def widened(layer: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    """A forward hook: logits in single precision, as a softmax of half precision loses small probabilities."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits
