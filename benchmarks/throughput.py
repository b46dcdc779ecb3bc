"""How fast bound propagation is, beside what this machine's matrix products reach in the same run.

`python -m benchmarks.throughput [--device cpu|cuda] [--json]`, about two minutes. Networks have random weights.
Every neuron is unstable in the backward pass, so that nothing can be left out of its products. Operations are the
multiply-adds of the affine maps, counted twice; elementwise work counts for nothing. Rates are of one core, and times
those of the searching thread alone, which other work stretches less; the best of several repetitions counts. Only
full bounds are measured on two cores, too: by two processes at once, each of which has its own domains.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import entry
from certify.bounds.base import NodeBounds
from certify.bounds.intermediate import intermediate, read_by_elementwise, unstable
from certify.bounds.linear import least, lines_of, no_splits
from certify.bounds.optimise import Schedule, Target, initial, optimise
from certify.bounds.relaxation import Relaxation
from certify.bounds.rows import Rows
from certify.graph import ops
from certify.graph.build import GraphBuilder, Operand
from certify.graph.evaluate import Network
from certify.graph.ir import Graph, Port
from certify.memory import keep_freed_memory
from certify.native.products import covers, multiply
from certify.native.weights import pack
from certify.spec.inputset import InputSet
from certify.threads import one_thread_each

SECONDS = 0.4
"""Time for the repetitions of one measurement."""

RUN = 0.01
"""Seconds that one reading of the clock spans, at least nearly."""

STEPS = 20
ARRAYS, INPUTS = 22, 6
"""Numbers per neuron and per input that an optimisation holds for a domain, counted by hand: bounds 2, tables of
the lines 11, lines 3, their parameters before and after 2, Adam's moments 2, coefficients 1, and one in passing; the
box, the linear form and its minimiser."""


@dataclass(frozen=True)
class Case:
    """A network, the batch sizes to try, and what is aimed at: percent of the peak, and domains per second for full
    intermediate bounds, for the last pass and for 20 steps (on two cores)."""

    name: str
    graph: Graph
    batches: tuple[int, ...]
    percent: float
    targets: tuple[float | None, float | None, float | None]
    full: int  # domains that are given full intermediate bounds at once


@dataclass(frozen=True)
class Row:
    """What was measured of one network; rates are domains per second, memory is bytes per domain of 20 steps."""

    name: str
    batch: int
    gflops: float
    percent: float
    percent_wanted: float
    last_pass: float
    full: float
    full_two: float
    full_unstable: float
    steps: float
    targets: tuple[float | None, float | None, float | None]
    memory: float
    memory_on_paper: float


def mlp(widths: tuple[int, ...], rng: np.random.Generator) -> Graph:
    build = GraphBuilder([Port("x", (widths[0],))])
    x: Operand = build.inputs[0]
    for k, (n, m) in enumerate(pairwise(widths)):
        x = build.linear(build.relu(x) if k else x, *_weights(rng, (m, n)))
    return build.build([x], [Port("y", (widths[-1],))])


def resnet(rng: np.random.Generator) -> Graph:
    """The shape of VNN-COMP's CIFAR-10 `resnet_2b`: 6244 ReLUs."""
    build = GraphBuilder([Port("x", (3, 32, 32))])

    def conv(x: Operand, channels: int, size: int, stride: int) -> Operand:
        pad = (size // 2,) * 2
        weights = _weights(rng, (channels, x.shape[0], size, size))
        return build.conv(x, *weights, stride=(stride, stride), before=pad, after=pad)

    x = build.relu(conv(build.inputs[0], 8, 3, 2))
    inner = conv(build.relu(conv(x, 16, 3, 2)), 16, 3, 1)
    x = build.relu(build.add(inner, conv(x, 16, 1, 2)))
    x = build.relu(build.add(conv(build.relu(conv(x, 16, 3, 1)), 16, 3, 1), x))
    x = build.relu(build.linear(build.flatten(x), *_weights(rng, (100, 1024))))
    return build.build([build.linear(x, *_weights(rng, (10, 100)))], [Port("y", (10,))])


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return (rng.normal(size=shape) * scale).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32) * 0.1


def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    many = (64, 128, 256, 512, 1024, 2048, 4096)
    return [
        Case("6x50", mlp((5, *[50] * 6, 5), rng), many, 40, (30e3, None, None), 512),
        Case("4x256", mlp((784, *[256] * 4, 10), rng), many, 40, (400, None, 4e3), 16),
        Case("resnet_2b", resnet(rng), (8, 16, 32, 64, 128, 256), 25, (None, None, 500), 1),
    ]


