"""Models that answer at random, and smoothed ones: attacked through an average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Expected:
    """The mean logits of a random classifier over `draws` answers: attacks on it descend the expectation over its
    randomness (EOT: Athalye et al. 2018, section 4.2). Inputs (B, d), as those of a `Classifier`."""

    classifier: Callable[[Tensor], Tensor]
    draws: int = 10

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, C)."""
        return torch.stack([self.classifier(x) for _ in range(self.draws)]).mean(0)


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The logarithm of a smoothed classifier's mean probabilities, log E F(x + noise): with a cross-entropy, the
    objective of SmoothAdv (Salman et al. 2019, eq. 6), not the mean of logarithms.

    The noise is the same for every input and at every call, so that descents see one function.

    sigma  standard deviation of the normal noise
    """

    classifier: Callable[[Tensor], Tensor]
    sigma: float
    draws: int = 16
    seed: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, C)."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.draws, x.shape[1], generator=generator, dtype=x.dtype).to(x.device)
        logs = [self.classifier(x + self.sigma * part).log_softmax(1) for part in noise]
        return torch.stack(logs).logsumexp(0)
