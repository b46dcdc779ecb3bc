"""The Python API: verdicts and bounds from a few lines, and errors that say what to do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import certify
from certify import CertifyError, IntervalBounds, LinearBounds, Method, Slopes, Strategy, ZonotopeBounds
from certify.bounds.linear import lines_of, propagate
from certify.bounds.methods import METHODS, BoundMethod
from certify.bounds.rows import Rows
from certify.check.checker import check_proof
from certify.frontends.load import GraphSource
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network, evaluate
from certify.graph.ir import Node, Port
from certify.spec.inputset import InputSet, stack
from tests import strategies
from tests.conformance.soundness import points

NORMS = [math.inf, 2, 1]
KINKS = (ops.Relu(), ops.Abs(), *(ops.LeakyRelu(np.array(a)) for a in (-2.0, -0.5, 0.0, 0.25, 1.0, 3.0)))
ALL_METHODS = [*METHODS, *(LinearBounds(rule) for rule in Slopes), LinearBounds(steps=5)]
quick = settings(max_examples=15, suppress_health_check=list(HealthCheck))


class Convolutional(nn.Module):
    """A network that takes images only: (B, 1, 4, 4) -> (B, 3)."""

    def __init__(self, seed: int = 0, activation: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.second = nn.Linear(32, 8)
        self.last = nn.Linear(8, 3)
        self.activation = nn.ReLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x)).flatten(1)
        return self.last(self.activation(self.second(x)))


@pytest.fixture(scope="module")
def classifier() -> Convolutional:
    return Convolutional()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def label(network: nn.Module, image: Tensor) -> int:
    with torch.no_grad():
        return int(network(image[None]).argmax())


def margin(network: nn.Module, image: Tensor, chosen: int) -> float:
    with torch.no_grad():
        y = network(image[None])[0]
    return float(y[chosen] - torch.cat([y[:chosen], y[chosen + 1 :]]).max())


class TestVerify:
    @pytest.mark.parametrize("norm", NORMS)
    def test_a_small_ball_is_verified_by_a_proof_that_replays(
        self, classifier: Convolutional, images: Tensor, norm: float
    ) -> None:
        region, prop = (
            certify.ball(images[0], 1e-3, norm, within=(0, 1)),
            certify.robust(label(classifier, images[0]), 3),
        )
        verdict = certify.verify(classifier, region, prop)
        assert isinstance(verdict, certify.Verified)
        graph = certify.load_network(classifier, images[:1]).graph
        again = check_proof(graph, (certify.Case(region, prop),), verdict.evidence)
        assert again.ok, again.failures

    @pytest.mark.parametrize("norm", NORMS)
    def test_a_large_ball_is_falsified_by_an_input_in_it(
        self, classifier: Convolutional, images: Tensor, norm: float
    ) -> None:
        chosen = label(classifier, images[0])
        region = certify.ball(images[0], 1000.0, norm)
        verdict = certify.verify(classifier, region, certify.robust(chosen, 3), timeout=60)
        assert isinstance(verdict, certify.Falsified)
        assert region.contains(verdict.witness.x)
        assert margin(classifier, torch.tensor(verdict.witness.x, dtype=torch.float32).reshape(1, 4, 4), chosen) <= 0

    def test_a_data_set_gets_the_verdicts_of_its_samples(self, classifier: Convolutional, images: Tensor) -> None:
        imported = certify.load_network(classifier, images[:1])
        radii = (0.01, 0.5, 1e-3, 100.0, 0.02, 3.0)
        norms = (math.inf, 2, 1, math.inf, 2, 1)
        regions = [certify.ball(x, r, n) for x, r, n in zip(images, radii, norms, strict=True)]
        properties = [certify.robust(label(classifier, x), 3) for x in images]
        together = certify.verify(imported, regions, properties, timeout=120)
        apart = [certify.verify(imported, r, p, timeout=120) for r, p in zip(regions, properties, strict=True)]
        assert [v.name for v in together] == [v.name for v in apart]
        assert {v.name for v in together} >= {"verified", "falsified"}

    def test_one_property_serves_all_regions(self, classifier: Convolutional, images: Tensor) -> None:
        prop = certify.robust(label(classifier, images[0]), 3)
        verdicts = certify.verify(classifier, [certify.box(x, x) for x in images], prop)
        expected = ["verified" if label(classifier, x) == label(classifier, images[0]) else "falsified" for x in images]
        assert [v.name for v in verdicts] == expected

    @pytest.mark.parametrize("activation", [nn.LeakyReLU(0.3), nn.LeakyReLU(-0.5), nn.Hardtanh(), nn.Sigmoid()])
    @pytest.mark.parametrize("method", [Method.INTERVAL, Method.ZONOTOPE, Method.LINEAR])
    def test_what_a_method_proves_the_checker_accepts(self, activation: nn.Module, method: Method) -> None:
        """The property is one that the method's own bounds prove with room to spare."""
        network = Convolutional(2, activation)
        region = certify.ball(torch.full((1, 4, 4), 0.5), 0.02)
        imported = certify.load_network(network, torch.zeros(1, 1, 4, 4))
        bounds = {Method.INTERVAL: IntervalBounds(), Method.ZONOTOPE: ZonotopeBounds(), Method.LINEAR: LinearBounds()}
        found = certify.bound(imported, region, method=bounds[method])
        width = float((found.upper - found.lower).max())
        below = certify.Property(tuple(certify.clause(np.eye(3)[i], found.lower[0, i] - 0.1 * width) for i in range(3)))
        verdict = certify.verify(imported, region, below, strategy=Strategy(method=method, steps=0))
        assert verdict.name == "verified"

    @pytest.mark.parametrize("method", [Method.INTERVAL, Method.ZONOTOPE, Method.LINEAR])
    def test_an_incomplete_method_is_what_its_name_says(self, method: Method) -> None:
        """No method proves what lies beyond its own bounds; interval arithmetic cannot see that x - x is 0."""
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        with torch.no_grad():
            network[0].weight.copy_(torch.ones(2, 1))
            network[0].bias.zero_()
            network[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
            network[2].bias.zero_()
        near_zero = certify.Property((certify.clause([1.0], -0.5), certify.clause([-1.0], -0.5)))
        strategy = Strategy(method=method, steps=0)
        verdict = certify.verify(network, certify.box([1.0], [2.0]), near_zero, strategy=strategy)
        assert verdict.name == ("unknown" if method is Method.INTERVAL else "verified")

    @pytest.mark.parametrize("activation", [nn.LeakyReLU(0.3), nn.LeakyReLU(-0.5), nn.ReLU()])
    def test_neuron_splits_prove_every_kink(self, activation: nn.Module) -> None:
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 1))
        region = certify.box([-1.0, -1.0], [1.0, 1.0])
        with torch.no_grad():
            top = float(network(torch.rand(20000, 2) * 2 - 1).max())
        loose = float(certify.bound(network, region, method=IntervalBounds()).upper[0, 0])
        below = certify.Property((certify.clause([-1.0], -(top + 0.1 * (loose - top))),))
        strategy = Strategy(method=Method.NEURON_SPLIT, steps=0)
        assert certify.verify(network, region, below, strategy=strategy, timeout=60).name == "verified"

    def test_progress_is_reported(self, classifier: Convolutional, images: Tensor) -> None:
        stages = []
        prop = certify.robust(label(classifier, images[0]), 3)
        certify.verify(classifier, certify.ball(images[0], 1e-3), prop, progress=lambda p: stages.append(p.stage))
        assert stages[:2] == ["attack", "bound"]


