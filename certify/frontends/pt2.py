"""Opening a file of torch.export.save without running what it may hold.

`torch.export.load` unpickles parts of such an archive and evaluates symbolic expressions in it. So
the archive is looked through first, and refused unless it holds only raw weights, a program over
torch's own operators with fixed shapes, and example inputs that unpickle as plain tensors.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from certify.errors import MalformedNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

AGAIN = "export it again: torch.export.save(torch.export.export(model.eval(), (x,)), 'model.pt2')"
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|extra/.+"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_TARGETS = re.compile(r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.(getitem|add|sub|mul|ge|gt|le|lt|eq|ne)")
_DAMAGE = (
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)  # what reading bad records raises
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def read_pt2(path: str | Path) -> ExportedProgram:
    """The program in a .pt2 file. Raises MalformedNetwork if it is not one, or could run code."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _vet(path, archive)
            vetted = _copy(archive)
    except OSError as error:
        raise MalformedNetwork(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, *_DAMAGE) as error:
        raise MalformedNetwork(f"{path} is not a file of torch.export.save: {error}", AGAIN) from error
    try:
        return torch.export.load(vetted)
    except Exception as error:  # torch documents no type for what it finds wrong in a file
        raise MalformedNetwork(f"{path}: torch.export cannot read it: {first_line(error)}", AGAIN) from error


def _copy(archive: zipfile.ZipFile) -> io.BytesIO:
    """What was looked through, written anew: torch's own reader then cannot find other records in the file."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as new:
        for name in archive.namelist():
            new.writestr(name, archive.read(name))
    found.seek(0)
    return found


def _vet(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    root = names[0].split("/")[0] if names else ""
    if f"{root}/archive_format" not in names or archive.read(f"{root}/archive_format") != b"pt2":
        raise ValueError("an archive of another kind, or of an older torch")
    if len(set(names)) != len(names):
        raise ValueError("an archive that holds one name twice")
    strange = [n for n in names if not (n.startswith(f"{root}/") and _RECORDS.fullmatch(n[len(root) + 1 :]))]
    if strange:
        _refuse(path, f"holds {strange[0]!r}, which could run code")
    for kind in ("weights", "constants"):
        config = json.loads(archive.read(f"{root}/data/{kind}/model_{kind}_config.json"))["config"]
        pickled = [name for name, entry in config.items() if entry["use_pickle"]]
        if pickled:
            _refuse(path, f"holds {pickled[0]!r} as a pickle, which could run code")
    program = list(_walk(json.loads(archive.read(f"{root}/models/model.json"))))
    for key, value in program:
        if key == "expr_str":
            raise MalformedNetwork(f"{path} was exported with dynamic shapes", f"{AGAIN}, without dynamic_shapes")
        if key == "target" and not _TARGETS.fullmatch(str(value)):
            _refuse(path, f"calls {value!r}, which is not an operator of torch's aten set")
        if key in ("in_spec", "out_spec") and value:
            if "__enum__" in str(value):
                _refuse(path, "takes or gives an enumeration")
            kinds = {kind for entry, kind in _walk(json.loads(str(value))) if entry == "type"}
            if kinds - _CONTAINERS:
                _refuse(path, f"takes or gives {sorted(map(str, kinds - _CONTAINERS))[0]}")
    inputs = archive.read(f"{root}/data/sample_inputs/model.pt")
    try:
        torch.load(io.BytesIO(inputs), weights_only=True)
    except Exception as error:  # whatever it is, torch.export.load would then unpickle without that restriction
        raise MalformedNetwork(f"{path}: its example inputs are not plain tensors: refused", AGAIN) from error


def _walk(value: object) -> Iterator[tuple[str, object]]:
    """Every (key, value) of the objects in a JSON document."""
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            yield from found.items()
            stack.extend(found.values())
        elif isinstance(found, list):
            stack.extend(found)


def _refuse(path: Path, why: str) -> None:
    raise MalformedNetwork(f"{path} {why}: refused", AGAIN)


def first_line(error: Exception) -> str:
    """What an exception says, cut to its first line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
