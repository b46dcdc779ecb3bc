"""Bounds on the values inside a chain of linear layers and ReLUs, all in one compiled call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from certify.native.library import Chain, Library
from certify.native.weights import Weights, matrices, pointers


def bounds(
    library: Library,
    layers: Sequence[Weights],
    lower: Tensor,
    upper: Tensor,
    within: Sequence[tuple[Tensor, Tensor] | None],
    refine: Sequence[bool],
) -> list[tuple[Tensor, Tensor]]:
    """Bounds (B, out) on what each layer gives to the ReLU behind it, over the boxes lower, upper (B, d).

    `within` are bounds known beforehand, (B or 1, out); a layer in `refine` is tightened by backward
    propagation where interval arithmetic leaves its neurons unstable. Sound up to float rounding.
    """
    batch = len(lower)
    lower, upper = lower.contiguous(), upper.contiguous()
    found = []
    for layer, known in zip(layers, within, strict=True):
        size = layer.weight.shape[0]
        if known is None:
            infinite = lower.new_full((batch, size), torch.inf)
            found.append((-infinite, infinite))
        else:
            low, up = (b.expand(batch, size).clone(memory_format=torch.contiguous_format) for b in known)
            found.append((low, up))
    library.call(
        "bounds",
        Chain(
            batch,
            len(layers),
            lower.data_ptr(),
            upper.data_ptr(),
            matrices([layer.back for layer in layers]),
            pointers([layer.weight for layer in layers]),
            matrices([layer.forth for layer in layers]),
            matrices([layer.size for layer in layers]),
            pointers([layer.bias for layer in layers]),
            (ctypes.c_int64 * len(layers))(*refine),
            pointers([low for low, _ in found]),
            pointers([up for _, up in found]),
        ),
    )
    return found
