"""What the falsifier finds alone, without bounds and search, of the instances that are expected to be violated.

`python -m benchmarks.falsify INSTANCES.csv [--seconds 10] [--category NAME]`; a list as `certify batch` reads it. The
seconds of an instance are those of the attack; reading its network is not counted.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.command import entry
from benchmarks.run import Instance, read_instances
from certify.budget import Budget
from certify.falsify import Falsifier
from certify.frontends.imported import Imported
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.passes import simplify
from certify.spec.query import Query
from certify.spec.vnnlib import read_vnnlib
from certify.threads import one_thread_each


@dataclass(frozen=True)
class Attempt:
    """One instance: whether a witness was found, in how many seconds, of processor too, and in which attack: the
    quick one, or turn 0, 1, ... of the thorough one."""

    instance: Instance
    found: bool
    seconds: float
    processor: float
    stage: str


def attempt(instance: Instance, imported: Imported, seconds: float) -> Attempt:
    """Attack one instance for so many seconds."""
    graph = imported.graph
    query = Query(imported.source, graph, tuple(read_vnnlib(instance.property, graph.input_size, graph.output_size)))
    clauses = {k: set(range(len(case.property.clauses))) for k, case in enumerate(query.cases)}
    network = Network(simplify(graph).graph, torch.float32)
    budget, began = Budget(seconds), time.thread_time()
    falsifier, stage, turn = Falsifier(query, network), "quick", 0
    found = falsifier.quick(clauses, budget)
    while not found and not budget.expired:
        stage = f"turn {turn}"
        found = falsifier.thorough(clauses, budget, turn)
        turn += 1
    return Attempt(instance, bool(found), budget.elapsed, time.thread_time() - began, stage)


def main() -> None:
    """Print a line per instance, and how many were found."""
    parser = argparse.ArgumentParser(prog="benchmarks.falsify", description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--category", action="append")
    options = parser.parse_args()
    expected = [i for i in read_instances(options.list) if i.expected == "sat"]
    chosen = [i for i in expected if not options.category or i.category in options.category]
    found, network, imported = 0, None, None
    with one_thread_each():
        for instance in chosen:
            if instance.network != network:
                network, imported = instance.network, load_network(instance.network)
            result = attempt(instance, imported, options.seconds)
            found += result.found
            word = "found" if result.found else "MISSED"
            took = f"{result.seconds:6.2f} s {result.processor:6.2f} s processor"
            print(f"{word:6} {took} {result.stage:8} {instance.category} {instance.vnnlib}", flush=True)
    print(f"{found} of {len(chosen)}")


if __name__ == "__main__":
    entry(main)
