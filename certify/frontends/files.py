"""The network files that a property speaks of, as text: one path, or a list as VNN-COMP writes it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from certify.errors import BadOption


def parse_files(text: str) -> str | dict[str, str]:
    """One network's file; or several, written as VNN-COMP lists them: [('f', 'f.onnx'), ('g', 'g.onnx')]."""
    if not text.lstrip().startswith("["):
        return text
    try:
        pairs = ast.literal_eval(text.strip())
        files = {str(name): str(file) for name, file in pairs}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadOption(f"{text!r} is no list of networks", "write [('f', 'f.onnx'), ('g', 'g.onnx')]") from error
    if len(files) != len(pairs):
        raise BadOption(f"{text!r} names a network twice", "give each one file")
    return files


def as_text(files: str | Mapping[str, str]) -> str:
    """The opposite of `parse_files`, with paths that can be found from another working directory."""
    if not isinstance(files, str):
        return repr([(name, _lasting(file)) for name, file in files.items()])
    return _lasting(files)


def _lasting(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path
