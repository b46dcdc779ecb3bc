"""Attacks on classifiers by name, with the settings of their papers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

from torch import Tensor

from attacks.apgd import AutoPgd
from attacks.base import never
from attacks.boundary import HopSkipJump
from attacks.carlini import CarliniWagner
from attacks.change import Grid
from attacks.classifier import cross_entropy, dlr, margin_loss, targeted_dlr, untargeted_margin
from attacks.ensemble import EachTarget, Ensemble, Plain, Runs, auto_attack, descents, quick_ensemble
from attacks.gradient import Constant, Descent, bim, fgsm, pgd
from attacks.least import Afresh, Bisected, Closest, Sparse
from attacks.nearest import Ddn, Fab, Fmn, deepfool
from attacks.query import Blind, Budgeted, Directions, RandomSearch, coordinates, gaussian, signs
from attacks.square import Square
from attacks.transfer import Transfer

Options = dict[str, Any]
"""What every attack takes: seed, stop, goal."""

DIRECTIONS = 25
"""Of each estimate of a gradient; an estimate costs two queries for each, a step one more."""


@dataclass(frozen=True)
class Setting:
    """What an attack is made for: the shape of an input, options that all have in common, a limit on the queries of a
    sample, and for transfer attacks, surrogate models."""

    shape: tuple[int, ...]
    common: Options
    queries: int | None = None
    surrogates: tuple[Callable[[Tensor], Tensor], ...] = ()


def _common(make: Callable[..., Runs]) -> Callable[[Setting], Runs]:
    return lambda setting: make(**setting.common)


def _estimated(directions: Directions, steps: int, width: float) -> Callable[[Setting], Runs]:
    def make(setting: Setting) -> Runs:
        most = steps if setting.queries is None else ceil(setting.queries / (2 * DIRECTIONS + 1))
        return Blind(Descent(steps=most, **setting.common), directions, DIRECTIONS, width)

    return make


def _searching(make: Callable[..., RandomSearch | Square], usual: int) -> Callable[[Setting], Runs]:
    def made(setting: Setting) -> Runs:
        return Plain(make(setting, steps=(setting.queries or usual) - 1, **setting.common))

    return made


def _hopping(setting: Setting) -> Runs:
    hop = HopSkipJump(**setting.common)
    if setting.queries is None:
        return hop
    costs = itertools.accumulate(hop.asked(k) for k in itertools.count(1))
    return replace(hop, steps=1 + sum(1 for _ in itertools.takewhile(lambda cost: cost < setting.queries, costs)))


def closest(seed: int = 0, goal: float = -inf, stop: Callable[[], bool] = never) -> Closest:
    """The attack we recommend for least distances in all norms: the nearest class as it seems from the
    sample, then every likely class, for whose basins one descent is not enough; then the way down in the best one."""
    common = {"seed": seed, "stop": stop, "goal": -inf}
    return Closest(
        (
            Fab(steps=40, nearest_row=True, **common),
            Afresh(EachTarget(Fab(steps=30, **common), margin_loss)),
            Fmn(steps=100, **common),
            Fab(steps=30, nearest_row=True, restarts=4, **common),
            Bisected(AutoPgd(steps=25, seed=seed, stop=stop), stop=stop),
        ),
        goal,
        stop,
    )


GRADIENTS: dict[str, Callable[[Setting], Runs]] = {
    "fgsm": _common(lambda **common: Plain(fgsm(**common), cross_entropy)),
    "bim": _common(lambda **common: Plain(bim(**common), cross_entropy)),
    "pgd": _common(lambda **common: Plain(pgd(40, 5, **common), cross_entropy)),
    "mim": _common(lambda **common: Plain(Descent(steps=40, momentum=1.0, **common), cross_entropy)),
    "apgd-ce": _common(lambda **common: Plain(AutoPgd(**common), cross_entropy)),
    "apgd-dlr": _common(lambda **common: Plain(AutoPgd(**common), dlr)),
    "apgd-t": _common(lambda **common: EachTarget(AutoPgd(**common), targeted_dlr)),
    "multi-targeted": _common(lambda **common: EachTarget(pgd(20, 2, **common), margin_loss)),  # Gowal et al. 2019
}
"""Attacks by gradients in regions of any kind."""

NEAREST: dict[str, Callable[[Setting], Runs]] = {
    "fab": _common(lambda **common: Plain(Fab(steps=100, nearest_row=True, **common))),
    "fab-t": _common(lambda **common: EachTarget(Fab(steps=100, **common), margin_loss)),
    "deepfool": _common(lambda **common: Plain(deepfool(**common))),
    "fmn": _common(lambda **common: Plain(Fmn(steps=200, **common), untargeted_margin)),
    "ddn": _common(lambda **common: Plain(Ddn(steps=200, **common), untargeted_margin)),
    "cw": _common(lambda **common: Plain(CarliniWagner(**common), untargeted_margin)),
    "cw-l0": _common(lambda **common: Sparse(CarliniWagner(**{"steps": 200, "rounds": 2, **common, "goal": -inf}))),
    "closest": _common(closest),
}
"""Attacks that look for near points, in balls."""

BLIND: dict[str, Callable[[Setting], Runs]] = {
    "nes": _estimated(gaussian, 100, 0.01),
    "spsa": _estimated(signs, 100, 0.01),
    "zoo": _estimated(coordinates, 100, 1e-4),
    "random": _searching(lambda setting, **options: RandomSearch(**options), 1000),
    "square": _searching(lambda setting, **options: Square(shape=setting.shape, **options), 5000),
    "hopskipjump": _hopping,
}
"""Attacks that ask for outputs only, whose queries can be limited; `square` and `hopskipjump` need balls."""

TOGETHER: dict[str, Callable[..., Ensemble]] = {"quick": quick_ensemble, "autoattack": auto_attack}
"""Ensembles."""

TRANSFER = "transfer"

NAMES = (*TOGETHER, *GRADIENTS, *NEAREST, *BLIND, TRANSFER)

WORST_OF = 10
"""Random parameters that are tried first (Engstrom et al. 2019, section 3)."""

PARAMETERS: dict[str, Callable[[tuple[int, ...], Options], Runs]] = {
    "worst-of-k": lambda grid, common: Plain(Descent(steps=0, restarts=WORST_OF, **common)),
    "first-order": lambda grid, common: Plain(
        Descent(steps=20, step=Constant(0.25), restarts=3, **common), cross_entropy
    ),
    "grid": lambda grid, common: Plain(Grid(each=grid, **common)),
}
"""Attacks of few parameters: points of a grid along each, and common options -> how it runs."""


def by_name(
    name: str,
    shape: tuple[int, ...],
    queries: int | None = None,
    surrogates: tuple[Callable[[Tensor], Tensor], ...] = (),
    **common: Any,
) -> Ensemble:
    """The attack of this name on inputs of this shape.

    queries     the most that a sample may cost, for the attacks in BLIND; otherwise what is usual
    surrogates  models (B, d) -> (B, C), for `transfer`
    common      seed, stop, goal
    Raises ValueError if there is none, or for options that it does not have.
    """
    if name not in NAMES:
        raise ValueError(f"no attack is called {name!r}: known are {', '.join(NAMES)}")
    if queries is not None and (name not in BLIND or queries < 1):
        raise ValueError(f"queries, at least 1, can be limited for {', '.join(BLIND)}, not for {name}")
    if bool(surrogates) != (name == TRANSFER):
        raise ValueError("transfer attacks need surrogate models, and no others do")
    if name in TOGETHER:
        return TOGETHER[name](shape, **common)
    if name == TRANSFER:
        member = Transfer(surrogates)
        return Ensemble({name: replace(member, attack=replace(member.attack, **{**common, "goal": -inf}))})
    made = {**GRADIENTS, **NEAREST, **BLIND}[name](Setting(shape, common, queries))
    return Ensemble({name: made if queries is None else Budgeted(made, queries)})


def by_name_of_parameters(name: str, grid: tuple[int, ...], queries: int | None = None, **common: Any) -> Ensemble:
    """The attack of this name on few parameters, of which `grid` says how finely each is divided. "quick" is random
    ones, first-order descent, then the grid.

    Raises ValueError if there is none, or if it needs balls.
    """
    if queries is None and name in ("quick", *PARAMETERS):
        chosen = PARAMETERS if name == "quick" else (name,)
        return Ensemble({key: PARAMETERS[key](grid, common) for key in chosen})
    return _of_any_region(name, len(grid), queries, ("quick", *PARAMETERS), **common)


def by_name_of_mixtures(name: str, size: int, queries: int | None = None, **common: Any) -> Ensemble:
    """The attack of this name on joint regions of so many entries in all. "quick" is its descents alone.

    Raises ValueError if there is none, or if it needs balls.
    """
    if queries is None and name == "quick":
        return Ensemble(descents(**common))
    return _of_any_region(name, size, queries, ("quick",), **common)


def _of_any_region(name: str, size: int, queries: int | None, besides: tuple[str, ...], **common: Any) -> Ensemble:
    """The attack of this name on regions of any kind. Raises ValueError; `besides` are names that would do, too."""
    known = (*GRADIENTS, *(key for key in BLIND if key not in ("square", "hopskipjump")))
    if name not in known:
        raise ValueError(
            f"{name} needs balls, and does not attack parameters: {', '.join((*besides, *known))} do, the blind ones "
            "with a limit of queries"
        )
    return by_name(name, (size,), queries, **common)
