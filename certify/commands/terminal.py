"""What every command does the same way: results on standard output, everything else on standard error,
and an exit status that never says more than is known.

0 verified or done, 1 falsified, 2 bad input or usage, 3 unknown, 70 a bug of ours, 130 aborted or stopped before
the end, 141 nobody reads the results.
"""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import typer

from certify.budget import Budget
from certify.errors import BadOption, CertifyError
from certify.memory import ran_out

if TYPE_CHECKING:
    from certify.verdict import Verdict

BAD_INPUT, UNKNOWN, BUG, ABORTED, BROKEN_PIPE = 2, 3, 70, 130, 141
GRACE = 0.6  # seconds that a step of the search may overrun --timeout before the answer is given without it
STUCK = 10.0, 60.0  # times --timeout, and seconds at least, that one of many samples or values may overrun it


def emit(line: str) -> None:
    """A result, on standard output, at once."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it would be tried again at the end
        raise BadOption(f"the results cannot be written: {error.strerror}", "send them elsewhere") from error


def say(line: str) -> None:
    """Anything that is not a result, on standard error."""
    print(line, file=sys.stderr, flush=True)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with its exceptions turned into a message and an exit status."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _plainly(warnings.showwarning)
                command(*args, **options)
        except typer.Exit:
            raise
        except CertifyError as error:
            say(f"certify: {error}")
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            say("certify: aborted")
            raise typer.Exit(ABORTED) from error
        except BrokenPipeError as error:  # whoever read our results is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from error
        except Exception as error:
            if ran_out(error):
                say("certify: there is not enough memory for this\n  remedy: give it more, or a smaller network")
                raise typer.Exit(UNKNOWN) from error
            # the interpreter's own exit status for this is 1, which says "falsified" here
            traceback.print_exc()
            say("certify: this is a bug in certify; please report it with the lines above")
            raise typer.Exit(BUG) from error

    return run


def _plainly(show: Callable[..., None]) -> Callable[..., None]:
    """`show` for warnings of others; ours are for the user, who has no use for the place in our source."""

    def plain(message: Warning, category: type[Warning], *place: object, **more: object) -> None:
        if category.__module__.startswith("certify."):
            say(f"certify: warning: {message}")
        else:
            show(message, category, *place, **more)

    return plain


class Stop:
    """While it is entered, the first SIGINT or SIGTERM cancels `budget`, the second one aborts."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._budget.cancelled:
            raise KeyboardInterrupt
        self._budget.cancel()
        os.write(2, b"\ncertify: stopping with what is known; once more aborts\n")


def patience(timeout: float) -> float:
    """Seconds by which one of many samples or values may overrun its timeout. One that takes longer is stuck, and ends
    the others with it: only a process as a whole can be stopped anywhere."""
    times, least = STUCK
    return max(times * timeout, least)


class Watchdog:
    """While it is entered, ends the process with the answer of `conclude` if the budget's time is over and
    the search is still in one of its steps; so --timeout holds whatever the search is doing.

    `conclude` gives the answer and returns the exit status; it is not called once `settle` was. `grace` is how many
    seconds later than the time's end that is.
    """

    def __init__(self, budget: Budget, conclude: Callable[[], int], grace: float = GRACE) -> None:
        self._conclude = conclude
        self._settled = threading.Lock()
        self._timer: threading.Timer | None = None
        if budget.timeout is not None and math.isfinite(budget.timeout):
            delay = min(max(0.0, budget.remaining) + grace, threading.TIMEOUT_MAX)
            self._timer = threading.Timer(delay, self._overrun)
            self._timer.daemon = True

    def __enter__(self) -> Watchdog:
        if self._timer is not None:
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.settle()

    def settle(self) -> None:
        """The search has ended. Does not return if the process is ending already."""
        if self._timer is not None:
            self._settled.acquire()
            self._timer.cancel()
            self._timer = None

    def _overrun(self) -> None:
        if not self._settled.acquire(blocking=False):
            return
        try:
            status = self._conclude()
            sys.stdout.flush()
        except BaseException:  # even then the process must end, and not with the status of a verdict
            traceback.print_exc()
            status = BUG
        os._exit(status)


def result_object(verdict: Verdict, seconds: float) -> dict[str, object]:
    """The fields that every result has in --json; numbers that are not finite, and what does not apply, are null."""
    return {
        "verdict": verdict.name,
        "reason": verdict.reason.name.lower() if verdict.name == "unknown" else None,
        "time_s": round(seconds, 4),
        "grade": verdict.grade.value if verdict.name == "verified" else None,
        "lower": None if verdict.name == "falsified" else finite(verdict.lower),
    }


def finite(number: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(number) if math.isfinite(number) else None


def as_json(fields: dict[str, object]) -> str:
    """One line of strict JSON."""
    return json.dumps(fields, allow_nan=False)


def writable_directory(path: Path) -> Path:
    """The directory, made if it is not there. Raises BadOption if nothing can be written in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".certify-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise BadOption(f"{path} cannot be written: {error.strerror}", "choose another --out") from error
    return path
