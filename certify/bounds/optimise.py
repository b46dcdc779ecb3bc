"""Optimised slopes and multipliers: alpha-CROWN (Xu et al. 2021), beta-CROWN (Wang et al. 2021).

The bound is a concave function of everything free in it: the parameter of each relaxing line, the
multiplier of each split, the weights that combine the rows of a clause. Its gradient needs no autograd
graph: by the envelope theorem it is the product of the coefficients met on the way back (`Form.kept`)
with the values met when the minimiser is sent forward through the same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds import sweeps
from certify.bounds.base import NodeBounds, flat
from certify.bounds.linear import Form, Splits, propagate
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import Rows
from certify.graph.evaluate import Network
from certify.native import products
from certify.relax.elementwise import Lines
from certify.relax.product import Planes
from certify.spec.inputset import InputSet


@dataclass(eq=False)
class Free:
    """Everything that the bound leaves free, for B domains and S clauses.

    `lines[e]` (B, S, *N) in [0, 1] is the line parameter of elementwise node e; `weights` (B, S, R) lie on
    the simplex; `multipliers` (B, S, D) >= 0 belong to the domains' splits.
    """

    lines: dict[int, Tensor]
    weights: Tensor
    multipliers: Tensor

    def select(self, index: Tensor) -> Free:
        return Free({e: t[index] for e, t in self.lines.items()}, self.weights[index], self.multipliers[index])

    def clone(self) -> Free:
        return Free({e: t.clone() for e, t in self.lines.items()}, self.weights.clone(), self.multipliers.clone())

    def tensors(self) -> list[Tensor]:
        return [*self.lines.values(), self.weights, self.multipliers]


@dataclass(frozen=True, eq=False)
class Target:
    """The fixed part of an optimisation: the network, the domains, and what is bounded over them."""

    network: Network
    inputs: InputSet
    bounds: NodeBounds
    rows: Rows
    splits: Splits | None = None

    def select(self, index: Tensor) -> Target:
        chosen = {
            v: (lo if lo.shape[0] == 1 else lo[index], up if up.shape[0] == 1 else up[index])
            for v, (lo, up) in self.bounds.items()
        }
        splits = None if self.splits is None else self.splits.select(index)
        return Target(self.network, self.inputs.select(index), chosen, self.rows.select(index), splits)


def bound(target: Target, free: Free, lines: dict[int, Lines | Planes], keep: bool = False) -> tuple[Tensor, Form]:
    """Lower bounds (B, S) of the weighted clause margins, and the forms that give them."""
    network = target.network
    last = len(network.graph.nodes) - 1
    y, x, constant = target.rows.start(free.weights, network.graph.output_size)
    sweeper = sweeps.sweeper(network, target.inputs) if x is None else None
    if sweeper is not None and sweeper.covers(lines):
        found = sweeper.back(y, constant, lines, target.splits, free.multipliers, keep=keep)
        return found.least, Form(found.input, found.constant, found.kept)
    start = {last: y.reshape(*y.shape[:2], *network.graph.nodes[last].shape)}
    form = propagate(network, start, constant, lines, splits=target.splits, multipliers=free.multipliers, keep=keep)
    if x is not None:
        form = Form(form.input + x, form.constant, form.kept)
    return form.minimum(target.inputs), form


def initial(target: Target, relaxation: Relaxation) -> Free:
    """Adaptive lines, equal weights on all rows of a clause, no multipliers."""
    batch = len(target.inputs)
    clauses = target.rows.matrix.shape[1]
    lines = {e: t.expand(batch, clauses, *t.shape[2:]).clone() for e, t in relaxation.initial().items()}
    used = target.rows.used.to(target.rows.offset.dtype)
    weights = (used / used.sum(-1, keepdim=True).clamp_min(1)).expand(batch, -1, -1).clone()
    depth = 0 if target.splits is None else target.splits.node.shape[1]
    return Free(lines, weights, weights.new_zeros(batch, clauses, depth))


@dataclass(frozen=True, eq=False)
class Primal:
    """A minimiser x (B, S, d) sent forward through the lines.

    `read[e]` and `made[e]`, (B, S, *N), are the values before and after elementwise node e; `split`
    (B, S, D) are the values of the split neurons; `z` (B, S, n or n + d) is what the rows see.
    """

    x: Tensor
    read: dict[int, Tensor]
    made: dict[int, Tensor]
    split: Tensor
    z: Tensor


def primal(target: Target, form: Form, lines: dict[int, Lines | Planes]) -> Primal:
    """Where the bound is attained: the minimiser of `form`, forward through the lines that made it."""
    network, graph = target.network, target.network.graph
    batch, clauses = form.constant.shape
    x = target.inputs.minimiser(form.input)
    values: dict[int, Tensor] = {0: x.reshape(batch * clauses, *graph.input_shape)}
    read: dict[int, Tensor] = {}
    made: dict[int, Tensor] = {}
    splits = target.splits
    split_nodes = set(splits.nodes()) if splits is not None else set()
    split = x.new_zeros(batch, clauses, 0 if splits is None else splits.node.shape[1])
    for i, node in enumerate(graph.nodes):
        if i and network.functions[i] is None:
            values[i] = network.maps[i].forward(*(values[j] for j in node.inputs))
        elif i:
            z = read[i] = values[node.inputs[0]].reshape(-1, clauses, *graph.nodes[node.inputs[0]].shape)
            line = lines[i]
            a = form.kept.get(i)
            made[i] = _follow(z, a if a is not None else z.new_zeros(*z.shape[:2], *node.shape), line)
            values[i] = made[i].flatten(0, 1)
        if i in split_nodes:
            value = values[i].expand(batch * clauses, *node.shape).reshape(batch, clauses, -1)
            index = splits.index.unsqueeze(1).expand_as(split).clamp_max(value.shape[2] - 1)
            split = torch.where((splits.node == i).unsqueeze(1), value.gather(2, index), split)
    y = values[len(graph.nodes) - 1].expand(batch * clauses, *graph.nodes[-1].shape).reshape(batch, clauses, -1)
    z = torch.cat([y, x], -1) if target.rows.matrix.shape[-1] > y.shape[-1] else y
    return Primal(x, read, made, split, z)


def _follow(z: Tensor, a: Tensor, line: Lines | Planes) -> Tensor:
    """What the lines make of z where a (B, S, *N) chose them."""
    if isinstance(line, Planes):
        return line.follow(z, a)
    compiled = products.follow(z, a, line)
    if compiled is not None:
        return compiled
    return torch.where(a < 0, line.upper_slope * z + line.upper_shift, line.lower_slope * z + line.lower_shift)


def gradient(
    target: Target, free: Free, form: Form, lines: dict[int, Lines | Planes], relaxation: Relaxation
) -> list[Tensor]:
    """The bound's (super)gradient at `form`, in the order of `free.tensors()`."""
    at = primal(target, form, lines)
    found = []
    for e in free.lines:
        a, t = form.kept.get(e), free.lines[e]
        found.append(torch.zeros_like(t) if a is None else a * relaxation.families[e].rate(t, at.read[e], a < 0))
    matrix = target.rows.matrix
    found.append(torch.einsum("bsrn,bsn->bsr", matrix.expand(len(at.z), *matrix.shape[1:]), at.z) - target.rows.offset)
    if target.splits is None:
        found.append(torch.zeros_like(free.multipliers))
    else:
        found.append(-target.splits.sign.unsqueeze(1) * (at.split - target.splits.point.unsqueeze(1)))
    return found


