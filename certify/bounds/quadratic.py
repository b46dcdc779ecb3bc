"""ReLU networks as quadratic programs, and rigorous bounds from multipliers of their constraints.

Raghunathan, Steinhardt & Liang (2018): y = max(z, 0) holds iff y >= 0, y >= z and y (y - z) = 0. With the box and
the triangle as further constraints, all of them linear or quadratic in the values u of a network, any multipliers
give a Lagrangian that nowhere exceeds the objective: a quadratic form of (1, u). In coordinates v with |v_i| <= 1
the form v' M v is at least  -sum(kappa)  if M + diag(kappa) has no negative eigenvalue, kappa_0 of any sign and
the others >= 0; and a negative one costs its size times the length of v (Dathathri et al. 2020, section 5).
An L1 or L2 ball around c adds |x - c|^2 <= r^2, and an L1 ball also <w, x - c> <= r max |w_i|, for any w: the dual
norm. So whatever a solver says becomes a bound. Here every rounding is charged, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import NodeBounds, flat
from certify.bounds.outward import propagated, what_is_read
from certify.check.linear import Network as CheckedNetwork
from certify.check.tree import ball_of
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.numerics import TINY, UNIT, gamma, inflate, next_down, next_up
from certify.spec.regions import Region

Array = np.ndarray

TRIALS = 8
"""How often a shift is raised until the shifted matrix has a Cholesky factor."""


@dataclass(frozen=True, eq=False)
class Multipliers:
    """One number per neuron, (K,) each, one per coordinate, and those of a ball.

    `positive`, `above`, `below` >= 0 belong to y >= 0, y >= z and y <= slope * z + shift; `square`, of any sign, to
    y y = y z; `box` (N,) to v_0^2 = 1 and, >= 0, to v_i^2 <= 1. Of a ball of radius r, `ball` (1,) >= 0 belongs to
    |x - c|^2 / r^2 <= 1, and `pull` (d,), of any sign, is the w of <w, x - c> / r <= max |w_i| over an L1 ball; they
    have no entry where there is no such ball.
    """

    positive: Tensor
    above: Tensor
    below: Tensor
    square: Tensor
    box: Tensor
    ball: Tensor
    pull: Tensor

    def feasible(self) -> Multipliers:
        """The nearest that the constraints allow. NaN stays NaN."""
        box = torch.cat([self.box[:1], self.box[1:].clamp_min(0)])
        three = (t.clamp_min(0) for t in (self.positive, self.above, self.below))
        return Multipliers(*three, self.square, box, self.ball.clamp_min(0), self.pull)

    def tensors(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]


class Quadratics:
    """The constraints of one ReLU network over one region: a box, or an L1 or L2 ball in it, x (d,).

    u = (1, x, y) are the values: the input and, in order, what the neurons make that are not stable, K in all.
    z = z_map @ u, (K, len(u)), is what these read, `outputs` @ u, (n, len(u)), the output; entries of the two maps
    are off by at most gamma(`terms`) times those of `z_size` and `outputs_size`. u = centre + radius * v on `varying`,
    where |v_i| <= 1, and u = centre elsewhere; with v_0 = 1 before them there are N coordinates. The bounds behind
    this are the checker's, rounded outward, which keep `within` where it is `Outward`. `finite` tells whether all of
    them are, `nodes` has those of what elementwise nodes read, each (1, *N), and `bent[e]` (size,) tells which
    neurons of node e are not stable.
    """

    def __init__(self, graph: Graph, region: Region, within: NodeBounds | None = None) -> None:
        self.outputs_count, lower, upper, self.ball = graph.output_size, region.lower, region.upper, ball_of(region)
        found = propagated(CheckedNetwork(graph), region, within or {})
        self.nodes = what_is_read(graph, found)
        kept: dict[int, tuple[Array, Array]] = {}  # of each elementwise node, which neurons are linear and which bent
        made, sides = [(lower, upper)], [(np.zeros(0), np.zeros(0))]
        for e in graph.nonlinear:
            v = graph.nodes[e].inputs[0]
            low, up = found.lower[v].reshape(-1), found.upper[v].reshape(-1)
            bent = ~(low >= 0) & ~(up <= 0)
            kept[e] = low >= 0, bent
            sides.append((low[bent], up[bent]))
            made.append((found.lower[e].reshape(-1)[bent], found.upper[e].reshape(-1)[bent]))
        self.bent = {e: torch.from_numpy(bent) for e, (_, bent) in kept.items()}
        low, up = (np.concatenate(side) for side in zip(*made, strict=True))
        self.first = 1 + len(lower)  # where y begins in u
        self.neurons = len(low) - len(lower)
        bounds = [np.concatenate(s) for s in zip(*sides, strict=True)]
        with np.errstate(all="ignore"):
            self.slope, self.shift = map(torch.from_numpy, _chord(*bounds))
            middle = np.where(low == up, low, 0.5 * low + 0.5 * up)
            reach = np.where(low == up, 0.0, next_up(np.maximum(up - middle, middle - low)))
        self.centre = torch.from_numpy(np.concatenate([np.ones(1), middle]))
        self.varying = torch.from_numpy(1 + np.flatnonzero(reach != 0))
        self.radius = torch.from_numpy(reach[reach != 0])
        self.finite = all(bool(t.isfinite().all()) for t in (self.slope, self.shift, self.centre, self.radius))
        (self.z_map, self.z_size), (self.outputs, self.outputs_size), self.terms = _maps(graph, kept)

    def of_bent(self, every: Mapping[int, Tensor]) -> Tensor:
        """Of numbers {e: (size,)} for the neurons of elementwise nodes those, (K,), of the neurons not stable."""
        return torch.cat([self.slope.new_zeros(0), *(every[e][bent] for e, bent in self.bent.items())])

    def cost(self, row: Tensor, constant: float) -> tuple[Tensor, Tensor]:
        """<row, (output, x)> + constant as <cost, u>, for row (n,) or (n + d,); and the size of its terms."""
        n, d = self.outputs_count, self.first - 1
        x = row[n:] if len(row) > n else row.new_zeros(d)
        rest = torch.cat([row.new_tensor([constant]), x, row.new_zeros(self.neurons)])
        return row[:n] @ self.outputs + rest, row[:n].abs() @ self.outputs_size + rest.abs()

    def matrix(self, given: Multipliers, cost: Tensor) -> Tensor:
        """M (N, N): v' M v is the Lagrangian of <cost, u>, cost (len(u),), but for what `given.box` adds to its
        diagonal. Differentiable."""
        y = given.below - given.positive - given.above
        z = given.above - given.below * self.slope
        shift = -(given.below * self.shift).sum()
        if self.ball is not None:
            center, curve, pull, reach = self._ball(given)
            shift = shift + (curve * center) @ center - pull @ center - reach
            cost = self._shifted(cost, pull - 2 * curve * center)
        quadratic = given.square, -given.square, self._curve(given)
        return self._form(cost, (shift, y, z), quadratic, self.z_map, self.centre)

    def size(self, given: Multipliers, cost: Tensor) -> Tensor:
        """At least, up to rounding, the sum of the sizes of all terms of each entry of `matrix`, of which none counts
        for nothing: products underflow."""
        square = given.square.abs()
        y = given.below + given.positive + given.above
        z = given.above + given.below * self.slope.abs()
        shift = (given.below * self.shift.abs()).sum()
        if self.ball is not None:
            center, curve, pull, reach = self._ball(given)
            shift = shift + (curve * center.abs()) @ center.abs() + pull.abs() @ center.abs() + reach
            cost = self._shifted(cost, pull.abs() + 2 * curve * center.abs())
        quadratic = square, square, self._curve(given)
        return self._form(cost, (shift, y, z), quadratic, self.z_size, self.centre.abs(), TINY)

    def _ball(self, given: Multipliers) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(center, curve, pull, reach), where curve |x - center|^2 + <pull, x - center> - reach <= 0, reach up to
        rounding."""
        curve, radius = self._curve(given), self.ball.radius
        pull = given.pull / radius if len(given.pull) else curve.new_zeros(self.first - 1)
        reach = curve * radius * radius + pull.abs().max() * radius
        return torch.from_numpy(self.ball.center), curve, pull, reach

    def _curve(self, given: Multipliers) -> Tensor:
        """What |x - center|^2 is multiplied with."""
        return given.ball.sum() / (1.0 if self.ball is None else self.ball.radius**2)

    def _shifted(self, cost: Tensor, x: Tensor) -> Tensor:
        return cost + torch.cat([cost.new_zeros(1), x, cost.new_zeros(self.neurons)])

    def _form(
        self,
        cost: Tensor,
        linear: tuple[Tensor, Tensor, Tensor],
        quadratic: tuple[Tensor, Tensor, Tensor],
        z_map: Tensor,
        centre: Tensor,
        least: float = 0.0,
    ) -> Tensor:
        """The matrix, in v, of  <cost, u> + constant + y_i * y + z_i * z  and  square_i y_i y_i + cross_i y_i z_i +
        curve |x|^2, with `least` added to every coefficient."""
        constant, y, z = linear
        square, cross, curve = quadratic
        fixed = torch.cat([constant.reshape(1), y.new_zeros(self.first - 1), y])
        top = (cost + fixed + z @ z_map).unsqueeze(0)
        rest = cross.unsqueeze(1) * z_map
        rest = torch.cat([rest[:, : self.first], rest[:, self.first :] + torch.diag(square)], 1)
        inputs = curve * torch.eye(self.first - 1, top.shape[1] - 1, dtype=top.dtype)
        inputs = torch.cat([top.new_zeros(self.first - 1, 1), inputs], 1)
        half = torch.cat([top, inputs, rest]) / 2 + least  # form u' half u, twice
        left, right = centre @ half, half @ centre
        at, r = self.varying, self.radius
        inner = half[at][:, at] * r * r.unsqueeze(1)
        edge = torch.cat([(left @ centre).reshape(1), left[at] * r]).unsqueeze(0)
        found = torch.cat([edge, torch.cat([(right[at] * r).unsqueeze(1), inner], 1)])
        return found + found.T

    def lower(self, given: Multipliers, row: Tensor, constant: float) -> float:
        """A lower bound of <row, (output, x)> + constant over the region, from any multipliers whatever.

        Sound: every rounding is charged; -inf where something is not finite.
        """
        given = given.feasible()
        cost, cost_size = self.cost(row, constant)
        form, box = self.matrix(given, cost), given.box
        size = self.size(given, cost_size) + torch.diag(box.abs())
        if not (self.finite and bool(form.isfinite().all()) and bool(box.isfinite().all())):
            return float("-inf")
        count = len(box)
        longest = self.terms + self.outputs_count + self.neurons + 2 * len(self.centre) + 64
        entries = 2 * gamma(longest)  # twice, because sizes are rounded, too
        error = inflate(entries * inflate(float(size.sum()), count * count), 8)
        least = smallest_eigenvalue(form + torch.diag(box))
        error = error + inflate(max(-least, 0.0) * count, 2) + inflate(gamma(count + 4) * float(box.abs().sum()), count)
        found = float(next_down(next_down(-float(box.sum())) - next_up(error)))
        return found if np.isfinite(found) else float("-inf")


