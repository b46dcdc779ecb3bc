"""Train the small models of the demonstration on scikit-learn's handwritten digits.

`python -m training.digits` writes models/saved/digits-*.safetensors and their cards, in a minute on one core.
Nothing here makes a claim about robustness: that is for `certify` to prove.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear

from models import zoo
from models.data import Data, load
from models.layers import Normalise

Loss = Callable[[nn.Sequential, Tensor, Tensor, float], Tensor]  # (network, x, y, progress in [0, 1])
BATCH = 64
SEED = 0


def standard(network: nn.Sequential, x: Tensor, y: Tensor, _progress: float) -> Tensor:
    """Mean cross-entropy on the data as they are."""
    return cross_entropy(network(x), y)


def adversarial(network: nn.Sequential, x: Tensor, y: Tensor, progress: float, *, epsilon: float) -> Tensor:
    """Mean cross-entropy at points found by projected gradient ascent (Madry et al. 2018), 5 steps.

    The radius grows to `epsilon` over the first half.
    """
    return cross_entropy(network(_ascend(network, x, y, epsilon * min(1.0, 2 * progress))), y)


def _ascend(network: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """A point of the L-infinity ball and of [0, 1] where five signed gradient steps made the loss large."""
    point = (x + radius * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1)
    for _ in range(5):
        point.requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(network(point), y), point)
        point = point.detach() + radius / 2 * gradient.sign()
        point = torch.minimum(torch.maximum(point, x - radius), x + radius).clamp(0, 1)
    return point


def interval(network: nn.Sequential, x: Tensor, y: Tensor, progress: float, *, epsilon: float) -> Tensor:
    """Half clean, half worst-case cross-entropy by interval bounds (Gowal et al. 2018, eq. 9-12).

    The radius grows to `epsilon` over the first two thirds. The margins' interval is taken through the
    last layer composed with the differences of logits, which is tighter than the logits' own intervals.
    """
    worst = _worst_logits(network, x, y, epsilon * min(1.0, 1.5 * progress))
    return (cross_entropy(network(x), y) + cross_entropy(worst, y)) / 2


def _worst_logits(network: nn.Sequential, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Upper bounds (B, classes) on each logit minus that of the label, within the ball; 0 for the label itself.

    Not rounded outward: good for training, not for a claim.
    """
    lower, upper = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    *hidden, last = network
    for layer in hidden:
        lower, upper = _through(layer, lower, upper)
    center, spread = (lower + upper) / 2, (upper - lower) / 2
    difference = last.weight[None] - last.weight[y][:, None]  # (B, classes, features)
    shift = last.bias[None] - last.bias[y][:, None]
    return (difference * center[:, None] + difference.abs() * spread[:, None]).sum(2) + shift


def _through(layer: nn.Module, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The interval behind one layer: affine layers by centre and spread, monotone ones by their ends."""
    center, spread = (lower + upper) / 2, (upper - lower) / 2
    if isinstance(layer, nn.Linear):
        spread = linear(spread, layer.weight.abs())
    elif isinstance(layer, nn.Conv2d):
        spread = conv2d(spread, layer.weight.abs(), None, layer.stride, layer.padding)
    elif isinstance(layer, nn.ReLU | nn.Flatten | Normalise):
        return layer(lower), layer(upper)
    else:
        raise TypeError(f"no interval rule for {type(layer).__name__}")
    center = layer(center)
    return center - spread, center + spread


@dataclass(frozen=True)
class Recipe:
    """How one model is made."""

    name: str
    description: zoo.Description
    method: str
    loss: Loss
    epsilon: float | None
    epochs: int
    rate: float = 2e-3


def recipes() -> tuple[Recipe, ...]:
    """The models of the demonstration: one fully connected network trained in three ways, two convolutional ones."""
    common = {"shape": [1, 8, 8], "classes": 10}
    normalised = {**common, "mean": [0.305], "std": [0.376]}
    mlp = zoo.Description("mlp", {**normalised, "hidden": [64, 64]})
    bare = zoo.Description("mlp", {**common, "hidden": [64, 64]})
    cnn = zoo.Description("cnn", {**common, "channels": [16, 32], "hidden": 64})
    resnet = zoo.Description("resnet", {**normalised, "channels": [8, 16]})
    return (
        Recipe("digits-mlp", mlp, "standard", standard, None, 30),
        Recipe("digits-mlp-adv", mlp, "adversarial (PGD, 5 steps)", partial(adversarial, epsilon=0.1), 0.1, 60),
        Recipe("digits-mlp-ibp", bare, "certified (IBP)", partial(interval, epsilon=0.1), 0.1, 100, 5e-3),
        Recipe("digits-cnn-ibp", cnn, "certified (IBP)", partial(interval, epsilon=0.1), 0.1, 80, 5e-3),
        Recipe("digits-resnet-adv", resnet, "adversarial (PGD, 5 steps)", partial(adversarial, epsilon=0.05), 0.05, 15),
    )


def train(recipe: Recipe, data: Data) -> nn.Sequential:
    """The trained network in eval mode; the same on every run with the same torch and processor."""
    torch.manual_seed(SEED)
    network = recipe.description.build()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    steps = -(-len(x) // BATCH) * recipe.epochs
    optimiser = torch.optim.Adam(network.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
    step = 0
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            recipe.loss(network, x[chosen], y[chosen], step / steps).backward()
            optimiser.step()
            schedule.step()
            step += 1
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Share of the test data that the network classifies as it should."""
    logits = network(torch.from_numpy(data.x_test))
    return float((logits.argmax(1) == torch.from_numpy(data.y_test)).double().mean())


def attacked_accuracy(network: nn.Module, data: Data, epsilon: float) -> float:
    """Share of the test data still classified as it should be at the point that one gradient ascent finds."""
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    return float((network(_ascend(network, x, y, epsilon)).argmax(1) == y).double().mean())


def main() -> None:
    """Train every recipe, or those named, and save them."""
    parser = argparse.ArgumentParser(prog="python -m training.digits", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these models")
    parser.add_argument("--out", type=Path, default=zoo.SAVED, help="folder to save to")
    options = parser.parse_args()
    known = {r.name: r for r in recipes()}
    if unknown := [n for n in options.names if n not in known]:
        parser.error(f"no recipe is called {unknown[0]!r}; known are {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = load("digits")
    for name in options.names or known:
        recipe = known[name]
        network = train(recipe, data)
        clean = accuracy(network, data)
        attacked = ", ".join(f"{attacked_accuracy(network, data, e):.3f} at {e}" for e in (0.02, 0.05, 0.1))
        print(f"{name}: clean {clean:.3f}; attacked {attacked}", flush=True)
        card = zoo.Card(
            data="digits",
            method=recipe.method,
            epsilon=recipe.epsilon,
            clean_accuracy=round(clean, 4),
            command=f"python -m training.digits {name}",
            notes={"seed": SEED, "epochs": recipe.epochs, "torch": torch.__version__.split("+")[0]},
        )
        zoo.save(recipe.description, network, options.out / f"{name}.safetensors", card)


if __name__ == "__main__":
    main()
