"""Lipschitz constants over a region: bounds of the Clarke Jacobian by linear bound propagation.

The gradient of a row of the output is a product of matrices and slopes, from the output back to the input:
a_s = c M_s + sum_k h_k M_ks, h_k = d_k a_k, with d_k within the slopes that bounds on the region leave. It is bounded
as a network would be: h = d a lies between two lines in a where a has bounds, and a bound of any linear function of
the gradient follows by putting the lines in, from the input towards the output (Zhang et al. 2019, "RecurJac"; Shi et
al. 2022, "Efficiently computing local Lipschitz constants via bound propagation", section 3). Norms are linear
functions, too, once |a| or a^2 is replaced by its chord. Rounding is charged as in `certify.check.linear`.

Shapes: B domains, S rows of the output, T linear functions, n_k values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from certify.check.bounds import propagate
from certify.check.linear import Network
from certify.graph.ir import Graph
from certify.lipschitz.matrices import Matrix
from certify.lipschitz.norms import operator_norm
from certify.lipschitz.slopes import slopes_between
from certify.lipschitz.system import Slopes, between
from certify.numerics import gamma, inflate, next_up
from certify.spec.regions import Region

Array = np.ndarray

ENTRIES = 1 << 23
"""Coefficients that one backward pass holds."""


@dataclass(frozen=True, eq=False)
class Interval:
    """lower, upper, each (B, S, n)."""

    lower: Array
    upper: Array

    @property
    def size(self) -> Array:
        return np.maximum(-self.lower, self.upper)

    def met(self, lower: Array, upper: Array) -> Interval:
        return Interval(np.maximum(self.lower, lower), np.minimum(self.upper, upper))


class _Factor:
    """A matrix (m, n) for products with many rows, dense if it is not very sparse."""

    def __init__(self, matrix: Matrix) -> None:
        thin = matrix.value.nnz * 8 < np.prod(matrix.shape) and np.prod(matrix.shape) > 1 << 14
        self.shape, self.error = matrix.shape, matrix.error
        self.value = matrix.value if thin else matrix.value.toarray()
        self.absolute = abs(self.value)

    def forth(self, a: Array, *, size: bool = False) -> Array:
        """a (..., m) @ M, or |M|, (..., n)."""
        return _rows(a, self.absolute if size else self.value)

    def back(self, a: Array, *, size: bool = False) -> Array:
        """a (..., n) @ M', or |M'|, (..., m)."""
        return _rows(a, (self.absolute if size else self.value).T)

    def lost(self, a: Array, *, back: bool) -> Array:
        """At least how far the product with a >= 0 is off: its rounding, and the matrix's error."""
        count = self.shape[1 if back else 0]
        found = gamma(count + 64) * (self.back(a, size=True) if back else self.forth(a, size=True))
        if self.error is not None:
            found = found + _rows(a, self.error.T if back else self.error)
        return inflate(found, count + 64)


def _rows(a: Array, matrix: Array | sparse.csr_array) -> Array:
    return (a.reshape(-1, a.shape[-1]) @ matrix).reshape(*a.shape[:-1], matrix.shape[1])


@dataclass(frozen=True, eq=False)
class _Lines:
    """below_slope a + below_shift <= h <= above_slope a + above_shift, each (B, S, n)."""

    below_slope: Array
    below_shift: Array
    above_slope: Array
    above_shift: Array


def _lines(slopes: tuple[Array, Array], a: Interval) -> _Lines:
    """Lines for d a with d within slopes (B, n), a within its interval: chords of max(d a) and min(d a) over d."""
    low, high = (s[:, None] for s in slopes)
    parts = []
    for left, right in ((high, low), (low, high)):  # the slope for a < 0 and for a > 0: below, above
        sign = 1.0 if left is low else -1.0
        ends = [np.where(x < 0, left, right) * x for x in (a.lower, a.upper)]
        with np.errstate(all="ignore"):
            chord = (ends[1] - ends[0]) / (a.upper - a.lower)
        apart = ~(a.lower >= 0) & ~(a.upper <= 0)
        chord = np.where(np.isfinite(chord), np.clip(chord, low, high), low)
        slope = np.where(apart, chord, np.where(a.lower >= 0, right, left))
        gaps = [sign * (e - slope * x) for e, x in zip(ends, (a.lower, a.upper), strict=True)]
        size = np.maximum(np.abs(low), np.abs(high)) * a.size
        shift = np.where(apart, np.maximum(*gaps) + inflate(gamma(8) * size, 8), 0.0)
        parts += [slope, sign * np.maximum(shift, 0.0)]
    return _Lines(*parts)


