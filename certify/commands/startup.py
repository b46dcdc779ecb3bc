"""What every start of the program pays, made shorter."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """No look for garbage while libraries are imported, nor among what they brought, ever.

    Hundreds of thousands of objects come with them and stay. Python would look through all of them time and again,
    which takes a fifth of the time that torch takes to be imported.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
