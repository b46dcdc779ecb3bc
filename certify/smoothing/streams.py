"""Seeds of the generators that noise is drawn from: every block of draws of a run has another one.

Torch's generator of the CPU uses 32 bits of a seed, so hashes would meet: of the blocks of ten thousand samples, some
would have the same noise. A block's number in the run is permuted instead, by a Feistel network whose round function
is a hash keyed by the run's seed (Luby and Rackoff 1988): no two blocks of a run share a seed, and another run
scatters them otherwise.
"""

from __future__ import annotations

import hashlib

from certify.errors import BadOption

SELECTION, ESTIMATION, PREDICTION = "selection", "estimation", "prediction"
"""What draws are for: names of independent streams."""

STREAMS = (SELECTION, ESTIMATION, PREDICTION)
SAMPLES, BLOCKS = 2**16, 2**14
"""Samples of a run, and blocks of a stream, that have seeds of their own: with up to four streams, 2^32 in all."""

_ROUNDS = 4


def seed_of(run: int, sample: int, stream: str, block: int) -> int:
    """The seed of a block, 32 bits.

    Raises BadOption where there are more blocks than seeds: the draws that choose a class must not be among those
    that bound its probability. Samples from number 65536 on have the noise of earlier ones again, in other runs'
    places: each claim stands, but errors of such pairs are not independent.
    """
    if not 0 <= block < BLOCKS:
        raise BadOption(f"a sample's draws come in {BLOCKS} blocks at most", "raise --batch")
    number = (sample % SAMPLES * 4 + STREAMS.index(stream)) * BLOCKS + block
    left, right = number >> 16, number & 0xFFFF
    for i in range(_ROUNDS):
        keyed = hashlib.sha256(f"{run}/{i}/{right}".encode()).digest()
        left, right = right, left ^ int.from_bytes(keyed[:2], "little")
    return left << 16 | right