@dataclass(frozen=True)
class Schedule:
    """At most `steps` of projected Adam, and its rates for line parameters, multipliers and weights.

    After `trial` steps a domain is left whose bound, at its pace, will not pass the threshold in the steps that
    remain: to split it is the better use of the time.
    """

    steps: int = 20
    lines: float = 0.25
    multipliers: float = 0.1
    weights: float = 0.2
    decay: float = 0.95
    trial: int | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Domains, at positions `index`, that an optimisation left together: their last form and its lines."""

    index: Tensor
    form: Form
    lines: dict[int, Lines | Planes]

    def select(self, which: Tensor) -> Part:
        lines = {e: line.select(which) for e, line in self.lines.items()}
        return Part(self.index[which], self.form.select(which), lines)


@dataclass(frozen=True, eq=False)
class Result:
    """After optimisation: the best lower bounds (B, S) met; `free`, which for a clause above the threshold
    are the very values that proved it; and the domains in the parts in which they were left.

    Elsewhere `free` is where the ascent ended, not where it was highest: the way to the maximum may lead down
    at first, and a child that began at the parent's best point again would not come further either.
    """

    lower: Tensor
    free: Free
    parts: tuple[Part, ...]


@dataclass(eq=False)
class _Ascent:
    """The domains that an optimisation has not left, at positions `index` of its target."""

    index: Tensor
    target: Target
    free: Free
    relaxation: Relaxation
    moments: list[tuple[Tensor, Tensor]]  # Adam's, for each of free.tensors()
    scale: Tensor  # of each multiplier, (B, S, D)
    first: Tensor  # bounds (B, S) before the first step
    best: Tensor  # the highest since

    def select(self, which: Tensor) -> _Ascent:
        return _Ascent(
            self.index[which],
            self.target.select(which),
            self.free.select(which),
            self.relaxation.select(which),
            [(mean[which], square[which]) for mean, square in self.moments],
            self.scale[which],
            self.first[which],
            self.best[which],
        )


LEAVE = 0.25
"""Domains are left when they are this share of all: to take the others together costs about a pass."""


def optimise(
    target: Target,
    free: Free,
    relaxation: Relaxation,
    schedule: Schedule,
    threshold: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Raise the lower bounds by projected Adam; clauses that pass `threshold` stay as they then are."""
    compiled = _compiled(target, free, relaxation, schedule, threshold, stop)
    if compiled is not None:
        return compiled
    result = free.clone()
    lower = free.weights.new_full(free.weights.shape[:2], -torch.inf)
    parts: list[Part] = []
    ascent = _begin(target, free, relaxation)
    step = 0
    while True:
        lines = ascent.relaxation.lines(ascent.free.lines)
        value, form = bound(ascent.target, ascent.free, lines, keep=True)
        ascent.best = torch.maximum(ascent.best, value)
        ascent.first = value if step == 0 else ascent.first
        done = ~_hopeful(ascent, schedule, threshold, step)
        count = int(done.sum())
        if step == schedule.steps or stop():
            done, count = torch.ones_like(done), len(done)
        if count == len(done) or count > LEAVE * len(done):
            which = done.nonzero().squeeze(1)
            part = Part(torch.arange(len(done), device=which.device), form, lines)
            index = ascent.index[which]
            lower[index] = ascent.best[which]
            for kept, t in zip(result.tensors(), ascent.free.tensors(), strict=True):
                kept[index] = t[which]
            left = part.select(which)
            parts.append(Part(index, left.form, left.lines))
            if count == len(done):
                return Result(lower, result, tuple(parts))
            stay = (~done).nonzero().squeeze(1)
            rest = part.select(stay)
            ascent, form, lines = ascent.select(stay), rest.form, rest.lines
        slopes = gradient(ascent.target, ascent.free, form, lines, ascent.relaxation)
        if step == 0 and target.splits is not None:
            ascent.scale = _scale(ascent.target.splits, form, target.network)
        _ascend(ascent, slopes, schedule, ~(ascent.best > threshold), step)
        _project(ascent.free, ascent.target.rows.used)
        step += 1


