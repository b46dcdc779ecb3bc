"""Results of many instances in one CSV file: each row is on the disk before the next instance starts.

A run that stops anywhere, by Ctrl-C, by a crash of the process or of the machine, loses at most the
instance it was working on, and goes on behind the last row when started again.
"""

from __future__ import annotations

import csv
import errno
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Generic, TextIO, TypeVar

from certify.errors import BadOption


@dataclass(frozen=True)
class Result:
    """One row: an instance, what came out (verified, falsified, unknown or error), and in how many seconds.

    `expected` is "sat", "unsat", "unknown" or empty; `lower` the least proved margin, empty if none;
    `message` holds the details of an error or of an unknown verdict.
    """

    category: str
    onnx: str
    vnnlib: str
    timeout_s: float
    expected: str
    verdict: str
    reason: str = ""
    grade: str = ""
    lower: str = ""
    time_s: float = 0.0
    message: str = ""

    @property
    def key(self) -> tuple[str, str, str, float]:
        return (self.category, self.onnx, self.vnnlib, self.timeout_s)

    @property
    def contrary(self) -> bool:
        """Whether the verdict contradicts what is expected."""
        return (self.verdict, self.expected) in (("verified", "sat"), ("falsified", "unsat"))


Row = TypeVar("Row")


class ResultStore(Generic[Row]):
    """A CSV file of results, open for appending; a context manager that holds a lock on the file.

    Its columns are the fields, strings and floats, of the dataclass `row`, which has a `key` of strings and floats.

    A row that a crash cut short is removed on opening. `started` leaves a note beside the file that
    names the instance being worked on; where such a note is found on opening, the process died on that
    instance, which `crashed` then names, so that a caller can record it rather than die on it again.
    Raises BadOption if the file cannot be written, is in use, or is not such a file.
    """

    def __init__(self, path: str | Path, row: type[Row] = Result) -> None:
        self.path, self.row = Path(path), row
        self.columns = tuple(field.name for field in fields(row))
        self.note = self.path.with_name(self.path.name + ".running")
        self.results: list[Row] = []
        self.crashed: tuple[str, ...] | None = None

    def __enter__(self) -> ResultStore:
        try:
            self._file = open(self.path, "a+", newline="", encoding="utf-8")
        except OSError as error:
            raise BadOption(f"{self.path} cannot be written: {error.strerror}", "choose another --out") from error
        try:
            _lock(self._file, self.path)
            self._read()
            if self.note.exists():
                self.crashed = tuple(self.note.read_text(encoding="utf-8").splitlines())
                self.note.unlink()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.note.unlink(missing_ok=True)  # an orderly end, even by an exception, is no crash
        self._file.close()

    def started(self, key: tuple[str, str, str, float]) -> None:
        """Note that the work on this instance begins."""
        self.note.write_text("\n".join(map(str, key)), encoding="utf-8")

    def append(self, result: Row) -> None:
        """Put the row on the disk."""
        self._write([_one_line(value) for value in asdict(result).values()])
        self.note.unlink(missing_ok=True)
        self.results.append(result)

    def _read(self) -> None:
        self._file.seek(0)
        try:
            text = self._file.read()
        except UnicodeDecodeError as error:
            raise self._foreign() from error
        complete = text[: text.rfind("\n") + 1]
        rows = list(csv.reader(complete.split("\n")[:-1]))
        header = ",".join(self.columns)
        if tuple(rows[0]) != self.columns if rows else not header.startswith(text):
            raise self._foreign()
        for row in rows[1:]:
            try:
                entry = dict(zip(self.columns, row, strict=True))
                numbers = {field.name: float(entry[field.name]) for field in fields(self.row) if field.type == "float"}
            except ValueError as error:
                raise self._foreign() from error
            self.results.append(self.row(**{**entry, **numbers}))
        if len(complete) < len(text):  # a crash in the middle of a row
            self._file.truncate(len(complete.encode()))
        if not rows:
            self._write(self.columns)

    def _write(self, row: object) -> None:
        csv.writer(self._file, lineterminator="\n").writerow(row)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _foreign(self) -> BadOption:
        return BadOption(f"{self.path} holds something other than results of this program", "choose another --out")


def hold(folder: Path) -> TextIO:
    """The folder's lock, held until the file is closed or the process ends, in whatever way; a process may take it
    again. Raises BadOption, which names the process, if another one holds it. Where the system or the file system has
    no locks, there is none.
    """
    file = open(folder / "run.lock", "a+", encoding="utf-8")  # noqa: SIM115
    try:
        import fcntl
    except ImportError:  # not a Unix
        return file
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return file
        file.seek(0)
        other = f"process {file.read().strip()}"
        file.close()
        remedy = "wait for it, or choose another --out"
        raise BadOption(f"{folder} is being written by another run, {other}", remedy) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _one_line(value: object) -> object:
    return " | ".join(value.splitlines()) if isinstance(value, str) else value


def _lock(file: object, path: Path) -> None:
    """Refuse a file that another process writes to, where the system has advisory locks."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BadOption(f"{path} is being written by another run", "wait for it, or choose another --out") from error
