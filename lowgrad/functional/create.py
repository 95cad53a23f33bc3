"""Making tensors: from data, constant, counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lowgrad import dispatch
from lowgrad.errors import ArgumentError, CompileError, DTypeError, ShapeError
from lowgrad.functional.common import full_of, shape_args
from lowgrad.functional.pointwise import where
from lowgrad.ir.op import Array
from lowgrad.ir.types import DType, Shape, bool_, dtype_of, float64, int32, int64
from lowgrad.promotion import dtype_of_scalar, get_default_dtype
from lowgrad.tensor import Tensor, from_array, method, run

__all__ = ["arange", "as_tensor", "asarray", "empty", "empty_like", "eye", "from_numpy", "full"]
__all__ += ["full_like", "is_tensor", "linspace", "logspace", "ones", "ones_like"]
__all__ += ["scalar_tensor", "tensor"]
__all__ += ["zeros", "zeros_like"]

_MOST_LITERAL = 4096  # elements that a recorded step may hold as a literal in its IR


def is_tensor(obj: object) -> bool:
    """Whether `obj` is a tensor."""
    return isinstance(obj, Tensor)


def tensor(
    data: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor with its own copy of `data`: nested lists, numbers, NumPy arrays or a tensor.

    Floats become the default float dtype, integers int64. Raises ShapeError for ragged lists.
    """
    with dispatch.made_on(device, data._ref if isinstance(data, Tensor) else None):
        if isinstance(data, Tensor):
            made = data.to(device=device, dtype=dtype).detach().clone()
        elif dispatch.is_recording():
            made = _recorded_literal(data, dtype)
        else:
            made = from_array(_owned(data, dtype), dispatch.default_place())
    return made.requires_grad_() if requires_grad else made


def _owned(data: Any, dtype: DType | None) -> Array:
    """A fresh, contiguous array of a lowgrad dtype."""
    if _holds_tensors(data):
        if dtype is None and isinstance(data[0], Tensor):
            dtype = data[0].dtype
        data = [x.tolist() if isinstance(x, Tensor) else x for x in data]
    try:
        array = np.array(data, order="C")
    except ValueError:
        raise ShapeError("tensor: the rows differ in length") from None
    if array.dtype.kind in "OUSMm":
        raise DTypeError(f"tensor: cannot make a tensor of {type(data).__name__} objects")
    if dtype is None:
        dtype = _natural_dtype(array, data)
    if not isinstance(data, np.ndarray):
        _check_fits("tensor", array, dtype)
    with np.errstate(all="ignore"):
        return array.astype(dtype.numpy, copy=False)


def _check_fits(name: str, array: Array, dtype: DType) -> None:
    """Raise if an integer does not fit: wrapping is for arithmetic, not for what was written."""
    if array.dtype.kind not in "iu" or not dtype.is_integer or not array.size:
        return
    limits = np.iinfo(dtype.numpy)
    for value in (int(array.min()), int(array.max())):
        if not limits.min <= value <= limits.max:
            raise DTypeError(
                f"{name}: {value} does not fit {dtype!r} ({limits.min} to {limits.max})"
            )


def _holds_tensors(data: Any) -> bool:
    return isinstance(data, (list, tuple)) and any(isinstance(x, Tensor) for x in data)


def _natural_dtype(array: Array, data: Any) -> DType:
    if isinstance(data, (np.ndarray, np.generic)):
        known = dtype_of(np.asarray(data))
        if known is not None:
            return known
        raise DTypeError(
            f"tensor: lowgrad has no dtype for NumPy's {array.dtype}",
            fix="convert first, array.astype(np.int64) or np.float32",
        )
    if array.dtype.kind == "f" or array.size == 0:
        return get_default_dtype()
    return bool_ if array.dtype.kind == "b" else int64


def _recorded_literal(data: Any, dtype: DType | None) -> Tensor:
    if isinstance(data, np.ndarray) and data.ndim > 0:
        raise CompileError(
            "tensor: a NumPy array is read while the step is recorded; "
            "a replay would not see it change",
            fix="make it a tensor outside of the step, or pass it as an argument",
        )
    array = _owned(data, dtype)
    if array.size > _MOST_LITERAL:
        raise CompileError(
            f"tensor: {array.size} numbers are too many for a literal in a recorded step",
            fix="make the tensor outside of the step",
        )
    kind = dtype_of(array)
    assert kind is not None, "_owned gives lowgrad dtypes"
    if array.ndim == 0:
        return full_of((), kind, array.item())
    return run("literal", shape=array.shape, dtype=kind, data=tuple(array.ravel().tolist()))


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`data` itself if it is a tensor of that dtype, else `tensor(data)`."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    return tensor(data, dtype=dtype, device=device)


asarray = as_tensor


def scalar_tensor(value: float, *, dtype: DType | None = None) -> Tensor:
    """A 0-d tensor."""
    return tensor(value, dtype=dtype or get_default_dtype())


def from_numpy(array: Array) -> Tensor:
    """A tensor of the array's values and dtype. They are copied: neither sees the other change."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return tensor(array)


def full(
    size: Any,
    fill_value: bool | int | float,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor with every element `fill_value`."""
    sizes = shape_args("full", (size,) if isinstance(size, int) else (tuple(size),))
    with dispatch.made_on(device):
        made = _filled(sizes, fill_value, dtype or dtype_of_scalar(fill_value))
    return made.requires_grad_() if requires_grad else made


def _filled(shape: Shape, value: bool | int | float, dtype: DType) -> Tensor:
    if any(s < 0 for s in shape):
        raise ShapeError(f"sizes must not be negative, got {shape}")
    _check_fits("full", np.asarray(value), dtype)
    if dispatch.is_recording() or dispatch.default_place() is not None:
        return full_of(shape, dtype, value)
    return from_array(np.full(shape, value, dtype=dtype.numpy))


