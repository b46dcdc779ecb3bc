"""Randomized smoothing: tails against mpmath, radii against brute force, coverage, forged evidence, the command."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from benchmarks.smooth import Job, as_written
from benchmarks.smoothing import adaptive_errors, fixed_errors
from certify.check.counts import check_counts, check_run, false_at_most
from certify.check.radii import categories, radius
from certify.check.tails import (
    DOWN,
    UP,
    binomial_tail,
    float_down,
    float_up,
    log_factorial,
    normal_cdf,
    quantile_down,
    quantile_up,
    wealth,
)
from certify.errors import BadOption, CertifyError
from certify.evidence import CountProof
from certify.smoothing.attack import Attack
from certify.smoothing.discrete import Ablation, Bands, Blocks, Categories, Flips
from certify.smoothing.noise import LEADING, Gaussian, Laplace, Noise, RoundedGaussian, Uniform
from certify.smoothing.plans import Adaptive, Exhaustive, Fixed, Plan, TwoSided, even_blocks
from certify.smoothing.recorded import plan_from
from certify.smoothing.semantic import Brightness, Contrast, Translation
from certify.smoothing.smoothed import Counts, Smoothed, conclude
from certify.smoothing.statistics import (
    BETS,
    betting_lower,
    binomial_lower,
    binomial_upper,
    p_value,
    simultaneous,
)
from certify.smoothing.streams import BLOCKS, SAMPLES, STREAMS, seed_of
from tests.conftest import Ran

HALF = Fraction(1, 2)
NOISES = (
    Gaussian(0.5), Uniform(0.7), Laplace(0.4), RoundedGaussian(0.5, 1 / 16, 4), Flips(0.1, 0.4), Categories(0.3, 3),
    Ablation(4, 2), Bands(4, 1), Blocks(4, 1), Translation(1.0), Brightness(0.5), Contrast(0.5),
)  # fmt: skip


def exactly(x: object) -> mpmath.mpf:
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mpmath.mpf(str(x))


# -- tails


@settings(max_examples=25)
@given(st.floats(-9, 9))
def test_the_normal_distribution_is_enclosed(x: float) -> None:
    with mpmath.workdps(60):
        truth, low, high = mpmath.ncdf(x), *(exactly(normal_cdf(Fraction(x), c)) for c in (DOWN, UP))
        assert low <= truth <= high
        assert high - low <= truth * mpmath.mpf("1e-20")


@settings(max_examples=25)
@given(st.integers(1, 400), st.data())
def test_the_binomial_tail_is_bounded_tightly(n: int, data: st.DataObject) -> None:
    k, p = data.draw(st.integers(0, n)), data.draw(st.floats(0.01, 0.99))
    with mpmath.workdps(60):
        q = 1 - mpmath.mpf(p)
        truth = mpmath.fsum(mpmath.binomial(n, j) * mpmath.mpf(p) ** j * q ** (n - j) for j in range(k, n + 1))
        bound = exactly(binomial_tail(k, n, Fraction(p)))
        assert bound >= truth * (1 - mpmath.mpf("1e-50"))
        assert bound <= truth * (1 + mpmath.mpf("1e-30")) or k <= n * p


@pytest.mark.parametrize("m", [255, 256, 1000, 10**7])
def test_factorials_are_enclosed(m: int) -> None:
    with mpmath.workdps(60):
        assert exactly(log_factorial(m, DOWN)) <= mpmath.loggamma(m + 1) <= exactly(log_factorial(m, UP))


@settings(max_examples=15)
@given(st.floats(1e-12, 1 - 1e-12))
def test_quantiles_enclose_the_quantile(p: float) -> None:
    with mpmath.workdps(40):
        low, high = quantile_down(Fraction(p)), quantile_up(Fraction(p))
        assert mpmath.ncdf(low) <= p <= mpmath.ncdf(high)
        assert high - low <= 1e-12 * max(1, abs(low))


def test_quantiles_hold_where_floats_end() -> None:
    for exponent in (0, 20, 45, 60, 400):
        tiny = Fraction(1, 10**exponent) if exponent else Fraction(0)
        with mpmath.workdps(500):
            for p in (tiny, 1 - tiny):
                low, high, truth = quantile_down(p), quantile_up(p), exactly(p)
                assert low == -math.inf or mpmath.ncdf(low) <= truth
                assert high == math.inf or mpmath.ncdf(high) >= truth
    assert quantile_down(Fraction(1)) > 12  # a bound there is, and no poor one
    assert quantile_down(Fraction(5e-324)) == -math.inf


def test_floats_bound_decimals_of_many_digits() -> None:
    for x in (Decimal(1), Decimal(-3), Decimal("0.1")):
        for beyond in (Decimal("1e-45"), Decimal("-1e-45")):
            near = Fraction(float(x)) + Fraction(beyond)
            with localcontext(UP):
                exact = Decimal(near.numerator) / Decimal(near.denominator)
            assert float_down(exact) <= Fraction(exact) <= float_up(exact)


def test_counts_of_billions_are_judged_at_once() -> None:
    """Tails and wealth of 10^9 draws are beyond any float; as exact fractions they would not fit into memory."""
    many = 10**9
    assert p_value(many, many, 0.5) < 1e-300
    assert p_value(many, many, 0.5, BETS) < 1e-300
    assert p_value(many // 4, many, 0.5, BETS) == 1
    for bound in (binomial_lower, betting_lower):
        assert 0.9999 < bound(many, many, 0.001) < 1
    sampling = Fixed(Gaussian(0.5), n=many).sampling()
    forged = CountProof((100, 0, 0), (many, 0, 0), 0, 1e-300, None, 0.0)
    assert not check_counts(sampling, forged)
    assert check_counts(sampling, replace(forged, counts=(0, many, 0)))


def test_wealth_is_bounded_from_below() -> None:
    for successes, n, p in ((0, 0, 0.5), (90, 100, 0.8), (70, 70, 0.99), (3, 50, 0.2)):
        with mpmath.workdps(60):
            each = [(1 - mpmath.mpf(b)) ** (n - successes) * (1 - b + b / mpmath.mpf(p)) ** successes for b in BETS]
            bound = exactly(wealth(successes, n, Fraction(p), BETS))
            assert 0 < bound <= sum(each) / len(each) * (1 + mpmath.mpf("1e-13"))  # the reference rounds 1 - b
            assert bound > sum(each) / len(each) * (1 - mpmath.mpf("1e-12"))


@settings(max_examples=8)
@given(st.integers(1, 2000), st.data())
def test_bounds_agree_with_scipy_and_are_sound(n: int, data: st.DataObject) -> None:
    k, alpha = data.draw(st.integers(0, n)), data.draw(st.sampled_from([0.001, 0.05]))
    lower, upper = binomial_lower(k, n, alpha), binomial_upper(k, n, alpha)
    assert lower == pytest.approx(beta.ppf(alpha, k, n - k + 1) if k else 0.0, rel=1e-9)
    assert upper == pytest.approx(beta.ppf(1 - alpha, k + 1, n - k) if k < n else 1.0, rel=1e-9)
    assert lower == 0 or binomial_tail(k, n, Fraction(lower)) <= alpha
    at_any_time = betting_lower(k, n, alpha)
    assert at_any_time <= lower  # what holds at all times says less
    assert at_any_time == 0 or Fraction(wealth(k, n, Fraction(at_any_time), BETS)) * Fraction(alpha) >= 1


# -- radii


def test_the_largest_radius_is_never_exceeded() -> None:
    proof = conclude(Fixed(Gaussian(0.5)), (100, 0, 0), (100_000, 0, 0))
    with mpmath.workdps(40):
        best = mpmath.findroot(lambda z: mpmath.ncdf(z) - mpmath.mpf(0.001) ** (mpmath.mpf(1) / 100_000), 3.8) / 2
        assert best - mpmath.mpf("1e-9") <= proof.radius <= best
    assert f"{proof.radius:.4f}" == "1.9057"


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: n.kind)
def test_radii_rise_with_the_probability_and_what_is_needed_is(noise: Noise) -> None:
    found = [noise.radius(p) for p in (0.3, 0.5, 0.6, 0.9, 0.999, 1 - 1e-9)]
    assert found == sorted(found)
    assert found[:2] == [0, 0]
    assert found[-1] > 0 or noise.kind in ("bands", "blocks", "ablation")
    assert noise.radius(0.9, 0.1) == pytest.approx(noise.radius(0.9), rel=1e-9)
    assert noise.radius(0.9, 0.05) >= noise.radius(0.9) * (1 - 1e-9)
    if found[-2] > 0:
        level = noise.needed(found[-2])
        assert noise.radius(level) >= found[-2] > noise.radius(math.nextafter(level, 0) - 1e-12)
        assert level <= 0.999


@pytest.mark.parametrize("p", [0.6, 0.9, 0.999])
def test_continuous_radii_are_where_the_worst_classifier_is_undecided(p: float) -> None:
    with mpmath.workdps(40):
        r = mpmath.mpf(Gaussian(0.5).radius(p))
        worst = [
            mpmath.ncdf(mpmath.erfinv(2 * mpmath.mpf(p) - 1) * mpmath.sqrt(2) - r * (1 + e) / 0.5) for e in (0, 1e-9)
        ]
        assert worst[0] >= 0.5 > worst[1]
        r = mpmath.mpf(Laplace(0.4).radius(p))
        worst = [1 - (1 - mpmath.mpf(p)) * mpmath.exp(r * (1 + e) / mpmath.mpf(0.4)) for e in (0, 1e-9)]
        assert worst[0] >= 0.5 > worst[1]
        r = mpmath.mpf(Uniform(0.75).radius(p))
        worst = [mpmath.mpf(p) - r * (1 + e) / mpmath.mpf(1.5) for e in (0, 1e-9)]
        assert worst[0] >= 0.5 > worst[1]


def worst_by_points(p: Fraction, here: list[Fraction], there: list[Fraction]) -> Fraction:
    """The least probability around the changed sample of a (randomised) set of probability p around x."""
    total = Fraction(0)
    for a, b in sorted(zip(here, there, strict=True), key=lambda r: r[1] / r[0]):
        share = min(Fraction(1), p / a)
        total, p = total + share * b, p - share * a
    return total


@pytest.mark.parametrize(("add", "delete"), [(0.125, 0.375), (0.5, 0.75)])
def test_flips_agree_with_all_points(add: float, delete: float) -> None:
    worst = {}
    for additions, deletions in itertools.product(range(4), repeat=2):
        here, there = [], []
        flip = [Fraction(add)] * additions + [Fraction(delete)] * deletions
        back = [Fraction(delete)] * additions + [Fraction(add)] * deletions
        for flipped in itertools.product([False, True], repeat=len(flip)):
            here.append(math.prod(f if on else 1 - f for f, on in zip(flip, flipped, strict=True)))
            there.append(math.prod(1 - b if on else b for b, on in zip(back, flipped, strict=True)))
        worst[additions, deletions] = here, there
    for p in (0.75, 0.9, 0.99, 0.999):
        for changes in (1, 2, 3):
            pairs = [(a, changes - a) for a in range(changes + 1)]
            truly = all(worst_by_points(Fraction(p), *worst[pair]) > HALF for pair in pairs)
            assert (Flips(add, delete).radius(p) >= changes) == truly or not truly_before(worst, p, changes)


def truly_before(worst: dict, p: float, changes: int) -> bool:
    """Whether all fewer changes are certified, as a radius asks."""
    fewer = [(a, c - a) for c in range(changes) for a in range(c + 1)]
    return all(worst_by_points(Fraction(p), *worst[pair]) > HALF for pair in fewer)


@pytest.mark.parametrize("changes", [1, 2, 3])
def test_categories_agree_with_all_points(changes: int) -> None:
    flip, count, outcomes = Fraction(1, 4), 4, []
    keep, other = 1 - flip, flip / (count - 1)
    for point in itertools.product(range(count), repeat=changes):  # x is 0 everywhere, x' is 1 everywhere
        outcomes.append([math.prod(keep if v == centre else other for v in point) for centre in (0, 1)])
    here, there = map(list, zip(*outcomes, strict=True))
    for p in (Fraction(7, 10), Fraction(19, 20), Fraction(999, 1000)):
        certified = categories(p, 1 - p, flip=0.25, count=count) >= changes
        assert certified == (worst_by_points(p, here, there) > HALF)


def test_ablation_agrees_with_all_choices() -> None:
    size, keep = 6, 2
    subsets = list(itertools.combinations(range(size), keep))
    for changes in (1, 2, 3):
        seen = Fraction(sum(bool(set(s) & set(range(changes))) for s in subsets), len(subsets))
        for p in (0.7, 0.9, 0.999):
            assert (Ablation(size, keep).radius(p) >= changes) == (Fraction(p) - seen > HALF)


def test_windows_meet_a_patch_as_often_as_the_rule_says() -> None:
    for noise, side in ((Bands(9, 2), 2), (Blocks(25, 2), 2), (Blocks(25, 1), 3)):
        shape = (1, 5, 9 if noise.kind == "bands" else 5)
        seen = noise.window(torch.ones(shape)).expand(noise.positions, *shape)
        met = int((seen[:, 0, 1 : 1 + side, 2 : 2 + side].amax((1, 2)) > 0).sum())
        margin = Fraction(2 * met, noise.positions)
        certified, not_quite = (HALF + margin / 2 + e for e in (Fraction(1, 100), Fraction(-1, 100)))
        assert radius(noise.described(), certified, 1 - certified) >= side
        assert radius(noise.described(), not_quite, 1 - not_quite) < side


@pytest.mark.parametrize("bad", [lambda: Gaussian(math.nan), lambda: Flips(0.0, 0.5), lambda: Ablation(4, 5),
                                 lambda: Categories(0.1, 1), lambda: Uniform(-1.0), lambda: Bands(4, 0)])  # fmt: skip
def test_noise_that_makes_no_sense_is_refused(bad: Callable[[], Noise]) -> None:
    with pytest.raises(BadOption):
        bad()


# -- samples


def drawn(noise: Noise, x: torch.Tensor, count: int = 20_000) -> torch.Tensor:
    return noise.sample(x, count, torch.Generator().manual_seed(1))


def test_samples_have_the_distribution_they_should() -> None:
    x = torch.tensor([0.25, 0.5])
    for noise, deviation in ((Gaussian(0.5), 0.5), (RoundedGaussian(0.5, 1 / 16, 2), math.hypot(0.5, 1 / 16 / 12**0.5)),
                             (Uniform(0.6), 0.6 / 3**0.5), (Laplace(0.4), 0.4 * 2**0.5)):  # fmt: skip
        moved = drawn(noise, x) - x
        assert moved.mean().abs() < 0.01
        assert float(moved.std()) == pytest.approx(deviation, rel=0.02)
    moved = drawn(Categories(0.3, 3), torch.tensor([0.0, 2.0]))
    assert [float((moved[:, 0] == v).float().mean()) for v in range(3)] == pytest.approx([0.7, 0.15, 0.15], abs=0.015)
    moved = drawn(Flips(0.1, 0.4), torch.tensor([0.0, 1.0]))
    assert moved.mean(0).tolist() == pytest.approx([0.1, 0.6], abs=0.015)
    seen = drawn(Ablation(4, 2), torch.arange(1.0, 9.0).reshape(2, 2, 2), 4000)
    assert ((seen != 0).flatten(2).sum(2) == 2).all()
    assert ((seen[:, 0] != 0) == (seen[:, 1] != 0)).all()  # a pixel is blanked in all channels
    assert (seen != 0).float().mean(0).flatten().tolist() == pytest.approx([0.5] * 8, abs=0.04)


def test_rounded_noise_stays_on_the_grid_and_its_table_is_right() -> None:
    noise, x = RoundedGaussian(0.3, 1 / 255, 3), torch.tensor([0.0, 17.0, 255.0]) / 255
    places = drawn(noise, x, 500).double() * 255
    assert (places - places.round()).abs().max() < 1e-4
    with mpmath.workdps(40):
        table = noise._thresholds.tolist()
        for i in (0, 700, len(table) // 2, len(table) - 1):
            m = i + 1 - len(table) // 2
            truth = 2**63 * mpmath.ncdf((m - mpmath.mpf(0.5)) * mpmath.mpf(noise.step) / noise.sigma)
            assert abs(table[i] - truth) <= 2
    assert noise.radius(0.9) < Gaussian(0.3).radius(0.9)
    with pytest.raises(BadOption):
        noise.sample(torch.tensor([0.0, 0.5, 0.001]), 1, torch.Generator())


@pytest.mark.parametrize(("sigma", "step"), [(0.3, 1 / 255), (0.25, 0.5), (2.0, 1 / 64), (1e-3, 1.0)])
def test_rounded_noise_is_told_by_its_leading_bits_as_by_a_search(sigma: float, step: float) -> None:
    noise = RoundedGaussian(sigma, step, 1)
    table = noise._thresholds
    edges = torch.arange(2**LEADING) << (63 - LEADING)
    near = torch.cat([table, table - 1, table.clamp_max(2**63 - 2) + 1, edges, (edges - 1).clamp_min(0)]).clamp_min(0)
    bits = torch.empty(20_000, dtype=torch.int64).random_(generator=torch.Generator().manual_seed(0))
    for some in (near, bits, torch.tensor([[0], [2**63 - 1]])):
        assert torch.equal(noise._below(some), torch.searchsorted(table, some, right=True))


def test_translations_compose() -> None:
    x = torch.arange(24.0).reshape(1, 4, 6)
    moved = drawn(Translation(1.5), x, 40)
    there = drawn(Translation(1.5), x.roll((1, -2), (1, 2)), 40)
    assert torch.equal(moved.roll((1, -2), (2, 3)), there)
    assert len(moved.unique(dim=0)) > 5
    assert torch.equal(moved.flatten(1).sort(1).values, x.flatten().expand(40, -1))


# -- certify and predict


def sign(x: torch.Tensor) -> torch.Tensor:
    """Class 1 where the first value is positive."""
    return torch.stack([-x[:, 0], x[:, 0]], 1)


def test_certificates_of_a_half_space_are_true_and_near() -> None:
    x = torch.tensor([0.3, 5.0])
    plans: list[Plan] = [Fixed(Gaussian(0.5), n=20_000), TwoSided(Gaussian(0.5), n=20_000),
                         Adaptive(Gaussian(0.5), n=20_000, targets=(0.2,))]  # fmt: skip
    for plan in plans:
        proof = Smoothed(sign, plan.noise, 2).certify(x, 0, plan)
        assert proof.predicted == 1
        assert (0.2 if plan.kind == "betting" else 0.25) <= proof.radius < 0.3
        assert not check_counts(plan.sampling(), proof)
        assert plan_from(plan.sampling()) == plan
    assert sum(proof.counts) < 5000


def test_an_attack_breaks_what_lies_beyond_the_true_distance_and_nothing_else() -> None:
    run, x, attack = Smoothed(sign, Gaussian(0.5), 2), torch.tensor([0.3, 5.0]), Attack(10, 16)
    assert [attack.breaks(run, x, 0, 1, radius) for radius in (0.0, 0.29, 0.45)] == [False, False, True]
    assert attack.breaks(run, x, 0, 0, 0.0)
    with pytest.raises(BadOption):
        attack.breaks(replace(run, noise=Brightness(0.5)), x, 0, 1, 0.1)


def test_an_exhaustive_count_needs_no_chance() -> None:
    x = torch.full((1, 1, 8), 1.0)
    network = lambda x: torch.stack([-x.sum((1, 2, 3)) + 0.5, x.sum((1, 2, 3)) - 0.5], 1)  # noqa: E731
    proof = Smoothed(network, Bands(8, 2), 2).certify(x, 0, Exhaustive(Bands(8, 2)))
    assert proof.counts == (0, 8, 0)
    assert proof.radius == 2  # a patch of 2 meets 3 bands of 8, one of 3 meets 4
    with pytest.raises(BadOption):
        Exhaustive(Gaussian(0.5))


def test_what_is_not_a_number_is_no_class() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] > -0.2, torch.tensor(float("nan")), sign(x))

    run = Smoothed(broken, Gaussian(0.5), 2)
    proof = run.certify(torch.zeros(2), 0, Fixed(Gaussian(0.5), n=500))
    assert (proof.predicted, proof.radius) == (None, 0.0)
    assert proof.selection[2] > 50
    assert run.predict(torch.zeros(2), 0, 500, 0.01) is None


def test_prediction_abstains_as_the_binomial_test_says() -> None:
    run = Smoothed(sign, Gaussian(0.5), 2)
    answers = set()
    for i in range(40):
        x = torch.tensor([0.1])
        counts = run.count(x, (i, "prediction"), enumerate(even_blocks(60, 1000))).answers
        first = int(counts[1] > counts[0])
        sure = binomtest(max(counts), 60, 0.5).pvalue <= 0.05
        answers.add(run.predict(x, i, 60, 0.05))
        assert run.predict(x, i, 60, 0.05) == (first if sure else None)
    assert {None, 1} <= answers


def test_counts_do_not_depend_on_how_they_are_drawn() -> None:
    run, plan, x = Smoothed(sign, Gaussian(0.5), 2, batch=100), Fixed(Gaussian(0.5), n=950), torch.tensor([0.1])
    whole = run.certify(x, 3, plan)
    halves = [run.count(x, (3, "estimation"), list(enumerate(plan.blocks(100)))[part]) for part in
              (slice(6), slice(6, None))]  # fmt: skip
    assert halves[1].merge(halves[0]).answers == whole.counts
    calls = iter(range(100))
    stopped = run.certify(x, 3, plan, stop=lambda: next(calls) >= 4)
    assert isinstance(stopped, Counts)
    assert stopped.blocks == {0, 1, 2, 3}
    assert run.certify(x, 3, plan, known=stopped) == whole
    with pytest.raises(CertifyError, match="merged"):
        halves[0].merge(stopped)
    assert replace(run, seed=1).certify(x, 3, plan) != whole
    assert run.certify(x, 4, plan) != whole


@settings(max_examples=20)
@given(st.integers(), st.sets(st.tuples(st.integers(0, SAMPLES - 1), st.sampled_from(STREAMS),
                                        st.integers(0, BLOCKS - 1)), min_size=2, max_size=40))  # fmt: skip
def test_no_two_blocks_of_a_run_share_a_seed(run: int, blocks: set[tuple[int, str, int]]) -> None:
    seeds = [seed_of(run, *block) for block in blocks]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds != [seed_of(run + 1, *block) for block in blocks]


def test_seeds_of_a_run_are_a_permutation_and_do_not_run_out_unseen() -> None:
    dense = {seed_of(7, sample, stream, block) for sample in range(8) for stream in STREAMS for block in range(500)}
    assert len(dense) == 8 * 3 * 500
    for block in (-1, BLOCKS):
        with pytest.raises(BadOption, match="batch"):
            seed_of(0, 0, "estimation", block)
    with pytest.raises(BadOption):
        Job(
            Smoothed(sign, Gaussian(0.5), 2, batch=1), Fixed(Gaussian(0.5), n=BLOCKS + 1), np.zeros((1, 2)), np.zeros(1)
        )


# -- evidence


def test_forged_evidence_is_refused() -> None:
    plan = Fixed(Gaussian(0.5), n=1000)
    sampling, proof = plan.sampling(), conclude(plan, (90, 10, 0), (950, 50, 0))
    assert not check_counts(sampling, proof)
    forged: list[CountProof] = [
        replace(proof, radius=math.nextafter(proof.radius, 1) * (1 + 1e-9)),
        replace(proof, radius=math.nan),
        replace(proof, radius=math.inf),
        replace(proof, radius=-1.0),
        replace(proof, lower=proof.lower * (1 + 1e-9)),
        replace(proof, lower=1.0),
        replace(proof, lower=math.nan),
        replace(proof, upper=0.01),
        replace(proof, predicted=1),
        replace(proof, counts=(949, 50, 0)),
        replace(proof, counts=(940, 60, 0)),
        replace(proof, counts=(1050, -50, 0)),
        replace(proof, counts=(950.0, 50, 0)),
        replace(proof, selection=(10, 90, 0)),
        replace(proof, selection=(91, 10, 0)),
        replace(proof, selection=(10, 0, 90)),
    ]
    for other in forged:
        assert check_counts(sampling, other), other
    for changed in ({"alpha": 0.0001}, {"alpha": 0.0}, {"alpha": math.nan}, {"n": 999}, {"bound": {"kind": "hope"}},
                    {"noise": {"kind": "gaussian", "sigma": 0.49}}, {"noise": {"kind": "gaussian"}}, {"bound": {}},
                    {"noise": {"kind": "gaussian", "sigma": "1"}}, {"bound": {"kind": "betting", "bets": list(BETS)}},
                    {"bound": {"kind": "joint"}}, {"bound": {"kind": "exact"}}):  # fmt: skip
        assert check_counts(replace(sampling, **changed), proof), changed
    bets = Adaptive(Gaussian(0.5), n=1000)
    adapted = conclude(bets, (90, 10, 0), (475, 25, 0))
    assert adapted.radius > 0
    for changed in ([], [1.5], [-0.1], [0.0], ["1"], [math.nan]):
        assert check_counts(replace(bets.sampling(), bound={"kind": "betting", "bets": changed}), adapted), changed
    both = TwoSided(Gaussian(0.5), n=1000)
    sided = conclude(both, (90, 10, 0), (950, 50, 0))
    for other in (replace(sided, upper=None), replace(sided, upper=math.nextafter(sided.upper, 0) * (1 - 1e-9))):
        assert check_counts(both.sampling(), other)


def test_radii_are_written_in_as_many_digits_as_they_have() -> None:
    for value, text in ((0.25, "0.25"), (2 / 3, "0.6666666666666666"), (5.0, "5"), (0.1, "0.1"), (1e-3, "0.001")):
        assert as_written(value) == text


@pytest.mark.parametrize("changed", [{"alpha": math.nan}, {"alpha": math.inf}, {"alpha": "x"}, {"alpha": None},
                                     {"bound": []}, {"kind": "robust"}])  # fmt: skip
def test_runs_of_nonsense_without_samples_are_rejected_not_a_crash(tmp_path: Path, changed: dict[str, object]) -> None:
    asked = {"kind": "smooth", **vars(Fixed(Gaussian(0.5)).sampling()), "seed": 0, "batch": 1000}
    (tmp_path / "results.jsonl").write_text("")
    (tmp_path / "run.json").write_text(json.dumps(asked))
    assert check_run(tmp_path).ok
    (tmp_path / "run.json").write_text(json.dumps({**asked, **changed}))
    assert not check_run(tmp_path).ok


def test_a_run_without_chance_says_so(tmp_path: Path) -> None:
    plan = Exhaustive(Bands(8, 2))
    (tmp_path / "results.jsonl").write_text("")
    (tmp_path / "run.json").write_text(json.dumps({"kind": "smooth", **vars(plan.sampling())}))
    report = check_run(tmp_path)
    assert report.ok
    assert not any("probability" in note for note in report.notes)


# -- statistics of many


def test_small_coverage_at_the_boundary() -> None:
    """Claims just above the truth are made with probability alpha at most; the whole simulation is in benchmarks/."""
    for alpha in (0.05, 0.2):
        for errors in (fixed_errors(1500, 300, 0.8, alpha, 1), adaptive_errors(1500, 3000, 0.8, alpha, 2)):
            assert binomtest(errors, 1500, alpha, alternative="greater").pvalue > 1e-4
            assert errors > 0  # or the test could not fail


def test_statements_about_all_samples() -> None:
    for samples, alpha in ((50, 0.01), (1000, 0.001)):
        most = false_at_most(samples, alpha, 0.05)
        tails = [1 - sum(math.comb(samples, j) * alpha**j * (1 - alpha) ** (samples - j) for j in range(m + 1))
                 for m in (most - 1, most)]  # fmt: skip
        assert tails[0] > 0.05 >= tails[1]
    assert simultaneous([0.001, 0.04, 0.012, 0.9], 0.05).tolist() == [True, False, True, False]
    assert p_value(90, 100, 0.8) == pytest.approx(binomtest(90, 100, 0.8, alternative="greater").pvalue)
    assert p_value(90, 100, 0.8) < p_value(90, 100, 0.8, BETS) < 1
    assert p_value(70, 100, 0.8, BETS) == 1


# -- the command


def test_the_command_leaves_evidence_that_the_checker_replays(run: Callable[..., Ran], tmp_path: Path) -> None:
    asked = ("smooth", "digits-mlp-adv", "--data", "digits", "--sigma", "0.2", "--n", "400", "--radii", "0,0.1")
    out = tmp_path / "run"
    first = run(*asked, "--index", "0:2", "--out", out, "--json")
    assert first.status == 0
    assert [json.loads(line)["index"] for line in first.out.splitlines()] == [0, 1]
    done = run(*asked, "--index", "0:4", "--out", out)
    assert done.status == 0
    assert "pseudorandom" in done.err
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3]
    assert json.loads(lines[0])["counts"] == json.loads(first.out.splitlines()[0])["counts"]
    table = (out / "results.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["idx", "label", "predict", "radius", "correct", "time"]
    assert all(float(row.split("\t")[3]) <= json.loads(line)["radius"]
               for row, line in zip(table[1:], lines, strict=True))  # fmt: skip
    assert (out / "accuracy.png").stat().st_size > 1000
    by_radius = [row.split("\t") for row in (out / "table.tsv").read_text().splitlines()]
    assert by_radius[0] == ["radius", "samples", "certified", "sure", "together"]
    held = sum(entry["radius"] >= 0.1 and entry["predicted"] == entry["label"] for entry in map(json.loads, lines))
    assert by_radius[2][:3] == ["0.1", "4", str(held)]
    accepted = run("check", out, "--recount", "1")
    assert "at most 1 of these claims are wrong" not in accepted.out  # of four, with alpha 0.001
    assert "at most 0 of these claims are wrong" in accepted.out
    assert (accepted.status, accepted.out.split(":")[0]) == (0, "accepted")
    assert "1 samples were drawn again, 0 with other counts" in accepted.out
    assert run(*asked, "--index", "0:2", "--out", out, "--seed", "1").status == 2
    attacked = run(*asked, "--index", "0:4", "--out", out, "--attack", "2")
    assert "not broken" in attacked.out
    assert len((out / "attack" / "results.jsonl").read_text().splitlines()) == 4

    def forge(change: Callable[[dict], None], sign_again: bool = False) -> bool:
        from certify.check.counts import digest

        entry = json.loads(lines[0])
        change(entry)
        if sign_again:
            entry["digest"] = digest(json.loads((out / "run.json").read_text()), entry)
        (out / "results.jsonl").write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
        return check_run(out).ok

    assert forge(lambda e: e.update(time_s=1.0))
    assert not forge(lambda e: e.update(radius=e["radius"] / 2))
    assert not forge(lambda e: e.update(radius=e["radius"] * 2), sign_again=True)
    assert not forge(lambda e: e.update(index=1), sign_again=True)

    def more(entry: dict) -> None:
        best = conclude(Fixed(Gaussian(0.2), n=400), tuple(entry["selection"]), (0,) * 6 + (400,) + (0,) * 4)
        entry.update(counts=list(best.counts), lower=best.lower, radius=best.radius)

    if json.loads(lines[0])["predicted"] == 6 and json.loads(lines[0])["counts"][6] < 390:
        assert forge(more, sign_again=True)  # arithmetic alone cannot know
        assert run("check", out, "--recount", "4").status == 1
    (out / "run.json").write_text((out / "run.json").read_text().replace('"alpha": 0.001', '"alpha": 0.01'))
    assert run("check", out).status == 1


def test_the_command_refuses_what_it_cannot_do(run: Callable[..., Ran]) -> None:
    base = ("smooth", "digits-mlp-adv", "--data", "digits")
    for words in ((), ("--sigma", "0.2", "--noise", "uniform:1"), ("--noise", "unifrom:1"), ("--noise", "flips:0.1"),
                  ("--sigma", "-1"), ("--sigma", "0.2", "--alpha", "0"), ("--noise", "uniform:x"),
                  ("--sigma", "0.2", "--target", "0.1", "--two-sided")):  # fmt: skip
        assert run(*base, *words).status == 2, words
