"""Attacks on classifiers by name, with the settings of their papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attacks.apgd import AutoPgd
from attacks.classifier import cross_entropy, dlr, margin_loss, targeted_dlr, untargeted_margin
from attacks.ensemble import EachTarget, Ensemble, Plain, Runs, auto_attack, quick_ensemble
from attacks.gradient import Descent, bim, fgsm, pgd
from attacks.nearest import Fab, Fmn, deepfool
from attacks.square import Square

Options = dict[str, Any]
"""What every attack takes: seed, stop, goal."""

ALONE: dict[str, Callable[[tuple[int, ...], Options], Runs]] = {
    "fgsm": lambda shape, common: Plain(fgsm(**common), cross_entropy),
    "bim": lambda shape, common: Plain(bim(**common), cross_entropy),
    "pgd": lambda shape, common: Plain(pgd(40, 5, **common), cross_entropy),
    "mim": lambda shape, common: Plain(Descent(steps=40, momentum=1.0, **common), cross_entropy),
    "apgd-ce": lambda shape, common: Plain(AutoPgd(**common), cross_entropy),
    "apgd-dlr": lambda shape, common: Plain(AutoPgd(**common), dlr),
    "apgd-t": lambda shape, common: EachTarget(AutoPgd(**common), targeted_dlr),
    "fab": lambda shape, common: Plain(Fab(steps=100, nearest_row=True, **common)),
    "fab-t": lambda shape, common: EachTarget(Fab(steps=100, **common), margin_loss),
    "deepfool": lambda shape, common: Plain(deepfool(**common)),
    "fmn": lambda shape, common: Plain(Fmn(steps=200, **common), untargeted_margin),
    "square": lambda shape, common: Plain(Square(shape=shape, **common)),
}
"""Single attacks: the shape of an input and common options -> how it runs."""

TOGETHER: dict[str, Callable[..., Ensemble]] = {"quick": quick_ensemble, "autoattack": auto_attack}
"""Ensembles."""

NAMES = (*TOGETHER, *ALONE)


def by_name(name: str, shape: tuple[int, ...], **common: Any) -> Ensemble:
    """The attack of this name on inputs of this shape. Raises ValueError if there is none."""
    if name in TOGETHER:
        return TOGETHER[name](shape, **common)
    if name not in ALONE:
        raise ValueError(f"no attack is called {name!r}: known are {', '.join(NAMES)}")
    return Ensemble({name: ALONE[name](shape, common)})
