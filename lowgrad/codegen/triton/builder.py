"""Triton's own interpreter, made strict. Imports triton, so it is itself imported when needed.

The stock one computes bf16 as integers, rounds fp8 wrongly, reads and writes raw addresses,
gives 0 for what a GPU leaves undefined, and leaves `triton.language` patched. These are private
classes of Triton, tested with 3.6.0 and 3.9.0.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import triton.language as tl
import triton.language.core as core
from triton._C.libtriton import interpreter as native
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as ti
from triton.runtime.jit import JITFunction

from lowgrad.codegen.triton.memory import AccessError, Memory

Array = npt.NDArray[Any]

# What the stock interpreter keeps as bits, and computes with as if they were integers.
LOW_PRECISION = {
    tl.bfloat16: np.dtype(ml_dtypes.bfloat16),
    tl.float8e5: np.dtype(ml_dtypes.float8_e5m2),
    tl.float8e4nv: np.dtype(ml_dtypes.float8_e4m3fn),
    tl.float8e5b16: np.dtype(ml_dtypes.float8_e5m2fnuz),
    tl.float8e4b8: np.dtype(ml_dtypes.float8_e4m3fnuz),
}

SCALAR_TYPES = {
    "bool": tl.int1,
    "int8": tl.int8,
    "int16": tl.int16,
    "int32": tl.int32,
    "int64": tl.int64,
    "uint8": tl.uint8,
    "uint16": tl.uint16,
    "uint32": tl.uint32,
    "uint64": tl.uint64,
    "float16": tl.float16,
    "float32": tl.float32,
    "float64": tl.float64,
    **{str(numpy_dtype): dtype for dtype, numpy_dtype in LOW_PRECISION.items()},
}

_stock_np_dtype = ti._get_np_dtype
_stock_patch_tensor = ti._patch_lang_tensor
_stock_check_overflow = TritonSemantic.binary_op_sanitize_overflow_impl


def np_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy type that a Triton scalar, block or pointer type is computed in."""
    scalar = dtype.scalar
    if isinstance(scalar, tl.pointer_type):
        return np.dtype(np.uint64)
    return LOW_PRECISION.get(scalar) or _stock_np_dtype(scalar)


