"""Limiting gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import lowgrad
from lowgrad.dispatch import is_recording
from lowgrad.errors import ArgumentError
from lowgrad.tensor import Tensor


def get_total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all elements together, 0-d; 0 if there are none."""
    present = list(tensors)
    if not present:
        return lowgrad.zeros(())
    if norm_type == math.inf:
        return lowgrad.stack([t.abs().max() for t in present]).max()
    if norm_type == 2.0:
        return lowgrad.sqrt(lowgrad.stack([(t * t).sum() for t in present]).sum())
    powers = [(t.abs() ** norm_type).sum() for t in present]
    return lowgrad.stack(powers).sum() ** (1.0 / norm_type)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients so that their joint norm is at most max_norm; return the norm before.

    error_if_nonfinite looks at the norm's value, so it needs an eager step.  foreach is ignored.
    """
    with_grad = _with_grad(parameters)
    with lowgrad.no_grad():
        total = get_total_norm([_grad(p) for p in with_grad], norm_type)
        if error_if_nonfinite and not is_recording() and not math.isfinite(total.item()):
            raise ArgumentError(
                f"clip_grad_norm_: the gradients' norm of order {norm_type} is {total.item()}",
                fix="error_if_nonfinite=False scales them all the same",
            )
        factor = max_norm / (total + 1e-6)
        factor = lowgrad.where(factor > 1.0, 1.0, factor)
        for parameter in with_grad:
            _grad(parameter).mul_(factor)
    return total


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Cut each element of the gradients to [-clip_value, clip_value]. foreach is ignored."""
    with lowgrad.no_grad():
        for parameter in _with_grad(parameters):
            grad = _grad(parameter)
            grad.copy_(grad.clamp(min=-clip_value, max=clip_value))


def _with_grad(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p for p in given if p.grad is not None]


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "_with_grad keeps only those that have one"
    return parameter.grad
