"""Which radii the counts of a randomized smoothing run prove: replayed from the counts alone.

The claim about one input: if the draws were independent and the noise as described, then with probability at least
1 - alpha over the draws, the smoothed classifier answers `predicted` for every input within the radius. Each bound of
a probability is verified forward, by a tail that is rounded up; no quantile of any library is believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from certify.check.checker import Report
from certify.check.radii import radius
from certify.check.tails import binomial_tail, wealth
from certify.errors import EvidenceRejected
from certify.evidence import CountProof, Sampling

KIND, SHARE_KIND = "smooth", "smooth-share"
"""What `run.json` says it is about: claims with their counts, or a share of the counts, which claims nothing."""

MOST_SHOWN = 20
"""Failures that a report lists."""

CONFIDENCE = 0.95
"""Of what is said about all samples of a run together."""

UNSIGNED = ("digest", "time_s")
"""Fields of a line that its digest does not cover."""


def check_counts(sampling: Sampling, proof: CountProof) -> tuple[str, ...]:
    """What is wrong with the claim; nothing if the counts prove it.

    Sound if the draws were independent of each other and, for the class, `selection` of `counts`.
    """
    try:
        return tuple(_failures(sampling, proof))
    except (EvidenceRejected, TypeError, ValueError, KeyError, ArithmeticError) as error:
        return (f"the claim cannot be replayed: {error}",)


def _failures(sampling: Sampling, proof: CountProof) -> list[str]:
    counts, selection = proof.counts, proof.selection
    if any(type(c) is not int or c < 0 for c in (*counts, *selection)) or len(counts) != len(selection):
        return ["the counts are not whole numbers >= 0, one for each class and one for no class"]
    bound = BOUNDS.get(str(sampling.bound.get("kind")))
    if bound is None:
        return [f"a bound of kind {sampling.bound.get('kind')!r} is not known; known are {', '.join(BOUNDS)}"]
    if not 0 < sampling.alpha < 1:
        return [f"an error probability alpha of {sampling.alpha} claims nothing"]
    failures = []
    stops = sampling.bound["kind"] == "betting"
    if proof.predicted is None and chosen(selection) is None and sum(selection) == sampling.n0:
        return [] if proof.radius == 0 else ["a radius is claimed for no class"]
    if sum(selection) != sampling.n0 or not (sum(counts) == sampling.n or (stops and sum(counts) <= sampling.n)):
        failures.append(f"{sum(selection)} and {sum(counts)} draws were counted, not {sampling.n0} and {sampling.n}")
    if proof.predicted != chosen(selection):
        failures.append(f"the class {proof.predicted} is not the one that the first draws choose")
    if failures or proof.predicted is None:
        return failures
    upper = 1 - Fraction(proof.lower) if proof.upper is None else Fraction(proof.upper)
    failures = bound(sampling, proof)
    if not 0 <= proof.radius <= radius(sampling.noise, Fraction(proof.lower), upper):
        failures.append(f"the radius {proof.radius} does not follow from probabilities {proof.lower}, {float(upper)}")
    return failures


def chosen(selection: Sequence[int]) -> int | None:
    """The class counted most often, the first of several; None if that is no class."""
    most = max(range(len(selection)), key=lambda c: selection[c])
    return None if most == len(selection) - 1 else most


def _clopper_pearson(sampling: Sampling, proof: CountProof) -> list[str]:
    """The exact one-sided bound of one binomial probability (Clopper and Pearson 1934; Cohen et al. 2019)."""
    return [*_none_other(proof), *_lower_holds(proof, Fraction(sampling.alpha))]


def _joint(sampling: Sampling, proof: CountProof) -> list[str]:
    """Exact bounds for all classes at once, each with its share of alpha (Jia et al. 2020, SimuEM)."""
    share = Fraction(sampling.alpha) / len(proof.counts)
    failures = _lower_holds(proof, share)
    if proof.upper is None or not 0 <= proof.upper <= 1:
        return [*failures, "two-sided evidence needs an upper bound, a probability"]
    upper, n = Fraction(proof.upper), sum(proof.counts)
    others = (count for c, count in enumerate(proof.counts) if c != proof.predicted)
    if upper < 1 and upper < 1 - Fraction(proof.lower):
        unlikely = (Fraction(binomial_tail(n - count, n, 1 - upper)) <= share for count in others)
        if not all(unlikely):
            failures.append(f"the counts do not show that no other class has probability above {proof.upper}")
    return failures


def _betting(sampling: Sampling, proof: CountProof) -> list[str]:
    """The wealth of gamblers who bet on the class against odds that are fair at `lower` has reached 1 / alpha.

    It is a nonnegative supermartingale if the probability is at most `lower`, whatever the time at which one stops; so
    it ever reaches 1 / alpha with probability at most alpha (Ville 1939; Waudby-Smith and Ramdas 2024, section 4).
    It falls with `lower`: so all smaller probabilities are excluded with it, and `lower` may be chosen afterwards.
    """
    bets = sampling.bound["bets"]
    if not bets or not all(0 <= b <= 1 for b in bets):
        raise EvidenceRejected("bets must be shares of the wealth, between 0 and 1")
    failures = _none_other(proof)
    p, successes = Fraction(proof.lower), proof.counts[proof.predicted]
    if p < 0 or (p > 0 and Fraction(wealth(successes, sum(proof.counts), p, bets)) * Fraction(sampling.alpha) < 1):
        failures.append(f"the counts do not show, by betting, a probability of at least {proof.lower}")
    return failures


def _exact(sampling: Sampling, proof: CountProof) -> list[str]:
    """The noise takes each of `positions` values once: the counts are the probabilities (Levine and Feizi 2020b)."""
    n = sampling.noise["positions"]
    if proof.counts != proof.selection or sum(proof.counts) != n or proof.upper is None:
        return ["the counts are not those of all positions, each once"]
    most = max(count for c, count in enumerate(proof.counts) if c != proof.predicted)
    if proof.lower <= Fraction(proof.counts[proof.predicted], n) and proof.upper >= Fraction(most, n):
        return []
    return [f"the counts are not probabilities {proof.lower} and {proof.upper}"]


def _none_other(proof: CountProof) -> list[str]:
    return [] if proof.upper is None else ["one-sided evidence says nothing of other classes"]


def _lower_holds(proof: CountProof, alpha: Fraction) -> list[str]:
    n, p = sum(proof.counts), Fraction(proof.lower)
    if p == 0 or (0 < p < 1 and Fraction(binomial_tail(proof.counts[proof.predicted], n, p)) <= alpha):
        return []
    return [f"the counts do not show a probability of at least {proof.lower}"]


BOUNDS: dict[str, Callable[[Sampling, CountProof], list[str]]] = {
    "clopper-pearson": _clopper_pearson,
    "joint": _joint,
    "betting": _betting,
    "exact": _exact,
}


def false_at_most(samples: int, alpha: float, delta: float) -> int:
    """How many of the claims about so many samples are wrong, with probability 1 - delta, at most.

    Each is wrong with probability at most alpha, independently, as its draws are its own: so the number of wrong ones
    is, stochastically, at most binomial.
    """
    count = 0
    while Fraction(binomial_tail(count + 1, samples, Fraction(alpha))) > Fraction(delta):
        count += 1
    return count


def digest(settings: Mapping[str, object], line: Mapping[str, object]) -> str:
    """sha256 that ties a line of results to what the run was asked; the time spent is not covered."""
    signed = {k: v for k, v in line.items() if k not in UNSIGNED}
    return hashlib.sha256(json.dumps([settings, signed], sort_keys=True, allow_nan=False).encode()).hexdigest()


def check_run(folder: Path) -> Report:
    """Whether each line of a saved run follows from its counts, and hashes to what it says.

    It takes the counts for what was drawn: that is for whoever draws them again. Never raises.
    """
    try:
        settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        sampling = sampling_of(settings)
        failures = [f"sample {line['index']}: {what}" for line in lines for what in _wrong(settings, sampling, line)]
        if len({line["index"] for line in lines}) < len(lines):
            failures.append("a sample is listed twice")
        notes = _notes(settings, sampling, len(lines), sum(line["radius"] > 0 for line in lines))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError,
            EvidenceRejected) as error:  # fmt: skip
        return Report(False, (f"{folder} does not hold a smoothing run that certify saved: {error!r}",))
    return Report(not failures, tuple(failures[:MOST_SHOWN]), notes if not failures else ())


def _notes(settings: Mapping[str, object], sampling: Sampling, samples: int, certified: int) -> tuple[str, ...]:
    """What an accepted run says: of each sample, of all at once, and about which classifier."""
    about = f"the claims are about the network as it computes in {settings.get('precision', 'float32')}"
    if sampling.bound.get("kind") == "exact":
        return (f"{samples} samples, {certified} with a radius; every position was counted: no chance is left", about)
    wrong = false_at_most(samples, sampling.alpha, 1 - CONFIDENCE)
    return (
        f"{samples} samples, {certified} with a radius; each claim is wrong with probability at most "
        f"{sampling.alpha:g}, if the counts are those of independent draws and the noise is as described",
        f"together: with probability {CONFIDENCE:.0%}, over all draws, at most {wrong} of these claims are wrong",
        about,
    )


def sampling_of(settings: Mapping[str, object]) -> Sampling:
    """The sampling that `run.json` describes. Raises EvidenceRejected if it is of another kind of run."""
    if settings.get("kind") != KIND:
        raise EvidenceRejected("run.json is about something else")
    return Sampling(*(settings[name] for name in ("noise", "bound", "alpha", "n0", "n")))


def proof_of(line: Mapping[str, object]) -> CountProof:
    """The evidence in a line of results."""
    selection, counts = tuple(line["selection"]), tuple(line["counts"])
    return CountProof(selection, counts, *(line[name] for name in ("predicted", "lower", "upper", "radius")))


def _wrong(settings: Mapping[str, object], sampling: Sampling, line: Mapping[str, object]) -> Sequence[str]:
    if line["digest"] != digest(settings, line):
        return ("its line, or run.json, was changed: the digest differs",)
    return check_counts(sampling, proof_of(line))
