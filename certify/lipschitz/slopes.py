"""Bounds on the slopes of elementwise operators over an interval: what the Clarke derivative lies between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from certify.check.smooth import EXP_ERROR, exponential
from certify.graph import ops
from certify.graph.ir import Graph, Node
from certify.graph.rules import Rules
from certify.numerics import TINY, UNIT, next_down, next_up

Array = np.ndarray
Slopes = tuple[Array, Array]
"""lower, upper, each of the shape of the bounds."""

CURVE = 1 + 4 * EXP_ERROR + 64 * UNIT
"""More than the exponential function, squared, and a few roundings after it are off."""

FAR = 700.0
"""Up to here the exponential function is known."""

SLOPES: Rules[Callable[[ops.Elementwise, Node, Array, Array], Slopes]] = Rules("Lipschitz bounds")
"""rule(op, node, lower, upper), with bounds (k, *N) of the argument, which may be infinite: bounds of
(f(a) - f(b)) / (a - b) for all a, b within them. Where a function jumps they are infinite."""


def slopes_between(graph: Graph, e: int, lower: Array, upper: Array) -> Slopes:
    """The slopes (k, *N) of elementwise node e where its argument lies between bounds (k, *N)."""
    node = graph.nodes[e]
    below, above = SLOPES[node.op](node.op, node, lower, upper)
    return np.minimum(below, above), np.maximum(below, above)  # on a single point any slope is right


def everywhere(graph: Graph, e: int) -> Slopes:
    """The slopes (1, *N) of elementwise node e, whatever its argument is."""
    whole = np.full((1, *graph.nodes[e].shape), np.inf)
    return slopes_between(graph, e, -whole, whole)


@SLOPES(ops.Relu)
def _relu(op: ops.Relu, node: Node, lower: Array, upper: Array) -> Slopes:
    return (lower >= 0).astype(np.float64), 1.0 - (upper <= 0)


@SLOPES(ops.LeakyRelu)
def _leaky(op: ops.LeakyRelu, node: Node, lower: Array, upper: Array) -> Slopes:
    slope = np.broadcast_to(np.asarray(op.slope, np.float64), lower.shape)
    one = np.ones(lower.shape)
    below = np.where(lower >= 0, one, np.where(upper <= 0, slope, np.minimum(slope, 1)))
    return below, np.where(lower >= 0, one, np.where(upper <= 0, slope, np.maximum(slope, 1)))


@SLOPES(ops.Clip)
def _clip(op: ops.Clip, node: Node, lower: Array, upper: Array) -> Slopes:
    inside = (lower >= op.lower) & (upper <= op.upper)
    outside = (lower >= op.upper) | (upper <= op.lower)
    return inside.astype(np.float64), 1.0 - (outside & ~inside)


@SLOPES(ops.Abs)
def _abs(op: ops.Abs, node: Node, lower: Array, upper: Array) -> Slopes:
    return np.where(lower >= 0, 1.0, -1.0), np.where(upper <= 0, -1.0, 1.0)


@SLOPES(ops.Sign)
def _sign(op: ops.Sign, node: Node, lower: Array, upper: Array) -> Slopes:
    level = (lower > 0) | (upper < 0)
    return np.zeros(lower.shape), np.where(level, 0.0, np.inf)


@SLOPES(ops.Floor)
def _floor(op: ops.Floor, node: Node, lower: Array, upper: Array) -> Slopes:
    level = np.isfinite(lower) & (np.floor(lower) == np.floor(upper))
    return np.zeros(lower.shape), np.where(level, 0.0, np.inf)


def _nearest(lower: Array, upper: Array) -> tuple[Array, Array]:
    """The least and the largest |x|."""
    return np.maximum(np.maximum(lower, -upper), 0), np.maximum(-lower, upper)


def _logistic(size: Array) -> Array:
    """About exp(-x) / (1 + exp(-x))^2 for x >= 0, which falls."""
    decayed = exponential(-np.minimum(size, FAR))
    return decayed / np.square(1 + decayed)


def _bell(near: Array, far: Array) -> Slopes:
    """Bounds of the logistic function's slope where |x| is between `near` and `far`."""
    low = np.where(far < FAR, np.maximum(_logistic(far) / CURVE - TINY, 0), 0.0)
    return low, np.minimum(_logistic(near) * CURVE + TINY, 0.25)


@SLOPES(ops.Sigmoid)
def _sigmoid(op: ops.Sigmoid, node: Node, lower: Array, upper: Array) -> Slopes:
    return _bell(*_nearest(lower, upper))


@SLOPES(ops.Tanh)
def _tanh(op: ops.Tanh, node: Node, lower: Array, upper: Array) -> Slopes:
    near, far = _nearest(lower, upper)
    low, high = _bell(2 * near, 2 * far)  # tanh(x) = 2 logistic(2 x) - 1
    return 4 * low, 4 * high


@SLOPES(ops.Exp)
def _exp(op: ops.Exp, node: Node, lower: Array, upper: Array) -> Slopes:
    low, high = (exponential(np.clip(x, -FAR, FAR)) for x in (lower, upper))
    low = np.where(lower > -FAR, np.maximum(low / CURVE - TINY, 0), 0.0)
    return low, np.where(upper < FAR, high * CURVE + TINY, np.inf)


@SLOPES(ops.Square)
def _square(op: ops.Square, node: Node, lower: Array, upper: Array) -> Slopes:
    return 2 * lower, 2 * upper


@SLOPES(ops.Reciprocal)
def _reciprocal(op: ops.Reciprocal, node: Node, lower: Array, upper: Array) -> Slopes:
    near, far = _nearest(lower, upper)
    with np.errstate(all="ignore"):
        steep, level = next_down(-1 / np.square(near) * CURVE), next_up(-1 / np.square(far) / CURVE)
    there = (lower > 0) | (upper < 0)
    return np.where(there, steep, -np.inf), np.where(there, np.minimum(level, 0.0), np.inf)


@SLOPES(ops.Sin, ops.Cos)
def _wave(op: ops.Elementwise, node: Node, lower: Array, upper: Array) -> Slopes:
    return np.full(lower.shape, -1.0), np.full(lower.shape, 1.0)