def _compiled(
    target: Target,
    free: Free,
    relaxation: Relaxation,
    schedule: Schedule,
    threshold: float,
    stop: Callable[[], bool],
) -> Result | None:
    """The same by the compiled sweep, each clause for itself; None for what it does not cover."""
    clauses, depth = free.weights.shape[1:]
    if depth > 1 or (schedule.trial is not None and clauses > 1):
        return None
    y, x, constant = target.rows.start(free.weights, target.network.graph.output_size)
    sweeper = sweeps.sweeper(target.network, target.inputs) if x is None else None
    if sweeper is None or relaxation.families.keys() != sweeper.nodes():
        return None
    lines = relaxation.lines(free.lines)
    found = sweeper.ascend(y, constant, lines, target.splits, free.multipliers, schedule, threshold, stop)
    lines = {e: line._replace(lower_slope=found.slopes[e]) for e, line in lines.items()}
    moved = {e: torch.where(relaxation.families[e].low != 0, found.slopes[e], t) for e, t in free.lines.items()}
    form = Form(found.last.input, found.last.constant, found.last.kept)
    part = Part(torch.arange(len(y)), form, lines)
    return Result(found.best, Free(moved, free.weights.clone(), found.multipliers), (part,))


def _begin(target: Target, free: Free, relaxation: Relaxation) -> _Ascent:
    none = free.weights.new_full(free.weights.shape[:2], -torch.inf)
    moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in free.tensors()]
    every = torch.arange(len(target.inputs), device=none.device)
    return _Ascent(every, target, free, relaxation, moments, torch.ones_like(free.multipliers), none, none)


