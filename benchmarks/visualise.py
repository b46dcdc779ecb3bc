"""What a classifier sees in images: samples moved to where it is surest of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from attacks.features import SLOW, toward_class
from benchmarks.attack import Array, Campaign, pixels
from benchmarks.picture import picture
from benchmarks.threats import Moved
from certify.budget import Budget


@dataclass(frozen=True)
class Seen:
    """One sample moved toward a class: where it was counted from, its label (none for noise), the class that it was
    moved to, the one that the original network answers, the probability that it gives the wanted one, and how far
    the image went in the ball's norm."""

    index: int
    label: int | None
    toward: int
    answer: int
    probability: float
    distance: float


def noise(x: Array, count: int, within: tuple[float, float] | None, seed: int) -> Array:
    """Random images (count, *shape), each entry normal with the mean and deviation that it has in x (N, *shape), in
    the data range (a simpler form of what Santurkar et al. 2019, section 3.1, start from)."""
    drawn = np.random.default_rng(seed).standard_normal((count, *x.shape[1:]))
    return np.clip(x.mean(0) + x.std(0) * drawn, *(within or (-np.inf, np.inf))).astype(x.dtype)


def visualise(
    campaign: Campaign, indices: Sequence[int], classes: Sequence[int], threat: Moved, budget: Budget
) -> Iterator[tuple[Seen, Array]]:
    """Every sample moved toward every one of these classes of the network, as far as the ball allows, with the images
    (d,); ends early once cancelled. Labels less than 0 are none. Raises BadOption where ball and data do not fit."""
    attack = replace(SLOW, stop=lambda: budget.cancelled)
    for i in indices:
        x = torch.from_numpy(np.repeat(campaign.x[i : i + 1], len(classes), 0)).to(campaign.device)
        targets = torch.tensor(list(classes), device=campaign.device)
        region = threat.region(x, campaign.within)
        moved = toward_class(campaign.classifier, region, targets, attack)
        if budget.cancelled:
            return
        label = int(campaign.labels[i])
        for toward, image, far in zip(classes, moved.cpu().numpy(), region.distance(moved).tolist(), strict=True):
            y = np.asarray(campaign.network.source(image.astype(np.float64)), np.float64).reshape(-1)
            share = np.exp(y - y.max())
            seen = Seen(
                i, label if label >= 0 else None, toward, int(y.argmax()), float(share[toward] / share.sum()), far
            )
            yield seen, image


def draw(found: Sequence[tuple[Seen, Array]], x: Array, within: tuple[float, float] | None, path: Path) -> None:
    """A grid as PNG: a row per sample, the sample itself first, then a column per class."""
    rows: dict[int, list[tuple[Seen, Array]]] = {}
    for seen, image in found:
        rows.setdefault(seen.index, []).append((seen, image))
    width = 1 + max(len(row) for row in rows.values())
    size = (1.2 * width, 1.4 * len(rows))
    with picture(path, len(rows), width, size, "tight", squeeze=False) as (_, axes):
        low, high = within or (float(x.min()), float(x.max()))
        for places, (index, row) in zip(axes, rows.items(), strict=True):
            label = row[0][0].label
            shown = [(f"{index}" if label is None else f"{index}: {label}", x[index])]
            shown += [(f"{seen.toward}: {seen.probability:.0%}", image.reshape(x[index].shape)) for seen, image in row]
            for place, (title, image) in zip(places, shown, strict=False):
                scaled = np.clip((pixels(image) - low) / (high - low), 0, 1)
                place.imshow(scaled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                place.set_title(title, fontsize=7)
            for place in places:
                place.set_axis_off()