def operations(graph: Graph) -> int:
    """Floating-point operations of the affine maps for one row and one domain."""
    total = 0
    for node in graph.nodes:
        if isinstance(node.op, ops.Linear):
            total += 2 * node.op.weight.shape[0] * node.op.weight.shape[1]
        elif isinstance(node.op, ops.Conv):
            total += 2 * node.size * int(np.prod(node.op.weight.shape[1:]))
    return total


def best(work: Callable[[], object], device: torch.device, wall: bool = False, seconds: float = SECONDS) -> float:
    """Least seconds of one call, from runs of so many calls that the clock's own grain does not matter."""
    clock = time.perf_counter if wall or device.type == "cuda" else time.thread_time

    def run(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    run(1)
    calls, began = 1, time.perf_counter()
    while (spent := run(calls)) < RUN:  # a coarse clock may say 0 of a short run
        calls *= 2
    found = spent / calls
    while time.perf_counter() - began < seconds:
        spent = run(calls)
        found = min(found, spent / calls) if spent > 0 else found
    return found


def peaks(device: torch.device) -> dict[str, float]:
    """GFLOP/s of float32 matrix products: torch's with one thread and with two, and the compiled kernels'."""
    shapes = [(n, n, n) for n in (256, 512, 1024, 2048)]
    shapes += [(rows, n, n) for n in (50, 64, 256) for rows in (64, 256, 1024)] + [(1024, 256, 784)]
    found = {"torch, one thread": 0.0, "torch, two threads": 0.0, "kernels, one thread": 0.0}
    before = torch.get_num_threads()
    try:
        for m, k, n in shapes:
            a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
            out, giga = torch.empty(m, n, device=device), 2e-9 * m * k * n
            for name, threads in (("torch, one thread", 1), ("torch, two threads", 2)):
                torch.set_num_threads(threads)
                seconds = best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, threads > 1, SECONDS / 4)
                found[name] = max(found[name], giga / seconds)
            torch.set_num_threads(1)
            if covers(a, b):
                panels = pack(b)
                seconds = best(lambda a=a, panels=panels: multiply(a, panels), device, False, SECONDS / 4)
                found["kernels, one thread"] = max(found["kernels, one thread"], giga / seconds)
    finally:
        torch.set_num_threads(before)
    return {name: value for name, value in found.items() if value}


def domains(network: Network, batch: int) -> InputSet:
    """Boxes around random points, wide enough to leave many neurons unstable."""
    generator = torch.Generator().manual_seed(batch)
    centre = torch.rand(batch, network.graph.input_size, generator=generator).to(network.device)
    return InputSet(centre - 0.05, centre + 0.05)


def unstable_bounds(network: Network, batch: int) -> NodeBounds:
    """Made-up bounds that leave every neuron unstable, each domain's its own."""
    generator = torch.Generator().manual_seed(batch)
    found = {}
    for v in read_by_elementwise(network.graph):
        ends = torch.rand(2, batch, *network.graph.nodes[v].shape, generator=generator).to(network.device) + 0.1
        found[v] = (-ends[0], ends[1])
    return found


def last_pass(network: Network, batch: int) -> Callable[[], torch.Tensor]:
    """One row per domain, sent back through lines that are known, and its least value over the box."""
    graph, last = network.graph, len(network.graph.nodes) - 1
    inputs, bounds = domains(network, batch), unstable_bounds(network, batch)
    lines = lines_of(network, bounds, graph.nonlinear)
    rows = torch.randn(batch, 1, *graph.nodes[last].shape, device=network.device)
    zero = torch.zeros(batch, 1, device=network.device)
    return lambda: least(network, last, rows, zero, lines, inputs)


def steps(network: Network, batch: int) -> Callable[[], object]:
    """20 steps of the optimisation of one row per domain, from where they all start."""
    inputs, bounds = domains(network, batch), unstable_bounds(network, batch)
    matrix = torch.randn(1, 1, 1, network.graph.output_size, device=network.device)
    offset = matrix.new_zeros(1, 1, 1)
    target = Target(network, inputs, bounds, Rows(matrix, offset, offset == 0), no_splits(inputs.lower))
    relaxation = Relaxation(network, bounds)
    schedule = Schedule(steps=STEPS)
    return lambda: optimise(target, initial(target, relaxation), relaxation, schedule, threshold=float("inf"))


