"""The one-cycle schedule."""

from __future__ import annotations

import math
from typing import NamedTuple

from lowgrad.errors import ArgumentError
from lowgrad.optim.lr_scheduler.base import LRScheduler, require_one_per_group
from lowgrad.optim.optimizer import Group, Optimizer


class Phase(NamedTuple):
    """A stretch up to `end` between two learning rates and two momenta, by their names."""

    end: float
    from_lr: str
    to_lr: str
    from_momentum: str
    to_momentum: str


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr in the first pct_start of the steps, then down.

    The end is the start / final_div_factor. The momentum (or beta1) goes the other way, from
    max_momentum to base_momentum and back.  three_phase comes down the way it went up first.
    Give total_steps, or epochs and steps_per_epoch.
    Source: Smith & Topin 2017, "Super-Convergence", sec. 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not 0.0 <= pct_start <= 1.0:
            raise ArgumentError(f"OneCycleLR: pct_start must be from 0 to 1, not {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(
                f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}"
            )
        self._phases = _phases(self.total_steps, pct_start, three_phase)
        self._anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.use_beta1 = "betas" in optimizer.defaults
        if cycle_momentum and not self.use_beta1 and "momentum" not in optimizer.defaults:
            raise ArgumentError(
                f"OneCycleLR: {type(optimizer).__name__} has no momentum to cycle",
                fix="cycle_momentum=False",
            )
        if last_epoch == -1:
            peaks = require_one_per_group("OneCycleLR: max_lr", optimizer, max_lr)
            highs = require_one_per_group("OneCycleLR: max_momentum", optimizer, max_momentum)
            lows = require_one_per_group("OneCycleLR: base_momentum", optimizer, base_momentum)
            for i, group in enumerate(optimizer.param_groups):
                group["initial_lr"] = peaks[i] / div_factor
                group["max_lr"] = peaks[i]
                group["min_lr"] = group["initial_lr"] / final_div_factor
                if cycle_momentum:
                    group["max_momentum"], group["base_momentum"] = highs[i], lows[i]
                    self._set_momentum(group, highs[i])
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """At `last_epoch`, which counts steps. Sets the momentum too."""
        step = self.last_epoch
        if step > self.total_steps:
            raise ArgumentError(f"OneCycleLR: step {step} of a cycle of {self.total_steps}")
        start, phase = self._phase(step)
        share = (step - start) / (phase.end - start)
        for group in self._groups():
            if self.cycle_momentum:
                ends = group[phase.from_momentum], group[phase.to_momentum]
                self._set_momentum(group, self._between(*ends, share))
        return [self._between(g[phase.from_lr], g[phase.to_lr], share) for g in self._groups()]

    def _phase(self, step: int) -> tuple[float, Phase]:
        """(its first step, the phase) that `step` belongs to."""
        start = 0.0
        for phase in self._phases[:-1]:
            if step <= phase.end:
                return start, phase
            start = phase.end
        return start, self._phases[-1]

    def _between(self, start: float, end: float, share: float) -> float:
        if self._anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _set_momentum(self, group: Group, value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


def _total_steps(total: int | None, epochs: int | None, per_epoch: int | None) -> int:
    if total is None and epochs is not None and per_epoch is not None:
        total = epochs * per_epoch
    if total is None:
        raise ArgumentError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
    if total <= 0 or not isinstance(total, int):
        raise ArgumentError(f"OneCycleLR: the steps must be a positive int, not {total}")
    return total


def _phases(total: int, pct_start: float, three_phase: bool) -> list[Phase]:
    up = Phase(pct_start * total - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three_phase:
        return [up, Phase(total - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    return [
        up,
        Phase(2 * pct_start * total - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
        Phase(total - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
    ]
