"""Affine forms in the inputs, for boxes of few dimensions: cheap bounds that know how values depend on them.

A node's value is  center + sum_j generator_j * t_j + radius * s  with t_j, s in [-1, 1], where t_j is the
place of input j in its interval and s absorbs relaxation and rounding (a zonotope whose noise is merged
into an interval after every step; Singh et al. 2018, "DeepZ", keep the noise apart).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from certify.check.ops import Affine, Array, Elementwise, Lines
from certify.check.product import Product
from certify.numerics import UNIT, gamma, inflate, next_down, next_up

MOST_INPUTS = 20
"""Beyond this many inputs the forms cost more than they save."""


class Form(NamedTuple):
    """Over k boxes: center (k, *N), generators (k, d, *N), radius (k, *N) >= 0, reach (k, *N) >=
    |center| + sum |generators| + radius."""

    center: Array
    generators: Array
    radius: Array
    reach: Array

    def interval(self) -> tuple[Array, Array]:
        """Bounds of the value, rounded outward."""
        spread = self.reach - np.abs(self.center)
        spread = inflate(spread + 4 * UNIT * self.reach, 4)
        return next_down(self.center - spread), next_up(self.center + spread)


def _form(center: Array, generators: Array, radius: Array) -> Form:
    d = generators.shape[1]
    reach = inflate(np.abs(center) + np.abs(generators).sum(1) + radius, d + 2)
    return Form(center, generators, radius, reach)


def of_box(lower: Array, upper: Array, shape: tuple[int, ...]) -> Form:
    """The input itself: boxes lower, upper (k, d)."""
    k, d = lower.shape
    center = np.where(lower == upper, lower, 0.5 * lower + 0.5 * upper)
    half = np.where(lower == upper, 0.0, next_up(np.maximum(upper - center, center - lower)))
    generators = np.zeros((k, d, d))
    generators[:, np.arange(d), np.arange(d)] = half
    return _form(center.reshape(k, *shape), generators.reshape(k, d, *shape), np.zeros((k, *shape)))


def through_map(rule: Affine, inputs: list[Form], count: int, d: int) -> Form:
    """M x + b of forms over `count` boxes with d inputs; without inputs it is the constant b."""
    if not inputs:
        center = np.broadcast_to(rule.bias, (count, *rule.bias.shape))
        return _form(center, np.zeros((count, d, *rule.bias.shape)), np.zeros(center.shape))
    center = rule.linear(*(f.center for f in inputs))
    flat = [f.generators.reshape(count * d, *f.center.shape[1:]) for f in inputs]
    generators = rule.linear(*flat)
    generators = generators.reshape(count, d, *generators.shape[1:])
    if rule.bias is not None:
        center = center + rule.bias
    if not rule.terms:
        return _form(center, generators, rule.linear(*(f.radius for f in inputs)))
    share = gamma(rule.terms + 4)
    radius = rule.absolute(*(f.radius + share * f.reach for f in inputs))
    if rule.bias is not None:
        radius = radius + share * np.abs(rule.bias)
    return _form(center, generators, inflate(radius, rule.terms))


def through_function(rule: Elementwise, form: Form, lower: Array, upper: Array, lines: Lines) -> Form:
    """f of a form whose value lies in [lower, upper]: two parallel lines with the upper line's slope."""
    slope = lines.upper_slope
    low = rule.lower_shift(slope, lower, upper)
    high = np.zeros_like(slope) if lines.upper_shift is None else lines.upper_shift
    middle = 0.5 * low + 0.5 * high
    half = next_up(np.maximum(high - middle, middle - low))
    center = slope * form.center + middle
    generators = slope[:, None] * form.generators
    noise = np.abs(slope) * (form.radius + 4 * UNIT * form.reach) + 4 * UNIT * (np.abs(middle) + np.abs(center))
    return _form(center, generators, inflate(noise + half, 8))


def through_product(rule: Product, form: Form, lower: Array, upper: Array) -> Form:
    """Products of a form's entries, entries in [lower, upper]: two parallel planes, the middles their slopes."""
    middle = 0.5 * lower + 0.5 * upper
    left, right = rule.of(middle)
    slopes = np.stack([right, left], 1)
    low, high = rule.shifts(slopes, lower, upper)
    shift = 0.5 * low + 0.5 * high
    half = next_up(np.maximum(high - shift, shift - low))
    (x, y), (noise, other), (reach, far) = rule.of(form.center), rule.of(form.radius), rule.of(form.reach)
    center = (right * x + left * y) + shift
    k, d = form.generators.shape[:2]
    one, another = rule.of(form.generators.reshape(k * d, *form.center.shape[1:]))
    one, another = (g.reshape(k, d, *rule.shape) for g in (one, another))
    generators = right[:, None] * one + left[:, None] * another
    radius = np.abs(right) * (noise + 8 * UNIT * reach) + np.abs(left) * (other + 8 * UNIT * far)
    radius = radius + 8 * UNIT * (np.abs(shift) + np.abs(center))
    return _form(center, generators, inflate(radius + half, 8))
