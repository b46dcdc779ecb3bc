"""A slice of the fuzz of the property reader, and that the fuzz would see a reader that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from certify.errors import MalformedSpec
from certify.spec.formula import Reader
from tests.fuzz.vnnlib import campaign


def test_damaged_files_are_refused_at_their_place_or_read_right(tmp_path: Path) -> None:
    report = campaign(400, 1, tmp_path / "p.vnnlib")
    assert report.problems == []
    assert report.counts["same meaning"] > 40
    assert report.counts["refused"] > 200


def test_the_fuzz_sees_a_reader_that_confuses_strict_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Reader._impose
    monkeypatch.setattr(
        Reader, "_impose", lambda self, into, term, strict, place: right(self, into, term, False, place)
    )
    assert any("the file says" in problem for problem, _ in campaign(150, 1, tmp_path / "p.vnnlib").problems)


@pytest.mark.parametrize(
    ("raises", "says"), [(KeyError("x"), "KeyError"), (MalformedSpec("no", "do"), "no place or remedy")]
)
def test_the_fuzz_sees_a_reader_that_breaks(
    raises: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise raises

    monkeypatch.setattr(Reader, "_compare", broken)
    assert any(says in problem for problem, _ in campaign(20, 1, tmp_path / "p.vnnlib").problems)
