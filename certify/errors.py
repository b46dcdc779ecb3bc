"""Everything certify refuses, as exceptions that name the place and the remedy.

The command line turns a `CertifyError` into one line on standard error and exit status 2;
any other exception is a bug of ours and is allowed to show its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class CertifyError(Exception):
    """Base of all refusals.

    `what` says what is wrong and where; `remedy`, if known, says what the user can do about it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}\n  remedy: {remedy}" if remedy else what)


class MalformedNetwork(CertifyError):
    """The network's file cannot be read, or what it holds is not a usable network."""


class UnsupportedOp(CertifyError):
    """Operators that a frontend or a method has no rule for; all of them are named at once."""

    def __init__(self, who: str, missing: Sequence[tuple[str, str]], remedy: str = "") -> None:
        self.who = who
        self.missing = tuple(missing)  # (operator, node name)
        by_op: dict[str, list[str]] = {}
        for op, node in self.missing:
            by_op.setdefault(op, []).append(node)
        listed = "; ".join(
            f"{op} (node{'s' if len(nodes) > 1 else ''} {', '.join(repr(n) for n in nodes[:3])}"
            + (f" and {len(nodes) - 3} more)" if len(nodes) > 3 else ")")
            for op, nodes in sorted(by_op.items())
        )
        super().__init__(f"{who}: no rule for {listed}", remedy)


class ImportMismatch(CertifyError):
    """The imported graph does not compute what the original model computes."""


class MalformedSpec(CertifyError):
    """A property file or object that cannot be read, or that does not fit the network."""

    def __init__(self, what: str, remedy: str = "", *, path: str = "", line: int = 0, column: int = 0) -> None:
        self.path, self.line, self.column = path, line, column
        where = f"{path}:" if path else ""
        where += f"{line}:{column}: " if line else (" " if path else "")
        super().__init__(where + what, remedy)


class EmptyRegion(MalformedSpec):
    """The input region holds no point: any proof about it would be vacuous."""


class BadOption(CertifyError):
    """An option's value, a device or an output path that cannot be used."""


class EvidenceRejected(CertifyError):
    """Evidence that does not prove its claim."""
