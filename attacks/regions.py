"""Threat models: what may become of an input. Batches of B regions of flattened inputs (B, d).

A region says where points may be and how far one step goes there; attacks ask it and know no norms. Projections
end exactly inside: what rounding has put outside, as float64 tells, is pulled toward the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from attacks.geometry import L1, NORMS, LInf, Norm

SAFE = 1 - 1e-12
"""Part of a radius that is used, so that rounding in float64 cannot exceed it."""

ROUNDED = 8
"""Roundings in the model's type that a projection keeps away from the radius, which spares most of the pulling."""

SPREAD = 0.05
"""Part of the coordinates among which an L1 step is divided (SLIDE: Tramer & Boneh 2019, section 5)."""

Step = float | Tensor
"""A fraction of the radius: a number, or one for each entry, (B, 1)."""


@dataclass(frozen=True, eq=False)
class Ball:
    """All x with norm(x - center) <= radius and lower <= x <= upper, the data range; make one with `ball`.

    center, lower, upper (B, d) in the model's type, lower <= center <= upper; radius (B,) float64.
    """

    center: Tensor
    radius: Tensor
    norm: Norm
    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.center)

    def select(self, index: Tensor) -> Ball:
        """The regions at `index`, in that order."""
        chosen = Ball(self.center[index], self.radius[index], self.norm, self.lower[index], self.upper[index])
        if "bounds" in vars(self):  # costly to find again for every batch that shrinks
            vars(chosen)["bounds"] = tuple(bound[index] for bound in self.bounds)
        return chosen

    def resized(self, radius: Tensor) -> Ball:
        """The same balls with other radii (B,)."""
        return replace(self, radius=radius.double())

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest box (B, d) around each region; for L-infinity, the region itself, rounded inward."""
        if self.norm.p == 0:
            return self.lower, self.upper
        reach = self.radius.unsqueeze(-1) * SAFE
        center = self.center.double()
        low, high = (_toward(self.center, center + sign * reach) for sign in (-1, 1))
        return torch.maximum(self.lower, low), torch.minimum(self.upper, high)

    def start(self) -> Tensor:
        """The centres (B, d)."""
        return self.center

    def sample(self, generator: torch.Generator) -> Tensor:
        """A random point (B, d): of L-infinity uniform, otherwise on a random way to the edge."""
        noise = torch.rand(self.center.shape, generator=generator, dtype=torch.float64).to(self.center.device)
        low, high = self.bounds
        if isinstance(self.norm, LInf):
            return (low + noise.to(low.dtype) * (high - low)).clamp(low, high)
        direction = self.wide(torch.erfinv((2 * noise - 1).clamp(-1 + 1e-12, 1 - 1e-12)))
        part = self.wide(torch.rand(len(self), 1, generator=generator, dtype=torch.float64)).to(self.center.device)
        far = self.norm.steepest(direction.abs(), self._room(self.center, direction), self._reach)
        return self._settled(part.sqrt() * far * direction.sign())

    def wide(self, t: Tensor) -> Tensor:
        """t in the type in which the norm's problems are solved: the model's, or float64."""
        return t.double() if self.norm.wide else t.to(self.center.dtype)

    def distance(self, x: Tensor) -> Tensor:
        """How far x (B, d) is from the centres, (B,) float64."""
        return self.norm.length(x.double() - self.center.double())

    def contains(self, x: Tensor) -> Tensor:
        """(B,): whether x (B, d) lies in its region; in float64, without a tolerance. False for NaN."""
        boxed = ((x >= self.lower) & (x <= self.upper)).all(-1)
        return boxed & (self.distance(x) <= self.radius)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points (B, d) of the regions."""
        if isinstance(self.norm, LInf):
            return x.clamp(*self.bounds)
        offset = self.wide(x) - self.wide(self.center)
        room = self._room(self.center, offset)
        return self._settled(offset.sign() * self.norm.nearest(offset.abs(), room, self._reach))

    def ascend(self, x: Tensor, gradient: Tensor, step: Step) -> Tensor:
        """x (B, d) moved by the steepest step of this fraction of the radius, and projected."""
        length = self.wide(step * self.radius.unsqueeze(-1))
        if isinstance(self.norm, LInf):
            return self.project(x + gradient.sign() * length)
        room = self._room(x, gradient)
        if isinstance(self.norm, L1):
            room = torch.minimum(room, length / max(1, round(SPREAD * x.shape[-1])))
        elif self.norm.p == 0:
            length = length.ceil()
        move = self.norm.steepest(self.wide(gradient.abs()), room, length)
        return self.project((self.wide(x) + gradient.sign() * move).to(x.dtype))

    def crossing(self, x: Tensor, gradient: Tensor, margin: Tensor) -> Tensor:
        """The shortest way (B, d), in the `wide` type, within the box from x to where the margin (B,), if it were
        linear with this gradient, would be zero; away from the hyperplane if it is negative."""
        direction = self.wide(gradient) * torch.where(margin < 0, 1.0, -1.0).to(x.dtype).unsqueeze(-1)
        room = self._room(x, direction)
        return direction.sign() * self.norm.shortest(direction.abs(), room, self.wide(margin.abs()).unsqueeze(-1))

    @cached_property
    def _reach(self) -> Tensor:
        """The radii (B, 1) that projections aim for."""
        safe = SAFE if self.norm.wide else 1 - ROUNDED * torch.finfo(self.center.dtype).eps
        return self.wide(self.radius.unsqueeze(-1) * safe)

    def _room(self, x: Tensor, direction: Tensor) -> Tensor:
        """How far each coordinate can go from x before it leaves the data range; 0 where there is no direction."""
        far = direction.sign() * torch.finfo(direction.dtype).max
        x = self.wide(x)
        return self.wide(far).clamp(self.wide(self.lower) - x, self.wide(self.upper) - x).abs()

    def _settled(self, offset: Tensor) -> Tensor:
        """center + offset in the model's type, pulled toward the centre as far as it lies outside."""
        if self.norm.wide:
            return _toward(self.center, self.center.double() + offset).clamp(self.lower, self.upper)
        x = (self.center + offset).clamp(self.lower, self.upper)
        slack = torch.finfo(x.dtype).eps
        while bool((out := (far := self.distance(x)) > self.radius).any()):
            part = torch.where(out, self.radius / far * (1 - slack), 1).unsqueeze(-1)
            pulled = self.center.double() + part * (x.double() - self.center.double())
            x = torch.where(out.unsqueeze(-1), pulled.to(x.dtype).clamp(self.lower, self.upper), x)
            slack = min(2 * slack, 1.0)
        return x


