"""How to verify: the options of a run, each one line."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import Any

from certify.errors import BadOption


class Method(enum.Enum):
    """auto goes from the cheapest to a complete search; the others stop where their name says."""

    AUTO = "auto"
    INTERVAL = "interval"
    ZONOTOPE = "zonotope"
    WONG_KOLTER = "wong-kolter"
    LINEAR = "linear"
    LP = "lp"
    MULTI_NEURON = "multi-neuron"
    SDP = "sdp"
    SDP_FO = "sdp-fo"
    LIPSCHITZ = "lipschitz"
    INPUT_SPLIT = "input-split"
    NEURON_SPLIT = "neuron-split"
    MIP = "mip"


class Solver(enum.Enum):
    """Who solves mixed-integer programs. `own` searches on linear programs and proves what it says; what another one
    says of a whole program is believed, and graded as that."""

    OWN = "own"
    HIGHS = "highs"
    CBC = "cbc"
    SCIP = "scip"
    GUROBI = "gurobi"
    CPLEX = "cplex"


def option(default: Any, help: str, least: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True)
class Strategy:
    """Options of a run. Raises BadOption for a value out of range."""

    method: Method = option(Method.AUTO, "how to bound and search")
    solver: Solver = option(Solver.OWN, "whose search is used by mip; what others than own say is believed, not proved")
    device: str = option("cpu", "where to compute: cpu, cuda, cuda:1, ...")
    seed: int = option(0, "seed of the attack's random starting points", 0)
    steps: int = option(30, "steps of the attack before bounding; 0 for no attack", 0)
    restarts: int = option(20, "starting points of the attack per clause", 1)
    patience: float = option(
        0.3, "seconds that neuron splits go on before intermediate bounds are optimised; inf for never", 0
    )
    only_inputs_below: int = option(6, "never split neurons when at most this many inputs vary", 0)
    only_neurons_above: int = option(32, "never split inputs when more than this many vary", 0)

    def __post_init__(self) -> None:
        for f in fields(self):
            least, value = f.metadata.get("least"), getattr(self, f.name)
            if least is not None and value < least:
                raise BadOption(f"{f.name} must be at least {least}, not {value}")
        if self.solver is not Solver.OWN and self.method not in (Method.AUTO, Method.MIP):
            raise BadOption(f"--method {self.method.value} asks no solver", "use --method mip with --solver")
