"""Weights laid out for the compiled kernels. All tensors are float32 on the processor."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.native.library import Matrix

STRIP, GRAIN = 64, 16
"""Columns of a panel, and what the last panel's width is a multiple of (as in kernels.inl)."""


@dataclass(frozen=True, eq=False)
class Panels:
    """A matrix (rows, columns) in strips of columns."""

    data: Tensor
    rows: int
    columns: int

    @property
    def matrix(self) -> Matrix:
        return Matrix(self.data.data_ptr(), self.rows, self.columns)


def pack(matrix: Tensor) -> Panels:
    """The panels of a float32 matrix (rows, columns)."""
    rows, columns = matrix.shape
    strips = F.pad(matrix, (0, -columns % GRAIN)).split(STRIP, 1)
    return Panels(torch.cat([s.flatten() for s in strips]), rows, columns)


@dataclass(frozen=True, eq=False)
class Weights:
    """y = weight @ x + bias, weight (out, in), with the layouts that the kernels read."""

    weight: Tensor
    bias: Tensor | None

    @cached_property
    def back(self) -> Panels:
        return pack(self.weight)

    @cached_property
    def forth(self) -> Panels:
        return pack(self.weight.T)

    @cached_property
    def size(self) -> Panels:
        return pack(self.weight.abs().T)


def pointers(tensors: list[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def matrices(panels: list[Panels]) -> ctypes.Array[Matrix]:
    return (Matrix * len(panels))(*(p.matrix for p in panels))
