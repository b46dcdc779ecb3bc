"""Where training computes, and the random numbers that are drawn there."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def forked(device: torch.device) -> AbstractContextManager[None]:
    """While it is entered, random numbers are drawn on the side: behind it, the generators are as they were before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the processor's generator and of the device's own."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def restore(device: torch.device, states: list[Tensor]) -> None:
    """Set the states that `random_state` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
