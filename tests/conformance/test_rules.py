"""Every bound method on every operator, and on random graphs of them: bounds must hold what happens.

The pairs come from the tables of rules, so an operator or a rule is tested from the day it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from certify.bounds.base import NodeBounds
from certify.bounds.intermediate import intermediate
from certify.bounds.interval import INTERVAL, interval, step
from certify.bounds.linear import lines_of, propagate
from certify.bounds.slopes import Slopes
from certify.bounds.zonotope import affine_forms, zonotope
from certify.errors import UnsupportedOp
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import FUNCTIONS, Network
from certify.graph.ir import Graph, Port
from certify.graph.rules import Rules
from certify.relax.elementwise import LINES, has_slope
from certify.relax.parallel import BANDS
from certify.spec.inputset import InputSet
from certify.spec.regions import box
from tests import exact, strategies
from tests.conformance.soundness import points, slack, values, violation

Method = Callable[[Network, InputSet], NodeBounds]

quick = settings(max_examples=12, suppress_health_check=list(HealthCheck))
few = settings(max_examples=4, suppress_health_check=list(HealthCheck))
SMOOTH = {type(op) for op in strategies.CURVES}
"""Operators with conformance tests of their own."""


def _interval(network: Network, inputs: InputSet) -> NodeBounds:
    return dict(enumerate(interval(network, inputs)))


def _zonotope(network: Network, inputs: InputSet, **limits: int) -> NodeBounds:
    return dict(enumerate(zonotope(network, inputs, **limits).bounds))


def _linear(network: Network, inputs: InputSet, slopes: Slopes | None = None) -> NodeBounds:
    """Backward propagation from every node, with one of the default slopes."""
    graph = network.graph
    bounds = intermediate(network, inputs)
    lines = lines_of(network, bounds, graph.nonlinear)
    if slopes is not None:
        free = [e for e in graph.nonlinear if has_slope(graph.nodes[e].op)]
        chosen = {e: slopes.parameter(*bounds[graph.nodes[e].inputs[0]]).unsqueeze(1) for e in free}
        lines |= lines_of(network, bounds, chosen)
    found = {}
    for i, node in enumerate(graph.nodes[1:], 1):
        unit = torch.eye(node.size, dtype=network.dtype)
        rows = torch.cat([unit, -unit]).reshape(1, -1, *node.shape)
        least = propagate(network, {i: rows}, rows.new_zeros(rows.shape[:2]), lines).minimum(inputs)
        least = least.expand(len(inputs), -1)
        found[i] = (
            least[:, : node.size].reshape(-1, *node.shape),
            -least[:, node.size :].reshape(-1, *node.shape),
        )
    return found


METHODS: dict[str, tuple[Method, tuple[Rules, ...]]] = {
    "interval": (_interval, (INTERVAL,)),
    "zonotope": (_zonotope, (INTERVAL, BANDS)),
    "zonotope with few symbols": (partial(_zonotope, symbols=2), (INTERVAL, BANDS)),
    "zonotope in no memory": (partial(_zonotope, memory=1), (INTERVAL, BANDS)),
    "affine forms": (affine_forms, (INTERVAL, BANDS)),
    "linear": (_linear, (INTERVAL, LINES)),
}
"""Name -> (method, the tables of rules that it reads)."""

OPERATORS = sorted(set(ops.registered().values()) - {ops.Input}, key=lambda kind: kind.__name__)


def _covers(method: Rules, kind: type[ops.Op]) -> bool:
    return any(cls in method.table for cls in kind.__mro__)


def _check(method: Method, graph: Graph, inputs: InputSet) -> None:
    network = Network(graph, torch.float64)
    bounds = method(network, inputs)
    found = values(network, points(network, inputs))
    for i, allowed in enumerate(slack(network, inputs)):
        if i in bounds:
            over = violation(bounds[i], found[i], allowed)
            assert over <= 0, f"node {i} ({type(graph.nodes[i].op).__name__}) leaves its bounds by {over}"


def test_every_operator_has_a_sample() -> None:
    assert set(strategies.OPERATORS) == set(OPERATORS)


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
def test_every_operator_can_be_run(kind: type[ops.Op]) -> None:
    assert _covers(FUNCTIONS if issubclass(kind, ops.Nonlinear) else MAPS, kind)


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_bounds_of_one_operator_hold(method: str, kind: type[ops.Op]) -> None:
    relaxed = issubclass(kind, ops.Nonlinear)
    lacking = [t for t in METHODS[method][1] if (relaxed or t is INTERVAL) and not _covers(t, kind)]

    @(few if kind in SMOOTH else quick)
    @given(strategies.single(kind), st.data())
    def run(graph: Graph, data: st.DataObject) -> None:
        inputs = data.draw(strategies.input_sets(graph.input_size))
        if lacking:  # then it must say so beforehand
            with pytest.raises(UnsupportedOp, match=kind.__name__):
                lacking[0].require(graph)
            return
        _check(METHODS[method][0], graph, inputs)

    run()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(strategies.graphs(), strategies.input_sets(3))
def test_bounds_of_random_graphs_hold(method: str, graph: Graph, inputs: InputSet) -> None:
    _check(METHODS[method][0], graph, inputs)


@pytest.mark.parametrize("slopes", Slopes)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(strategies.graphs(), strategies.input_sets(3))
def test_linear_bounds_hold_with_every_rule_for_slopes(slopes: Slopes, graph: Graph, inputs: InputSet) -> None:
    _check(partial(_linear, slopes=slopes), graph, inputs)


TURNING = (ops.Sin, ops.Cos, ops.Gelu, ops.GeluTanh, ops.Silu, ops.Mish, ops.HardSwish)
"""Operators whose extremes are elsewhere."""


@pytest.mark.parametrize("kind", [k for k in OPERATORS if k not in TURNING], ids=lambda kind: kind.__name__)
def test_intervals_of_one_operator_are_the_least(kind: type[ops.Op]) -> None:
    """Both ends are attained, by every operator that there is so far, at a corner or at a kink."""

    @quick
    @given(strategies.single(kind), st.data())
    def run(graph: Graph, data: st.DataObject) -> None:
        lower, upper = (torch.from_numpy(b) for b in data.draw(strategies.boxes(graph.input_size)))
        inputs = InputSet(lower, upper)
        network = Network(graph, torch.float64)
        tolerance = 4 * slack(network, inputs)[-1]
        low, up = interval(network, inputs)[-1]
        x = [points(network, inputs)]
        for p in (0.0, *(ops.breakpoints(graph.nodes[-1].op) or ())) if graph.nonlinear else ():
            x.append(torch.full_like(lower, p).maximum(lower).minimum(upper).unsqueeze(1))
        y = values(network, torch.cat(x, 1))[-1]
        assert (y.amin(1) <= low + tolerance).all()
        assert (y.amax(1) >= up - tolerance).all()

    run()


@pytest.mark.parametrize("method", METHODS)
def test_branches_do_not_share_their_errors(method: str) -> None:
    """f(x) - g(x): the relaxation errors of f and g may be at their worst in opposite directions."""
    lower = torch.tensor([[-1.0], [-2.0], [-0.25], [0.1]], dtype=torch.float64)
    inputs = InputSet(lower, torch.tensor([[1.0], [0.5], [3.0], [2.0]], dtype=torch.float64))
    for one, other in product(strategies.ACTIVATIONS, repeat=2):
        build = GraphBuilder([Port("x", (1,))])
        y = build.sub(build.emit(one, build.inputs[0]), build.emit(other, build.inputs[0]))
        _check(METHODS[method][0], build.build([y], [Port("y", (1,))]), inputs)


@quick
@given(strategies.graphs(), strategies.input_sets(3))
def test_tighter_methods_are_within_intervals(graph: Graph, inputs: InputSet) -> None:
    network = Network(graph, torch.float64)
    outer, tolerance = interval(network, inputs), slack(network, inputs)
    for method in (_zonotope, affine_forms):
        for i, (low, up) in method(network, inputs).items():
            assert (low >= outer[i][0] - tolerance[i]).all()
            assert (up <= outer[i][1] + tolerance[i]).all()


@quick
@given(strategies.graphs(), strategies.input_sets(3))
def test_known_bounds_are_used_and_nothing_else_changes(graph: Graph, inputs: InputSet) -> None:
    """Bounds of the values that do occur at one point leave, for that point, what it makes."""
    network = Network(graph, torch.float64)
    x = inputs.start()
    found = [v.expand(len(inputs), *v.shape[1:]) for v in network.values(x)]
    tolerance = slack(network, inputs)
    for i in graph.nonlinear:
        j = graph.nodes[i].inputs[0]
        within = {j: (found[j] - tolerance[j], found[j] + tolerance[j])}
        for bounds in (interval(network, inputs, within), zonotope(network, inputs, within=within).bounds):
            assert (bounds[j][0] >= within[j][0]).all()
            assert (bounds[j][1] <= within[j][1]).all()
            for value, (low, up), allowed in zip(found, bounds, tolerance, strict=True):
                assert (low - 2 * allowed <= value).all()
                assert (value <= up + 2 * allowed).all()


@quick
@given(strategies.graphs(), strategies.input_sets(3, batch=5), st.integers(1, 4000))
def test_zonotopes_in_chunks_are_zonotopes(graph: Graph, inputs: InputSet, memory: int) -> None:
    """Rows of the output, each domain's own: the same lower bounds from the whole batch and from each alone."""
    network = Network(graph, torch.float64)
    rows = torch.randn(
        len(inputs), 3, graph.output_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    whole = zonotope(network, inputs, rows).lower
    tolerance = (rows.abs() @ slack(network, inputs)[-1].expand(len(inputs), -1).unsqueeze(-1)).squeeze(-1)
    assert whole.shape == (len(inputs), 3)
    for b in range(len(inputs)):
        alone = zonotope(network, inputs.select(slice(b, b + 1)), rows[b])
        assert (alone.lower - whole[b] <= 2 * tolerance[b]).all()
        assert (whole[b] - alone.lower <= 2 * tolerance[b]).all()
    y = network(points(network, inputs).flatten(0, 1)).reshape(len(inputs), -1, graph.output_size)
    for lower in (whole, zonotope(network, inputs, rows, memory=memory).lower):
        assert (lower - tolerance <= (y @ rows.transpose(1, 2)).amin(1)).all()


@st.composite
def _one_layer(draw: Callable) -> tuple[Graph, InputSet]:
    """sum_i a_i f(b_i x_i + c_i) over a box: no input is seen by two neurons."""
    build = GraphBuilder([Port("x", (3,))])
    z = build.emit(ops.Scale(draw(strategies.arrays((3,))), draw(strategies.arrays((3,)))), build.inputs[0])
    y = build.emit(ops.Linear(draw(strategies.arrays((2, 3))), None), build.emit(ops.Relu(), z))
    lower, upper = (torch.from_numpy(b) for b in draw(strategies.boxes(3)))
    return build.build([y], [Port("y", (2,))]), InputSet(lower, upper)


@quick
@given(_one_layer())
def test_linear_bounds_of_separate_relus_are_exact(given: tuple[Graph, InputSet]) -> None:
    """With slope 0 a lone ReLU's lines are its envelope where it counts, so the minimum is attained."""
    graph, inputs = given
    network = Network(graph, torch.float64)
    tolerance = 4 * slack(network, inputs)[-1]
    low, up = _linear(network, inputs, Slopes.ZERO)[len(graph.nodes) - 1]
    z = inputs.lower, inputs.upper
    ends = torch.stack([x.clamp(*z) for x in (*z, _kink(network, inputs))], 1)
    corners = torch.stack([ends[:, list(c), range(3)] for c in product(range(3), repeat=3)], 1)
    y = values(network, corners)[-1]
    assert (y.amin(1) - low <= tolerance).all()
    assert (up - y.amax(1) <= tolerance).all()


def _kink(network: Network, inputs: InputSet) -> torch.Tensor:
    """Where each neuron's argument is 0 (anywhere, if it never is), for a graph of `_one_layer`."""
    scale = network.maps[1]
    shift = torch.zeros(3, dtype=torch.float64) if scale.bias is None else scale.bias
    zero = -shift / (1.0 if scale.scale is None else scale.scale)
    return torch.where(zero.isfinite(), zero, inputs.lower)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(strategies.graphs(size=2, most=5), st.data())
def test_no_bound_exceeds_the_exact_minimum(graph: Graph, data: st.DataObject) -> None:
    """The truth by enumeration of the cells, in integer arithmetic."""
    lower, upper = data.draw(strategies.boxes(2, batch=1))
    inputs = InputSet(torch.from_numpy(lower), torch.from_numpy(upper))
    network = Network(graph, torch.float64)
    assume(not any(isinstance(n.op, ops.Sigmoid | ops.Tanh | ops.Sign) for n in graph.nodes))
    try:
        least = [float(exact.minimum(graph, box(lower[0], upper[0]), row, limit=300)) for row in np.eye(2)]
    except exact.TooComplex:
        reject()
    allowed = slack(network, inputs)[-1][0]
    for name, (method, _) in METHODS.items():
        low = method(network, inputs)[len(graph.nodes) - 1][0][0]
        for k in range(2):
            assert low[k] <= least[k] + allowed[k], name


@pytest.mark.parametrize("method", METHODS)
def test_products_over_a_point_are_points(method: str) -> None:
    """A zonotope has no symbols there."""
    build = GraphBuilder([Port("x", (3,))])
    x = build.inputs[0]
    graph = build.build([build.mul(x, build.select(x, 0, np.array([2, 0, 1])))], [Port("y", (3,))])
    point = torch.tensor([[0.5, -1.25, 3.0]], dtype=torch.float64)
    lower, upper = METHODS[method][0](Network(graph, torch.float64), InputSet(point, point))[len(graph.nodes) - 1]
    expected = point * point[:, [2, 0, 1]]
    for bound in (lower, upper):
        torch.testing.assert_close(bound, expected, rtol=1e-12, atol=0)


def test_what_rounding_crossed_is_not_empty() -> None:
    """The ends of one number may be a unit in the last place apart, in either order; times something wide, they must
    not cross all of its width, which would say that nothing is there."""
    build = GraphBuilder([Port("x", (2,))])
    x = build.inputs[0]
    graph = build.build([build.mul(build.slice(x, 0, 0, 1), build.slice(x, 0, 1, 2))], [Port("y", (1,))])
    product = next(i for i, node in enumerate(graph.nodes) if isinstance(node.op, ops.Product))
    for dtype in (torch.float32, torch.float64):
        first = torch.tensor(0.773, dtype=dtype)
        below = torch.nextafter(first, torch.tensor(0, dtype=dtype))
        lower, upper = (torch.stack([end, torch.tensor(wide, dtype=dtype)])[None] for end, wide in
                        ((first, -2.0), (below, 5.0)))  # fmt: skip
        low, high = step(Network(graph, dtype), product, [(lower, upper)])
        assert low <= -2 * first
        assert 5 * below <= high
        apart = torch.tensor([[0.5, -2.0]], dtype=dtype), torch.tensor([[0.25, 5.0]], dtype=dtype)
        low, high = step(Network(graph, dtype), product, [apart])
        assert low > high  # while bounds that miss each other by more are of nothing
