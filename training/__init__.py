"""Training of networks worth verifying: one loop, one interface of methods, differentiable bounds."""

from training.adversarial import Adversarial, Climb
from training.augment import Augment
from training.average import EMA, SWA
from training.certified import IBP, CrownIBP, Dual
from training.expressive import CCIBP, EXPIBP, MTLIBP, SABR, STAPS, TAPS
from training.inner import DDN, Ascent
from training.lipschitz import LipschitzBound, LipschitzMargin
from training.loop import Trained, train
from training.method import Method, Moment
from training.optimiser import SGD, Adam
from training.plan import Epoch, Plan
from training.region import Ball
from training.regularise import IntervalStart, Regulariser
from training.search import TPE, search
from training.several import MSD, Average, Mixture, Moved, Within, Worst
from training.smoothed import MACER, Consistency, SmoothAdv, SmoothMix, Stability
from training.space import Methods
from training.standard import Gaussian, Standard
from training.sweep import Bounded, Point, front, sweep
from training.tradeoff import MART, TRADES, Fast, Free

__all__ = [
    "CCIBP",
    "DDN",
    "EMA",
    "EXPIBP",
    "IBP",
    "MACER",
    "MART",
    "MSD",
    "MTLIBP",
    "SABR",
    "SGD",
    "STAPS",
    "SWA",
    "TAPS",
    "TPE",
    "TRADES",
    "Adam",
    "Adversarial",
    "Ascent",
    "Augment",
    "Average",
    "Ball",
    "Bounded",
    "Climb",
    "Consistency",
    "CrownIBP",
    "Dual",
    "Epoch",
    "Fast",
    "Free",
    "Gaussian",
    "IntervalStart",
    "LipschitzBound",
    "LipschitzMargin",
    "Method",
    "Methods",
    "Mixture",
    "Moment",
    "Moved",
    "Plan",
    "Point",
    "Regulariser",
    "SmoothAdv",
    "SmoothMix",
    "Stability",
    "Standard",
    "Trained",
    "Within",
    "Worst",
    "front",
    "search",
    "sweep",
    "train",
]
