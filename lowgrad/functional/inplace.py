"""Conversions and the in-place forms of the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowgrad import dispatch
from lowgrad.errors import ShapeError
from lowgrad.functional import indexing, pointwise, shape
from lowgrad.functional.common import cast, expand_to, full_of
from lowgrad.functional.sampling import normal_draw, uniform_draw
from lowgrad.generator import Generator
from lowgrad.ir.types import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
)
from lowgrad.tensor import Tensor, inplace, method

_SAME_NAME = """abs add addcdiv addcmul bitwise_and bitwise_or bitwise_xor bitwise_not ceil clamp
clip cos div divide erf exp expm1 floor floor_divide fmod lerp log log1p log2 log10 logical_and
logical_not logical_or logical_xor masked_fill mul multiply nan_to_num neg negative pow reciprocal
relu remainder round rsqrt sigmoid sign sin sqrt square sub subtract tanh true_divide trunc"""

for _name in _SAME_NAME.split():
    method(f"{_name}_")(inplace(getattr(pointwise, _name), f"{_name}_"))
for _name in ("index_add", "index_copy", "index_fill", "index_put", "scatter", "scatter_add"):
    method(f"{_name}_")(inplace(getattr(indexing, _name), f"{_name}_"))
for _name in ("tril", "triu"):
    method(f"{_name}_")(inplace(getattr(shape, _name), f"{_name}_"))

_OPERATORS = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__ifloordiv__": "floor_divide",
    "__imod__": "remainder",
    "__ipow__": "pow",
    "__iand__": "bitwise_and",
    "__ior__": "bitwise_or",
    "__ixor__": "bitwise_xor",
}
for _operator, _name in _OPERATORS.items():
    method(_operator)(getattr(Tensor, f"{_name}_"))


def _comparing(name: str) -> None:
    function: Callable[..., Tensor] = getattr(pointwise, name)

    def compared(self: Tensor, other: Any) -> Tensor:
        return cast(function(self, other), self.dtype)

    method(f"{name}_")(inplace(compared, f"{name}_"))


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _comparing(_name)


def _filled(self: Tensor, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.ndim:
            raise ShapeError(
                f"fill_: takes a number or a 0-d tensor, got {tuple(value.shape)}", fix="x.copy_(y)"
            )
        return expand_to(cast(value, self.dtype), self._ref.type.shape)
    with dispatch.beside(self._ref):
        return full_of(self._ref.type.shape, self.dtype, value)


def _zeroed(self: Tensor) -> Tensor:
    with dispatch.beside(self._ref):
        return full_of(self._ref.type.shape, self.dtype, 0)


def _copied(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    if not isinstance(src, Tensor):
        return _filled(self, src)
    own, given = self._ref.type.shape, src._ref.type.shape
    if len(given) > len(own):
        raise ShapeError(f"copy_: {given} does not fit {own}")
    if not dispatch.is_recording():
        src = src.to(device=self.device, non_blocking=non_blocking)
    return expand_to(cast(src, self.dtype), own)


def _uniform(
    self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    with dispatch.beside(self._ref):
        return uniform_draw(self._ref.type.shape, self.dtype, generator) * (b - a) + a


def _normal(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    with dispatch.beside(self._ref):
        return normal_draw(self._ref.type.shape, self.dtype, generator) * std + mean


def _bernoulli(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    from lowgrad.functional.sampling import bernoulli

    with dispatch.beside(self._ref):
        shape = self._ref.type.shape
        probability = p if isinstance(p, Tensor) else full_of(shape, float32, p)
    return cast(bernoulli(probability, generator=generator), self.dtype)


method("fill_")(inplace(_filled, "fill_"))
method("zero_")(inplace(_zeroed, "zero_"))
method("copy_")(inplace(_copied, "copy_"))
method("uniform_")(inplace(_uniform, "uniform_"))
method("normal_")(inplace(_normal, "normal_"))
method("bernoulli_")(inplace(_bernoulli, "bernoulli_"))


@method("detach_")
def _detach_(self: Tensor) -> Tensor:
    """Forget this tensor's history in place."""
    self._rebind(pointwise.detach(self)._ref)
    return self


def _get_data(self: Tensor) -> Tensor:
    """The same elements without history; writing to it writes to this tensor."""
    return pointwise.detach(self)


def _set_data(self: Tensor, data: Tensor) -> None:
    with dispatch.grad_mode(False):
        self._rebind(pointwise.detach(data)._ref)


Tensor.data = property(_get_data, _set_data)


# Conversions -----------------------------------------------------------------------------------


@method("type")
def _type(self: Tensor, dtype: DType | None = None) -> Any:
    """This tensor in another dtype, or the name of its own."""
    return repr(self.dtype) if dtype is None else cast(self, dtype)


@method("type_as")
def _type_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor in other's dtype."""
    return cast(self, other.dtype)


def _conversion(name: str, dtype: DType) -> None:
    def convert(self: Tensor) -> Tensor:
        return cast(self, dtype)

    convert.__doc__ = f"This tensor in {dtype.name}."
    method(name)(convert)


_NAMES = {
    "float": float32,
    "double": float64,
    "half": float16,
    "bfloat16": bfloat16,
    "long": int64,
    "int": int32,
    "char": int8,
    "byte": uint8,
    "bool": bool_,
}
for _name, _dtype in _NAMES.items():
    _conversion(_name, _dtype)
