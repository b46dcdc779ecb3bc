"""Where neurons are split: kinks, middles of factors, and points that leave the least area to the children."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.bab.points import SHARES, split_point
from certify.graph import ops
from certify.relax.elementwise import LINES

SMOOTH = (ops.Sigmoid(), ops.Tanh(), ops.Sin(), ops.Cos(), ops.Gelu(), ops.Silu(), ops.Erf(), ops.Exp(), ops.Square())


def areas(op: ops.Elementwise, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Between the lines on intervals (K,), by sums over a fine grid."""
    low, below, high, above = (t.numpy() for t in LINES[op](op, *map(torch.from_numpy, (lower, upper)), None))
    x = np.linspace(lower, upper, 201)
    return np.trapezoid(high * x + above - low * x - below, x, axis=0)


@settings(max_examples=30)
@given(op=st.sampled_from(SMOOTH), lower=st.floats(-6, 6), width=st.floats(0.01, 12))
def test_no_other_share_leaves_less_area(op: ops.Elementwise, lower: float, width: float) -> None:
    ends = torch.tensor([[lower], [lower + width]], dtype=torch.float64)
    point = split_point(op, ends[0], *ends).item()
    assert lower < point < lower + width
    points = np.append(lower + width * SHARES.numpy().astype(np.float64), point)
    below, above = np.full_like(points, lower), np.full_like(points, lower + width)
    *tried, found = areas(op, below, points) + areas(op, points, above)
    assert found <= min(tried) + 1e-6 * (1 + width) * (1 + abs(min(tried)))


def test_a_bowl_is_halved_and_a_step_is_cut_where_it_bends() -> None:
    ends = torch.tensor([[-1.0, -30.0], [3.0, 30.0]], dtype=torch.float64)
    assert split_point(ops.Square(), ends[0], *ends).tolist() == [1.0, 0.0]
    wide = torch.tensor([[-4.0], [20.0]], dtype=torch.float64)
    assert split_point(ops.Sigmoid(), wide[0], *wide).item() < 8.0  # far from the level part


@pytest.mark.parametrize(("op", "lower", "upper"), [(ops.Exp(), -100, 5000), (ops.Reciprocal(), -1, 1)])
def test_where_areas_are_infinite_the_point_is_still_inside(op: ops.Op, lower: float, upper: float) -> None:
    ends = torch.tensor([[lower], [upper]], dtype=torch.float32)
    assert lower < split_point(op, ends[0], *ends).item() < upper


def test_kinks_and_factors() -> None:
    z, lower, upper = torch.tensor([-0.1, 0.9, 0.4]), torch.full((3,), -1.0), torch.full((3,), 2.0)
    assert split_point(ops.Relu(), z, lower, upper).tolist() == [0, 0, 0]
    assert split_point(ops.Clip(0.0, 1.0), z, lower, upper).tolist() == [0, 1, 0]
    none = torch.arange(0)
    assert split_point(ops.Product(none, none), z, lower, upper).tolist() == [0.5] * 3
