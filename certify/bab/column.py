"""Arrays that grow at their end: in memory while they are small, after that in a file without a name."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import IO

import numpy as np

from certify.errors import CertifyError

Array = np.ndarray


class Column:
    """N entries (N, *shape) of one type, records too, that only become more.

    Beyond `most` bytes they move to a temporary file in the folder that TMPDIR names, which is gone when the
    process ends, however it ends. Raises CertifyError where that file cannot be written.
    """

    def __init__(self, dtype: np.typing.DTypeLike, shape: tuple[int, ...] = (), most: int = sys.maxsize) -> None:
        self.dtype, self.shape, self._most = dtype, shape, most
        self._each = np.dtype(dtype).itemsize * prod(shape)
        self._data: Array = np.zeros((0, *shape), dtype)  # with room for more
        self._file: IO[bytes] | None = None
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def bytes(self) -> int:
        """What the entries take up in memory."""
        return self._data.nbytes

    @property
    def view(self) -> Array:
        """The entries as they are now; they may be changed through it."""
        if self._file is None:
            return self._data[: self._size]
        with _writing():
            self._file.flush()
        return np.asarray(np.memmap(self._file, self.dtype, "r+", shape=(self._size, *self.shape)))

    def extend(self, values: Array) -> None:
        """Append `values` (M, *shape)."""
        values = np.ascontiguousarray(values, self.dtype)
        need = self._size + len(values)
        if self._file is None and need * self._each > self._most:
            with _writing():
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the column)
            self._write(self._data[: self._size])
            self._data = np.zeros((0, *self.shape), self.dtype)
        if self._file is not None:
            self._write(values)
        else:
            if need > len(self._data):
                room = max(need - self._size, self._size)
                self._data = np.concatenate([self.view, np.zeros((room, *self.shape), self.dtype)])
            self._data[self._size : need] = values
        self._size = need

    def _write(self, values: Array) -> None:
        with _writing():
            self._file.write(values.data)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"the evidence outgrew the memory, and {tempfile.gettempdir()} cannot hold it: {error.strerror}"
        raise CertifyError(what, "set TMPDIR to a folder with more room") from error
