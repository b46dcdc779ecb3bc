"""How the process keeps memory that it has freed, and how it is told that there is none left.

The C library gives large blocks back to the system at once and asks for them again a moment later, page by page,
each zeroed anew: a search, whose tensors live for milliseconds, was measured to spend a quarter of its time so.
"""

from __future__ import annotations

import ctypes
import errno
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3)."""

KEPT = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 64 << 20}
"""Bytes: blocks below a gigabyte are reused, and two gigabytes may be free before any is given back."""


def keep_freed_memory() -> None:
    """Let the process reuse freed memory rather than give it back. Does nothing where the C library is not glibc.

    It is for programs, not for a library in somebody else's process: the setting belongs to the whole process.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    for parameter, size in KEPT.items():
        mallopt(parameter, size)


SAID = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "start new thread")
"""What the message of a RuntimeError says that means it: PyTorch has no MemoryError, nor have threads."""


def ran_out(error: BaseException) -> bool:
    """Whether the error says that memory ran out: in Python or NumPy, in a solver, in PyTorch, or as the system was to
    start a thread or a process."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(s in str(error) for s in SAID))
