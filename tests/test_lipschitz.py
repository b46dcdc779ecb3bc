"""Lipschitz constants: norms that are not below the exact ones, bounds that no pair of inputs exceeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from scipy import sparse

from certify.bounds.rows import rows_of
from certify.errors import CertifyError, UnsupportedOp
from certify.graph import ops
from certify.graph.affine import MAPS
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import FUNCTIONS, Network, evaluate
from certify.graph.ir import Graph, Port
from certify.lipschitz import norms
from certify.lipschitz.circular import circular_norm
from certify.lipschitz.margin import Outputs, crude_radius, pair_rows, radius
from certify.lipschitz.matrices import MATRICES, Matrix, matrices_of
from certify.lipschitz.method import LipschitzBounds
from certify.lipschitz.network import global_bound
from certify.lipschitz.norms import How, least_eigenvalue, operator_norm
from certify.lipschitz.slopes import SLOPES, slopes_between
from certify.lipschitz.system import between, cuts
from certify.spec.inputset import stack
from certify.spec.property import robust
from certify.spec.regions import ball
from tests import strategies
from tests.check import nets
from tests.conftest import Ran

Array = np.ndarray
NORMS = (1, 2, np.inf)

quick = settings(max_examples=20, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None)
AFFINE = [kind for kind in MATRICES.table if kind in strategies.OPERATORS and kind is not ops.Constant]


def length(x: Array, norm: float) -> Array:
    return np.linalg.norm(x, ord=norm, axis=-1)


def quotients(graph: Graph, norm: float, rng: np.random.Generator, count: int = 200) -> Array:
    """||f(a) - f(b)|| / ||a - b|| of random pairs, some near one another; 0 where that is within rounding."""
    a = rng.standard_normal((count, graph.input_size)) * 10.0 ** rng.integers(-1, 2, (count, 1))
    step = rng.standard_normal(a.shape) * (rng.random(a.shape) < rng.random((count, 1)))
    b = a + step * 10.0 ** rng.integers(-3, 2, (count, 1))
    change = length(evaluate(graph, a) - evaluate(graph, b), norm)
    near = length(a - b, norm)
    size = 1 + np.abs(evaluate(graph, a)).max(initial=0)
    return np.where(near > 0, (change - 1e-11 * size) / np.where(near > 0, near, 1), 0)


class MaxMin:
    """max and min of pairs, through one ReLU."""

    @staticmethod
    def graph(size: int, weight: Array) -> Graph:
        build = GraphBuilder([Port("x", (size,))])
        x = build.emit(ops.Linear(weight, None), build.inputs[0])
        a, b = build.slice(x, 0, 0, size // 2), build.slice(x, 0, size // 2, size)
        above = build.relu(build.sum([a, b], [1, -1]))
        y = build.concat([build.sum([b, above], [1, 1]), build.sum([a, above], [1, -1])], 0)
        return build.build([y], [Port("y", (size,))])


class TestNorms:
    @quick
    @given(st.data(), st.sampled_from(AFFINE))
    def test_matrices_do_what_the_operators_do(self, data: st.DataObject, kind: type[ops.Op]) -> None:
        graph = data.draw(strategies.single(kind))
        node = graph.nodes[-1]
        shapes = [graph.nodes[j].shape for j in node.inputs]
        rng = np.random.default_rng(0)
        xs = [torch.from_numpy(rng.integers(-4, 5, (1, *s)).astype(float)) for s in shapes]
        mapped = MAPS[node.op](node.op, node, shapes, lambda a: torch.from_numpy(np.array(a))).linear(*xs)
        found = sum(
            m.value @ x.numpy().reshape(-1) for m, x in zip(matrices_of(node.op, node, shapes), xs, strict=True)
        )
        assert np.allclose(found, mapped.numpy().reshape(-1), rtol=1e-12, atol=1e-12)

    @quick
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16), st.sampled_from([1.0, 2.0**-40, 2.0**40]))
    def test_they_are_not_below_what_is_known_exactly(self, rows: int, columns: int, seed: int, scale: float) -> None:
        """Of u v' in whole numbers all three norms are known."""
        rng = np.random.default_rng(seed)
        u, v = rng.integers(-9, 10, rows), rng.integers(-9, 10, columns)
        matrix = Matrix(sparse.csr_array(scale * np.outer(u, v).astype(float)))
        one, two, largest = (Fraction(operator_norm(matrix, norm).value) / Fraction(scale) for norm in NORMS)
        exact = [int(np.abs(u).sum() * np.abs(v).max()), int((u @ u) * (v @ v)), int(np.abs(v).sum() * np.abs(u).max())]
        assert one >= exact[0]
        assert two**2 >= exact[1]
        assert largest >= exact[2]
        assert float(one) <= exact[0] * (1 + 1e-12)
        assert float(largest) <= exact[2] * (1 + 1e-12)
        assert float(two) <= exact[1] ** 0.5 * (1 + 1e-12)

    @quick
    @given(st.integers(2, 8), st.integers(0, 2**16), st.booleans())
    def test_narrow_bands_agree_with_dense_matrices(self, size: int, seed: int, definite: bool) -> None:
        rng = np.random.default_rng(seed)
        factor = sparse.csr_array(np.triu(np.tril(rng.integers(-5, 6, (6 * size, 6 * size)), 1)).astype(float))
        matrix = (factor @ factor.T).tocsr() if definite else (factor + factor.T).tocsr()
        least = np.linalg.eigvalsh(matrix.toarray())[0]
        found, scale = norms._banded(matrix), abs(matrix).sum(1).max()
        assert found <= min(least, 0) + 1e-12 * scale
        assert found >= min(least, 0) - 1e-4 * scale
        assert abs(found - least_eigenvalue(matrix)) <= 1e-4 * scale

    def test_convolutions_are_bounded_as_padded(self) -> None:
        """Of a mean over windows the norm on a small image is clearly below that of the circular convolution."""
        build = GraphBuilder([Port("x", (1, 4, 4))])
        y = build.emit(ops.Conv(np.full((1, 1, 3, 3), 1.0), None, (1, 1), (1, 1), (1, 1), (1, 1), 1), build.inputs[0])
        found = global_bound(build.build([y], [Port("y", (1, 4, 4))]), 2)
        assert found.constant == pytest.approx((1 + 2 * np.cos(np.pi / 5)) ** 2, rel=1e-12)
        assert found.parts[0].bound.how is How.ENCLOSED

    @quick
    @given(st.integers(0, 2**16), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
    def test_fourier_symbols_are_above_and_near(
        self, seed: int, kernel: int, stride: int, dilation: int, groups: int
    ) -> None:
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((2 * groups, 2, kernel, kernel))
        before, after = (tuple(int(n) for n in rng.integers(0, 3, 2)) for _ in range(2))
        build = GraphBuilder([Port("x", (2 * groups, 9, 8))])
        op = ops.Conv(weight, None, (stride, stride), before, after, (dilation, dilation), groups)
        y = build.emit(op, build.inputs[0])
        graph = build.build([y], [Port("y", y.shape)])
        exact = np.linalg.norm(matrices_of(op, graph.nodes[-1], [(2 * groups, 9, 8)])[0].value.toarray(), ord=2)
        found = circular_norm(op, y.shape[-2:])
        assert exact * (1 - 1e-12) <= found <= 2 * exact
        assert kernel > 1 or found == pytest.approx(exact, rel=1e-9)

    def test_convolutions_that_are_too_large_fall_back_on_their_symbols(self, monkeypatch: pytest.MonkeyPatch) -> None:
        build = GraphBuilder([Port("x", (2, 8, 8))])
        op = ops.Conv(np.random.default_rng(0).standard_normal((3, 2, 3, 3)), None, (1, 1), (1, 1), (1, 1), (1, 1), 1)
        graph = build.build([build.emit(op, build.inputs[0])], [Port("y", (3, 8, 8))])
        fine = global_bound(graph, 2)
        monkeypatch.setattr(norms, "least_eigenvalue", lambda matrix: -np.inf)
        found = global_bound(graph, 2)
        assert found.parts[0].bound.how is How.CIRCULAR
        assert fine.constant <= found.constant <= 1.3 * fine.constant

    @quick
    @given(st.integers(0, 2**16))
    def test_products_hold_the_exact_product(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        one, other = (rng.standard_normal((4, 4)) for _ in range(2))
        found = Matrix(sparse.csr_array(one)) @ Matrix(sparse.csr_array(other)) + Matrix(sparse.csr_array(one))
        for i in range(4):
            for j in range(4):
                exact = sum(Fraction(one[i, k]) * Fraction(other[k, j]) for k in range(4)) + Fraction(one[i, j])
                assert abs(exact - Fraction(found.value[i, j])) <= Fraction(found.error[i, j])

    def test_weights_beyond_all_measure_are_refused(self) -> None:
        graph = nets.chain(1, (ops.Linear(np.array([[1e40]]), None), (1,)))
        with pytest.raises(CertifyError, match="too large"):
            global_bound(graph)


class TestSlopes:
    @quick
    @given(st.sampled_from(sorted(SLOPES.table, key=lambda k: k.__name__)), st.integers(0, 2**16))
    def test_no_chord_is_steeper(self, kind: type[ops.Op], seed: int) -> None:
        rng = np.random.default_rng(seed)
        op = {ops.LeakyRelu: lambda: ops.LeakyRelu(np.array(rng.choice([0.1, -0.5, 2.0]))),
              ops.Clip: lambda: ops.Clip(*sorted(rng.standard_normal(2)))}.get(kind, kind)()  # fmt: skip
        graph = nets.chain(50, (op, (50,)))
        ends = np.sort(rng.standard_normal((2, 50)) * 10.0 ** rng.integers(-2, 2), axis=0)
        ends[:, :5] = [[0.0], [1.0]]
        if kind is ops.Reciprocal:
            ends = np.sort(np.where(ends[:1] < 0, -0.1 - np.abs(ends), 0.1 + np.abs(ends)), axis=0)
        low, high = (s[0] for s in slopes_between(graph, 1, ends[:1], ends[1:]))
        function = FUNCTIONS[op](op, lambda a: torch.from_numpy(np.array(a)))
        a, b = (ends[0] + rng.random((2, 30, 50)) * (ends[1] - ends[0])).clip(ends[0], ends[1])
        f, g = (function(torch.from_numpy(x)).numpy() for x in (a, b))
        apart = np.abs(a - b) > 1e-6
        slope = np.where(apart, (f - g) / np.where(apart, a - b, 1), np.nan)
        slack = 1e-8 * (1 + np.abs(f) + np.abs(g))
        assert not (slope > high + slack).any()
        assert not (slope < low - slack).any()
        assert (low <= high).all()


class TestNetworks:
    @settings(quick, max_examples=40)
    @given(strategies.graphs(), st.integers(0, 2**16))
    def test_no_pair_of_inputs_exceeds_the_global_bound(self, graph: Graph, seed: int) -> None:
        for norm in NORMS:
            try:
                found = global_bound(graph, norm)
            except CertifyError:
                reject()  # weights beyond 2^100
            assert not (quotients(graph, norm, np.random.default_rng(seed)) > found.constant * (1 + 1e-9)).any()

    def test_cuts_are_what_all_paths_go_through(self) -> None:
        graph = MaxMin.graph(4, np.eye(4))
        last = len(graph.nodes) - 1
        assert cuts(graph) == [0, 1, last]
        assert [len(s.nodes) for s in (between(graph, 0, 1), between(graph, 1, last))] == [0, 1]

    def test_pairs_of_maximum_and_minimum_are_1_lipschitz(self) -> None:
        """In L2, where norms along paths give 3."""
        found = global_bound(MaxMin.graph(6, np.eye(6)), 2)
        assert 1 <= found.constant <= 1 + 1e-8
        assert found.parts[-1].bound.how is How.QUADRATIC

    @quick
    @given(st.integers(0, 2**16))
    def test_almost_orthogonal_residual_layers_are_1_lipschitz(self, seed: int) -> None:
        """x - 2 W T^-1 relu(W' x), T the row sums of |W' W| (Araujo et al. 2023, theorem 3)."""
        w = np.random.default_rng(seed).standard_normal((5, 3))
        build = GraphBuilder([Port("x", (3,))])
        h = build.relu(build.emit(ops.Linear(w, None), build.inputs[0]))
        back = build.emit(ops.Linear(-2 * w.T / np.abs(w @ w.T).sum(1), None), h)
        graph = build.build([build.sum([build.inputs[0], back], [1, 1])], [Port("y", (3,))])
        assert global_bound(graph, 2).constant <= 1 + 1e-8

    def test_what_has_no_slope_is_refused_by_name(self) -> None:
        build = GraphBuilder([Port("x", (2,))])
        x = build.inputs[0]
        graph = build.build([build.mul(x, build.pad(build.slice(x, 0, 1, None), [0], [1]))], [Port("y", (2,))])
        with pytest.raises(UnsupportedOp, match="Product"):
            global_bound(graph)
        assert global_bound(nets.chain(1, (ops.Sign(), (1,)))).constant == np.inf


class TestMargins:
    @quick
    @given(st.integers(0, 2**16), st.sampled_from(NORMS))
    def test_no_input_within_the_radius_is_classified_otherwise(self, seed: int, norm: float) -> None:
        rng = np.random.default_rng(seed)
        graph = nets.mlp(rng, (3, 5, 4))
        x = rng.standard_normal((1, 3))
        low, high = (side[0] for side in Outputs(graph)(x))
        y = evaluate(graph, x)[0]
        assert (low <= y + 1e-12).all()
        assert (high >= y - 1e-12).all()
        label, bound = int(y.argmax()), global_bound(graph, norm)
        found = radius(bound, label, low, high)
        assert 0 <= crude_radius(bound, label, low, high) <= found * (1 + 1e-12)
        step = rng.standard_normal((200, 3)) * (rng.random((200, 3)) < 0.5)
        step /= np.maximum(length(step, norm), 1e-300)[:, None]
        assert (evaluate(graph, x + found * step).argmax(1) == label).all()
        assert radius(bound, int(y.argmin()), low, high) == 0

    @quick
    @given(st.integers(0, 2**16), st.sampled_from(NORMS), st.floats(1e-3, 1.0))
    def test_rows_are_bounded_from_below(self, seed: int, norm: float, size: float) -> None:
        rng = np.random.default_rng(seed)
        graph = nets.mlp(rng, (3, 5, 4))
        centre = rng.standard_normal(3)
        network = Network(graph, torch.float64)
        region = ball(centre, size, norm)
        ((_, inputs),) = stack([region], torch.float64)
        rows = rows_of(robust(0, 4).clauses, network)
        found = LipschitzBounds()(network, inputs, rows).lower[0].numpy()
        step = rng.standard_normal((200, 3))
        x = centre + size * 0.999 * step / length(step, norm)[:, None]
        matrix, offset = rows.matrix[0].numpy(), rows.offset[0].numpy()
        values = np.einsum("srn,bn->bsr", matrix, evaluate(graph, x)) - offset
        assert (found <= values.min(0) + 1e-12).all()
        flat = matrix.reshape(-1, 4)
        assert (global_bound(graph, norm).rows(flat) <= global_bound(graph, norm).constant * 2 * (1 + 1e-9)).all()
        assert len(pair_rows(1, 4)) == 3

    def test_a_ball_keeps_its_radius_to_the_last_bit(self) -> None:
        ((_, inputs),) = stack([ball([0.0], 0.1, 2)], torch.float64)
        assert inputs.radius.item() == 0.1


class TestCommand:
    def test_it_says_what_the_constant_is_made_of(self, run: Callable[..., Ran]) -> None:
        done = run("lipschitz", "digits-mlp", "--json")
        found = json.loads(done.out)
        assert done.status == 0
        assert found["constant"] == pytest.approx(np.prod([p["constant"] for p in found["parts"]]))
        assert {p["how"] for p in found["parts"]} == {"enclosed", "slope"}

    def test_around_samples_it_says_what_was_met_too(self, run: Callable[..., Ran]) -> None:
        done = run("lipschitz", "digits-mlp", "--data", "digits", "--eps", "0.01", "--index", "0:2", "--json")
        assert done.status == 0, done.err
        lines = [json.loads(line) for line in done.out.splitlines()]
        whole = json.loads(run("lipschitz", "digits-mlp", "--json").out)["constant"]
        assert [line["index"] for line in lines] == [0, 1]
        assert all(0 < line["attained"] <= line["upper"] < whole for line in lines)

    @pytest.mark.parametrize("given", [("--norm", "3"), ("--sdp", "--norm", "1")])
    def test_what_it_cannot_do_is_refused(self, run: Callable[..., Ran], given: tuple[str, ...]) -> None:
        assert run("lipschitz", "digits-mlp", *given).status == 2
