"""Matrix products written, or added, straight into an array: no temporaries, whatever the strides.

NumPy has no product that adds to what is there, and SciPy's wrapper copies what is not contiguous,
but both only call BLAS, which does either. NumPy's own BLAS is asked first: two libraries are two
pools of threads, and each spins for a while after its work, in the way of the other (a product by
one after a product by the other took 4 times as long on 2 cores).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np

from lowgrad.ir.op import Array

PIECE_BYTES = 1 << 16  # the most that is allocated, for operands that BLAS cannot walk
_LARGEST = 2**31 - 1  # some libraries count in 32 bits
_KINDS = {"float32": ("sgemm", ctypes.c_float), "float64": ("dgemm", ctypes.c_double)}
# What NumPy's builds call CBLAS's functions, and how they count.
_BUILDS = (
    ("scipy_cblas_{}64_", ctypes.c_int64),
    ("cblas_{}64_", ctypes.c_int64),
    ("scipy_cblas_{}", ctypes.c_int32),
    ("cblas_{}", ctypes.c_int32),
)
_ROW_MAJOR, _AS_IS, _TRANSPOSED = 101, 111, 112

# flip a, flip b, M, N, K, address and step of a, of b, of out
Add = Callable[[bool, bool, int, int, int, int, int, int, int, int, int], None]


def gemm(a: Array, b: Array, out: Array, *, accumulate: bool) -> None:
    """out = a @ b, or out += a @ b; nothing is allocated.

    a: [..., M, K], b: [..., K, N], out: [..., M, N], batch dims equal or broadcast (not in `out`),
    of one dtype, float32 or float64, each `is_direct`. `out` shares no bytes with `a` or `b`.
    """
    assert a.dtype == b.dtype == out.dtype, "operands were widened to the dtype of the result"
    if not (out.size and a.shape[-1]):  # strides of empty arrays mean nothing
        if not accumulate:
            out.fill(0)
        return
    assert all(map(is_direct, (a, b, out))), "what BLAS cannot walk was laid out before"
    if not accumulate:
        np.matmul(a, b, out)
        return
    if out.ndim == 2:
        _add(a, b, out)
        return
    batch = out.shape[:-2]
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    for at in product(*map(range, batch)):
        _add(a[at], b[at], out[at])


def add_product(a: Array, b: Array, out: Array) -> None:
    """out += a @ b, of any strides; what BLAS cannot walk is multiplied a few rows at a time."""
    if not out.size or not a.shape[-1] or all(map(is_direct, (a, b, out))):
        gemm(a, b, out, accumulate=True)
        return
    batch = out.size // out.shape[-2] * out.itemsize
    rows = max(1, PIECE_BYTES // batch)
    for first in range(0, out.shape[-2], rows):
        piece = out[..., first : first + rows, :]
        np.add(piece, np.matmul(a[..., first : first + rows, :], b), piece)


def is_direct(array: Array) -> bool:
    """Whether BLAS can walk each matrix of `array`: float, and its rows, or columns, in one run."""
    return array.dtype.name in _KINDS and (_step(array) > 0 or _step(array.swapaxes(-1, -2)) > 0)


def _step(x: Array) -> int:
    """Elements from row to row of matrices whose rows are in one run, or 0 where they are not."""
    rows, columns = x.shape[-2:]
    down, right = (s // x.itemsize for s in x.strides[-2:])
    if columns > 1 and right != 1:
        return 0
    least = max(columns, 1)
    if rows <= 1:
        return least
    return down if least <= down <= _LARGEST else 0


def _add(a: Array, b: Array, out: Array) -> None:
    """out += a @ b of matrices."""
    step = _step(out)
    if not step:
        a, b, out = b.T, a.T, out.T
        step = _step(out)
    (flip_a, step_a), (flip_b, step_b) = _walked(a), _walked(b)
    m, n = out.shape
    places = (_address(a), step_a, _address(b), step_b, _address(out), step)
    _blas(out.dtype.name)(flip_a, flip_b, m, n, a.shape[1], *places)


def _walked(x: Array) -> tuple[bool, int]:
    """Whether BLAS has to transpose what it walks, and the elements from run to run."""
    step = _step(x)
    return (False, step) if step else (True, _step(x.T))


def _address(x: Array) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


@lru_cache(maxsize=2)
def _blas(dtype: str) -> Add:
    """BLAS's product, added: NumPy's, or where that has another name than we know, SciPy's."""
    return _of_numpy(dtype) or _of_scipy(dtype)


def _of_numpy(dtype: str) -> Add | None:
    name, number = _KINDS[dtype]
    # A library answers for those that it is linked to, too.
    library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    known = ((getattr(library, form.format(name), None), size) for form, size in _BUILDS)
    call, size = next(((c, size) for c, size in known if c is not None), (None, ctypes.c_int64))
    if call is None:
        return None
    flag, data = ctypes.c_int, ctypes.c_void_p
    # order, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
    operands = (flag, flag, flag, size, size, size, number, data, size, data, size)
    call.argtypes = (*operands, number, data, size)
    call.restype = None

    def add(
        flip_a: bool, flip_b: bool, m: int, n: int, k: int,
        a: int, step_a: int, b: int, step_b: int, out: int, step: int,
    ) -> None:  # fmt: skip
        ta, tb = (_TRANSPOSED if flip else _AS_IS for flip in (flip_a, flip_b))
        call(_ROW_MAJOR, ta, tb, m, n, k, 1.0, a, step_a, b, step_b, 1.0, out, step)

    return add


def _of_scipy(dtype: str) -> Add:
    """SciPy hands out BLAS's entry points for Cython: Fortran's, so all by reference."""
    from scipy.linalg import cython_blas

    name, number = _KINDS[dtype]
    table: dict[str, Any] = dict(cython_blas.__pyx_capi__)
    api = ctypes.pythonapi
    label = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    flag, data = ctypes.c_char_p, ctypes.c_void_p
    size, scalar = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(number)
    # transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
    operands = (flag, flag, size, size, size, scalar, data, size, data, size)
    prototype = ctypes.CFUNCTYPE(None, *operands, scalar, data, size)
    call = prototype(address(table[name], label(table[name])))
    one, c = number(1), ctypes.c_int

    def add(
        flip_a: bool, flip_b: bool, m: int, n: int, k: int,
        a: int, step_a: int, b: int, step_b: int, out: int, step: int,
    ) -> None:  # fmt: skip
        # Fortran counts columns first: what is [M, N] to us is its transpose [N, M] to it.
        ta, tb = (b"T" if flip else b"N" for flip in (flip_a, flip_b))
        sides = (b, c(step_b), a, c(step_a))
        call(tb, ta, c(n), c(m), c(k), one, *sides, one, out, c(step))

    return add