class Builder(ti.InterpreterBuilder):  # type: ignore[misc]
    """Computes each Triton operation in NumPy, with memory accesses going through `Memory`."""

    # Class attributes, since Triton's one builder object is turned into a Builder, not made as one.
    memory: Memory
    poison: float
    checked: bool

    # --- Memory ---

    # Triton 3.6 and 3.9 differ in the number of the trailing cache hints.
    def create_masked_load(self, ptrs: Any, mask: Any, other: Any, *hints: Any, **_: Any) -> Any:
        element = ptrs.get_element_ty()
        fill = self._fill(ptrs.data.shape, np_dtype(element), other)
        return ti.TensorHandle(self.memory.load(ptrs.data, _mask(ptrs, mask), fill), element)

    def _fill(self, shape: tuple[int, ...], dtype: np.dtype[Any], other: Any) -> Array:
        if other is not None:
            return np.broadcast_to(other.data, shape).astype(dtype)
        if not self.checked:
            return np.zeros(shape, dtype)
        return np.full(shape, _poison_of(dtype, self.poison))

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, *hints: Any, **_: Any) -> None:
        dtype = np_dtype(ptrs.get_element_ty())
        values = np.broadcast_to(value.data, ptrs.data.shape).astype(dtype, copy=False)
        self.memory.store(ptrs.data, _mask(ptrs, mask), values)

    def create_atomic_rmw(
        self, rmwOp: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any
    ) -> Any:
        real = self._real_pointers(ptr, _mask(ptr, mask))
        return super().create_atomic_rmw(rmwOp, real, val, mask, sem, scope)

    def create_atomic_cas(self, ptr: Any, cmp: Any, val: Any, sem: Any, scope: Any) -> Any:
        real = self._real_pointers(ptr, np.ones(ptr.data.shape, bool))
        return super().create_atomic_cas(real, cmp, val, sem, scope)

    def _real_pointers(self, ptr: Any, mask: Array) -> Any:
        element = ptr.get_element_ty()
        if element in LOW_PRECISION:
            raise AccessError(f"atomics on {element} are not supported by the interpreter")
        real = self.memory.addresses(ptr.data, mask, np_dtype(element).itemsize)
        return ti.TensorHandle(real, ptr.dtype)

    # --- Arithmetic ---

    def get_bf16(self, value: float) -> Any:  # Triton 3.6 has none
        return ti.TensorHandle(np.array([value], LOW_PRECISION[tl.bfloat16]), tl.bfloat16)

    def _cast(self, src: Any, dst_type: Any, *_: Any) -> Any:
        return ti.TensorHandle(src.data.astype(np_dtype(dst_type)), dst_type.scalar)

    cast_impl = create_fp_to_fp = create_fp_ext = create_fp_trunc = create_int_cast = _cast
    create_si_to_fp = create_ui_to_fp = create_fp_to_si = create_fp_to_ui = _cast

    def create_fabs(self, arg: Any) -> Any:
        return self.unary_op(arg, np.abs)

    # IEEE 754-2019 maximumNumber and minimumNumber, as GPUs do; Triton 3.6 propagates the NaN.
    def create_maxnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmax)

    def create_minnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmin)

    def create_fma(self, x: Any, y: Any, z: Any) -> Any:
        if hasattr(native, "fma_fp32") and z.data.dtype.kind == "f":
            return super().create_fma(x, y, z)
        # 3.6 rounds the product. In float64 the product of two float32 is exact, so only the rare
        # double rounding of the sum is left.
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return ti.TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    def create_dot(self, a: Any, b: Any, d: Any, *_: Any) -> Any:
        # In the accumulator's type, as tensor cores do: products of f16 and bf16 are exact in f32.
        dtype = d.data.dtype
        product = np.matmul(a.data.astype(dtype), b.data.astype(dtype))
        return ti.TensorHandle(product + d.data, d.dtype.scalar)

    # --- Checks ---

    def create_assert(self, condition: Any, message: str) -> None:
        held = np.asarray(condition.data)
        if not held.all():
            raise AccessError(f"{message} ({np.count_nonzero(~held)} of {held.size} lanes)")


def _poison_of(dtype: np.dtype[Any], poison: float) -> Array:
    """[] `poison`, or in the integers, which it may not fit into, a number that stands for it."""
    if dtype.kind not in "biu":
        return np.asarray(poison, np.float64).astype(dtype)
    low = -0x5B if dtype.kind == "i" else 0
    return np.asarray(low if poison < 0 else 0x5A).astype(dtype)


def _mask(ptrs: Any, mask: Any) -> Array:
    return np.broadcast_to(mask.data, ptrs.data.shape)


# --- Running one kernel ------------------------------------------------------------------------


def pointer(address: int, dtype: np.dtype[Any]) -> Any:
    """A kernel's pointer argument to elements of `dtype`."""
    pointer_type = tl.pointer_type(SCALAR_TYPES[str(dtype)])
    return tl.tensor(ti.TensorHandle(np.array([address], np.uint64), pointer_type), pointer_type)


def descriptor(base: Any, shape: tuple[int, int], block: tuple[int, int]) -> Any:
    """A kernel's descriptor argument: the memory at `base` as a matrix. While a kernel is run."""
    rows, cols = shape
    return ti.interpreter_semantic.make_tensor_descriptor(
        base=base,
        shape=[scalar(np.int32(rows)), scalar(np.int32(cols))],
        strides=[scalar(np.int64(cols)), tl.constexpr(1)],
        block_shape=[tl.constexpr(size) for size in block],
        padding_option="zero",
    )


def scalar(value: np.generic) -> Any:
    """A kernel's argument passed by value."""
    dtype = SCALAR_TYPES[str(value.dtype)]
    return tl.tensor(ti.TensorHandle(np.array([value]), dtype), dtype)


