"""Classifiers under attack: the model, what counts as success, and what is descended to get there.

Logits are (B, C), inputs (B, d), flattened. A margin is at most 0 if and only if the attack has succeeded by the
model's own argmax, ties included. Losses are numbers to be made small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, C), the class to leave (B,), the class to reach (B,)) -> (B,), to be made small."""


class Classifier:
    """A model (any callable from a batch of inputs to logits) as attacks ask it: with flattened inputs.

    shape   of one input, without the batch axis; (d,) for a network of certify's own
    asked   how many inputs it was asked about
    """

    def __init__(self, model: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        if isinstance(model, nn.Module):
            kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32, torch.float64}
            if kinds:
                raise ValueError(f"attacks need a model in float32 or float64, not {kinds.pop()}: use model.float()")
        self.model, self.shape, self.asked = model, tuple(shape), 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, C) of x (B, d)."""
        self.asked += len(x)
        logits = self.model(x.view(-1, *self.shape))
        if logits.dim() != 2 or len(logits) != len(x):
            raise ValueError(f"a classifier answers {len(x)} inputs with logits (B, C), not {tuple(logits.shape)}")
        return logits

    def predict(self, x: Tensor, batch: int = 512) -> Tensor:
        """The classes (B,) of x (B, ...), asked in batches; -1 where a logit is not a number."""
        with torch.no_grad():
            parts = [self(part) for part in x.detach().flatten(1).split(batch)]
        return torch.cat([z.argmax(1).masked_fill(z.isnan().any(1), -1) for z in parts])


def margin_loss(z: Tensor, leave: Tensor, reach: Tensor) -> Tensor:
    """The difference of two logits (Carlini & Wagner 2017, f6)."""
    return _at(z, leave) - _at(z, reach)


def untargeted_margin(z: Tensor, leave: Tensor, reach: Tensor) -> Tensor:
    """The logit to leave, less the largest other one."""
    return _at(z, leave) - _others(z, leave).amax(1)


def cross_entropy(z: Tensor, leave: Tensor, reach: Tensor) -> Tensor:
    """A monotone function of minus the cross-entropy, z_y - log sum of exp z_j over j != y: its gradient has the
    same direction, and does not vanish in float32 where the model is sure."""
    return _at(z, leave) - _others(z, leave).logsumexp(1)


def targeted_cross_entropy(z: Tensor, leave: Tensor, reach: Tensor) -> Tensor:
    """The cross-entropy for the class to reach, up to a monotone function."""
    return _others(z, reach).logsumexp(1) - _at(z, reach)


def dlr(z: Tensor, leave: Tensor, reach: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 4), which does not depend on the logits' scale."""
    top = z.topk(min(3, z.shape[1]), 1).values
    return untargeted_margin(z, leave, reach) / (top[:, 0] - top[:, -1] + 1e-12)


def targeted_dlr(z: Tensor, leave: Tensor, reach: Tensor) -> Tensor:
    """Its targeted form (Croce & Hein 2020, eq. 5)."""
    top = z.topk(min(4, z.shape[1]), 1).values
    below = (top[:, 2] + top[:, 3]) / 2 if top.shape[1] > 3 else top[:, -1]
    return margin_loss(z, leave, reach) / (top[:, 0] - below + 1e-12)


@dataclass(frozen=True, eq=False)
class Misclassified:
    """The objective that entry i is not classified as labels[i], or, if `aimed`, that it is as targets[i].

    labels, targets  classes (B,); a target is what a targeted loss pulls to, even where any other class will do
    loss             what is descended
    spent            queries of the N samples so far, (N,), shared by all that were selected from one objective
    entries          which sample each entry belongs to, (B,)
    """

    classifier: Callable[[Tensor], Tensor]
    labels: Tensor
    loss: Loss
    targets: Tensor
    spent: Tensor
    entries: Tensor
    aimed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        return self._margin(self._ask(x))

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, loss), each (B,)."""
        z = self._ask(x)
        return self._margin(z), self.loss(z, self.labels, self.targets)

    def logits(self, x: Tensor) -> Tensor:
        """The model's answers (B, C) to x (B, d)."""
        return self._ask(x)

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The margin (B,), and the differences (B, C - 1) of the label's logit to all others, with their gradients
        (B, C - 1, d)."""
        x = x.detach().requires_grad_()
        z = self._ask(x)
        apart = _at(z, self.labels).unsqueeze(1) - _others(z, self.labels)
        slopes = [torch.autograd.grad(apart[:, k].sum(), x, retain_graph=True)[0] for k in range(apart.shape[1])]
        return self._margin(z).detach(), apart.detach(), torch.stack(slopes, 1)

    def select(self, index: Tensor) -> Misclassified:
        """The objective whose entry i is this one's entry index[i]."""
        labels, targets, entries = (t[index] for t in (self.labels, self.targets, self.entries))
        return replace(self, labels=labels, targets=targets, entries=entries)

    def led_by(self, loss: Loss, targets: Tensor | None = None) -> Misclassified:
        """The same goal, with another loss, and other targets (B,)."""
        return replace(self, loss=loss, targets=self.targets if targets is None else targets)

    def _ask(self, x: Tensor) -> Tensor:
        self.spent.index_add_(0, self.entries, torch.ones_like(self.entries))
        return self.classifier(x)

    def _margin(self, z: Tensor) -> Tensor:
        """At most 0 if and only if argmax says that the goal is reached; never 0 otherwise, even in a tie."""
        tiny = torch.finfo(z.dtype).tiny
        if self.aimed:
            margin = _others(z, self.targets).amax(1) - _at(z, self.targets)
            reached = z.argmax(1) == self.targets
        else:
            margin, reached = untargeted_margin(z, self.labels, self.targets), z.argmax(1) != self.labels
        return torch.where(reached, margin, margin.clamp_min(tiny))


def misclassified(
    classifier: Callable[[Tensor], Tensor], labels: Tensor, loss: Loss = untargeted_margin
) -> Misclassified:
    """The objective that samples are not classified as `labels` (B,)."""
    entries = torch.arange(len(labels), device=labels.device)
    return Misclassified(classifier, labels, loss, labels, torch.zeros_like(labels), entries)


def aimed_at(
    classifier: Callable[[Tensor], Tensor], targets: Tensor, loss: Loss = targeted_cross_entropy
) -> Misclassified:
    """The objective that samples are classified as `targets` (B,)."""
    return replace(misclassified(classifier, targets, loss), aimed=True)


def _at(z: Tensor, index: Tensor) -> Tensor:
    return z.gather(1, index.unsqueeze(1)).squeeze(1)


def _others(z: Tensor, index: Tensor) -> Tensor:
    """The logits (B, C - 1) of all classes but `index` (B,)."""
    keep = torch.ones_like(z, dtype=torch.bool).scatter_(1, index.unsqueeze(1), False)
    return z[keep].view(len(z), -1)
