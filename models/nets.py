"""Architectures by name, made to fit a data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from certify.errors import BadOption
from models.data import Data
from models.zoo import PARAMETRISED, Description

_SMALL = {"convolutions": [[16, 4, 2, 1], [32, 4, 2, 1]], "hidden": [100]}
_MEDIUM = {**_SMALL, "hidden": [1000]}
_LARGE = {"convolutions": [[32, 3, 1, 1], [32, 4, 2, 1], [64, 3, 1, 1], [64, 4, 2, 1]], "hidden": [512, 512]}
_SEVEN = {
    "convolutions": [[64, 3, 1, 1], [64, 3, 1, 1], [128, 3, 2, 1], [128, 3, 1, 1], [128, 3, 1, 1]],
    "hidden": [512],
}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"hidden": [100, 100]}),
    "cnn-small": ("convnet", _SMALL),  # Wong & Kolter 2018
    "cnn-small-bn": ("convnet", {**_SMALL, "batch_norm": True}),
    "cnn-medium": ("convnet", _MEDIUM),  # ConvMed of Mirman et al. 2018: 5,704 ReLUs on MNIST
    "cnn-medium-bn": ("convnet", {**_MEDIUM, "batch_norm": True}),
    "cnn-large": ("convnet", _LARGE),  # Wong et al. 2018; "medium" in Gowal et al. 2018
    "cnn-7": ("convnet", {**_SEVEN, "batch_norm": True}),  # Shi et al. 2021; "large" in Gowal et al. 2018, with BN
    "resnet": ("resnet", {"channels": [16, 32]}),
    "vit": ("vit", {}),
    "lipschitz-mlp": ("lipschitz-mlp", {"hidden": [128, 128]}),
    "lipschitz-cnn": ("lipschitz-cnn", {}),
}


def describe(name: str, data: Data) -> Description:
    """The architecture NETS[name] for these data, whose mean and deviation per channel become its first layer; but not
    of one whose Lipschitz constant is 1, as a division by the deviation would change that.

    Raises BadOption for another name.
    """
    if name not in NETS:
        raise BadOption(f"no network is called {name!r}", f"use one of {', '.join(NETS)}")
    architecture, arguments = NETS[name]
    fitted: dict[str, Any] = {"shape": list(data.shape), "classes": data.classes, **arguments}
    if architecture in PARAMETRISED:
        return Description(architecture, fitted)
    x = data.x_train if len(data.x_train) else data.x_test
    axes = (0, *range(2, x.ndim))
    fitted["mean"] = [round(float(v), 4) for v in np.atleast_1d(x.mean(axes, dtype=np.float64))]
    fitted["std"] = [max(round(float(v), 4), 1e-3) for v in np.atleast_1d(x.std(axes, dtype=np.float64))]
    if architecture == "vit":
        fitted["patch"] = max(p for p in (2, 4, 7, 8) if not data.shape[-1] % p)
    return Description(architecture, fitted)
