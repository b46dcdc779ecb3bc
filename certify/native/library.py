"""The compiled kernels, if they were built and this processor can run them.

The library is plain C, called through ctypes, which lets other Python threads run meanwhile. It is built
with the package where there is a compiler; without it everything works, in torch alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import warnings
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def sources(folder: Path) -> list[Path]:
    """What the library in this folder is compiled from."""
    return sorted(path for end in ("cpp", "h", "inl") for path in folder.glob(f"*.{end}"))


def fingerprint(folder: Path) -> str:
    """A digest of the sources, which the library repeats if it was built from them."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources(folder))).hexdigest()[:16]


class Stale(UserWarning):
    """The compiled library does not belong to the sources beside it."""


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


class Kinked(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("domains", "boxes", "rows", "size")),
        *((name, c_void_p) for name in ("lower", "upper")),
        ("slope", Field),
        *((name, c_void_p) for name in ("lower_slope", "upper_slope", "upper_shift")),
    )


class Ascent(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "size")),
        ("active", c_void_p),
        ("rate", c_float),
        *((name, c_void_p) for name in ("slope", "parameter", "mean", "square")),
    )


class Taps(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("targets", "read", "made", "width")),
        *((name, c_void_p) for name in ("begin", "source", "tap", "weights")),
    )


class Move(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("kind", "source", "to", "add", "size", "which")),
        ("taps", POINTER(Taps)),
        *((name, c_void_p) for name in ("vector", "shift")),
        ("factor", c_float),
    )


class Layer(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("size", "kept")),
        ("place", c_void_p),
        *((name, Field) for name in ("lower_slope", "upper_slope", "upper_shift")),
        *((name, c_void_p) for name in ("coefficients", "slope", "mean", "square")),
    )


class Sweep(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("count", "clauses", "vectors", "threads", "shared")),
        ("row", c_void_p),
        *((name, c_int64) for name in ("inputs", "outputs", "room", "start", "form", "point")),
        *((name, c_void_p) for name in ("input_place", "output_place", "lower", "upper")),
        ("rows", Field),
        *((name, c_void_p) for name in ("pick", "offset")),
        *((name, c_int64) for name in ("back_count", "forth_count", "layer_count")),
        ("back", POINTER(Move)),
        ("forth", POINTER(Move)),
        ("layers", POINTER(Layer)),
        *((name, c_void_p) for name in ("input", "constant", "value")),
        *((name, c_int64) for name in ("ascend", "first", "until", "steps", "trial")),
        *((name, c_float) for name in ("threshold", "decay", "rate", "multiplier_rate")),
        *((name, c_void_p) for name in ("best", "initial", "done")),
        ("depth", c_int64),
        *((name, c_void_p) for name in ("layer", "place", "bent", "sign")),
        *((name, c_void_p) for name in ("multiplier", "mean", "square", "scale")),
    )


GIVEN = {"bounds": Chain, "relax": Relaxed, "follow": Followed, "kinked": Kinked, "ascend": Ascent, "sweep": Sweep}
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
    """The kernels; None where they were not built, or where the processor lacks AVX2. A library that was built from
    other sources is left alone, with a warning: its structs may be laid out in another way."""
    folder = Path(__file__).parent
    for suffix in EXTENSION_SUFFIXES:
        path = folder / ("_kernels" + suffix)
        if not path.exists():
            continue
        if sources(folder) and _built_from(path) != fingerprint(folder):
            what = f"{path} was not built from the sources beside it: torch does its work, slower"
            warnings.warn(f"{what}. To build it anew: python setup.py build_ext --inplace", Stale, stacklevel=2)
            return None
        found = Library(path)
        return found if found.level else None
    return None


def _built_from(path: Path) -> str | None:
    """The fingerprint that a library repeats; None if it has none or cannot be loaded."""
    try:
        told = ctypes.CDLL(str(path)).certify_sources
    except (OSError, AttributeError):
        return None
    told.restype = ctypes.c_char_p
    return told().decode()
