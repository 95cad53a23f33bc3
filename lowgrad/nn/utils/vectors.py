"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

import lowgrad
from lowgrad.errors import ShapeError
from lowgrad.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of all parameters in order, [N]."""
    return lowgrad.cat([p.reshape(-1) for p in parameters], dim=0)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the elements of `vec`, [N], into the parameters in order.

    Raises ShapeError, and writes nothing, if there are not as many.
    """
    targets = list(parameters)
    total = sum(p.numel() for p in targets)
    if tuple(vec.shape) != (total,):
        raise ShapeError(
            f"vector_to_parameters: the parameters hold {total} elements, vec is {tuple(vec.shape)}"
        )
    start = 0
    with lowgrad.no_grad():
        for parameter in targets:
            size = parameter.numel()
            parameter.copy_(vec.detach().narrow(0, start, size).reshape(*parameter.shape))
            start += size
