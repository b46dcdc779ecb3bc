"""Saved models: weights as safetensors, the architecture as JSON; nothing in a file is executed.

NAME.safetensors holds the weights and, in its metadata, the description from which the network is
rebuilt. NAME.json beside it is the card: where the model comes from, and the sha256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from certify.errors import BadOption, MalformedNetwork
from models.cnn import cnn
from models.convnet import convnet
from models.lipschitz import lipschitz_cnn, lipschitz_mlp, stored
from models.mlp import mlp
from models.resnet import resnet
from models.vit import vit

SAVED = Path(__file__).parent / "saved"
LARGEST = 1 << 20  # bytes of a model that comes with the package
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "convnet": convnet,
    "resnet": resnet,
    "vit": vit,
    "lipschitz-mlp": lipschitz_mlp,
    "lipschitz-cnn": lipschitz_cnn,
}
PARAMETRISED = ("lipschitz-mlp", "lipschitz-cnn")
"""Architectures whose layers compute their weights; an argument `plain` makes them store the weights themselves."""

_METADATA = "certify"
_PROTO = 0x80  # the opcode with which pickles of protocol 2 and later begin
_EXPORT = "export it with torch.export.save(torch.export.export(model.eval(), (x,)), 'model.pt2') or torch.onnx.export"


@dataclass(frozen=True)
class Description:
    """An architecture (a key of ARCHITECTURES) and the builder's arguments; `shape` is that of one input."""

    architecture: str
    arguments: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.arguments["shape"])

    def build(self) -> nn.Module:
        """A new network with fresh weights. Raises MalformedNetwork if the description does not describe one."""
        builder = ARCHITECTURES.get(self.architecture)
        if builder is None:
            known = ", ".join(ARCHITECTURES)
            raise MalformedNetwork(f"no architecture is called {self.architecture!r}", f"known are {known}")
        try:
            return builder(**self.arguments)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise MalformedNetwork(f"{self.architecture} cannot be built from {self.arguments}: {error}") from error


@dataclass(frozen=True)
class Measured:
    """Of the first `samples` test images, within the radius `epsilon` in the norm inf, 2 or 1: shares that are
    classified right, that besides no attack moved, and that besides are verified; and the command that counted them."""

    epsilon: float
    norm: str
    samples: int
    clean: float
    attacked: float
    certified: float
    command: str

    def __str__(self) -> str:
        shares = f"clean {self.clean:.1%}, attacked {self.attacked:.1%}, certified {self.certified:.1%}"
        return f"{shares} within {self.epsilon:g} (norm {self.norm}) of {self.samples} test images"


@dataclass(frozen=True)
class Card:
    """Where a saved model comes from. `epsilon` is the radius it was trained for, if any (in L-infinity, unless the
    command says otherwise); `clean_accuracy` is that of all test data, `measured` what was counted in balls."""

    data: str
    method: str
    epsilon: float | None
    clean_accuracy: float
    command: str
    notes: dict[str, Any] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.method} on {self.data}" + (f" for radius {self.epsilon:g}" if self.epsilon else ""),
            f"{self.clean_accuracy:.2%} of the test data right",
            *map(str, self.measured),
            f"made by: {self.command}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Saved:
    """A model read from a file: the network in eval mode, what it is, and its card if there is one."""

    module: nn.Module
    description: Description
    card: Card | None


def names() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(p.stem for p in SAVED.glob("*.safetensors"))


def load(name: str) -> nn.Module:
    """The model `name` in eval mode, its weights checked against the sha256 in its card."""
    return read(_path(name)).module


def card(name: str) -> Card:
    """The card of the model `name`."""
    found = _card(_path(name))
    if found is None:
        raise MalformedNetwork(f"the model {name!r} has no card beside its weights", "reinstall the package")
    return found[0]


def card_of(network: str | Path) -> Card | None:
    """The card of a saved model by name, or beside a safetensors file; None of what has none. Raises MalformedNetwork
    for a damaged one."""
    path = SAVED / f"{network}.safetensors" if str(network) in names() else Path(network)
    found = _card(path) if path.suffix == ".safetensors" else None
    return None if found is None else found[0]


def load_file(path: str | Path) -> nn.Module:
    """The model in a safetensors file that `save` wrote, in eval mode. Raises as `read`."""
    return read(path).module


