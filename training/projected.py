"""Random projections in the place of the rows of the dual network (Wong et al. 2018, sec. 3.2).

The width of a neuron's interval is the sum of the absolute values of its column of the zonotope's generators, of which
there are as many as inputs and unstable neurons before it. The median of the absolute values of random combinations
of them, with Cauchy factors, estimates that sum (Li et al. 2007), and for an L2 ball the root mean square of Gaussian
combinations the inputs' part. A few tens of combinations go forward through the network, whatever its width.

These are estimates, no bounds: a loss made of them may be less than the worst case. They are met with the intervals,
which are bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certify.errors import BadOption
from models.layers import Residual
from training import norms
from training.bounds import Bounds, Box, Setting, Stage, flat, met, parallel, through
from training.faster import refuse_half
from training.norms import Held
from training.region import Ball


def project(network: nn.Module, region: Ball, held: Held, count: int) -> Bounds:
    """Bounds as `training.bounds.propagate(..., below=parallel, tighten=True)` gives them, whose intervals before ReLUs
    are estimated from `count` combinations. Random numbers come from torch's own generator.

    Raises UnsupportedOp for a layer without a rule, BadOption for balls of norm 1, whose dual norm is a maximum.
    """
    refuse_half()
    if region.norm == 1.0:
        raise BadOption("random projections estimate sums, and L1 balls need maxima", "use dual without projections")
    setting = Setting(held, parallel)
    cloud = Cloud.of(region, count)
    stages: list[Stage] = []
    box, _ = _chain(flat(network), Box(*region.box()), cloud, setting, stages)
    return Bounds(region, tuple(stages), box)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Centres (B, *N) of zonotopes, combinations (R, B, *N) of their generators with Cauchy factors, and for L2 balls
    those of the inputs' directions with Gaussian ones."""

    center: Tensor
    cauchy: Tensor
    gauss: Tensor | None

    @classmethod
    def of(cls, region: Ball, count: int) -> Cloud:
        if region.norm == math.inf:
            box = Box(*region.box())
            return cls(box.center, _cauchy(count, box.spread) * box.spread, None)
        noise = torch.randn(count, *region.x.shape, dtype=region.x.dtype, device=region.x.device)
        return cls(region.x, torch.zeros_like(noise), region.radius * noise)

    def box(self) -> Box:
        """Estimated intervals."""
        spread = self.cauchy.abs().median(0).values
        if self.gauss is not None:
            spread = spread + self.gauss.square().mean(0).clamp_min(1e-24).sqrt()  # a root has no slope at zero
        return Box(self.center - spread, self.center + spread)

    def mapped(self, affine: Callable[[Tensor], Tensor]) -> Cloud:
        """Behind an affine map."""
        constant = affine(torch.zeros_like(self.center[:1]))

        def linear(values: Tensor) -> Tensor:
            return (affine(values.flatten(0, 1)) - constant).unflatten(0, values.shape[:2])

        return Cloud(affine(self.center), linear(self.cauchy), None if self.gauss is None else linear(self.gauss))

    def bent(self, box: Box) -> Cloud:
        """Behind ReLUs whose inputs lie in the box: between two lines of the chord's slope, so that each unstable one
        adds a generator."""
        lower, upper = box.lower.clamp_max(0), box.upper.clamp_min(0)
        slope = parallel(lower, upper)
        error = -slope * lower / 2
        cauchy = slope * self.cauchy + error * _cauchy(len(self.cauchy), error)
        return Cloud(slope * self.center + error, cauchy, None if self.gauss is None else slope * self.gauss)

    def __add__(self, other: Cloud) -> Cloud:
        """The sum of what two branches made of the same generators."""
        gauss = None if self.gauss is None or other.gauss is None else self.gauss + other.gauss
        return Cloud(self.center + other.center, self.cauchy + other.cauchy, gauss)


def _cauchy(count: int, like: Tensor) -> Tensor:
    # The tangent of an angle, which torch computes in vectors; its cauchy_ takes four times as long.
    return (
        torch.empty(count, *like.shape, dtype=like.dtype, device=like.device).uniform_(-math.pi / 2, math.pi / 2).tan_()
    )


def _chain(
    layers: Sequence[nn.Module], box: Box, cloud: Cloud, setting: Setting, stages: list[Stage]
) -> tuple[Box, Cloud]:
    """The intervals and the cloud behind these layers, whose stages are appended."""
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            box = met(box, cloud.box())
        before = box
        box, pull = through(layer, before, setting)
        cloud = _behind(layer, before, cloud, setting)
        stages.append(Stage(layer, before, pull))
    return box, cloud


def _behind(layer: nn.Module, before: Box, cloud: Cloud, setting: Setting) -> Cloud:
    if isinstance(layer, nn.ReLU):
        return cloud.bent(before)
    if isinstance(layer, Residual):
        branches = (_chain(flat(branch), before, cloud, setting, []) for branch in (layer.body, layer.shortcut))
        (_, one), (_, other) = branches
        return one + other
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        scale, shift = (norms.per_channel(v, cloud.center.ndim) for v in norms.of(layer, setting.held))
        return cloud.mapped(lambda values: values * scale + shift)
    return cloud.mapped(layer)
