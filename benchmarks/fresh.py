"""One instance in a process of its own, as a user would run it, and what that process took."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.bench import Measured
from benchmarks.run import Instance
from certify.budget import Budget
from certify.frontends.files import as_text
from certify.verdict import EXIT_STATUS

GRACE = 30.0
"""Seconds beyond its limit after which a process is killed."""

POLL = 0.005  # seconds; wall times are late by at most this
LONGEST = 200  # characters of what a process said last that are kept
BAD_INPUT = 2  # the exit status with which `certify` refuses


@dataclass(frozen=True)
class Ended:
    """What a process printed, its exit status (minus the signal that ended it), seconds, and largest resident set.

    `overran` if it was killed at its deadline.
    """

    out: str
    err: str
    status: int
    wall_s: float
    peak_rss_mb: float
    overran: bool


def measure(instance: Instance, budget: Budget, options: Sequence[str] = ()) -> Measured | None:
    """Run `certify verify` with `options` on the instance. Whatever the process does becomes a row; None if the
    budget expired meanwhile, and the process was killed."""
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "certify", "verify", as_text(instance.networks), str(instance.property)]
    ended = run([*command, "--timeout", str(instance.timeout), "--json", *options], instance.timeout + GRACE, budget)
    if ended is None:
        return None
    verdict, own = judge(ended)
    numbers = (round(ended.wall_s, 3), round(own, 4), round(ended.peak_rss_mb, 1), round(load, 2))
    return Measured(*instance.key, instance.expected, verdict, *numbers)


def run(command: Sequence[str], limit: float, budget: Budget) -> Ended | None:
    """Run the command until it ends, or kill it with its children after `limit` seconds; None if `budget` expired."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        # a session of its own: a Ctrl-C at the terminal is for us, and a kill reaches its children
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        killed = False
        try:
            while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
                if not killed and (budget.expired or time.monotonic() - began > limit):
                    killed = True
                    _kill(process)
                time.sleep(POLL)
        except BaseException:
            _kill(process)
            process.wait()
            raise
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(found[1])
        if killed and budget.expired:
            return None
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in a megabyte
    return Ended(*texts, process.returncode, wall, found[2].ru_maxrss / unit, killed)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.killpg(process.pid, signal.SIGKILL)


def judge(ended: Ended) -> tuple[str, float]:
    """The verdict and own seconds that a process of `certify verify --json` gave: an error, and NaN, unless it printed
    one object and ended with that verdict's exit status."""
    if ended.overran:
        return f"error: killed {GRACE:g} s beyond its limit", math.nan
    try:
        found = json.loads(ended.out)
        word, reason, own = found["verdict"], found["reason"], float(found["own_s"])
        answered = ended.status == EXIT_STATUS[word] and 0 <= own < math.inf
    except (ValueError, KeyError, TypeError):
        answered = False
    if not answered:
        return f"error: {_last_words(ended)}", math.nan
    if word == "unknown":
        return ("timeout" if reason == "timeout" else f"unknown: {reason}"), own
    return {"verified": "unsat", "falsified": "sat"}[word], own


def _last_words(ended: Ended) -> str:
    lines = [" ".join(line.split()) for line in ended.err.splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("certify: ") and not line.startswith("certify: warning")]
    if ended.status == BAD_INPUT and refusals:
        return refusals[0].removeprefix("certify: ")[:LONGEST]
    how = f"signal {-ended.status}" if ended.status < 0 else f"status {ended.status}"
    said = [line for line in lines if not line.startswith("certify: ")] or lines or ["it said nothing"]
    return f"{how}: {said[-1][:LONGEST]}"