class Jacobian:
    """Bounds of the Jacobian of a network whose elementwise operators have slopes within bounds."""

    def __init__(self, graph: Graph) -> None:
        system = between(graph)
        self.nodes, self.sizes = system.nodes, system.sizes
        self.output = {s: _Factor(m) for s, m in system.output.items()}
        self.read = [{s: _Factor(m) for s, m in terms.items()} for terms in system.read]

    def bound(self, rows: Array, slopes: Mapping[int, tuple[Array, Array]], norm: float) -> Bounded:
        """Bounds for rows (S, n) of the output, given the slopes (B, size) of every elementwise node."""
        return Bounded(self, np.asarray(rows, np.float64), [slopes[e] for e in self.nodes], norm)


class Bounded:
    """Bounds over B domains: of the gradients' entries, `entries` (B, S, d), and of their norms, `rows` (B, S).

    `gradients[k]` bounds the gradients with respect to w_k. Sound: rounded outward.
    """

    def __init__(self, jacobian: Jacobian, rows: Array, slopes: Sequence[tuple[Array, Array]], norm: float) -> None:
        self.jacobian, self.c, self.norm = jacobian, rows, norm
        self.batch = max((len(low) for low, _ in slopes), default=1)
        unbounded = np.zeros(self.batch, bool)
        for low, high in slopes:
            unbounded |= ~(np.isfinite(low) & np.isfinite(high)).all(-1)
        self.slopes = [tuple(np.where(unbounded[:, None], 0.0, side) for side in pair) for pair in slopes]
        count = len(slopes)
        self.gradients: dict[int, Interval] = {}
        self.lines: dict[int, _Lines] = {}
        self.sizes: dict[int, Array] = {}  # at least |h_k|, and |slope of a line| |a_k|
        for s in range(count, -1, -1):
            self.gradients[s] = self._interval(s)
            if s < count:
                self._tighten(s)
            if s:
                low, high = self.slopes[s - 1]
                self.lines[s] = _lines((low, high), self.gradients[s])
                self.sizes[s] = inflate(np.maximum(np.abs(low), np.abs(high))[:, None] * self.gradients[s].size, 4)
        self.entries = self.gradients[0]
        self.rows = _known(np.where(unbounded[:, None], np.inf, self._norms()))
        self.unbounded = unbounded

    def _interval(self, s: int) -> Interval:
        """By interval arithmetic from the gradients that come before."""
        shape = (self.batch, len(self.c), self.jacobian.sizes[s])
        middle, radius = np.zeros(shape), np.zeros(shape)
        if s in self.jacobian.output:
            factor = self.jacobian.output[s]
            middle = middle + factor.forth(self.c)
            radius = radius + factor.lost(np.abs(self.c), back=False)
        for k, terms in enumerate(self.jacobian.read, 1):
            if s in terms and k > s:
                low, high = (d[:, None] for d in self.slopes[k - 1])
                a = self.gradients[k]
                ends = np.stack([d * x for d in (low, high) for x in (a.lower, a.upper)])
                size = np.abs(ends).max(0)
                lower, upper = ends.min(0), ends.max(0)
                half = inflate(0.5 * (upper - lower) + gamma(8) * size, 8)
                at = 0.5 * (upper + lower)
                middle = middle + terms[s].forth(at)
                radius = radius + inflate(terms[s].forth(half, size=True), terms[s].shape[0] + 8)
                radius = radius + terms[s].lost(size, back=False)
        radius = inflate(radius + gamma(8 * len(self.slopes) + 8) * np.abs(middle), 8 * len(self.slopes) + 8)
        return Interval(middle - radius, middle + radius)

    def _tighten(self, s: int) -> None:
        """The gradient's entries with respect to w_s as linear functions of what comes before."""
        size = self.jacobian.sizes[s]
        widest = max(self.jacobian.sizes[s:])
        step = max(1, ENTRIES // (self.batch * len(self.c) * widest))
        found = []
        for sign in (1.0, -1.0):
            bounds = []
            for first in range(0, size, step):
                unit = np.eye(size)[first : first + step] * sign
                whole = np.broadcast_to(unit, (self.batch, len(self.c), *unit.shape))
                bounds.append(self._upper(s, whole))
            found.append(np.concatenate(bounds, -1))
        self.gradients[s] = self.gradients[s].met(-found[1], found[0])

    def _upper(self, s: int, targets: Array) -> Array:
        """Upper bounds (B, S, T) of <targets, gradient with respect to w_s>, targets (B, S, T, n_s)."""
        pending: dict[int, Array] = {}
        value, error = np.zeros(targets.shape[:3]), np.zeros(targets.shape[:3])
        for k in range(s, len(self.slopes) + 1):
            if k == s:
                a = targets
            elif k in pending:
                h, lines = pending.pop(k), self.lines[k]
                positive, negative = np.maximum(h, 0), np.minimum(h, 0)
                for part, shift in ((positive, lines.above_shift), (negative, lines.below_shift)):
                    value = value + _dot(part, shift)
                    error = error + gamma(h.shape[-1] + 8) * _dot(np.abs(part), np.abs(shift))
                a = positive * lines.above_slope[:, :, None] + negative * lines.below_slope[:, :, None]
            else:
                continue
            size = np.abs(a)
            if k in self.jacobian.output:
                factor = self.jacobian.output[k]
                own = self.c[None]
                value = value + _dot(factor.back(a), own)
                error = error + 2 * _dot(factor.lost(size, back=True), np.abs(own))
                error = error + gamma(2 * own.shape[-1] + 8) * _dot(factor.back(size, size=True), np.abs(own))
            for j, terms in enumerate(self.jacobian.read, 1):
                if k in terms and j > k:
                    part = terms[k].back(a)
                    error = error + 2 * _dot(terms[k].lost(size, back=True), self.sizes[j])
                    if j in pending:
                        part = pending[j] + part
                    # its own rounding here, and that of the slope it will be multiplied by
                    error = error + gamma(8) * _dot(np.abs(part), self.sizes[j])
                    pending[j] = part
            error = error + gamma(8) * np.abs(value)
        return next_up(next_up(value + inflate(error, 2 * sum(self.jacobian.sizes))))

    def _norms(self) -> Array:
        """Upper bounds (B, S) of the gradients' dual norms."""
        lower, upper = self.entries.lower, self.entries.upper
        size, count = self.entries.size, self.entries.size.shape[-1]
        if self.norm == 1:
            return np.maximum(size.max(-1, initial=0.0), 0.0)
        if self.norm == 2:
            plain = inflate(np.square(size).sum(-1), 2 * count)
            slope, ends = lower + upper, (np.square(lower), np.square(upper))
        else:
            plain = inflate(size.sum(-1), count)
            ends = (np.abs(lower), np.abs(upper))
            with np.errstate(all="ignore"):
                slope = (ends[1] - ends[0]) / (upper - lower)
            slope = np.where(np.isfinite(slope), np.clip(slope, -1, 1), 0.0)
        gaps = np.maximum(ends[0] - slope * lower, ends[1] - slope * upper)
        shift = (gaps + gamma(16) * (ends[0] + ends[1] + np.abs(slope) * size)).sum(-1)
        shift = shift + inflate(gamma(count + 8) * np.abs(gaps).sum(-1), count)
        if len(self.slopes):
            linear = next_up(next_up(self._upper(0, slope[:, :, None])[..., 0] + shift) + gamma(8) * np.abs(shift))
            plain = np.minimum(plain, np.maximum(linear, 0.0))
        return inflate(np.sqrt(plain), 8) if self.norm == 2 else plain

    def constants(self) -> Array:
        """Upper bounds (B,) of the norms of the whole matrices of rows, from the norm to itself."""
        if len(self.c) == 1:
            return self.rows[:, 0]
        if self.norm == np.inf:
            return self.rows.max(-1)
        lower, upper = self.entries.lower, self.entries.upper
        middle = 0.5 * lower + 0.5 * upper
        radius = np.maximum(next_up(np.maximum(upper - middle, middle - lower)), 0)
        whole = [
            operator_norm(Matrix(sparse.csr_array(m), sparse.csr_array(r)), self.norm).value
            if np.isfinite(m).all() and np.isfinite(r).all()
            else np.inf
            for m, r in zip(middle, radius, strict=True)
        ]
        found = np.where(self.unbounded, np.inf, np.array(whole))
        if self.norm == 2:
            squares = inflate(np.square(self.rows).sum(-1), 2 * self.rows.shape[-1])
            found = np.minimum(found, inflate(np.sqrt(squares), 8))
        return _known(found)


def _known(bound: Array) -> Array:
    """What is not a number is no bound."""
    return np.where(np.isnan(bound), np.inf, bound)


def _dot(a: Array, v: Array) -> Array:
    """sum over n of a (B, S, T, n) * v (B or 1, S, n) -> (B, S, T)."""
    return np.matmul(a, np.broadcast_to(v, (len(a), *v.shape[1:]))[..., None])[..., 0]


def slopes_over(graph: Graph, region: Region) -> Slopes:
    """The slopes of all elementwise operators over a region, from the checker's bounds."""
    reads = {graph.nodes[e].inputs[0] for e in graph.nonlinear}
    ball = region if region.norm in (1, 2) else None
    bounds = propagate(Network(graph), region.lower[None], region.upper[None], refined=reads, ball=ball)
    found = {}
    for e in graph.nonlinear:
        v = graph.nodes[e].inputs[0]
        sides = (np.broadcast_to(b[v], (1, *graph.nodes[v].shape)) for b in (bounds.lower, bounds.upper))
        found[e] = tuple(s.reshape(-1) for s in slopes_between(graph, e, *sides))
    return found


def whole_slopes(slopes: Slopes) -> dict[int, tuple[Array, Array]]:
    """The same slopes as those of one domain."""
    return {e: (low[None], high[None]) for e, (low, high) in slopes.items()}
