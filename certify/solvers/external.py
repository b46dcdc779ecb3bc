"""Mixed-integer programs on a solver of the user's own, through PuLP (Mitchell, O'Sullivan & Dunning 2011).

The solver runs in a process of its own, which ends when its time is up, when it is told to stop or when ours has
ended, and which may die without harm. Answers are hints, as those of `certify.solvers.highs`: of one that contradicts
itself nothing is kept. The only module that imports pulp, on first use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from certify.errors import BadOption
from certify.solvers.csr import Csr, compressed
from certify.solvers.highs import (
    Limits,
    LinearProgram,
    Listener,
    MixedProgram,
    MixedSolution,
    Status,
    below,
    manageable,
    solve_mixed,
)
from certify.strategy import Solver

Array = np.ndarray

NAMES = {
    Solver.CBC: ("PULP_CBC_CMD", "COIN_CMD"),
    Solver.SCIP: ("SCIP_PY", "SCIP_CMD"),
    Solver.GUROBI: ("GUROBI", "GUROBI_CMD"),
    Solver.CPLEX: ("CPLEX_PY", "CPLEX_CMD"),
}
"""What PuLP calls them: through their Python package, or else as a program."""

GETTING = {
    Solver.CBC: "install it as a program named cbc (PuLP brings one along for most machines)",
    Solver.SCIP: "pip install pyscipopt, or install the program scip",
    Solver.GUROBI: "pip install gurobipy, with a licence, or install the program gurobi_cl",
    Solver.CPLEX: "pip install cplex, or install the program cplex",
}

OPTIONS = {"PULP_CBC_CMD": ["primalTolerance 1e-9", "dualTolerance 1e-9", "integerTolerance 1e-9"]}
"""Options of solvers of which we know how they are told tolerances."""

FEASIBLE = 1e-5
"""By how much, relatively, a point may miss a row or a bound, or a whole number, and still count as what was asked."""

POLL, GRACE = 0.02, 1.0
"""Seconds between two looks at the process; and how long after its time is up the solver may take to say what it
has, before it is ended."""

LOOK = 0.5
"""Seconds between two looks at whether the parent is still there."""

NO_MEMORY = 3
"""Exit status of a process that ran out of memory."""

WORK = "import sys; from certify.solvers.external import work; work(*sys.argv[1:])"


class SolveMixed(Protocol):
    """As `certify.solvers.highs.solve_mixed`."""

    def __call__(
        self,
        program: MixedProgram,
        limits: Limits | None = None,
        start: Array | None = None,
        better: Listener | None = None,
    ) -> MixedSolution: ...


def mixed_solver(solver: Solver) -> SolveMixed:
    """What solves mixed-integer programs for this option. Raises BadOption where it is not installed."""
    if solver not in NAMES:
        return solve_mixed
    if find_spec("pulp") is None:
        raise BadOption(f"--solver {solver.value} needs PuLP, which is not installed", "pip install pulp")
    import pulp

    for name in NAMES[solver]:
        if name in pulp.listSolvers() and pulp.getSolver(name, msg=False).available():
            return External(name)
    raise BadOption(
        f"--solver {solver.value}: PuLP finds no such solver ({', '.join(NAMES[solver])})",
        f"{GETTING[solver]}; or use --solver highs",
    )


@dataclass(frozen=True)
class External:
    """The solver that PuLP knows by this name.

    It hears neither of `start` nor of limits.target and limits.above, and `better` is told of its last point alone. It
    has no bound to tell before the optimum.
    """

    name: str

    def __call__(
        self,
        program: MixedProgram,
        limits: Limits | None = None,
        start: Array | None = None,
        better: Listener | None = None,
    ) -> MixedSolution:
        limits = limits or Limits()
        linear = program.linear if np.isinf(limits.cutoff) else below(program.linear, limits.cutoff)
        if not manageable(linear) or limits.seconds <= 0:
            return MixedSolution(Status.STOPPED)
        with tempfile.TemporaryDirectory(prefix="certify-") as folder:
            _write(Path(folder) / "program.npz", linear, program.integer, limits)
            ended, detail = _run(self.name, folder, limits)
            if ended is not None:
                return MixedSolution(ended, detail=detail)
            found = _read(Path(folder) / "answer.npz")
        found = consistent(found, MixedProgram(linear, program.integer), limits.gap)
        if better is not None and found.x is not None:
            better(found.objective, found.x)
        return found


def consistent(found: MixedSolution, program: MixedProgram, gap: float) -> MixedSolution:
    """What is left of an answer of which nothing but status and x is believed: an optimum without a feasible point is
    none, and the objective is that of the point."""
    linear, x = program.linear, found.x
    if x is not None and not (x.shape == linear.cost.shape and _feasible(program, x)):
        x = None
    if x is None:
        kept = found.status not in (Status.OPTIMAL, Status.REACHED)
        status = found.status if kept else Status.STOPPED
        return MixedSolution(status, detail=found.detail if kept else "its answer does not satisfy the program")
    objective = float(linear.cost @ x)
    if found.status is Status.INFEASIBLE:
        return MixedSolution(Status.STOPPED, detail="it calls a program infeasible of which it has a point")
    bound = objective - gap if found.status is Status.OPTIMAL else float("-inf")
    return MixedSolution(found.status, bound, objective, x, found.detail)


def _feasible(program: MixedProgram, x: Array) -> bool:
    linear = program.linear
    matrix = linear.matrix if isinstance(linear.matrix, Csr) else compressed(linear.matrix)
    sizes = 1 + np.maximum(Csr(matrix.start, matrix.index, np.abs(matrix.value), matrix.columns).times(np.abs(x)), 0.0)
    rows, whole = matrix.times(x), x[program.integer]
    return bool(
        np.isfinite(x).all()
        and (rows >= linear.row_lower - FEASIBLE * sizes).all()
        and (rows <= linear.row_upper + FEASIBLE * sizes).all()
        and (x >= linear.lower - FEASIBLE * (1 + np.abs(x))).all()
        and (x <= linear.upper + FEASIBLE * (1 + np.abs(x))).all()
        and (np.abs(whole - np.rint(whole)) <= FEASIBLE).all()
    )


def _run(name: str, folder: str, limits: Limits) -> tuple[Status | None, str]:
    """Let a process solve the program in the folder; a status if there is no answer, and what it said then."""
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    said = Path(folder) / "said"
    with said.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", WORK, folder, name, str(os.getpid())],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # so that what it starts ends with it, and Ctrl-C reaches us alone
        )
        try:
            ended = _wait(child, limits)
        finally:
            _end(child)
    if ended is not None:
        return ended, ""
    if child.returncode == 0:
        return None, ""
    words = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    killed = child.returncode in (NO_MEMORY, -signal.SIGKILL)  # which is what systems do that are out of memory
    return Status.MEMORY if killed else Status.STOPPED, words[-1] if words else f"exit status {child.returncode}"


def _wait(child: subprocess.Popen[bytes], limits: Limits) -> Status | None:
    """Until the process has ended by itself (None), or must be ended."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL)
            return None
        if limits.stop is not None and limits.stop():
            return Status.CANCELLED
        if time.monotonic() - began > limits.seconds + GRACE:
            return Status.STOPPED


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process, and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()


