"""Checking a witness: exactly inside its region, exactly unsafe, and whether the exact network agrees."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certify.check.bounds import propagate
from certify.check.linear import Network
from certify.check.tree import require_fit
from certify.evidence import Witness
from certify.graph.ir import Graph
from certify.numerics import gamma, inflate, next_down, next_up, require_ieee
from certify.spec.property import Clause
from certify.spec.query import Case, Source

Array = np.ndarray


class Agreement(enum.Enum):
    """What the real-valued function that the graph defines says at the witness's input."""

    CONFIRMED = "the real-valued network is unsafe there too"
    CONTRADICTED = "the real-valued network is safe there: the violation is the runtime's rounding alone"
    WITHIN_ROUNDING = "the real-valued network is within rounding of the boundary there: the violation is the runtime's"


@dataclass(frozen=True)
class WitnessReport:
    """`ok` only if nothing failed; `agreement` is None where x is malformed."""

    ok: bool
    failures: tuple[str, ...]
    agreement: Agreement | None


def check_witness(graph: Graph, cases: Sequence[Case], witness: Witness, source: Source | None = None) -> WitnessReport:
    """Whether witness.x lies in its case's region and witness.y, with x, is unsafe for its clause, exactly.

    y is what a runtime computed. `source`, the original network, is asked again, if given, and must violate
    the clause too; without it, a witness fails where the real-valued network is provably safe at x. Raises
    UnsupportedOp where the checker has no rule for a node, EvidenceRejected for cases that do not fit the network.
    """
    if not (0 <= witness.case < len(cases) and 0 <= witness.clause < len(cases[witness.case].property.clauses)):
        return WitnessReport(False, ("the witness names a case or clause that does not exist",), None)
    case = cases[witness.case]
    clause = case.property.clauses[witness.clause]
    network = Network(graph)
    require_fit(network, cases)
    sizes = ((witness.x, graph.input_size), (witness.y, graph.output_size))
    if any(a.shape != (size,) or a.dtype != np.float64 for a, size in sizes):
        return WitnessReport(False, ("the witness is not two float64 vectors of the network's sizes",), None)
    failures = []
    if not case.region.contains(witness.x):
        failures.append("the witness's input is not in the region")
    if not _unsafe(clause, witness.y, witness.x):
        failures.append("the witness's output is not unsafe")
    if source is not None and not failures and not _unsafe(clause, source(witness.x), witness.x):
        failures.append(f"{source.name}, asked again, does not violate the property")
    agreement = real_agreement(network, clause, witness.x) if np.isfinite(witness.x).all() else None
    if agreement is Agreement.CONTRADICTED and source is None:
        failures.append(agreement.value)
    return WitnessReport(not failures, tuple(failures), agreement)


def _unsafe(clause: Clause, y: Array, x: Array) -> bool:
    return clause.unsafe(np.concatenate([y, x])[: clause.matrix.shape[1]])


def real_agreement(network: Network, clause: Clause, x: Array) -> Agreement:
    """Whether `clause` is unsafe at x (d,) for the real-valued function of the graph, as far as outward
    rounding can tell."""
    require_ieee()
    point = np.asarray(x, np.float64)[None]
    with np.errstate(all="ignore"):
        bounds = propagate(network, point, point)
        lower, upper = (
            np.concatenate([side[-1].reshape(-1), point[0]])[: clause.matrix.shape[1]]
            for side in (bounds.lower, bounds.upper)
        )
        positive, negative = np.maximum(clause.matrix, 0), np.minimum(clause.matrix, 0)
        terms = 2 * clause.matrix.shape[1] + 4
        size = np.abs(clause.matrix) @ np.maximum(np.abs(lower), np.abs(upper)) + np.abs(clause.offset)
        error = inflate(gamma(terms) * size, terms)
        least = next_down(positive @ lower + negative @ upper - clause.offset - error)
        most = next_up(positive @ upper + negative @ lower - clause.offset + error)
    if (np.where(clause.strict, most < 0, most <= 0)).all():
        return Agreement.CONFIRMED
    if (np.where(clause.strict, least >= 0, least > 0)).any():
        return Agreement.CONTRADICTED
    return Agreement.WITHIN_ROUNDING
