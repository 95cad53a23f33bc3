"""Eager ops on a GPU: one small graph for each op and its operands' views, compiled once and kept.

The views that an operand was taken through become nodes before the op, so that the same fusion
which compiles a step makes them index maps of the op's kernel. Numbers of the host are inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.cuda.executable import HOST_BYTES, CudaExecutable
from lowgrad.codegen.cuda.machine import GpuMachine, tiling_for
from lowgrad.errors import DeviceError
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.op import REGISTRY, Op
from lowgrad.ir.types import TensorType
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.runtime.cuda.array import ALIGNMENT, DeviceArray, ViewPath, empty
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.memory import on_device
from lowgrad.runtime.cuda.streams import current_stream
from lowgrad.runtime.memory import plan

HostArray = npt.NDArray[Any]
# Views that an array remembers before it is copied.
MOST_VIEWS = 4
VIEWS = frozenset(("reshape", "permute", "expand", "slice", "flip"))
# Compiled ops that are kept; programs with more start over.
MOST_KEPT = 4096


class _Operand(NamedTuple):
    """How an operand enters the op's graph: its type in memory, and the views from there."""

    base: TensorType
    path: ViewPath
    type: TensorType


Run = Callable[[Sequence[Any]], Sequence[DeviceArray]]
_kept: dict[Any, Run] = {}


def machine_of(device: Gpu) -> GpuMachine:
    """What plans and kernels for a GPU are made for."""
    return GpuMachine(tiling_for(device.target))


def evaluate(
    op: Op,
    arrays: tuple[DeviceArray | HostArray, ...],
    attrs: Mapping[str, Any],
    types: tuple[TensorType, ...],
    device: Gpu,
) -> tuple[DeviceArray, ...]:
    """The results of one op, on `device`. Host arrays among the operands are numbers and keys."""
    if op.name in VIEWS and isinstance(arrays[0], DeviceArray):
        return (_view(op, arrays[0], attrs, types[0]),)
    operands, given = [], []
    for array in arrays:
        operand, lying = _entered(array, device, op)
        operands.append(operand)
        given.append(lying)
    key = (op, tuple(operands), *attrs.items(), device.index)
    run = _kept.get(key)
    if run is None:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        run = _kept[key] = _compiled(op, operands, attrs, device)
    return tuple(run(given))


def contiguous(array: DeviceArray) -> DeviceArray:
    """The array with its elements in row-major order; itself, if they are."""
    if array.is_contiguous:
        return array
    if not array.path:  # another library's memory, at an odd address
        made = empty(array.type, array.device)
        on_device(made.pointer, array.pointer, array.nbytes, current_stream(array.device))
        return made
    operand, lying = _entered(array, array.device, None)
    key = (None, operand, array.device.index)
    run = _kept.get(key)
    if run is None:
        run = _kept[key] = _compiled(None, [operand], {}, array.device)
    return run([lying])[0]


def _view(op: Op, array: DeviceArray, attrs: Mapping[str, Any], type_: TensorType) -> DeviceArray:
    if len(array.path) >= MOST_VIEWS:
        array = contiguous(array)
    if not array.path:
        if op.name == "reshape":
            return DeviceArray(type_, array.allocation, array.offset, source=array)
        offset = _leading(op, array, attrs, type_)
        if offset is not None:
            at = array.offset + offset
            return DeviceArray(type_, array.allocation, at, source=array)
    step = (op, tuple(attrs.items()))
    path = (*array.path, step)
    return DeviceArray(
        type_, array.allocation, array.offset, base=array.base, path=path, source=array
    )


def _leading(op: Op, array: DeviceArray, attrs: Mapping[str, Any], type_: TensorType) -> int | None:
    """Where a slice begins whose elements lie side by side, if kernels can begin to read there."""
    if op.name != "slice" or not type_.shape or type_.shape[1:] != array.shape[1:]:
        return None
    if any(step != 1 for step in attrs.get("steps", ())):
        return None
    row = array.nbytes // max(array.shape[0], 1)
    offset = int(attrs["starts"][0]) * row
    return offset if (array.pointer + offset) % ALIGNMENT == 0 else None


def _entered(
    array: DeviceArray | HostArray, device: Gpu, op: Op | None
) -> tuple[_Operand, DeviceArray | HostArray]:
    """How an operand enters a graph, and what is passed for it."""
    if isinstance(array, DeviceArray):
        if array.device is not device:
            raise _apart(op, f"cuda:{device.index}", f"cuda:{array.device.index}")
        if array.pointer % ALIGNMENT:
            array = contiguous(DeviceArray(array.base, array.allocation, array.offset))
        operand = _Operand(array.base, array.path, array.type)
        if not array.path:
            return operand, array
        return operand, DeviceArray(array.base, array.allocation, array.offset, source=array)
    dtype = _dtype_of(array)
    whole = TensorType(array.shape, dtype)
    if array.size and not any(array.strides):  # one number, seen at every index
        one = array[(0,) * array.ndim]
        return _Operand(TensorType((), dtype), (), whole), np.asarray(one)
    if array.nbytes > HOST_BYTES:
        raise _apart(op, f"cuda:{device.index}", f"cpu ({whole})")
    return _Operand(whole, (), whole), array


def _dtype_of(array: HostArray) -> Any:
    from lowgrad.ir.types import dtype_of

    dtype = dtype_of(array)
    assert dtype is not None, "operands have lowgrad's dtypes"
    return dtype


def _apart(op: Op | None, one: str, other: str) -> DeviceError:
    name = op.name if op is not None else "copy"
    return DeviceError(
        f"{name}: the operands are on different devices, {one} and {other}",
        fix="move one of them, x.to(y.device)",
    )


def _compiled(
    op: Op | None, operands: list[_Operand], attrs: Mapping[str, Any], device: Gpu
) -> Run:
    builder = Builder()
    values = []
    for operand in operands:
        at = builder.input(operand.base)
        for view, view_attrs in operand.path:
            at = builder.apply(view, at, **dict(view_attrs))
        values.append(_repeated(at, operand.type))
    inputs = tuple(t.value for t in values)
    outputs = inputs if op is None else builder.add(op, inputs, attrs).outputs
    graph = builder.graph(outputs, name="copy" if op is None else op.name)
    graph = next(reversed(run_pipeline(graph).values()))
    taken = [graph.inputs.index(v) for v in graph.outputs if v in graph.inputs]
    if len(taken) == len(graph.outputs) and all(
        operands[i].base == operands[i].type for i in taken
    ):
        return lambda given: [given[i] for i in taken]  # `detach`, `clone`: arrays are immutable
    machine = machine_of(device)
    return CudaExecutable(graph, plan(graph, None, machine), machine, device, keeps_arena=False)


def _repeated(number: Tracer, type_: TensorType) -> Tracer:
    """A 0-d number at every index of `type_`; other tracers as they are."""
    if number.type == type_:
        return number
    builder = number.builder
    ones = builder.apply(REGISTRY["reshape"], number, shape=(1,) * len(type_.shape))
    made: Tracer = builder.apply(REGISTRY["expand"], ones, shape=type_.shape)
    return made
