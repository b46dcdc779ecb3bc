"""What every attack shares: the objective, the region, and one optimiser loop around a move.

An attack looks for points of a region where an objective's margin is low. It returns candidates and
claims nothing: whoever uses a point replays it on the original network.

Shape letters: `B` batch entries (one per region and restart), `d` the flattened input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""What an attack remembers between moves: tensors with one leading batch axis."""


DROP = 7 / 8
"""Part of a batch at most that still stands when the fallen are dropped; an index costs little beside a gradient."""


class Objective(Protocol):
    """What an attack lowers. Two extensions are used where an objective has them: `Guided`, `Selectable`."""

    def __call__(self, x: Tensor) -> Tensor:
        """The margin (B,) of x (B, d), differentiable: positive is safe, not positive is violated."""
        ...


@runtime_checkable
class Guided(Protocol):
    """An objective that leads the gradient by another loss, such as a sum of hinges where the margin,
    a maximum over rows, would follow only the worst one."""

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, loss), each (B,), for x (B, d): the loss is descended, the margin judges."""
        ...


@runtime_checkable
class Selectable(Protocol):
    """An objective that differs from entry to entry of its batch (labels, targets)."""

    def select(self, index: Tensor) -> Objective:
        """The objective whose entry i is this one's entry index[i]."""
        ...


class Region(Protocol):
    """A batch of input regions, as `certify.spec.inputset.InputSet`."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor) -> Region:
        """The regions at `index`, in that order."""
        ...

    def start(self) -> Tensor:
        """The middle of each region, (B, d)."""
        ...

    def sample(self, generator: torch.Generator) -> Tensor:
        """A random point of each region, (B, d)."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """The nearest points (B, d) of the regions."""
        ...

    def ascend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """x (B, d) moved uphill by `step`, a fraction of the region's half width or radius, and projected."""
        ...


class Here(NamedTuple):
    """What is known where an attack stands: x (B, d), the margin and the loss (B,) there, and the loss's gradient
    (B, d), which is finite; zeros for an attack that asks for none."""

    x: Tensor
    margin: Tensor
    loss: Tensor
    gradient: Tensor

    def select(self, index: Tensor) -> Here:
        """The entries at `index`."""
        return Here(*(t[index] for t in self))


class Result(NamedTuple):
    """The best point met in each region: x (B, d), and its margin (B,); +inf where it never was a number.

    Of an attack that looks for near points, the margin is how much farther than the radius it lies.
    """

    x: Tensor
    margin: Tensor


def never() -> bool:
    """The `stop` of an attack without a deadline."""
    return False