def _maker(name: str, value: int) -> Any:
    def make(
        *sizes: Any,
        size: Any = None,
        dtype: DType | None = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Tensor:
        shape = shape_args(name, sizes if size is None else (size,))
        with dispatch.made_on(device):
            made = _filled(shape, value, dtype or get_default_dtype())
        return made.requires_grad_() if requires_grad else made

    make.__name__ = name
    make.__doc__ = f"A tensor of the given sizes, every element {value}."
    return make


zeros = _maker("zeros", 0)
ones = _maker("ones", 1)
# Uninitialised memory would make results depend on what ran before: same seed, same bits.
empty = _maker("empty", 0)


def full_like(
    input: Tensor,
    fill_value: bool | int | float,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`full` with input's shape and, if not given, dtype and device."""
    with dispatch.made_on(device, input._ref):
        made = _filled(input._ref.type.shape, fill_value, dtype or input.dtype)
    return made.requires_grad_() if requires_grad else made


def zeros_like(input: Tensor, **options: Any) -> Tensor:
    """Zeros with input's shape and dtype."""
    return full_like(input, 0, **options)


def ones_like(input: Tensor, **options: Any) -> Tensor:
    """Ones with input's shape and dtype."""
    return full_like(input, 1, **options)


def empty_like(input: Tensor, **options: Any) -> Tensor:
    """Zeros with input's shape and dtype: there is no uninitialised memory."""
    return full_like(input, 0, **options)


@method("new_zeros")
def _new_zeros(self: Tensor, *size: Any, dtype: DType | None = None, **options: Any) -> Tensor:
    """Zeros with self's dtype and device."""
    options.setdefault("device", self.device)
    return zeros(*size, dtype=dtype or self.dtype, **options)


@method("new_empty")
def _new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
    """Zeros with self's dtype: there is no uninitialised memory."""
    return _new_zeros(self, *size, **options)


@method("new_ones")
def _new_ones(self: Tensor, *size: Any, dtype: DType | None = None, **options: Any) -> Tensor:
    """Ones with self's dtype and device."""
    options.setdefault("device", self.device)
    return ones(*size, dtype=dtype or self.dtype, **options)


@method("new_full")
def _new_full(
    self: Tensor, size: Any, fill_value: float, *, dtype: DType | None = None, **options: Any
) -> Tensor:
    """`full` with self's dtype and device."""
    options.setdefault("device", self.device)
    return full(size, fill_value, dtype=dtype or self.dtype, **options)


@method("new_tensor")
def _new_tensor(self: Tensor, data: Any, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """`tensor(data)` with self's dtype and device."""
    options.setdefault("device", self.device)
    return tensor(data, dtype=dtype or self.dtype, **options)


def arange(
    start: float = 0,
    end: float | None = None,
    step: float = 1,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below end; from 0 if only one bound is given."""
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) / step < 0:
        raise ArgumentError(f"arange: {start} to {end} in steps of {step} does not arrive")
    count = math.ceil((end - start) / step)
    if dtype is None:
        whole = all(isinstance(x, int) for x in (start, end, step))
        dtype = int64 if whole else get_default_dtype()
    with dispatch.made_on(device):
        made = _counted(count, start, step, dtype)
    return made.requires_grad_() if requires_grad else made


def _counted(count: int, start: float, step: float, dtype: DType) -> Tensor:
    if not dispatch.is_recording():
        wide = np.float64 if dtype.is_floating_point else np.int64
        array: Array = np.arange(count, dtype=wide)
        array = array * step + start
        return from_array(array.astype(dtype.numpy), dispatch.default_place())
    # Counted in float64 (or int64) and rounded once, so that every element is the nearest one.
    wide_dtype = float64 if dtype.is_floating_point else int64
    counted = run("iota", shape=(count,), dtype=wide_dtype, dim=0)
    return (counted * step + start).to(dtype)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers from start to end, both included, evenly spaced."""
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    with dispatch.made_on(device):
        made = _counted(steps, start, step, dtype or get_default_dtype())
    return made.requires_grad_() if requires_grad else made


def logspace(
    start: float, end: float, steps: int, base: float = 10.0, *, dtype: DType | None = None
) -> Tensor:
    """`base` to the powers of `steps` numbers from start to end, evenly spaced."""
    powers = linspace(start, end, steps, dtype=float64)
    return (base**powers).to(dtype or get_default_dtype())


def eye(n: int, m: int | None = None, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """The identity matrix, [n, m]."""
    shape = (n, n if m is None else m)
    if not dispatch.is_recording():
        with dispatch.made_on(options.get("device")):
            array = np.eye(*shape, dtype=(dtype or get_default_dtype()).numpy)
            made = from_array(array, dispatch.default_place())
        return made.requires_grad_() if options.get("requires_grad") else made
    on_diagonal = run("iota", shape=shape, dtype=int32, dim=0) == run(
        "iota", shape=shape, dtype=int32, dim=1
    )
    kind = dtype or get_default_dtype()
    return where(on_diagonal, full_of(shape, kind, 1), full_of(shape, kind, 0))


@method("one_hot")
def _one_hot(self: Tensor, num_classes: int) -> Tensor:
    """[..., num_classes], int64: 1 at each class number, else 0."""
    shape = (*self._ref.type.shape, num_classes)
    with dispatch.beside(self._ref):
        counted = run("iota", shape=shape, dtype=int64, dim=len(shape) - 1)
    return (counted == self.unsqueeze(-1)).to(int64)
