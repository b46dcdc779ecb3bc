"""Networks whose Lipschitz constant in L2 is at most 1: orthogonal, AOL and SLL layers, MaxMin, normalised last layers.

Layers are parametrised, so that training may move freely; `stored` puts in their place plain layers with the weights
that result, rounded to float32. Nothing here claims that their constant is 1: `certify.lipschitz.global_bound` proves
what it is for the weights as they are stored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pixel_unshuffle

SAFE = 1 - 2.0**-22
"""Stored weights are shrunk by this factor: what rounding them to float32 may add to a norm is less."""


class MaxMin(nn.Module):
    """The larger, then the smaller ones of pairs along axis 1: channel i with channel i + C / 2 (Anil et al. 2019).

    Through one ReLU, so that what is lost between the two is seen: max = b + relu(a - b), min = a - relu(a - b).
    """

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        above = torch.relu(a - b)
        return torch.cat([b + above, a - above], 1)


class GroupSort(nn.Module):
    """Groups of `group` (a power of two) entries along axis 1, sorted, by a bitonic network of MaxMin steps."""

    def __init__(self, group: int) -> None:
        super().__init__()
        if group < 2 or group & (group - 1):
            raise ValueError(f"groups must have 2, 4, 8, ... entries, not {group}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if size % self.group:
            raise ValueError(f"{size} entries are not a whole number of groups of {self.group}")
        for low, high in _comparators(self.group):
            offsets = torch.arange(0, size, self.group, device=x.device)[:, None]
            first, second = ((offsets + torch.tensor(side, device=x.device)).reshape(-1) for side in (low, high))
            back = torch.argsort(torch.cat([first, second]))
            order = torch.cat([first, second])
            x = MaxMin()(x.index_select(1, order)).index_select(1, back)
        return x


def _comparators(size: int) -> list[tuple[list[int], list[int]]]:
    """Rounds of pairs (place of the larger, place of the smaller), by Batcher's bitonic sort."""
    rounds = []
    block = 2
    while block <= size:
        step = block // 2
        while step:
            pairs = [(i, i ^ step) for i in range(size) if not i & step]
            ordered = [(i, j) if not i & block else (j, i) for i, j in pairs]
            rounds.append(([i for i, _ in ordered], [j for _, j in ordered]))
            step //= 2
        block *= 2
    return rounds


def cayley(matrix: Tensor) -> Tensor:
    """A matrix (m, n) of orthonormal columns, or rows if m < n: the Cayley transform (Trockman & Kolter 2021)."""
    if matrix.shape[0] < matrix.shape[1]:
        return cayley(matrix.T).T
    top, rest = matrix[: matrix.shape[1]], matrix[matrix.shape[1] :]
    skew = top - top.T + rest.T @ rest
    eye = torch.eye(len(skew), dtype=matrix.dtype, device=matrix.device)
    inverse = torch.linalg.inv(eye + skew)
    return torch.cat([inverse @ (eye - skew), -2 * rest @ inverse], 0)


def exponential(matrix: Tensor) -> Tensor:
    """An orthogonal matrix, of a square one: exp(A - A')."""
    return torch.matrix_exp(matrix - matrix.T)


def householder(matrix: Tensor) -> Tensor:
    """A matrix of orthonormal columns, or rows if it is wide: the factor Q of QR."""
    if matrix.shape[0] < matrix.shape[1]:
        return householder(matrix.T).T
    factor, triangle = torch.linalg.qr(matrix)
    return factor * torch.where(triangle.diagonal() < 0, -1.0, 1.0)


