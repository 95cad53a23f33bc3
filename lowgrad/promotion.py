"""PyTorch's type promotion: which dtype an operation on several operands is done in."""

from __future__ import annotations

from collections.abc import Iterable

from lowgrad.ir.types import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    int8,
    int32,
    int64,
    uint8,
)

# Category order: any float beats any integer beats bool, whatever the widths.
_CATEGORY = {bool_: 0, uint8: 1, int8: 1, int32: 1, int64: 1}
_WIDTH = {bool_: 0, uint8: 1, int8: 1, int32: 2, int64: 3, float16: 1, bfloat16: 1, float32: 2}

_default = {"float": float32}


def get_default_dtype() -> DType:
    """The dtype of tensors made from Python floats."""
    return _default["float"]


def set_default_dtype(dtype: DType) -> None:
    """Make `dtype` the dtype of tensors made from Python floats."""
    if not dtype.is_floating_point:
        raise TypeError(f"the default dtype must be a floating type, not {dtype!r}")
    _default["float"] = dtype


def dtype_of_scalar(value: bool | int | float) -> DType:
    """The dtype that a Python number has by itself."""
    if isinstance(value, bool):
        return bool_
    return int64 if isinstance(value, int) else get_default_dtype()


def category(dtype: DType) -> int:
    """0 for bool, 1 for integers, 2 for floats."""
    return _CATEGORY.get(dtype, 2)


def promote_types(a: DType, b: DType) -> DType:
    """The smallest dtype that holds both, by PyTorch's lattice."""
    if a is b:
        return a
    if category(a) != category(b):
        return a if category(a) > category(b) else b
    if {a, b} == {uint8, int8}:
        return int32  # PyTorch's int16, which lowgrad lacks; int32 holds the same values
    if {a, b} == {float16, bfloat16}:
        return float32
    return a if _WIDTH.get(a, 3) > _WIDTH.get(b, 3) else b


def result_type(
    tensors: Iterable[DType], zero_dim: Iterable[DType], scalars: Iterable[bool | int | float]
) -> DType:
    """The dtype of an operation: tensors with axes decide, then 0-d tensors, then Python numbers.

    An operand of a weaker kind counts only if its category is higher than what is there already.
    """
    result: DType | None = None
    for group in (list(tensors), list(zero_dim), [dtype_of_scalar(s) for s in scalars]):
        joined = _join(group)
        if joined is None:
            continue
        if result is None or category(joined) > category(result):
            result = joined
    assert result is not None, "an operation has at least one operand"
    return result


def _join(dtypes: list[DType]) -> DType | None:
    joined: DType | None = None
    for dtype in dtypes:
        joined = dtype if joined is None else promote_types(joined, dtype)
    return joined


def can_cast(from_: DType, to: DType) -> bool:
    """Whether an in-place result may be stored: never from a higher category to a lower one."""
    return category(from_) <= category(to)
