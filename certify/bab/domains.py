"""Domains of a branch-and-bound search: a struct of tensors, one entry per subproblem; and those that are open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from certify.bounds.linear import Splits
from certify.spec.inputset import InputSet


@dataclass(frozen=True, eq=False)
class Start:
    """Where the bounding of N domains begins: their `splits` (N, D) with `multipliers` (N, D), the row `weights`
    (N, R), and the line `parameters` (N, P) of the neurons that are unstable at the root, in bytes as in evidence.
    """

    splits: Splits
    multipliers: Tensor
    weights: Tensor
    parameters: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        s = self.splits
        return s.node, s.index, s.point, s.sign, self.multipliers, self.weights, self.parameters

    def select(self, index: Tensor | slice) -> Start:
        """The starts at `index`."""
        rest = (t[index] for t in (self.multipliers, self.weights, self.parameters))
        return Start(self.splits.select(index), *rest)

    def packed(self) -> Start:
        """The same in little memory: small integers, and no columns for splits that nobody has.

        Batches are padded to their deepest domain, so that paths would grow with the age of the search.
        """
        used = self.splits.sign != 0
        deepest = int(used.sum(1).max()) if used.numel() else 0
        order = (~used).to(torch.uint8).argsort(dim=1, stable=True)[:, :deepest]
        node, index, point, sign, multipliers = (t.gather(1, order) for t in self.tensors()[:5])
        small = Splits(node.to(torch.int32), index.to(torch.int32), point, sign.to(torch.int8))
        return replace(self, splits=small, multipliers=multipliers)

    def unpacked(self) -> Start:
        """With splits of the types that bounding wants."""
        s = self.splits
        return replace(self, splits=Splits(s.node.long(), s.index.long(), s.point, s.sign.to(s.point.dtype)))


@dataclass(frozen=True, eq=False)
class Domains:
    """N subproblems.

    `tree` (N,) and `row` (N,) say which leaf of which split tree a domain is; `lower` (N,) is the best lower
    bound known (its parent's, at first). A search over boxes has them in `inputs`; one over neuron splits, whose
    box is always the whole region, has the `start` of their bounding.
    """

    tree: Tensor
    row: Tensor
    lower: Tensor
    inputs: InputSet | None = None
    start: Start | None = None

    each = 1  # domains per entry

    def __len__(self) -> int:
        return len(self.row)

    @property
    def bytes(self) -> int:
        """What these domains take up in memory."""
        rows = [self.tree, self.row, self.lower]
        if self.inputs is not None:
            rows += [
                t
                for t in (self.inputs.lower, self.inputs.upper, self.inputs.center, self.inputs.radius)
                if t is not None
            ]
        if self.start is not None:
            rows += self.start.tensors()
        return sum(t.nbytes for t in rows)

    def select(self, index: Tensor | slice) -> Domains:
        """The domains at `index` (positions, a mask or a slice)."""
        return Domains(
            self.tree[index],
            self.row[index],
            self.lower[index],
            None if self.inputs is None else self.inputs.select(index),
            None if self.start is None else self.start.select(index),
        )

    def domains(self) -> Domains:
        return self


@dataclass(frozen=True, eq=False)
class Siblings:
    """Both children of each of N `parents`, which are kept once, packed: entry i stands for domains 2i, where the
    value of `index[i]` of graph node `node[i]` is <= `point[i]`, and 2i + 1, where it is >= `point[i]`; `rows`
    (N, 2) are their leaves. Both begin where the parent ended."""

    parents: Domains
    node: Tensor
    index: Tensor
    point: Tensor
    rows: Tensor

    each = 2

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def lower(self) -> Tensor:
        """(N,): what bounds both children."""
        return self.parents.lower

    @property
    def bytes(self) -> int:
        """What these domains take up in memory."""
        return self.parents.bytes + sum(t.nbytes for t in (self.node, self.index, self.point, self.rows))

    def select(self, index: Tensor | slice) -> Siblings:
        """The pairs at `index`."""
        fields = (t[index] for t in (self.node, self.index, self.point, self.rows))
        return Siblings(self.parents.select(index), *fields)

    def domains(self) -> Domains:
        """The 2N children."""
        twice = torch.arange(len(self), device=self.rows.device).repeat_interleave(2)
        start = self.parents.start.unpacked()
        splits = start.splits.extended(self.node, self.index, self.point, torch.ones_like(self.point)).select(twice)
        splits.sign[::2, -1] = -1
        multipliers = torch.nn.functional.pad(start.multipliers, (0, 1))[twice]
        start = Start(splits, multipliers, start.weights[twice], start.parameters[twice])
        return Domains(self.parents.tree[twice], self.rows.flatten(), self.parents.lower[twice], None, start)


def join(parts: list[Domains]) -> Domains:
    """Several batches of domains of one search as one; shorter split lists are padded."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    inputs = start = None
    if first.inputs is not None:
        inputs = InputSet(
            torch.cat([p.inputs.lower for p in parts]),
            torch.cat([p.inputs.upper for p in parts]),
            first.inputs.norm,
            None if first.inputs.center is None else torch.cat([p.inputs.center for p in parts]),
            None if first.inputs.radius is None else torch.cat([p.inputs.radius for p in parts]),
        )
    if first.start is not None:
        depth = max(p.start.multipliers.shape[1] for p in parts)
        tensors = [p.start.tensors() for p in parts]
        padded = [torch.cat([_pad(t[i], depth) for t in tensors]) for i in range(5)]
        start = Start(Splits(*padded[:4]), padded[4], *(torch.cat([t[i] for t in tensors]) for i in (5, 6)))
    tree, row, lower = (torch.cat([getattr(p, name) for p in parts]) for name in ("tree", "row", "lower"))
    return Domains(tree, row, lower, inputs, start)


def _pad(t: Tensor, depth: int) -> Tensor:
    return t if t.shape[1] == depth else torch.nn.functional.pad(t, (0, depth - t.shape[1]))


class Batch(Protocol):
    """What a pool holds: N entries, that stand for `each` domains each, with a lower bound (N,)."""

    each: int

    @property
    def lower(self) -> Tensor: ...

    @property
    def bytes(self) -> int: ...

    def __len__(self) -> int: ...

    def select(self, index: Tensor | slice) -> Batch: ...

    def domains(self) -> Domains: ...


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is left of a batch from entry `begin` on; and the number, bytes and least bound of the domains in it and
    in all layers under it."""

    batch: Batch
    begin: int
    count: int
    bytes: int
    lower: float


EMPTY = _Layer(Domains(*[torch.zeros(0)] * 3), 0, 0, 0, float("inf"))


class Pool:
    """The open domains, those pushed last first: deep enough to stay small, wide enough to fill batches.

    A push or a pop costs what it moves, however many domains are open.
    """

    def __init__(self) -> None:
        self._layers = [EMPTY]

    def __len__(self) -> int:
        return self._layers[-1].count

    @property
    def bytes(self) -> int:
        """What the open domains take up in memory."""
        return self._layers[-1].bytes

    @property
    def lower(self) -> float:
        """The least lower bound of an open domain; inf if there is none, -inf if one is unknown."""
        return self._layers[-1].lower

    def push(self, batch: Batch) -> None:
        if len(batch):
            self._put(batch, 0)

    def _put(self, batch: Batch, begin: int) -> None:
        under, least = self._layers[-1], float(batch.lower[begin:].min())
        least = least if least == least else float("-inf")
        count = under.count + batch.each * (len(batch) - begin)
        self._layers.append(_Layer(batch, begin, count, under.bytes + batch.bytes, min(under.lower, least)))

    def pop(self, count: int) -> Domains:
        """Remove and return up to `count` >= 1 domains, or one more, as siblings come together; some must be there."""
        taken: list[Domains] = []
        need = count
        while len(self) and need > 0:
            layer = self._layers.pop()
            batch, begin = layer.batch, layer.begin
            end = min(len(batch), begin + -(-need // batch.each))
            taken.append(batch.select(slice(begin, end)).domains())
            need -= batch.each * (end - begin)
            if end < len(batch):
                if 2 * end >= len(batch):  # what was taken holds memory until the rest is copied
                    batch, end = batch.select(torch.arange(end, len(batch), device=batch.lower.device)), 0
                self._put(batch, end)
        return join(taken)
