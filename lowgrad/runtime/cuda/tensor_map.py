"""Descriptors of matrices for the copy engine of sm_90 and later: the driver's CUtensorMap."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

from lowgrad.errors import LaunchError
from lowgrad.runtime.cuda.driver import call, error_of

NBYTES = 128
# Triton numbers element types as the machine code does; the driver has three of them otherwise.
DRIVER_TYPES = {8: 10, 9: 8, 10: 9}
L2_PROMOTION_128_BYTES = 2
# Until this version the driver sets a bit for small matrices that must not be set; CUTLASS
# clears it as well (commit b7ecaa6), and so does Triton's own launcher.
LAST_WITH_WRONG_BIT = 13010
SMALL = 128 * 1024
WRONG_BIT = 1 << 21


@dataclass(frozen=True)
class TensorMap:
    """A matrix of `shape` elements, rows without gaps, and how a kernel reads it.

    block: the rows and columns of one copy.  element: the type, by Triton's number.
    swizzle: CUtensorMapSwizzle.
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    element: int
    itemsize: int
    swizzle: int

    def encode(self, pointer: int, into: int) -> None:
        """Write the descriptor of the matrix at `pointer` to the 128 bytes at address `into`.

        Sizes and strides are given from the innermost dim on, strides in bytes and without the
        first (CUDA driver API, cuTensorMapEncodeTiled).
        """
        rows, cols = self.shape
        status = _encode()(
            into,
            DRIVER_TYPES.get(self.element, self.element),
            2,
            pointer,
            (ctypes.c_uint64 * 2)(cols, rows),
            (ctypes.c_uint64 * 1)(cols * self.itemsize),
            (ctypes.c_uint32 * 2)(self.block[1], self.block[0]),
            (ctypes.c_uint32 * 2)(1, 1),
            *(0, self.swizzle, L2_PROMOTION_128_BYTES, 0),
        )
        if status:
            raise LaunchError(
                f"no descriptor for a matrix of {rows} x {cols} elements of {self.itemsize} bytes "
                f"in blocks of {self.block[0]} x {self.block[1]}: "
                f"{_said(status)}"
            )
        if rows * cols * self.itemsize <= SMALL and _driver_version() <= LAST_WITH_WRONG_BIT:
            word = ctypes.c_uint64.from_address(into + 8)
            word.value &= ~WRONG_BIT


def _said(status: int) -> str:
    from lowgrad.runtime.cuda.driver import bindings

    return error_of("cuTensorMapEncodeTiled", bindings().CUresult(status)).message


@functools.cache
def _driver_version() -> int:
    return int(call("cuDriverGetVersion"))


@functools.cache
def _encode() -> Callable[..., int]:
    """The driver's function, called directly: cuda.bindings' own object is not aligned enough."""
    address, _ = call("cuGetProcAddress", b"cuTensorMapEncodeTiled", 12000, 0)
    pointer, word, half = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int,
        *(pointer, ctypes.c_int, half, pointer),
        *(ctypes.POINTER(word), ctypes.POINTER(word)),
        *(ctypes.POINTER(half), ctypes.POINTER(half)),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    )
    made: Callable[..., int] = kind(int(address))
    return made