def measure(case: Case, peak: float, device: torch.device) -> Row:
    network = Network(case.graph, torch.float32, device)
    rates = {b: b / best(last_pass(network, b), device) for b in case.batches}
    batch = max(rates, key=lambda b: rates[b])
    inputs = domains(network, case.full)
    full = case.full / best(lambda: intermediate(network, inputs), device)
    known = intermediate(network, inputs)
    loose = sum(int(unstable(case.graph, v, known[v]).sum()) for v in known)
    neurons = sum(case.graph.nodes[v].size for v in known)
    tried = [b for b in case.batches if b <= 1024]
    rate = max(b / best(steps(network, b), device) for b in tried[-3:])
    gflops = 1e-9 * operations(case.graph) * rates[batch]
    return Row(
        name=case.name,
        batch=batch,
        gflops=gflops,
        percent=100 * gflops / peak,
        percent_wanted=case.percent,
        last_pass=rates[batch],
        full=full,
        full_two=full if device.type == "cuda" else two_at_once(case),
        full_unstable=loose / (neurons * case.full),
        steps=rate,
        targets=case.targets,
        memory=memory(case, device),
        memory_on_paper=4 * (ARRAYS * neurons + INPUTS * case.graph.input_size),
    )


def two_at_once(case: Case) -> float:
    """Domains per second of two processes that begin their full bounds together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    with context.Pool(2, initializer=barrier.wait) as pool:
        return sum(pool.map(_full, [case, case], chunksize=1))


def _full(case: Case) -> float:
    keep_freed_memory()
    with one_thread_each(), torch.no_grad():
        network, device = Network(case.graph), torch.device("cpu")
        inputs = domains(network, case.full)
        return case.full / best(lambda: intermediate(network, inputs), device)


def memory(case: Case, device: torch.device) -> float:
    """Bytes per domain that 20 steps take: what twice as many domains need more."""
    count = max(64, min(4096, (1 << 29) // (100 * sum(n.size for n in case.graph.nodes))))
    if device.type == "cuda":
        used = []
        for batch in (count, 2 * count):
            torch.cuda.reset_peak_memory_stats(device)
            steps(Network(case.graph, torch.float32, device), batch)()
            used.append(torch.cuda.max_memory_allocated(device))
    else:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            used = [pool.apply(_resident, (case.graph, batch)) for batch in (count, 2 * count)]
    return (used[1] - used[0]) / count


def _resident(graph: Graph, batch: int) -> int:
    """The largest resident set of a process that takes 20 steps, in bytes."""
    with one_thread_each(), torch.no_grad():
        steps(Network(graph), batch)()
    status = Path("/proc/self/status")
    if status.exists():  # the resource usage begins with what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def shown(peak: dict[str, float], rows: list[Row]) -> str:
    """The measurements as text."""
    lines = [f"{name + ':':22} {value:8.1f} GFLOP/s in matrix products" for name, value in peak.items()]
    for r in rows:
        full, last, twenty = (f" (aim {t:,.0f})" if t else "" for t in r.targets)
        share = f"{r.percent:.0f} % of the best product of one thread (aim {r.percent_wanted:.0f} %)"
        lines += [
            f"\n{r.name}, batches of {r.batch}",
            f"  last pass    {r.gflops:12.1f} GFLOP/s, {share}",
            f"               {r.last_pass:12,.0f} domains/s{last}",
            f"  full bounds  {r.full:12,.2f} domains/s, {100 * r.full_unstable:.0f} % of the neurons unstable",
            f"               {r.full_two:12,.2f} domains/s on two cores{full}",
            f"  {STEPS} steps     {r.steps:12,.0f} domains/s{twenty}",
            f"  memory       {r.memory:12,.0f} bytes per domain, {r.memory_on_paper:,.0f} on paper",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--only", help="one network: 6x50, 4x256 or resnet_2b")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    keep_freed_memory()  # as the program does
    with one_thread_each(), torch.no_grad():
        peak = peaks(device)
        one = max(value for name, value in peak.items() if "two" not in name)
        rows = [measure(case, one, device) for case in cases() if given.only in (None, case.name)]
    if given.json:
        print(json.dumps({"peak_gflops": peak, "networks": [asdict(r) for r in rows]}))
    else:
        print(shown(peak, rows))


if __name__ == "__main__":
    entry(main)
