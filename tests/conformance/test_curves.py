"""Search-side lines, bands and ranges of the operators in `CURVES`, against dense samples of the functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from certify.bounds.interval import INTERVAL
from certify.bounds.relaxation import Relaxation
from certify.graph import ops
from certify.graph.build import GraphBuilder
from certify.graph.evaluate import FUNCTIONS, Network
from certify.graph.ir import Graph, Port
from certify.relax.elementwise import LINES, has_parameter
from certify.relax.parallel import BANDS
from certify.relax.product import corners
from certify.relax.turning import turning_range
from certify.relax.wave import wave_range
from tests.strategies import CURVES

RIGHT = (ops.Log, ops.Sqrt, ops.Rsqrt)
each = pytest.mark.parametrize("op", CURVES, ids=lambda op: type(op).__name__)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def _function(op: ops.Elementwise, x: Tensor) -> Tensor:
    return FUNCTIONS[op](op, lambda a: a)(x)


def _intervals(op: ops.Elementwise, dtype: torch.dtype, count: int = 500) -> tuple[Tensor, Tensor]:
    """Bounds (1, count) of widths from 1e-9 to 100, some of none; right or left of 0 for the reciprocal, right of
    it for what is defined there only."""
    rng = np.random.default_rng(0)
    center, width = rng.normal(0, 4, count), 10 ** rng.uniform(-9, 2, count) * (rng.random(count) > 0.05)
    if isinstance(op, ops.Exp):
        width = np.minimum(width, 20)
    lower, upper = center - width * rng.random(count), center + width * rng.random(count)
    if isinstance(op, ops.Floor):
        lower = np.where(rng.random(count) < 0.2, np.round(lower), lower)
        upper = np.where(rng.random(count) < 0.2, np.round(upper), upper)
        lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)
    if isinstance(op, ops.Reciprocal):
        lower, upper = 10 ** rng.uniform(-3, 2, count), width
        upper = lower + upper
        left = rng.random(count) < 0.5
        lower, upper = np.where(left, -upper, lower), np.where(left, -lower, upper)
    if isinstance(op, RIGHT):
        lower = 10 ** rng.uniform(-3, 2, count)
        upper = lower + width
    return torch.from_numpy(lower).to(dtype)[None], torch.from_numpy(upper).to(dtype)[None]


def _samples(lower: Tensor, upper: Tensor, count: int = 200) -> Tensor:
    """(P, 1, N) in float64: even, at whole numbers and just beside them, and at the turns of sine and cosine."""
    lower, upper = lower.double(), upper.double()
    even = lower + torch.linspace(0, 1, count, dtype=torch.float64)[:, None, None] * (upper - lower)
    whole = torch.arange(-12, 13, dtype=torch.float64)[:, None, None].expand(-1, *lower.shape)
    marks = torch.cat(
        [whole, whole - 1e-13, whole * torch.pi / 2, lower.floor()[None] + 1, upper.floor()[None] - 1e-13]
    )
    return torch.minimum(torch.maximum(torch.cat([even, marks]), lower), upper)


def _tolerance(op: ops.Elementwise, slope: Tensor, shift: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    size = torch.maximum(lower.abs(), upper.abs()).double()
    most = torch.maximum(_function(op, lower).abs(), _function(op, upper).abs()).double()
    return 16 * torch.finfo(lower.dtype).eps * (slope.abs() * size + shift.abs() + most + 1)


@each
@precisions
@pytest.mark.parametrize("given", [False, True])
def test_lines_hold(op: ops.Elementwise, dtype: torch.dtype, given: bool) -> None:
    lower, upper = _intervals(op, dtype)
    t = torch.rand(lower.shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) if given else None
    low, down, up, above = (a.double() for a in LINES[op](op, lower, upper, t))
    x = _samples(lower, upper)
    y = _function(op, x)
    assert (low * x + down - y <= _tolerance(op, low, down, lower, upper)).all()
    assert (y - up * x - above <= _tolerance(op, up, above, lower, upper)).all()


@each
@precisions
def test_bands_hold(op: ops.Elementwise, dtype: torch.dtype) -> None:
    lower, upper = _intervals(op, dtype)
    slope, shift, radius = (a.double() for a in BANDS[op](op, lower, upper))
    x = _samples(lower, upper)
    assert (radius >= 0).all()
    allowed = _tolerance(op, slope, shift.abs() + radius, lower, upper)
    assert ((_function(op, x) - slope * x - shift).abs() - radius <= allowed).all()


@each
def test_lines_have_the_least_area(op: ops.Elementwise) -> None:
    """No line that holds on the samples is nearer to the function in the interval's middle, where it decides the
    area."""
    rng = np.random.default_rng(3)
    ends = np.sort(rng.uniform(0.3, 5, (2, 60)), 0)
    lower, upper = (torch.from_numpy(e)[None] for e in ends)
    low, down, up, above = LINES[op](op, lower, upper, None)
    x, middle = _samples(lower, upper, 300), (lower + upper) / 2
    y = _function(op, x)
    steepest = {ops.Exp: 160.0, ops.Square: 12.0, ops.Reciprocal: 12.0}.get(type(op), 4.0)
    slopes = torch.linspace(-steepest, steepest, 1500, dtype=torch.float64)
    most, least = torch.full_like(middle, torch.inf), torch.full_like(middle, -torch.inf)
    for s in slopes:
        offsets = y - s * x
        most = torch.minimum(most, offsets.amax(0) + s * middle)
        least = torch.maximum(least, offsets.amin(0) + s * middle)
    size = 1e-2 * (1 + y.abs().amax(0))
    assert (up * middle + above <= most + size).all()
    assert (low * middle + down >= least - size).all()


@pytest.mark.parametrize("op", [op for op in CURVES if not isinstance(op, ops.Floor)], ids=lambda op: type(op).__name__)
def test_bands_are_the_narrowest(op: ops.Elementwise) -> None:
    rng = np.random.default_rng(4)
    ends = np.sort(rng.uniform(0.3, 4, (2, 40)), 0)
    lower, upper = (torch.from_numpy(e)[None] for e in ends)
    x = _samples(lower, upper, 400)
    y = _function(op, x)
    steepest = {ops.Exp: 60.0, ops.Square: 10.0, ops.Reciprocal: 12.0}.get(type(op), 2.0)
    best = torch.full_like(lower, torch.inf)
    for s in torch.linspace(-steepest, steepest, 1500, dtype=torch.float64):
        offsets = y - s * x
        best = torch.minimum(best, (offsets.amax(0) - offsets.amin(0)) / 2)
    assert (BANDS[op](op, lower, upper).radius <= best + 1e-6).all()


@pytest.mark.parametrize("op", [ops.Sin(), ops.Cos()], ids=lambda op: type(op).__name__)
def test_ranges_of_waves(op: ops.Elementwise) -> None:
    """They hold, and are attained."""
    lower, upper = _intervals(op, torch.float64)
    low, high = wave_range(op, lower, upper)
    y = _function(op, _samples(lower, upper, 4000))
    assert (y.amin(0) - low).abs().max() < 1e-3
    assert (y.amax(0) - high).abs().max() < 1e-3
    assert (y.amin(0) >= low - 1e-12).all()
    assert (y.amax(0) <= high + 1e-12).all()


def _graph(op: ops.Elementwise) -> Graph:
    build = GraphBuilder([Port("x", (5,))])
    return build.build([build.emit(op, build.inputs[0])], [Port("y", (5,))])


@pytest.mark.parametrize("op", [op for op in CURVES if has_parameter(op)], ids=lambda op: type(op).__name__)
@pytest.mark.parametrize("left", [False, True])
def test_rates_are_the_derivatives(op: ops.Elementwise, left: bool) -> None:
    lower, upper = (
        torch.tensor([[0.5, 1.0, 2.0, 0.1, 3.0]]).double(),
        torch.tensor([[1.0, 4.0, 2.5, 3.0, 3.5]]).double(),
    )
    if left and isinstance(op, RIGHT):
        return
    lower, upper = (-upper, -lower) if left else (lower, upper)
    family = Relaxation(Network(_graph(op), torch.float64), {0: (lower, upper)}).families[1]
    t, step = torch.rand(1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.98 + 0.01, 1e-6
    z = torch.randn(1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    one, other = family.lines(t - step), family.lines(t + step)
    for up in (False, True):
        at = [(a.upper_slope * z + a.upper_shift) if up else (a.lower_slope * z + a.lower_shift) for a in (one, other)]
        rate = family.rate(t, z, torch.full(t.shape, up))
        torch.testing.assert_close(rate, (at[1] - at[0]) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_around_a_pole_nothing_is_said(dtype: torch.dtype) -> None:
    lower, upper = torch.tensor([[-1.0, 0.0, -2.0]], dtype=dtype), torch.tensor([[1.0, 2.0, 0.0]], dtype=dtype)
    op, far = ops.Reciprocal(), torch.finfo(dtype).max / 4
    low, down, up, above = LINES[op](op, lower, upper, None)
    assert not low.any()
    assert not up.any()
    assert (down == -far).all()
    assert (above == far).all()
    assert (BANDS[op](op, lower, upper).radius == far).all()


PRODUCT = ops.Product(np.array([[0, 1], [2, 0]]), np.array([[1, 3], [3, 0]]))


def _boxes(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds (B, 4) of all sizes and signs, and points (B, P, 4): corners, and others between them."""
    rng = np.random.default_rng(5)
    center, width = rng.normal(0, 3, (400, 4)), 10 ** rng.uniform(-6, 2, (400, 4)) * (rng.random((400, 4)) > 0.1)
    lower, upper = (torch.from_numpy(b).to(dtype) for b in (center - width, center + width))
    share = torch.from_numpy(np.concatenate([np.indices((2,) * 4).reshape(4, -1).T, rng.random((50, 4))]))
    return lower, upper, lower.double()[:, None] + share * (upper - lower).double()[:, None]


