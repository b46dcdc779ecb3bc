"""Bounding a node's neurons tile by tile, each through the small network that the tile depends on.

In an early layer of a convolutional network a neuron sees a small window of the image, and a backward pass of its row
is zero outside. A tile of neighbouring neurons has such a window in common; its cone (`certify.graph.cone`) is a
network like any other, on which everything costs only what the window does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from certify.graph.cone import Cone, Window, cone, cost_of
from certify.graph.evaluate import Network
from certify.relax.elementwise import Lines
from certify.relax.product import Planes
from certify.spec.inputset import InputSet

OVERHEAD = 2e8
"""What making a cone and calling its operators costs, in multiplications of a backward pass."""


def tiling(network: Network, v: int, rows: int) -> tuple[Window, ...] | None:
    """The windows of node v (..., C, H, W) through whose cones so many rows are bounded most cheaply, which cover it
    together; None if the whole is cheaper."""
    shape = network.graph.nodes[v].shape
    if len(shape) < 3 or max(shape[-2:]) < 2:
        return None
    best, least = None, rows * cost_of(network.until(v)[0].graph)
    side = max(shape[-2:])
    while side > 1:
        side = -(-side // 2)
        windows = _grid(shape, side)
        middle = cone(network, v, windows[len(windows) // 2])
        if middle is None:
            return None
        cost = rows * middle.cost + len(windows) * OVERHEAD
        if cost < least:
            best, least = windows, cost
    return best


def _grid(shape: tuple[int, ...], side: int) -> tuple[Window, ...]:
    """Windows of side x side places and all channels."""
    height, width = shape[-2:]
    lead = tuple((0, n) for n in shape[:-2])
    return tuple(
        (*lead, (y, min(y + side, height)), (x, min(x + side, width)))
        for y in range(0, height, side)
        for x in range(0, width, side)
    )


def inputs_of(part: Cone, network: Network, inputs: InputSet) -> InputSet:
    """The regions of the cone's inputs. A ball's shadow is a ball: other coordinates than these are left out."""
    shape = network.graph.input_shape
    index = torch.from_numpy(np.arange(inputs.lower.shape[1]).reshape(shape)[part.of(0)].ravel())
    index = index.to(inputs.lower.device)
    center = None if inputs.center is None else inputs.center[:, index]
    return InputSet(inputs.lower[:, index], inputs.upper[:, index], inputs.norm, center, inputs.radius)


def lines_of_cone(part: Cone, lines: Mapping[int, Lines | Planes]) -> dict[int, Lines]:
    """The lines of the cone's nonlinear nodes, cut out of those of the network's."""
    found = {}
    for i in part.network.graph.nonlinear:
        whole, entries = lines[part.origin[i]], part.of(i)
        found[i] = Lines(*(_cut(t, entries) for t in whole))
    return found


def _cut(t: Tensor, entries: tuple[slice, ...]) -> Tensor:
    """Entries of a tensor (B, S, *N) whose axes may be of size one; a number stands for all."""
    if not t.dim():
        return t
    own = tuple(e if n > 1 else slice(None) for e, n in zip(entries, t.shape[2:], strict=True))
    return t[(..., *own)].contiguous()
