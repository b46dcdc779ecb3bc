"""What is true of an instance: by enumeration where that is possible, else by looking for a violation.

The second oracle is one-sided. It can refute a proof, never confirm one; what it finds is checked
exactly before it counts.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from scipy.optimize import nnls

from attacks.gradient import pgd
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.spec.inputset import stack
from certify.spec.property import Property
from certify.spec.query import Case
from certify.spec.regions import Region
from tests import exact
from tests.fuzz.generate import CELLS, samples

Array = np.ndarray


class Truth(enum.Enum):
    """What the oracle knows: SAFE by enumeration (to rounding, for an L2 ball), UNSAFE by an exact point, OPEN
    if neither."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    OPEN = "open"


def judge(graph: Graph, cases: Sequence[Case], seed: int = 0) -> tuple[Truth, exact.Violation | None]:
    """The truth of the cases' conjunction, and the violation if there is one."""
    try:
        found = _enumerated(graph, cases)
        return (Truth.SAFE if found is None else Truth.UNSAFE), found
    except exact.TooComplex:
        found = search(graph, cases, seed)
        return (Truth.OPEN if found is None else Truth.UNSAFE), found


def _enumerated(graph: Graph, cases: Sequence[Case]) -> exact.Violation | None:
    for number, case in enumerate(cases):
        for k, bad, inputs in exact.unsafe_parts(graph, case, CELLS):
            x = exact.at(inputs, bad.middle()) if case.region.norm != 2 else _in_ball(graph, case, bad, inputs)
            if x is not None:
                return exact.Violation(number, k, x)
    return None


def _in_ball(
    graph: Graph, case: Case, part: exact.Polytope, inputs: Sequence[exact.Row]
) -> tuple[Fraction, ...] | None:
    """A point of the part that lies in the case's L2 ball: the one nearest to the centre, found in floating
    point as a mixture of the vertices and confirmed exactly. None means that there is none, to rounding."""
    corners = [exact.at(inputs, [Fraction(v, p[-1]) for v in p[:-1]]) for p in part.points]
    points = np.array([[float(v) for v in c] for c in corners])
    scale = np.abs(points - case.region.center).max() or 1.0
    offsets = (points - case.region.center) / scale
    # Weights that add to 1 come from those of the cone over the vertices (Lawson & Hanson 1974, chapter 23).
    weights, _ = nnls(np.vstack([offsets.T, np.ones(len(points))]), np.eye(points.shape[1] + 1)[-1])
    center = exact.at(inputs, part.middle())
    for inward in (0, Fraction(1, 10**9), Fraction(1, 10**5)):  # off excluded facets, and off rounding
        mixture = [Fraction(w) * (1 - inward) for w in weights]
        total = sum(mixture) / (1 - inward)
        x = tuple(
            sum((w * c[i] for w, c in zip(mixture, corners, strict=True)), Fraction(0)) / total + inward * center[i]
            for i in range(len(center))
        )
        if inside(case.region, x) and exact.violated(case.property, exact.outputs(graph, x)) is not None:
            return x
    return None


def inside(region: Region, x: Sequence[Fraction | float]) -> bool:
    """Whether the exact point x lies in the region, without any tolerance."""
    x = [Fraction(v) for v in x]
    if any(v < Fraction(a) or v > Fraction(b) for v, a, b in zip(x, region.lower, region.upper, strict=True)):
        return False
    if region.norm is None:
        return True
    offsets = [abs(v - Fraction(c)) for v, c in zip(x, region.center, strict=True)]
    radius = Fraction(region.radius)
    if region.norm == 2:
        return sum(v * v for v in offsets) <= radius * radius
    return (sum(offsets) if region.norm == 1 else max(offsets)) <= radius


def search(graph: Graph, cases: Sequence[Case], seed: int = 0, count: int = 256) -> exact.Violation | None:
    """A violation among samples and an attack's results, confirmed exactly."""
    network, rng = Network(graph, torch.float64), np.random.default_rng(seed)
    for number, case in enumerate(cases):
        region, prop = case.region, case.property
        ((_, inputs),) = stack([region], torch.float64)

        def margin(x: torch.Tensor, prop: Property = prop) -> torch.Tensor:
            y = network(x)
            z = torch.cat([y, x], 1)
            return torch.stack([c.margin(z[:, : c.matrix.shape[1]]) for c in prop.clauses], 1).amin(1)

        attacked = pgd(30, 10, seed=seed, goal=-np.inf)(margin, inputs).x.numpy()
        points = np.concatenate([attacked, samples(region, count, rng)])
        with torch.no_grad():
            values = margin(torch.from_numpy(points)).numpy()
        doubt = 1e-6 * (1 + np.abs(values).min(initial=np.inf))
        for i in np.argsort(values)[:8]:
            if not values[i] <= doubt:
                break
            x = region.pull_inside(points[i], np.float64)
            if x is None or not inside(region, x):
                continue
            clause = exact.violated(prop, exact.outputs(graph, x.tolist()))
            if clause is not None:
                return exact.Violation(number, clause, tuple(Fraction(v) for v in x.tolist()))
    return None


