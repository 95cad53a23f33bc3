"""Losses over classes: cross entropy and its parts."""

from __future__ import annotations

import lowgrad
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.nn.checks import require_floating, require_integer, shown
from lowgrad.nn.functional.losses import reduced
from lowgrad.nn.functional.normalizations import wide
from lowgrad.nn.functional.softmaxes import log_softmax
from lowgrad.tensor import Tensor


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target], averaged over what is not ignored.

    input: [C], [N, C] or [N, C, d1, ...], logits.  target: the same without C, integer; or of
    input's shape, floating: the probability of each class.  weight: [C].
    With reduction "none" the result has target's shape without C, else it is 0-d, of input's dtype.
    "mean" divides by the summed weights of the targets that are not ignore_index, so it is NaN if
    all are ignored; with probabilities it divides by the number of rows.
    label_smoothing: this share of the target is spread evenly over the classes.
    Source: Szegedy et al. 2015, "Rethinking the Inception Architecture", sec. 7 (smoothing).
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(
            f"cross_entropy: label_smoothing must be from 0 to 1, not {label_smoothing}"
        )
    dim = _class_dim("cross_entropy", input, weight)
    log_p = log_softmax(wide(input), dim)
    if target.dtype.is_floating_point:
        loss = _soft_cross_entropy(log_p, target, dim, weight, reduction, label_smoothing)
    else:
        _check_target("cross_entropy", input, target, dim)
        loss = _nll(log_p, target, dim, weight, ignore_index, reduction, label_smoothing)
    return loss.to(input.dtype)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input[target]: cross entropy on logarithms of probabilities. Shapes as in cross_entropy."""
    dim = _class_dim("nll_loss", input, weight)
    _check_target("nll_loss", input, target, dim)
    loss = _nll(wide(input), target, dim, weight, ignore_index, reduction, 0.0)
    return loss.to(input.dtype)


def _nll(
    log_p: Tensor,
    target: Tensor,
    dim: int,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    counts = target != ignore_index
    # An ignored target may be no class at all, so class 0 stands in for the lookup.
    index = lowgrad.where(counts, target, 0)
    loss = -log_p.gather(dim, index.unsqueeze(dim)).squeeze(dim)
    share = None
    if weight is not None:
        share = weight.to(log_p.dtype).index_select(0, index.reshape(-1)).reshape(*index.shape)
        loss = loss * share
    if label_smoothing:
        even = -_over_classes(log_p, weight, dim).sum(dim=dim)
        loss = loss * (1.0 - label_smoothing) + even * (label_smoothing / log_p.shape[dim])
    loss = lowgrad.where(counts, loss, 0.0)
    if reduction != "mean":
        return reduced("cross_entropy", loss, reduction)
    if share is None:
        return loss.sum() / counts.to(log_p.dtype).sum()
    return loss.sum() / lowgrad.where(counts, share, 0.0).sum()


def _soft_cross_entropy(
    log_p: Tensor,
    target: Tensor,
    dim: int,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    if tuple(target.shape) != tuple(log_p.shape):
        raise ShapeError(
            "cross_entropy: a target of probabilities must have the shape of input",
            operands=shown(input=log_p, target=target),
        )
    classes = log_p.shape[dim]
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + label_smoothing / classes
    loss = -(_over_classes(log_p, weight, dim) * target).sum(dim=dim)
    if reduction == "mean":
        return loss.sum() / (log_p.numel() // classes)
    return reduced("cross_entropy", loss, reduction)


def _over_classes(log_p: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """log_p times the weight of each class."""
    if weight is None:
        return log_p
    shape = [1] * log_p.ndim
    shape[dim] = -1
    return log_p * weight.reshape(*shape)


def _class_dim(op: str, input: Tensor, weight: Tensor | None) -> int:
    require_floating(op, input=input)
    if not input.ndim:
        raise ShapeError(f"{op}: input needs an axis of classes", operands=shown(input=input))
    dim = 0 if input.ndim == 1 else 1
    if weight is not None and tuple(weight.shape) != (input.shape[dim],):
        raise ShapeError(
            f"{op}: weight must have one number for each of the {input.shape[dim]} classes",
            operands=shown(input=input, weight=weight),
        )
    return dim


def _check_target(op: str, input: Tensor, target: Tensor, dim: int) -> None:
    require_integer(op, target=target)
    expected = (*input.shape[:dim], *input.shape[dim + 1 :])
    if tuple(target.shape) != expected:
        raise ShapeError(
            f"{op}: target must have shape {expected}, input's without the classes",
            operands=shown(input=input, target=target),
        )
