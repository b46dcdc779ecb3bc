"""The products and the elementwise passes of bound propagation, compiled.

What they do not cover, torch does: other types and devices, tensors that need a gradient, matrices that leave
the caches, and runs in which torch has several threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certify.native.library import Ascent, Field, Followed, Kinked, Library, Relaxed, library
from certify.native.weights import Panels

LARGEST = 1 << 20
"""Entries of a matrix, beyond which blocking as the libraries' own products do would be needed."""

FEWEST = 8
"""Rows, below which a call costs more than it saves."""


def compiled(*tensors: Tensor) -> Library | None:
    """The kernels, if all tensors are of the kind that they take."""
    if torch.get_num_threads() != 1:
        return None
    for t in tensors:
        if t.dtype != torch.float32 or t.device.type != "cpu" or (t.requires_grad and torch.is_grad_enabled()):
            return None
    return library()


def covers(a: Tensor, weight: Tensor) -> bool:
    """Whether a product of a (..., rows) with this matrix, either way round, is for the kernels."""
    few = a.numel() < FEWEST * a.shape[-1]
    return not few and weight.numel() <= LARGEST and compiled(a, weight) is not None


def multiply(a: Tensor, panels: Panels, bias: Tensor | None = None) -> Tensor:
    """a M + bias: a (..., rows) that is covered, M (rows, columns), bias (columns,) -> (..., columns)."""
    a = a.contiguous()
    out = a.new_empty(*a.shape[:-1], panels.columns)
    start = None if bias is None else bias.data_ptr()
    library().multiply(a.numel() // panels.rows, a.data_ptr(), panels.matrix, start, out.data_ptr())
    return out


def relax(a: Tensor, lines: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Coefficients a (B or 1, S, *N) of values that lines enclose -> coefficients (B, S, *N) of what the lines
    are of, and what they add to the constant (B, S). None where the kernels do not cover it.

    `lines` are lower slope, lower shift, upper slope and upper shift, each (B or 1, S or 1, *N), or a plain
    zero for the lower shift.
    """
    kernels = compiled(a, *lines)
    if kernels is None or a.dim() < 2:
        return None
    given = _given(lines)
    batch, shape = max(t.shape[0] for t in (a, *given)), a.shape[1:]
    rows = [rows_of(t, shape) for t in (a, *given)]
    out, constant = a.new_empty(batch, *shape), a.new_empty(batch, shape[0])
    sizes = (batch, shape[0], rows[0].shape[2])
    kernels.call("relax", Relaxed(*sizes, *fields_of(rows, 5), out.data_ptr(), constant.data_ptr()))
    return out, constant


def follow(z: Tensor, a: Tensor, lines: Sequence[Tensor]) -> Tensor | None:
    """Values z (B or 1, S, *N) through the upper line where a (B or 1, S, *N) is negative, else through the lower
    one: (B, S, *N). None where the kernels do not cover it; `lines` are as for `relax`."""
    kernels = compiled(z, a, *lines)
    if kernels is None or z.dim() < 2:
        return None
    given = _given(lines)
    batch, shape = max(t.shape[0] for t in (z, a, *given)), z.shape[1:]
    rows = [rows_of(t, shape) for t in (z, a, *given)]
    out = z.new_empty(batch, *shape)
    kernels.call("follow", Followed(batch, shape[0], rows[0].shape[2], *fields_of(rows, 6), out.data_ptr()))
    return out


def kinked(lower: Tensor, upper: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """The lower slope, upper slope and upper shift of lines around max(x, 0) on [lower, upper] (B, *N), in the shapes
    that `certify.relax.elementwise` gives them; `slope` is None, (B or 1, *N) or (B or 1, S, *N). None where the
    kernels do not cover it."""
    given = (lower, upper) if slope is None else (lower, upper, slope)
    kernels = compiled(*given)
    if kernels is None or lower.dim() < 2 or lower.shape != upper.shape or not lower.numel():
        return None
    lower, upper = lower.contiguous(), upper.contiguous()
    boxes, shape = lower.shape[0], lower.shape[1:]
    rows, domains, field = 1, boxes, Field(None, 0, 0)
    across = slope is not None and slope.dim() > lower.dim()
    if slope is not None:
        rows = slope.shape[1] if across else 1
        domains = max(boxes, slope.shape[0])
        if slope.shape != (slope.shape[0], *((rows,) if across else ()), *shape):
            return None
        if boxes not in (1, domains) or slope.shape[0] not in (1, domains):
            return None
        slope = slope.contiguous()
        field = fields_of([slope.reshape(slope.shape[0], rows, shape.numel())], 1)[0]
    one = (boxes, 1, *shape) if across else (boxes, *shape)
    low = lower.new_empty((domains, rows, *shape) if across else (domains, *shape))
    high, shift = lower.new_empty(one), lower.new_empty(one)
    found = (t.data_ptr() for t in (low, high, shift))
    sizes = (domains, boxes, rows, shape.numel())
    kernels.call("kinked", Kinked(*sizes, lower.data_ptr(), upper.data_ptr(), field, *found))
    return low, high, shift


def ascend(parameter: Tensor, slope: Tensor, mean: Tensor, square: Tensor, active: Tensor, rate: float) -> bool:
    """One step of Adam uphill, in place, where `active` (B, S); the others are (B, S, *N). False, and nothing done,
    where the kernels do not cover it."""
    kernels = compiled(parameter, slope, mean, square)
    slope = slope.expand_as(parameter).contiguous()
    if kernels is None or not all(t.is_contiguous() for t in (parameter, mean, square)):
        return False
    active = active.contiguous()
    moved = (t.data_ptr() for t in (slope, parameter, mean, square))
    rows = active.numel()
    kernels.call("ascend", Ascent(rows, parameter.numel() // rows, active.data_ptr(), rate, *moved))
    return True


def _given(lines: Sequence[Tensor]) -> list[Tensor]:
    """The lines in the kernels' order; a lower shift that is zero everywhere is left out."""
    lower_slope, lower_shift, upper_slope, upper_shift = lines
    return [lower_slope, upper_slope, upper_shift, *([lower_shift] if lower_shift.dim() else [])]


def rows_of(t: Tensor, shape: torch.Size) -> Tensor:
    """t (B or 1, S or 1, *N or what broadcasts to it) as (B or 1, S or 1, n), the last axis in order."""
    if t.shape[2:] != shape[1:]:
        t = t.expand(*t.shape[:2], *shape[1:])
    t = t.reshape(*t.shape[:2], shape[1:].numel())
    return t if t.stride(2) == 1 else t.contiguous()


def fields_of(rows: list[Tensor], count: int) -> list[Field]:
    """The rows (B or 1, S or 1, n), and null for what is missing up to `count`."""
    found = []
    for t in rows:
        (domains, rows_each, _), (domain, row, _) = t.shape, t.stride()
        found.append(Field(t.data_ptr(), 0 if domains == 1 else domain, 0 if rows_each == 1 else row))
    return found + [Field(None, 0, 0)] * (count - len(found))


def field_of(t: Tensor, shape: torch.Size) -> tuple[Field, Tensor]:
    """t (B or 1, S or 1, *N or what broadcasts to it) as a field, and the tensor that it points into; shape (S, *N)."""
    if t.shape[2:] != shape[1:] or not t.is_contiguous():
        t = rows_of(t, shape).contiguous()
    domains, rows = t.shape[0], t.shape[1]
    size = shape[1:].numel()
    return Field(t.data_ptr(), 0 if domains == 1 else rows * size, 0 if rows == 1 else size), t
