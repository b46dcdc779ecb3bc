"""The compiled kernels, if they were built and this processor can run them.

The library is plain C, called through ctypes, which lets other Python threads run meanwhile. It is built
with the package where there is a compiler; without it everything works, in torch alone.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
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


class Field(Structure):
    _fields_ = (("data", c_void_p), ("domain", c_int64), ("row", c_int64))


class Relaxed(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("domains", "rows", "size")),
        *((name, Field) for name in ("coefficients", "lower_slope", "upper_slope", "upper_shift", "lower_shift")),
        *((name, c_void_p) for name in ("out", "constant")),
    )


class Followed(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("domains", "rows", "size")),
        *((name, Field) for name in ("values", "coefficients")),
        *((name, Field) for name in ("lower_slope", "upper_slope", "upper_shift", "lower_shift")),
        ("out", c_void_p),
    )


class Ascent(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "size")),
        ("active", c_void_p),
        ("rate", c_float),
        *((name, c_void_p) for name in ("slope", "parameter", "mean", "square")),
    )


GIVEN = {"bounds": Chain, "relax": Relaxed, "follow": Followed, "ascend": Ascent}
"""The kernels that take one struct."""


class Library:
    """The kernels, on the best instruction set that this processor has (or a lesser `level`)."""

    def __init__(self, path: Path, level: int | None = None) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        found = int(self._library.certify_level())
        self.level = found if level is None else min(level, found)
        if found:
            for name, struct in GIVEN.items():
                getattr(self._library, f"certify_{name}").argtypes = (POINTER(struct), c_int)
            self._library.certify_multiply.argtypes = (c_int64, c_void_p, POINTER(Matrix), c_void_p, c_void_p, c_int)

    def call(self, name: str, given: Structure) -> None:
        """Run the kernel of GIVEN on its struct. Raises MemoryError."""
        if getattr(self._library, f"certify_{name}")(given, self.level):
            raise MemoryError(f"in the kernel {name}")

    def multiply(self, rows: int, a: int, matrix: Matrix, bias: int | None, out: int) -> None:
        """Raises MemoryError."""
        if self._library.certify_multiply(rows, a, matrix, bias, out, self.level):
            raise MemoryError("a product")


@cache
def library() -> Library | None:
    """The kernels; None where they were not built, or where the processor lacks AVX2."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_kernels" + suffix)
        if path.exists():
            found = Library(path)
            return found if found.level else None
    return None
