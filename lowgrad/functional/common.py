"""What the functions share: turning operands of any kind into tensors of one shape and dtype."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lowgrad import dispatch
from lowgrad.errors import ArgumentError, DTypeError, IndexOutOfRange, ShapeError
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import DType, Shape, TensorType, bool_
from lowgrad.promotion import get_default_dtype, result_type
from lowgrad.tape import Ref
from lowgrad.tensor import Tensor, run, view, wrap

Number = bool | int | float
Scalar = Number | np.bool_ | np.integer[Any] | np.floating[Any]
Operand = Tensor | Scalar
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
_LARGE = 60000.0  # below it a float fits every floating dtype


def full_of(shape: Shape, dtype: DType, value: Scalar) -> Tensor:
    """A constant tensor."""
    (ref,) = dispatch.apply(
        REGISTRY["full"], (), {"shape": shape, "dtype": dtype, "value": python_number(value, dtype)}
    )
    return wrap(ref)


def operand_of(type_: TensorType, value: Scalar) -> Ref:
    """A number as an operand beside one of `type_`; integers wrap, as arithmetic on them does.

    Eagerly it is one element seen at every index (strides of 0): nothing is filled or kept.
    """
    dtype, shape = type_.dtype, type_.shape
    number = python_number(value, dtype)
    if dtype.is_integer:
        number = _wrapped(int(number), dtype)
    if dispatch.is_recording():
        attrs = {"shape": shape, "dtype": dtype, "value": number}
        return dispatch.apply(REGISTRY["full"], (), attrs)[0]
    if -_LARGE < number < _LARGE:
        one = np.array(number, dtype.numpy)
    else:
        with np.errstate(over="ignore"):
            one = np.array(number, dtype.numpy)
    return Ref(type_, np.ndarray(shape, dtype.numpy, one, 0, (0,) * len(shape)))


def _wrapped(number: int, dtype: DType) -> int:
    bits = 8 * dtype.itemsize
    number &= (1 << bits) - 1
    return number - (1 << bits) if dtype.is_signed and number >> (bits - 1) else number


def python_number(value: Scalar, dtype: DType) -> Number:
    """`value` as the Python number that `dtype` holds it as."""
    if dtype.is_floating_point:
        return float(value)
    return bool(value) if dtype.name == "bool" else int(value)


def cast(x: Tensor, dtype: DType) -> Tensor:
    """`x` in `dtype`; `x` itself if it is already."""
    return x if x._ref.type.dtype is dtype else run("cast", x, dtype=dtype)


def common_dtype(operands: tuple[Operand, ...]) -> DType:
    """The promoted dtype of tensors and Python numbers."""
    tensors: list[DType] = []
    zero_dim: list[DType] = []
    scalars: list[Number] = []
    for x in operands:
        if isinstance(x, Tensor):
            type_ = x._ref.type
            (tensors if type_.shape else zero_dim).append(type_.dtype)
        else:
            scalars.append(x if isinstance(x, (bool, int, float)) else x.item())
    return result_type(tensors, zero_dim, scalars)


@lru_cache(4096)
def broadcast_shape(name: str, *shapes: Shape) -> Shape:
    """The shape that all broadcast to. Raises ShapeError naming the axis."""
    rank = max(len(s) for s in shapes)
    result = [1] * rank
    for shape in shapes:
        for axis in range(-1, -len(shape) - 1, -1):
            size, have = shape[axis], result[axis]
            if size != 1 and have not in (1, size):
                raise ShapeError(
                    f"{name}: cannot broadcast: axis {axis} is {have} on the left, "
                    f"{size} on the right (neither is 1)",
                    operands=_labelled(shapes),
                )
            if size != 1:
                result[axis] = size
    return tuple(result)


def _labelled(shapes: tuple[Shape, ...]) -> list[str]:
    names = ("left ", "right") if len(shapes) == 2 else tuple(map(str, range(len(shapes))))
    return [f"{name}  {tuple(shape)}" for name, shape in zip(names, shapes, strict=True)]


def constant(x: Tensor) -> Tensor:
    """`x`'s value with no history, not a view of it: for shifts that gradients pass by."""
    ref = x._ref
    if not dispatch.is_recording():
        return wrap(Ref(ref.type, ref.array))
    with dispatch.grad_mode(False):
        return run("stop_gradient", x)


