"""LRScheduler: the base of the schedules, which write `group["lr"]` step by step.

The formulas are PyTorch's, most of them recursive, so that schedules can be chained.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from lowgrad import dispatch
from lowgrad.errors import ArgumentError
from lowgrad.optim.optimizer import Group, Optimizer


class LRScheduler:
    """Base of the schedules: `step()` after each `optimizer.step()`.

    In a recorded step, `step()` takes place after each replay.
    """

    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ArgumentError(
                    f"{type(self).__name__}: last_epoch is {last_epoch}, but parameter group {i} "
                    "has no initial_lr",
                    fix="load the optimizer's state first, or leave last_epoch at -1",
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self._initial_step()

    def get_lr(self) -> list[float]:
        """The learning rate of each group at `last_epoch`, from the one before."""
        raise NotImplementedError

    def _closed_form(self) -> list[float]:
        """The learning rate of each group at `last_epoch`, from the first; get_lr if unknown."""
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """The learning rates that were set last."""
        return self._last_lr

    def step(self) -> None:
        """Go to the next epoch (or step): set the learning rate of each group."""
        dispatch.host_update(self._advance)

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self._advance()
        self._is_initial = False

    def _advance(self) -> None:
        if self._step_count == 1 and not self.optimizer._was_stepped:
            warnings.warn(
                f"{type(self).__name__}.step() was called before optimizer.step(), "
                "so the first learning rate is skipped; call it after",
                UserWarning,
                stacklevel=4,
            )
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def _restart(self) -> None:
        """Begin again at epoch 0."""
        self.last_epoch = 0
        self._set(self._closed_form())

    def _set(self, values: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, values, strict=True):
            group["lr"] = lr
        self._last_lr = self._current()

    def _groups(self) -> list[Group]:
        return self.optimizer.param_groups

    def _current(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _scaled(self, factor: float) -> list[float]:
        return [lr * factor for lr in self._current()]

    def _compile_prepare(self) -> None:
        """Nothing to make before a step is recorded."""

    def _compile_signature(self, walker: Any, path: str) -> tuple[Any, ...]:
        """Which schedule this is; a recorded step reads its numbers at each replay."""
        walker.visit(self.optimizer, f"{path}.optimizer")
        return ("schedule", id(self))

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned. The optimizer's own state is loaded apart."""
        self.__dict__.update(state_dict)


def require_one_per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """`value` for each group; a list must have as many. Raises ArgumentError."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ArgumentError(f"{name}: {groups} values are needed, one a group, not {len(value)}")
    return list(value)
