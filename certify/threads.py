"""How many threads the numerical libraries use during a search.

Search and checker run side by side, one thread each. Left alone, both libraries would start one thread
per core for every product and the threads would wait for one another: on two cores the checker was
measured six times slower so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

LIBRARIES = ThreadpoolController()
"""Those that are loaded; found once, as looking for them takes longer than many a query."""


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
