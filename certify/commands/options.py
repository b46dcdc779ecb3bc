"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from enum import Enum
from fractions import Fraction
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from certify.errors import BadOption
from certify.strategy import Strategy

if TYPE_CHECKING:
    from benchmarks.run import Instance

NETWORK_HELP = "An .onnx[.gz] or .pt2 file, one of models.zoo, a folder of certify train, or a saved model's name."
Network = Annotated[str, typer.Argument(metavar="NET", help=NETWORK_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per result on standard output.")]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="Accept a region without points: the answer is verified, and vacuous.")
]


def with_strategy(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each field of Strategy in place of its parameter `strategy`."""
    own = [p for p in signature(command, eval_str=True).parameters.values() if p.name != "strategy"]
    types = get_type_hints(Strategy)
    derived = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[types[field.name], typer.Option(help=_sentence(field.metadata["help"]))],
        )
        for field in fields(Strategy)
    ]

    def run(*args: object, **options: object) -> None:
        strategy = Strategy(**{field.name: options.pop(field.name) for field in fields(Strategy)})
        command(*args, strategy=strategy, **options)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = Signature([p.replace(kind=Parameter.KEYWORD_ONLY) for p in own] + derived)
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}
    return run


def as_arguments(strategy: Strategy) -> list[str]:
    """The options on the command line of what differs from the defaults."""
    words = []
    for field in fields(Strategy):
        value = getattr(strategy, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value.value if isinstance(value, Enum) else value)]
    return words


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy: the known word next to `word`, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"known are {', '.join(known)}"


def in_categories(listed: Sequence[Instance], names: Sequence[str] | None) -> list[Instance]:
    """The instances of these categories; all if none is named. Raises BadOption for one that the list does not have."""
    known = sorted({instance.category for instance in listed})
    for name in names or ():
        if name not in known:
            raise BadOption(f"--category {name}: the list has no such category", did_you_mean(name, known))
    return [instance for instance in listed if not names or instance.category in names]


def check_device(name: str) -> None:
    """Raise BadOption unless the device can be used."""
    from certify.device import device_of

    device_of(name)


def parse_radii(text: str, option: str = "--eps") -> list[tuple[str, float]]:
    """(as written, as float64) for every number or fraction in a comma-separated list; all must be positive.

    Of several words for one number, the first stands. Raises BadOption, which names the option.
    """
    radii: dict[float, str] = {}
    for word in (part.strip() for part in text.split(",")):
        try:
            value = float(Fraction(word))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise BadOption(f"{option} {word!r} is not a number", "write it like 0.1, 1e-3 or 2/255") from error
        if not value > 0:
            raise BadOption(f"{option} {word}: a radius must be positive", "write it like 0.1, 1e-3 or 2/255")
        radii.setdefault(value, word)
    return [(word, value) for value, word in radii.items()]


def parse_radius(text: str, option: str) -> float:
    """One number or fraction, which must be positive. Raises BadOption, which names the option."""
    radii = parse_radii(text, option)
    if len(radii) > 1:
        raise BadOption(f"{option} {text}: there are several numbers", "give one")
    return radii[0][1]


def parse_span(text: str | None, size: int, option: str = "--index") -> range:
    """The indices that `A:B`, `A:`, `:B` or a single `A` names among `size`; all for None. Raises BadOption, which
    names the option."""
    if text is None:
        return range(size)
    first, colon, last = text.partition(":")
    try:
        start = int(first) if first or not colon else 0
        stop = (int(last) if last else size) if colon else start + 1
    except ValueError as error:
        raise BadOption(f"{option} {text!r} is not a range", "write it like 0:100 or 7") from error
    if not 0 <= start < stop or start >= size:
        raise BadOption(f"{option} {text} selects nothing", f"there are {size}, counted from 0")
    return range(start, min(stop, size))


def parse_range(text: str | None) -> tuple[float, float] | None:
    """The data range LOW:HIGH; None for "none"."""
    if text is None or text == "none":
        return None
    low, _, high = text.partition(":")
    try:
        bounds = (float(Fraction(low)), float(Fraction(high)))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadOption(f"--range {text!r} is not a range", "write it like 0:1, or none") from error
    if not bounds[0] < bounds[1]:
        raise BadOption(f"--range {text}: the lower end must be below the upper", "write it like 0:1")
    return bounds


def existing(path: Path, what: str) -> Path:
    """The file. Raises BadOption if it is not there."""
    if not path.is_file():
        raise BadOption(f"{path}: there is no such {what}", "check the path")
    return path
