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


class Field(Structure):
    _fields_ = (("data", c_void_p), ("domain", c_int64), ("row", c_int64))


class Through(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("domains", "rows", "size")),
        *((name, Field) for name in ("coefficients", "lower_slope", "upper_slope", "upper_shift", "lower_shift")),
        ("bias", c_void_p),
        ("matrix", Matrix),
        *((name, c_int64) for name in ("depth", "node")),
        *((name, c_void_p) for name in ("split_node", "split_index", "amount", "out", "constant")),
    )


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


class Ascent(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("domains", "rows", "size")),
        *((name, Field) for name in ("coefficients", "read", "lower_gain", "upper_gain")),
        ("active", c_void_p),
        ("rate", c_float),
        *((name, c_void_p) for name in ("parameter", "mean", "square")),
    )


class Library:
    """The kernels, each bound to the best instruction set that this processor has."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self.level = int(self._library.certify_level())
        if self.level:
            self._library.certify_through.argtypes = (POINTER(Through), c_int)
            self._library.certify_bounds.argtypes = (POINTER(Chain), c_int)
            self._library.certify_ascend.argtypes = (POINTER(Ascent), c_int)
            self._library.certify_multiply.argtypes = (c_int64, c_void_p, POINTER(Matrix), c_void_p, c_void_p, c_int)

    def through(self, given: Through) -> None:
        self._library.certify_through(given, self.level)

    def bounds(self, given: Chain) -> None:
        self._library.certify_bounds(given, self.level)

    def ascend(self, given: Ascent) -> None:
        self._library.certify_ascend(given, self.level)

    def multiply(self, rows: int, a: int, matrix: Matrix, bias: int | None, out: int) -> None:
        self._library.certify_multiply(rows, a, matrix, bias, out, self.level)


@cache
def library() -> Library | None:
    """The kernels; None where they were not built, or where the processor lacks AVX2."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_kernels" + suffix)
        if path.exists():
            found = Library(path)
            return found if found.level else None
    return None