def read(path: str | Path) -> Saved:
    """The model in a safetensors file that `save` wrote; its sha256 is checked if a card lies beside it.

    Raises MalformedNetwork for anything else: pickles, a wrong hash, weights that do not fit the description.
    """
    path = Path(path)
    refuse_pickle(path)
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except OSError as error:
        raise MalformedNetwork(f"{path} cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise MalformedNetwork(f"{path} is not a safetensors file: {error}", "get or save it again") from error
    found = _card(path)
    if found is not None and found[1] != hashlib.sha256(data).hexdigest():
        raise MalformedNetwork(f"{path} does not have the sha256 that its card says", "get or train it again")
    description = _description(path, metadata)
    with torch.device("meta"):  # what the description asks for costs no memory until the weights are there
        module = description.build()
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise MalformedNetwork(f"{path}: the weights do not fit the description: {error}", "save it again") from error
    return Saved(module.eval().requires_grad_(False), description, None if found is None else found[0])


def plain(description: Description, network: nn.Module) -> tuple[Description, nn.Module]:
    """The network as it is saved and verified: with stored weights only, and described so."""
    if description.architecture not in PARAMETRISED or description.arguments.get("plain"):
        return description, network
    return Description(description.architecture, {**description.arguments, "plain": True}), stored(network)


def save(description: Description, module: nn.Module, path: str | Path, card: Card) -> None:
    """Write `module`, which `description` describes, to `path` (.safetensors) and its card beside it (.json)."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise BadOption(f"a model is saved to a .safetensors file, not {path.name!r}")
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    data = safetensors.torch.save(tensors, {_METADATA: json.dumps(asdict(description))})
    path.write_bytes(data)
    _write_card(path, description, card, hashlib.sha256(data).hexdigest())


def add(path: str | Path, name: str, folder: Path = SAVED) -> Path:
    """Put the model at `path`, with its card, among the saved ones, by this name; returns where it now lies. The card
    of one that is there already stays as it is.

    Raises MalformedNetwork as `read`, and BadOption if it is larger than LARGEST, has no card, or the name is no name
    or another model's.
    """
    saved, data = read(path), Path(path).read_bytes()
    if saved.card is None:
        raise BadOption(f"{path} has no card beside it", "save it with models.zoo.save, or by certify train")
    if len(data) > LARGEST:
        raise BadOption(f"{path} has {len(data)} bytes: too many for the package", f"at most {LARGEST}; a smaller one")
    if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        raise BadOption(f"{name!r} is no name for a model", "use small letters and digits, with - or . in between")
    place = folder / f"{name}.safetensors"
    if place.exists() and place.read_bytes() != data:
        raise BadOption(f"{place} is another model", "choose another name, or remove it")
    if place.exists() and _card(place) is not None:
        return place
    place.write_bytes(data)
    _write_card(place, saved.description, saved.card, hashlib.sha256(data).hexdigest())
    return place


def card_beside(path: str | Path) -> Card:
    """The card of the model at `path`. Raises MalformedNetwork as `read`, and if there is none."""
    found = read(path).card
    if found is None:
        raise MalformedNetwork(f"{path} has no card beside it", "save it with models.zoo.save, or by certify train")
    return found


def measure(path: str | Path, measured: Measured) -> Card:
    """Add what was counted to the card beside the model at `path`, in the place of the same measurement made before.

    Raises MalformedNetwork as `card_beside`.
    """
    path, before = Path(path), card_beside(path)
    asked = (measured.epsilon, measured.norm, measured.samples)
    kept = [m for m in before.measured if (m.epsilon, m.norm, m.samples) != asked]
    after = replace(before, measured=tuple(sorted([*kept, measured], key=lambda m: (m.norm, m.epsilon, m.samples))))
    _write_card(path, read(path).description, after, hashlib.sha256(path.read_bytes()).hexdigest())
    return after


def _write_card(path: Path, description: Description, card: Card, sha256: str) -> None:
    head = {"name": path.stem, **asdict(description), **asdict(card), "sha256": sha256}
    if not card.measured:
        del head["measured"]
    place = path.with_suffix(".json")
    written = place.with_suffix(".json.part")
    written.write_text(json.dumps(head, indent=2) + "\n")
    written.replace(place)  # at once: a card that is there already is never half overwritten


def refuse_pickle(path: str | Path) -> None:
    """Raise MalformedNetwork if `path` is a pickle or an archive of one, which would run code when it is read."""
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt") or _holds_pickle(path):
        raise MalformedNetwork(f"{path} is a pickle, which could run any code when it is read: refused", _EXPORT)


def _holds_pickle(path: Path) -> bool:
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(Path(n).name == "data.pkl" for n in archive.namelist())
        except zipfile.BadZipFile:
            return False  # whoever reads it next says what is wrong with it
    with path.open("rb") as file:
        head = file.read(9)
    safetensors_length = head[8:] == b"{"  # eight bytes of length, then JSON; they may begin as a pickle does
    return len(head) > 1 and head[0] == _PROTO and head[1] <= pickle.HIGHEST_PROTOCOL and not safetensors_length


def _path(name: str) -> Path:
    if name not in names():
        raise BadOption(f"no saved model is called {name!r}", f"known are {', '.join(names())}")
    return SAVED / f"{name}.safetensors"


def _card(path: Path) -> tuple[Card, str] | None:
    """The card beside `path` and the sha256 it names; None if there is none."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    try:
        entries = json.loads(beside.read_text())
        keys = ("data", "method", "epsilon", "clean_accuracy", "command")
        measured = tuple(Measured(**m) for m in entries.get("measured", ()))
        card = Card(**{k: entries[k] for k in keys}, notes=entries.get("notes", {}), measured=measured)
        return card, entries["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedNetwork(f"{beside} is not the card of a model: {error!r}", "get or train it again") from error


def _description(path: Path, metadata: dict[str, str]) -> Description:
    if _METADATA not in metadata:
        raise MalformedNetwork(f"{path} does not say how to build the network", "save it with models.zoo.save")
    try:
        entries = json.loads(metadata[_METADATA])
        description = Description(str(entries["architecture"]), dict(entries["arguments"]))
        if not all(isinstance(n, int) and n > 0 for n in description.shape):
            raise ValueError(f"shape {description.shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedNetwork(f"{path}: its description is damaged: {error!r}", "save it again") from error
    return description
