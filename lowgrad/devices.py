"""The table of devices: where an array lives, how an op runs there, how a step does.

The CPU's arrays are NumPy's; a GPU's are DeviceArrays. A new kind of device is a line in each
function here, and a folder of `codegen/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lowgrad.errors import DeviceError
from lowgrad.ir import op as ops
from lowgrad.ir.op import Array, Op
from lowgrad.ir.types import TensorType
from lowgrad.runtime.cuda import gpu as gpus
from lowgrad.runtime.cuda.array import DeviceArray, download, upload
from lowgrad.runtime.cuda.memory import is_pinned as is_pinned
from lowgrad.runtime.cuda.memory import pinned
from lowgrad.runtime.cuda.streams import current_gpu, current_stream

if TYPE_CHECKING:
    from lowgrad.runtime.cuda.gpu import Gpu

AnyArray = Array | DeviceArray
KINDS = ("cpu", "cuda", "interpret")


def parsed(name: Any) -> tuple[str, int | None]:
    """("cuda", 1) of "cuda:1", of 1, or of an object with `type` and `index`.

    Raises DeviceError for what is no device's name; whether there is such a GPU is not asked.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        return "cuda", name
    if hasattr(name, "type") and hasattr(name, "index"):
        return name.type, name.index
    kind, colon, number = str(name).partition(":")
    is_number = number.isascii() and number.isdigit()
    if kind not in KINDS or (colon and not is_number) or (kind != "cuda" and int(number or 0)):
        raise DeviceError(f'device: "{name}" is not known', fix='use "cpu", "cuda" or "cuda:1"')
    return kind, int(number) if colon and kind == "cuda" else None


def gpu_of(name: Any) -> Gpu | None:
    """The GPU that a device's name means now, None for the CPU. Raises DeviceError without one."""
    if name is None:
        return None
    kind, index = parsed(name)
    if kind != "cuda":
        return None
    return current_gpu() if index is None else gpus.gpu(index)


def place(array: AnyArray | None) -> Gpu | None:
    """The GPU that an array is on, None for the CPU."""
    return array.device if isinstance(array, DeviceArray) else None


def evaluate(
    op: Op,
    arrays: tuple[Any, ...],
    attrs: Mapping[str, Any],
    types: tuple[TensorType, ...],
    default: Gpu | None,
) -> tuple[AnyArray, ...]:
    """The results of one op, computed where its operands are.

    default: where the results of an op without operands on a GPU belong: of `full`, `uniform`.
    """
    device = next((a.device for a in arrays if a.__class__ is DeviceArray), default)
    if op.runs_itself:
        made = op.evaluate(*arrays, **attrs)
        return made if isinstance(made, tuple) else (made,)
    if device is None or (default is not None and not _is_placed(op, arrays, device)):
        return ops.evaluate(op, arrays, attrs, types)
    from lowgrad.codegen.cuda import eager

    return eager.evaluate(op, arrays, attrs, types, device)


def _is_placed(op: Op, arrays: tuple[Any, ...], device: Gpu) -> bool:
    """Whether an op runs on a GPU: one of its operands is there, or it makes something of none."""
    if any(a.__class__ is DeviceArray for a in arrays):
        return True
    return op.family in ("create", "random")


def row_major(array: AnyArray) -> AnyArray:
    """The array with its elements in row-major order; itself, if they are."""
    if isinstance(array, DeviceArray):
        from lowgrad.codegen.cuda import eager

        return eager.contiguous(array)
    # np.ascontiguousarray would make a 0-d array 1-d.
    return np.asarray(array, order="C")


def moved(array: AnyArray, type_: TensorType, to: Gpu | None, *, wait: bool = True) -> AnyArray:
    """A copy of the array on another device; itself if it is there."""
    if place(array) is to:
        return array
    host = on_host(array, wait=wait) if isinstance(array, DeviceArray) else array
    if isinstance(array, DeviceArray) and to is not None:
        current_stream(array.device).synchronize()
    return host if to is None else upload(host, type_, to, wait=wait)


def on_host(array: AnyArray, *, wait: bool = True) -> Array:
    """The array's elements as NumPy's; a NumPy array itself."""
    if not isinstance(array, DeviceArray):
        return array
    whole = row_major(array)
    assert isinstance(whole, DeviceArray), "it stays where it is"
    return download(whole, wait=wait)


def copied(array: AnyArray) -> AnyArray:
    """A copy on the same device, in row-major order."""
    if not isinstance(array, DeviceArray):
        return array.copy()
    whole = row_major(array)
    assert isinstance(whole, DeviceArray), "it stays where it is"
    if whole is not array:
        return whole
    from lowgrad.runtime.cuda.array import empty
    from lowgrad.runtime.cuda.memory import on_device

    made = empty(array.type, array.device)
    on_device(made.pointer, array.pointer, array.nbytes, current_stream(array.device))
    return made


def common(arrays: Sequence[AnyArray | None]) -> Gpu | None:
    """The GPU of the first array that is on one."""
    return next((a.device for a in arrays if isinstance(a, DeviceArray)), None)


def pinned_copy(array: Array) -> Array:
    """A copy in page-locked memory. Raises DeviceError where there is no GPU."""
    made = pinned(array.shape, array.dtype, current_gpu())
    made[...] = array
    return made


def name_of(array: AnyArray | None) -> str:
    """ "cpu" or "cuda:0"."""
    return f"cuda:{array.device.index}" if isinstance(array, DeviceArray) else "cpu"
