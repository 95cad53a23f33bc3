"""Optimizers and learning-rate schedules, with PyTorch's names, arguments and formulas."""

from lowgrad.optim import lr_scheduler
from lowgrad.optim.adagrad import Adagrad
from lowgrad.optim.adam import Adam, AdamW
from lowgrad.optim.optimizer import Optimizer
from lowgrad.optim.rmsprop import RMSprop
from lowgrad.optim.sgd import SGD

__all__ = ["Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "SGD", "lr_scheduler"]
