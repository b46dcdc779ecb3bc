"""Exactness: distances and verdicts of small random networks beside exhaustive enumeration of activation patterns.

python -m benchmarks.exactness --count 500 --out DIR [--seconds 30] [--solving 300] [--searching 5]
                                                                      goes on where it stopped
python -m benchmarks.exactness --out DIR --report                     what came out so far

A piecewise-linear network of two or three inputs and at most 40 unstable neurons, and an unsafe set of one or two
half-spaces. The truth is the least distance, in L-infinity, L1 and L2, over the polytopes on which the network is
affine; `tests.exact` finds all of them in integer arithmetic, so this runs from the repository only. Compared are what
the mixed-integer program says, both bounds of `certify.exact.distance`, and verdicts just inside and just outside, by
the default search and by the one on linear programs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import entry
from benchmarks.robust import SampleStore, stored
from certify.bounds.intermediate import intermediate, unstable
from certify.budget import Budget
from certify.exact import Metric, distance
from certify.frontends.imported import Imported
from certify.graph import ops
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Graph, Port
from certify.mip.distance import bounded
from certify.mip.distance import nearest as least_distance
from certify.mip.tighten import Effort
from certify.solvers.highs import LinearProgram, Status, solve
from certify.spec.inputset import stack
from certify.spec.property import Clause, Property, clause
from certify.spec.query import Case, Query
from certify.spec.regions import box
from certify.strategy import Method, Strategy
from certify.verifier import verify

Array = np.ndarray

NORMS = {"inf": np.inf, "1": 1.0, "2": 2.0}
MOST_UNSTABLE, MOST_CELLS = 40, 3000
NEURONS = 56
NEAR = 1e-6
"""By so much may distances differ and agree; and so far, relatively, inside and outside the true one verdicts are
asked."""

KINDS = (ops.Relu(), ops.Relu(), ops.LeakyRelu(np.array(0.125)), ops.Abs(), ops.Clip(-0.5, 1.0))


@dataclass(frozen=True)
class Compared:
    """One network and norm: the true distance; the bounds of it that the program gives, and those that are proved and
    attained; the verdicts just inside and just outside, of the default search and of the one on linear programs;
    seconds for the program, the bounds and the verdicts."""

    seed: int
    norm: str
    inputs: int
    unstable: int
    cells: int
    truth: float
    program_lower: float
    program_upper: float
    lower: float
    upper: float
    inside: str
    outside: str
    mip_inside: str
    mip_outside: str
    program_s: float
    distance_s: float
    verdict_s: float

    @property
    def solved(self) -> bool:
        """Whether the program was solved, and what it says is the truth."""
        return max(abs(self.program_lower - self.truth), abs(self.program_upper - self.truth)) <= NEAR

    @property
    def wrong(self) -> bool:
        """Whether a claim contradicts the truth."""
        low, up = self.truth * (1 - 1e-12), self.truth * (1 + 1e-12)
        contrary = "falsified" in (self.inside, self.mip_inside) or "verified" in (self.outside, self.mip_outside)
        return self.lower > up or self.upper < low or contrary

    @property
    def misled(self) -> bool:
        """Whether the program's bounds, which nobody claims, contradict the truth."""
        return self.program_lower > self.truth + NEAR or self.program_upper < self.truth - NEAR