def test_files_of_a_network_and_a_property(network: Path, holds: Path, fails: Path) -> None:
    assert certify.verify(network, property=holds).name == "verified"
    verdict = certify.verify(str(network), property=str(fails))
    assert verdict.name == "falsified"
    assert np.abs(verdict.witness.x).sum() >= 1.5


class TestBound:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("method", ALL_METHODS, ids=repr)
    def test_it_encloses_what_happens(
        self, classifier: Convolutional, images: Tensor, norm: float, method: BoundMethod
    ) -> None:
        regions = [certify.ball(x, 0.1, norm, within=(0, 1)) for x in images[:3]]
        rows = np.array([[1.0, -1.0, 0.0], [0.5, 0.25, 2.0]])
        found = certify.bound(classifier, regions, rows, method=method)
        assert found.lower.shape == found.upper.shape == (3, 2)
        graph = certify.load_network(classifier, images[:1]).graph
        compiled = Network(graph, torch.float64)
        ((_, inputs),) = stack(regions, torch.float64)
        x = points(compiled, inputs)
        with torch.no_grad():
            y = compiled(x.flatten(0, 1)).reshape(*x.shape[:2], 3).numpy() @ rows.T
        assert (found.lower[:, None] <= y + 1e-9).all()
        assert (y <= found.upper[:, None] + 1e-9).all()
        for lower, upper in found.nodes.values():
            assert (lower <= upper).all()

    def test_norms_in_one_batch_keep_their_places(self, classifier: Convolutional, images: Tensor) -> None:
        """A batch also tightens neurons that another of its domains needs, never the other way round."""
        regions = [certify.ball(x, 0.3, n) for x, n in zip(images, [2, math.inf, 1, math.inf, 2, 1], strict=True)]
        together = certify.bound(classifier, regions)
        for i, region in enumerate(regions):
            alone = certify.bound(classifier, region)
            np.testing.assert_allclose(together.lower[i], alone.lower[0], atol=1e-6)
            np.testing.assert_allclose(together.upper[i], alone.upper[0], atol=1e-6)
            for v, (lower, upper) in together.nodes.items():
                assert (lower[i] >= alone.nodes[v][0][0] - 1e-9).all()
                assert (upper[i] <= alone.nodes[v][1][0] + 1e-9).all()

    @pytest.mark.parametrize("method", ALL_METHODS, ids=repr)
    def test_little_memory_changes_nothing(
        self, classifier: Convolutional, images: Tensor, method: BoundMethod
    ) -> None:
        """But for zonotopes, which then carry fewer symbols."""
        regions = [certify.ball(x, 0.1) for x in images]
        plenty, little = (certify.bound(classifier, regions, method=method, memory=m) for m in (1 << 30, 1))
        if isinstance(method, ZonotopeBounds):
            assert (little.lower <= plenty.lower + 1e-9).all()
        else:
            np.testing.assert_allclose(plenty.lower, little.lower, rtol=1e-9)
            np.testing.assert_allclose(plenty.upper, little.upper, rtol=1e-9)

    @quick
    @given(strategies.graphs(), st.data())
    def test_no_method_is_looser_than_intervals(self, graph: certify.Graph, data: st.DataObject) -> None:
        lower, upper = data.draw(strategies.boxes(graph.input_size, batch=2))
        regions = [certify.box(low, up) for low, up in zip(lower, upper, strict=True)]
        network = certify.Imported(graph, GraphSource(graph, "random"))
        plain = certify.bound(network, regions, method=IntervalBounds())
        with np.errstate(invalid="ignore"):  # of infinite bounds
            centre = evaluate(graph, np.clip((lower + upper) / 2, lower, upper))
        for method in ALL_METHODS:
            found = certify.bound(network, regions, method=method)
            slack = 1e-6 * (1 + np.abs(plain.lower) + np.abs(plain.upper))
            assert (found.lower >= plain.lower - slack).all()
            assert (found.upper <= plain.upper + slack).all()
            assert (found.lower <= centre + slack).all()
            assert (centre <= found.upper + slack).all()

    @pytest.mark.parametrize("radius", [0.01, 0.1, 1.0])
    def test_zonotopes_are_linear_bounds_with_parallel_lines(
        self, classifier: Convolutional, images: Tensor, radius: float
    ) -> None:
        """Of a ReLU network over boxes, within the same bounds: one relaxation, forward and backward."""
        network = Network(certify.load_network(classifier, images[:1]).graph, torch.float64)
        ((_, inputs),) = stack([certify.ball(x, radius) for x in images], torch.float64)
        differences = torch.tensor([[1.0, -1, 0], [-1, 0, 1], [1, 1, 1]], dtype=torch.float64)[None, :, None]
        rows = Rows(differences, differences.new_zeros(1, 3, 1), torch.ones(1, 3, 1, dtype=torch.bool))
        forward = ZonotopeBounds()(network, inputs, rows)
        lines = Slopes.PARALLEL.lines(network, forward.nodes, network.graph.nonlinear)
        last = len(network.graph.nodes) - 1
        backward = propagate(network, {last: differences[:, :, 0]}, differences.new_zeros(1, 3), lines).minimum(inputs)
        apart = IntervalBounds()(network, inputs, rows, within=forward.nodes).lower.squeeze(-1)
        assert (backward > apart + 1e-6).any()
        torch.testing.assert_close(forward.lower.squeeze(-1), torch.maximum(backward, apart))

    def test_slopes_differ_and_optimised_ones_are_best(self, classifier: Convolutional, images: Tensor) -> None:
        regions = [certify.ball(x, 0.2) for x in images]
        found = {rule: certify.bound(classifier, regions, method=LinearBounds(rule)).lower for rule in Slopes}
        for one in Slopes:
            for other in Slopes:
                assert one is other or (found[one] != found[other]).any()
            better = certify.bound(classifier, regions, method=LinearBounds(one, steps=10)).lower
            assert (better >= found[one] - 1e-9).all()
            assert (better > found[one] + 1e-4).any()

    @quick
    @given(strategies.arrays((4, 3)), strategies.arrays((2, 4)), st.sampled_from([*KINKS]), st.data())
    def test_flat_lines_are_never_looser_than_intervals(
        self, first: np.ndarray, second: np.ndarray, op: ops.Elementwise, data: st.DataObject
    ) -> None:
        """What makes the checker accept what interval arithmetic proves."""
        build = GraphBuilder([Port("x", (3,))])
        x = build.emit(op, build.emit(ops.Linear(first, None), build.inputs[0]))
        graph = build.build([build.emit(ops.Linear(second, None), x)], [Port("y", (2,))])
        lower, upper = data.draw(strategies.boxes(3, batch=2))
        network, inputs = Network(graph, torch.float64), InputSet(torch.tensor(lower), torch.tensor(upper))
        rows = torch.eye(2, dtype=torch.float64)[None, :, None]
        asked = Rows(rows, rows.new_zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool))
        plain = IntervalBounds()(network, inputs, asked)
        flattest = IntervalBounds().parameters(network, plain.nodes)
        lines = lines_of(network, plain.nodes, {e: t.unsqueeze(1) for e, t in flattest.items()})
        assert set(lines) == set(graph.nonlinear)
        last = len(graph.nodes) - 1
        form = propagate(network, {last: rows[:, :, 0]}, rows.new_zeros(1, 2), lines)
        scale = 1 + sum(b.abs().amax() for b in plain.nodes[last])
        assert (form.minimum(inputs) >= plain.lower[..., 0] - 1e-9 * scale).all()


