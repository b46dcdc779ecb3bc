"""Training of networks worth verifying: one loop, one interface of methods, differentiable bounds."""

from training.adversarial import Adversarial, Climb
from training.average import EMA, SWA
from training.certified import IBP, CrownIBP, Dual
from training.expressive import CCIBP, EXPIBP, MTLIBP, SABR, TAPS
from training.loop import Trained, train
from training.method import Method, Moment
from training.optimiser import SGD, Adam
from training.plan import Epoch, Plan
from training.region import Ball
from training.regularise import IntervalStart, Regulariser
from training.several import MSD, Average, Mixture, Moved, Within, Worst
from training.smoothed import MACER, Consistency, SmoothAdv, Stability
from training.standard import Gaussian, Standard
from training.sweep import front, sweep
from training.tradeoff import MART, TRADES, Fast, Free

__all__ = [
    "CCIBP",
    "EMA",
    "EXPIBP",
    "IBP",
    "MACER",
    "MART",
    "MSD",
    "MTLIBP",
    "SABR",
    "SGD",
    "SWA",
    "TAPS",
    "TRADES",
    "Adam",
    "Adversarial",
    "Average",
    "Ball",
    "Climb",
    "Consistency",
    "CrownIBP",
    "Dual",
    "Epoch",
    "Fast",
    "Free",
    "Gaussian",
    "IntervalStart",
    "Method",
    "Mixture",
    "Moment",
    "Moved",
    "Plan",
    "Regulariser",
    "SmoothAdv",
    "Stability",
    "Standard",
    "Trained",
    "Within",
    "Worst",
    "front",
    "sweep",
    "train",
]
