"""How the process keeps memory that it has freed.

The C library gives large blocks back to the system at once and asks for them again a moment later, page by page,
each zeroed anew: a search, whose tensors live for milliseconds, was measured to spend a quarter of its time so.
"""

from __future__ import annotations

import ctypes
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
