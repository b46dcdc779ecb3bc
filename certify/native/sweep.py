"""Whole sweeps through a network in one compiled call: rows back to the input, values forward, and steps uphill.

Coefficients and values of a block of rows lie side by side, and the block stays in the cache for all steps. Here is
what the kernel is told: linear maps by pixels, taps and channels, and the moves that make up a sweep.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from certify.native.library import Move, Taps

Mapped = tuple[Taps, tuple[Tensor, ...]]
"""A linear map for the kernel, and the tensors that it points to."""

WIDEST = 12
"""Outputs that the kernel makes side by side, at most (as in sweep.inl)."""


class Kind(IntEnum):
    """What a move does (as in kernels.h)."""

    MAP, ADD, SCALE, BIAS, RELU = range(5)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which numbers a linear map joins: pixel `made[k]` reads pixel `read[k]` through the weights of `tap[k]`."""

    made: np.ndarray
    read: np.ndarray
    tap: np.ndarray

    def swapped(self) -> Pairs:
        """Those of the adjoint."""
        return Pairs(self.read, self.made, self.tap)


def numbers(array: np.ndarray) -> Tensor:
    """A float32 copy."""
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def alone(pixels: int) -> Pairs:
    """Every pixel reads itself, all with the same weights."""
    every = np.arange(pixels)
    return Pairs(every, every, np.zeros_like(every))


def windows(
    size: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    before: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Pairs:
    """The pairs of a convolution from spatial shape `size` to `out`; taps are numbered as its weights are."""
    made = read = tap = np.zeros(1, np.int64)
    for n, m, k, s, b, d in zip(size, out, kernel, stride, before, dilation, strict=True):
        to, at = (g.ravel() for g in np.meshgrid(np.arange(m), np.arange(k), indexing="ij"))
        source = to * s - b + at * d
        there = (source >= 0) & (source < n)
        made = (made[:, None] * m + to[there]).ravel()
        read = (read[:, None] * n + source[there]).ravel()
        tap = (tap[:, None] * k + at[there]).ravel()
    return Pairs(made, read, tap)


def spread(pairs: Pairs, targets: int, weights: Tensor) -> Mapped:
    """The map with these weights (taps, channels read, channels made) onto `targets` pixels."""
    order = np.argsort(pairs.made, kind="stable")
    begin = np.searchsorted(pairs.made[order], np.arange(targets + 1))
    own = tuple(torch.from_numpy(x.astype(np.int32)) for x in (begin, pairs.read[order], pairs.tap[order]))
    taps, read, made = weights.shape
    width = -(-made // -(-made // WIDEST))
    strips = torch.cat([s.reshape(taps, -1) for s in weights.split(width, 2)], 1).contiguous()
    return Taps(targets, read, made, width, *(t.data_ptr() for t in (*own, strips))), (*own, strips)


@dataclass
class Moves:
    """The moves of a sweep, what they point to, and the floating-point operations of their maps for one row."""

    operations: int = 0
    moves: list[Move] = field(default_factory=list)
    held: list[object] = field(default_factory=list)

    def map(self, source: int, to: int, add: bool, found: Mapped, shift: Tensor | None) -> None:
        """to (+)= the linear map of source, plus the shift (channels,)."""
        taps, tensors = found
        self.held += [taps, tensors, shift]
        self.operations += 2 * len(tensors[1]) * taps.read * taps.made
        self.moves.append(Move(Kind.MAP, source, to, add, 0, 0, ctypes.pointer(taps), None, _pointer(shift), 0.0))

    def add(self, source: int, to: int, add: bool, size: int, factor: float) -> None:
        """to (+)= factor * source."""
        self.moves.append(Move(Kind.ADD, source, to, add, size, 0, None, None, None, factor))

    def scale(self, source: int, to: int, add: bool, size: int, factors: Tensor | None, shift: Tensor | None) -> None:
        """to (+)= factors * source + shift; None for ones, and for zeros."""
        self.held += [factors, shift]
        self.moves.append(Move(Kind.SCALE, source, to, add, size, 0, None, _pointer(factors), _pointer(shift), 0.0))

    def bias(self, source: int, size: int, factors: Tensor) -> None:
        """constant += <source, the factors again and again>."""
        self.held.append(factors)
        self.moves.append(Move(Kind.BIAS, source, 0, 1, size, len(factors), None, factors.data_ptr(), None, 0.0))

    def relu(self, source: int, to: int, add: bool, size: int, layer: int) -> None:
        """to (+)= source through the lines of a layer."""
        self.moves.append(Move(Kind.RELU, source, to, add, size, layer, None, None, None, 0.0))

    @cached_property
    def array(self) -> ctypes.Array[Move]:
        """All of them, once there are no more to come."""
        return (Move * len(self.moves))(*self.moves)


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


class Room:
    """Places for tensors that come and go: the first gap that is wide enough."""

    def __init__(self) -> None:
        self.size = 0
        self._gaps: list[tuple[int, int]] = []  # (place, size), in order

    def take(self, size: int) -> int:
        for k, (place, free) in enumerate(self._gaps):
            if free >= size:
                self._gaps[k : k + 1] = [(place + size, free - size)] if free > size else []
                return place
        place, self.size = self.size, self.size + size
        return place

    def give(self, place: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for start, free in sorted([*self._gaps, (place, size)]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + free)
            else:
                merged.append((start, free))
        self._gaps = merged
