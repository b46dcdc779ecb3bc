"""What a search varies about training: the method, its own settings, the radius and the learning rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from training.catalogue import JOINT, parse, start_of
from training.plan import Plan

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

_SHARE, _WEIGHT, _NOISE = (1e-3, 0.5), (0.5, 20.0), (0.05, 1.0)
WEIGHED: dict[str, dict[str, tuple[float, float]]] = {
    "sabr": {"share": (0.05, 1.0)},
    "staps": {"share": (0.05, 1.0)},
    "mtl-ibp": {"share": _SHARE},
    "cc-ibp": {"share": _SHARE},
    "exp-ibp": {"share": _SHARE},
    "trades": {"beta": _WEIGHT},
    "mart": {"beta": _WEIGHT},
    "gaussian": {"sigma": _NOISE},
    "stability": {"sigma": _NOISE},
    "consistency": {"sigma": _NOISE},
    "smooth-adv": {"sigma": _NOISE},
}
"""Methods' settings that weigh robust against clean accuracy, and the ranges in which papers have them."""

_NOISY = ("gaussian", "stability", "consistency", "macer", "smooth-mix")
UNBOUND = ("standard", "spatial", *_NOISY, "lipschitz-margin", *JOINT)
"""Methods to which the radius makes no difference."""


@dataclass(frozen=True)
class Methods:
    """Plans like `base` with one of the methods, which are written as for `training.catalogue.parse`.

    Searched are the method; of its settings those of WEIGHED which are not written out; the radius, from half the
    base's to `stretch` times it, as larger ones buy certified with clean accuracy; and the learning rate, from a
    quarter of the base's to four times it. All but the method are searched by their logarithm, to four digits.
    """

    base: Plan
    methods: tuple[str, ...]
    stretch: float = 2.0

    def __post_init__(self) -> None:
        for text in self.methods:
            parse(text)  # a mistake in the last one is found before the first is trained

    def __call__(self, trial: Trial | FrozenTrial) -> Plan:
        text = trial.suggest_categorical("method", self.methods)
        name, colon, written = text.partition(":")
        for key, (low, high) in WEIGHED.get(name, {}).items():
            if key not in {word.partition("=")[0] for word in written.split(",")}:
                text += f"{',' if colon else ':'}{key}={self._drawn(trial, f'{name} {key}', low, high)}"
        rate = self._drawn(trial, "rate", self.base.optimiser.rate / 4, self.base.optimiser.rate * 4)
        radius = self.base.epsilon
        if name not in UNBOUND:
            radius = self._drawn(trial, "radius", radius / 2, radius * self.stretch)
        settings = {"optimiser": replace(self.base.optimiser, rate=rate), "start": start_of(text)}
        return replace(self.base, method=parse(text), epsilon=radius, **settings)

    @staticmethod
    def _drawn(trial: Trial | FrozenTrial, name: str, low: float, high: float) -> float:
        return float(f"{trial.suggest_float(name, low, high, log=True):.4g}")
