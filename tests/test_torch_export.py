"""The torch.export frontend: every operator against the module itself, and everything it must refuse."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from certify.errors import CertifyError, ImportMismatch, MalformedNetwork, UnsupportedOp
from certify.frontends import torch_export
from certify.frontends.torch_export import from_module, from_pt2
from certify.graph import ops
from certify.graph.evaluate import evaluate
from models.resnet import resnet

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FIXED = torch.linspace(-1.0, 2.0, 24, dtype=torch.float64)


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: Tensor) -> object:
        return self.function(*xs)


class Bundle(nn.Module):
    """Several modules on one input; the outputs by name."""

    def __init__(self, parts: dict[str, nn.Module | Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.labels = list(parts)
        self.parts = nn.ModuleList(p if isinstance(p, nn.Module) else Fn(p) for p in parts.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {label: part(x) for label, part in zip(self.labels, self.parts, strict=True)}


def randomised(module: nn.Module) -> nn.Module:
    """The module in double precision with all its parameters and statistics away from their defaults."""
    torch.manual_seed(0)
    module = module.double()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor))
    return module.eval()


def inputs(shape: tuple[int, ...], count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((count, *shape), generator=generator, dtype=torch.float64) * 2
    return torch.cat([x, torch.zeros(1, *shape, dtype=torch.float64)])


torch.manual_seed(3)
HEADS = nn.MultiheadAttention(6, 3, batch_first=True).double().eval().requires_grad_(False)
LSTM = nn.LSTM(6, 2, batch_first=True).double().requires_grad_(False)
GRU = nn.GRU(6, 2, batch_first=True).double().requires_grad_(False)

BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

GROUPS: dict[str, tuple[tuple[int, ...], dict[str, nn.Module | Callable[[Tensor], Tensor]]]] = {
    "weights on vectors": (
        (1, 6),
        {
            "linear": nn.Linear(6, 4),
            "linear without bias": nn.Linear(6, 4, bias=False),
            "addmm": lambda x: torch.addmm(FIXED[:4], x, FIXED.reshape(6, 4), beta=2, alpha=3),
            "addmm beta 0": lambda x: torch.addmm(FIXED[:4], x, FIXED.reshape(6, 4), beta=0, alpha=-1),
            "mm": lambda x: torch.mm(x, FIXED.reshape(6, 4)),
            "constant on the left": lambda x: FIXED.reshape(4, 6) @ x.T,
            "mv": lambda x: FIXED.reshape(4, 6) @ x[0],
            "weight times its transpose": lambda x: x @ (FIXED.reshape(6, 4) @ FIXED.reshape(4, 6)),
            "batch-norm": nn.BatchNorm1d(6),
            "batch-norm without affine": nn.BatchNorm1d(6, affine=False),
            "prelu": nn.PReLU(6),
        },
    ),
    "weights on sequences": (
        (1, 4, 6),
        {
            "linear": nn.Linear(6, 2),
            "matmul": lambda x: x @ FIXED.reshape(6, 4),
            "batched matmul": lambda x: torch.bmm(x, FIXED.reshape(1, 6, 4)),
            "matrix from the left": lambda x: FIXED[:8].reshape(2, 4) @ x,
            "einsum": lambda x: torch.einsum("bij,jk->bik", x, FIXED.reshape(6, 4)),
            "conv": nn.Conv1d(4, 6, 3, 2, 1),
            "conv dilated and grouped": nn.Conv1d(4, 6, 2, dilation=3, groups=2, bias=False),
            "conv same": nn.Conv1d(4, 3, 4, padding="same"),
            "transposed": nn.ConvTranspose1d(4, 3, 3, 2, 1, 1),
            "batch-norm": nn.BatchNorm1d(4),
            "prelu": nn.PReLU(4),
            "prelu of one": nn.PReLU(),
        },
    ),
    "convolutions of images": (
        (1, 4, 7, 6),
        {
            "plain": nn.Conv2d(4, 3, 3),
            "stride and padding": nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), groups=2),
            "dilated": nn.Conv2d(4, 4, 3, padding=2, dilation=(1, 2), groups=4),
            "reflect": nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
            "circular": nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
            "valid": nn.Conv2d(4, 2, 3, padding="valid", bias=False),
            "transposed": nn.ConvTranspose2d(4, 6, 3, (2, 3), (1, 0), (1, 2), groups=2),
            "transposed dilated": nn.ConvTranspose2d(4, 2, 3, 1, 1, dilation=2, bias=False),
            "batch-norm": nn.BatchNorm2d(4, eps=0.1),
            "conv and batch-norm": nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3)),
        },
    ),
    "volumes": (
        (1, 2, 4, 3, 4),
        {
            "conv": nn.Conv3d(2, 3, (2, 3, 1), padding=(1, 1, 0)),
            "transposed": nn.ConvTranspose3d(2, 1, 2, 2),
            "batch-norm": nn.BatchNorm3d(2),
            "avg pool": nn.AvgPool3d(2, 1),
            "max pool": nn.MaxPool3d((2, 1, 2), ceil_mode=True),
            "adaptive avg pool": nn.AdaptiveAvgPool3d((2, 1, 4)),
            "adaptive max pool": nn.AdaptiveMaxPool3d((2, 3, 1)),
            "upsample": nn.Upsample(scale_factor=2),
            "replicate": lambda x: F.pad(x, (1, 0, 2, 1, 0, 1), mode="replicate"),
        },
    ),
    "pooling of sequences": (
        (1, 2, 8),
        {
            "avg": nn.AvgPool1d(3, 2, 1),
            "avg of what is there": nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            "max": nn.MaxPool1d(3, 2, 1, dilation=2),
            "adaptive avg": nn.AdaptiveAvgPool1d(4),
            "adaptive max": nn.AdaptiveMaxPool1d(2),
            "global": nn.AdaptiveAvgPool1d(1),
            "upsample to a size": nn.Upsample(size=5),
            "upsample by a fraction": nn.Upsample(scale_factor=1.7),
        },
    ),
    "pooling of images": (
        (1, 2, 6, 8),
        {
            "avg": nn.AvgPool2d(2),
            "avg padded": nn.AvgPool2d((3, 2), (2, 1), (1, 0), count_include_pad=False),
            "avg ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            "avg divisor": nn.AvgPool2d(2, divisor_override=3),
            "max": nn.MaxPool2d(2),
            "max padded": nn.MaxPool2d((3, 2), (2, 1), (1, 1)),
            "max dilated": nn.MaxPool2d(2, 3, dilation=(3, 2)),
            "max ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
            "adaptive avg": nn.AdaptiveAvgPool2d((3, 2)),
            "adaptive avg of one axis": nn.AdaptiveAvgPool2d((None, 1)),
            "global avg": nn.AdaptiveAvgPool2d(1),
            "adaptive max": nn.AdaptiveMaxPool2d((2, 4)),
            "global max": lambda x: F.adaptive_max_pool2d(x, 1),
            "upsample": nn.Upsample(scale_factor=(2, 3)),
            "upsample to a size": nn.Upsample(size=(7, 5)),
            "upsample exact": nn.Upsample(scale_factor=1.5, mode="nearest-exact"),
            "pixel shuffle": lambda x: F.pixel_shuffle(x.reshape(1, 8, 3, 4), 2),
            "pixel unshuffle": nn.PixelUnshuffle(2),
        },
    ),
    "arithmetic": (
        (1, 3, 4),
        {
            "add": lambda x: x + 2 + torch.add(x, FIXED[:4], alpha=3),
            "sub": lambda x: x - FIXED[:12].reshape(3, 4) - torch.sub(x, 1.5, alpha=2),
            "rsub": lambda x: 1 - x + torch.rsub(x, 2, alpha=3),
            "mul": lambda x: x * 3 * FIXED[1:4, None],
            "div": lambda x: x / 3 / (FIXED[:4] + 5),
            "neg": lambda x: -x,
            "add variables": lambda x: torch.add(x, x.flip(1), alpha=-0.5) + x.mean(2, keepdim=True),
            "broadcast": lambda x: x[:, :, :1] - x[:, :1, :],
            "mean": lambda x: x.mean(),
            "mean of axes": lambda x: x.mean((1, 2)),
            "mean kept": lambda x: x.mean(-1, keepdim=True),
            "sum": lambda x: x.sum(),
            "sum of axes": lambda x: x.sum((0, 2), keepdim=True),
            "where": lambda x: torch.where(FIXED[:4] > -0.8, x, 2 * x.flip(2)),
            "masked": lambda x: x.masked_fill(FIXED[:4] > -0.8, 7.0),
            "tril": lambda x: torch.tril(x),
            "whole numbers": lambda x: x * torch.tensor([1, 2, 3, 4]) - torch.tensor([1, 0, 2, 255], dtype=torch.uint8),
            "truth values": lambda x: x + torch.tensor([True, False, True, True]) * 2,
            "a constant": lambda x: FIXED[:3].reshape(1, 3) + 0 * x[:, :, 0],
        },
    ),
    "places": (
        (1, 4, 6),
        {
            "view": lambda x: x.view(1, 2, -1),
            "flatten": nn.Flatten(),
            "unflatten": nn.Unflatten(2, (2, 3)),
            "permute": lambda x: x.permute(2, 0, 1),
            "transpose": lambda x: x.transpose(1, 2).contiguous().reshape(1, 24),
            "t": lambda x: x[0].t(),
            "squeeze": lambda x: x[:, :1].squeeze(),
            "squeeze an axis of more": lambda x: x.squeeze(1),
            "unsqueeze": lambda x: x.unsqueeze(-1).unsqueeze(1),
            "expand": lambda x: x[:, None].expand(-1, 3, 4, 6),
            "repeat": lambda x: x.repeat(2, 1, 1, 3),
            "cat": lambda x: torch.cat([x, FIXED.reshape(1, 4, 6), x[:, :2]], 1),
            "stack": lambda x: torch.stack([x, -x], -1),
            "split": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
            "split by size": lambda x: x.split(4, 2)[1],
            "chunk": lambda x: sum(x.chunk(3, 2)),
            "unbind": lambda x: x.unbind(1)[2],
            "slice": lambda x: x[:, 1:-1, ::2],
            "select": lambda x: x[:, -1] + x.select(1, 0),
            "narrow": lambda x: x.narrow(2, 1, 3),
            "index_select": lambda x: x.index_select(2, torch.tensor([5, 0, 0])),
            "index": lambda x: x[:, [0, 2, -1]],
            "index of two axes": lambda x: x[:, torch.tensor([[0, 1], [3, 2]]), torch.tensor([1, 4])],
            "index by a mask": lambda x: x[:, torch.tensor([True, False, True, True])],
            "gather": lambda x: x.gather(2, torch.tensor([[[0, 5]], [[1, 1]], [[2, 0]]]).reshape(1, 3, 2)),
            "flip and roll": lambda x: x.flip(1, 2).roll(2, 2),
            "diagonal": lambda x: torch.diagonal(x, 1, 1, 2),
            "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=1.5),
            "pad by cutting": lambda x: F.pad(x, (-1, 2)),
            "reflect": lambda x: F.pad(x, (2, 3), mode="reflect"),
            "replicate": nn.ReplicationPad1d((3, 1)),
            "circular": lambda x: F.pad(x, (2, 6), mode="circular"),
            "unfold": lambda x: x.unfold(2, 3, 2),
            "clone": lambda x: x.clone().detach().contiguous(),
            "to float and back": lambda x: x.to(torch.float64) + 1,
            "in place": lambda x: x.clone().add_(1).mul_(2).relu_(),
            "dropout": nn.Sequential(nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.3)),
        },
    ),
    "smooth": (
        (1, 4, 6),
        {
            "gelu": nn.GELU(),
            "gelu by tanh": nn.GELU("tanh"),
            "silu": nn.SiLU(),
            "mish": nn.Mish(),
            "softplus": nn.Softplus(),
            "softplus beta": nn.Softplus(2.0, 50.0),
            "log sigmoid": nn.LogSigmoid(),
            "elu": nn.ELU(0.7),
            "selu": nn.SELU(),
            "celu": nn.CELU(1.5),
            "hard swish": nn.Hardswish(),
            "soft sign": nn.Softsign(),
            "erf": lambda x: torch.erf(x) + torch.expm1(x / 3),
            "roots": lambda x: (
                torch.sqrt(x * x + 1) + torch.rsqrt(x * x + 0.1) + (x * x + 1) ** 1.5 + (x * x + 1) ** 0.3
            ),
            "log": lambda x: torch.log(x * x + 0.5) + torch.log1p(x.abs()),
            "log softmax": lambda x: F.log_softmax(x, 1) + x.log_softmax(-1),
            "log of two": lambda x: F.log_softmax(x[:, :2], 1),
            "layer norm": nn.LayerNorm(6),
            "layer norm of two axes": nn.LayerNorm((4, 6), elementwise_affine=False, eps=0.1),
            "rms norm": nn.RMSNorm(6, eps=1e-3),
            "group norm": nn.GroupNorm(2, 4),
            "instance norm": nn.InstanceNorm1d(4, affine=True),
            "round and ceil": lambda x: torch.round(x * 2) + torch.ceil(x),
            "comparisons": lambda x: torch.where(x > 0.1, x, 2 * x) + torch.where(x.flip(2) <= x, 1.0, x),
            "truth values": lambda x: ((x > 0) & ~(x < 1) | (x == 0)) * x,
            "masked by itself": lambda x: x.masked_fill(x < 0, -1.0),
            "cumsum": lambda x: x.cumsum(2) + x.cumsum(1),
            "bilinear": lambda x: F.interpolate(x[None], size=(7, 4), mode="bilinear"),
            "bilinear of corners": lambda x: F.interpolate(
                x[None], scale_factor=2, mode="bilinear", align_corners=True
            ),
            "linear": nn.Upsample(scale_factor=1.5, mode="linear"),
            "attention": lambda x: F.scaled_dot_product_attention(x, x.flip(1), x * 2),
            "causal attention": lambda x: F.scaled_dot_product_attention(x, x.flip(1), x, is_causal=True),
            "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, FIXED[:16].reshape(4, 4) > -0.9),
            "attention with numbers": lambda x: F.scaled_dot_product_attention(
                x, x, x, torch.where(FIXED[:4] > -0.9, FIXED[:4], -torch.inf).expand(4, 4), scale=0.3
            ),
            "encoder layer": nn.TransformerEncoderLayer(6, 2, 5, batch_first=True),
            "heads": lambda x: HEADS(x, x, x, need_weights=False)[0],
            "lstm": lambda x: LSTM(x)[0],
            "gru": lambda x: GRU(x)[0],
        },
    ),
    "elementwise": (
        (1, 3, 4),
        {
            "relu": nn.ReLU(),
            "relu in place": lambda x: F.relu(x * 2, inplace=True),
            "leaky relu": nn.LeakyReLU(0.3),
            "prelu": lambda x: F.prelu(x, FIXED[:3]),
            "hardtanh": nn.Hardtanh(-0.5, 1.5),
            "relu6": nn.ReLU6(),
            "clamp": lambda x: x.clamp(-1, 0.5),
            "clamp above": lambda x: x.clamp(max=0.25) + x.clamp_max(0.5),
            "clamp below": lambda x: x.clip(min=-0.25) + x.clamp_min(0.5),
            "clamp by tensors": lambda x: x.clamp(FIXED[:4], FIXED[8:12]),
            "clamp crossed": lambda x: x.clamp(2, 1) + 0 * x,
            "threshold": nn.Threshold(0.5, 0.5),
            "hardsigmoid": nn.Hardsigmoid(),
            "abs": torch.abs,
            "sign": lambda x: torch.sign(x - 0.1),
            "sigmoid": torch.sigmoid,
            "tanh": nn.Tanh(),
            "curves": lambda x: x.exp() + x.sin() * 0.5 + (x + 1).cos() + 1 / (x.abs() + 1) + (x * 3 - 0.1).floor(),
            "powers": lambda x: x**2 + x**3 - x.square() + 1 / (x**4 + 1),
            "products": lambda x: x * x.flip(2) + x[:, :, :1] * x / (1 + x.abs()),
            "matrix products": lambda x: x @ x.transpose(1, 2) @ x,
            "softmax": lambda x: F.softmax(x, 1) + x.softmax(-1),
            "maximum": lambda x: torch.maximum(x, x.flip(2)) + torch.max(x, FIXED[:4]),
            "minimum": lambda x: torch.minimum(x, -x) + torch.min(x, FIXED[:4]),
            "amax": lambda x: x.amax(1) + x.max(1).values,
            "amin": lambda x: x.amin((1, 2), keepdim=True) + x.min(2)[0],
            "max of all": lambda x: x.max() - x.min(),
        },
    ),
}


def together(shape: tuple[int, ...], parts: dict, check: bool = True, close: float = 1e-11) -> None:
    """What the graph of all parts together computes is what each of them computes."""
    module = randomised(Bundle(parts))
    x = inputs(shape)
    graph = from_module(module, x[:1].reshape(shape), check=check).graph
    found = evaluate(graph, x.reshape(len(x), -1).numpy())
    ends = np.cumsum([p.size for p in graph.outputs])
    assert len(ends) == len(parts)
    for i, row in enumerate(x):
        with torch.no_grad():
            expected = module(row.reshape(shape))
        for (label, y), port, end in zip(expected.items(), graph.outputs, ends, strict=True):
            assert port.shape == tuple(y.shape), label
            got = found[i, end - port.size : end]
            np.testing.assert_allclose(got, y.double().reshape(-1).numpy(), rtol=close, atol=close, err_msg=label)


@pytest.mark.parametrize("group", GROUPS)
def test_operators_compute_what_the_module_computes(group):
    together(*GROUPS[group])


def test_what_torch_keeps_whole_is_one_node():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(2), nn.Flatten(), nn.Linear(8, 3), nn.Hardsigmoid())
    graph = from_module(module, torch.zeros(1, 1, 4, 4)).graph
    kinds = [type(n.op) for n in graph.nodes]
    assert kinds == [ops.Input, ops.Conv, ops.LeakyRelu, ops.Reshape, ops.Linear, ops.Scale, ops.Clip]
    assert graph.nodes[4].op.weight.dtype == np.float32
    assert np.array_equal(graph.nodes[4].op.weight, module[3].weight.detach().numpy())


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_random_convolutions(data):
    k = data.draw(st.integers(1, 3))
    sizes = st.tuples(*[st.integers(1, 3)] * k)
    groups = data.draw(st.integers(1, 2))
    kernel, stride, dilation = (data.draw(sizes) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 2)] * k))
    shape = (1, 2, *data.draw(st.tuples(*[st.integers(7, 9)] * k)))
    transposed = data.draw(st.booleans())
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    extra = {}
    if transposed:
        extra["output_padding"] = tuple(
            data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
    module = kinds[k - 1](2, 4, kernel, stride, padding, dilation=dilation, groups=groups, **extra)
    agree(randomised(module), shape)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_random_pooling(data):
    k = data.draw(st.integers(1, 3))
    kernel = data.draw(st.tuples(*[st.integers(2, 3)] * k))
    stride = data.draw(st.tuples(*[st.integers(1, 4)] * k))
    padding = data.draw(st.tuples(*[st.integers(0, 1)] * k))
    shape = (1, 2, *data.draw(st.tuples(*[st.integers(6, 8)] * k)))
    ceil = data.draw(st.booleans())
    if data.draw(st.booleans()):
        dilation = data.draw(st.tuples(*[st.integers(1, 2)] * k))
        module = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[k - 1](kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        module = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[k - 1](
            kernel, stride, padding, ceil_mode=ceil, count_include_pad=data.draw(st.booleans())
        )
    agree(module, shape)


def agree(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = inputs(shape, 2)
    graph = from_module(module, x[0]).graph
    with torch.no_grad():
        expected = torch.stack([module(row).reshape(-1) for row in x])
    np.testing.assert_allclose(evaluate(graph, x.reshape(len(x), -1).numpy()), expected.numpy(), rtol=1e-11, atol=1e-11)


def test_numbers_are_those_of_the_type_in_which_torch_computes():
    graph = from_module(Fn(lambda x: (x * 0.1).clamp(-0.1, 0.7)), torch.zeros(1, 2)).graph
    scale, clip = (n.op for n in graph.nodes[1:3])
    assert scale.scale == np.float64(np.float32(0.1))
    assert (clip.lower, clip.upper) == (-float(np.float32(0.1)), float(np.float32(0.7)))


def test_residual_network():
    torch.manual_seed(0)
    module = resnet([3, 8, 8], 5, channels=[4, 8], blocks=2, mean=[0.4] * 3, std=[0.2] * 3)
    for _ in range(3):
        module(torch.rand(8, 3, 8, 8))
    imported = from_module(module, torch.zeros(1, 3, 8, 8))
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = module.eval()(x).reshape(-1).numpy()
    np.testing.assert_array_equal(imported.source(x.reshape(-1).numpy()), expected)
    np.testing.assert_allclose(evaluate(imported.graph, x.reshape(1, -1).numpy())[0], expected, rtol=1e-4, atol=1e-5)


class Computed(nn.Module):
    """Weights that are computed from others, and parts that switch gradients off."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv1d(4, 4, 1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.linear(x.view(x.size(0), -1)).relu()
        with torch.inference_mode():
            return self.conv(y[:, :, None]).flatten(1)


