"""Verdicts: verified, falsified, unknown. None can be built without what it rests on."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from certify.errors import CertifyError
from certify.evidence import TreeProof, Witness


class Reason(enum.Enum):
    """Why a verdict is unknown; the value is the remedy."""

    TIMEOUT = "raise --timeout"
    INTERRUPTED = "run it again; it was stopped"
    MEMORY = "give it more memory, or a smaller network"
    REJECTED = "the checker did not accept the proof; report it with the saved evidence"
    STUCK = "the search cannot split any further (the margin may be zero, or the operator not piecewise linear)"
    SOLVER = "the solver gave no answer; try another --solver, or none"
    INCOMPLETE = "the method used is incomplete; use --method auto"


class Grade(enum.Enum):
    """How far a verified verdict was checked."""

    CHECKED = "checked"
    """The independent checker replayed its evidence."""
    RECOMPUTED = "recomputed"
    """Trusted: the code of the method, which computed the bound anew from a solver's multipliers, rounding outward, but
    left no evidence that could be replayed."""
    TRUSTED = "trusted: MIP solver"
    """Trusted: a mixed-integer solver's word for the least margin. It computes in floating point, with tolerances, and
    its tree of cuts and bounds leaves nothing that could be replayed."""
    VACUOUS = "vacuous"
    """There was nothing to prove."""


@dataclass(frozen=True, eq=False)
class Verified:
    """Every case holds of the real-valued function that the graph defines. `detail` says whose word it is where the
    grade is one of trust."""

    evidence: TreeProof | None
    grade: Grade
    lower: float = float("inf")
    detail: str = ""
    name = "verified"

    def __post_init__(self) -> None:
        if self.evidence is None and self.grade is Grade.CHECKED:
            raise CertifyError("a verified verdict needs its evidence")


@dataclass(frozen=True, eq=False)
class Falsified:
    """An input in the region that, given to the original network, violates the property."""

    witness: Witness
    name = "falsified"

    def __post_init__(self) -> None:
        if not isinstance(self.witness, Witness):
            raise CertifyError("a falsified verdict needs its witness")


@dataclass(frozen=True, eq=False)
class Unknown:
    """Neither proved nor refuted. `lower` is the least proved margin so far (-inf if none), for information."""

    reason: Reason
    lower: float = float("-inf")
    detail: str = ""
    name = "unknown"


Verdict = Verified | Falsified | Unknown
EXIT_STATUS = {"verified": 0, "falsified": 1, "unknown": 3}
