"""Where tensors are kept and computed with."""

from __future__ import annotations

import torch

from certify.errors import BadOption


def device_of(name: str) -> torch.device:
    """The device of this name ("cpu", "cuda", "cuda:1", ...), if it can be used. Raises BadOption."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        why = str(error).splitlines()[0].split(". ")[0]
        raise BadOption(f"device {name!r} cannot be used: {why}", f"use one of {', '.join(there)}") from error
    return device
