"""An upper bound of a convolution's spectral norm from its Fourier symbol, for images too large for the Gram matrix.

On a torus with at least as many places as the kernel can meet, the circular convolution of an image, zero where it was
padded, holds the padded convolution's result among its own: its norm, the largest of the symbol's over the torus's
frequencies (Sedghi, Gupta & Long 2019, theorem 6), is an upper bound, near to the norm for images much larger than the
kernel. A stride s first turns the s places of each axis that follow one another into channels.
"""

from __future__ import annotations

from math import prod

import numpy as np

from certify.graph import ops
from certify.numerics import UNIT, exact, gamma, inflate

Array = np.ndarray

TRIGONOMETRY = 64 * UNIT
"""More than numpy's sine and cosine, of an argument below 2 pi that was rounded, are off."""

CHUNK = 1 << 22
"""Complex numbers that are handled at once."""


def circular_norm(op: ops.Conv, shape: tuple[int, ...]) -> float:
    """At least the spectral norm of the convolution, whose result has the spatial `shape`, with zeros around.

    Sound if numpy's sine and cosine are as exact as TRIGONOMETRY says; the rest is rounded outward.
    """
    taps, shifts = _phases(op)
    sizes = [n + int(s.max()) - int(s.min()) for n, s in zip(shape, shifts.T, strict=True)]
    frequencies = np.stack(np.meshgrid(*(np.arange(n) for n in sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    step = max(1, CHUNK // (len(shifts) + 4 * taps[0].size // taps.shape[1]))
    worst = 0.0
    for group in np.moveaxis(taps, 1, 0):
        size = float(inflate(np.sqrt(inflate(np.square(np.abs(group).sum(0)).sum(), group.size)), 8))
        for first in range(0, len(frequencies), step):
            turns = (frequencies[first : first + step, None] * shifts % sizes) / np.array(sizes, float)
            phase = np.exp(2j * np.pi * turns.sum(-1))  # (F, J)
            symbol = np.tensordot(phase, group, 1)  # (F, out, in)
            error = 2 * (gamma(4 * len(shifts) + 16) + TRIGONOMETRY * len(sizes)) * size
            worst = max(worst, float(inflate(largest_singular_value(symbol) + inflate(error, 8), 4)))
    return worst


def _phases(op: ops.Conv) -> tuple[Array, Array]:
    """The kernel of stride 1 on s-fold channels: taps (J, groups, out, in s^k), and their shifts (J, k)."""
    weight, dims = exact(op.weight), len(op.stride)
    out, channels = weight.shape[0] // op.groups, weight.shape[1]
    found: dict[tuple[int, ...], Array] = {}
    for at in np.ndindex(*weight.shape[2:]):
        places = [k * d for k, d in zip(at, op.dilation, strict=True)]
        shift = tuple(p // s for p, s in zip(places, op.stride, strict=True))
        phase = int(np.ravel_multi_index([p % s for p, s in zip(places, op.stride, strict=True)], op.stride))
        tap = found.setdefault(shift, np.zeros((op.groups, out, channels, prod(op.stride))))
        tap[..., phase] = weight[(..., *at)].reshape(op.groups, out, channels)
    taps = np.stack(list(found.values()))
    return taps.reshape(*taps.shape[:3], -1), np.array(list(found), np.int64).reshape(len(found), dims)


def largest_singular_value(matrices: Array) -> float:
    """At least the largest singular value of complex matrices (F, m, n).

    With eigenvectors V, as computed, of the Gram matrix G = V diag(w) V' + R, the largest eigenvalue of G is at most
    max(w, 0) |V|^2 + |R|, where |V|^2 <= 1 + |V' V - 1|; Frobenius norms bound the residuals.
    """
    small = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.conj().swapaxes(1, 2)
    count, inner = small.shape[1:]
    gram = small @ small.conj().swapaxes(1, 2)
    values, vectors = np.linalg.eigh(gram)
    back = vectors.conj().swapaxes(1, 2)
    rest = _frobenius(gram - (vectors * values[:, None]) @ back)
    defect = _frobenius(back @ vectors - np.eye(count))
    most = np.maximum(values[:, -1], 0)
    size = np.square(_frobenius(small)) + count * (np.abs(values).max(1) + 1)
    lost = gamma(8 * (count + inner) + 64) * size
    found = inflate(most * (1 + inflate(defect + gamma(8 * count + 64) * 4 * count, 4)) + rest + inflate(lost, 8), 8)
    return float(inflate(np.sqrt(found.max(initial=0.0)), 2))


def _frobenius(matrices: Array) -> Array:
    squares = np.square(matrices.real) + np.square(matrices.imag)
    return inflate(np.sqrt(inflate(squares.sum((1, 2)), 2 * matrices[0].size)), 4)