def bad_weights() -> nn.Module:
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = math.nan
    return network


X = np.array([0.5, 0.25])
HOLDS = certify.Property((certify.clause([1.0, 0.0], -1e9),))
REFUSED = {
    "a radius of zero": lambda net: certify.verify(net, certify.ball(X, 0.0), HOLDS),
    "a negative radius": lambda net: certify.verify(net, certify.ball(X, -0.1), HOLDS),
    "an unknown norm": lambda net: certify.verify(net, certify.ball(X, 0.1, norm=3), HOLDS),
    "a centre that is NaN": lambda net: certify.verify(net, certify.ball([0.5, math.nan], 0.1), HOLDS),
    "a centre that is text": lambda net: certify.verify(net, certify.ball(["a", "b"], 0.1), HOLDS),
    "an empty box": lambda net: certify.verify(net, certify.box([0.0, 1.0], [1.0, 0.0]), HOLDS),
    "an infinite box": lambda net: certify.verify(net, certify.box(X, [1.0, math.inf]), HOLDS),
    "bounds of two sizes": lambda net: certify.verify(net, certify.box(X, [1.0]), HOLDS),
    "a ball beside the data range": lambda net: certify.verify(net, certify.ball(X, 0.1, within=(2, 3)), HOLDS),
    "a data range of another size": lambda net: certify.verify(net, certify.ball(X, 0.1, within=([0] * 3, 1)), HOLDS),
    "a region of three inputs": lambda net: certify.verify(net, certify.ball([1.0, 2, 3], 0.1), HOLDS, example=ONE),
    "a region of another shape": lambda net: certify.verify(net, certify.ball([1.0, 2, 3], 0.1), HOLDS),
    "a property of three outputs": lambda net: certify.verify(net, certify.ball(X, 0.1), certify.robust(0, 3)),
    "a label that is not a class": lambda net: certify.verify(net, certify.ball(X, 0.1), certify.robust(2, 2)),
    "one class": lambda net: certify.verify(net, certify.ball(X, 0.1), certify.robust(0, 1)),
    "a property without clauses": lambda net: certify.verify(net, certify.ball(X, 0.1), certify.Property(())),
    "no regions": lambda net: certify.verify(net, [], HOLDS),
    "no region": lambda net: certify.verify(net, property=HOLDS),
    "no property": lambda net: certify.verify(net, certify.ball(X, 0.1)),
    "an array as a region": lambda net: certify.verify(net, X, HOLDS),
    "two properties for one region": lambda net: certify.verify(net, certify.ball(X, 0.1), [HOLDS, HOLDS]),
    "two properties for three regions": lambda net: certify.verify(net, [certify.ball(X, 0.1)] * 3, [HOLDS, HOLDS]),
    "a region beside a file": lambda net: certify.verify(net, certify.ball(X, 0.1), "property.vnnlib"),
    "a file that is not there": lambda net: certify.verify(net, property="nowhere.vnnlib", example=ONE),
    "a module without a shape": lambda net: certify.verify(net, property="nowhere.vnnlib"),
    "a network that is not there": lambda net: certify.verify("nowhere.onnx", certify.ball(X, 0.1), HOLDS),
    "weights that are NaN": lambda net: certify.verify(bad_weights(), certify.ball(X, 0.1), HOLDS),
    "a timeout of zero": lambda net: certify.verify(net, certify.ball(X, 0.1), HOLDS, timeout=0),
    "a device that is not there": lambda net: certify.bound(net, certify.ball(X, 0.1), device="cuda:99"),
    "rows of three outputs": lambda net: certify.bound(net, certify.ball(X, 0.1), np.eye(3)),
    "rows that are NaN": lambda net: certify.bound(net, certify.ball(X, 0.1), [math.nan, 0]),
    "bounds over three inputs": lambda net: certify.bound(net, certify.ball([1.0, 2, 3], 0.1), example=ONE),
    "negative steps": lambda net: certify.bound(net, certify.ball(X, 0.1), method=LinearBounds(steps=-1)),
}
ONE = torch.zeros(1, 2)


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_remedy(what: str) -> None:
    with pytest.raises(CertifyError) as refused:
        REFUSED[what](nn.Linear(2, 2))
    assert refused.value.what
    assert refused.value.remedy


def test_methods_name_all_that_they_do_not_cover() -> None:
    nodes = [Node(ops.Input(), (), (2,), "x"), Node(ops.Op(), (0,), (2,), "one"), Node(ops.Op(), (1,), (2,), "other")]
    graph = certify.Graph(tuple(nodes), (Port("x", (2,)),), (Port("y", (2,)),))
    for method in METHODS:
        with pytest.raises(certify.UnsupportedOp) as refused:
            method.require(graph)
        assert refused.value.missing == (("Op", "one"), ("Op", "other"))


def test_everything_that_is_offered_is_there() -> None:
    for name in certify.__all__:
        assert getattr(certify, name) is not None
        assert name in dir(certify)
    with pytest.raises(AttributeError, match="nothing"):
        certify.nothing  # noqa: B018
    assert (Path(certify.__file__).parent / "py.typed").exists()
