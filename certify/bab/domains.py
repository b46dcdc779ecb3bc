"""Domains of a branch-and-bound search: a struct of tensors, one entry per open subproblem."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.linear import Splits
from certify.spec.inputset import InputSet


@dataclass(frozen=True, eq=False)
class Domains:
    """N open subproblems.

    `tree` (N,) and `row` (N,) say which leaf of which split tree a domain is; `inputs` are its input
    boxes; `lower` (N,) is the best lower bound known (its parent's, at first). A search over neuron splits
    also has `splits` (N, D) with their `multipliers` (N, D), the row `weights` (N, R) and `parameters`
    (N, P), the free line parameters of all neurons, to start from.
    """

    tree: Tensor
    row: Tensor
    inputs: InputSet
    lower: Tensor
    splits: Splits | None = None
    multipliers: Tensor | None = None
    weights: Tensor | None = None
    parameters: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def bytes(self) -> int:
        """What these domains take up in memory, nearly."""
        rows = (self.inputs.lower, self.inputs.upper, self.multipliers, self.weights, self.parameters)
        depth = 0 if self.splits is None else 4 * self.splits.point.nbytes
        return depth + sum(t.nbytes for t in rows if t is not None)

    def select(self, index: Tensor) -> Domains:
        """The domains at `index` (positions or a mask)."""

        def pick(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[index]

        return Domains(
            self.tree[index],
            self.row[index],
            self.inputs.select(index),
            self.lower[index],
            None if self.splits is None else self.splits.select(index),
            pick(self.multipliers),
            pick(self.weights),
            pick(self.parameters),
        )


def join(parts: list[Domains]) -> Domains:
    """Several batches of domains of one search as one; shorter split lists are padded."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]

    def stacked(name: str) -> Tensor | None:
        tensors = [getattr(p, name) for p in parts]
        return None if tensors[0] is None else torch.cat(tensors)

    splits = multipliers = None
    if first.splits is not None:
        depth = max(p.splits.node.shape[1] for p in parts)
        fields = ("node", "index", "point", "sign")
        splits = Splits(*(torch.cat([_pad(getattr(p.splits, f), depth) for p in parts]) for f in fields))
        multipliers = torch.cat([_pad(p.multipliers, depth) for p in parts])
    inputs = InputSet(
        torch.cat([p.inputs.lower for p in parts]),
        torch.cat([p.inputs.upper for p in parts]),
        first.inputs.norm,
        None if first.inputs.center is None else torch.cat([p.inputs.center for p in parts]),
        None if first.inputs.radius is None else torch.cat([p.inputs.radius for p in parts]),
    )
    return Domains(
        stacked("tree"),
        stacked("row"),
        inputs,
        stacked("lower"),
        splits,
        multipliers,
        stacked("weights"),
        stacked("parameters"),
    )


def _pad(t: Tensor, depth: int) -> Tensor:
    return t if t.shape[1] == depth else torch.nn.functional.pad(t, (0, depth - t.shape[1]))


class Pool:
    """The open domains, worst bound first within what was pushed last: deep enough to stay small,
    wide enough to fill batches."""

    def __init__(self) -> None:
        self._parts: list[Domains] = []

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def bytes(self) -> int:
        """What the open domains take up in memory, nearly."""
        return sum(p.bytes for p in self._parts)

    @property
    def lower(self) -> float:
        """The least lower bound of an open domain; inf if there is none."""
        return min((float(p.lower.min()) for p in self._parts), default=float("inf"))

    def push(self, domains: Domains) -> None:
        if len(domains):
            self._parts.append(domains)

    def pop(self, count: int) -> Domains:
        """Remove and return up to `count` domains, those pushed last first."""
        taken: list[Domains] = []
        need = count
        while self._parts and need:
            part = self._parts.pop()
            if len(part) > need:
                self._parts.append(part.select(torch.arange(need, len(part), device=part.row.device)))
                part = part.select(torch.arange(need, device=part.row.device))
            taken.append(part)
            need -= len(part)
        return join(taken)
