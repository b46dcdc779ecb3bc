"""The README's examples, run as they stand, in an empty folder, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block but those that call make."""
    found = BLOCK.findall(README.read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if not text.startswith("make ")]


def promised(text: str) -> list[str]:
    """The outputs that comments promise: `print(...)  # this` in Python, a line `# this` in the shell."""
    return re.findall(r"(?:^|print\(.*\)  )# (\w+)$", text, re.MULTILINE)


@pytest.mark.slow
def test_the_examples_run_and_print_what_they_promise(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    promises = 0
    for language, text in blocks():
        command = {"python": [sys.executable, "-c", text], "sh": ["bash", "-e", "-c", text]}[language]
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        words = re.findall(r"\w+", done.stdout)
        for word in promised(text):
            assert word in words, f"{text}\npromises {word!r}, prints\n{done.stdout}"
            promises += 1
    assert promises == 5


def test_it_begins_with_the_two_commands() -> None:
    first = BLOCK.search(README.read_text(encoding="utf-8"))
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[2].splitlines()] == ["make demo", "make test"]
