"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import lowgrad
from lowgrad.optim.optimizer import (
    Group,
    Optimizer,
    Params,
    decayed,
    of_group,
    of_step,
    require,
    require_betas,
    setting,
)
from lowgrad.tensor import Tensor


class Adam(Optimizer):
    """p -= lr * m / (sqrt(v) + eps), m and v running means of grad and grad², bias-corrected.

    weight_decay is added to the gradient. amsgrad divides by the greatest v so far.
    Source: Kingma & Ba 2014, "Adam", alg. 1; Reddi et al. 2018 (amsgrad).
    """

    is_decoupled = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        name = type(self).__name__
        require(name, lr=lr, eps=eps, weight_decay=weight_decay)
        require_betas(name, betas)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        names = ("step", "exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def _update(self, param: Tensor, grad: Tensor, group: Group, state: dict[str, Any]) -> None:
        if not self.is_decoupled:
            grad = decayed(param, grad, group)
        elif group["weight_decay"] != 0:
            shrunk = of_group(group, "shrink", lambda: 1.0 - group["lr"] * group["weight_decay"])
            param.mul_(shrunk)

        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.add_((grad - mean) * of_group(group, "1 - beta1", lambda: 1.0 - group["betas"][0]))
        square.mul_(of_group(group, "beta2", lambda: float(group["betas"][1])))
        square.add_(grad * grad * of_group(group, "1 - beta2", lambda: 1.0 - group["betas"][1]))
        if group["amsgrad"]:
            greatest = state["max_exp_avg_sq"]
            greatest.copy_(lowgrad.maximum(greatest, square))
            square = greatest

        def step_size() -> float:
            return float(group["lr"] / _correction(state, group, 0))

        def root_correction() -> float:
            return float(_correction(state, group, 1) ** 0.5)

        root = of_step(group, state, "root_correction", root_correction)
        spread = square.sqrt() / root + setting(group, "eps")
        param.sub_(mean / spread * of_step(group, state, "step_size", step_size))


def _correction(state: dict[str, Any], group: Group, which: int) -> float:
    """1 - beta^t at the step t that is being made: how far a mean has left its start at 0."""
    beta: float = group["betas"][which]
    return 1.0 - beta ** (state["step"] + 1)


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself, by lr * weight_decay.

    Source: Loshchilov & Hutter 2017, "Decoupled Weight Decay Regularization", alg. 2.
    """

    is_decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