def run(
    kernel: Any,
    grid: tuple[int, int, int],
    arguments: dict[str, Any],
    boxes: dict[str, tuple[tuple[int, int], tuple[int, int]]],
    memory: Memory,
    poison: float,
    checked: bool,
) -> None:
    """Run all programs of the grid, one after the other. The caller holds the language lock."""
    with _strict_language(memory, poison, checked):
        function = _rewritten(kernel)
        made = {name: descriptor(arguments[name], *box) for name, box in boxes.items()}
        ti.interpreter_builder.set_grid_dim(*grid)
        for program, index in enumerate(np.ndindex(grid), start=1):
            memory.program = program
            ti.interpreter_builder.set_grid_idx(*index)
            function(**{**arguments, **made})


@contextlib.contextmanager
def _strict_language(memory: Memory, poison: float, checked: bool) -> Iterator[None]:
    """`triton.language` computes in NumPy through Builder while this is entered."""
    with _restored(), warnings.catch_warnings(), np.errstate(all="ignore"):
        # NumPy warns of rows that are all NaN; kernels meet them in dead lanes.
        warnings.simplefilter("ignore", RuntimeWarning)
        builder = ti.interpreter_builder
        builder.__class__ = Builder
        builder.options = ti.InterpreterOptions(debug=checked, sanitize_overflow=checked)
        builder.memory, builder.poison, builder.checked = memory, poison, checked
        ti._get_np_dtype = np_dtype
        ti._patch_lang_tensor = _patch_tensor
        TritonSemantic.binary_op_sanitize_overflow_impl = _check_signed_overflow
        JITFunction.__call__ = _call_helper
        ti._patch_lang(_both_languages)
        yield


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Put back whatever the interpreter, or we, replace. Stock Triton forgets some of it."""
    owners = [
        tl,
        core,
        tl.math,
        core.tensor,
        core.dtype,
        core.tensor_descriptor_base,
        tl.condition,
        ti,
        JITFunction,
        TritonSemantic,
    ]
    before = [dict(vars(owner)) for owner in owners]
    builder = ti.interpreter_builder
    builder_class, builder_state = builder.__class__, dict(vars(builder))
    try:
        yield
    finally:
        builder.__class__ = builder_class
        vars(builder).clear()
        vars(builder).update(builder_state)
        for owner, old in zip(owners, before, strict=True):
            _restore(owner, old)


def _restore(owner: Any, before: dict[str, Any]) -> None:
    for name, value in list(vars(owner).items()):
        if name not in before:
            delattr(owner, name)
        elif before[name] is not value:
            setattr(owner, name, before[name])


def _both_languages() -> None:
    """Stands for a kernel whose globals hold `tl` and `core`, as this module's do.

    `_patch_lang` patches those that it finds there. A kernel sees `tl`, the functions of Triton's
    library that it calls see `core`; patching both beforehand saves patching at each call.
    """


def _patch_tensor(tensor: Any, *scope: Any) -> None:
    _stock_patch_tensor(tensor, *scope)
    # Triton 3.6 calls int() on an array of one element, which NumPy 2.4 refuses.
    tensor.__index__ = lambda self: int(self.handle.data.squeeze())


def _check_signed_overflow(self: Any, lhs: Any, rhs: Any, binary_op: Any) -> None:
    # Unsigned numbers are meant to wrap around: random number generators are made of that.
    if not lhs.type.scalar.is_int_unsigned():
        _stock_check_overflow(self, lhs, rhs, binary_op)


def _call_helper(self: Any, *args: Any, **kwargs: Any) -> Any:
    """What calling a `@triton.jit` function does inside an interpreted kernel."""
    return _rewritten(self)(*args, **kwargs)


@functools.cache
def _rewritten_function(function: Any) -> Any:
    return ti.InterpretedFunction(function).rewrite()


def _rewritten(kernel: Any) -> Any:
    return _rewritten_function(kernel.fn)