def _hopeful(ascent: _Ascent, schedule: Schedule, threshold: float, step: int) -> Tensor:
    """(B,): which domains have a clause that is still open, and may be closed in the steps that are left."""
    still_open = ~(ascent.best > threshold)
    if schedule.trial is not None and step >= max(schedule.trial, 1):
        pace = (ascent.best - ascent.first) / step
        still_open &= ascent.best + pace * (schedule.steps - step) > threshold
    return still_open.any(1)


def _ascend(ascent: _Ascent, slopes: list[Tensor], schedule: Schedule, still_open: Tensor, step: int) -> None:
    """One step of Adam (Kingma & Ba 2015) uphill, in place, for the clauses still open."""
    correction = schedule.decay**step * (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
    rates = [schedule.lines] * len(ascent.free.lines) + [schedule.weights, schedule.multipliers * ascent.scale]
    for tensor, slope, (mean, square), rate in zip(ascent.free.tensors(), slopes, ascent.moments, rates, strict=True):
        if not tensor.numel():
            continue
        if isinstance(rate, float) and products.ascend(tensor, slope, mean, square, still_open, rate * correction):
            continue
        mean.lerp_(slope, 0.1)
        square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        move = mean / square.sqrt().add_(1e-12) * rate
        active = still_open.reshape(*still_open.shape, *[1] * (tensor.dim() - 2))
        tensor.add_(torch.where(active, move, 0), alpha=correction)


def _scale(splits: Splits, form: Form, network: Network) -> Tensor:
    """How large a split's multiplier is likely to be, (B, S, D): the coefficient met at the split neuron.

    Adam takes steps of unit size, while multipliers scale with the rows.
    """
    found = splits.point.new_zeros(*form.constant.shape, splits.node.shape[1])
    for e, a in form.kept.items():
        here = (splits.node == network.graph.nodes[e].inputs[0]).unsqueeze(1)
        size = flat(a.abs(), 2)
        picked = size.gather(2, splits.index.unsqueeze(1).expand_as(found).clamp_max(size.shape[2] - 1))
        found = torch.where(here, torch.maximum(picked, size.mean(2, keepdim=True)), found)
    return found


def _project(free: Free, used: Tensor) -> None:
    for t in free.lines.values():
        t.clamp_(0, 1)
    free.multipliers.clamp_(min=0)
    free.weights.clamp_(min=0).mul_(used)
    total = free.weights.sum(-1, keepdim=True)
    even = used / used.sum(-1, keepdim=True).clamp_min(1)
    free.weights.copy_(torch.where(total > 1e-6, free.weights / total.clamp_min(1e-6), even.to(total.dtype)))
