"""Several processes that train one network: each takes its part of every batch, and gradients are added up.

They are those of torch.distributed, as `torchrun` starts them. Methods pass through a network's layers, not only its
forward, so that nothing is wrapped around it: what the processes exchange is one vector per step. Without such
processes, nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@contextmanager
def joined() -> Iterator[None]:
    """While it is entered, this process is one of those that `torchrun` started, if it did; the device "cuda" then is a
    card of its own."""
    ours = "WORLD_SIZE" in os.environ and distributed.is_available() and not distributed.is_initialized()
    if ours:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        if ours:
            distributed.destroy_process_group()


@dataclass(frozen=True)
class Team:
    """The processes that train together: how many they are, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Team:
        """Those of torch.distributed, or this one alone."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def part(self, values: Tensor) -> Tensor:
        """This process's entries along the first axis."""
        return values[self.rank :: self.size]

    def sum(self, *values: float) -> tuple[float, ...]:
        """The sums over all processes, in float64; every one of them must ask."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return tuple(total.tolist())

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether one process raised it."""
        return tuple(count > 0 for count in self.sum(*map(float, flags)))

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()

    def each(self, value: Any) -> list[Any]:
        """What every process has, in the order of their ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    @torch.no_grad()
    def combine(self, network: nn.Module, share: float) -> None:
        """Make gradients those of the whole batch, given this process's share of it: the gradients of means add up by
        shares. Running statistics are averaged alike."""
        if self.size == 1:
            return
        weights = [p for p in network.parameters() if p.requires_grad]
        kept = [b for b in network.buffers() if b.is_floating_point()]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        flat = share * torch.cat([v.flatten() for v in (*gradients, *kept)])
        distributed.all_reduce(flat)
        parts = flat.split([v.numel() for v in (*gradients, *kept)])
        for p, part in zip(weights, parts, strict=False):
            p.grad = part.view_as(p).clone()
        for b, part in zip(kept, parts[len(weights) :], strict=True):
            b.copy_(part.view_as(b))
