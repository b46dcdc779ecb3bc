"""An attack on a smoothed classifier: how far its accuracy by radius can be from above what is certified from below.

Projected gradient descent on the mean probability of the label over a few draws of noise, the same at every step
(Salman et al. 2019, section 2.2). The point found is judged by PREDICT, with draws of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.gradient import Descent, Geometric
from certify.errors import BadOption
from certify.smoothing.smoothed import Smoothed
from certify.spec.inputset import InputSet

NORMS = {"gaussian": 2.0, "uniform": 1.0, "laplace": 1.0}
"""Noise that is added, and the norm of its radii."""

JUDGED = 1000
"""Draws of PREDICT at the point found."""


@dataclass(frozen=True, eq=False)
class Averaged:
    """The label's mean probability over `noise` (M, d), less that of the best other class: the attack's objective."""

    smoothed: Smoothed
    noise: Tensor
    label: int

    def __call__(self, x: Tensor) -> Tensor:
        """Margins (B,) of x (B, d), differentiable."""
        noisy = (x[:, None] + self.noise).flatten(0, 1)
        mean = self.smoothed.network(noisy).softmax(1).unflatten(0, (len(x), -1)).mean(1)
        own = torch.arange(mean.shape[1], device=x.device) == self.label
        return mean[:, self.label] - mean.masked_fill(own, -torch.inf).amax(1)


@dataclass(frozen=True)
class Attack:
    """Steps of descent, and draws of noise per step; an answer counts as wrong with error probability alpha."""

    steps: int = 20
    draws: int = 32
    alpha: float = 0.001

    def breaks(self, smoothed: Smoothed, x: Tensor, index: int, label: int, radius: float) -> bool:
        """Whether the smoothed classifier's answer at a point found at most `radius` from x is another than `label`.

        Raises BadOption for noise that is not added in a norm of inputs.
        """
        norm = NORMS.get(smoothed.noise.kind)
        if norm is None:
            raise BadOption(f"the attack does not know {smoothed.noise.kind} noise", f"it knows {', '.join(NORMS)}")
        x = x.to(smoothed.device)
        found = x if radius == 0 else self._find(smoothed, x, label, radius, norm)
        answer = smoothed.predict(found, index, JUDGED, self.alpha)
        return answer is not None and answer != label

    def _find(self, smoothed: Smoothed, x: Tensor, label: int, radius: float, norm: float) -> Tensor:
        """The point within the radius at which the label's margin is least, of those that the descent met."""
        center = x.reshape(1, -1)
        generator = torch.Generator(device=x.device).manual_seed(smoothed.seed)
        noise = smoothed.noise.sample(torch.zeros_like(x), self.draws, generator).flatten(1)
        region = InputSet(center - radius, center + radius, norm, center, center.new_tensor([radius]))
        descent = Descent(steps=self.steps, step=Geometric(1.0, 0.05), goal=-torch.inf)
        change = (descent(Averaged(smoothed, noise, label), region).x - center).double()
        length = float(change.norm(p=norm))
        if length > radius * (1 - 1e-6):  # projections and float32 round
            change *= radius * (1 - 1e-6) / length
        return x + change.reshape(x.shape).to(x.dtype)
