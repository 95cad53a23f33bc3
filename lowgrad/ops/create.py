"""The create family: values from attributes alone. A kernel makes them in place, from the index."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.slicing import Axis, Cut, Slicing, same_dim
from lowgrad.ir.types import DType, Shape, TensorType

Number = bool | int | float


class Create(Op):
    """No inputs, so no gradients. Results are wide: 0.1 in a region is f32's 0.1, not bf16's."""

    family = "create"
    absent: ClassVar[dict[str, str]] = {
        "emit": "without an operand there is no block: the skeleton writes the element"
    }

    def vjp(self, g: Any, out: Any, *inputs: Any, **attrs: Any) -> tuple[()]:
        return ()

    def slicing(self, axis: Axis, **attrs: Any) -> Slicing | None:
        return same_dim(axis)


class Full(Create):
    """Every element is `value`, a Python number that `dtype` can hold; any dtype.

    Raises DTypeError for a fraction or an out-of-range number among integers.
    """

    name = "full"

    def infer(self, *, shape: Shape, dtype: DType, value: Number) -> TensorType:
        check_number(self.name, value, dtype)
        return TensorType(shape, dtype)

    def evaluate(self, *, shape: Shape, dtype: DType, value: Number) -> Array:
        with np.errstate(all="ignore"):
            return np.full(shape, value, dtype.wide)

    def cut(self, to: Cut, *inputs: Tracer, **attrs: Any) -> Tracer:
        return to.builder.full(to.outs[0], attrs["value"])


class Iota(Create):
    """0, 1, 2, ... along `dim`, the same across the other dims; any number dtype."""

    name = "iota"

    def infer(self, *, shape: Shape, dtype: DType, dim: int) -> TensorType:
        if not 0 <= dim < len(shape):
            raise ShapeError(f"iota: no dim {dim} in {TensorType(shape, dtype)}")
        if not (dtype.is_floating_point or dtype.is_integer):
            raise DTypeError(f"iota: makes numbers, not {dtype.name}")
        return TensorType(shape, dtype)

    def evaluate(self, *, shape: Shape, dtype: DType, dim: int) -> Array:
        line = np.arange(shape[dim]).astype(dtype.wide)
        after = (1,) * (len(shape) - dim - 1)
        return np.broadcast_to(line.reshape(-1, *after), shape).copy()

    def cut(self, to: Cut, *inputs: Tracer, **attrs: Any) -> Tracer:
        (type_,) = to.outs
        attrs["shape"] = type_.shape
        line: Tracer = to.builder.apply(self, **attrs)
        if attrs["dim"] != to.dims[0]:
            return line
        first = to.first()
        if type_.dtype is not first.dtype:
            first = first.call("cast", dtype=type_.dtype)
        ones = first.call("reshape", shape=(1,) * type_.ndim)
        return line + ones.call("expand", shape=type_.shape)


class LiteralArray(Create):
    """The elements are `data`, Python numbers in row-major order; any dtype. For small tables."""

    name = "literal"

    def slicing(self, axis: Axis, **attrs: Any) -> None:
        return None  # a table is small: it is made whole

    def infer(self, *, shape: Shape, dtype: DType, data: tuple[Number, ...]) -> TensorType:
        type_ = TensorType(shape, dtype)
        if len(data) != type_.numel:
            raise ShapeError(f"literal: {len(data)} numbers do not fill {type_}")
        for value in data:
            check_number(self.name, value, dtype)
        return type_

    def evaluate(self, *, shape: Shape, dtype: DType, data: tuple[Number, ...]) -> Array:
        with np.errstate(all="ignore"):
            return np.array(data, dtype.wide).reshape(shape)


def check_number(name: str, value: Number, dtype: DType) -> None:
    """Raise DTypeError unless `dtype` holds the number; floats take any, rounded."""
    if not isinstance(value, bool | int | float):
        raise DTypeError(f"{name}: {value!r} is a {type(value).__name__}, not a Python number")
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        if isinstance(value, float) or not limits.min <= value <= limits.max:
            raise DTypeError(f"{name}: {value!r} is no {dtype.name}")


full = register(Full())
iota = register(Iota())
literal = register(LiteralArray())
