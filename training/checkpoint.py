"""The state of a training run on disk: complete or absent, whatever kills the process."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from certify.errors import BadOption

State = dict[str, Any]
"""Tensors, numbers, strings and containers of them; nothing that reading would have to run."""


def write(path: Path, state: State) -> None:
    """Put `state` at `path`: the file before stays until the new one is on the disk whole."""
    held = io.BytesIO()
    torch.save(state, held)
    replace_file(path, held.getvalue())


def replace_file(path: Path, data: bytes) -> None:
    """Give the file these bytes, at once or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read(path: Path, settings: str) -> State | None:
    """The state at `path`, None if there is none. Raises BadOption if it is damaged or belongs to other settings."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["settings"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise BadOption(f"{path} is not a checkpoint: {error}", "remove it, or choose another folder") from error
    if found != settings:
        raise BadOption(f"{path} belongs to another run: {apart(found, settings)}", "choose another folder")
    return state


def apart(found: str, asked: str) -> str:
    """How the settings that were found differ from those that were asked for, as far as words between commas tell."""
    words = found.split(", "), asked.split(", ")
    only = [", ".join(w for w in words[i] if w not in words[1 - i]) for i in (0, 1)]
    return f"{only[0] or found}, not {only[1] or asked}"
