"""Noise and plans from what evidence says about them."""

from __future__ import annotations

from collections.abc import Mapping

from certify.errors import EvidenceRejected
from certify.evidence import Sampling
from certify.smoothing import discrete, noise, plans, semantic
from certify.smoothing.noise import Noise
from certify.smoothing.plans import Plan

NOISES: dict[str, type[Noise]] = {
    each.kind: each
    for each in (
        noise.Gaussian, noise.RoundedGaussian, noise.Uniform, noise.Laplace, discrete.Flips, discrete.Categories,
        discrete.Ablation, discrete.Bands, discrete.Blocks, semantic.Translation, semantic.Brightness,
        semantic.Contrast,
    )
}  # fmt: skip
PLANS: dict[str, type[Plan]] = {p.kind: p for p in (plans.Fixed, plans.TwoSided, plans.Adaptive, plans.Exhaustive)}


def plan_from(sampling: Sampling) -> Plan:
    """The plan whose `sampling()` this is. Raises EvidenceRejected if there is none."""
    try:
        drawn = noise_from(sampling.noise)
        bound = dict(sampling.bound)
        kind = PLANS[str(bound.pop("kind"))]
        targets = {"targets": tuple(map(float, bound["targets"]))} if "targets" in bound else {}
        plan = kind(drawn, sampling.alpha, sampling.n0, sampling.n, **targets)
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceRejected(f"the record does not describe a plan of draws: {error!r}") from error
    if plan.sampling() != sampling:
        raise EvidenceRejected("the record describes a plan that this version does not have")
    return plan


def noise_from(described: Mapping[str, object]) -> Noise:
    """The noise whose `described()` this is. Raises KeyError or TypeError if there is none."""
    parameters = dict(described)
    return NOISES[str(parameters.pop("kind"))](**parameters)
