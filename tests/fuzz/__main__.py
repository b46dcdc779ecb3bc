"""Fuzzing from the command line.

python -m tests.fuzz --size 20000 --seed 0 [--jobs 2] [--out DIR]    many instances; failures are shrunk and saved
python -m tests.fuzz --replay DIR/FILE.npz                           one saved failure again
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from certify.verifier import verify
from tests.fuzz import store
from tests.fuzz.campaign import campaign, prepare
from tests.fuzz.harness import examine


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1000, help="how many instances")
    parser.add_argument("--seed", type=int, default=0, help="the first instance's seed")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failures are saved")
    parser.add_argument("--replay", type=Path, help="a saved failure to run again")
    options = parser.parse_args()
    prepare()
    if options.replay:
        report = examine(store.load(options.replay), verify)
        print(f"{report.verdict}; the oracle says {report.truth}; {report.problem or 'no problem'}")
        return int(report.problem is not None)
    return 0 if campaign(options.seed, options.size, options.jobs, options.out) else 1


if __name__ == "__main__":
    sys.exit(main())