class OrthogonalLinear(nn.Module):
    """x @ weight.T + bias with a weight (out, in) of orthonormal rows or columns, by `cayley`, or `exponential` or
    `householder`."""

    def __init__(self, size: int, out: int, orthogonal: Callable[[Tensor], Tensor] = cayley) -> None:
        super().__init__()
        self.raw = nn.Parameter(nn.init.orthogonal_(torch.empty(out, size)))
        self.bias = nn.Parameter(torch.zeros(out))
        self.orthogonal = orthogonal

    @property
    def weight(self) -> Tensor:
        return self.orthogonal(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def stored(self) -> nn.Module:
        return _linear(self.orthogonal(self.raw.detach().double()), self.bias)


class NormalisedLinear(nn.Module):
    """A last layer whose rows each have norm 1 (Singla et al. 2022), so that each output has constant 1, not all of
    them together; each pair's own constant, the norm of the difference of its rows, enters certificates."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(out, size))
        self.bias = nn.Parameter(torch.zeros(out))

    @property
    def weight(self) -> Tensor:
        return nn.functional.normalize(self.raw, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def stored(self) -> nn.Module:
        return _linear(nn.functional.normalize(self.raw.detach().double(), dim=1), self.bias)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = (weight * SAFE).float()
    layer.bias.data = bias.detach().clone()
    return layer


def aol_scale(weight: Tensor) -> Tensor:
    """Factors (in,) of the columns of a weight (out, in) that make its norm at most 1: 1 / sqrt of the row sums of
    |W' W| (Prach & Lampert 2022, theorem 1)."""
    return (weight.T @ weight).abs().sum(1).clamp_min(1e-12).rsqrt()


class AolLinear(nn.Module):
    """x @ (weight * scale).T + bias, almost orthogonal."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(nn.init.orthogonal_(torch.empty(out, size)))
        self.bias = nn.Parameter(torch.zeros(out))

    @property
    def weight(self) -> Tensor:
        return self.raw * aol_scale(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def stored(self) -> nn.Module:
        weight = self.raw.detach().double()
        return _linear(weight * aol_scale(weight), self.bias)


class AolConv(nn.Module):
    """A convolution of stride 1 and odd kernel k with zeros around, almost orthogonal: input channel c is scaled by
    1 / sqrt(sum over c' and shifts of |sum_o w_oc * w_oc'|) (Prach & Lampert 2022, theorem 2)."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        weight = torch.zeros(out, channels, kernel, kernel)
        nn.init.orthogonal_(weight[:, :, kernel // 2, kernel // 2])
        self.raw = nn.Parameter(weight + 0.01 * torch.randn_like(weight))
        self.bias = nn.Parameter(torch.zeros(out))

    def weight(self, raw: Tensor) -> Tensor:
        """(out, in, k, k)."""
        reach = raw.shape[-1] - 1
        turned = raw.transpose(0, 1)
        gram = conv2d(turned, turned, padding=reach)  # (in, in, 2k - 1, 2k - 1)
        scale = gram.abs().sum((1, 2, 3)).clamp_min(1e-12).rsqrt()
        return raw * scale[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight(self.raw), self.bias, padding=self.raw.shape[-1] // 2)

    def stored(self) -> nn.Module:
        weight = self.weight(self.raw.detach().double()) * SAFE
        out, channels, kernel, _ = weight.shape
        layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
        layer.weight.data, layer.bias.data = weight.float(), self.bias.detach().clone()
        return layer


class PatchConv(nn.Module):
    """An orthogonal convolution without overlap: kernel and stride k, an orthogonal matrix for every patch. It takes
    C k^2 entries to `out`; with out = C k^2, it only turns them."""

    def __init__(self, channels: int, out: int, kernel: int = 2) -> None:
        super().__init__()
        self.kernel = kernel
        self.raw = nn.Parameter(nn.init.orthogonal_(torch.empty(out, channels * kernel * kernel)))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        weight = cayley(self.raw)[:, :, None, None]
        return conv2d(pixel_unshuffle(x, self.kernel), weight, self.bias)

    def stored(self) -> nn.Module:
        weight = cayley(self.raw.detach().double()) * SAFE
        out, channels = weight.shape[0], weight.shape[1] // self.kernel**2
        layer = nn.Conv2d(channels, out, self.kernel, self.kernel)
        layer.weight.data = weight.reshape(out, channels, self.kernel, self.kernel).float()
        layer.bias.data = self.bias.detach().clone()
        return layer


class SllLinear(nn.Module):
    """x - 2 W T^-1 relu(W' x + b), T the row sums of |W' W| scaled by q (Araujo et al. 2023, theorem 3)."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden, size)))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.log_scale = nn.Parameter(torch.zeros(hidden))

    def back(self, raw: Tensor, log_scale: Tensor) -> Tensor:
        """-2 W T^-1, (size, hidden)."""
        q = log_scale.exp()
        sums = ((raw @ raw.T).abs() * (q / q[:, None])).sum(1).clamp_min(1e-12)
        return -2 * raw.T / sums

    def forward(self, x: Tensor) -> Tensor:
        return x + linear(torch.relu(linear(x, self.raw, self.bias)), self.back(self.raw, self.log_scale))

    def stored(self) -> nn.Module:
        back = self.back(self.raw.detach().double(), self.log_scale.detach().double())
        return _Sll(self.raw.detach(), self.bias.detach(), (back * SAFE).float())


class _Sll(nn.Module):
    """x + back @ relu(inner x), as it is stored."""

    def __init__(self, weight: Tensor, bias: Tensor, back: Tensor) -> None:
        super().__init__()
        hidden, size = weight.shape
        self.inner, self.outer = nn.Linear(size, hidden), nn.Linear(hidden, size, bias=False)
        self.inner.weight.data, self.inner.bias.data, self.outer.weight.data = weight.clone(), bias.clone(), back

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.relu(self.inner(x)))


def stored(network: nn.Sequential) -> nn.Sequential:
    """The network with plain layers of float32 weights in the place of parametrised ones, in eval mode."""
    layers = [layer.stored() if hasattr(layer, "stored") else copy.deepcopy(layer) for layer in network]
    return nn.Sequential(*layers).eval().requires_grad_(False)


DENSE = (OrthogonalLinear, AolLinear, NormalisedLinear)
BODY = (OrthogonalLinear, AolLinear, AolConv, PatchConv, SllLinear, MaxMin, GroupSort, nn.ReLU, nn.Flatten, nn.Identity)


def pair_constants(network: nn.Module) -> Tensor | None:
    """Lipschitz constants (classes, classes), in L2, of the differences of two outputs of a network of this file's
    layers: norms of the differences of two rows of the last one, as the others have constant 1. Differentiable; up to
    rounding, so for training and not for a claim. None for another network."""
    *body, last = network if isinstance(network, nn.Sequential) else [network]
    if not isinstance(last, DENSE) or not all(isinstance(layer, BODY) for layer in body):
        return None
    rows = last.weight
    return torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)


def lipschitz_mlp(
    shape: Sequence[int], classes: int, hidden: Sequence[int] = (64, 64), plain: bool = False
) -> nn.Sequential:
    """Orthogonal layers of even widths with MaxMin between, on flattened x (B, *shape). `plain` puts plain layers in
    the place of parametrised ones, as `stored` does."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([prod(shape), *hidden]):
        layers += [OrthogonalLinear(before, after), MaxMin()]
    network = nn.Sequential(*layers, OrthogonalLinear(hidden[-1], classes))
    return stored(network) if plain else network


def lipschitz_cnn(
    shape: Sequence[int], classes: int, channels: Sequence[int] = (32, 64), hidden: int = 256, plain: bool = False
) -> nn.Sequential:
    """On x (B, C, H, W): every stage turns patches of 2x2 into channels by an orthogonal map and convolves almost
    orthogonally; then two dense layers. MaxMin follows each but the last. `plain` as in `lipschitz_mlp`."""
    depth, height, width = shape
    layers: list[nn.Module] = []
    for out in channels:
        layers += [PatchConv(depth, out), MaxMin(), AolConv(out, out), MaxMin()]
        depth, height, width = out, height // 2, width // 2
    layers += [nn.Flatten(), OrthogonalLinear(depth * height * width, hidden), MaxMin()]
    network = nn.Sequential(*layers, OrthogonalLinear(hidden, classes))
    return stored(network) if plain else network
