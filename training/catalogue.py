"""Methods by name, as the command line names them: `ibp`, or with settings `crown-ibp:fused=0`, `max:inf=0.1,2=1`."""

from __future__ import annotations

import functools
import math
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

from certify.errors import BadOption
from training.adversarial import Adversarial
from training.certified import IBP, CrownIBP, Dual
from training.expressive import CCIBP, EXPIBP, MTLIBP, SABR, STAPS, TAPS
from training.inner import DDN
from training.lipschitz import LipschitzBound, LipschitzMargin
from training.method import Method
from training.regularise import IntervalStart, Regulariser
from training.several import MSD, Average, Mixture, Moved, Threat, Within, Worst
from training.smoothed import MACER, Consistency, SmoothAdv, SmoothMix, Stability
from training.standard import Gaussian, Standard
from training.tradeoff import MART, TRADES, Fast, Free

_EASED = Regulariser()
_LIKE = "max:inf=0.1,2=1,rotation=30,translation=3"
_PARTS = ("attack", "latent", "regulariser")  # of methods, whose settings are written like the method's own
BOUNDED: dict[str, Method] = {
    "ibp": IBP(regulariser=_EASED),
    "crown-ibp": CrownIBP(regulariser=_EASED),
    "dual": Dual(),
    "sabr": SABR(regulariser=_EASED),
    "taps": TAPS(regulariser=_EASED),
    "staps": STAPS(latent=TAPS(regulariser=_EASED)),
    "mtl-ibp": MTLIBP(regulariser=_EASED),
    "cc-ibp": CCIBP(regulariser=_EASED),
    "exp-ibp": EXPIBP(regulariser=_EASED),
}
METHODS: dict[str, Method] = {
    "standard": Standard(),
    "adversarial": Adversarial(),
    "fast": Fast(),
    "free": Free(),
    "trades": TRADES(),
    "mart": MART(),
    "spatial": Worst((Moved(),)),
    **BOUNDED,
    "gaussian": Gaussian(0.25),
    "smooth-adv": SmoothAdv(),
    "smooth-adv-ddn": SmoothAdv(attack=DDN()),
    "smooth-mix": SmoothMix(),
    "stability": Stability(),
    "consistency": Consistency(),
    "macer": MACER(),
}
MARGINS: dict[str, Method] = {"lipschitz": LipschitzBound(), "lipschitz-margin": LipschitzMargin()}
"""For networks of Lipschitz constant 1 only."""


JOINT: dict[str, type[Worst | Average | Mixture | MSD]] = {
    "max": Worst,
    "avg": Average,
    "mixture": Mixture,
    "msd": MSD,
}
"""For several threats, which their settings name: radii in the norms inf, 2 and 1; rotation in degrees, translation in
pixels."""
_NORMS = ("inf", "2", "1")
_MOVES = {"rotation": "degrees", "translation": "pixels"}


def start_of(method: str) -> IntervalStart | None:
    """How the weights of a network for this method begin: those that rest on intervals, so that intervals fit."""
    name = method.partition(":")[0]
    return IntervalStart() if name in BOUNDED and name != "dual" else None


def parse(text: str) -> Method:
    """The method NAME, or NAME:SETTING=NUMBER,...; settings of its attack (steps, size) may be given too, one whose
    name another has before it as `latent.steps`, and those of its regulariser as `regulariser.weight`.

    Raises BadOption for a name or a setting that is not there.
    """
    name, _, settings = text.partition(":")
    if name in JOINT:
        return _joint(name, settings, text)
    known = METHODS | MARGINS
    if name not in known:
        raise BadOption(f"no training method is called {name!r}", f"use one of {', '.join([*known, *JOINT])}")
    method = known[name]
    for word in filter(None, settings.split(",")):
        key, _, number = word.partition("=")
        method = _changed(method, key, number, text)
    return method


def written(method: Method) -> str:
    """What `parse` reads as this method. Raises BadOption for one that it has no words for."""
    for name, kind in JOINT.items():
        if type(method) is kind and parse(text := f"{name}:{','.join(_threats(method))}") == method:
            return text
    for name, known in (METHODS | MARGINS).items():
        if type(known) is type(method):
            text = f"{name}:{','.join(_differences(known, method))}".rstrip(":")
            if parse(text) == method:
                return text
    raise BadOption(f"{method} cannot be written in words", "use it from Python, by training.train")


