"""The checker's convolutions on rows that are zero nearly everywhere, whose zeros are left out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from certify.check.affine import Conv, occupied
from certify.graph import ops
from certify.graph.ir import Node
from certify.graph.shapes import SHAPES


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 3), dims=st.integers(1, 2))
def test_sparse_rows_have_their_adjoint(seed: int, count: int, dims: int) -> None:
    """With whole numbers nothing is rounded: <a, M x> = <M^T a, x> exactly, for every x of a basis."""
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(low, high, dims).tolist())

    groups, stride, dilation, before, after = int(rng.integers(1, 3)), some(1, 4), some(1, 3), some(0, 3), some(0, 3)
    shape = (2 * groups, *some(5, 8))
    weight = rng.integers(-3, 4, (3 * groups, 2, *some(1, 4))).astype(float)
    op = ops.Conv(weight, None, stride, before, after, dilation, groups)
    node = Node(op, (0,), SHAPES[op](op, [shape]), "conv")
    rule = Conv(op, node, [shape])
    a = np.zeros((2, *node.shape))
    a.flat[rng.integers(0, a.size, count)] = rng.integers(-4, 5, count)
    basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    image = rule.linear(basis).reshape(len(basis), -1)
    (back,) = rule.adjoint(a)
    np.testing.assert_array_equal(back.reshape(2, -1), a.reshape(2, -1) @ image.T)


def test_what_is_not_a_number_is_not_zero() -> None:
    a = np.zeros((1, 2, 5, 7))
    assert occupied(a) is None
    a[0, 1, 3, 2], a[0, 0, 4, 5] = np.nan, -0.0
    assert occupied(a) == (slice(3, 4), slice(2, 3))
