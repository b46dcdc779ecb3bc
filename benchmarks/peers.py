"""Attacks of other libraries, asked as their documentation says; none of them is a dependency of certify."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from certify.errors import BadOption

PACKAGES = (
    "torchattacks==3.5.1 foolbox==3.3.4 adversarial-robustness-toolbox==1.20.1 eagerpy==0.30.0 six tqdm GitPython "
    "gitdb smmap requests urllib3 idna certifi charset-normalizer"
)
"""What the comparisons were made with, and what that imports; torch and NumPy stay as they are."""


def torchattacks_standard(model: nn.Module, x: Tensor, y: Tensor, norm: float, eps: float) -> Tensor:
    """AutoAttack's standard protocol as torchattacks ships it: 10 steps for APGD and FAB, 5000 queries for Square."""
    attack = library("torchattacks").AutoAttack(model, norm=_word(norm), eps=eps, n_classes=_classes(model, x), seed=0)
    return attack(x, y)


def torchattacks_paper(model: nn.Module, x: Tensor, y: Tensor, norm: float, eps: float) -> Tensor:
    """The same attacks with the 100 steps of the protocol's paper (Croce & Hein 2020, section 6)."""
    own, classes = library("torchattacks"), _classes(model, x)
    common = {"norm": _word(norm), "eps": eps, "seed": 0}
    attacks = [
        own.APGD(model, steps=100, loss="ce", **common),
        own.APGDT(model, steps=100, n_classes=classes, **common),
        own.FAB(model, steps=100, multi_targeted=True, n_classes=classes, **common),
        own.Square(model, n_queries=5000, **common),
    ]
    return own.MultiAttack(attacks)(x, y)


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor, norm: float, eps: float, steps: int, size: float) -> Tensor:
    """Foolbox's projected gradient descent from a random point, with steps of `size` radii."""
    own = library("foolbox")
    kind = own.attacks.L2PGD if norm == 2 else own.attacks.LinfPGD
    attack = kind(rel_stepsize=size, steps=steps, random_start=True)
    _, clipped, _ = attack(own.PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=eps)
    return clipped


def art_pgd(model: nn.Module, x: Tensor, y: Tensor, norm: float, eps: float, steps: int, size: float) -> Tensor:
    """The same of the Adversarial Robustness Toolbox."""
    evasion, estimators = library("art", "attacks.evasion"), library("art", "estimators.classification")
    estimator = estimators.PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=_classes(model, x),
        clip_values=(0.0, 1.0),
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )
    settings = {"eps": eps, "eps_step": size * eps, "max_iter": steps, "num_random_init": 1, "batch_size": len(x)}
    attack = evasion.ProjectedGradientDescent(estimator, norm=2 if norm == 2 else np.inf, verbose=False, **settings)
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)


def library(name: str, part: str = "") -> ModuleType:
    """A library, or its module `part`. Raises BadOption if it is not installed."""
    try:
        return importlib.import_module(f"{name}.{part}" if part else name)
    except ImportError as error:
        command = f"pip install --no-deps --target DIR {PACKAGES}, and put DIR at the end of PYTHONPATH"
        raise BadOption(f"{name} is needed for this comparison: {error}", command) from error


def _word(norm: float) -> str:
    return "L2" if norm == 2 else "Linf"


def _classes(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return model(x[:1]).shape[1]
