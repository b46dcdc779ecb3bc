"""What is bounded: the rows of a property's clauses, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.graph.evaluate import Network
from certify.spec.property import Clause


@dataclass(frozen=True, eq=False)
class Rows:
    """What is bounded: for each of B domains S clauses of up to R rows over z = [y; x] or y.

    matrix (B or 1, S, R, n or n + d), offset (B or 1, S, R), used (B or 1, S, R) tells rows from padding.
    """

    matrix: Tensor
    offset: Tensor
    used: Tensor

    def select(self, index: Tensor) -> Rows:
        if self.matrix.shape[0] == 1:
            return self
        return Rows(self.matrix[index], self.offset[index], self.used[index])

    def start(self, weights: Tensor, outputs: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """The weighted rows as coefficients of y (B, S, n), of x (B, S, d) or None, and constants (B, S)."""
        z = (weights.unsqueeze(-1) * self.matrix).sum(2)
        constant = -(weights * self.offset).sum(-1)
        return z[..., :outputs], (z[..., outputs:] if z.shape[-1] > outputs else None), constant


def rows_of(clauses: Sequence[Clause], network: Network) -> Rows:
    """The clauses (S) as one batch entry, shorter ones padded with unused rows."""
    depth = max(len(c.offset) for c in clauses)
    width = max(c.matrix.shape[1] for c in clauses)
    matrix = np.zeros((1, len(clauses), depth, width))
    offset = np.zeros((1, len(clauses), depth))
    used = np.zeros((1, len(clauses), depth), bool)
    for s, c in enumerate(clauses):
        count, columns = c.matrix.shape
        matrix[0, s, :count, :columns] = c.matrix
        offset[0, s, :count] = c.offset
        used[0, s, :count] = True
    place = network.device
    matrix, offset, used = (torch.from_numpy(array) for array in (matrix, offset, used))
    return Rows(matrix.to(place, network.dtype), offset.to(place, network.dtype), used.to(place))
