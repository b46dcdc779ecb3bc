"""Planes around products of two variables: McCormick's (1976), mixed by a parameter.

Over a box, x y is above l_y x + l_x y - l_x l_y and u_y x + u_x y - u_x u_y, and so above every mixture of the two;
likewise below u_y x + l_x y - l_x u_y and l_y x + u_x y - u_x l_y. An operator of products reads one tensor that holds
all factors, so its planes are lines with two slopes, and everything that says where an operator's argument comes from
holds for it as for elementwise ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certify.graph import ops


def flattened(x: Tensor, lead: int) -> Tensor:
    """x with the axes behind the first `lead` joined into one."""
    return x.reshape(*x.shape[:lead], x.shape[lead:].numel())  # which -1 could not name where some axis is empty


@dataclass(frozen=True, eq=False)
class Factors:
    """Which entries of an argument (*shape), flattened, are the left and the right factor of each product (*N)."""

    left: Tensor
    right: Tensor
    shape: torch.Size

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Left and right factors (*lead, *N) of x (*lead, *shape)."""
        entries = flattened(x, x.dim() - len(self.shape))
        return entries[..., self.left], entries[..., self.right]

    def gathered(self, left: Tensor, right: Tensor) -> Tensor:
        """What (*lead, *N) belongs to the factors, summed for every entry of the argument: (*lead, *shape)."""
        lead = left.dim() - self.left.dim()
        total = left.new_zeros(*left.shape[:lead], self.shape.numel())
        for index, part in ((self.left, left), (self.right, right)):
            total.index_add_(lead, index.flatten(), flattened(part, lead))
        return total.reshape(*left.shape[:lead], *self.shape)


@dataclass(frozen=True, eq=False)
class Planes:
    """lower_left * x + lower_right * y + lower_shift <= x y <= ... for all x, y of the box; each (B, 1 or S, *N)."""

    factors: Factors
    lower_left: Tensor
    lower_right: Tensor
    lower_shift: Tensor
    upper_left: Tensor
    upper_right: Tensor
    upper_shift: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def select(self, domains: Tensor) -> Planes:
        """The planes of `domains` (positions); a tensor of one entry belongs to all of them."""
        return replace(self, **{k: t[domains] if t.shape[0] > 1 else t for k, t in self.tensors.items()})

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients a (B or 1, S, *N) of products -> those of their argument (B, S, *shape), and what the shifts add
        (B, S)."""
        negative = a.clamp_max(0)
        positive = a - negative
        shift = positive * self.lower_shift + negative * self.upper_shift
        left = positive * self.lower_left + negative * self.upper_left
        right = positive * self.lower_right + negative * self.upper_right
        return self.factors.gathered(left, right), flattened(shift, 2).sum(-1)

    def follow(self, z: Tensor, a: Tensor) -> Tensor:
        """Arguments z (B, S, *shape) through the upper planes where a (B, S, *N) is negative, else the lower ones."""
        x, y = self.factors.of(z)
        above = self.upper_left * x + self.upper_right * y + self.upper_shift
        return torch.where(a < 0, above, self.lower_left * x + self.lower_right * y + self.lower_shift)

    def gap(self, z: Tensor) -> Tensor:
        """The distance (B, S, *N) between the planes at arguments z (B, S, *shape)."""
        x, y = self.factors.of(z)
        across = (self.upper_left - self.lower_left) * x + (self.upper_right - self.lower_right) * y
        return across + self.upper_shift - self.lower_shift

    def charged(self, amount: Tensor) -> Tensor:
        """What products (B, S, *N) cost, put down to both factors: (B, S, *shape)."""
        return self.factors.gathered(amount, amount)


def factors(op: ops.Product, argument: Tensor, lead: int) -> Factors:
    """The factors of an argument (*lead, *shape)."""
    left, right = (torch.as_tensor(index, device=argument.device) for index in (op.left, op.right))
    return Factors(left, right, argument.shape[lead:])


def corners(op: ops.Product, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest product (B, *N) over boxes (B, *shape): at two of the four corners. Where a box is not
    bounded, 0 times its end is 0: it stands for finite values."""
    which = factors(op, lower, 1)
    (low, other_low), (high, other_high) = which.of(lower), which.of(upper)
    found = torch.stack([low * other_low, low * other_high, high * other_low, high * other_high])
    if not bool(found.isfinite().all()):
        told = ~(low.isnan() | high.isnan() | other_low.isnan() | other_high.isnan())
        found = torch.where(found.isnan() & told, 0, found)
    return found.amin(0), found.amax(0)


class Mixture:
    """The planes over boxes (B, 1, *shape) by parameter t (B, S, *N): 0 and 1 are McCormick's, 1/2 has the least
    distance from the product anywhere."""

    def __init__(self, op: ops.Product, lower: Tensor, upper: Tensor) -> None:
        most = torch.finfo(lower.dtype).max ** 0.5 / 4
        self.factors = factors(op, lower, 2)
        lower, upper = lower.clamp(-most, most), upper.clamp(-most, most)
        (self.low, self.other_low), (self.high, self.other_high) = self.factors.of(lower), self.factors.of(upper)

    def initial(self) -> Tensor:
        return torch.full_like(self.low, 0.5)

    def lines(self, t: Tensor) -> Planes:
        low, high, other_low, other_high = self.low, self.high, self.other_low, self.other_high
        right = torch.lerp(low, high, t)
        return Planes(
            self.factors,
            torch.lerp(other_low, other_high, t),
            right,
            -torch.lerp(low * other_low, high * other_high, t),
            torch.lerp(other_high, other_low, t),
            right,
            -torch.lerp(low * other_high, high * other_low, t),
        )

    def rate(self, t: Tensor, z: Tensor, up: Tensor) -> Tensor:
        """How the value at z (B, S, *shape) of the upper plane, where `up`, else of the lower one changes with t."""
        x, y = self.factors.of(z)
        width, other = self.high - self.low, self.other_high - self.other_low
        above = -other * x + width * y - (self.high * self.other_low - self.low * self.other_high)
        below = other * x + width * y - (self.high * self.other_high - self.low * self.other_low)
        return torch.where(up, above, below)

    def select(self, domains: Tensor) -> Mixture:
        if len(self.low) == 1:
            return self
        chosen = object.__new__(Mixture)
        chosen.factors = self.factors
        for name in ("low", "other_low", "high", "other_high"):
            setattr(chosen, name, getattr(self, name)[domains])
        return chosen


def planes(op: ops.Product, lower: Tensor, upper: Tensor, t: Tensor | None) -> Planes:
    """Planes over boxes (B, 1, *shape) with parameters t (B, S, *N), 1/2 for NaN and None."""
    mixture = Mixture(op, lower, upper)
    half = mixture.initial()
    return mixture.lines(half if t is None else torch.where(t == t, t, half))
