"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lowgrad
from lowgrad import dispatch
from lowgrad.optim.optimizer import Group, Optimizer, Params, decayed, of_step, require, setting
from lowgrad.tensor import Tensor


class Adagrad(Optimizer):
    """p -= lr / (1 + t * lr_decay) * grad / (sqrt(s) + eps), s the sum of grad² so far.

    t counts from 0; s starts as initial_accumulator_value.
    Source: Duchi et al. 2011, "Adaptive Subgradient Methods", eq. 1 (diagonal).
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        require(
            "Adagrad",
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """As Optimizer's. The sums are made here, as in PyTorch, not at the first step."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]

        def make() -> None:
            for param in group["params"]:
                self._init_state(param, group)

        dispatch.initial_state(make)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "sum")

    def _init_state(self, param: Tensor, group: Group) -> None:
        start = group["initial_accumulator_value"]
        self.state[param].update(step=0, sum=lowgrad.full_like(param.detach(), start))

    def _update(self, param: Tensor, grad: Tensor, group: Group, state: dict[str, Any]) -> None:
        grad = decayed(param, grad, group)
        total = state["sum"]
        total.add_(grad * grad)

        def step_size() -> float:
            return float(group["lr"] / (1.0 + state["step"] * group["lr_decay"]))

        quotient = grad / (total.sqrt() + setting(group, "eps"))
        param.sub_(quotient * of_step(group, state, "step_size", step_size))