@dataclass(frozen=True)
class Attack(ABC):
    """Many short descents at once; a subclass says how a point moves.

    steps     moves per restart
    restarts  starting points per region: the given one (or the middle), then random ones
    seed      of the random starting points; the same seed gives the same result
    goal      a region whose margin is at most this has fallen and is left alone; -inf goes on to the end
    stop      asked before every move; true ends the attack, which returns what it has
    """

    steps: int = 20
    restarts: int = 1
    seed: int = 0
    goal: float = 0.0
    stop: Callable[[], bool] = never

    descends: ClassVar[bool] = True
    """Whether moves use gradients."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1:
            raise ValueError(f"an attack needs steps >= 0 and restarts >= 1, not {self.steps} and {self.restarts}")

    def begin(self, x: Tensor, region: Region) -> State:
        """What to remember at the starting points x (B, d)."""
        return ()

    @abstractmethod
    def move(self, i: int, here: Here, region: Region, state: State) -> tuple[Tensor, State]:
        """Points (B, d) for step i + 1, and what to remember."""

    def look(self, objective: Objective, x: Tensor, region: Region, gradient: bool) -> Here:
        """What there is to know at x (B, d), with the gradient if asked for."""
        return evaluate(objective, x, gradient)

    def worth(self, here: Here, region: Region) -> Tensor:
        """What is to be small (B,), and at most 0 where the attack has succeeded: the margin."""
        return here.margin

    @final
    def __call__(
        self, objective: Objective, region: Region, start: Tensor | None = None, groups: Tensor | None = None
    ) -> Result:
        """The best point met in each of the regions; `start` (len(region), d) replaces the regions' middles.

        Regions with the same number in `groups` (len(region),) fall together: one point is enough for all.
        """
        count = len(region)
        first = region.start() if start is None else region.project(start)
        found = Result(first.clone(), torch.full_like(first[:, 0], torch.inf))
        if not count:
            return found
        live = torch.arange(count, device=first.device)  # regions that have not fallen; R entries of each are on
        repeated = live.repeat_interleave(self.restarts)
        region, objective = region.select(repeated), choose(objective, repeated)
        x = self._starts(first, region)
        state, best = self.begin(x, region), Result(x, torch.full_like(x[:, 0], torch.inf))
        going = torch.ones_like(repeated, dtype=torch.bool)  # what has fallen stays as it is, dropped or not
        for i in range(self.steps + 1):
            here = self.look(objective, x, region, self.descends and i < self.steps)
            worth = self.worth(here, region).to(x.dtype)
            better = going & (worth < best.margin)  # false for a margin that is not a number
            best = Result(torch.where(better[:, None], x, best.x), torch.where(better, worth, best.margin))
            if i == self.steps or self.stop():
                break
            if self.goal > -torch.inf:  # or nothing falls, and no number need come from the device
                least = best.margin.view(-1, self.restarts).amin(1)
                up = standing(least, self.goal, None if groups is None else groups[live])
                left = int(up.sum())
                if not left:
                    break
                if left <= DROP * len(live):
                    self._settle(found, live, best)
                    live, entries = live[up], up.repeat_interleave(self.restarts).nonzero()[:, 0]
                    region, objective = region.select(entries), choose(objective, entries)
                    here, state = here.select(entries), tuple(s[entries] for s in state)
                    best = Result(best.x[entries], best.margin[entries])
                    up = up[up]
                going = up.repeat_interleave(self.restarts)
            x, state = self.move(i, here, region, state)
        self._settle(found, live, best)
        return found

    def _starts(self, first: Tensor, region: Region) -> Tensor:
        """Starting points (B, d): R per region, of which the first is given."""
        if self.restarts == 1:
            return first
        x = region.sample(torch.Generator().manual_seed(self.seed))
        x.view(len(first), self.restarts, -1)[:, 0] = first
        return x

    def _settle(self, found: Result, live: Tensor, best: Result) -> None:
        """Writes the best restart of each live region to the result."""
        margin, which = best.margin.view(-1, self.restarts).min(1)
        found.margin[live] = margin
        found.x[live] = best.x.view(len(live), self.restarts, -1)[torch.arange(len(live), device=live.device), which]


def standing(margin: Tensor, goal: float, groups: Tensor | None) -> Tensor:
    """(B,): which regions have not fallen, given the least margin (B,) met in each; groups as in an attack."""
    up = margin > goal
    return up if groups is None else up & ~torch.isin(groups, groups[~up])


def choose(objective: Objective, index: Tensor) -> Objective:
    """The objective of the entries at `index`."""
    return objective.select(index) if isinstance(objective, Selectable) else objective


def evaluate(objective: Objective, x: Tensor, gradient: bool) -> Here:
    """The margin and the loss (B,) at x (B, d), and if asked for the loss's gradient, zero where it is not a number."""
    with torch.set_grad_enabled(gradient):
        x = x.detach().requires_grad_(gradient)
        margin, loss = objective.guide(x) if isinstance(objective, Guided) else (objective(x),) * 2
    if not gradient or not loss.requires_grad:  # or a constant network
        x = x.detach()
        return Here(x, margin.detach(), loss.detach(), torch.zeros_like(x))
    (slope,) = torch.autograd.grad(loss.sum(), x, materialize_grads=True)
    return Here(x.detach(), margin.detach(), loss.detach(), slope.nan_to_num())
