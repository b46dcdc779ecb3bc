"""How many threads are used during a search.

Search and checker run side by side, one thread each for the numerical libraries. Left alone, both libraries
would start one thread per core for every product and the threads would wait for one another: on two cores the
checker was measured six times slower so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

LIBRARIES = ThreadpoolController()
"""Those that are loaded; found once, as looking for them takes longer than many a query."""

MOST_FOR_KERNELS = 32


@contextmanager
def one_thread_each() -> Iterator[None]:
    """One thread for torch's operations and one for NumPy's matrix products; restored on leaving."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with LIBRARIES.limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def for_kernels() -> int:
    """How many threads a compiled kernel with much to do may use: one per core that the process has, or as many as
    OMP_NUM_THREADS says. Its threads share nothing but the next block of work, so they do not wait for one another."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_FOR_KERNELS)
