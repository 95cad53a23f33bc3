"""Schedules made of schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from lowgrad.errors import ArgumentError
from lowgrad.optim.lr_scheduler.base import LRScheduler
from lowgrad.optim.lr_scheduler.plateau import ReduceLROnPlateau
from lowgrad.optim.optimizer import Optimizer


class _Composite(LRScheduler):
    """What holds `_schedulers` and their states."""

    _schedulers: list[LRScheduler]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, with the state of each schedule."""
        state = super().state_dict()
        state["_schedulers"] = [s.state_dict() for s in self._schedulers]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        rest = dict(state_dict)
        for scheduler, state in zip(self._schedulers, rest.pop("_schedulers"), strict=True):
            scheduler.load_state_dict(state)
        super().load_state_dict(rest)


class SequentialLR(_Composite):
    """One schedule after another, each from epoch 0 on at its milestone."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        _check("SequentialLR", schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ArgumentError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} "
                f"milestones, not {len(milestones)}"
            )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        # Making the schedules has set the learning rate already: undo that, begin with the first.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _undo_first_step(self._schedulers)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def _advance(self) -> None:
        self.last_epoch += 1
        position = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[position]
        if position > 0 and self._milestones[position - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler._advance()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composite):
    """All schedules at once, each multiplying what the one before has left."""

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if optimizer is None and schedulers:
            optimizer = schedulers[0].optimizer
        _check("ChainedScheduler", schedulers, optimizer)
        assert optimizer is not None, "_check refuses an empty list"
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._last_lr = self._current()

    def _advance(self) -> None:
        for scheduler in self._schedulers:
            scheduler._advance()
        self._last_lr = self._current()


def _check(name: str, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
    if not schedulers:
        raise ArgumentError(f"{name}: at least one scheduler is needed")
    for i, scheduler in enumerate(schedulers):
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ArgumentError(f"{name}: scheduler {i} needs a metric at each step")
        if scheduler.optimizer is not optimizer:
            raise ArgumentError(f"{name}: scheduler {i} belongs to another optimizer")


def _undo_first_step(schedulers: Sequence[LRScheduler]) -> None:
    for scheduler in schedulers:
        if isinstance(scheduler, _Composite):
            _undo_first_step(scheduler._schedulers)
        else:
            scheduler.last_epoch -= 1
