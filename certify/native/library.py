"""The compiled kernels, if they were built and this processor can run them.

The library is plain C, called through ctypes, which lets other Python threads run meanwhile. It is built
with the package where there is a compiler; without it everything works, in torch alone.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_int, c_int64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


class Matrix(Structure):
    _fields_ = (("panels", c_void_p), ("rows", c_int64), ("columns", c_int64))


class Chain(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("domains", "layers")),
        *((name, c_void_p) for name in ("lower", "upper")),
        ("back", POINTER(Matrix)),
        ("weight", POINTER(c_void_p)),
        ("forth", POINTER(Matrix)),
        ("size", POINTER(Matrix)),
        ("bias", POINTER(c_void_p)),
        ("refine", POINTER(c_int64)),
        ("low", POINTER(c_void_p)),
        ("high", POINTER(c_void_p)),
    )


class Library:
    """The kernels, each bound to the best instruction set that this processor has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self.level = int(self._library.certify_level())
        if self.level:
            self._library.certify_bounds.argtypes = (POINTER(Chain), c_int)

    def bounds(self, given: Chain) -> None:
        """Raises MemoryError."""
        if self._library.certify_bounds(given, self.level):
            raise MemoryError("bounds of a chain")


@cache
def library() -> Library | None:
    """The kernels; None where they were not built, or where the processor lacks AVX2."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_kernels" + suffix)
        if path.exists():
            found = Library(path)
            return found if found.level else None
    return None