@dataclass(frozen=True, eq=False)
class Box:
    """All x with lower <= x <= upper, (B, d): of parameters of transformations, say."""

    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def select(self, index: Tensor) -> Box:
        """The regions at `index`, in that order."""
        return Box(self.lower[index], self.upper[index])

    def start(self) -> Tensor:
        """The middles (B, d)."""
        return ((self.lower + self.upper) / 2).clamp(self.lower, self.upper)

    def sample(self, generator: torch.Generator) -> Tensor:
        """A random point (B, d), uniform."""
        noise = torch.rand(self.lower.shape, generator=generator, dtype=self.lower.dtype).to(self.lower.device)
        return self.project(self.lower + noise * (self.upper - self.lower))

    def contains(self, x: Tensor) -> Tensor:
        """(B,): whether x (B, d) lies in its region."""
        return ((x >= self.lower) & (x <= self.upper)).all(-1)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points (B, d)."""
        return x.clamp(self.lower, self.upper)

    def ascend(self, x: Tensor, gradient: Tensor, step: Step) -> Tensor:
        """x (B, d) moved by this fraction of the half width along the gradient's sign, and projected."""
        return self.project(x + step * gradient.sign() * (self.upper - self.lower) / 2)


@dataclass(frozen=True, eq=False)
class Joint:
    """Points of several regions at once, one after the other in x (B, d1 + d2 + ...)."""

    parts: tuple[Ball | Box, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts of x, each (B, d_i)."""
        return x.split([part.start().shape[-1] for part in self.parts], -1)

    def select(self, index: Tensor) -> Joint:
        """The regions at `index`, in that order."""
        return Joint(tuple(part.select(index) for part in self.parts))

    def start(self) -> Tensor:
        """The middles."""
        return torch.cat([part.start() for part in self.parts], -1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Random points."""
        return torch.cat([part.sample(generator) for part in self.parts], -1)

    def contains(self, x: Tensor) -> Tensor:
        """(B,): whether every part of x lies in its region."""
        inside = [part.contains(own) for part, own in zip(self.parts, self.split(x), strict=True)]
        return torch.stack(inside).all(0)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points."""
        return torch.cat([part.project(own) for part, own in zip(self.parts, self.split(x), strict=True)], -1)

    def ascend(self, x: Tensor, gradient: Tensor, step: Step) -> Tensor:
        """Every part moved uphill in its own region."""
        triples = zip(self.parts, self.split(x), self.split(gradient), strict=True)
        return torch.cat([part.ascend(own, slope, step) for part, own, slope in triples], -1)


def ball(
    center: Tensor,
    radius: float | Sequence[float] | Tensor,
    norm: float = torch.inf,
    within: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
) -> Ball:
    """Balls around inputs center (B, ...), flattened: norm inf, 2, 1 or 0; one radius, or one for each.

    `within` is the data range, numbers or tensors of the centres' shape; infinite numbers stand for none. An L0
    radius is a number of entries. Raises ValueError for other norms, for radii that are negative or not numbers, for
    centres outside the range, and for half precision, in which small changes are lost.
    """
    center = center.detach().flatten(1)
    refuse_half(center)
    if norm not in NORMS:
        raise ValueError(f"norm {norm} is not known: use inf, 2, 1 or 0")
    radii = torch.as_tensor(radius, dtype=torch.float64, device=center.device).expand(len(center)).clone()
    if not bool((radii >= 0).all()):
        raise ValueError(f"radii must not be negative, and be numbers: {radii.tolist()[:5]}")
    low, high = (
        torch.as_tensor(b, dtype=center.dtype, device=center.device).expand_as(center)
        if not isinstance(b, Tensor) or b.dim() == 0
        else b.to(center).reshape(-1, center.shape[1]).expand_as(center)
        for b in within
    )
    if not bool(((center >= low) & (center <= high)).all()):
        raise ValueError("an input lies outside the data range, or is not a number: check the scaling, or `within`")
    if norm == 0 and not bool((low.isfinite() & high.isfinite()).all()):
        raise ValueError("an L0 ball needs a data range: an entry that may change may be anything")
    return Ball(center, radii, NORMS[norm], low, high)


def refuse_half(x: Tensor) -> None:
    """Raises ValueError unless x is of float32 or float64."""
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"attacks need inputs of float32 or float64, not {x.dtype}: use x.float()")


def _toward(center: Tensor, wanted: Tensor) -> Tensor:
    """`wanted` (float64) in the centre's type, rounded toward the centre."""
    x = wanted.to(center.dtype)
    middle = center.double()
    return torch.where((x.double() - middle).abs() > (wanted - middle).abs(), torch.nextafter(x, center), x)
