"""Results as VNN-COMP wants them: a word, and behind `sat` the witness in the format of VNN-LIB 1.0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certify.verdict import Verdict

WORDS = {"verified": "unsat", "falsified": "sat", "unknown": "unknown"}


def result_text(verdict: Verdict) -> str:
    """The whole result: `timeout` where time ran out; of a witness every input and output, flattened."""
    from certify.verdict import Reason

    if verdict.name == "unknown" and verdict.reason is Reason.TIMEOUT:
        return "timeout\n"
    lines = [WORDS[verdict.name]]
    if verdict.name == "falsified":
        values = [("X", verdict.witness.x.tolist()), ("Y", verdict.witness.y.tolist())]
        pairs = [f"({letter}_{i} {value!r})" for letter, numbers in values for i, value in enumerate(numbers)]
        lines.append("(" + "\n".join(pairs) + ")")
    return "\n".join(lines) + "\n"


def write_result(path: Path, verdict: Verdict) -> None:
    """Written at once, so that whoever reads it early finds all of it or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(result_text(verdict), encoding="utf-8")
    part.replace(path)
