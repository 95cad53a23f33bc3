"""Binary cross entropy, on probabilities and on logits."""

from __future__ import annotations

import lowgrad
from lowgrad.dispatch import is_recording
from lowgrad.errors import ArgumentError
from lowgrad.nn.checks import require_floating, require_same_shape
from lowgrad.nn.functional.activations import logsigmoid
from lowgrad.nn.functional.losses import reduced
from lowgrad.tensor import Tensor

LEAST_LOG = -100.0  # PyTorch's floor, so that a wrong certainty costs 100 and not infinity
# PyTorch's floor for x (1 - x) in the derivative: float32's 1e-12, whatever the dtype.
LEAST_VARIANCE = 9.999999960041972e-13


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-(y log(x) + (1 - y) log(1 - x)), logarithms not below -100.

    input, target: the same shape, floating; input holds probabilities.  weight broadcasts.
    """
    require_floating("binary_cross_entropy", input=input, target=target)
    require_same_shape("binary_cross_entropy", input=input, target=target)
    x = input.detach()
    _require_probabilities(x)
    log_x = _floored(lowgrad.log(x))
    log_not_x = _floored(lowgrad.log1p(-x))
    value = -(target * log_x + (1.0 - target) * log_not_x)
    # The floor would cut the gradient, just where the loss is greatest: attach the true slope.
    variance = x * (1.0 - x)
    slope = (x - target.detach()) / lowgrad.where(
        variance < LEAST_VARIANCE, LEAST_VARIANCE, variance
    )
    loss = value + slope * (input - x)
    return reduced("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """binary_cross_entropy(sigmoid(input), target), without its overflows.

    input, target: the same shape, floating.  weight and pos_weight (of the positive class)
    broadcast.
    """
    op = "binary_cross_entropy_with_logits"
    require_floating(op, input=input, target=target)
    require_same_shape(op, input=input, target=target)
    log_p = logsigmoid(input)
    if pos_weight is not None:
        log_p = log_p * ((pos_weight - 1.0) * target + 1.0)
    loss = (1.0 - target) * input - log_p
    return reduced(op, loss if weight is None else loss * weight, reduction)


def _floored(log: Tensor) -> Tensor:
    return lowgrad.where(log < LEAST_LOG, LEAST_LOG, log)


def _require_probabilities(x: Tensor) -> None:
    if is_recording() or not x.numel():
        return
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise ArgumentError(
            "binary_cross_entropy: input must hold probabilities from 0 to 1, "
            f"not {low if low < 0 else high:g}",
            fix="F.binary_cross_entropy_with_logits(input, target)",
        )