@precisions
@pytest.mark.parametrize("given", [False, True])
def test_planes_hold(dtype: torch.dtype, given: bool) -> None:
    lower, upper, z = _boxes(dtype)
    t = torch.rand(400, 1, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(0)) if given else None
    planes = LINES[PRODUCT](PRODUCT, lower.unsqueeze(1), upper.unsqueeze(1), t)
    y = z[..., PRODUCT.left] * z[..., PRODUCT.right]
    a, z = torch.ones(y.shape, dtype=dtype), z.to(dtype)
    size = torch.maximum(lower.abs(), upper.abs()).double().amax(1)[:, None, None, None]
    allowed = 64 * torch.finfo(dtype).eps * (size + 1) ** 2
    assert (planes.follow(z, a).double() <= y + allowed).all()
    assert (planes.follow(z, -a).double() >= y - allowed).all()
    assert (planes.gap(z) >= -allowed).all()
    least, most = corners(PRODUCT, lower, upper)
    assert (least.unsqueeze(1).double() <= y + allowed).all()
    assert (most.unsqueeze(1).double() >= y - allowed).all()


def test_planes_are_pulled_back_as_they_are_followed() -> None:
    """a . follow(z) = pull(a) . z + constant, for every z."""
    lower, upper, z = _boxes(torch.float64)
    planes = LINES[PRODUCT](PRODUCT, lower.unsqueeze(1), upper.unsqueeze(1), None)
    a = torch.randn(1, z.shape[1], 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows, constant = planes.pull(a)
    found = (a * planes.follow(z, a.expand(400, -1, -1, -1))).sum((2, 3))
    torch.testing.assert_close((rows * z).sum(2) + constant, found, rtol=1e-9, atol=1e-6)


def test_rates_of_planes_are_the_derivatives() -> None:
    lower, upper, z = _boxes(torch.float64)
    graph = GraphBuilder([Port("x", (4,))])
    network = Network(graph.build([graph.emit(PRODUCT, graph.inputs[0])], [Port("y", (2, 2))]), torch.float64)
    family = Relaxation(network, {0: (lower, upper)}).families[1]
    shape = (400, z.shape[1], 2, 2)
    one, other = (family.lines(torch.full(shape, t, dtype=torch.float64)) for t in (0.25, 0.75))
    for up in (False, True):
        a = torch.full(shape, -1.0 if up else 1.0, dtype=torch.float64)
        rate = family.rate(torch.full(shape, 0.5), z, torch.full(shape, up))
        torch.testing.assert_close(rate, (other.follow(z, a) - one.follow(z, a)) * 2, rtol=1e-6, atol=1e-6)


@precisions
@pytest.mark.parametrize("op", [ops.Log(), ops.Sqrt(), ops.Rsqrt()], ids=lambda op: type(op).__name__)
def test_where_a_root_may_not_be_defined_nothing_is_said(op: ops.Elementwise, dtype: torch.dtype) -> None:
    lower, upper = torch.tensor([[-1.0, -3.0, -1e-30]], dtype=dtype), torch.tensor([[1.0, -2.0, 1e30]], dtype=dtype)
    far = torch.finfo(dtype).max / 4
    low, down, up, above = LINES[op](op, lower, upper, None)
    assert not low.any()
    assert not up.any()
    assert (down == -far).all()
    assert (above == far).all()
    least, most = INTERVAL[op](Network(_graph(op), dtype), 1, [(lower, upper)])
    assert (least == -torch.inf).all()
    assert (most == torch.inf).all()


@pytest.mark.parametrize(
    "op", [ops.Gelu(), ops.GeluTanh(), ops.Silu(), ops.Mish(), ops.HardSwish()], ids=lambda op: type(op).__name__
)
def test_ranges_of_hills(op: ops.Elementwise) -> None:
    """They hold, and are attained."""
    lower, upper = _intervals(op, torch.float64)
    low, high = turning_range(op, lower, upper)
    y = _function(op, _samples(lower, upper, 2000))
    assert (y.amin(0) - low).abs().max() < 1e-3
    assert (y.amax(0) - high).abs().max() < 1e-3
    assert (y.amin(0) >= low - 1e-12).all()
    assert (y.amax(0) <= high + 1e-12).all()
