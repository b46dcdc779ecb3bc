"""Rows of one clause, combined: no input makes all of them unsafe if a weighted sum of them stays positive."""

from __future__ import annotations

import torch
from torch import Tensor

from certify.spec.inputset import InputSet

STEPS = 12


def combine(inputs: InputSet, coefficients: Tensor, constants: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """The best bound found of w @ (form of the rows), over weights w >= 0 that sum to one.

    The rows' linear forms are coefficients (N, S, R, d) and constants (N, S, R), of which `used` (1 or N, S, R)
    count. Returns (N, S) lower bounds and the weights (N, S, R) that give them. The bound is concave in
    w; it starts at the better of the best single row and all rows alike, and goes up by exponentiated
    gradients (Kivinen & Warmuth 1997).
    """
    depth = coefficients.shape[2]
    used = used.expand(len(coefficients), -1, -1)
    single = inputs.minimum(coefficients.flatten(1, 2)).reshape(constants.shape) + constants
    single = single.masked_fill(~used, -torch.inf)
    lower, best = single.max(2)
    weights = torch.nn.functional.one_hot(best, depth).to(constants.dtype)
    if depth == 1:
        return lower, weights
    # rows of one scale, so that a step means the same to all of them
    size = (coefficients.abs() * (inputs.upper - inputs.lower)[:, None, None]).sum(-1) / 2 + constants.abs()
    scale = 1 / size.clamp_min(torch.finfo(size.dtype).tiny ** 0.5)
    rows, shift = coefficients * scale.unsqueeze(-1), constants * scale
    mixed = used.to(constants.dtype)
    mixed = mixed / mixed.sum(2, keepdim=True)
    for step in range(STEPS):
        total = (mixed.unsqueeze(-1) * rows).sum(2)
        value = inputs.minimum(total) + (mixed * shift).sum(2)
        given = (mixed * scale).sum(2)  # the same sum, in the rows' own scale, has weights mixed * scale / given
        better = value / given > lower
        lower = torch.where(better, value / given, lower)
        weights = torch.where(better.unsqueeze(2), mixed * scale / given.unsqueeze(2), weights)
        x = inputs.minimiser(total)
        slope = (rows * x.unsqueeze(2)).sum(-1) + shift
        spread = (slope - value.unsqueeze(2)).masked_fill(~used, 0).abs().amax(2, keepdim=True).clamp_min(1e-30)
        gain = (slope - value.unsqueeze(2)) / spread * (2.0 / (1 + step) ** 0.5)
        mixed = torch.where(used, mixed * gain.exp(), 0)
        mixed = mixed / mixed.sum(2, keepdim=True).clamp_min(1e-30)
    return lower, weights
