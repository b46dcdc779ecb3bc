"""The least value of linear forms over a region: a box, or an L1 or L2 ball cut by one; rounded outward.

Over a ball in a box, a form may be split into any two parts, of which one is bounded over the ball and the other over
the box. The best parts are those of a Lagrangian: with t the multiplier of the ball's constraint, the ball gets -t
times a subgradient of its norm (of half the square, for L2) at the minimiser, and that is the form clipped. Whatever t
is found, the bound holds.
"""

from __future__ import annotations

import numpy as np

from certify.check.ops import Array
from certify.numerics import UNIT, gamma, inflate, next_down, next_up
from certify.spec.regions import Region

ROUNDS = 30
"""How often t is corrected for L2, at most."""


def dot(a: Array, v: Array) -> Array:
    """sum over n of a (k, R, n) * v (k or 1, n) -> (k, R)."""
    k, rows, n = a.shape
    v = v.reshape(-1, n)
    if v.shape[0] == 1:
        return (a.reshape(-1, n) @ v[0]).reshape(k, rows)
    if rows == 1:
        return np.einsum("kn,kn->k", a[:, 0], v)[:, None]
    return np.matmul(a, v[:, :, None])[..., 0]


def least(a: Array, lower: Array, upper: Array, ball: Region | None) -> Array:
    """At most min a . x, (k, R) for a (k, R, d), over the boxes lower, upper (k, d), within `ball` (L1 or L2) if there
    is one."""
    best = _over_box(a, lower, upper)
    if ball is None:
        return best
    best = np.maximum(best, _over_ball(a, ball))
    part = _clipped(a, lower, upper, ball)
    rest = a - part
    reach = np.maximum(np.abs(lower), np.abs(upper))
    rounding = inflate(2 * UNIT * dot(np.abs(rest), reach), a.shape[-1])  # of each entry of the difference
    both = next_down(next_down(_over_box(rest, lower, upper) + _over_ball(part, ball)) - rounding)
    return np.where(both > best, both, best)  # not where it is NaN


def _over_box(a: Array, lower: Array, upper: Array) -> Array:
    """At most min a . x over the box, (k, R)."""
    d = a.shape[-1]
    negative = np.minimum(a, 0)
    positive = a - negative
    value = dot(positive, lower) + dot(negative, upper)
    size = dot(positive - negative, np.maximum(np.abs(lower), np.abs(upper)))
    return next_down(value - inflate(gamma(d + 4) * size, d))


def _over_ball(a: Array, ball: Region) -> Array:
    """At most min a . x over ||x - center|| <= radius: the dual norm, rounded up."""
    d = a.shape[-1]
    size = np.abs(a)
    if ball.norm == 1:
        dual = size.max(-1, initial=0.0)
    elif ball.norm == 2:
        dual = np.sqrt(inflate(np.einsum("krn,krn->kr", a, a), d)) * (1 + 4 * UNIT)
    else:
        dual = size.sum(-1)
    reach = inflate(ball.radius * dual, d)
    value = dot(a, ball.center[None])
    error = inflate(gamma(d + 4) * dot(size, np.abs(ball.center)[None]), d)
    return next_down(value - next_up(reach + error))


def _clipped(a: Array, lower: Array, upper: Array, ball: Region) -> Array:
    """The part of a that the ball is to bound. Nothing rests on how well it is chosen."""
    below, above = (x[:, None] for x in (ball.center - lower, upper - ball.center))  # the way to the box's sides
    with np.errstate(all="ignore"):
        t = _knapsack(a, below, above, ball.radius) if ball.norm == 1 else _active(a, below, above, ball.radius)
        return np.clip(a, -t, t) if ball.norm == 1 else np.clip(a, -t * above, t * below)


def _knapsack(a: Array, below: Array, above: Array, radius: float) -> Array:
    """L1: inputs move to their box's side, those of large entries first, and the radius ends at an entry of size t."""
    way = np.where(a > 0, below, above)
    size = np.abs(a)
    order = np.argsort(-size, -1)
    used = np.cumsum(np.take_along_axis(np.maximum(way, 0.0), order, -1), -1)
    room = radius - np.maximum(-way, 0.0).sum(-1, keepdims=True)
    return np.where(used > room, np.take_along_axis(size, order, -1), 0.0).max(-1, keepdims=True, initial=0.0)


def _active(a: Array, below: Array, above: Array, radius: float) -> Array:
    """L2: -a / t clipped to the box has the length of the radius. t falls to that as inputs are found to be clipped."""
    squares = np.square(a)
    t = np.sqrt(squares.sum(-1, keepdims=True)) / radius
    for _ in range(ROUNDS):
        move = -a / t
        ends = np.clip(move, -below, above)
        free = ends == move
        left = radius * radius - np.where(free, 0.0, np.square(ends)).sum(-1, keepdims=True)
        wanted = np.where(free, squares, 0.0).sum(-1, keepdims=True)
        before, t = t, np.where((left > 0) & (wanted > 0), np.minimum(np.sqrt(wanted / left), t), t)
        if np.array_equal(before, t):
            break
    return t
