"""Facts about tensors and dtypes, and comparisons of whole tensors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lowgrad.functional import pointwise
from lowgrad.functional.common import Operand, common_dtype
from lowgrad.ir.types import DType
from lowgrad.promotion import can_cast, get_default_dtype
from lowgrad.tensor import Tensor, method

__all__ = ["allclose", "can_cast", "equal", "finfo", "iinfo", "is_floating_point", "numel"]
__all__ += ["result_type"]


def numel(input: Tensor) -> int:
    """How many elements."""
    return input.numel()


def is_floating_point(input: Tensor) -> bool:
    """Whether the elements are floats."""
    return input.is_floating_point()


def result_type(tensor1: Operand, tensor2: Operand) -> DType:
    """The dtype of an operation on the two."""
    return common_dtype((tensor1, tensor2))


class finfo:  # noqa: N801  (PyTorch's name)
    """The limits of a floating dtype: max, min, eps, tiny, bits."""

    def __init__(self, dtype: DType | None = None) -> None:
        storage = (dtype or get_default_dtype()).numpy
        info: Any = ml_dtypes.finfo(storage)  # type: ignore[no-untyped-call]
        self.max, self.min = float(info.max), float(info.min)
        self.eps, self.tiny = float(info.eps), float(info.tiny)
        self.smallest_normal, self.bits = self.tiny, int(info.bits)


class iinfo:  # noqa: N801  (PyTorch's name)
    """The limits of an integer dtype: max, min, bits."""

    def __init__(self, dtype: DType) -> None:
        info = np.iinfo(dtype.numpy)
        self.max, self.min, self.bits = int(info.max), int(info.min), int(info.bits)


@method("allclose")
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether |input - other| <= atol + rtol * |other| everywhere."""
    return bool(pointwise.isclose(input, other, rtol, atol, equal_nan).all())


@method("equal")
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and elements."""
    return input.shape == other.shape and bool((input == other).all())
