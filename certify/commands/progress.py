"""Progress on standard error, drawn only where a person is watching it."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certify.verifier import Progress

PATIENCE = 0.5  # seconds before anything is drawn: most queries are done by then, and rich takes a while to load


class SearchStatus:
    """One line about a running search; call it with each `Progress`.

    `lower` is the best bound that was heard of, `checking` the checker's seconds so far."""

    def __init__(self) -> None:
        self._status = None
        self._watched = sys.stderr.isatty()
        self.lower = float("-inf")
        self.checking = 0.0

    def __call__(self, progress: Progress) -> None:
        self.lower, self.checking = max(self.lower, progress.lower), progress.checking
        if not self._watched or progress.elapsed < PATIENCE:
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
        self._status.update(
            f"{progress.stage}: {progress.done} done, {progress.open} open, "
            f"margin at least {progress.lower:.4g}, {progress.elapsed:.0f} s"
        )

    def __enter__(self) -> SearchStatus:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class Bar:
    """A bar over `total` pieces of work; call it with a count of each outcome."""

    def __init__(self, total: int, what: str) -> None:
        self._bar = None
        self._total, self._what = total, what

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn(self._what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int, description: str) -> None:
        """`done` pieces are finished in all; `description` says how they came out."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=description)
