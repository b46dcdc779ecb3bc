"""Networks of the size that others pretrain: what reading and bounding them takes, in seconds and memory.

`python -m benchmarks.sizes [--timeout 120] [--only resnet18|vit6] [--onnx] [--json]`, some minutes per network.
ResNet-18 (He et al. 2016) and a transformer of six layers (Dosovitskiy et al. 2021, of the width of ViT-Tiny), both
for images of 64 x 64 pixels, with random weights: one image, every pixel changed by up to 1/255. Each is bounded in a
process of its own, in float32, by intervals and then linearly; --timeout is what tightening the values within the
network may take, and what is not tightened by then stays as intervals leave it. Seconds are the processor's, of one
thread; widths are the mean of the ten outputs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.command import entry
from benchmarks.fresh import run
from certify.bounds.methods import IntervalBounds, LinearBounds
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.frontends.imported import Imported
from certify.frontends.load import load_network
from certify.graph.evaluate import Network
from certify.memory import keep_freed_memory
from certify.spec.inputset import stack
from certify.spec.regions import ball
from certify.threads import one_thread_each
from models.resnet import resnet

SIDE, CLASSES, EPS = 64, 10, 1 / 255


def resnet18() -> nn.Module:
    """The 11 million weights of ResNet-18, with its large first convolution and max-pooling."""
    front = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    stages = resnet((64, SIDE // 4, SIDE // 4), CLASSES, channels=(64, 128, 256, 512), blocks=2)
    return nn.Sequential(*front, *stages[3:])


class Transformer(nn.Module):
    """A vision transformer with layer normalisation, GELU and a class token, on images (B, 3, SIDE, SIDE)."""

    def __init__(self, patch: int = 8, width: int = 192, heads: int = 3, depth: int = 6) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, (SIDE // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(depth)
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.project(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.place
        return self.head(self.blocks(tokens)[:, 0])


NETWORKS = {"resnet18": resnet18, "vit6": Transformer}


@dataclass(frozen=True)
class Sized:
    """What one network took: processor seconds, mean widths of its outputs, and megabytes at most."""

    network: str
    load_s: float
    interval_s: float
    interval_width: float
    linear_s: float
    linear_width: float
    peak_rss_mb: float = 0.0


def read(module: nn.Module, image: Tensor, onnx: bool) -> Imported:
    """The network's graph, through torch.export or through a file of ONNX."""
    if not onnx:
        return load_network(module, image[None])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(module, (image[None],), path, dynamo=False)
        return load_network(path)


def bounded(name: str, module: nn.Module, image: Tensor, timeout: float, onnx: bool = False) -> Sized:
    """Read the network and bound its outputs on the ball around an image (3, H, W): by intervals, and by the better of
    intervals and lines."""
    began = time.process_time()
    imported = read(module, image, onnx)
    loaded = time.process_time()
    ((_, inputs),) = stack([ball(image.numpy(), EPS, within=(0, 1))], torch.float32)
    network = Network(imported.graph)
    unit = torch.eye(imported.graph.output_size)
    both = torch.cat([unit, -unit])[None, :, None]
    offset = both.new_zeros(both.shape[:3])
    rows = Rows(both, offset, torch.ones_like(offset, dtype=torch.bool))
    found, best = [], rows.offset[..., 0] - torch.inf
    for method in (IntervalBounds(), LinearBounds()):
        start = time.process_time()
        best = torch.maximum(best, method(network, inputs, rows, budget=Budget(timeout)).lower[..., 0])
        lower, upper = best[0].chunk(2)
        found += [time.process_time() - start, float((-upper - lower).mean())]
    return Sized(name, loaded - began, *found)


def measure(name: str, timeout: float, onnx: bool, budget: Budget) -> Sized | None:
    """`bounded` in a process of its own; None if the budget expired. Raises RuntimeError if that process failed."""
    command = [sys.executable, "-m", "benchmarks.sizes", "--one", name, "--timeout", str(timeout)]
    ended = run([*command, "--onnx"] if onnx else command, 60 * timeout, budget)
    if ended is None:
        return None
    if ended.status:
        raise RuntimeError(f"{name} ended with status {ended.status}: {ended.err[-2000:]}")
    return Sized(**{**json.loads(ended.out.splitlines()[-1]), "peak_rss_mb": ended.peak_rss_mb})


HEADS = ("network", "load s", "interval s", "width", "linear s", "width", "peak MB")


def shown(sized: Sized) -> str:
    """A line under HEADS."""
    numbers = [f"{value:.4g}" for value in list(asdict(sized).values())[1:]]
    return f"{sized.network:12}" + "".join(f"{number:>12}" for number in numbers)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, default=120, help="seconds for tightening values within a network")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--onnx", action="store_true", help="through ONNX, not torch.export")
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead of a table")
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        keep_freed_memory()  # as the program does
        torch.manual_seed(0)
        module, image = NETWORKS[given.one]().eval(), torch.rand(3, SIDE, SIDE)
        with one_thread_each(), torch.no_grad():
            print(json.dumps(asdict(bounded(given.one, module, image, given.timeout, given.onnx))))
        return
    if not given.json:
        print(f"{HEADS[0]:12}" + "".join(f"{head:>12}" for head in HEADS[1:]), flush=True)
    for name in [given.only] if given.only else NETWORKS:
        sized = measure(name, given.timeout, given.onnx, Budget())
        if sized is not None:
            print(json.dumps(asdict(sized)) if given.json else shown(sized), flush=True)


if __name__ == "__main__":
    entry(main)