def magnitudes(graph: Graph, region: Region) -> list[Array]:
    """For every node, at least the sum of absolute values that an evaluation of each entry adds up.

    Rounding errors are small multiples of it, so a margin is clear if it is not small beside it.
    """
    start = np.maximum(np.abs(region.lower), np.abs(region.upper))
    values = [torch.from_numpy(start).reshape(1, *graph.input_shape)]
    for node in graph.nodes[1:]:
        xs = [values[j] for j in node.inputs]
        if isinstance(node.op, ops.Elementwise):
            values.append(_grown(node.op, xs[0]))
        elif isinstance(node.op, ops.Product):
            entries = xs[0].reshape(1, -1)
            values.append(2 * entries[:, node.op.left] * entries[:, node.op.right])
        else:
            mapping = MAPS[node.op](node.op, node, [tuple(x.shape[1:]) for x in xs], exact._cast)
            total = mapping.absolute(*xs)
            values.append(total if mapping.bias is None else total + mapping.bias.abs())
    return [v.reshape(-1).numpy() for v in values]


def largest(graph: Graph, region: Region) -> float:
    """No value in the network is larger."""
    return max(float(v.max()) for v in magnitudes(graph, region))


def _grown(op: ops.Elementwise, x: torch.Tensor) -> torch.Tensor:
    if isinstance(op, ops.LeakyRelu):
        return x * torch.as_tensor(np.maximum(np.abs(op.slope), 1.0))
    if isinstance(op, ops.Clip):
        return x + max((abs(v) for v in (op.lower, op.upper) if np.isfinite(v)), default=0.0)
    if isinstance(op, ops.Sign | ops.Floor):
        return x + 1e6  # the least error may turn it over
    if isinstance(op, ops.Exp):
        return x.exp() * (1 + x)
    if isinstance(op, ops.Square):
        return 2 * x * x
    if isinstance(op, ops.Reciprocal):
        return 4 * (x + 1)  # of numbers from 1/2 on
    if isinstance(op, ops.Log | ops.Sqrt | ops.Rsqrt):
        return 4 * (x + 1)
    if isinstance(op, ops.HardSwish | ops.Elu):
        return 1.5 * (x + 1)
    if isinstance(op, ops.Softplus | ops.Erf | ops.Gelu | ops.GeluTanh | ops.Silu | ops.Mish):
        return 1.2 * (x + 1)
    return (
        x + 1 if isinstance(op, ops.Sigmoid | ops.Tanh | ops.Sin | ops.Cos) else x
    )  # no steeper than 1, so errors do not grow


def tolerances(graph: Graph, case: Case, share: float) -> list[Array]:
    """`share` of each row's magnitude, for every clause of the case: (S,) each, away from underflow."""
    sizes = magnitudes(graph, case.region)
    z = np.concatenate([sizes[-1], sizes[0]])
    rows = (np.abs(c.matrix) @ z[: c.matrix.shape[1]] + np.abs(c.offset) for c in case.property.clauses)
    with np.errstate(invalid="ignore"):  # of a size that overflows nothing is known
        return [share * np.maximum(np.nan_to_num(size, nan=np.inf), 1e-20) for size in rows]


def shifted(graph: Graph, cases: Sequence[Case], share: float) -> tuple[Case, ...]:
    """The cases with their unsafe sets grown (or shrunk, if negative) by that share of the magnitudes."""
    return tuple(
        replace(
            case,
            property=Property(
                tuple(
                    replace(c, offset=c.offset + slack)
                    for c, slack in zip(case.property.clauses, tolerances(graph, case, share), strict=True)
                )
            ),
        )
        for case in cases
    )


def is_clear(graph: Graph, cases: Sequence[Case], truth: Truth, share: float = 1e-3) -> bool:
    """Whether the truth would be the same if every offset were moved a little either way."""
    moved = shifted(graph, cases, share if truth is Truth.SAFE else -share)
    if not all(np.isfinite(c.offset).all() for case in moved for c in case.property.clauses):
        return False
    return truth is not Truth.OPEN and judge(graph, moved)[0] is truth
