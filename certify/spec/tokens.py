"""Text of any length as S-expression tokens with their places; one block of it is held at a time."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from certify.errors import MalformedSpec

BLOCK = 1 << 20
SPACE = re.compile(r"\s*", re.ASCII)
# Every token takes the white space behind it, so that the scanner always stands on a token. A search
# never skips anything but white space, as each other character begins one of the alternatives.
TOKEN = re.compile(r'([()]|;[^\n]*|"[^"]*"|\|[^|]*\||[^\s();]+)\s*', re.ASCII)


class Place(NamedTuple):
    """Line and column of a character, both from 1."""

    line: int
    column: int

    def past(self, text: str) -> Place:
        """The place behind `text`, if this is the place of its first character."""
        lines = text.count("\n")
        return Place(self.line + lines, len(text) - text.rfind("\n") if lines else self.column + len(text))


class Scanner:
    """Tokens of a text that arrives in blocks, none of which ends inside a token or a comment."""

    def __init__(self, blocks: Iterable[str], path: str = "") -> None:
        self.path = path
        self._blocks = iter(blocks)
        self._text = ""
        self._at = 0  # where the next token begins
        self._start = 0  # where the last token began
        self._mark, self._place = 0, Place(1, 1)  # a character of the block whose place is known

    def run(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """Matches of `pattern` at the next tokens, each taken as one token, as long as it matches.

        The pattern must take the white space behind it. It sees one block only, so it may miss what
        it would match; whoever uses it as a short cut must manage with `next` alone.
        """
        match = pattern.match
        while found := match(self._text, self._at):
            self._start, self._at = self._at, found.end()
            yield found

    def back(self) -> None:
        """Stand before the last token again, which `run` gave."""
        self._at = self._start

    def next(self) -> str:
        """The next token: a parenthesis, or anything up to white space or one; empty at the end."""
        while True:
            found = TOKEN.match(self._text, self._at)
            if found is None:
                if not self._refill():
                    self._start = self._at
                    return ""
                continue
            self._start, self._at = self._at, found.end()
            token = found.group(1)
            if token[0] != ";":
                return token

    def place(self) -> Place:
        """Where the last token is (the end, if there was none)."""
        self._advance(self._start)
        return self._place

    def error(self, what: str, remedy: str = "", place: Place | None = None) -> MalformedSpec:
        """A refusal that points at the last token, or at `place`."""
        line, column = place or self.place()
        if len(what) > 300:  # a token may be as long as the file
            what = f"{what[:200]} ... {what[-80:]}"
        return MalformedSpec(what, remedy, path=self.path, line=line, column=column)

    def never_closed(self, place: Place) -> MalformedSpec:
        """The refusal for a text that ends before the parenthesis at `place` is closed."""
        return self.error("this '(' is never closed", "add the missing ')'", place)

    def _advance(self, to: int) -> None:
        # Only the text since the last question is looked at, so that all questions together cost one pass.
        text, mark = self._text, self._mark
        lines = text.count("\n", mark, to)
        if lines:
            self._place = Place(self._place.line + lines, to - text.rfind("\n", mark, to))
        elif to != mark:
            self._place = Place(self._place.line, self._place.column + to - mark)
        self._mark = to

    def _refill(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        self._advance(len(self._text))
        self._text, self._mark = block, 0
        self._at = self._start = SPACE.match(block).end()
        return True


def file_blocks(path: str | Path) -> Iterator[str]:
    """The text of a file, plain or gzip (told by its content), in blocks for a `Scanner`.

    Raises MalformedSpec if it cannot be read, is a truncated or damaged gzip file, or not UTF-8.
    """
    return whole_tokens(_decoded(_chunks(path), str(path)))


def line_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Lines, with or without their line ends, in blocks for a `Scanner`."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line if line.endswith("\n") else line + "\n")
        size += len(line)
        if size >= BLOCK:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _chunks(path: str | Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                while chunk := file.read(BLOCK):
                    yield chunk
    except EOFError as error:
        raise MalformedSpec("the gzip file is cut off", "fetch or compress it again", path=str(path)) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        what = f"the gzip file is damaged ({error})"
        raise MalformedSpec(what, "fetch or compress it again", path=str(path)) from error
    except OSError as error:
        raise MalformedSpec(f"cannot be read: {error.strerror}", "check the path", path=str(path)) from error


def _decoded(chunks: Iterable[bytes], path: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
    place = Place(1, 1)
    for chunk in chain(chunks, [b""]):  # the empty chunk ends the text
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line, column = place.past(error.object[: error.start].decode())
            what, remedy = "the file is not UTF-8 text", "give a VNN-LIB file, plain or gzip"
            raise MalformedSpec(what, remedy, path=path, line=line, column=column) from error
        place = place.past(text)
        yield text


def whole_tokens(pieces: Iterable[str]) -> Iterator[str]:
    """The same text cut behind line ends; behind a parenthesis where a line is longer than a piece."""
    held: list[str] = []
    comment = False  # whether the unfinished line may have a comment, in which a parenthesis is no place to cut
    for piece in pieces:
        end = piece.rfind("\n") + 1
        comment = ";" in piece[end:] or (comment and not end)
        if not end and not comment:
            end = piece.rfind(")") + 1
        if end:
            yield "".join(held) + piece[:end]
            held = []
        held.append(piece[end:])
    if any(held):
        yield "".join(held)
