"""Matrices in slots are the same maps as dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certify.check import affine as checked
from certify.graph import ops
from certify.graph.affine import SparseMap
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.graph.sparse import SLOTS, sparse


def few(seed: int, rows: int, columns: int, most: int) -> np.ndarray:
    """A matrix with at most `most` entries in each row and column."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((rows, columns))
    for _ in range(most):
        count = min(rows, columns)
        r, c = rng.permutation(rows)[:count], rng.permutation(columns)[:count]
        matrix[r, c] = rng.standard_normal(count)
    return matrix


def network(weight: np.ndarray) -> Graph:
    build = GraphBuilder([Port("x", (weight.shape[1],), "float64")])
    out = build.emit(ops.Linear(weight, np.arange(len(weight), dtype=float)), build.inputs[0])
    return build.build([out], [Port("y", (len(weight),))])


sizes = st.integers(128, 200)


@given(st.integers(0, 1000), sizes, sizes, st.integers(0, SLOTS))
def test_slots_hold_the_matrix(seed: int, rows: int, columns: int, most: int) -> None:
    matrix = few(seed, rows, columns, most)
    found = sparse(matrix)
    assert found is not None
    np.testing.assert_array_equal(found.rows.rows(np.arange(rows), columns), matrix)
    np.testing.assert_array_equal(found.columns.rows(np.arange(columns), rows), matrix.T)


@pytest.mark.parametrize("along", [0, 1])
def test_one_full_row_or_column_keeps_the_matrix_dense(along: int) -> None:
    matrix = few(0, 150, 140, 2)
    assert sparse(matrix) is not None
    np.moveaxis(matrix, along, 0)[3, : SLOTS + 1] = 1.0
    assert sparse(matrix) is None


@given(st.integers(0, 1000), sizes, sizes)
def test_maps_of_few_entries_agree_with_dense_products(seed: int, rows: int, columns: int) -> None:
    weight = few(seed, rows, columns, 3)
    rng = np.random.default_rng(seed)
    graph = network(weight)
    node = graph.nodes[-1]
    x, a = rng.standard_normal((4, columns)), rng.standard_normal((4, rows))
    searched = Network(graph, torch.float64).maps[-1]
    assert isinstance(searched, SparseMap)
    rule = checked._linear(node.op, node, [graph.nodes[0].shape])
    assert isinstance(rule, checked.SparseLinear)
    assert rule.terms <= 3
    for linear, absolute, adjoint in (
        (rule.linear(x), rule.absolute(np.abs(x)), rule.adjoint(a)[0]),
        (
            searched.linear(torch.from_numpy(x)).numpy(),
            searched.absolute(torch.from_numpy(np.abs(x))).numpy(),
            searched.adjoint(torch.from_numpy(a))[0].numpy(),
        ),
    ):
        np.testing.assert_allclose(linear, x @ weight.T, atol=1e-12)
        np.testing.assert_allclose(absolute, np.abs(x) @ np.abs(weight).T, atol=1e-12)
        np.testing.assert_allclose(adjoint, a @ weight, atol=1e-12)
    np.testing.assert_array_equal(rule.unit_rows(np.array([[3], [5]])), weight[[[3], [5]]])
