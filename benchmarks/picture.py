"""Pictures as PNG, drawn by matplotlib, which is imported for nothing else and comes with an extra."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def drawable(path: Path) -> bool:
    """Whether there is what draws `path`; if not, a line on standard error says so: what was computed is none the
    worse."""
    found = find_spec("matplotlib") is not None
    if not found:
        print(f"{path} is not drawn: matplotlib is not installed (pip install 'certify-nn[demo]')", file=sys.stderr)
    return found


@contextmanager
def picture(
    path: Path,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (8.0, 5.0),
    layout: str = "constrained",
    dpi: int = 120,
    **axes: Any,
) -> Iterator[tuple[Any, Any]]:
    """A figure of `size` inches and its axes, as `Figure.subplots` makes them; the file is there when the block has
    ended. Raises ImportError where matplotlib is not installed."""
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and asks for a screen

    figure = Figure(size, layout=layout)
    yield figure, figure.subplots(rows, columns, **axes)
    figure.savefig(path, dpi=dpi)
