"""Batch normalisation held to the statistics of the clean batch, so that every bound and every attacked point
of a step concerns one and the same function (Shi et al. 2021, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from certify.errors import BadOption

Held = dict[nn.Module, tuple[Tensor, Tensor]]
"""Scale and shift per channel of each batch normalisation."""


def clean(network: nn.Module, x: Tensor) -> tuple[Tensor, Held]:
    """The logits of x, and the batch normalisations as they acted there; updates running statistics once
    if the network is in training mode."""
    held: Held = {}

    def act(layer: nn.Module, inputs: Tensor) -> Tensor:
        held[layer] = _learnt(layer, inputs) if layer.training else _affine(layer, *_known(layer))
        return _applied(held[layer], inputs)

    with _acting(_layers(network), act):
        return network(x), held


def learn(network: nn.Module, x: Tensor) -> Held:
    """The second part of `clean`, for methods that need no logits of x; nothing is computed if nothing is held."""
    return clean(network, x)[1] if _layers(network) else {}


def of(layer: nn.Module, held: Held) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation: as held, or else from its running statistics."""
    return held[layer] if layer in held else _affine(layer, *_known(layer))


@contextmanager
def fixed(network: nn.Module, held: Held) -> Iterator[None]:
    """While it is entered, batch normalisations act as held and learn nothing."""

    with _acting(_layers(network), lambda layer, inputs: _applied(of(layer, held), inputs)):
        yield


@contextmanager
def _acting(layers: list[nn.Module], act: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[None]:
    """While it is entered, the layers' forward passes are `act`; a hook would come on top of their own."""
    before = [vars(layer).get("forward") for layer in layers]  # not None within another one
    for layer in layers:
        layer.forward = partial(act, layer)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward  # the class's is behind it
            if forward is not None:
                layer.forward = forward


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


def _known(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var


def _learnt(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift by the statistics of x, which go into the running ones, too, as the layer's own pass does."""
    count = x.numel() // x.shape[1]
    if count < 2:
        raise BadOption("a batch normalisation learns nothing from one value per channel", "train with larger batches")
    variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
    with torch.no_grad():
        layer.num_batches_tracked += 1
        share = 1 / int(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance * (count / (count - 1)), share)
    return _affine(layer, mean, variance)


def _affine(layer: nn.Module, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    scale = (variance + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    return scale, (-mean * scale if layer.bias is None else layer.bias - mean * scale)


def _applied(held: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    scale, shift = (per_channel(v, x.ndim) for v in held)
    return torch.addcmul(shift, x, scale)
