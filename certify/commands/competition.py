"""Results as VNN-COMP wants them: a word, and behind `sat` the witness in the format of the property's version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from certify.commands.standard import assignment_lines

if TYPE_CHECKING:
    import numpy as np

    from certify.frontends.question import Question
    from certify.verdict import Verdict

WORDS = {"verified": "unsat", "falsified": "sat", "unknown": "unknown"}


def result_text(verdict: Verdict, asked: Question | None = None) -> str:
    """The whole result: `timeout` where time ran out; of a witness every input and output.

    A property of version 2.0 names them, and so does its witness; else they are flattened.
    """
    from certify.verdict import Reason

    if verdict.name == "unknown" and verdict.reason is Reason.TIMEOUT:
        return "timeout\n"
    lines = [WORDS[verdict.name]]
    if verdict.name == "falsified":
        x, y = verdict.witness.x, verdict.witness.y
        versioned = asked is not None and asked.declared is not None
        lines += assignment_lines(asked.assignment(x, y)) if versioned else _flat(x, y)
    return "\n".join(lines) + "\n"


def _flat(x: np.ndarray, y: np.ndarray) -> list[str]:
    values = [("X", x.tolist()), ("Y", y.tolist())]
    pairs = [f"({letter}_{i} {value!r})" for letter, numbers in values for i, value in enumerate(numbers)]
    return ["(" + "\n".join(pairs) + ")"]


def write_result(path: Path, verdict: Verdict, asked: Question | None = None) -> None:
    """Written at once, so that whoever reads it early finds all of it or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(result_text(verdict, asked), encoding="utf-8")
    part.replace(path)