def expand_to(x: Tensor, shape: Shape) -> Tensor:
    """`x` broadcast to `shape`."""
    own = x._ref.type.shape
    if own == shape:
        return x
    if len(own) < len(shape):
        x = run("reshape", x, shape=(1,) * (len(shape) - len(own)) + own)
    return x if x._ref.type.shape == shape else run("expand", x, shape=shape)


def check_operand(name: str, x: Any) -> None:
    """Raise unless `x` is a tensor or a number."""
    if not isinstance(x, (Tensor, *NUMBERS)):
        raise TypeError(f"{name}: expected a tensor or a number, got {type(x).__name__}")


def matched(name: str, *operands: Operand, dtype: DType | None = None) -> list[Tensor]:
    """The operands as tensors of one dtype (the promoted one) and one shape."""
    for x in operands:
        check_operand(name, x)
    if dtype is None:
        dtype = common_dtype(operands)
    shapes = [x._ref.type.shape for x in operands if isinstance(x, Tensor)]
    if not shapes:
        raise TypeError(f"{name}: expected at least one tensor")
    shape = broadcast_shape(name, *shapes)
    wide = TensorType(shape, dtype)
    return [
        expand_to(cast(x, dtype), shape) if isinstance(x, Tensor) else wrap(operand_of(wide, x))
        for x in operands
    ]


def alike(input: Any, other: Any) -> tuple[Ref, Ref] | None:
    """The operands of the common case, where nothing is to promote or broadcast, or None.

    That is two tensors of one type, or one and a number that takes its dtype; bools are left out.
    """
    if not isinstance(input, Tensor):
        if not isinstance(other, Tensor):
            return None
        pair = alike(other, input)
        return pair and (pair[1], pair[0])
    ref = input._ref
    type_ = ref.type
    dtype = type_.dtype
    if dtype is bool_:
        return None
    if isinstance(other, Tensor):
        second = other._ref
        return (ref, second) if second.type is type_ or second.type == type_ else None
    kind = other.__class__
    if kind is int or (kind is float and dtype.is_floating_point):
        return ref, operand_of(type_, other)
    return None


def float_dtype(dtype: DType) -> DType:
    """`dtype` if floating, else the default float: what `exp` of integers gives."""
    return dtype if dtype.is_floating_point else get_default_dtype()


def floating(x: Tensor) -> Tensor:
    """`x`, integers converted to the default float dtype."""
    return cast(x, float_dtype(x._ref.type.dtype))


def as_tensor_like(x: Operand, like: Tensor) -> Tensor:
    """A number becomes a 0-d tensor of the dtype it would have beside `like`."""
    if isinstance(x, Tensor):
        return x
    return full_of((), common_dtype((like, x)), x)


def normal_dim(name: str, dim: int, rank: int) -> int:
    """`dim` counted from 0. A 0-d tensor has the dims -1 and 0, as in PyTorch."""
    bound = max(rank, 1)
    if not -bound <= dim < bound:
        raise IndexOutOfRange(
            f"{name}: dim {dim} is out of range for {rank} axes (from {-bound} to {bound - 1})"
        )
    return dim % bound


def normal_dims(name: str, dim: int | tuple[int, ...] | list[int] | None, rank: int) -> Shape:
    """Dims counted from 0, sorted; None and () are all of them. Raises if one is given twice."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(rank))
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    dims = sorted(normal_dim(name, d, rank) for d in given)
    if len(set(dims)) != len(dims):
        raise ArgumentError(f"{name}: a dim appears twice in {given}")
    return tuple(d for d in dims if d < rank)


def squeezed(x: Tensor, dims: Shape) -> Tensor:
    """`x` without its axes `dims`, which have size 1."""
    if not dims:
        return x
    if len(dims) == len(x._ref.type.shape):
        return run("reshape", x, shape=())
    shape = tuple(s for d, s in enumerate(x._ref.type.shape) if d not in dims)
    return run("reshape", x, shape=shape)


def shape_args(name: str, sizes: tuple[Any, ...]) -> Shape:
    """`f(2, 3)` and `f((2, 3))` alike."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    for size in sizes:
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
            raise TypeError(f"{name}: sizes must be ints, got {type(size).__name__}")
    return tuple(int(s) for s in sizes)


def require_float(name: str, x: Tensor) -> None:
    """Raise unless `x` is floating."""
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: needs a floating-point tensor, got {x.dtype!r}", fix="x.float()")


__all__ = ["ArgumentError", "Operand", "Scalar", "Tensor", "run", "view", "wrap"]
