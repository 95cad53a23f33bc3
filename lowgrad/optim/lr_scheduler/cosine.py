"""Schedules along a cosine."""

from __future__ import annotations

import math

from lowgrad.errors import ArgumentError
from lowgrad.optim.lr_scheduler.base import LRScheduler
from lowgrad.optim.optimizer import Optimizer


class CosineAnnealingLR(LRScheduler):
    """From initial_lr to eta_min along half a cosine of T_max epochs, and back.

    Source: Loshchilov & Hutter 2016, "SGDR", eq. 5, without the restarts.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """From the one before."""
        if self._is_initial:
            return self._current()
        if self._step_count == 1 and self.last_epoch > 0:
            return self._closed_form()
        pairs = zip(self._current(), self.base_lrs, strict=True)
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * rise for lr, base in pairs]
        ratio = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / (
            1 + math.cos(math.pi * (self.last_epoch - 1) / self.T_max)
        )
        return [ratio * (lr - self.eta_min) + self.eta_min for lr, _ in pairs]

    def _closed_form(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """From initial_lr to eta_min along half a cosine, again and again.

    The first takes T_0 epochs, each further one T_mult times as many as the one before.
    Source: Loshchilov & Hutter 2016, "SGDR", eq. 5.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        for name, value in {"T_0": T_0, "T_mult": T_mult}.items():
            if value < 1 or not isinstance(value, int):
                raise ArgumentError(
                    f"CosineAnnealingWarmRestarts: {name} must be a positive int, not {value}"
                )
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """At T_cur of T_i epochs since the restart."""
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def _advance(self) -> None:
        self.T_cur += 1
        if self.T_cur >= self.T_i:
            self.T_cur %= self.T_i
            self.T_i *= self.T_mult
        super()._advance()

    def _restart(self) -> None:
        self.T_cur, self.T_i = 0, self.T_0
        super()._restart()
