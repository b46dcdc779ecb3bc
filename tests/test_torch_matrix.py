"""The torch frontend against eager torch on a generated matrix: operators x attributes x axes x shapes.

As `tests.test_onnx_matrix` for the other frontend: every axis, from either end, meets every rank, and every pair of
shapes that broadcast meets every operator of two arguments. The operators of one shape are traced together, as tracing
is what takes the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tests.test_torch_export

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

Shape = tuple[int, ...]
Parts = dict[str, nn.Module | Callable[[Tensor], Tensor]]
SHAPES: tuple[Shape, ...] = ((1, 4), (1, 2, 3, 2))
MORE: tuple[Shape, ...] = ((1, 1), (1, 3, 2), (1, 5, 1), (1, 1, 2, 3), (1, 2, 2, 1, 3))
PAIRS: tuple[tuple[Shape, Shape], ...] = (
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((1, 2, 3), (2, 1)),
    ((2, 3), ()),
    ((1,), (2, 2)),
)
GENERATOR = torch.Generator().manual_seed(2)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


agree = partial(tests.test_torch_export.together, check=False, close=1e-10)  # some sample is near some jump


def axes_of(shape: Shape) -> Iterator[int]:
    yield from range(-len(shape), len(shape))


def reductions(shape: Shape) -> Parts:
    several: dict[str, Callable[..., Tensor]] = {
        "sum": torch.sum,
        "mean": torch.mean,
        "amax": torch.amax,
        "amin": torch.amin,
        "logsumexp": torch.logsumexp,
        "norm 1": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 1, dim, keepdim),
        "norm 2": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim),
        "norm inf": lambda x, dim, keepdim: torch.linalg.vector_norm(x, torch.inf, dim, keepdim),
        "biased var": lambda x, dim, keepdim: torch.var(x, dim, unbiased=False, keepdim=keepdim),
    }
    one: dict[str, Callable[..., Tensor]] = {
        "max": lambda x, dim, keepdim: x.max(dim, keepdim)[0],
        "min": lambda x, dim, keepdim: x.min(dim, keepdim).values,
        "prod": torch.prod,
        "argmax": torch.argmax,
        "argmin": torch.argmin,
    }
    parts: Parts = {}
    axes = [*axes_of(shape), *itertools.combinations(range(len(shape)), 2)]
    for number, ((name, f), axis) in enumerate(itertools.product([*several.items(), *one.items()], axes)):
        if isinstance(axis, int) or name in several:
            keep = (number + number // len(axes)) % 2 == 0  # each operator with and without
            parts[f"{name} {axis} {keep}"] = lambda x, f=f, a=axis, k=keep: f(x, dim=a, keepdim=k)
    for axis in axes_of(shape):
        if shape[axis] > 1:
            parts[f"var {axis}"] = lambda x, a=axis: x.var(a)
            parts[f"corrected {axis}"] = lambda x, a=axis: torch.var(x, a, correction=0.5, keepdim=True)
    whole = {"max": torch.max, "min": torch.min, "prod": torch.prod, "argmax": torch.argmax, "norm": torch.norm}
    return parts | {f"{name} of all": f for name, f in whole.items()}


def along_axes(shape: Shape) -> Parts:
    parts: Parts = {}
    for axis in axes_of(shape):
        n = shape[axis]
        kept = [slice(None)] * len(shape)
        kept[axis] = slice(1, None) if n > 1 else slice(None)
        mask = torch.zeros(shape, dtype=torch.float64)
        mask.select(axis, 0)[...] = -torch.inf if n > 1 else 0.0
        index = torch.tensor([n - 1, 0, -1 % n])
        places = index.reshape([-1 if d == axis % len(shape) else 1 for d in range(len(shape))])
        some: Parts = {
            "softmax": lambda x, a=axis: x.softmax(a),
            "log softmax": lambda x, a=axis: F.log_softmax(x, a),
            "softmin": lambda x, a=axis: F.softmin(x, a),
            "masked softmax": lambda x, a=axis, m=mask: ((x + m) * 0.5).softmax(a),
            "normalised": lambda x, a=axis: F.normalize(x + 0.1, dim=a),
            "cumsum": lambda x, a=axis: x.cumsum(a),
            "cumprod": lambda x, a=axis: x.cumprod(a),
            "flip": lambda x, a=axis: x.flip(a),
            "roll": lambda x, a=axis: x.roll(2, a),
            "select": lambda x, a=axis: x.select(a, -1),
            "index_select": lambda x, a=axis, i=index: x.index_select(a, i),
            "take_along": lambda x, a=axis, i=places: x.gather(a, i),
            "unbind and stack": lambda x, a=axis: torch.stack(x.unbind(a), a),
            "chunk and cat": lambda x, a=axis: torch.cat(x.chunk(2, a)[::-1], a),
            "repeat_interleave": lambda x, a=axis: x.repeat_interleave(2, a),
            "unsqueeze": lambda x, a=axis: x.unsqueeze(a),
            "squeeze": lambda x, a=axis: x.squeeze(a),
            "movedim": lambda x, a=axis: x.movedim(a, 0),
            "select_scatter": lambda x, a=axis: x.select_scatter(2 * x.select(a, 0), a, -1),
            "assigned": lambda x, k=tuple(kept): _assigned(x, k),
            "unfold": lambda x, a=axis: x.unfold(a, 1, 1),
            "diff": lambda x, a=axis: torch.diff(x, dim=a, prepend=2 * x),
        }
        parts |= {f"{name} {axis}": part for name, part in some.items()}
    return parts


def _assigned(x: Tensor, where: tuple[slice, ...]) -> Tensor:
    y = x.clone()
    y[where] = 3 * x[where]
    return y


@pytest.mark.parametrize("shape", [*SHAPES, *(pytest.param(s, marks=pytest.mark.slow) for s in MORE)], ids=str)
@pytest.mark.parametrize("parts", [reductions, along_axes])
def test_operators_along_each_axis(parts: Callable[[Shape], Parts], shape: Shape) -> None:
    agree(shape, parts(shape))


TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: torch.add(x, y, alpha=2),
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": lambda x, y: (x > y).double(),
    "not less": lambda x, y: torch.where(x >= y, x, 2 * y),
    "equal": lambda x, y: torch.where(torch.eq(x, y) | (x < 0), y, x),
}
BY_CONSTANT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "div": lambda x, y: x / (y.abs() + 0.5),
    "remainder": lambda x, y: x.remainder(0.75 * torch.sign(y)),
    "fmod": lambda x, y: torch.fmod(x, y.abs() + 0.5),
    "div by a positive variable": lambda x, y: y / (x.exp() + 1),
    "constant base": lambda x, y: (y.abs() + 0.5) * 2.0**x,
}


@pytest.mark.parametrize(
    "pairs", [PAIRS[::2], pytest.param([*PAIRS, *(p[::-1] for p in PAIRS)], marks=pytest.mark.slow)]
)
def test_broadcasting(pairs: Sequence[tuple[Shape, Shape]]) -> None:
    """Variable with variable, and with a constant on either side."""
    parts: Parts = {}
    for a, b in pairs:
        constant = draw(*b)
        for name, f in (TWO | BY_CONSTANT).items():
            parts[f"{name} {a} {b}"] = lambda x, f=f, a=a, c=constant: f(x[0, : prod(a)].reshape(a), c)
        for name, f in TWO.items():
            parts[f"{name} from the left {a} {b}"] = lambda x, f=f, a=a, c=constant: f(c, x[0, : prod(a)].reshape(a))
            parts[f"{name} of two {a} {b}"] = lambda x, f=f, a=a, b=b: f(
                x[0, : prod(a)].reshape(a), x[0, 6 : 6 + prod(b)].reshape(b)
            )
    agree((1, 12), parts)


def test_normalisations_of_each_rank() -> None:
    for shape in ((1, 4), (1, 4, 3), (1, 4, 2, 3)):
        parts: Parts = {"batch": (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[len(shape) - 2](4, eps=0.01)}
        for axis in range(1, len(shape)):
            parts[f"layer {axis}"] = nn.LayerNorm(shape[axis:], eps=0.01)
            parts[f"layer without bias {axis}"] = nn.LayerNorm(shape[axis:], bias=False)
            parts[f"rms {axis}"] = nn.RMSNorm(shape[axis:], eps=0.01)
        for groups in (1, 2, 4) if len(shape) > 2 else (1, 2):
            parts[f"group {groups}"] = nn.GroupNorm(groups, 4, eps=0.01)
            parts[f"group bare {groups}"] = nn.GroupNorm(groups, 4, affine=False)
        if len(shape) > 2:
            kind = (nn.InstanceNorm1d, nn.InstanceNorm2d)[len(shape) - 3]
            parts |= {"instance": kind(4, affine=True), "instance bare": kind(4)}
            parts["instance tracked"] = kind(4, track_running_stats=True)
        agree(shape, parts)


def test_resizing_padding_and_pooling() -> None:
    for shape, linear in (((1, 2, 5), "linear"), ((1, 1, 4, 3), "bilinear")):
        rank, parts = len(shape) - 2, {}
        sizes = [(7, 2)[:rank], (1, 1)[:rank], (9, 6)[:rank]]
        scales = [2.0, 0.6, (1.7, 2.5)[:rank]]
        ways = [{"size": s} for s in sizes] + [{"scale_factor": s} for s in scales]
        for way, mode in itertools.product(ways, ("nearest", "nearest-exact", linear)):
            parts[f"{mode} {way}"] = lambda x, w=way, m=mode: F.interpolate(x, mode=m, **w)
        for way in ways:
            parts[f"corners {way}"] = lambda x, w=way, m=linear: F.interpolate(x, mode=m, align_corners=True, **w)
            if rank == 2:
                parts[f"bicubic {way}"] = lambda x, w=way: F.interpolate(x, mode="bicubic", **w)
        for pads, mode in itertools.product(((1, 2), (0, 1), (2, 0)), ("constant", "reflect", "replicate", "circular")):
            parts[f"pad {mode} {pads}"] = lambda x, p=pads, m=mode: F.pad(x, p * (x.dim() - 2), mode=m)
        parts["pad with a number"] = lambda x: F.pad(x, (1, -1, 2, 0), value=-1.5)
        average = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)[rank - 1]
        most = (F.adaptive_max_pool1d, F.adaptive_max_pool2d)[rank - 1]
        whole = (5,) if rank == 1 else (2, 3)
        for size in ((1, 1), (2, 3), (3, 2), (5, 7)):
            parts[f"even {size}"] = lambda x, f=average, s=size[:rank]: f(x, s)
        parts["largest"] = lambda x, f=most, s=whole: f(x, s)
        agree(shape, parts)


def test_casts_and_numbers_of_other_types() -> None:
    """Whole numbers and truth values are moved about, compared and converted."""
    kept, ids = torch.tensor([True, False, True, True]), torch.tensor([2, 0, -1])
    agree(
        (1, 3, 4),
        {
            "to whole numbers": lambda x: (x * 1.7).long(),
            "of 32 bits": lambda x: (3 * x).int().flip(1).double() / 2,
            "to truth values": lambda x: x.relu().bool(),
            "truth to numbers": lambda x: (x > 0).reshape(4, 3).to(torch.int64).t().double() * 2,
            "places compared": lambda x: (x.argmax(1) == 1).double() + (x.argmin(2, keepdim=True) >= 1),
            "chosen places": lambda x: torch.where(x[:, 0] > 0, x.argmax(1), 7),
            "mask by numbers": lambda x: x * kept + x.masked_fill(kept.expand(1, 3, 4), 0.5),
            "whole constants": lambda x: x[:, ids] * torch.arange(4) + torch.tensor(3, dtype=torch.int8),
            "exclusive or": lambda x: torch.logical_xor(x > 0, x > 0.5).double(),
            "quantised": lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 0.25, 3, -8, 7),
            "quantised channels": lambda x: torch.fake_quantize_per_channel_affine(
                x.float(), torch.tensor([0.25, 0.5, 2.0]), torch.tensor([0, 1, -2]).int(), 1, -8, 7
            ),
            "threshold": lambda x: F.threshold(x, 0.25, -3.0),
            "truncated": lambda x: torch.trunc(x * 3) + torch.fix(-x),
            "put": lambda x: torch.index_put(x, (torch.tensor([0]), torch.tensor([1])), x[:, 2]),
            "scattered": lambda x: x.scatter(2, torch.tensor([[[1], [0], [3]]]), 2 * x[:, :, :1]),
        },
    )


def test_sums_by_letters() -> None:
    """Einstein sums of one to three operands, of which some are constants, in every order of the result's letters."""
    sizes = {"a": 2, "b": 3, "c": 2}
    parts: Parts = {}

    def summed(x: Tensor, equation: str) -> Tensor:
        terms = equation.partition("->")[0].split(",")
        shapes = [[sizes[c] for c in term] for term in terms]
        return torch.einsum(equation, *(x[0, i : i + prod(s)].reshape(s) for i, s in enumerate(shapes)))

    for left, right in itertools.product(("ab,bc", "ab,ab,bc", "ab,bc,ca", "abc"), ("", "a", "ca", "ac", "abc", "bca")):
        parts[f"{left}->{right}"] = lambda x, e=f"{left}->{right}": summed(x, e)
    matrix = draw(3, 2)
    parts["dots"] = lambda x: torch.einsum("...ij,jk->...ik", x.reshape(1, 2, 2, 3), matrix)
    agree((1, 12), parts)


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_products_of_tensors_of_any_rank(data: st.DataObject) -> None:
    """Several matrix products in one module: of two variables, or with a constant on either side."""
    parts: Parts = {}
    for i in range(6):
        lead = data.draw(st.lists(st.integers(1, 2), max_size=2))
        other = [data.draw(st.sampled_from([1, n])) for n in lead][data.draw(st.integers(0, len(lead))) :]
        m, k, n = (data.draw(st.integers(1, 3)) for _ in range(3))
        left: Shape = (*lead, m, k) if data.draw(st.booleans()) or lead else (k,)
        right: Shape = (*other, k, n) if data.draw(st.booleans()) or other else (k,)
        fixed = (draw(*left), draw(*right))
        kind = data.draw(st.sampled_from(["variables", "left", "right"]))

        def product(x: Tensor, sides: tuple[Shape, Shape] = (left, right), c=fixed, kind: str = kind) -> Tensor:
            x, y = (x[0, : prod(s)].reshape(s) for s in sides)
            return (c[0] if kind == "left" else x) @ (c[1] if kind == "right" else y)

        parts[f"{i} {kind} {left} {right}"] = product
    agree((1, 36), parts)
