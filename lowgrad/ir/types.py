"""What a value is: an element type and a static shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class DType:
    """An element type. One object exists for each, so identity is equality.

    `name` is PyTorch's (`float32`), `short` that of IR text (`f32`), `numpy` the storage type.
    `wide` is the NumPy type that arithmetic on it is done in: float32 for the 16-bit floats.
    """

    name: str
    short: str
    numpy: np.dtype[Any]
    wide: np.dtype[Any]
    is_floating_point: bool
    is_signed: bool

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def is_low_precision(self) -> bool:
        """Whether arithmetic is done in a wider type than storage."""
        return self.numpy != self.wide

    @property
    def is_integer(self) -> bool:
        """Whether this is an integer type; bool is not."""
        return not self.is_floating_point and self.name != "bool"

    def __repr__(self) -> str:
        return f"lowgrad.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (dtype_named, (self.name,))


def _float(name: str, short: str, storage: Any, wide: Any) -> DType:
    return DType(name, short, np.dtype(storage), np.dtype(wide), True, True)


def _int(name: str, short: str, signed: bool = True) -> DType:
    return DType(name, short, np.dtype(name), np.dtype(name), False, signed)


float64 = _float("float64", "f64", np.float64, np.float64)
float32 = _float("float32", "f32", np.float32, np.float32)
float16 = _float("float16", "f16", np.float16, np.float32)
bfloat16 = _float("bfloat16", "bf16", ml_dtypes.bfloat16, np.float32)
int64 = _int("int64", "i64")
int32 = _int("int32", "i32")
int8 = _int("int8", "i8")
uint8 = _int("uint8", "u8", signed=False)
bool_ = DType("bool", "b1", np.dtype(np.bool_), np.dtype(np.bool_), False, False)

DTYPES: tuple[DType, ...] = (
    float64,
    float32,
    float16,
    bfloat16,
    int64,
    int32,
    int8,
    uint8,
    bool_,
)
BY_SHORT: dict[str, DType] = {d.short: d for d in DTYPES}
_BY_NAME: dict[str, DType] = {d.name: d for d in DTYPES}
_BY_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES}


def dtype_named(name: str) -> DType:
    """The dtype with PyTorch's name `name`."""
    return _BY_NAME[name]


def dtype_of(array: np.ndarray[Any, Any]) -> DType | None:
    """The dtype that stores `array` as it is, or None if lowgrad has none."""
    return _BY_NUMPY.get(array.dtype)


@dataclass(frozen=True, slots=True)
class TensorType:
    """The static type of a value: `f32[32,784]`."""

    shape: Shape
    dtype: DType

    @property
    def numel(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, densely stored."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.short}[{','.join(map(str, self.shape))}]"

    def with_shape(self, shape: Shape) -> TensorType:
        """The same dtype, another shape."""
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape, another dtype."""
        return TensorType(self.shape, dtype)
