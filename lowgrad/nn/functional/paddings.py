"""Adding a border."""

from __future__ import annotations

from collections.abc import Sequence

import lowgrad
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.nn.checks import shown
from lowgrad.tensor import Tensor


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """The input with a border of `value` (0 if None).

    pad: (before, after) of the last dim, then of the one before it, and so on; negative cuts away.
    """
    if mode != "constant":
        raise ArgumentError(f"pad: mode must be 'constant', not {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ArgumentError(
            f"pad: two numbers a dim are needed for at most {input.ndim} dims, not {len(pad)}",
            operands=shown(input=input),
        )
    result = input
    for i in range(0, len(pad), 2):
        result = _pad_dim(result, input.ndim - 1 - i // 2, pad[i], pad[i + 1], value or 0.0)
    return result


def _pad_dim(x: Tensor, dim: int, before: int, after: int, value: float) -> Tensor:
    size = x.shape[dim]
    if size + before + after < 0:
        raise ShapeError(
            f"pad: ({before}, {after}) cuts more than the {size} elements of dim {dim}",
            operands=shown(input=x),
        )
    start, stop = max(-before, 0), size - max(-after, 0)
    if (start, stop) != (0, size):
        x = x.narrow(dim, start, stop - start)
    parts = [_border(x, dim, before, value), x, _border(x, dim, after, value)]
    present = [part for part in parts if part is not None]
    return x if len(present) == 1 else lowgrad.cat(present, dim=dim)


def _border(x: Tensor, dim: int, width: int, value: float) -> Tensor | None:
    if width <= 0:
        return None
    shape = (*x.shape[:dim], width, *x.shape[dim + 1 :])
    return lowgrad.full(shape, value, dtype=x.dtype, device=x.device)