def smallest_eigenvalue(matrix: Tensor) -> float:
    """A lower bound of the smallest eigenvalue of a symmetric matrix (N, N), not above 0; -inf where none is found.

    With a Cholesky factor R of the matrix, shifted by s, and the residual D: matrix = R R' + D - s >= -|D| - s, where
    D is computed and what its rounding may hide is added (Rump 2006, "Verification of positive definiteness", proves
    the same without computing D). Sound whatever the factor is.
    """
    count = len(matrix)
    eye = torch.eye(count, dtype=matrix.dtype)
    scale = float(matrix.abs().sum(1).max()) if count else 0.0
    if not np.isfinite(scale):
        return float("-inf")
    negative, step = 0.0, 8 * count * UNIT * scale + TINY
    for trial in range(TRIALS):
        if trial == 1:
            negative = max(-float(torch.linalg.eigvalsh(matrix)[0]), 0.0)
        shift = negative + step
        shifted = matrix + shift * eye
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            size = factor.abs() @ factor.abs().T + shifted.abs()
            residual = (shifted - factor @ factor.T).abs() + 2 * gamma(count + 8) * size + TINY
            norm = float(residual.square().sum().sqrt())
            least = -inflate(shift + inflate(norm, count * count) + 2 * UNIT * (scale + shift), 8)
            return float(least) if np.isfinite(least) else float("-inf")
        step *= 8 if trial else 1
    return float("-inf")


