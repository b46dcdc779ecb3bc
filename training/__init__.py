"""Training of networks worth verifying: one loop, one interface of methods, differentiable bounds."""

from training.adversarial import Adversarial, Climb
from training.certified import IBP, CrownIBP
from training.loop import Trained, train
from training.method import Method, Moment
from training.optimiser import SGD, Adam
from training.plan import Epoch, Plan
from training.region import Ball
from training.standard import Gaussian, Standard

__all__ = [
    "IBP",
    "SGD",
    "Adam",
    "Adversarial",
    "Ball",
    "Climb",
    "CrownIBP",
    "Epoch",
    "Gaussian",
    "Method",
    "Moment",
    "Plan",
    "Standard",
    "Trained",
    "train",
]
