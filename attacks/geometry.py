"""Norms, as attacks need them: nearest points, steepest steps and shortest ways, each exact within a box.

Everything is told in magnitudes along directions that are fixed, so that all numbers here are >= 0: `room` (B, d)
is how far a coordinate can go before it leaves the box, `radius` and `total` are (B, 1). The three problems are
small convex programs whose solutions fill coordinates up to a common level (KKT conditions; for the intersection
with a box: Croce & Hein 2021, section 3, and 2020, appendix A).

Masks are multiplied with where they can be: on a processor, `torch.where` with a mask of no pattern takes twenty times
as long as a product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Norm(ABC):
    """A p-norm, or the number of entries that are not zero."""

    p: float
    wide: ClassVar[bool] = True
    """Whether its problems are to be solved in float64, as running sums of sorted entries are; else the model's type
    will do."""

    def length(self, offset: Tensor) -> Tensor:
        """The norm (B,) of offset (B, d)."""
        return torch.linalg.vector_norm(offset.contiguous(), self.p, dim=-1)  # whose sums depend on the layout

    @abstractmethod
    def dual(self, weight: Tensor) -> Tensor:
        """The most (B,) that <weight, m> is over the unit ball; weight (B, d)."""

    @abstractmethod
    def nearest(self, m: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        """The point nearest to m (in the Euclidean sense) of 0 <= point <= room, norm(point) <= radius."""

    @abstractmethod
    def steepest(self, weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        """A point with the largest <weight, point> of 0 <= point <= room, norm(point) <= radius."""

    @abstractmethod
    def shortest(self, weight: Tensor, room: Tensor, total: Tensor) -> Tensor:
        """The point of least norm of 0 <= point <= room with <weight, point> = total; `room`, where there is none."""


class LInf(Norm):
    """The largest magnitude."""

    p = torch.inf
    wide = False

    def length(self, offset: Tensor) -> Tensor:
        return offset.abs().amax(-1)  # torch's own norm takes ten times as long

    def dual(self, weight: Tensor) -> Tensor:
        return weight.abs().sum(-1)

    def nearest(self, m: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return torch.minimum(torch.minimum(m, room), radius)

    def steepest(self, weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return torch.where(weight > 0, torch.minimum(room, radius), 0)

    def shortest(self, weight: Tensor, room: Tensor, total: Tensor) -> Tensor:
        return _filled((weight > 0).to(room.dtype), level(weight, weight * room, total), room)


class L2(Norm):
    """The Euclidean norm."""

    p = 2.0
    wide = False

    def length(self, offset: Tensor) -> Tensor:
        if offset.dtype == torch.float64:  # in which torch's own takes long
            length = offset.contiguous().square().sum(-1).sqrt()
            odd = (length < 1e-140) | (length > 1e140)  # entry by entry: what else is in the batch changes nothing
            return torch.where(odd, super().length(offset), length) if bool(odd.any()) else length
        return super().length(offset)

    def dual(self, weight: Tensor) -> Tensor:
        return self.length(weight)

    def nearest(self, m: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        inside = torch.minimum(m, room)
        length = self.length(inside).unsqueeze(-1)
        if not bool((length > radius).any()):
            return inside
        largest = _largest(m)
        part = (radius / length.clamp_min(torch.finfo(m.dtype).tiny)).clamp_max(1)  # too much, if anything
        t = self._level(m / largest, room, radius, (part * largest).square())
        return _filled(m, torch.where(length > radius, t / largest, 1), room)

    def steepest(self, weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        weight = weight / _largest(weight)
        return _filled(weight, self._level(weight, room, radius), room)

    def shortest(self, weight: Tensor, room: Tensor, total: Tensor) -> Tensor:
        most = _largest(weight)
        weight = weight / most
        return _filled(weight, level(weight.square(), weight * room, total / most), room)

    def _level(self, weight: Tensor, room: Tensor, radius: Tensor, above: Tensor | None = None) -> Tensor:
        """The t (B, 1) with norm(min(t weight, room)) = radius."""
        t = level(weight.square(), room.square(), radius.square(), above)
        return torch.where(t < torch.finfo(t.dtype).max, t.sqrt(), t)


class L1(Norm):
    """The sum of magnitudes."""

    p = 1.0

    def dual(self, weight: Tensor) -> Tensor:
        return weight.abs().amax(-1)

    def nearest(self, m: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        inside = torch.minimum(m, room)
        out = inside.sum(-1, keepdim=True) > radius
        if not bool(out.any()):
            return inside
        kinks = torch.cat([m, (m - room).clamp_min(0)], -1)  # below m an entry is on, below m - room it is full
        change = torch.cat([torch.ones_like(m), -torch.ones_like(m)], -1)
        kinks, order = kinks.sort(-1, descending=True)
        active = change.gather(-1, order).cumsum(-1)
        below = torch.cat([kinks[:, 1:], torch.zeros_like(kinks[:, :1])], -1)
        spent = (active * (kinks - below)).cumsum(-1)  # at the lower end of each piece
        piece = (spent < radius).sum(-1, keepdim=True).clamp_max(spent.shape[-1] - 1)
        over = (spent.gather(-1, piece) - radius).clamp_min(0)
        shrink = below.gather(-1, piece) + over / active.gather(-1, piece).clamp_min(1)
        return torch.where(out, torch.minimum((m - shrink).clamp_min(0), room), inside)

    def steepest(self, weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return _spend(weight, torch.where(weight > 0, room, 0), torch.ones_like(room), radius)

    def shortest(self, weight: Tensor, room: Tensor, total: Tensor) -> Tensor:
        return _spend(weight, torch.where(weight > 0, room, 0), weight, total)


class L0(Norm):
    """How many entries are not zero; a radius is rounded down to a whole number."""

    p = 0.0

    def dual(self, weight: Tensor) -> Tensor:
        return weight.abs().amax(-1)

    def nearest(self, m: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        inside = torch.minimum(m, room)
        return torch.where(_first(m.square() - (m - inside).square(), radius), inside, 0)

    def steepest(self, weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        most = torch.finfo(room.dtype).max ** 0.5
        return torch.where(_first(weight * room.clamp_max(most), radius), room, 0)

    def shortest(self, weight: Tensor, room: Tensor, total: Tensor) -> Tensor:
        gain = weight * room
        return torch.where(weight > 0, _spend(gain, room, weight, total), 0)


def level(price: Tensor, most: Tensor, total: Tensor, above: Tensor | None = None) -> Tensor:
    """The t (B, 1) with sum of min(t price, most) = total; the largest number where nothing is enough.

    The sum is concave in t, so that Newton's method never steps beyond the solution, wherever it starts, and ends
    after finitely many pieces; it starts at 0, or at `above`, which must not be less than the solution.
    """
    info = torch.finfo(total.dtype)
    t = torch.zeros_like(total) if above is None else above
    for i in range(most.shape[-1] + 1):
        wanted = t * price
        slope = (price * (most - wanted).sign().clamp_min(0)).sum(-1, keepdim=True)
        missing = total - torch.minimum(wanted, most).sum(-1, keepdim=True)
        rise = torch.where(missing == 0, 0, missing / slope)  # infinite where no slope is left
        following = (t + rise).clamp(0, info.max)
        if i == 0 and above is not None:
            t = following
            continue
        moved = following > t * (1 + 8 * info.eps)
        if not bool(moved.any()):
            break
        t = torch.where(moved, following, t)  # an entry that has arrived stays, whatever its batch does
    return t


def _filled(rate: Tensor, t: Tensor, room: Tensor) -> Tensor:
    """min(t rate, room)."""
    return torch.minimum(rate * t, room)


def _largest(weight: Tensor) -> Tensor:
    return weight.amax(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)


def _spend(value: Tensor, room: Tensor, price: Tensor, total: Tensor) -> Tensor:
    """Fill entries up to their room in order of falling value, until sum of price * entry = total."""
    order = value.argsort(dim=-1, descending=True, stable=True)
    room, price = room.gather(-1, order), price.gather(-1, order)
    cost = price * room
    left = total - (cost.cumsum(-1) - cost)
    spent = torch.where(left >= cost, room, (left / price.clamp_min(torch.finfo(price.dtype).tiny)).clamp_min(0))
    return torch.zeros_like(room).scatter_(-1, order, torch.minimum(spent, room))


def _first(gain: Tensor, count: Tensor) -> Tensor:
    """Which entries are among the `count` (B, 1) with the largest positive gains."""
    rank = gain.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return (rank < count.floor()) & (gain > 0)


NORMS: dict[float, Norm] = {norm.p: norm for norm in (LInf(), L2(), L1(), L0())}
"""By what is usually written: inf, 2, 1, 0."""
