"""RMSprop."""

from __future__ import annotations

from typing import Any

from lowgrad.optim.optimizer import Group, Optimizer, Params, decayed, of_group, require, setting
from lowgrad.tensor import Tensor


class RMSprop(Optimizer):
    """p -= lr * grad / (sqrt(v) + eps), v a running mean of grad².

    centered subtracts the squared running mean of grad from v. With momentum, a running sum of the
    quotients is stepped by.
    Source: Tieleman & Hinton 2012, lecture 6.5; Graves 2013, eq. 38-45 (centered).
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        require(
            "RMSprop", lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
        )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
        mean = ("grad_avg",) if group["centered"] else ()
        return ("step", "square_avg", *momentum, *mean)

    def _update(self, param: Tensor, grad: Tensor, group: Group, state: dict[str, Any]) -> None:
        grad = decayed(param, grad, group)
        rest = of_group(group, "1 - alpha", lambda: 1.0 - group["alpha"])
        square = state["square_avg"]
        square.mul_(setting(group, "alpha")).add_(grad * grad * rest)
        variance = square
        if group["centered"]:
            mean = state["grad_avg"]
            mean.add_((grad - mean) * rest)
            variance = square - mean * mean
        quotient = grad / (variance.sqrt() + setting(group, "eps"))
        if group["momentum"] > 0:
            quotient = state["momentum_buffer"].mul_(setting(group, "momentum")).add_(quotient)
        param.sub_(quotient * setting(group, "lr"))
