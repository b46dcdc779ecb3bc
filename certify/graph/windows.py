"""Pooling, lowered to selections, sums and pairwise maxima.

`Window` says where a pooling window stands along each spatial axis; all functions take the builder
first and pool over the last axes of x (*lead, C, *spatial).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certify.graph.build import Array, GraphBuilder, Operand
from certify.graph.layers import along


@dataclass(frozen=True)
class Window:
    """A pooling window: one number per spatial axis each. `before` and `after` pad the two ends.

    With `ceil`, the last window may reach over the padded end, but has to start before it (in the input or
    the padding before it), as in torch and ONNX.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    def starts(self, axis: int, size: int) -> Array:
        """Where each window starts on spatial axis `axis` of `size` entries; negative in the padding."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        free, step = size + self.before[axis] + self.after[axis] - reach, self.stride[axis]
        if free < 0 or step < 1:
            raise ValueError(f"a window reaching {reach} with stride {step} does not fit an axis of {size}")
        count = (-(-free // step) if self.ceil else free // step) + 1
        if self.ceil and (count - 1) * step >= size + self.before[axis]:
            count -= 1
        return np.arange(count) * step - self.before[axis]

    def entries(self, axis: int, size: int) -> Array:
        """The places (windows, kernel) that each window covers on that axis, also outside the input."""
        return self.starts(axis, size)[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis]


def _spatial(x: Operand, window: Window) -> tuple[int, ...]:
    if len(x.shape) <= len(window.kernel):
        raise ValueError(f"a window {window.kernel} over an input of shape {x.shape}")
    return x.shape[-len(window.kernel) :]


def max_pool(b: GraphBuilder, x: Operand, window: Window) -> Operand:
    """The maximum of each window, as pairwise maxima along one axis after another, log-deep.

    Padding is never the maximum: in its place stands another entry of the same window. Raises
    ValueError if a window lies in the padding altogether.
    """
    for axis, size in enumerate(_spatial(x, window)):
        places = window.entries(axis, size)
        inside = (places >= 0) & (places < size)
        if not inside.any(1).all():
            raise ValueError("a pooling window lies in the padding altogether")
        first = places[np.arange(len(places)), inside.argmax(1)]
        x = _maximum_over(b, x, axis - len(window.kernel), np.where(inside, places, first[:, None]).T)
    return x


def _maximum_over(b: GraphBuilder, x: Operand, axis: int, places: Array) -> Operand:
    """max over t of x at places[t], places (terms, positions) along `axis`."""
    terms, count = places.shape
    if terms == 1:
        return b.select(x, axis, places[0])
    half = terms // 2
    pairs = b.maximum(b.select(x, axis, places[:half].ravel()), b.select(x, axis, places[half : 2 * half].ravel()))
    best = _maximum_over(b, pairs, axis, np.arange(half * count).reshape(half, count))
    return best if 2 * half == terms else b.maximum(best, b.select(x, axis, places[-1]))


def sum_pool(b: GraphBuilder, x: Operand, window: Window, factor: float = 1.0) -> Operand:
    """`factor` times the sum of each window, padding counted as zero: a convolution, a group per channel."""
    spatial = _spatial(x, window)
    k = len(window.kernel)
    after = []
    for axis, size in enumerate(spatial):
        places = window.entries(axis, size)
        after.append(max(int(places.max()) + 1 - size, 0))
    channels = x.shape[-k - 1]
    weight = np.full((channels, 1, *window.kernel), factor)
    return b.conv(
        x,
        weight,
        stride=window.stride,
        before=window.before,
        after=after,
        dilation=window.dilation,
        groups=channels,
    )


def avg_pool(b: GraphBuilder, x: Operand, window: Window, *, count_padding: bool = False) -> Operand:
    """The mean of each window: its sum over the number of its entries.

    With `count_padding`, padding (though not what a `ceil` window reaches beyond it) counts as entries.
    """
    counts = np.ones(())
    for axis, size in enumerate(_spatial(x, window)):
        places = window.entries(axis, size)
        low, high = (-window.before[axis], size + window.after[axis]) if count_padding else (0, size)
        counts = np.multiply.outer(counts, ((places >= low) & (places < high)).sum(1).astype(np.float64))
    if not counts.all():
        raise ValueError("a pooling window lies in the padding altogether")
    if (counts == counts.flat[0]).all():
        return sum_pool(b, x, window, 1.0 / counts.flat[0])
    return b.scale(sum_pool(b, x, window), 1.0 / counts, 0.0)


def global_avg_pool(b: GraphBuilder, x: Operand, axes: int) -> Operand:
    """The mean over the last `axes` axes, kept with size one."""
    return b.reduce_mean(x, range(-axes, 0), keepdims=True)


def global_max_pool(b: GraphBuilder, x: Operand, axes: int) -> Operand:
    """The maximum over the last `axes` axes, kept with size one."""
    return reduce_max(b, x, range(-axes, 0))


def reduce_max(b: GraphBuilder, x: Operand, axes: Sequence[int]) -> Operand:
    """The maximum over `axes`, kept with size one."""
    for axis in axes:
        x = _maximum_over(b, x, axis, np.arange(x.shape[axis])[:, None])
    return x


def even_pool(b: GraphBuilder, x: Operand, size: Sequence[int]) -> Operand:
    """The means of `size` parts of each of the last axes, as even as they can be: part i of m of n entries begins at
    floor(i n / m) and ends before ceil((i + 1) n / m), so that neighbours may share an entry (torch)."""
    for axis, m in enumerate(size, len(x.shape) - len(size)):
        n = x.shape[axis]
        part, entry = np.arange(m)[:, None], np.arange(n)
        inside = (entry >= part * n // m) & (entry < -(-(part + 1) * n // m))
        x = along(b, x, axis, inside / inside.sum(1, keepdims=True))
    return x
