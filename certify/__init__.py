"""certify: decides whether a neural network does what a property says for every input of a region.

    verdict = certify.verify(network, certify.ball(image, 0.05), certify.robust(label, classes=10))

Data types come with the import, which is cheap; everything that needs torch is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from certify.budget import Budget
from certify.errors import (
    BadOption,
    CertifyError,
    EmptyRegion,
    EvidenceRejected,
    ImportMismatch,
    MalformedNetwork,
    MalformedSpec,
    UnsupportedOp,
)
from certify.evidence import Tree, TreeProof, Witness
from certify.graph.ir import Graph
from certify.spec.property import Clause, Property, clause, robust, targeted
from certify.spec.query import Case, Query
from certify.spec.regions import Region, ball, box
from certify.strategy import Method, Strategy
from certify.verdict import Falsified, Grade, Reason, Unknown, Verdict, Verified

if TYPE_CHECKING:
    from certify.api import Bound, bound, verify
    from certify.bounds.lp import LpBounds
    from certify.bounds.methods import IntervalBounds, LinearBounds, WongKolterBounds, ZonotopeBounds
    from certify.bounds.multi_neuron import MultiNeuronBounds
    from certify.bounds.sdp import SdpBounds, SdpFirstOrderBounds
    from certify.bounds.slopes import Slopes
    from certify.frontends.imported import Imported
    from certify.frontends.load import load_network
    from certify.spec.vnnlib import read_vnnlib

__version__ = "0.1.0"

_LAZY = {
    "Bound": "certify.api",
    "Imported": "certify.frontends.imported",
    "IntervalBounds": "certify.bounds.methods",
    "LinearBounds": "certify.bounds.methods",
    "LpBounds": "certify.bounds.lp",
    "MultiNeuronBounds": "certify.bounds.multi_neuron",
    "SdpBounds": "certify.bounds.sdp",
    "SdpFirstOrderBounds": "certify.bounds.sdp",
    "Slopes": "certify.bounds.slopes",
    "WongKolterBounds": "certify.bounds.methods",
    "ZonotopeBounds": "certify.bounds.methods",
    "Distance": "certify.exact",
    "Metric": "certify.exact",
    "bound": "certify.api",
    "distance": "certify.exact",
    "load_network": "certify.frontends.load",
    "read_vnnlib": "certify.spec.vnnlib",
    "verify": "certify.api",
}

__all__ = [
    "BadOption",
    "Bound",
    "Budget",
    "Case",
    "CertifyError",
    "Clause",
    "Distance",
    "EmptyRegion",
    "EvidenceRejected",
    "Falsified",
    "Grade",
    "Graph",
    "ImportMismatch",
    "Imported",
    "IntervalBounds",
    "LinearBounds",
    "LpBounds",
    "MalformedNetwork",
    "MalformedSpec",
    "Method",
    "Metric",
    "MultiNeuronBounds",
    "Property",
    "Query",
    "Reason",
    "Region",
    "SdpBounds",
    "SdpFirstOrderBounds",
    "Slopes",
    "Strategy",
    "Tree",
    "TreeProof",
    "Unknown",
    "UnsupportedOp",
    "Verdict",
    "Verified",
    "Witness",
    "WongKolterBounds",
    "ZonotopeBounds",
    "ball",
    "bound",
    "box",
    "clause",
    "distance",
    "load_network",
    "read_vnnlib",
    "robust",
    "targeted",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
