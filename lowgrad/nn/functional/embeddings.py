"""Looking up rows by whole numbers."""

from __future__ import annotations

import lowgrad
from lowgrad.dispatch import is_recording
from lowgrad.errors import ArgumentError, CompileError, IndexOutOfRange, ShapeError
from lowgrad.nn.checks import require_integer, shown
from lowgrad.tensor import Tensor


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """The rows of weight that input names.

    input: [...], integer.  weight: [V, D].  Returns [..., D] of weight's dtype.
    The row `padding_idx` gets no gradient; it may count from the end.
    """
    require_integer("embedding", input=input)
    if weight.ndim != 2:
        raise ShapeError("embedding: weight must be [V, D]", operands=shown(weight=weight))
    rows = lowgrad.embedding(weight, input)
    if padding_idx is None:
        return rows
    padding = checked_padding_idx(padding_idx, weight.shape[0])
    return lowgrad.where((input == padding).unsqueeze(-1), rows.detach(), rows)


def checked_padding_idx(padding_idx: int, size: int) -> int:
    """`padding_idx` from 0 to size - 1; one counted from the end is turned round."""
    if not -size <= padding_idx < size:
        raise IndexOutOfRange(
            f"embedding: padding_idx must be within the {size} rows, not {padding_idx}"
        )
    return padding_idx % size


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """1 where the class is, else 0.

    input: [...], integer.  Returns int64 [..., num_classes]; -1 takes the greatest class plus 1.
    """
    require_integer("one_hot", input=input)
    if num_classes == -1:
        num_classes = _greatest_class(input) + 1
    if num_classes < 1:
        raise ArgumentError(f"one_hot: num_classes must be positive, not {num_classes}")
    _require_classes(input, num_classes)
    classes = lowgrad.arange(num_classes, device=input.device)
    return (input.unsqueeze(-1) == classes).to(lowgrad.int64)


def _greatest_class(input: Tensor) -> int:
    if is_recording():
        raise CompileError(
            "one_hot: the number of classes cannot depend on the values while a step is recorded",
            fix="pass num_classes",
        )
    if not input.numel():
        raise ArgumentError("one_hot: num_classes must be given for an empty input")
    return int(input.max().item())


def _require_classes(input: Tensor, num_classes: int) -> None:
    if is_recording() or not input.numel():
        return
    low, high = int(input.min().item()), int(input.max().item())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise IndexOutOfRange(f"one_hot: class {wrong} is not one of {num_classes}")
