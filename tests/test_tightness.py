"""Lines around nonlinear operators are as near to the best as the benchmark of tightness says that they should be."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import composites, tightness
from certify.graph import ops

MOST = 1.1
"""Of the mean ratio between the area of an operator's lines and the least possible."""


@pytest.mark.parametrize(
    "op",
    [*tightness.KINKED, *tightness.SMOOTH],
    ids=lambda op: type(op).__name__ + "".join(map(str, vars(op).values())),
)
def test_lines_have_nearly_the_least_area(op: ops.Elementwise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tightness, "SIDE", 60)
    lower, upper = tightness.intervals(op, 60)
    best = tightness.least(op, lower, upper)
    kept = best > 1e-6 * (1 + np.abs(tightness.values(op, upper)))
    assert kept.sum() > 5
    for made in tightness.distances(op, lower, upper).values():
        ratio = made[kept] / best[kept]
        assert ratio.min() > 0.98  # less than the least would be no line, or no least
        assert ratio.mean() <= MOST


def test_planes_around_products_have_the_least_volume() -> None:
    best, found = tightness.products(100)
    rng = np.random.default_rng(1)
    rng.normal(0, 2, (100, 2))
    width = 10 ** rng.uniform(-2, 1, (100, 2))
    np.testing.assert_allclose(best, width.prod(1) / 2, rtol=1e-9)  # McCormick 1976, in the middle
    for made in found.values():
        np.testing.assert_allclose(made, best, rtol=1e-6)


LOOSEST = {"Softmax": 1.4, "Log-softmax": 1.25, "Log-sum-exp": 1.25, "x sigmoid(x)": 1.1, "x / (1 + |x|)": 1.6}
"""Of the mean ratio for functions of several operators; layer-norm is only asked to beat its chain."""


@pytest.mark.parametrize("one", composites.COMPOSITES, ids=lambda one: one.name)
def test_composites_are_tighter_than_their_chains(one: composites.Composite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composites, "GRID", 5)
    best, found = composites.measure(one, 25)
    kept = best > 1e-6
    ours, chain = (found[name][kept] / best[kept] for name in ("ours", "chain"))
    assert kept.sum() > 15
    assert ours.min() > 0.98  # the envelopes on a grid are at most as far apart as the true ones
    assert ours.mean() <= LOOSEST.get(one.name, np.inf)
    assert (ours <= chain * (1 + 1e-6)).mean() > 0.8
    assert ours.mean() < 0.8 * chain.mean()
