"""How exactly a GPU multiplies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_products() -> Iterator[None]:
    """While it is entered, float32 products on a GPU keep all 24 bits; the setting is restored on leaving.

    Left alone, torch lets convolutions round their operands to 11 bits (TF32). Bounds in float32 may be off by a
    thousandth then, which the checker, on the processor, would refuse; and a base classifier would be another one.
    """
    parts = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = False
        yield
    finally:
        for part, allowed in zip(parts, before, strict=True):
            part.allow_tf32 = allowed
