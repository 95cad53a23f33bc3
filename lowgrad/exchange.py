"""Memory shared with other libraries: DLPack, both ways, and `__cuda_array_interface__`.

Nothing is copied, and streams are kept in order: who takes a tensor over says on which stream it
will read, and that stream waits for what computes the tensor. On the CPU, NumPy does all of it.
Source: DLPack 1.0 (dlpack.h), Python array API standard, "Data interchange"; Numba, "CUDA Array
Interface (Version 3)".
"""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np

from lowgrad import devices, dispatch
from lowgrad.errors import AutogradError, DeviceError, DTypeError
from lowgrad.ir.types import DTYPES, DType, TensorType, bfloat16, bool_
from lowgrad.runtime.cuda.array import DeviceArray
from lowgrad.runtime.cuda.driver import bindings
from lowgrad.runtime.cuda.gpu import gpu
from lowgrad.runtime.cuda.memory import Allocation
from lowgrad.runtime.cuda.streams import Stream, current_stream
from lowgrad.tape import Ref
from lowgrad.tensor import Tensor, from_array, method, wrap

CPU, CUDA = 1, 2  # DLDeviceType
# DLDataTypeCode, by NumPy's letter of the kind.
CODES = {"i": 0, "u": 1, "f": 2}
BFLOAT, BOOL = 4, 6
# What the protocols call the legacy default stream, and "do not wait".
LEGACY, NO_WAIT = 1, -1


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    ]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [
    ("tensor", _DLTensor),
    ("context", ctypes.c_void_p),
    ("deleter", _Deleter),
]

_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_IsValid.restype = ctypes.c_int
_python.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]

_FRESH, _TAKEN = b"dltensor", b"used_dltensor"
# What is out: by number, what must live until the other library gives it back.
_lent: dict[int, Any] = {}
_numbers = itertools.count(1)


@_Deleter  # type: ignore[untyped-decorator]
def _give_back(managed: Any) -> None:
    _lent.pop(managed.contents.context, None)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _drop(capsule: int) -> None:
    """The capsule itself is destroyed: if nobody took the tensor, it is given back here."""
    # By its address: a new reference to a dying object would bring it back.
    valid = ctypes.pythonapi["PyCapsule_IsValid"]
    valid.restype, valid.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]
    if valid(capsule, _FRESH):
        pointer = ctypes.pythonapi["PyCapsule_GetPointer"]
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
        _give_back(ctypes.cast(pointer(capsule, _FRESH), ctypes.POINTER(_Managed)))


# Out ------------------------------------------------------------------------------------------


@method("__dlpack_device__")
def _dlpack_device(self: Tensor) -> tuple[int, int]:
    """(device type, number), as DLPack counts them."""
    place = dispatch.place_of(self._ref)
    return (CPU, 0) if place is None else (CUDA, place.index)


