"""softmax and its logarithm."""

from __future__ import annotations

import lowgrad
from lowgrad.ir.types import DType
from lowgrad.tensor import Tensor


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`. Input's shape; its dtype, or `dtype` if given."""
    return lowgrad.softmax(input, dim, dtype=dtype)


def softmin(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """softmax(-x) along `dim`."""
    return lowgrad.softmax(-input, dim, dtype=dtype)


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """x - log(sum(exp(x))) along `dim`. Input's shape; its dtype, or `dtype` if given."""
    return lowgrad.log_softmax(input, dim, dtype=dtype)
