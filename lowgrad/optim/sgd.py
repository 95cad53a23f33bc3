"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from lowgrad.errors import ArgumentError
from lowgrad.optim.optimizer import Group, Optimizer, Params, decayed, of_step, require, setting
from lowgrad.tensor import Tensor


class SGD(Optimizer):
    """p -= lr * v, v = momentum * v + (1 - dampening) * (grad + weight_decay * p).

    v is the gradient itself at the first step, without dampening. nesterov steps by
    grad + momentum * v.
    Source: Sutskever et al. 2013, "On the Importance of Initialization and Momentum", eq. 3, 4.
    """

    optional_state = ("step",)  # PyTorch's SGD does not count

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        require("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError("SGD: nesterov needs a momentum and no dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "momentum_buffer") if group["momentum"] != 0 else ()

    def _update(self, param: Tensor, grad: Tensor, group: Group, state: dict[str, Any]) -> None:
        grad = decayed(param, grad, group)
        if group["momentum"] != 0:
            momentum = setting(group, "momentum")
            velocity = state["momentum_buffer"]
            velocity.mul_(momentum).add_(self._dampened(grad, group, state))
            grad = grad + velocity * momentum if group["nesterov"] else velocity
        param.sub_(grad * setting(group, "lr"))

    def _dampened(self, grad: Tensor, group: Group, state: dict[str, Any]) -> Tensor:
        """grad * (1 - dampening), but grad itself at the first step."""
        if group["dampening"] == 0:
            return grad

        def factor() -> float:
            return 1.0 - float(group["dampening"]) if state["step"] else 1.0

        return grad * of_step(group, state, "undamped", factor)