def _chord(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Slope and shift of a line that is nowhere below max(z, 0) on [lower, upper]; the function is convex, so only
    the two ends matter, and there the shift is rounded up."""
    width = upper - lower
    rise = np.maximum(upper, 0) - np.maximum(lower, 0)
    slope = np.where(width > 0, rise / np.where(width > 0, width, 1), 0.0)
    ends = [next_up(np.maximum(z, 0) - next_down(slope * z)) for z in (lower, upper)]
    return slope, np.maximum(*ends)


def _maps(
    graph: Graph, kept: Mapping[int, tuple[Array, Array]]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], int]:
    """What the neurons read of which each elementwise node keeps some, (K, len(u)), and the output, (n, len(u)), as
    maps of u = (1, x, y), each with sizes of its entries; and of how many terms sums are made. No size is 0, as what
    underflowed must count where it is multiplied again."""
    network = Network(graph, torch.float64)
    begin = np.cumsum([1 + graph.input_size, *(int(bent.sum()) for _, bent in kept.values())])
    first, total = dict(zip(kept, begin, strict=False)), int(begin[-1])
    values: list[tuple[Tensor, Tensor]] = []  # (len(u), *N) and sizes: one row for every entry of u
    terms = 0
    for i, node in enumerate(graph.nodes):
        if i == 0 or i in kept:
            linear, bent = kept.get(i, (np.zeros(node.size, bool), np.ones(node.size, bool)))
            at = first.get(i, 1)
            own = torch.zeros(total, node.size, dtype=torch.float64)
            own[at : at + int(bent.sum()), torch.from_numpy(bent)] = torch.eye(int(bent.sum()), dtype=torch.float64)
            read = values[node.inputs[0]] if i else (torch.zeros(()), torch.zeros(()))
            same = torch.from_numpy(linear).to(torch.float64).reshape(node.shape)
            values.append(tuple(own.reshape(total, *node.shape) + same * t for t in read))
            continue
        affine = network.maps[i]
        exact = affine.linear(*(values[j][0] for j in node.inputs)).expand(total, *node.shape).clone()
        size = affine.absolute(*(values[j][1] for j in node.inputs)).expand(total, *node.shape).clone()
        zeros = (torch.zeros(1, *graph.nodes[j].shape, dtype=torch.float64) for j in node.inputs)
        bias = affine.forward(*zeros).expand(1, *node.shape)[0]
        exact[0] += bias
        size[0] += bias.abs()
        size += TINY
        values.append((exact, size))
        terms += sum(graph.nodes[j].size for j in node.inputs) + 4

    zero = torch.zeros(total, 0, dtype=torch.float64)
    masks = [(graph.nodes[e].inputs[0], torch.from_numpy(bent)) for e, (_, bent) in kept.items()]
    reads = [torch.cat([zero, *(flat(values[v][k], 1)[:, bent] for v, bent in masks)], 1) for k in (0, 1)]
    outputs = [flat(t, 1) for t in values[-1]]
    (z, z_size), (y, y_size) = ([t.T.contiguous() for t in pair] for pair in (reads, outputs))
    return (z, z_size), (y, y_size), terms
