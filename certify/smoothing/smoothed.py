"""The smoothed classifier: counting what the base classifier answers under noise, CERTIFY and PREDICT.

Draws come in blocks, each from a generator of its own, seeded by the run's seed, the sample's number and the block's.
So the counts of a block are the same wherever it is drawn: runs resume inside a sample, and machines share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from certify.check.counts import check_counts, chosen
from certify.check.tails import binomial_tail
from certify.errors import CertifyError, EvidenceRejected
from certify.evidence import CountProof
from certify.smoothing.discrete import Positions
from certify.smoothing.noise import Noise
from certify.smoothing.plans import Exhaustive, Plan, even_blocks
from certify.smoothing.streams import ESTIMATION, PREDICTION, SELECTION, seed_of


def never() -> bool:
    """The `stop` of work without an end of its own."""
    return False


@dataclass(frozen=True)
class Counts:
    """Answers by class, the last entry for answers that are no class, and the numbers of the blocks they are from."""

    answers: tuple[int, ...]
    blocks: frozenset[int] = frozenset()

    def merge(self, other: Counts) -> Counts:
        """Both together. Raises CertifyError if they share a block, or are of different numbers of classes."""
        if self.blocks & other.blocks or len(self.answers) != len(other.answers):
            shared = sorted(self.blocks & other.blocks)[:3]
            raise CertifyError(f"counts cannot be merged: blocks {shared} are in both", "draw other blocks")
        answers = tuple(a + b for a, b in zip(self.answers, other.answers, strict=True))
        return Counts(answers, self.blocks | other.blocks)


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The classifier that answers what `network` answers most often under `noise`.

    network  outputs (B, classes) for inputs (B, *N) on `device`; its largest output is its answer, and no class if an
             output is not a number. What is certified is this function as it computes, rounding and precision included
    batch    draws that go through the network at once. The counts depend on it, as it cuts the draws into blocks
    """

    network: Callable[[Tensor], Tensor]
    noise: Noise
    classes: int
    seed: int = 0
    batch: int = 1000
    device: str | torch.device = "cpu"

    def count(
        self, x: Tensor, stream: tuple[int, str], blocks: Iterable[tuple[int, int]], stop: Callable[[], bool] = never
    ) -> Counts:
        """Answers on noisy versions of x (*N), for blocks (number, size); ends early, between two, once `stop()`.

        `stream` is the sample's number and what the draws are for, one of STREAMS.
        """
        x = x.to(self.device)
        total = torch.zeros(self.classes + 1, dtype=torch.int64, device=x.device)
        done = set()
        with torch.inference_mode():
            for number, size in blocks:
                if stop():
                    break
                self._tally(self.noise.sample(x, size, self._generator(stream, number)), total)
                done.add(number)
        return Counts(tuple(total.tolist()), frozenset(done))

    def _tally(self, inputs: Tensor, total: Tensor) -> None:
        """Add what the network answers on inputs (B, *N) to total (classes + 1,)."""
        outputs = self.network(inputs)
        answers = torch.where(outputs.isnan().any(1), self.classes, outputs.argmax(1))
        total.scatter_add_(0, answers, torch.ones_like(answers))

    def _generator(self, stream: tuple[int, str], number: int) -> torch.Generator:
        sample, purpose = stream
        return torch.Generator(device=self.device).manual_seed(seed_of(self.seed, sample, purpose, number))

    def certify(
        self, x: Tensor, index: int, plan: Plan, *, known: Counts | None = None, stop: Callable[[], bool] = never
    ) -> CountProof | Counts:
        """The evidence for sample number `index`, x (*N), replayed by the checker.

        If `stop()` was true before there was enough, what was counted so far: given as `known`, it is gone on from.
        `plan.noise` must be `noise`. Raises EvidenceRejected if the checker refuses the evidence, which is a bug.
        """
        if isinstance(plan, Exhaustive):
            every = self._every(x, plan.noise)
            return conclude(plan, every, every)
        selection = self.count(x, (index, SELECTION), enumerate(even_blocks(plan.n0, self.batch))).answers
        predicted, counts = chosen(selection), known or Counts((0,) * (self.classes + 1))
        if predicted is None:
            return conclude(plan, selection, (0,) * (self.classes + 1))
        for number, size in enumerate(plan.blocks(self.batch)):
            if number in counts.blocks:
                continue
            if plan.enough(predicted, counts.answers):
                break
            if stop():
                return counts
            counts = counts.merge(self.count(x, (index, ESTIMATION), [(number, size)]))
        return conclude(plan, selection, counts.answers)

    def predict(self, x: Tensor, index: int, n: int, alpha: float) -> int | None:
        """PREDICT of Cohen et al. 2019: the smoothed classifier's answer, which is wrong with probability at most
        alpha over n draws; None abstains."""
        answers = self.count(x, (index, PREDICTION), enumerate(even_blocks(n, self.batch))).answers
        first, second = sorted(range(len(answers)), key=lambda c: -answers[c])[:2]
        together = answers[first] + answers[second]
        chance = 2 * Fraction(binomial_tail(answers[first], together, Fraction(1, 2)))
        return first if chance <= Fraction(alpha) and first != self.classes else None

    def _every(self, x: Tensor, noise: Positions) -> tuple[int, ...]:
        """Answers at all positions of a window."""
        total = torch.zeros(self.classes + 1, dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for part in noise.versions(x.to(self.device)).split(self.batch):
                self._tally(part, total)
        return tuple(total.tolist())


def conclude(plan: Plan, selection: tuple[int, ...], counts: tuple[int, ...]) -> CountProof:
    """The evidence that counts of `plan` give, replayed by the checker.

    Raises EvidenceRejected if the checker refuses it, which is a bug.
    """
    predicted = chosen(selection)
    if predicted is None:
        proof = CountProof(selection, counts, None, 0.0, None, 0.0)
    else:
        lower, upper = plan.probabilities(predicted, counts)
        proof = CountProof(selection, counts, predicted, lower, upper, plan.noise.radius(lower, upper))
    if failures := check_counts(plan.sampling(), proof):
        raise EvidenceRejected(f"the checker refuses the counts of {plan}: {'; '.join(failures)}")
    return proof
