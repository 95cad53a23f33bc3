"""Losses between numbers: regression, and how two distributions differ.

input and target broadcast; with reduction "none" the result has their shape, else it is 0-d.
"""

from __future__ import annotations

import warnings

import lowgrad
from lowgrad.errors import ArgumentError
from lowgrad.tensor import Tensor

NAMES = ("none", "mean", "sum")  # of the reductions


def mse_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """(input - target)²; with a weight, the mean is the weighted one."""
    difference = _difference("mse_loss", input, target)
    return _weighted("mse_loss", difference * difference, weight, reduction)


def l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """|input - target|; with a weight, the mean is the weighted one."""
    difference = _difference("l1_loss", input, target)
    return _weighted("l1_loss", lowgrad.abs(difference), weight, reduction)


def smooth_l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """d² / (2 beta) where |d| < beta, else |d| - beta / 2, d = input - target.

    Source: Girshick 2015, "Fast R-CNN", eq. 3 (beta added).
    """
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss: beta must not be negative, not {beta}")
    difference = _difference("smooth_l1_loss", input, target)
    size = lowgrad.abs(difference)
    if beta == 0:
        return reduced("smooth_l1_loss", size, reduction)
    near = difference * difference * (0.5 / beta)
    loss = lowgrad.where(size < beta, near, size - 0.5 * beta)
    return reduced("smooth_l1_loss", loss, reduction)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """d² / 2 where |d| < delta, else delta * (|d| - delta / 2), d = input - target.

    weight multiplies the elements; the mean divides by their number all the same, as PyTorch's.

    Source: Huber 1964, "Robust Estimation of a Location Parameter".
    """
    if delta <= 0:
        raise ArgumentError(f"huber_loss: delta must be positive, not {delta}")
    difference = _difference("huber_loss", input, target)
    size = lowgrad.abs(difference)
    near = difference * difference * 0.5
    loss = lowgrad.where(size < delta, near, (size - 0.5 * delta) * delta)
    return reduced("huber_loss", loss if weight is None else loss * weight, reduction)


def kl_div(
    input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target * (log(target) - input): input holds logarithms, target too if log_target.

    reduction "batchmean" divides the sum by the size of axis 0, which is the divergence itself;
    "mean" divides by the number of elements.
    """
    if log_target:
        loss = lowgrad.exp(target) * (target - input)
    else:
        safe = lowgrad.where(target == 0, 1.0, target)  # 0 log 0 = 0
        loss = target * lowgrad.log(safe) - target * input
    if reduction != "batchmean":
        return reduced("kl_div", loss, reduction)
    return loss.sum() / input.shape[0] if input.ndim else loss.sum()


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """input where target is 1, max(0, margin - input) where it is -1."""
    gap = margin - input
    hinge = lowgrad.where(gap <= 0, 0.0, gap)
    loss = lowgrad.where(target != -1, input, 0.0) + lowgrad.where(target != 1, hinge, 0.0)
    return reduced("hinge_embedding_loss", loss, reduction)


def reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    """The elements, their mean or their sum."""
    require_reduction(op, reduction)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def require_reduction(op: str, reduction: str) -> None:
    """Raise ArgumentError unless `reduction` is one that `op` has."""
    known = ("none", "mean", "sum", "batchmean") if op in ("kl_div", "KLDivLoss") else NAMES
    if reduction not in known:
        raise ArgumentError(f"{op}: reduction must be one of {', '.join(known)}, not {reduction!r}")


def _weighted(op: str, loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return reduced(op, loss, reduction)
    if reduction == "mean":
        weight = weight.expand(*loss.shape)
        return (loss * weight).sum() / weight.sum()
    return reduced(op, loss * weight, reduction)


def _difference(op: str, input: Tensor, target: Tensor) -> Tensor:
    if tuple(input.shape) != tuple(target.shape):
        warnings.warn(
            f"{op}: target {tuple(target.shape)} is broadcast against input {tuple(input.shape)}; "
            "most often they were meant to have the same shape",
            UserWarning,
            stacklevel=3,
        )
    return input - target
