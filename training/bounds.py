"""Differentiable bounds on a network over balls: intervals forward, linear forms backward.

Every layer gives one rule: from the interval of its inputs, the interval of its outputs and a `Pull`, which
turns an upper bound in terms of the outputs into one in terms of the inputs. Interval propagation (Gowal et al.
2018) pulls the rows through the last layer only, CROWN-IBP (Zhang et al. 2020) through all of them.

Training losses are made of this, and no claims: nothing is rounded outward.

Shape letters: `B` samples, `S` rows of the form, `*N` a layer's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input

from certify.errors import UnsupportedOp
from models.layers import Normalise, Residual
from training import norms
from training.faster import refuse_half
from training.lead import Lead
from training.norms import Held
from training.region import Ball


class Box:
    """An interval (B, *N), given by its ends or by its middle; what is not given is computed once, if it is asked for:
    every pass over a layer's values costs, forward and backward."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper = lower, upper

    @classmethod
    def around(cls, center: Tensor, spread: Tensor) -> Box:
        """What lies within `spread` of `center`."""
        box = cls.__new__(cls)
        box.center, box.spread = center, spread
        return box

    @cached_property
    def lower(self) -> Tensor:
        return self.center - self.spread

    @cached_property
    def upper(self) -> Tensor:
        return self.center + self.spread

    @cached_property
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @cached_property
    def spread(self) -> Tensor:
        return (self.upper - self.lower) / 2

    @property
    def like(self) -> Tensor:
        """A tensor of its shape, type and device."""
        return self.lower if "lower" in vars(self) else self.center

    def mapped(self, mean: Callable[[Tensor], Tensor]) -> Box:
        """Behind means, or another order, of the entries."""
        if "lower" in vars(self):
            return Box(mean(self.lower), mean(self.upper))
        return Box.around(mean(self.center), mean(self.spread))

    def span(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest values (B, S) of rows (B, S, *N) times a point of the box."""
        rows = rows.flatten(2)
        middle = (rows @ self.center.flatten(1)[:, :, None])[..., 0]
        reach = (rows.abs() @ self.spread.flatten(1)[:, :, None])[..., 0]
        return middle - reach, middle + reach


class Form(NamedTuple):
    """rows (B, S, *N) times a layer's values, plus shift (B, S): an upper bound on something."""

    rows: Tensor
    shift: Tensor


Pull = Callable[[Form], Form]
"""From a bound in terms of a layer's outputs to one in terms of its inputs, which is not smaller on the interval."""


@dataclass(frozen=True)
class Setting:
    """What the rules are given besides the intervals: batch normalisations, and the lines below ReLUs."""

    held: Held
    below: Below


@dataclass(frozen=True)
class Stage:
    """One layer of the chain, the interval of its inputs, and its pull."""

    layer: nn.Module
    before: Box
    pull: Pull


@dataclass(frozen=True)
class Bounds:
    """What is known of a network's values over a ball: the interval of its outputs and the chain that gave it."""

    region: Ball
    stages: tuple[Stage, ...]
    output: Box

    def upper(self, form: Form, layers: int | None = None) -> Tensor:
        """Upper bounds (B, S) on a form over the outputs, pulled through the last `layers` of the chain, or all.

        Then it is maximised over the interval met there, or over the ball.
        """
        first = 0 if layers is None else max(0, len(self.stages) - layers)
        for stage in reversed(self.stages[first:]):
            form = stage.pull(form)
        if first < len(self.stages) and (first > 0 or self.region.norm == math.inf):
            return self.stages[first].before.span(form.rows)[1] + form.shift
        return self.region.maximum(form.rows) + form.shift

    def span(self, form: Form) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (B, S) on a form over the outputs, pulled through the last layer only."""
        if len(self.stages) > 1 and isinstance(self.stages[-1].layer, nn.Linear):  # whose pull is exact: one for both
            form = self.stages[-1].pull(form)
            lower, upper = self.stages[-1].before.span(form.rows)
            return lower + form.shift, upper + form.shift
        upper = self.upper(form, layers=1)
        return torch.minimum(-self.upper(Form(-form.rows, -form.shift), layers=1), upper), upper


TINY = 1e-12  # added to a width before a division; a clamp's backward pass costs ten times as much

Below = Callable[[Tensor, Tensor], Tensor]
"""The slope, within [0, 1], of the line below a ReLU, given lower <= 0 <= upper of its input."""


def adaptive(lower: Tensor, upper: Tensor) -> Tensor:
    """0 or 1, whichever leaves the smaller triangle (Zhang et al. 2018)."""
    return (upper > -lower).to(lower.dtype)


def parallel(lower: Tensor, upper: Tensor) -> Tensor:
    """The chord's: the dual of Wong & Kolter 2018, and the zonotope of Singh et al. 2018."""
    return upper / (upper - lower + TINY)


def propagate(
    network: nn.Module, region: Ball, held: Held | None = None, below: Below = adaptive, tighten: bool = False
) -> Bounds:
    """Intervals through all layers of `network`, over each ball of `region`.

    Batch normalisations act as `held` (see `norms.clean`), or else with running statistics; the pulls take their
    lines below ReLUs from `below`. `tighten` bounds the inputs of each ReLU of the chain by linear forms, too, one
    per neuron, which costs as many rows. Raises UnsupportedOp for a layer without a rule, BadOption in half precision.
    """
    refuse_half()
    box = Box(*region.box())
    setting = Setting(held or {}, below)
    lead = None if region.norm == math.inf else Lead.of(region)
    stages: list[Stage] = []
    for layer in flat(network):
        if tighten and isinstance(layer, nn.ReLU):
            box = _tightened(Bounds(region, tuple(stages), box))
        before = box
        box, pull = through(layer, box, setting)
        if lead is not None:
            ends, lead = lead.ends(layer), lead.behind(layer)
            box = box if ends is None else met(box, Box(*ends))
        stages.append(Stage(layer, before, pull))
    return Bounds(region, tuple(stages), box)


def _tightened(bounds: Bounds) -> Box:
    """The output's interval, met with what linear forms over the whole chain say of each entry."""
    like = bounds.output.like
    shape = like.shape[1:]
    count = shape.numel()
    rows = torch.eye(count, dtype=like.dtype, device=like.device).expand(len(like), -1, -1)
    rows, none = rows.unflatten(2, shape), rows.new_zeros(len(rows), count)
    upper = bounds.upper(Form(rows, none)).unflatten(1, shape)
    lower = -bounds.upper(Form(-rows, none)).unflatten(1, shape)
    return met(bounds.output, Box(lower, upper))


def met(one: Box, other: Box) -> Box:
    """What lies in both; where rounding crosses the ends, they are made equal."""
    lower = torch.maximum(one.lower, other.lower)
    return Box(lower, torch.maximum(lower, torch.minimum(one.upper, other.upper)))


def flat(network: nn.Module) -> list[nn.Module]:
    """The layers of a network one after the other; sequences within sequences are opened."""
    if isinstance(network, nn.Sequential):
        return [layer for part in network for layer in flat(part)]
    return [network]


def margins(y: Tensor, classes: int, dtype: torch.dtype) -> Form:
    """The form (B, classes, classes) whose rows are each logit minus that of the class y (B,); row y is zero."""
    eye = torch.eye(classes, dtype=dtype, device=y.device)
    rows = eye[None] - eye[y][:, None]
    return Form(rows, rows.new_zeros(rows.shape[:2]))


_REMEDY = (
    "train a network of linear and convolutional layers, batch normalisations, ReLUs and residual blocks, as cnn-small "
    "or resnet, or on attacks, as adversarial"
)


@singledispatch
def through(layer: nn.Module, box: Box, setting: Setting) -> tuple[Box, Pull]:
    """The interval behind `layer`, and its pull. Sound if the box holds the layer's inputs, up to rounding."""
    raise UnsupportedOp(
        "training on bounds", [(type(layer).__name__, str(layer).partition("\n")[0].rstrip("("))], _REMEDY
    )


@through.register
def _(layer: nn.Linear, box: Box, setting: Setting) -> tuple[Box, Pull]:
    def pull(form: Form) -> Form:
        shift = form.shift if layer.bias is None else form.shift + form.rows @ layer.bias
        return Form(form.rows @ layer.weight, shift)

    return Box.around(layer(box.center), linear(box.spread, layer.weight.abs())), pull


@through.register
def _(layer: nn.Conv2d, box: Box, setting: Setting) -> tuple[Box, Pull]:
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    shape = box.like.shape[1:]

    def pull(form: Form) -> Form:
        count = form.rows.shape[:2]
        rows = form.rows.flatten(0, 1)
        shift = form.shift if layer.bias is None else form.shift + form.rows.sum((3, 4)) @ layer.bias
        pulled = conv2d_input((len(rows), *shape), layer.weight, rows, *settings)
        return Form(pulled.unflatten(0, count), shift)

    return Box.around(layer(box.center), conv2d(box.spread, layer.weight.abs(), None, *settings)), pull


@through.register(nn.BatchNorm1d)
@through.register(nn.BatchNorm2d)
def _(layer: nn.BatchNorm2d, box: Box, setting: Setting) -> tuple[Box, Pull]:
    return _per_channel(box, *norms.of(layer, setting.held))


@through.register
def _(layer: Normalise, box: Box, setting: Setting) -> tuple[Box, Pull]:
    scale = 1 / layer.std.flatten()
    return _per_channel(box, scale, -layer.mean.flatten() * scale)


def _per_channel(box: Box, scale: Tensor, shift: Tensor) -> tuple[Box, Pull]:
    wide, raised = (norms.per_channel(v, box.like.ndim) for v in (scale, shift))

    def pull(form: Form) -> Form:
        rows = form.rows.flatten(3).sum(3) if form.rows.ndim > 3 else form.rows
        return Form(form.rows * wide[:, None], form.shift + rows @ shift)

    return Box.around(torch.addcmul(raised, box.center, wide), box.spread * wide.abs()), pull


@through.register
def _(layer: nn.Flatten, box: Box, setting: Setting) -> tuple[Box, Pull]:
    shape = box.like.shape[1:]
    return box.mapped(layer), lambda form: Form(form.rows.unflatten(2, shape), form.shift)


@through.register
def _(layer: nn.Identity, box: Box, setting: Setting) -> tuple[Box, Pull]:
    return box, lambda form: form


@through.register(nn.AvgPool2d)
@through.register(nn.AdaptiveAvgPool2d)
def _(layer: nn.Module, box: Box, setting: Setting) -> tuple[Box, Pull]:
    def pull(form: Form) -> Form:
        count = form.rows.shape[:2]
        rows = form.rows.flatten(0, 1)
        _, back = torch.func.vjp(layer, rows.new_zeros(len(rows), *box.like.shape[1:]))
        return Form(back(rows)[0].unflatten(0, count), form.shift)

    return box.mapped(layer), pull


@through.register
def _(layer: nn.ReLU, box: Box, setting: Setting) -> tuple[Box, Pull]:
    """Above by the chord, below by a line through the origin."""
    after = Box(box.lower.relu(), box.upper.relu())

    def pull(form: Form) -> Form:
        lower, upper = -(-box.lower).relu(), after.upper
        chord = parallel(lower, upper)
        below = setting.below(lower, upper)
        positive = form.rows.relu()
        raised = (positive.flatten(2) @ (lower * chord).flatten(1)[:, :, None])[..., 0]
        rows = torch.addcmul(form.rows * below[:, None], positive, (chord - below)[:, None])
        return Form(rows, form.shift - raised)

    return after, pull


@through.register
def _(layer: Residual, box: Box, setting: Setting) -> tuple[Box, Pull]:
    branches = [_chain(branch, box, setting) for branch in (layer.body, layer.shortcut)]
    (left, pull_left), (right, pull_right) = branches

    def pull(form: Form) -> Form:
        one, two = pull_left(form), pull_right(Form(form.rows, torch.zeros_like(form.shift)))
        return Form(one.rows + two.rows, one.shift + two.shift)

    return Box.around(left.center + right.center, left.spread + right.spread), pull


def _chain(branch: nn.Module, box: Box, setting: Setting) -> tuple[Box, Pull]:
    pulls = []
    for layer in flat(branch):
        box, pull = through(layer, box, setting)
        pulls.append(pull)

    def pull_all(form: Form) -> Form:
        for back in reversed(pulls):
            form = back(form)
        return form

    return box, pull_all
