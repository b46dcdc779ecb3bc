"""The operators of the intermediate graph: plain data, no computing.

Every operator is *affine*, *elementwise* or a *product* of entries; a constant is an affine operator
without inputs. What an operator does is written once per method in that method's `Rules` table; here
it only says what it is. Frontends lower everything else (max-pooling, batch-norm, mean pooling, ...) to these.

Shapes are written `*N`: the node's own shape, without certify's batch axis, but with whatever
batch axis of size one the original network had. Constants are NumPy arrays in the type in which
the network stores them; they are never written to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Op:
    """One operator; subclasses hold its parameters."""


@dataclass(frozen=True, eq=False)
class Affine(Op):
    """y = M x + b for a matrix M and a vector b that do not depend on the input."""


@dataclass(frozen=True, eq=False)
class Nonlinear(Op):
    """One input, of which the relaxations need bounds."""


@dataclass(frozen=True, eq=False)
class Elementwise(Nonlinear):
    """y_i = f_i(x_i): one input, the same shape out."""


@dataclass(frozen=True, eq=False)
class Input(Op):
    """The network's input; always node 0, and the only one of its kind."""


@dataclass(frozen=True, eq=False)
class Constant(Affine):
    """A value of shape *N that does not depend on the input; no inputs."""

    value: Array


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """y = x @ weight.T + bias on the last axis. weight (out, in); bias (out,) or None."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, eq=False)
class Conv(Affine):
    """Cross-correlation over the last k axes of (*lead, C, *spatial), as ONNX Conv and torch.

    weight (C_out, C_in / groups, *kernel); bias (C_out,) or None; `before` and `after` are the
    zeros put at the two ends of each spatial axis (not negative).
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True, eq=False)
class ConvTranspose(Affine):
    """The adjoint of a convolution over the last k axes of (*lead, C, *spatial), plus a bias.

    weight (C_in, C_out / groups, *kernel), as in ONNX ConvTranspose and torch. The full result has
    size (n - 1) * stride + dilation * (kernel - 1) + 1 + output_padding per axis, of which `before`
    and `after` entries are cut off at the two ends.
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """y = scale * x + shift, with both constants broadcastable to x's own shape *N."""

    scale: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """y = sum_i coefficients[i] * x_i, inputs broadcast against one another as in NumPy."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Concat(Affine):
    """Inputs joined along `axis` (not negative, counted in *N)."""

    axis: int


@dataclass(frozen=True, eq=False)
class Select(Affine):
    """Entries `index` (1-d int64, repeats allowed) along `axis`: slicing, gather, split, nearest resize."""

    axis: int
    index: Array


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same entries in C order under the node's own shape."""


@dataclass(frozen=True, eq=False)
class Permute(Affine):
    """Axes in another order, as numpy.transpose: output axis i is input axis axes[i]."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pad(Affine):
    """`value` put before and after the entries of each axis (one number per axis of *N, not negative)."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float


@dataclass(frozen=True, eq=False)
class ReduceSum(Affine):
    """Sum over `axes` (not negative), which are kept with size one if `keepdims`."""

    axes: tuple[int, ...]
    keepdims: bool


@dataclass(frozen=True, eq=False)
class Expand(Affine):
    """Broadcast, as numpy.broadcast_to, to the node's own shape."""


@dataclass(frozen=True, eq=False)
class Relu(Elementwise):
    """max(x, 0)."""


@dataclass(frozen=True, eq=False)
class LeakyRelu(Elementwise):
    """x where x >= 0, slope * x elsewhere; slope broadcastable to *N, of any sign (also PReLU)."""

    slope: Array


@dataclass(frozen=True, eq=False)
class Clip(Elementwise):
    """min(max(x, lower), upper) with lower <= upper (either may be infinite)."""

    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class Abs(Elementwise):
    """|x|."""


@dataclass(frozen=True, eq=False)
class Sign(Elementwise):
    """-1, 0 or 1; not continuous at 0."""


@dataclass(frozen=True, eq=False)
class Floor(Elementwise):
    """The largest whole number that is not above x; not continuous at whole numbers."""


@dataclass(frozen=True, eq=False)
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True, eq=False)
class Tanh(Elementwise):
    """tanh(x)."""


@dataclass(frozen=True, eq=False)
class Exp(Elementwise):
    """exp(x)."""


@dataclass(frozen=True, eq=False)
class Square(Elementwise):
    """x^2."""


@dataclass(frozen=True, eq=False)
class Reciprocal(Elementwise):
    """1 / x; nothing is known of it where x may be 0."""


@dataclass(frozen=True, eq=False)
class Sin(Elementwise):
    """sin(x)."""


@dataclass(frozen=True, eq=False)
class Cos(Elementwise):
    """cos(x)."""


@dataclass(frozen=True, eq=False)
class Log(Elementwise):
    """The natural logarithm; nothing is known of it where x may be 0 or less."""


@dataclass(frozen=True, eq=False)
class Sqrt(Elementwise):
    """The square root; nothing is known of it where x may be less than 0."""


@dataclass(frozen=True, eq=False)
class Rsqrt(Elementwise):
    """1 / sqrt(x); nothing is known of it where x may be 0 or less."""


@dataclass(frozen=True, eq=False)
class Softplus(Elementwise):
    """log(1 + exp(x))."""


@dataclass(frozen=True, eq=False)
class Erf(Elementwise):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""


@dataclass(frozen=True, eq=False)
class Gelu(Elementwise):
    """x (1 + erf(x / sqrt(2))) / 2 (Hendrycks & Gimpel 2016)."""


@dataclass(frozen=True, eq=False)
class GeluTanh(Elementwise):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, with the float64 nearest to 0.044715."""


@dataclass(frozen=True, eq=False)
class Silu(Elementwise):
    """x / (1 + exp(-x)), also called swish."""


@dataclass(frozen=True, eq=False)
class Mish(Elementwise):
    """x tanh(log(1 + exp(x))) (Misra 2019)."""


@dataclass(frozen=True, eq=False)
class Elu(Elementwise):
    """x where x >= 0, alpha (exp(x) - 1) elsewhere; alpha > 0."""

    alpha: float


@dataclass(frozen=True, eq=False)
class HardSwish(Elementwise):
    """x min(max(x + 3, 0), 6) / 6."""


@dataclass(frozen=True, eq=False)
class Product(Nonlinear):
    """y = x[left] * x[right], with x flattened; left and right are int64 arrays of shape *N.

    All factors stand in one input, so that a product is told apart from an elementwise operator only where lines are
    made and applied: each has two slopes.
    """

    left: Array
    right: Array


def breakpoints(op: Nonlinear) -> tuple[float, ...] | None:
    """Where a piecewise-linear operator changes its piece, increasing; None if it is not piecewise linear."""
    if isinstance(op, Relu | LeakyRelu | Abs | Sign):
        return (0.0,)
    if isinstance(op, Clip):
        return tuple(p for p in (op.lower, op.upper) if np.isfinite(p))
    return None


def registered() -> dict[str, type[Op]]:
    """Every concrete operator by its name, for storing and for the generated tests."""
    found: dict[str, type[Op]] = {}
    stack: list[type[Op]] = [Op]
    while stack:
        cls = stack.pop()
        stack.extend(cls.__subclasses__())
        if cls not in (Op, Affine, Nonlinear, Elementwise):
            found[cls.__name__] = cls
    return found
