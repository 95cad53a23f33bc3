"""An array on a GPU: a type, an address, and, for a view, how it is taken from what lies there."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.ir.op import Op
from lowgrad.ir.types import Shape, TensorType
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.memory import Allocation, is_pinned, pinned, to_device, to_host
from lowgrad.runtime.cuda.streams import Event, current_stream

ViewPath = tuple[tuple[Op, tuple[tuple[str, Any], ...]], ...]
ALIGNMENT = 16  # bytes: what kernels are compiled for


class DeviceArray:
    """Elements on a GPU, immutable for everybody but a step that owns them.

    base: the type of what lies, in row-major order, `offset` bytes into `allocation`.
    path: the views that lead from there to `type`; empty for a contiguous array. They are index
    maps of the kernels that read the array, so that a transpose copies nothing.
    source: the array that this one is a part of. While it is referred to, nobody owns it alone.
    """

    __slots__ = ("__weakref__", "_sent", "allocation", "base", "offset", "path", "source", "type")

    def __init__(
        self,
        type_: TensorType,
        allocation: Allocation,
        offset: int = 0,
        *,
        base: TensorType | None = None,
        path: ViewPath = (),
        source: DeviceArray | None = None,
    ) -> None:
        self.type, self.allocation, self.offset = type_, allocation, offset
        self.base = type_ if base is None else base
        self.path, self.source = path, source
        self._sent: tuple[Any, Event] | None = None

    @property
    def device(self) -> Gpu:
        """Whose memory it is in."""
        return self.allocation.device

    @property
    def pointer(self) -> int:
        """Where the elements of `base` begin."""
        return self.allocation.pointer + self.offset

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order, where kernels can begin to read."""
        return not self.path and self.pointer % ALIGNMENT == 0

    @property
    def is_sole(self) -> bool:
        """Whether no other array shares its memory, here or in another library."""
        # References to the allocation: this array's, and the argument of getrefcount.
        return self.allocation.owner is None and sys.getrefcount(self.allocation) <= 2

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's name of the element type."""
        return self.type.dtype.numpy

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.type.shape)

    @property
    def size(self) -> int:
        """How many elements."""
        return self.type.numel

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.type.nbytes

    def __repr__(self) -> str:
        return f"<DeviceArray {self.type} on cuda:{self.device.index}>"


def empty(type_: TensorType, device: Gpu) -> DeviceArray:
    """A new array whose elements are whatever was there."""
    return DeviceArray(type_, Allocation(device, type_.nbytes))


def upload(
    array: npt.NDArray[Any], type_: TensorType, device: Gpu, *, wait: bool = True
) -> DeviceArray:
    """A copy of a NumPy array on a GPU, made on its current stream.

    wait=False with pinned memory returns before it is made.
    """
    array = np.ascontiguousarray(array)
    made = empty(type_, device)
    stream = current_stream(device)
    to_device(array, made.pointer, stream, wait=wait)
    if not wait and is_pinned(array):
        event = Event()
        event.record(stream)
        made._sent = (array, event)  # the source must live until it is read
    return made


def download(array: DeviceArray, *, wait: bool = True) -> npt.NDArray[Any]:
    """A contiguous array's elements as NumPy's. wait=False gives pinned memory, filled later."""
    if wait:
        target: npt.NDArray[Any] = np.empty(array.shape, array.dtype)
    else:
        target = pinned(array.shape, array.dtype, array.device)
    to_host(array.pointer, target, current_stream(array.device), wait=wait)
    return target
