"""Answers as the standard of VNN-LIB 2.0 wants them on standard output (its chapter on the solver's command line)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from certify.commands.terminal import emit, writable_directory

if TYPE_CHECKING:
    from certify.frontends.question import Assigned, Question
    from certify.verdict import Verdict


def answer(verdict: Verdict, asked: Question | None, folder: Path | None) -> int:
    """Print the answer and, behind `sat`, the value of every variable; or write these to `folder`, as TensorProtos.

    Returns the exit status, which says nothing but that there is an answer.
    """
    from certify.verdict import Reason

    words = {"verified": "unsat", "falsified": "sat", "unknown": "unknown"}
    late = verdict.name == "unknown" and verdict.reason is Reason.TIMEOUT
    lines = ["timed-out" if late else words[verdict.name]]
    if verdict.name == "falsified":
        found = _values(verdict, asked)
        if folder is None:
            lines += assignment_lines(found)
        else:
            serialise(found, folder)
    emit("\n".join(lines))
    return 0


def _values(verdict: Verdict, asked: Question) -> list[Assigned]:
    """The witness by declared variables; those of a property of version 1.0 are one vector each."""
    from certify.frontends.question import Assigned
    from certify.spec.declarations import Kind, Variable
    from certify.spec.tokens import Place

    x, y = verdict.witness.x, verdict.witness.y
    if asked.declared is not None:
        return asked.assignment(x, y)
    sides = ("X", Kind.INPUT, x, asked.graph.inputs), ("Y", Kind.OUTPUT, y, asked.graph.outputs)
    return [
        Assigned(Variable(name, kind, "real", value.shape, "", Place(1, 1)), ports[0].dtype, value)
        for name, kind, value, ports in sides
    ]


def assignment_lines(assignment: Sequence[Assigned]) -> list[str]:
    """A header for each variable, and its entries in C order, a line each."""
    lines = []
    for variable, _, value in assignment:
        lines.append(f"{variable.name} {variable.written} [{','.join(map(str, variable.shape))}]")
        lines += [repr(number) for number in value.reshape(-1).tolist()]
    return lines


def serialise(assignment: Sequence[Assigned], folder: Path) -> None:
    """One file NAME.pb for each variable, of the type that the network has for it. Raises BadOption."""
    import numpy as np
    import onnx  # which makes bfloat16 known to NumPy

    writable_directory(folder)
    for variable, kind, value in assignment:
        array = value.astype(np.dtype(kind))
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array), variable.name)
        (folder / f"{variable.name}.pb").write_bytes(tensor.SerializeToString())
