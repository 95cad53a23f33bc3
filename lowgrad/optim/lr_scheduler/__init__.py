"""Learning-rate schedules, with PyTorch's names, arguments and numbers."""

from lowgrad.optim.lr_scheduler.base import LRScheduler
from lowgrad.optim.lr_scheduler.composite import ChainedScheduler, SequentialLR
from lowgrad.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from lowgrad.optim.lr_scheduler.onecycle import OneCycleLR
from lowgrad.optim.lr_scheduler.plateau import ReduceLROnPlateau
from lowgrad.optim.lr_scheduler.simple import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