@method("__dlpack__")
def _dlpack(
    self: Tensor,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A capsule that another library takes over; it shares the elements with this tensor.

    stream: the consumer's stream, which waits for what computes the tensor.
    Raises BufferError for what cannot be shared, AutogradError for a tensor with a gradient.
    """
    if self.requires_grad:
        raise AutogradError(
            "__dlpack__: this tensor requires a gradient, which the other library would lose",
            fix="x.detach()",
        )
    if dispatch.is_recording():
        self._array("__dlpack__")  # raises: there are no elements yet
    array = devices.row_major(self._ref.array)
    if copy:
        array = devices.copied(array)
    if not isinstance(array, DeviceArray):
        return array.__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)
    if dl_device is not None and tuple(dl_device) != (CUDA, array.device.index):
        raise BufferError(
            f"__dlpack__: the tensor is on cuda:{array.device.index}, not {dl_device}"
        )
    _let_wait(stream, array)
    return _capsule(array)


def _capsule(array: DeviceArray) -> Any:
    shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
    managed = _Managed()
    tensor = managed.tensor
    tensor.data = array.pointer
    tensor.device = _Device(CUDA, array.device.index)
    tensor.ndim = array.ndim
    tensor.dtype = _code_of(array.type.dtype)
    tensor.shape = shape
    managed.context = next(_numbers)
    managed.deleter = _give_back
    _lent[managed.context] = (managed, shape, array)
    return _python.PyCapsule_New(ctypes.addressof(managed), _FRESH, _drop)


def _code_of(dtype: DType) -> _DataType:
    if dtype is bfloat16:
        return _DataType(BFLOAT, 16, 1)
    if dtype is bool_:
        return _DataType(BOOL, 8, 1)
    return _DataType(CODES[dtype.numpy.kind], 8 * dtype.itemsize, 1)


def _let_wait(stream: Any, array: DeviceArray) -> None:
    """Let a consumer's stream (as the protocol names it) wait for what we have queued."""
    if stream == NO_WAIT:
        return
    handle = 0 if stream in (None, 0, LEGACY) else int(stream)
    own = current_stream(array.device)
    if handle != own.cuda_stream:
        theirs = Stream(array.device, handle=bindings().CUstream(handle))
        theirs.wait_stream(own)
        array.allocation.record_stream(theirs)


def _cuda_array_interface(self: Tensor) -> dict[str, Any]:
    """The tensor's memory for Numba and CuPy. An attribute of tensors on a GPU only."""
    array = None if dispatch.is_recording() else self._ref.array
    if not isinstance(array, DeviceArray):
        raise AttributeError("__cuda_array_interface__: the tensor is not on a GPU")
    if array.type.dtype is bfloat16:
        raise AttributeError("__cuda_array_interface__: NumPy's type codes have no bfloat16")
    if self.requires_grad:
        raise AutogradError(
            "__cuda_array_interface__: this tensor requires a gradient", fix="x.detach()"
        )
    array = devices.row_major(array)
    assert isinstance(array, DeviceArray), "it stays where it is"
    return {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.pointer if array.size else 0, False),
        "strides": None,
        "stream": current_stream(array.device).cuda_stream or LEGACY,
        "version": 3,
    }


Tensor.__cuda_array_interface__ = property(_cuda_array_interface)  # type: ignore[attr-defined]


# In -------------------------------------------------------------------------------------------


def from_dlpack(x: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor on another library's memory (an array, or a capsule of one). Nothing is copied.

    What the other library writes there later, this tensor shows; a compiled step that updates it
    works on a copy. Raises DTypeError for an element type that lowgrad does not have.
    """
    if isinstance(x, Tensor):
        made = x.detach()
    elif not hasattr(x, "__dlpack__"):
        made = _taken(x)
    else:
        kind, index = x.__dlpack_device__()
        if kind == CUDA:
            handle = current_stream(gpu(int(index))).cuda_stream
            made = _taken(x.__dlpack__(stream=handle or LEGACY))
        else:
            made = from_array(np.from_dlpack(x))
    made = made if device is None else made.to(device)
    return made.clone() if copy else made


def _taken(capsule: Any) -> Tensor:
    if not _python.PyCapsule_IsValid(capsule, _FRESH):
        raise TypeError("from_dlpack: expected an array with __dlpack__, or a capsule nobody took")
    pointer = _python.PyCapsule_GetPointer(capsule, _FRESH)
    managed = ctypes.cast(pointer, ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    if tensor.device.type != CUDA:
        raise DeviceError(f"from_dlpack: device type {tensor.device.type} is not a GPU of NVIDIA's")
    shape = tuple(tensor.shape[: tensor.ndim])
    type_ = TensorType(shape, _dtype_of(tensor.dtype))
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    if strides is not None and type_.numel and not _is_row_major(shape, strides):
        raise BufferError(
            f"from_dlpack: the elements of {type_} do not lie in row-major order "
            f"(strides {strides}); make it contiguous where it comes from"
        )
    _python.PyCapsule_SetName(capsule, _TAKEN)
    device = gpu(tensor.device.index)
    address = (tensor.data or 0) + tensor.byte_offset
    allocation = Allocation(device, type_.nbytes, pointer=address, owner=_Borrowed(managed))
    return wrap(Ref(type_, DeviceArray(type_, allocation)))


class _Borrowed:
    """Another library's tensor, given back when nothing of ours refers to it."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def _dtype_of(code: _DataType) -> DType:
    for dtype in DTYPES:
        own = _code_of(dtype)
        if (own.code, own.bits, own.lanes) == (code.code, code.bits, code.lanes):
            return dtype
    raise DTypeError(
        f"from_dlpack: lowgrad has no dtype of DLPack's code {code.code} with {code.bits} bits"
    )


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


__all__ = ["from_dlpack"]
