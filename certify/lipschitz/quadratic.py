"""Bounds of L2 Lipschitz constants from multipliers of slope constraints: what a semidefinite program, or a guess,
proposes is made into a claim here.

An elementwise operator of slopes within [m - r, m + r] makes w = m v + r e of differences v of its argument, with some
|e| <= |v|. Everything is then linear in u = (x, e): what neurons read, V u, and the output, Y u. If multipliers t >= 0
make

    Q = level * |x|^2 - |Y u|^2 - sum_i t_i ((V u)_i^2 - e_i^2)  >=  -slack * |u|^2,

then |y|^2 <= level * |x|^2 + slack * (|x|^2 + |e|^2), and |e| <= |v| <= reach * |x|: the Lipschitz constant is at most
the root of level + slack * (1 + reach^2). This is LipSDP (Fazlyab et al. 2019, theorem 2) with the slopes' middle
eliminated and one multiplier per neuron: coupled ones, as in the first version of that paper, are unsound (Pauli et al.
2021). The correction is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from certify.lipschitz.matrices import Matrix, stacked
from certify.lipschitz.norms import DENSE, least_eigenvalue
from certify.lipschitz.system import Slopes, System, Terms
from certify.numerics import gamma, inflate, next_up

Array = np.ndarray

MARGINS = (1e-9, 1e-6, 1e-3, 1e-1, 1.0)
"""By how much of themselves multipliers are enlarged, until the part of Q in e is positive definite."""


@dataclass(frozen=True, eq=False)
class Form:
    """The quadratic form's ingredients: `reads` V (N, d + N) and `output` Y (n, d + N), within their errors; d; and
    `reach`, at least |v| / |x|."""

    reads: Matrix
    output: Matrix
    inputs: int
    reach: float

    @property
    def count(self) -> int:
        return self.reads.shape[0]

    def matrix(self, multipliers: Array) -> tuple[Array, float]:
        """Q with level 0, (d + N, d + N), symmetric; and a bound of its error's spectral norm."""
        y, v = self.output.value.toarray(), self.reads.value.toarray()
        form = -(y.T @ y) - (v.T * multipliers) @ v
        form = np.tril(form) + np.tril(form, -1).T
        at = np.arange(self.inputs, len(form))
        form[at, at] += multipliers
        ones = np.ones(len(form))
        terms = 2 * (len(y) + len(v)) + 16
        lost = multipliers.max(initial=0.0)
        for part, weight in ((self.output, np.ones(len(y))), (self.reads, multipliers)):
            size = part.size
            lost = lost + (size.T @ (weight * (size @ ones))).max(initial=0.0)
        error = gamma(2 * terms) * float(inflate(lost, terms))
        for part, weight in ((self.output, np.ones(len(y))), (self.reads, multipliers)):
            if part.error is not None:  # |Y|'E + E'|Y| + E'E, of which the row sums bound the norm
                size, wrong = part.size, part.error
                both = size.T @ (weight * (wrong @ ones)) + wrong.T @ (weight * (size @ ones))
                error += 2 * float(inflate(both.max(initial=0.0), terms))
        return form, float(inflate(error, 8))

    def level(self, form: Array) -> float:
        """The least level that makes Q positive semidefinite, as far as rounding tells; inf if none does."""
        d = self.inputs
        if self.count == 0:
            return max(0.0, -float(np.linalg.eigvalsh(form)[0]))
        try:
            factor = np.linalg.cholesky(form[d:, d:])
        except np.linalg.LinAlgError:
            return float("inf")
        half = np.linalg.solve(factor, form[d:, :d])
        return max(0.0, float(np.linalg.eigvalsh(half.T @ half - form[:d, :d])[-1]))

    def certified(self, multipliers: Array, level: float | None = None) -> float:
        """A bound of the Lipschitz constant from multipliers (N,), and a level if it is known; inf if they show none.

        Sound whatever the multipliers and the level are.
        """
        multipliers = np.maximum(np.nan_to_num(multipliers), 0.0)
        form, error = self.matrix(multipliers)
        if not (np.isfinite(form).all() and np.isfinite(error)):
            return float("inf")
        level = self.level(form) if level is None else level
        if not np.isfinite(level):
            return float("inf")
        level = float(next_up(np.float64(max(level, 0.0))))
        at = np.arange(self.inputs)
        form[at, at] += level
        error = float(inflate(error + gamma(2) * np.abs(form[at, at]).max(initial=0.0), 8))
        slack = float(inflate(error - least_eigenvalue(form), 4))
        square = float(inflate(level + slack * (1 + inflate(self.reach * self.reach, 1)), 8))
        return float(inflate(np.sqrt(square), 1)) if np.isfinite(square) else float("inf")

    def guesses(self) -> Iterator[Array]:
        """What neurons write over what they read, which is right for pairs of maximum and minimum and for the residual
        layers of Araujo et al. (2023); and, for others, numbers that exceed the output's Gram matrix in e by diagonal
        dominance."""
        e = self.output.value[:, self.inputs :]
        v = self.reads.value[:, : self.inputs]
        writes = np.sqrt(np.asarray(e.multiply(e).sum(0)).reshape(-1))
        reads = np.sqrt(np.asarray(v.multiply(v).sum(1)).reshape(-1))
        with np.errstate(all="ignore"):
            ratio = writes / reads
        ratio = np.where(np.isfinite(ratio) & (ratio > 0), ratio, 1.0)
        for found in (ratio, abs(e.T @ e) @ (1 / ratio) * ratio):
            yield np.maximum(found, 1e-12 * found.max(initial=1.0))

    def best(self) -> float:
        """The best bound that the guesses show, each enlarged a little or more."""
        found = float("inf")
        for guess in self.guesses():
            for margin in MARGINS:
                found = min(found, self.certified(guess * (1 + margin)))
        return found

    def components(self) -> list[Form]:
        """The form as a sum of forms in different variables, if it is one: the constant is the largest of theirs."""
        e = np.arange(self.inputs, self.inputs + self.count)
        own = sparse.csr_array((np.ones(self.count), (np.arange(self.count), e)), self.reads.shape)
        pattern = sparse.vstack([self.output.size, self.reads.size + own], format="csr")
        links = sparse.csr_array(pattern.T @ pattern)
        count, labels = sparse.csgraph.connected_components(links, directed=False)
        if count == 1:
            return [self]
        order = np.argsort(labels, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        home = _home(self.output.size, labels)
        by_label = np.argsort(home, kind="stable")
        rows = np.split(by_label, np.searchsorted(home[by_label], np.arange(1, count)))
        found: dict[bytes, Form] = {}
        for group, mine in zip(groups, rows, strict=True):
            at = np.sort(group)
            neurons = at[at >= self.inputs] - self.inputs
            inputs = int((at < self.inputs).sum())
            part = Form(self.reads.take(neurons, at), self.output.take(mine, at), inputs, self.reach)
            found.setdefault(_key(part), part)
        return list(found.values())


def _home(rows: sparse.csr_array, labels: Array) -> Array:
    """The label of each row's first entry, or 0 for a row of zeros."""
    filled = np.diff(rows.indptr) > 0
    home = np.zeros(rows.shape[0], np.int64)
    home[filled] = labels[rows.indices[rows.indptr[:-1][filled]]]
    return home


def _key(form: Form) -> bytes:
    parts = [part.toarray() for m in (form.reads, form.output) for part in (m.value, m.size)]
    return b"".join([repr((form.inputs, *(p.shape for p in parts))).encode(), *(p.tobytes() for p in parts)])


class Quadratic:
    """The form of a system with slopes, given bounds `along` of |v_k| / |w_0| for each of its operators."""

    def __init__(self, system: System, slopes: Slopes, along: Sequence[float]) -> None:
        self.finite = all(np.isfinite(slopes[e]).all() for e in system.nodes) and bool(np.isfinite(along).all())
        self.layers: list[int] = []  # of every neuron, the number of its operator
        if self.finite:
            self.form = self._form(system, slopes, along)

    def _form(self, system: System, slopes: Slopes, along: Sequence[float]) -> Form:
        middles, radii = {}, {}
        for e in system.nodes:
            low, high = slopes[e]
            middles[e] = 0.5 * low + 0.5 * high
            apart = np.maximum(high - middles[e], middles[e] - low)
            exact = (middles[e] - apart == low) & (middles[e] + apart == high) & (apart == 0.5 * (high - low))
            radii[e] = np.where(exact, apart, next_up(apart))
        active = {e: np.flatnonzero(radii[e] > 0) for e in system.nodes}
        d, count = system.sizes[0], system.sizes[0] + sum(len(a) for a in active.values())
        sources = [Matrix(sparse.eye_array(d, count, format="csr"))]
        reads, begin = [], d
        for k, e in enumerate(system.nodes):
            v = _of(system.read[k], sources, (system.sizes[k + 1], count))
            at = active[e]
            own = sparse.csr_array((radii[e][at], (at, begin + np.arange(len(at)))), v.shape)
            sources.append(v.rows_times(middles[e]) + Matrix(own))
            reads.append(v.take(at))
            self.layers += [k] * len(at)
            begin += len(at)
        rows = next(iter(system.output.values())).shape[0] if system.output else 0
        output = _of(system.output, sources, (rows, count))
        reach = np.sqrt(inflate(np.square(np.asarray(along)).sum(), len(along)))
        joined = stacked(reads) if reads else Matrix(sparse.csr_array((0, count)))
        return Form(joined, output, d, float(inflate(reach, 2)))

    def best(self) -> float:
        """A bound of the Lipschitz constant from guessed multipliers; inf if none is found, or it is too large."""
        if not self.finite:
            return float("inf")
        forms = self.form.components()
        if any(f.inputs + f.count > DENSE for f in forms):
            return float("inf")
        return max(form.best() for form in forms)


def _of(terms: Terms, sources: Sequence[Matrix], shape: tuple[int, int]) -> Matrix:
    """The terms as one matrix of u."""
    found = Matrix(sparse.csr_array(shape))
    for s, matrix in terms.items():
        part = matrix @ sources[s]
        found = part if not found.value.nnz and found.error is None else found + part
    return found
