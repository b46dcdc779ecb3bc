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

ROUNDS = 12
"""Bisections for t."""


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
    size = np.abs(a)
    high = size.max(-1, initial=0.0) if ball.norm == 1 else np.sqrt(np.square(a).sum(-1)) / ball.radius
    low = np.zeros_like(high)
    for _ in range(ROUNDS):
        t = (low + high) / 2
        if ball.norm == 1:
            beyond = np.where(size > t[..., None], np.where(a > 0, below, above), 0.0).sum(-1) > ball.radius
        else:  # t * (x - center), which the clipped form is
            beyond = np.square(np.clip(a, -t[..., None] * above, t[..., None] * below)).sum(-1) > (t * ball.radius) ** 2
        low, high = np.where(beyond, t, low), np.where(beyond, high, t)
    if ball.norm == 1:  # the best t is the size of an entry of a
        t = np.where(size <= high[..., None], size, 0.0).max(-1, initial=0.0)[..., None]
        return np.clip(a, -t, t)
    return np.clip(a, -high[..., None] * above, high[..., None] * below)
