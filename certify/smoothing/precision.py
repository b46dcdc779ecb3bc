"""The floating type in which a base classifier computes: another type is another classifier.

Half precision is faster, and rounds; so some noisy samples are answered otherwise than in single precision. That is no
error of a certificate, as it is about the classifier that was counted: the network whose weights, inputs and values in
between are numbers of this type. Evidence names the type, and whoever deploys the classifier must compute in it, too.
The noise is drawn and added in single precision: rounding the noisy sample is the first thing the classifier does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.errors import BadOption
from certify.graph.evaluate import Network
from certify.graph.ir import Graph
from certify.graph.products import full_products

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Floating types by the names that evidence uses."""


@dataclass(frozen=True, eq=False)
class BaseClassifier:
    """A network that computes in its own floating type: float32 inputs (B, *N), float32 outputs (B, classes)."""

    network: Network

    def __call__(self, x: Tensor) -> Tensor:
        with full_products():
            return self.network(x.to(self.network.dtype)).float()


def base_classifier(graph: Graph, precision: str, device: str | torch.device) -> BaseClassifier:
    """The classifier of `graph` in the floating type of this name.

    Raises BadOption for a name that is not in PRECISIONS, and where the device cannot compute the network in it;
    UnsupportedOp for nodes that cannot be run at all.
    """
    if precision not in PRECISIONS:
        raise BadOption(f"there is no precision {precision!r}", f"use one of {', '.join(PRECISIONS)}")
    classifier = BaseClassifier(Network(graph, PRECISIONS[precision], device))
    if precision != "float32":
        try:
            with torch.inference_mode():
                classifier(torch.zeros(1, graph.input_size, device=device))
        except RuntimeError as error:  # what torch raises for an operator that lacks this type
            remedy = "use --precision float32"
            raise BadOption(f"{device} cannot compute this network in {precision}: {error}", remedy) from error
    return classifier
