"""Batch normalisation held to the statistics of the clean batch, so that every bound and every attacked point
of a step concerns one and the same function (Shi et al. 2021, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Held = dict[nn.Module, tuple[Tensor, Tensor]]
"""Scale and shift per channel of each batch normalisation."""


def clean(network: nn.Module, x: Tensor) -> tuple[Tensor, Held]:
    """The logits of x, and the batch normalisations as they acted there; updates running statistics once
    if the network is in training mode."""
    held: Held = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        held[layer] = _affine(layer, inputs[0] if layer.training else None)

    hooks = [m.register_forward_pre_hook(note) for m in _layers(network)]
    try:
        return network(x), held
    finally:
        for hook in hooks:
            hook.remove()


def learn(network: nn.Module, x: Tensor) -> Held:
    """The second part of `clean`, for methods that need no logits of x; nothing is computed if nothing is held."""
    return clean(network, x)[1] if _layers(network) else {}


def of(layer: nn.Module, held: Held) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation: as held, or else from its running statistics."""
    return held[layer] if layer in held else _affine(layer, None)


@contextmanager
def fixed(network: nn.Module, held: Held) -> Iterator[None]:
    """While it is entered, batch normalisations act as held and learn nothing."""

    def act(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        scale, shift = (per_channel(v, inputs[0].ndim) for v in of(layer, held))
        return inputs[0] * scale + shift

    layers = _layers(network)
    modes = [m.training for m in layers]
    hooks = [m.register_forward_hook(act) for m in layers]
    try:
        for m in layers:
            m.eval()
        yield
    finally:
        for m, mode in zip(layers, modes, strict=True):
            m.train(mode)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def refresh(network: nn.Module, x: Tensor, batch: int) -> None:
    """Give batch normalisations the running statistics of x (N, *shape), seen in batches: those of averaged weights
    are not the average of those of the weights (Izmailov et al. 2018)."""
    layers = _layers(network)
    if not layers:
        return
    mode, momenta = network.training, [m.momentum for m in layers]
    for m in layers:
        m.reset_running_stats()
        m.momentum = None  # every batch counts alike
    network.train()
    for part in x.split(batch):
        network(part)
    network.train(mode)
    for m, momentum in zip(layers, momenta, strict=True):
        m.momentum = momentum


def per_channel(values: Tensor, ndim: int) -> Tensor:
    """Values (C,) shaped to act on x (B, C, ...) with `ndim` axes."""
    return values.view(1, -1, *(1,) * (ndim - 2))


def _layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm)]


def _affine(layer: nn.Module, x: Tensor | None) -> tuple[Tensor, Tensor]:
    if x is None:
        mean, variance = layer.running_mean, layer.running_var
    else:
        variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
    scale = (variance + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    return scale, (-mean * scale if layer.bias is None else layer.bias - mean * scale)
