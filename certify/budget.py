"""What a run may use: wall time, memory, and whether somebody asked it to stop; and what parts of it used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from certify.errors import BadOption


@dataclass(eq=False)
class Budget:
    """Seconds of wall time from now (None: no limit) and bytes that bound propagation may use at once.

    `expired` turns true when the time is up or `cancel` was called; long work asks it often.
    """

    timeout: float | None = None
    memory: int = 2 << 30
    started: float = field(default_factory=time.monotonic)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise BadOption(f"a timeout must be positive, not {self.timeout}", "leave it out for no limit")

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def remaining(self) -> float:
        return float("inf") if self.timeout is None else self.timeout - self.elapsed

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def expired(self) -> bool:
        return self.cancelled or self.remaining <= 0

    def cancel(self) -> None:
        """Ask the run to stop at its next look; safe from a signal handler or another thread."""
        self._cancelled.set()

    def part(self, timeout: float | None) -> Budget:
        """A budget of `timeout` seconds from now that ends with this one at the latest; they are cancelled together.

        A part of a budget that is used up is used up too.
        """
        limits = [max(b, 1e-9) for b in (timeout, None if self.timeout is None else self.remaining) if b is not None]
        return Budget(min(limits, default=None), self.memory, _cancelled=self._cancelled)


@dataclass(eq=False)
class Stopwatch:
    """Seconds of processor time that threads spent inside `running`."""

    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what the calling thread does until it leaves."""
        began = time.thread_time()
        try:
            yield
        finally:
            with self._lock:
                self.seconds += time.thread_time() - began