def test_weights_that_are_computed_are_constants():
    torch.manual_seed(0)
    graph = from_module(Computed(), torch.zeros(1, 2, 2)).graph
    kinds = [type(n.op) for n in graph.nodes]
    assert kinds == [ops.Input, ops.Reshape, ops.Linear, ops.Relu, ops.Reshape, ops.Conv, ops.Reshape]
    agree(Computed().double().eval(), (1, 2, 2))


class Ports(nn.Module):
    """Two inputs of two types, three outputs in a nest, a buffer that is not saved, one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.tensor([1.0, 2.0, 3.0]), persistent=False)
        self.plain = torch.ones(3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, object]:
        a = self.first(x) + self.shift - self.plain
        return {"a": a, "b": (self.second(a).relu(), [y.double() * 2])}


def test_several_inputs_and_outputs():
    module = Ports()
    imported = from_module(module, (torch.zeros(1, 3), torch.zeros(1, 2, 2, dtype=torch.float64)))
    graph = imported.graph
    assert [(p.name, p.shape, p.dtype) for p in graph.inputs] == [("x", (1, 3), "float32"), ("y", (1, 2, 2), "float64")]
    assert [(p.shape, p.dtype) for p in graph.outputs] == [
        ((1, 3), "float32"),
        ((1, 3), "float32"),
        ((1, 2, 2), "float64"),
    ]
    x, y = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=torch.float64)
    flat = np.concatenate([x.reshape(-1).double().numpy(), y.reshape(-1).numpy()])
    with torch.no_grad():
        expected = module(x, y)
    joined = [expected["a"], expected["b"][0], expected["b"][1][0]]
    joined = np.concatenate([v.double().reshape(-1).numpy() for v in joined])
    np.testing.assert_array_equal(imported.source(flat), joined)
    np.testing.assert_allclose(evaluate(graph, flat[None])[0], joined, rtol=1e-5, atol=1e-6)


def test_the_module_is_left_alone_and_does_not_change_the_import():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU(inplace=True), nn.Linear(3, 2))
    assert module.training
    imported = from_module(module, torch.zeros(1, 3))
    assert module.training
    assert module[0].weight.requires_grad
    x = np.array([0.3, -0.2, 1.0])
    before, graph = imported.source(x), evaluate(imported.graph, x[None])
    with torch.no_grad():
        module[0].weight.fill_(7)
        module[1].running_mean.fill_(7)
    np.testing.assert_array_equal(imported.source(x), before)
    np.testing.assert_array_equal(evaluate(imported.graph, x[None]), graph)


def test_in_place_work_on_the_input_reaches_the_output_only():
    imported = from_module(nn.ReLU(inplace=True), torch.zeros(1, 3))
    x = np.array([-1.0, 0.5, 2.0])
    np.testing.assert_array_equal(imported.source(x), [0, 0.5, 2])
    np.testing.assert_array_equal(x, [-1, 0.5, 2])
    assert [type(n.op) for n in imported.graph.nodes] == [ops.Input, ops.Relu]


def test_a_wrong_rule_is_noticed(monkeypatch):
    monkeypatch.setitem(torch_export.RULES, "aten.sigmoid.default", lambda b, x: b.tanh(x))
    with pytest.raises(ImportMismatch, match="differs from"):
        from_module(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), torch.zeros(1, 2))


# what is refused


def test_all_unsupported_operators_are_named_at_once():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), Fn(torch.erfinv), nn.Linear(4, 4), Fn(torch.atan))

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return (y * x).tan() + y.max(1)[1] + F.adaptive_max_pool1d(x[None], 3)[0].sum()

    with pytest.raises(UnsupportedOp) as caught:
        from_module(Net(), torch.zeros(1, 4))
    named = dict(caught.value.missing)
    for operator in ("aten.atan.default", "aten.erfinv.default", "aten.tan.default"):
        assert operator in named
    assert any("adaptive" in operator for operator in named)
    assert named["aten.atan.default"].startswith("body.3")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: (x > 0).sum() + x, "aten.sum"),
        (lambda x: x + torch.rand(1, 3), "aten.rand"),
        (lambda x: F.dropout(x, training=True), "aten"),
        (lambda x: x.half() + 1, "float16"),
        (lambda x: x.max(1)[0] + x.max(1)[1], "its result 1"),
        (lambda x: x.argmax(1) * 2, "aten.mul"),
        (lambda x: x.to(torch.int8).float(), "int8"),
        (lambda x: torch.logical_not(x), "of numbers"),
        (lambda x: F.conv1d(x[None], x[None]), "kernel"),
        (
            lambda x: F.softmax(x + torch.tensor([0, -torch.inf, 0]), 1) + (x + torch.tensor([0, -torch.inf, 0])),
            "minus inf",
        ),
        (lambda x: x.atan(), "aten.atan"),
    ],
)
def test_each_unsupported_operation_is_named(function, operator):
    with pytest.raises(UnsupportedOp, match=operator):
        from_module(Fn(function), torch.rand(1, 3))


@pytest.mark.parametrize(
    "example",
    [
        torch.zeros(2, 3),
        torch.zeros(3),
        torch.tensor(1.0),
        torch.zeros(1, 3, dtype=torch.int64),
        torch.zeros(1, 3, dtype=torch.float16),
        np.zeros((1, 3), np.float32),
        (torch.zeros(1, 3), 2.0),
    ],
)
def test_examples_that_cannot_be_used(example):
    with pytest.raises(MalformedNetwork, match="example input"):
        from_module(nn.Linear(3, 2), example)


def branches(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Linear(3, 2), (1, 4)), (nn.Linear(3, 2).double(), (1, 3)), (Fn(branches), (1, 3)), (Fn(lambda: 0), (1, 3))],
)
def test_modules_that_cannot_be_traced(module, shape):
    with pytest.raises(MalformedNetwork, match="cannot be traced"):
        from_module(module, torch.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_named(name, value):
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        module.state_dict()[name].reshape(-1)[1] = value
    with pytest.raises(MalformedNetwork, match=f"'{name}' holds NaN or infinity|not positive"):
        from_module(module, torch.zeros(1, 3))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.count


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counts(), "changes its own state"),
        (Fn(lambda x: (x, None)), "returns"),
        (Fn(lambda x: (x, 3)), "returns"),
        (Fn(lambda x: (x, torch.arange(3, dtype=torch.int8))), "returns"),
        (Fn(lambda x: ()), "returns nothing"),
        (Fn(lambda x: x / torch.zeros(3)), "node 'div'"),
    ],
)
def test_modules_that_are_no_function_of_numbers(module, message):
    with pytest.raises(MalformedNetwork, match=message):
        from_module(module, torch.zeros(1, 3))


# files


def exported(folder: Path, module: nn.Module | None = None, name: str = "m.pt2", **options: object) -> Path:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) if module is None else module
    program = torch.export.export(module.eval(), (torch.zeros(2 if options else 1, 3),), **options)
    torch.export.save(program, folder / name)
    return folder / name


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], extra: dict[str, bytes] | None = None) -> Path:
    """The archive with every record replaced by what `change` makes of it, and `extra` ones."""
    with zipfile.ZipFile(path) as archive:
        records = {n: change(n.split("/", 1)[1], archive.read(n)) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (records | {f"m/{n}": d for n, d in (extra or {}).items()}).items():
            if data is not None:
                archive.writestr(name, data)
    return path


class Armed:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def armed(mark: Path) -> bytes:
    found = io.BytesIO()
    torch.save((Armed(mark),), found)
    return found.getvalue()


def test_a_file_is_the_module_that_was_exported(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.PReLU(4), nn.Linear(4, 2))
    imported = from_pt2(exported(tmp_path, module))
    direct = from_module(module, torch.zeros(1, 3))
    assert imported.graph.hash == direct.graph.hash
    assert imported.source.name == "m.pt2 (torch)"
    x = np.array([0.1, -0.7, 2.0])
    np.testing.assert_array_equal(imported.source(x), direct.source(x))


def test_files_with_several_ports(tmp_path):
    path = tmp_path / "m.pt2"
    example = (torch.zeros(1, 3), torch.zeros(1, 2, 2, dtype=torch.float64))
    module = Ports().eval()
    torch.export.save(torch.export.export(module, example), path)
    assert from_pt2(path).graph.hash == from_module(module, example).graph.hash


def test_dynamic_shapes_are_refused(tmp_path):
    path = exported(tmp_path, dynamic_shapes=({0: torch.export.Dim("batch")},))
    with pytest.raises(MalformedNetwork, match="dynamic shapes"):
        from_pt2(path)


def test_a_larger_batch_is_refused(tmp_path):
    path = exported(tmp_path, strict=False)
    with pytest.raises(MalformedNetwork, match="batch axis of size one"):
        from_pt2(path)


@pytest.mark.parametrize("size", [0, 10, 400, -30])
def test_truncated_files_are_refused(tmp_path, size):
    path = exported(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MalformedNetwork, match=r"m\.pt2 is not a file of torch\.export\.save"):
        from_pt2(path)


def test_absent_files_are_refused(tmp_path):
    with pytest.raises(MalformedNetwork, match="cannot be read"):
        from_pt2(tmp_path / "absent.pt2")


def test_a_plain_pickle_under_this_name_is_refused(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "m.pt2").write_bytes(armed(mark))
    with pytest.raises(MalformedNetwork, match=r"torch\.export\.save"):
        from_pt2(tmp_path / "m.pt2")
    assert not mark.exists()


def in_json(data: bytes, change: Callable[[dict], None]) -> bytes:
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()


def call(target: str) -> Callable[[dict], None]:
    def change(document: dict) -> None:
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    return change


def pickled(document: dict) -> None:
    next(iter(document["config"].values()))["use_pickle"] = True


def enumerated(document: dict) -> None:
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "torch.testing")


ATTACKS: dict[str, tuple[str, Callable[[bytes, Path], bytes]]] = {
    "example inputs": ("data/sample_inputs/model.pt", lambda data, mark: armed(mark)),
    "weights said to be pickles": (
        "data/weights/model_weights_config.json",
        lambda data, mark: in_json(data, pickled),
    ),
    "legacy weights": ("data/weights/model.pt", lambda data, mark: armed(mark)),
    "custom object": ("data/constants/opaque_obj_0", lambda data, mark: armed(mark)),
    "compiled code": ("data/aotinductor/model/model.so", lambda data, mark: b"\x7fELF"),
    "second program": ("models/other.json", lambda data, mark: b"{}"),
    "calls torch.load": ("models/model.json", lambda data, mark: in_json(data, call("torch.load"))),
    "writes a file": ("models/model.json", lambda data, mark: in_json(data, call("torch.ops.aten.from_file.default"))),
    "other containers": ("models/model.json", lambda data, mark: in_json(data, enumerated)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_files_that_could_run_code_are_refused(tmp_path, name):
    record, make = ATTACKS[name]
    mark = tmp_path / "mark"
    path = exported(tmp_path)
    with zipfile.ZipFile(path) as archive:
        known = f"m/{record}" in archive.namelist()
    extra = {} if known else {record: make(b"", mark)}
    rewritten(path, lambda n, data: make(data, mark) if n == record else data, extra)
    with pytest.raises(MalformedNetwork, match="refused"):
        from_pt2(path)
    assert not mark.exists()


def test_rewriting_alone_does_no_harm(tmp_path):
    path = exported(tmp_path)
    before = from_pt2(path).graph.hash
    assert from_pt2(rewritten(path, lambda n, data: data)).graph.hash == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"3", b'{"config": [1]}', b'{"config": {"0.weight": {}}}']
)
@pytest.mark.parametrize("record", ["models/model.json", "data/weights/model_weights_config.json", "archive_format"])
def test_damaged_records_are_refused(tmp_path, record, content):
    path = rewritten(exported(tmp_path), lambda n, data: content if n == record else data)
    with pytest.raises(MalformedNetwork, match=r"m\.pt2"):
        from_pt2(path)


@pytest.mark.parametrize(
    "record",
    [
        "models/model.json",
        "data/sample_inputs/model.pt",
        "data/weights/weight_0",
        "data/weights/model_weights_config.json",
    ],
)
def test_missing_records_are_refused(tmp_path, record):
    path = rewritten(exported(tmp_path), lambda n, data: None if n == record else data)
    with pytest.raises(MalformedNetwork, match=r"m\.pt2"):
        from_pt2(path)


@pytest.mark.parametrize("read", [lambda z: z, lambda z: torch.cat([z, z.abs()], -1), torch.relu])
def test_only_a_softmax_reads_minus_infinity(read: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class Masks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return read(x.masked_fill(torch.tensor([True, False]), float("-inf")))

    with pytest.raises(CertifyError, match="minus infinity"):
        from_module(Masks(), torch.zeros(1, 2))