@dataclass(frozen=True)
class Evaluated:
    """The original network: the graph itself, evaluated in float64."""

    graph: Graph
    name: str = "evaluation in float64"

    def __call__(self, x: Array) -> Array:
        return evaluate(self.graph, x[None])[0]


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, the data point x (d,) in the range [-1, 1], and the clause that is unsafe."""

    graph: Graph
    x: Array
    unsafe: Clause
    unstable: int


def problem(seed: int, neurons: int = NEURONS) -> Problem:
    """The random problem of this seed, of fewer hidden neurons than said: weights are float16 numbers, which keeps the
    integers of the oracle short."""
    rng = np.random.default_rng(seed)
    while True:
        graph = _network(rng, neurons)
        count = _unstable(graph)
        points = rng.uniform(-1, 1, (400, graph.input_size)).astype(np.float16).astype(np.float64)
        rows = _short(rng.standard_normal((int(rng.integers(1, 3)), 2)))
        values = (evaluate(graph, points) @ rows.T).max(1)
        offset = float(_short(np.quantile(values, rng.uniform(0.002, 0.2))))
        safe = np.flatnonzero(values > offset)
        if 4 <= count <= MOST_UNSTABLE and (values < offset).any() and len(safe):
            return Problem(graph, points[safe[0]], clause(rows, np.full(len(rows), offset)), count)


def _short(array: Array) -> Array:
    return np.asarray(array).astype(np.float16).astype(np.float64)


def _network(rng: np.random.Generator, neurons: int) -> Graph:
    build = GraphBuilder([Port("x", (int(rng.integers(2, 4)),), "float64")])

    def linear(x: Operand, size: int) -> Operand:
        weight = rng.standard_normal((size, x.shape[0])) * np.sqrt(2 / x.shape[0])
        return build.emit(ops.Linear(_short(weight), _short(0.4 * rng.standard_normal(size))), x)

    h, depth = build.inputs[0], int(rng.integers(1, 5))
    total = int(rng.integers(8, neurons))
    for _ in range(depth):
        before, h = h, linear(h, max(2, total // depth))
        h = build.emit(KINDS[rng.integers(len(KINDS))], h)
        if before.shape == h.shape and rng.random() < 0.3:
            h = build.add(h, before)
    return build.build([linear(h, 2)], [Port("y", (2,))])


def _unstable(graph: Graph) -> int:
    network, region = Network(graph, torch.float64), box([-1.0] * graph.input_size, [1.0] * graph.input_size)
    bounds = intermediate(network, stack([region], torch.float64)[0][1])
    return sum(int(unstable(graph, v, interval).sum()) for v, interval in bounds.items())


def true_distances(given: Problem) -> tuple[dict[str, float], int]:
    """The least distance from x to the unsafe set in every norm, and how many cells the range has; raises
    `tests.exact.TooComplex` for more than MOST_CELLS."""
    from tests import exact

    region = box([-1.0] * len(given.x), [1.0] * len(given.x))
    best = dict.fromkeys(NORMS, np.inf)
    for _, part, inputs in exact.unsafe_parts(given.graph, Case(region, Property((given.unsafe,))), MOST_CELLS):
        free = [[p / point[-1] for p in point[:-1]] for point in part.points]
        assert len(inputs) == len(free[0])  # no input of the range is fixed
        moves = np.array(free) - given.x
        low, up = moves.min(0), moves.max(0)
        around = np.maximum(np.maximum(low, -up), 0.0)  # the nearest point of the box around the part
        for name, norm in NORMS.items():
            if np.linalg.norm(around, norm) < best[name]:
                best[name] = min(best[name], nearest(moves, norm))
    return best, sum(1 for _ in exact.cells(given.graph, region, MOST_CELLS))


def nearest(points: Array, norm: float) -> float:
    """The distance of 0 from the convex hull of points (k, d)."""
    count, size = points.shape
    if norm == 2:
        from scipy.optimize import nnls  # least distance programming (Lawson & Hanson 1974, chapter 23)

        weights, _ = nnls(np.vstack([points.T, np.ones(count)]), np.append(np.zeros(size), 1.0))
        return float(np.linalg.norm(points.T @ weights / weights.sum()))
    signs = np.array(list(np.ndindex(*[2] * size))) * 2 - 1 if norm == 1 else np.vstack([np.eye(size), -np.eye(size)])
    rows = points @ signs.T  # (k, R): the norm is the largest of these
    matrix = np.vstack([np.column_stack([rows.T, -np.ones(rows.shape[1])]), np.append(np.ones(count), 0.0)])
    sides = np.append(np.full(rows.shape[1], -np.inf), 1.0), np.append(np.zeros(rows.shape[1]), 1.0)
    program = LinearProgram(np.eye(count + 1)[-1], np.zeros(count + 1), np.full(count + 1, np.inf), matrix, *sides)
    found = solve(program)
    assert found.status is Status.OPTIMAL
    return float(found.x[-1])


@dataclass(frozen=True)
class Allowed:
    """Seconds: for a distance and for a verdict, for a program, and for a verdict by linear programs; and that networks
    have fewer hidden neurons than this."""

    seconds: float
    solving: float
    searching: float
    neurons: int = NEURONS


def compare(seed: int, allowed: Allowed) -> list[Compared]:
    """All norms of one seed; empty where the network has too many cells."""
    from tests.exact import TooComplex

    given = problem(seed, allowed.neurons)
    try:
        truths, cells = true_distances(given)
    except TooComplex:
        return []
    found = []
    prop, original = Property((given.unsafe,)), Evaluated(given.graph)
    for name, norm in NORMS.items():
        metric, truth = Metric(norm, (-1.0, 1.0), 2.0 * len(given.x), gap=NEAR / 10), truths[name]
        began = time.monotonic()
        budget, region = Budget(allowed.solving), box([-1.0] * len(given.x), [1.0] * len(given.x))
        columns, _ = bounded(Network(given.graph, torch.float64), region, budget, Effort(linear=False, whole=0.0))
        program = least_distance(columns, given.x, norm, prop.clauses, (0.0, metric.largest), budget)
        solved = time.monotonic()
        said = distance(Imported(given.graph, original), given.x, prop, metric, budget=Budget(allowed.seconds))
        middle = time.monotonic()
        verdicts = []
        for method, limit in ((Method.AUTO, allowed.seconds), (Method.MIP, allowed.searching)):
            for radius in (truth * (1 - NEAR), truth * (1 + NEAR)):
                query = Query(original, given.graph, (Case(metric.ball(given.x, radius), prop),))
                verdicts.append(verify(query, Strategy(method=method), Budget(limit)).name)
        ended = time.monotonic()
        found.append(
            Compared(
                seed,
                name,
                len(given.x),
                given.unstable,
                cells,
                truth,
                program.lower,
                program.upper,
                said.lower,
                said.upper,
                *verdicts,
                round(solved - began, 3),
                round(middle - solved, 3),
                round(ended - middle, 3),
            )
        )
    return found


def campaign(count: int, allowed: Allowed, store: SampleStore[Compared], first: int = 0) -> Iterator[Compared]:
    """Every comparison that is not in the store, until `count` networks are there, seeds from `first` on."""
    seeds = {row.seed for row in store.results if row.norm == list(NORMS)[-1]}
    seed = first
    while len(seeds) < count:
        if seed not in seeds:
            rows = compare(seed, allowed)
            done = {row.norm for row in store.results if row.seed == seed}
            for row in rows:
                if row.norm not in done:
                    store.append(row)
                    yield row
            if rows:
                seeds.add(seed)
        seed += 1


def report(rows: Sequence[Compared]) -> str:
    """A table: of how many networks a claim is wrong; the program's bounds are; the program is solved and right; the
    proved bound is the truth, the attained one, and both; verdicts are reached inside and outside, by the default
    search and by linear programs; and the median seconds of the program."""
    head = (
        "norm",
        "networks",
        "wrong",
        "misled",
        "solved",
        "proved",
        "attained",
        "both",
        "verdicts right",
        "by mip",
        "median s",
    )
    lines = ["  ".join(head)]
    for name in NORMS:
        own = [row for row in rows if row.norm == name]
        counts = [
            sum(row.wrong for row in own),
            sum(row.misled for row in own),
            sum(row.solved for row in own),
            sum(abs(row.lower - row.truth) <= NEAR for row in own),
            sum(abs(row.upper - row.truth) <= NEAR for row in own),
            sum(max(row.truth - row.lower, row.upper - row.truth) <= NEAR for row in own),
            sum((row.inside, row.outside) == ("verified", "falsified") for row in own),
            sum((row.mip_inside, row.mip_outside) == ("verified", "falsified") for row in own),
        ]
        median = float(np.median([row.program_s for row in own])) if own else float("nan")
        shown = [name, str(len(own)), *map(str, counts), f"{median:.2f}"]
        lines.append("  ".join(word.rjust(len(title)) for word, title in zip(shown, head, strict=True)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="how many networks")
    parser.add_argument("--first", type=int, default=0, help="the seed to begin with: other runs may have the others")
    parser.add_argument("--seconds", type=float, default=30.0, help="for a distance, and for a verdict")
    parser.add_argument("--solving", type=float, default=300.0, help="for a mixed-integer program of a distance")
    parser.add_argument("--searching", type=float, default=5.0, help="for a verdict by linear programs")
    parser.add_argument("--neurons", type=int, default=NEURONS, help="hidden neurons are fewer than this; more than 8")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; a run goes on there")
    parser.add_argument("--report", action="store_true", help="only say what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    allowed = Allowed(options.seconds, options.solving, options.searching, options.neurons)
    if not options.report:
        store = SampleStore(options.out, asdict(allowed), Compared)
        for row in campaign(options.count, allowed, store, options.first):
            print(row, flush=True)
    print(report(stored(options.out, Compared)))


if __name__ == "__main__":
    entry(main)