def _write(path: Path, linear: LinearProgram, integer: Array, limits: Limits) -> None:
    matrix = linear.matrix if isinstance(linear.matrix, Csr) else compressed(linear.matrix)
    np.savez(
        path,
        cost=linear.cost,
        lower=linear.lower,
        upper=linear.upper,
        start=matrix.start,
        index=matrix.index,
        value=matrix.value,
        row_lower=linear.row_lower,
        row_upper=linear.row_upper,
        integer=integer,
        limits=np.array([limits.seconds, limits.gap, limits.threads]),
    )


def _read(path: Path) -> MixedSolution:
    """The answer in the file, as it is."""
    with np.load(path, allow_pickle=False) as answer:
        status, x = Status(str(answer["status"])), answer["x"].astype(np.float64)
    return MixedSolution(status, x=x if x.size else None)


def work(folder: str, name: str, parent: str) -> None:
    """What the process does: solve the program in the folder by this solver, and leave the answer there, for the
    process of this id."""
    threading.Thread(target=_end_after, args=(int(parent), folder), daemon=True).start()
    try:
        with np.load(Path(folder) / "program.npz", allow_pickle=False) as file:
            status, x = _solved(dict(file), name)
    except MemoryError:
        sys.exit(NO_MEMORY)
    np.savez(Path(folder) / "answer.npz", status=np.array(status.value), x=x)


def _end_after(parent: int, folder: str) -> None:
    """Once the parent has ended, nobody wants the answer: end this process and what it started, with their files."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _solved(given: dict[str, Array], name: str) -> tuple[Status, Array]:
    """The status, and the point (n,), empty if there is none."""
    import pulp

    problem, columns = _problem(given)
    seconds, gap, threads = given["limits"].tolist()
    options: dict[str, Any] = {"msg": False, "gapRel": 0.0, "gapAbs": gap, "threads": int(threads)}
    if name in OPTIONS:
        options["options"] = OPTIONS[name]
    if np.isfinite(seconds):
        options["timeLimit"] = seconds
    problem.solve(pulp.getSolver(name, **options))
    status = {
        pulp.LpStatusInfeasible: Status.INFEASIBLE,
        pulp.LpStatusUnbounded: Status.UNBOUNDED,
    }.get(problem.status, Status.OPTIMAL if problem.sol_status == pulp.LpSolutionOptimal else Status.STOPPED)
    there = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    values = [column.varValue for column in columns] if there else []
    return status, np.array([] if None in values else values, np.float64)


def _problem(given: dict[str, Array]) -> tuple[Any, list[Any]]:
    """PuLP's problem, and its variables in order."""
    import pulp

    def end(x: float) -> float | None:
        return x if np.isfinite(x) else None

    problem = pulp.LpProblem("program", pulp.LpMinimize)
    columns = [
        pulp.LpVariable(f"x{j}", end(low), end(up), pulp.LpInteger if whole else pulp.LpContinuous)
        for j, (low, up, whole) in enumerate(
            zip(*(given[k].tolist() for k in ("lower", "upper", "integer")), strict=True)
        )
    ]
    problem.setObjective(pulp.LpAffineExpression(zip(columns, given["cost"].tolist(), strict=True)))
    start, index, value = (given[k].tolist() for k in ("start", "index", "value"))
    for r, (low, up) in enumerate(zip(given["row_lower"].tolist(), given["row_upper"].tolist(), strict=True)):
        entries = [(columns[index[k]], value[k]) for k in range(start[r], start[r + 1])]
        sides = [(pulp.LpConstraintEQ, low)] if low == up else [(pulp.LpConstraintGE, low), (pulp.LpConstraintLE, up)]
        for sense, side in sides:
            if np.isfinite(side):
                problem.addConstraint(pulp.LpConstraint(pulp.LpAffineExpression(entries), sense, rhs=side))
    return problem, columns