def _joint(name: str, settings: str, text: str) -> Method:
    """The method for the threats that the settings name."""
    words = [word.partition("=")[::2] for word in filter(None, settings.split(","))]
    try:
        numbers = {key: float(Fraction(number)) for key, number in words}
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadOption(f"--method {text}: there is a word that is not a number", f"write it like {_LIKE}") from error
    if unknown := [key for key in numbers if key not in (*_NORMS, *_MOVES)]:
        raise BadOption(f"--method {text}: there is no threat {unknown[0]!r}", f"write it like {_LIKE}")
    threats: list[Threat] = [Within(numbers[norm], float(norm)) for norm in _NORMS if norm in numbers]
    if name == "msd" and len(threats) < len(numbers):
        raise BadOption(f"--method {text}: its steps are within balls", "give radii only, or use max")
    if moves := {_MOVES[key]: number for key, number in numbers.items() if key in _MOVES}:
        threats.append(Moved(**{"degrees": 0.0, "pixels": 0.0, **moves}))
    if not threats:
        raise BadOption(f"--method {text}: it names no threat", f"write it like {_LIKE}")
    return JOINT[name](tuple(threats))


def _threats(method: Worst | Average | Mixture | MSD) -> list[str]:
    """The words for the threats of a method, as far as there are any."""
    words = []
    for threat in method.balls if isinstance(method, MSD) else method.threats:
        if isinstance(threat, Within):
            words.append(f"{threat.norm:g}={threat.epsilon!r}")
        elif isinstance(threat, Moved):
            words += [f"rotation={threat.degrees!r}", f"translation={threat.pixels!r}"]
    return words


def _settings(method: Any) -> dict[str, tuple[str, ...]]:
    """The words for the numbers of a method and of its parts, and the fields that lead to each. Where two would have
    the same word, the later one's begins with its part's name; a regulariser's always do."""
    own = {f.name: getattr(method, f.name) for f in fields(method)}
    found = {key: (key,) for key, value in own.items() if isinstance(value, bool | int | float)}
    for part in (part for part in _PARTS if is_dataclass(own.get(part))):
        for word, path in _settings(own[part]).items():
            named = word in found or part == "regulariser"
            found[f"{part}.{word}" if named else word] = (part, *path)
    return found


def _value(method: Any, path: tuple[str, ...]) -> Any:
    return functools.reduce(getattr, path, method)


def _differences(known: Any, method: Any) -> list[str]:
    """The settings of `method` that differ in value from those of `known`, as words."""
    words = []
    for word, path in _settings(known).items():
        try:
            before, now = _value(known, path), _value(method, path)
        except AttributeError:  # a part of another kind
            continue
        if isinstance(now, bool | int | float) and now != before:
            words.append(f"{word}={int(now) if isinstance(now, bool) else now!r}")
    return words


def _changed(method: Any, key: str, number: str, text: str) -> Any:
    words = _settings(method)
    if key not in words:
        raise BadOption(f"--method {text}: there is no setting {key!r}", f"there are: {', '.join(words) or 'none'}")
    before = _value(method, words[key])
    try:
        return _with(method, words[key], _number(number, before))
    except ValueError as error:
        remedy = f"write it like {key}={before:g}"
        raise BadOption(f"--method {text}: {number!r} is not a number for {key}", remedy) from error


def _with(method: Any, path: tuple[str, ...], value: float) -> Any:
    """The method with another value where the path leads."""
    first, *rest = path
    return replace(method, **{first: _with(getattr(method, first), tuple(rest), value) if rest else value})


def _number(text: str, like: float) -> float:
    """The number, of the type of `like`. Raises ValueError for what is none, and for what is no count or truth."""
    value = float(text)
    whole = not isinstance(like, float)
    if not math.isfinite(value) or (whole and (value < 0 or value % 1)) or (isinstance(like, bool) and value > 1):
        raise ValueError(text)
    return type(like)(value)
