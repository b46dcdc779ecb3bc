"""Building a graph: what both frontends call to lower a network to the operators of `ops`.

Nothing is rounded away: weights keep the type in which they are stored, and numbers that we derive
(1 / c, a batch-norm's scale) are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from certify.graph import ops
from certify.graph.emit import Array, Emitter, NotLowered, Operand, Var, axis_of, number
from certify.graph.gates import gated, is_softsign, normed
from certify.graph.ir import Node
from certify.graph.shapes import Shape

__all__ = ["MOST_POWER", "Array", "GraphBuilder", "NotLowered", "Operand", "Var", "axis_of", "number"]


class GraphBuilder(Emitter):
    """An `Emitter` that knows arithmetic, weights and activations.

    All methods take and give operands (arrays are constants), refuse operands that do not fit with
    ValueError, and what cannot be expressed with NotLowered. Pooling is in `certify.graph.windows`.
    """

    def scale(self, x: Operand, scale: Array | float, shift: Array | float) -> Operand:
        """scale * x + shift, with constants of any shape that broadcasts against x's."""
        scale, shift = number(scale), number(shift)
        shape = np.broadcast_shapes(x.shape, scale.shape, shift.shape)
        if not isinstance(x, Var):
            return number(x) * scale + shift
        left_out = np.isneginf(shift)
        if left_out.any():
            scaled = self.scale(x, scale, np.where(left_out, 0, shift))
            return self.leave_out(scaled, np.broadcast_to(~left_out, shape))
        if x.index in self.masked and (scale > 0).all():
            scores, kept = self.masked[x.index]
            return self.leave_out(self.scale(scores, scale, shift), np.broadcast_to(kept, shape))
        if (scale == 1).all():
            if not shift.any():
                return self.expand(x, shape)
            if shape == x.shape and (op := _with_bias(self.nodes[x.index], shift)):
                return self._append(op, self.nodes[x.index].inputs, shape)
        return self.emit(ops.Scale(scale, shift), self.expand(x, shape))

    def sum(self, xs: Sequence[Operand], coefficients: Sequence[float]) -> Operand:
        """sum_i coefficients[i] * xs[i], broadcast. Constants among xs become one shift."""
        terms = [(x, float(c)) for x, c in zip(xs, coefficients, strict=True) if isinstance(x, Var)]
        fixed = [(x, c) for x, c in zip(xs, coefficients, strict=True) if not isinstance(x, Var)]
        if len(fixed) == 1 and abs(fixed[0][1]) == 1:
            shift = fixed[0][0] * np.int8(fixed[0][1])
        else:  # in float64: a float32 would round the sum
            shift = sum((number(x).astype(np.float64) * c for x, c in fixed), np.float64(0))
        if not terms:
            return shift
        if len(terms) == 1:
            return self.scale(*terms[0], shift)
        total = self.emit(ops.Sum(tuple(c for _, c in terms)), *(x for x, _ in terms))
        return self.scale(total, 1.0, shift)

    def add(self, a: Operand, b: Operand) -> Operand:
        return self.sum([a, b], [1, 1])

    def sub(self, a: Operand, b: Operand) -> Operand:
        return self.sum([a, b], [1, -1])

    def neg(self, x: Operand) -> Operand:
        return self.sum([x], [-1])

    def mul(self, a: Operand, b: Operand) -> Operand:
        """a * b; of two variables a `Product` of their entries."""
        if isinstance(a, Var) and isinstance(b, Var):
            return self.square(a) if a == b else self._gated(a, b) or self._normed(a, b) or self._entries(a, b)
        if not isinstance(a, Var) and not isinstance(b, Var):
            return a * b
        x, c = (a, b) if isinstance(a, Var) else (b, a)
        return self.scale(x, c, 0.0)

    def _gated(self, a: Var, b: Var) -> Operand | None:
        """a * b as one operator, where one is a function of the other that makes one."""
        for x, gate in ((a, b), (b, a)):
            found = gated(self.nodes, x.index, gate.index) if a.shape == b.shape else None
            if found is not None:
                y = self.emit(found.op, self.scale(Var(found.base, x.shape), np.float64(found.inner), 0.0))
                return self.scale(y, np.float64(found.outer), 0.0)
        return None

    def _normed(self, a: Var, b: Var) -> Operand | None:
        """a * b within what is known of it, where one is the reciprocal of a norm of the other."""
        for x, gate in ((a, b), (b, a)):
            if x.shape == gate.shape and is_softsign(self.nodes, x.index, gate.index):
                one = np.float64(1)
                sides = (self.reciprocal(self.add(self.relu(side), one)) for side in (self.neg(x), x))
                return self.sub(*sides)
            known = normed(self.nodes, x.index, gate.index)
            if known is not None and np.broadcast_shapes(x.shape, gate.shape) == x.shape:
                spread = known.spread
                if spread is not None:
                    gate = self.emit(ops.Rsqrt(), Var(spread, self.nodes[spread].shape))
                return self.clip(self._entries(x, gate), -known.most, known.most)
        return None

    def _entries(self, a: Var, b: Var) -> Operand:
        """The product of the entries of a and b, broadcast."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        count = prod(a.shape)
        left = np.broadcast_to(np.arange(count).reshape(a.shape), shape)
        right = np.broadcast_to(np.arange(count, count + prod(b.shape)).reshape(b.shape), shape)
        both = self.concat([self.reshape(a, (-1,)), self.reshape(b, (-1,))], 0)
        return self.emit(ops.Product(left.copy(), right.copy()), both)

    def div(self, a: Operand, b: Operand) -> Operand:
        """a / b; 1 / b of a constant is computed in float64."""
        if isinstance(b, Var):
            return self.mul(a, self.reciprocal(b))
        if (b == 0).any():
            raise ValueError("division by a constant that holds zero")
        if not isinstance(a, Var):
            return np.divide(a, b)
        with np.errstate(over="ignore"):  # an infinite 1 / b is refused below
            return self.scale(a, 1.0 / number(b).astype(np.float64), 0.0)

    def reduce_sum(self, x: Operand, axes: Sequence[int] | None = None, keepdims: bool = False) -> Operand:
        """Sum over `axes` (None: all)."""
        axes = tuple(range(len(x.shape))) if axes is None else tuple(sorted(axis_of(a, x) for a in axes))
        if all(x.shape[a] == 1 for a in axes):
            return x if keepdims else self.squeeze(x, axes)
        return self.emit(ops.ReduceSum(axes, bool(keepdims)), x)

    def reduce_mean(self, x: Operand, axes: Sequence[int] | None = None, keepdims: bool = False) -> Operand:
        """Mean over `axes` (None: all): the sum times 1 / count."""
        count = prod(x.shape) if axes is None else prod(x.shape[axis_of(a, x)] for a in axes)
        if not count:
            raise ValueError(f"the mean of no entries, of {x.shape}")
        return self.scale(self.reduce_sum(x, axes, keepdims), 1.0 / count, 0.0)

    # --- weights ---------------------------------------------------------------------------------

    def linear(self, x: Operand, weight: Operand, bias: Operand | None = None) -> Operand:
        """x @ weight.T + bias, weight (out, in), constant or (if x is constant) variable."""
        if isinstance(weight, Var):
            product = self.matmul(x, self.permute(weight, (1, 0)))
            return product if bias is None else self.add(product, bias)
        if isinstance(bias, Var) or (bias is not None and bias.shape != weight.shape[:1]):
            return self.add(self.emit(ops.Linear(number(weight), None), x), bias)
        return self.emit(ops.Linear(number(weight), None if bias is None else number(bias)), x)

    def matmul(self, a: Operand, b: Operand) -> Operand:
        """numpy.matmul."""
        if isinstance(a, Var) and isinstance(b, Var):
            return self._product(a, b)
        if not isinstance(a, Var) and not isinstance(b, Var):
            return np.matmul(a, b)
        if not a.shape or not b.shape:
            raise ValueError("a matrix product with a scalar")
        if len(a.shape) == 1 and (isinstance(b, Var) or len(b.shape) != 2):
            return self.squeeze(self.matmul(self.unsqueeze(a, [0]), b), [-2] if len(b.shape) > 1 else [0])
        if len(b.shape) == 1 and not isinstance(a, Var) and len(a.shape) == 2:
            return self.linear(b, a)
        if len(b.shape) == 1:
            return self.squeeze(self.matmul(a, self.unsqueeze(b, [1])), [-1])
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"a product of {a.shape} and {b.shape}")
        if isinstance(b, Var):  # (b.T @ a.T).T
            return self.transpose(self.matmul(self.transpose(b), np.swapaxes(a, -1, -2)))
        if prod(b.shape[:-2]) == 1:
            y = self.emit(ops.Linear(_transposed(number(b).reshape(b.shape[-2:])), None), a)
            return self.reshape(y, (1,) * (len(b.shape) - max(len(a.shape), 2)) + y.shape)
        return self._batched(a, b)

    def _product(self, a: Var, b: Var) -> Operand:
        """The matrix product of two variables: each product of two entries, summed."""
        if not a.shape or not b.shape:
            raise ValueError("a matrix product with a scalar")
        rows = self.unsqueeze(a, [0]) if len(a.shape) == 1 else a
        columns = self.unsqueeze(b, [1]) if len(b.shape) == 1 else b
        if rows.shape[-1] != columns.shape[-2]:
            raise ValueError(f"a product of {a.shape} and {b.shape}")
        terms = self._entries(self.unsqueeze(rows, [-1]), self.unsqueeze(columns, [-3]))
        made = self.reduce_sum(terms, [-2])
        return self.squeeze(made, [-2] * (len(a.shape) == 1) + [-1] * (len(b.shape) == 1))

    def _batched(self, a: Var, b: Array) -> Operand:
        """a (*batch, m, k) @ b (*batch, k, n) as one grouped convolution over the rows, a group per matrix."""
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        (m, k), n, count = a.shape[-2:], b.shape[-1], prod(lead)
        weight = np.swapaxes(np.broadcast_to(number(b), (*lead, k, n)), -1, -2).reshape(count * n, k, 1)
        rows = self.transpose(self.expand(a, (*lead, m, k)))
        y = self.conv(self.reshape(rows, (count * k, m)), weight, groups=count)
        return self.transpose(self.reshape(y, (*lead, n, m)))

    def transpose(self, x: Operand) -> Operand:
        """The last two axes exchanged."""
        last = len(x.shape) - 1
        return self.permute(x, (*range(last - 1), last, last - 1))

    def conv(
        self,
        x: Operand,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: Sequence[int] | None = None,
        before: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        groups: int = 1,
    ) -> Operand:
        """`ops.Conv`; one number per spatial axis each, pads default to 0 and the others to 1."""
        weight, bias, ones, zeros = _kernel(weight, bias)
        op = ops.Conv(
            weight,
            bias,
            _integers(stride or ones),
            _integers(before or zeros),
            _integers(after or zeros),
            _integers(dilation or ones),
            int(groups),
        )
        return self.emit(op, x)

    def conv_transpose(
        self,
        x: Operand,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: Sequence[int] | None = None,
        before: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        groups: int = 1,
    ) -> Operand:
        """`ops.ConvTranspose`; arguments as for `conv`."""
        weight, bias, ones, zeros = _kernel(weight, bias)
        op = ops.ConvTranspose(
            weight,
            bias,
            _integers(stride or ones),
            _integers(before or zeros),
            _integers(after or zeros),
            _integers(dilation or ones),
            _integers(output_padding or zeros),
            int(groups),
        )
        return self.emit(op, x)

    def batch_norm(
        self, x: Operand, weight: Array, bias: Array, mean: Array, variance: Array, epsilon: float
    ) -> Operand:
        """(x - mean) / sqrt(variance + epsilon) * weight + bias over axis 1, as one Scale in float64."""
        weight, bias, mean, variance = (np.asarray(a, np.float64) for a in (weight, bias, mean, variance))
        if len(x.shape) < 2 or any(a.shape != (x.shape[1],) for a in (weight, bias, mean, variance)):
            raise ValueError(f"batch-norm parameters of shape {weight.shape} for an input of shape {x.shape}")
        if not (variance + epsilon > 0).all():
            raise ValueError("a batch-norm variance that is not positive")
        scale = weight / np.sqrt(variance + epsilon)
        column = (-1, *(1,) * (len(x.shape) - 2))
        return self.scale(x, scale.reshape(column), (bias - mean * scale).reshape(column))

    # --- elementwise -----------------------------------------------------------------------------

    def relu(self, x: Operand) -> Operand:
        return self.emit(ops.Relu(), x)

    def leaky_relu(self, x: Operand, slope: Array | float) -> Operand:
        """x where x >= 0, else slope * x; also PReLU, with any slope that broadcasts against x."""
        slope = number(slope)
        return self.emit(ops.LeakyRelu(slope), self.expand(x, slope.shape))

    def clip(self, x: Operand, lower: float = -np.inf, upper: float = np.inf) -> Operand:
        """min(max(x, lower), upper), so `upper` everywhere if lower > upper."""
        lower, upper = float(lower), float(upper)
        if np.isnan(lower) or np.isnan(upper) or lower == np.inf or upper == -np.inf:
            raise ValueError(f"clip limits {lower}, {upper}")
        if lower > upper:
            return np.full(x.shape, upper)
        if lower == -np.inf and upper == np.inf:
            return x
        return self.relu(x) if (lower, upper) == (0, np.inf) else self.emit(ops.Clip(lower, upper), x)

    def hard_sigmoid(self, x: Operand, alpha: float, beta: float) -> Operand:
        """min(max(alpha * x + beta, 0), 1)."""
        return self.clip(self.scale(x, np.float64(alpha), np.float64(beta)), 0.0, 1.0)

    def abs(self, x: Operand) -> Operand:
        return self.emit(ops.Abs(), x)

    def sign(self, x: Operand) -> Operand:
        return self.emit(ops.Sign(), x)

    def sigmoid(self, x: Operand) -> Operand:
        return self.emit(ops.Sigmoid(), x)

    def tanh(self, x: Operand) -> Operand:
        return self.emit(ops.Tanh(), x)

    def floor(self, x: Operand) -> Operand:
        return self.emit(ops.Floor(), x)

    def exp(self, x: Operand) -> Operand:
        return self.emit(ops.Exp(), x)

    def square(self, x: Operand) -> Operand:
        return self.emit(ops.Square(), x)

    def reciprocal(self, x: Operand) -> Operand:
        return self.emit(ops.Reciprocal(), x)

    def sin(self, x: Operand) -> Operand:
        return self.emit(ops.Sin(), x)

    def cos(self, x: Operand) -> Operand:
        return self.emit(ops.Cos(), x)

    def power(self, x: Operand, exponent: int) -> Operand:
        """x^exponent for a whole number, by squares and products."""
        if exponent < 0:
            return self.reciprocal(self.power(x, -exponent))
        if exponent == 0:
            return np.ones(x.shape)
        if exponent == 1:
            return x
        half = self.square(self.power(x, exponent // 2))
        return self.mul(half, x) if exponent % 2 else half

    def others(self, x: Operand, axis: int) -> Operand:
        """x_j - x_i over `axis` for all j != i: (*lead, n, n - 1, *rest), i before j."""
        n = x.shape[axis]
        index = np.array([[j for j in range(n) if j != i] for i in range(n)], np.int64).reshape(-1)
        one, other = self.select(x, axis, np.repeat(np.arange(n), n - 1)), self.select(x, axis, index)
        return self.reshape(self.sub(other, one), (*x.shape[:axis], n, n - 1, *x.shape[axis + 1 :]))

    def maximum(self, a: Operand, b: Operand) -> Operand:
        """max(a, b): b + relu(a - b); a clip where b is one constant."""
        return self._extreme(a, b, 1)

    def minimum(self, a: Operand, b: Operand) -> Operand:
        """min(a, b) = -max(-a, -b): b - relu(b - a)."""
        return self._extreme(a, b, -1)

    def _extreme(self, a: Operand, b: Operand, sign: int) -> Operand:
        if not isinstance(a, Var):
            a, b = b, a
        if not isinstance(a, Var):
            return np.maximum(a, b) if sign > 0 else np.minimum(a, b)
        if not isinstance(b, Var) and b.size and (b == b.flat[0]).all():
            limit, wide = float(number(b).flat[0]), self.expand(a, b.shape)
            return self.clip(wide, lower=limit) if sign > 0 else self.clip(wide, upper=limit)
        above = self.relu(self.sum([a, b], [sign, -sign]))
        return self.sum([b, above], [1, sign])


MOST_POWER = 16
"""Higher powers would be long chains of products."""


def _transposed(matrix: Array) -> Array:
    """matrix.T in C order; row blocks keep the copy of a large one within the cache."""
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, len(matrix), 128):
        out[:, row : row + 128] = matrix[row : row + 128].T
    return out


def _kernel(weight: Operand, bias: Operand | None) -> tuple[Array, Array | None, Shape, Shape]:
    """Weight and bias of a convolution, and ones and zeros for its spatial axes."""
    if isinstance(weight, Var) or isinstance(bias, Var):
        raise NotLowered("with a variable kernel")
    k = weight.ndim - 2
    return number(weight), None if bias is None else number(bias), (1,) * k, (0,) * k


def _integers(values: Sequence[int]) -> Shape:
    return tuple(int(v) for v in values)


def _with_bias(node: Node, shift: Array) -> ops.Op | None:
    """The node's operator with `shift` as its bias, if it has none and `shift` is constant off its axis."""
    op = node.op
    if not isinstance(op, ops.Linear | ops.Conv | ops.ConvTranspose) or op.bias is not None:
        return None
    axis = len(node.shape) - 1 - (0 if isinstance(op, ops.Linear) else len(op.stride))
    lead = len(node.shape) - shift.ndim
    if any(n != 1 for i, n in enumerate(shift.shape, lead) if i != axis):
        return None
    return replace(op, bias=np.broadcast_to(shift.reshape(-1), (node.shape[axis],)).copy())
